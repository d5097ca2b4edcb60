//! From the text of one policy file to a checked document. Finds every mistake that shows without
//! looking at other files or compiling; includes and shadowed rules are found later.

mod approvals;
pub(super) mod overlay;
mod reader;
mod rule;
mod system;

use std::{net::IpAddr, sync::Arc};

use agentguard_common::{
    label::AGENT_NAME_BYTES,
    profile::{LogAllow, Mode, Subject},
};
use toml::de::{DeString, DeTable};

pub(super) use self::reader::nearest;
#[cfg(test)]
pub(super) use self::{approvals::KEYS as APPROVALS_KEYS, rule::KEYS as RULE_KEYS};
use self::{
    reader::{Reader, Value},
    rule::Place,
};
use super::{
    address,
    diagnostic::Diagnostics,
    model::{Access, Ask, Defaults, Document, Expect, Include, Test},
    profile::List,
    source::{Source, Span},
};

/// The keys at the top of a policy file.
pub(super) const KEYS: [&str; 14] = [
    "version",
    "name",
    "description",
    "include",
    "mode",
    "default",
    "deny",
    "ask",
    "allow",
    "log",
    "system",
    "approvals",
    "hosts",
    "test",
];
/// The keys of `[default]`.
pub(super) const DEFAULT_KEYS: [&str; 4] = ["file", "exec", "connect", "listen"];
/// The keys of `[hosts]`.
pub(super) const HOSTS_KEYS: [&str; 1] = ["resolvers"];
/// The keys of a `[[test]]`.
pub(super) const TEST_KEYS: [&str; 9] = [
    "open", "exec", "map", "connect", "listen", "access", "args", "expect", "rule",
];

const LISTS: [(&str, List); 3] = [
    ("deny", List::Deny),
    ("ask", List::Ask),
    ("allow", List::Allow),
];

/// Parses a policy file. The document is there whenever the file is TOML at all, so that what is
/// wrong elsewhere can still be found; it may only be used when there are no errors.
pub(super) fn parse(source: &Arc<Source>, builtin: bool) -> (Option<Document>, Diagnostics) {
    with_root(source, |reader, root| read(reader, root, builtin))
}

/// Reads a file that is TOML.
fn with_root<T>(
    source: &Arc<Source>,
    read: impl FnOnce(&mut Reader, &DeTable) -> T,
) -> (Option<T>, Diagnostics) {
    let mut reader = Reader {
        source: source.clone(),
        diagnostics: Diagnostics::default(),
    };
    let (root, errors) = DeTable::parse_recoverable(&source.text);
    let is_toml = errors.is_empty();
    for error in errors {
        let end = source.text.len();
        let span = error.span().unwrap_or(end..end);
        reader.error(
            span,
            "not-toml",
            error.message().to_owned(),
            "see https://toml.io for how values are written",
        );
    }
    // What a half-read file would lack isn't worth reporting.
    let found = is_toml.then(|| read(&mut reader, root.get_ref()));
    reader.diagnostics.sort();
    (found, reader.diagnostics)
}

/// The keys of a table as they are written, with their values.
fn in_order<'t, 'i>(
    table: &'t DeTable<'i>,
) -> Vec<(&'t toml::Spanned<DeString<'i>>, &'t Value<'i>)> {
    let mut keys: Vec<_> = table.iter().collect();
    keys.sort_by_key(|(key, _)| key.span().start);
    keys
}

/// Whether a name can be a profile's.
pub(super) fn is_profile_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=AGENT_NAME_BYTES).contains(&name.len())
        && name.chars().all(word)
        && !name.starts_with(['.', '-'])
}

/// The name that a file gives a profile that doesn't name itself.
fn stem(source: &Source) -> &str {
    let file = source.name.rsplit('/').next().unwrap_or_default();
    file.strip_suffix(".toml").unwrap_or(file)
}

fn read(reader: &mut Reader, root: &DeTable, builtin: bool) -> Document {
    let tables = in_order(root);
    let find = |name: &str| {
        tables
            .iter()
            .find(|(key, _)| key.get_ref().as_ref() == name)
            .map(|(_, value)| *value)
    };
    for (key, _) in &tables {
        let name: &str = key.get_ref();
        if !KEYS.contains(&name) {
            reader.unknown_key(name, key.span(), "a policy file", &KEYS);
        }
    }
    read_version(reader, find("version"));
    let name = read_name(reader, find("name"));
    let profile: Arc<str> = name.as_str().into();
    let mut rules = Vec::new();
    for (key, list) in LISTS {
        let Some(value) = find(key) else { continue };
        for (index, (table, span)) in reader.tables(key, value).into_iter().enumerate() {
            let place = Place {
                list,
                number: index + 1,
                profile: &profile,
                span,
                builtin,
            };
            rules.extend(rule::read(reader, &place, table));
        }
    }
    // Which rule wins among equals is the first in the file, not the first in its list.
    rules.sort_by_key(|rule| rule.span.start);
    Document {
        approvals: approvals::read(reader, find("approvals")),
        source: reader.source.clone(),
        description: find("description")
            .and_then(|value| reader.string("description", value))
            .map(str::to_owned),
        mode: find("mode").map_or(Mode::Enforce, |value| read_mode(reader, value)),
        log_allow: find("log").map_or(LogAllow::All, |value| read_log(reader, value)),
        include: find("include").map_or_else(Vec::new, |value| read_include(reader, value)),
        defaults: read_defaults(reader, find("default")),
        resolvers: read_hosts(reader, find("hosts")),
        system: system::read(reader, find("system")),
        tests: find("test").map_or_else(Vec::new, |value| read_tests(reader, value)),
        rules,
        name,
    }
}

fn read_version(reader: &mut Reader, value: Option<&Value>) {
    let Some(value) = value else {
        let start = 0..reader.source.line(1).len();
        return reader.error(
            start,
            "no-version",
            "`version` is missing",
            "write version = 1 at the top",
        );
    };
    let version = value
        .get_ref()
        .as_integer()
        .and_then(|integer| i64::from_str_radix(integer.as_str(), integer.radix()).ok());
    if version != Some(1) {
        reader.error(
            value.span(),
            "bad-version",
            "this version of AgentGuard reads version 1 of the policy language",
            "write version = 1",
        );
    }
}

fn read_name(reader: &mut Reader, value: Option<&Value>) -> String {
    let stem = stem(&reader.source).to_owned();
    let Some(value) = value else { return stem };
    let Some(name) = reader.string("name", value) else {
        return stem;
    };
    if !is_profile_name(name) {
        reader.error(
            value.span(),
            "bad-value",
            format!(
                "a profile's name has 1 to {AGENT_NAME_BYTES} letters, digits and `.`, `_`, `-`"
            ),
            "write a name such as \"coding\"",
        );
    }
    name.to_owned()
}

fn read_mode(reader: &mut Reader, value: &Value) -> Mode {
    match reader.string("mode", value) {
        Some("learn") => {
            reader.error(
                value.span(),
                "not-supported",
                "mode \"learn\" comes with a later version",
                "write \"audit\" to log what would be denied without denying it",
            );
            Mode::Enforce
        }
        Some(text) => reader
            .word(
                "mode",
                text,
                value.span(),
                &[("enforce", Mode::Enforce), ("audit", Mode::Audit)],
            )
            .unwrap_or(Mode::Enforce),
        None => Mode::Enforce,
    }
}

fn read_log(reader: &mut Reader, value: &Value) -> LogAllow {
    const WORDS: [(&str, LogAllow); 3] = [
        ("all", LogAllow::All),
        ("first", LogAllow::First),
        ("none", LogAllow::None),
    ];
    let mut log = LogAllow::All;
    let Some(table) = reader.table("log", value) else {
        return log;
    };
    for (key, value) in table.iter() {
        if key.get_ref() != "allow" {
            reader.unknown_key(key.get_ref(), key.span(), "[log]", &["allow"]);
            continue;
        }
        if let Some(text) = reader.string("allow", value) {
            log = reader
                .word("allow", text, value.span(), &WORDS)
                .unwrap_or(log);
        }
    }
    log
}

/// `[hosts]`: the resolvers that are asked for agents under this profile.
fn read_hosts(reader: &mut Reader, value: Option<&Value>) -> Vec<IpAddr> {
    let mut resolvers = Vec::new();
    let Some(table) = value.and_then(|value| reader.table("hosts", value)) else {
        return resolvers;
    };
    for (key, value) in table.iter() {
        if key.get_ref() != "resolvers" {
            reader.unknown_key(key.get_ref(), key.span(), "[hosts]", &HOSTS_KEYS);
            continue;
        }
        for (text, span) in reader.strings("resolvers", value).unwrap_or_default() {
            match text.parse() {
                Ok(address) => resolvers.push(address),
                Err(_) => reader.error(
                    span,
                    "bad-value",
                    format!("`{text}` is not the address of a resolver"),
                    "write an address such as \"192.0.2.53\"; lookups go to its port 53",
                ),
            }
        }
    }
    resolvers
}

fn read_include(reader: &mut Reader, value: &Value) -> Vec<Include> {
    let mut includes: Vec<Include> = Vec::new();
    for (name, span) in reader.strings("include", value).unwrap_or_default() {
        if !is_profile_name(name) {
            reader.error(
                span,
                "bad-value",
                "`include` takes names of profiles in the same folder",
                "write a name such as \"baseline\", without folder and `.toml`",
            );
        } else if includes.iter().any(|include| include.name == name) {
            reader.warning(
                span,
                "written-twice",
                format!("\"{name}\" is included twice"),
                "leave one out",
            );
        } else {
            includes.push(Include {
                name: name.to_owned(),
                span,
            });
        }
    }
    includes
}

fn read_defaults(reader: &mut Reader, value: Option<&Value>) -> Defaults {
    let whole = value.map_or(0..0, toml::Spanned::span);
    let mut defaults = Defaults {
        verdicts: std::array::from_fn(|_| std::array::from_fn(|_| (List::Deny, whole.clone()))),
    };
    let Some(table) = value.and_then(|value| reader.table("default", value)) else {
        return defaults;
    };
    for (key, value) in table.iter() {
        let subjects: &[Subject] = match key.get_ref().as_ref() {
            "file" => &[Subject::File],
            "exec" => &[Subject::Exec, Subject::Args],
            "connect" => &[Subject::Connect, Subject::Unix, Subject::Name],
            "listen" => &[Subject::Listen],
            name => {
                reader.unknown_key(name, key.span(), "[default]", &DEFAULT_KEYS);
                continue;
            }
        };
        if let (&[Subject::File], Some(table)) = (subjects, value.get_ref().as_table()) {
            let row = &mut defaults.verdicts[Subject::File as usize];
            row.iter_mut().for_each(|(_, span)| *span = value.span());
            read_file_defaults(reader, table, row);
            continue;
        }
        let Some(verdict) = read_verdict(reader, key.get_ref(), value) else {
            continue;
        };
        for subject in subjects {
            for place in &mut defaults.verdicts[*subject as usize] {
                *place = (verdict, key.span());
            }
        }
    }
    defaults
}

fn read_file_defaults(reader: &mut Reader, table: &DeTable, row: &mut [(List, Span); 5]) {
    for (key, value) in table.iter() {
        let name: &str = key.get_ref();
        let Some(access) = Access::ALL.iter().find(|access| access.name() == name) else {
            let known = Access::ALL.map(Access::name);
            reader.unknown_key(name, key.span(), "file in [default]", &known);
            continue;
        };
        if let Some(verdict) = read_verdict(reader, name, value) {
            row[usize::from(access.verb())] = (verdict, key.span());
        }
    }
}

fn read_verdict(reader: &mut Reader, what: &str, value: &Value) -> Option<List> {
    let text = reader.string(what, value)?;
    reader.word(what, text, value.span(), &LISTS)
}

fn read_tests(reader: &mut Reader, value: &Value) -> Vec<Test> {
    reader
        .tables("test", value)
        .into_iter()
        .filter_map(|(table, span)| read_test(reader, table, span))
        .collect()
}

fn read_test(reader: &mut Reader, table: &DeTable, span: Span) -> Option<Test> {
    const EXPECTED: [(&str, Expect); 4] = [
        ("allow", Expect::Allow),
        ("ask", Expect::Ask),
        ("deny", Expect::Deny),
        ("kill", Expect::Kill),
    ];
    let before = reader.diagnostics.errors();
    let mut ask = None;
    let mut access = Vec::new();
    let mut access_span = None;
    let mut arguments = None;
    let mut expect = None;
    let mut rule = None;
    let mut questions = 0;
    for (key, value) in table.iter() {
        let name: &str = key.get_ref();
        match name {
            "open" | "exec" | "map" | "connect" | "listen" => {
                questions += 1;
                if questions > 1 {
                    reader.error(
                        key.span(),
                        "two-subjects",
                        "a test asks one question",
                        "write another [[test]] for it",
                    );
                    continue;
                }
                if let Some(text) = reader.string(name, value) {
                    ask = read_ask(reader, name, text, value.span());
                }
            }
            "access" => {
                let words = Access::ALL.map(|access| (access.name(), access));
                access_span = Some(key.span());
                for (text, span) in reader.strings(name, value).unwrap_or_default() {
                    access.extend(reader.word(name, text, span, &words));
                }
            }
            "args" => {
                let args = reader.strings(name, value).unwrap_or_default();
                for (text, span) in &args {
                    if text.contains('\0') {
                        reader.error(
                            span.clone(),
                            "bad-value",
                            "an argument can't hold a NUL byte",
                            "leave it out",
                        );
                    }
                }
                arguments = Some((key.span(), args));
            }
            "expect" => {
                if let Some(text) = reader.string(name, value) {
                    expect = reader.word(name, text, value.span(), &EXPECTED);
                }
            }
            "rule" => rule = reader.string(name, value).map(str::to_owned),
            _ => reader.unknown_key(name, key.span(), "[[test]]", &TEST_KEYS),
        }
    }
    if questions == 0 {
        reader.error(
            span.clone(),
            "no-subject",
            "a test without a question",
            "write one of `open`, `exec`, `map`, `connect` and `listen`",
        );
    }
    if !table.iter().any(|(key, _)| key.get_ref() == "expect") {
        reader.error(
            span.clone(),
            "no-expect",
            "a test without `expect`",
            "write the verdict that must come out, such as expect = \"deny\"",
        );
    }
    match (&mut ask, arguments) {
        (Some(Ask::Exec { args, .. }), Some((_, arguments))) => {
            args.extend(arguments.iter().map(|(text, _)| text.as_bytes().to_vec()));
        }
        (Some(_), Some((span, _))) => reader.error(
            span,
            "misplaced-key",
            "`args` goes with `exec` only",
            "leave it out",
        ),
        (_, None) | (None, Some(_)) => {}
    }
    match (&mut ask, access_span) {
        (Some(Ask::Open { access: asked, .. }), Some(_)) => *asked = access,
        (Some(Ask::Open { .. }), None) => reader.error(
            span.clone(),
            "no-access",
            "a test with `open` and without `access`",
            "write access = \"read\", or another access or a list of them",
        ),
        (Some(_), Some(span)) => reader.error(
            span,
            "misplaced-key",
            "`access` goes with `open` only",
            "leave it out",
        ),
        (_, None) | (None, Some(_)) => {}
    }
    if reader.diagnostics.errors() > before {
        return None;
    }
    let (line, _) = reader.source.position(span.start);
    Some(Test {
        ask: ask?,
        expect: expect?,
        rule,
        line,
    })
}

fn read_ask(reader: &mut Reader, key: &str, text: &str, span: Span) -> Option<Ask> {
    let ask = match key {
        "open" => super::explain::parse_path(text.as_bytes()).map(|path| Ask::Open {
            path,
            access: Vec::new(),
        }),
        "exec" => super::explain::parse_program(text.as_bytes()).map(|path| Ask::Exec {
            path,
            args: Vec::new(),
        }),
        "map" => super::explain::parse_program(text.as_bytes()).map(|path| Ask::Map { path }),
        "connect" => address::parse_destination(text).map(|address| Ask::Connect { address }),
        _ => super::explain::parse_listen(text).map(|address| Ask::Listen { address }),
    };
    ask.map_err(|error| reader.pattern_error(error, text, span))
        .ok()
}
