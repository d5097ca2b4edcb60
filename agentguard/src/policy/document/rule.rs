//! Reads one `[[deny]]`, `[[ask]]` or `[[allow]]` table: which keys go with which list and subject.

use std::{sync::Arc, time::Duration};

use agentguard_common::profile::{Subject, verb};
use toml::de::DeTable;

use super::reader::{Reader, Value};
use crate::policy::{
    address::{self, AddressPattern, End},
    compile::arguments::alternatives,
    host::Use,
    model::{ALL_ACCESSES, Access, Rule, RulePattern, all_verbs},
    pattern::{self, PatternError, Space},
    profile::{DEFAULT_ID, List},
    source::Span,
    tokens::{Pattern, Token},
};

/// The keys of a rule.
pub(in crate::policy) const KEYS: [&str; 14] = [
    "file", "exec", "connect", "listen", "except", "access", "args", "id", "because", "timeout",
    "log", "kill", "private", "sni",
];

/// Keys that later versions will have, so that they are not taken for typing errors.
const RESERVED: [&str; 2] = ["after", "written_by"];

/// Front of the ids of the rules that are always there.
const BUILTIN_IDS: &str = "agentguard/";
/// Longest id, in bytes.
const ID_BYTES: usize = 128;
/// Longest `because`, in bytes.
const BECAUSE_BYTES: usize = 1024;
/// Most patterns that the `{a,b}` of a rule's programs and arguments may stand for together.
const MAX_ALTERNATIVES: usize = 4096;
/// Longest that an ask may wait.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// The subject's key of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    File,
    Exec,
    Connect,
    Listen,
}

impl Key {
    pub(super) fn of(name: &str) -> Option<Self> {
        match name {
            "file" => Some(Self::File),
            "exec" => Some(Self::Exec),
            "connect" => Some(Self::Connect),
            "listen" => Some(Self::Listen),
            _ => None,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Exec => "exec",
            Self::Connect => "connect",
            Self::Listen => "listen",
        }
    }
}

/// A rule's table, key by key. The span is the key's.
#[derive(Default)]
struct Fields<'t, 'i> {
    subjects: Vec<(Key, Span, &'t Value<'i>)>,
    except: Option<(Span, &'t Value<'i>)>,
    access: Option<(Span, &'t Value<'i>)>,
    args: Option<(Span, &'t Value<'i>)>,
    id: Option<(Span, &'t Value<'i>)>,
    because: Option<(Span, &'t Value<'i>)>,
    timeout: Option<(Span, &'t Value<'i>)>,
    log: Option<(Span, &'t Value<'i>)>,
    kill: Option<(Span, &'t Value<'i>)>,
    private: Option<(Span, &'t Value<'i>)>,
    sni: Option<(Span, &'t Value<'i>)>,
}

/// Where a rule is: what every part of the reading needs to know.
pub(super) struct Place<'p> {
    pub list: List,
    /// Number of the rule in its list, from 1.
    pub number: usize,
    pub profile: &'p Arc<str>,
    /// The table's header.
    pub span: Span,
    /// The rules that are always there may have ids that others may not.
    pub builtin: bool,
}

/// Reads a rule. `None` when something about it is wrong.
pub(super) fn read(reader: &mut Reader, place: &Place, table: &DeTable) -> Option<Rule> {
    let before = reader.diagnostics.errors();
    let list = place.list;
    let fields = split(reader, list, table);
    // A subject with a typing error is not missing.
    let subject = if fields.subjects.is_empty() && reader.diagnostics.errors() > before {
        None
    } else {
        one_subject(reader, place, &fields.subjects)
    };
    let id = read_id(reader, place, fields.id);
    let because = fields.because.and_then(|(span, value)| {
        let text = reader.string("because", value)?;
        if text.trim().is_empty() || text.len() > BECAUSE_BYTES {
            reader.error(
                value.span(),
                "bad-value",
                format!("`because` is empty or longer than {BECAUSE_BYTES} bytes"),
                "write a sentence for whoever asks why, or leave it out",
            );
        }
        let _ = span;
        Some(text.to_owned())
    });
    let timeout = read_timeout(reader, list, fields.timeout);
    let quiet = read_flag(reader, list, "log", List::Allow, fields.log) == Some(false);
    let kill = read_flag(reader, list, "kill", List::Deny, fields.kill) == Some(true);

    let private_key = fields.private.as_ref().map(|(span, _)| span.clone());
    let private = fields
        .private
        .and_then(|(_, value)| reader.boolean("private", value))
        == Some(true);

    let sni = read_sni(reader, fields.sni);

    let mut verbs = match subject {
        Some((Key::Exec, _)) => all_verbs(Subject::Exec),
        _ => verb::bit(verb::ONLY),
    };
    let mut patterns = Vec::new();
    let mut except = Vec::new();
    let mut args = Vec::new();
    if let Some((key, value)) = subject {
        if key == Key::File {
            verbs = fields
                .access
                .map_or(Some(ALL_ACCESSES), |(_, value)| {
                    read_file_access(reader, value)
                })
                .unwrap_or(ALL_ACCESSES);
        } else if key == Key::Exec
            && place.builtin
            && let Some((_, value)) = fields.access
        {
            verbs = read_access(reader, value, &[("map", verb::MAP)]).unwrap_or(0);
        } else if let Some((span, _)) = &fields.access {
            reader.error(
                span.clone(),
                "misplaced-key",
                format!("`access` in a rule about `{}`", key.name()),
                "leave it out; only `file` has accesses",
            );
        }
        patterns = read_patterns(reader, key, key.name(), value);
        if let Some((_, value)) = fields.except {
            except = read_patterns(reader, key, "except", value);
        }
        use_hosts(list, private, &mut patterns, &mut except);
        if let Some(span) = private_key {
            let named = |pattern: &RulePattern| pattern.subject == Subject::Name;
            if list == List::Deny || !patterns.iter().any(named) {
                reader.error(
                    span,
                    "misplaced-key",
                    if list == List::Deny {
                        "`private` in [[deny]]"
                    } else {
                        "`private` in a rule that names no host"
                    },
                    if list == List::Deny {
                        "leave it out; a prohibition of a host is one wherever it is"
                    } else {
                        "leave it out; addresses are opened as they are written"
                    },
                );
            }
        }
        if let Some(span) = &sni {
            check_sni(reader, list, &patterns, span.clone());
        }
        let misplaced = if list == List::Allow {
            &[]
        } else {
            &patterns[..]
        };
        for pattern in misplaced.iter().chain(&except) {
            if pattern.text == address::OWN && pattern.subject == Subject::Connect {
                reader.error(
                    pattern.span.clone(),
                    "not-supported",
                    "`self` can only be allowed",
                    "name addresses and ports here; `self` goes into a [[allow]] and opens what nothing but the [default] denies",
                );
            }
        }
        if let Some((span, value)) = fields.args {
            if key == Key::Exec {
                args = read_args(reader, &patterns, span, value);
            } else {
                reader.error(
                    span,
                    "misplaced-key",
                    format!("`args` in a rule about `{}`", key.name()),
                    "leave it out; only programs have arguments",
                );
            }
        }
    }
    if reader.diagnostics.errors() > before {
        return None;
    }
    let (line, _) = reader.source.position(place.span.start);
    Some(Rule {
        id: id
            .as_ref()
            .map_or_else(|| default_id(place), |(id, _)| id.clone()),
        id_span: id.map_or_else(|| place.span.clone(), |(_, span)| span),
        list,
        kill,
        quiet,
        because,
        timeout,
        sni: sni.is_some(),
        verbs,
        patterns,
        except,
        args,
        span: place.span.clone(),
        line,
        source: reader.source.clone(),
        profile: place.profile.clone(),
    })
}

/// Where `sni = "require"` is written.
fn read_sni(reader: &mut Reader, field: Option<(Span, &Value)>) -> Option<Span> {
    let (key, value) = field?;
    let text = reader.string("sni", value)?;
    reader.word("sni", text, value.span(), &[("require", ())])?;
    Some(key)
}

/// Which rules can have it.
fn check_sni(reader: &mut Reader, list: List, patterns: &[RulePattern], span: Span) {
    let over_tcp = |pattern: &RulePattern| {
        pattern
            .host
            .as_ref()
            .is_none_or(|host| host.protocols == [address::TCP])
    };
    let hosts = patterns.iter().any(|pattern| pattern.host.is_some());
    let (message, help) = if list == List::Deny {
        (
            "`sni` in [[deny]]",
            "leave it out; a prohibition of a host is one whatever is said to it",
        )
    } else if !hosts {
        (
            "`sni` in a rule that names no host",
            "leave it out; only hosts have names that TLS asks for",
        )
    } else if !patterns.iter().all(over_tcp) {
        (
            "`sni` in a rule that is not for TCP alone",
            "write tcp:// in front of its hosts; in datagrams (QUIC) the name can't be read",
        )
    } else {
        return;
    };
    reader.error(span, "misplaced-key", message, help);
}

/// Has the patterns of hosts say what they mean in this rule: whether a name may be looked up at all is the question of
/// every rule that opens something of it, and of those that close all of it.
fn use_hosts(list: List, private: bool, patterns: &mut [RulePattern], except: &mut [RulePattern]) {
    let opens = list != List::Deny;
    for (patterns, how) in [
        (
            patterns,
            Use {
                private: private || !opens,
                lookup: opens,
            },
        ),
        (
            except,
            Use {
                private: true,
                lookup: !opens,
            },
        ),
    ] {
        for pattern in patterns {
            if let Some(host) = &pattern.host {
                pattern.pattern = Arc::new(address::use_host(host, how));
            }
        }
    }
}

fn default_id(place: &Place) -> String {
    format!("{}/{}/{}", place.profile, place.list.name(), place.number)
}

/// Sorts the keys of a rule's table and reports those that are none.
fn split<'t, 'i>(reader: &mut Reader, list: List, table: &'t DeTable<'i>) -> Fields<'t, 'i> {
    let mut fields = Fields::default();
    for (key, value) in table.iter() {
        let name: &str = key.get_ref();
        let found = Some((key.span(), value));
        match name {
            "except" => fields.except = found,
            "access" => fields.access = found,
            "args" => fields.args = found,
            "id" => fields.id = found,
            "because" => fields.because = found,
            "timeout" => fields.timeout = found,
            "log" => fields.log = found,
            "kill" => fields.kill = found,
            "private" => fields.private = found,
            "sni" => fields.sni = found,
            _ if RESERVED.contains(&name) => reader.error(
                key.span(),
                "not-supported",
                format!("`{name}` can't be enforced by this version"),
                format!("leave the rule out, or write it without `{name}`"),
            ),
            _ => match Key::of(name) {
                Some(subject) => fields.subjects.push((subject, key.span(), value)),
                None => {
                    reader.unknown_key(name, key.span(), &format!("[[{}]]", list.name()), &KEYS);
                }
            },
        }
    }
    fields.subjects.sort_by_key(|(_, span, _)| span.start);
    fields
}

fn one_subject<'t, 'i>(
    reader: &mut Reader,
    place: &Place,
    subjects: &[(Key, Span, &'t Value<'i>)],
) -> Option<(Key, &'t Value<'i>)> {
    let list = place.list.name();
    match subjects {
        [(key, _, value)] => Some((*key, value)),
        [] => {
            reader.error(
                place.span.clone(),
                "no-subject",
                format!("a rule of [[{list}]] without a subject"),
                "write one of `file`, `exec`, `connect` and `listen`",
            );
            None
        }
        [(first, ..), (second, span, _), ..] => {
            reader.error(
                span.clone(),
                "two-subjects",
                format!(
                    "`{}` in a rule that is already about `{}`",
                    second.name(),
                    first.name()
                ),
                format!("write another [[{list}]] for it"),
            );
            None
        }
    }
}

fn read_id(
    reader: &mut Reader,
    place: &Place,
    field: Option<(Span, &Value)>,
) -> Option<(String, Span)> {
    let (_, value) = field?;
    let id = reader.string("id", value)?;
    let span = value.span();
    let is_word = |c: char| c.is_ascii_alphanumeric() || "._/-".contains(c);
    if id.is_empty() || id.len() > ID_BYTES || !id.chars().all(is_word) {
        reader.error(
            span,
            "bad-id",
            format!("an id has 1 to {ID_BYTES} letters, digits and `.`, `_`, `-`, `/`"),
            "write a short name such as \"private-keys\"",
        );
        return None;
    }
    if !place.builtin && (id.starts_with(BUILTIN_IDS) || id == DEFAULT_ID) {
        reader.error(
            span,
            "bad-id",
            format!("the id \"{id}\" is AgentGuard's own"),
            format!("write another, not \"{DEFAULT_ID}\" and not under \"{BUILTIN_IDS}\""),
        );
        return None;
    }
    Some((id.to_owned(), span))
}

fn read_timeout(
    reader: &mut Reader,
    list: List,
    field: Option<(Span, &Value)>,
) -> Option<Duration> {
    let (key, value) = field?;
    if list != List::Ask {
        reader.error(
            key,
            "misplaced-key",
            format!("`timeout` in [[{}]]", list.name()),
            "leave it out; only [[ask]] waits",
        );
        return None;
    }
    let text = reader.string("timeout", value)?;
    let parsed: Option<Duration> = text
        .parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| duration.try_into().ok());
    let timeout = parsed.filter(|timeout| !timeout.is_zero() && *timeout <= MAX_TIMEOUT);
    if timeout.is_none() {
        reader.error(
            value.span(),
            "bad-value",
            format!("`{text}` is not a time to wait for an answer"),
            "write a duration such as \"60s\" or \"10m\", at most \"24h\"",
        );
    }
    timeout
}

/// Reads a boolean that only one list may change.
fn read_flag(
    reader: &mut Reader,
    list: List,
    name: &str,
    only: List,
    field: Option<(Span, &Value)>,
) -> Option<bool> {
    let (key, value) = field?;
    if list != only {
        reader.error(
            key,
            "misplaced-key",
            format!("`{name}` in [[{}]]", list.name()),
            match only {
                List::Allow => "leave it out; denials and asks are always logged",
                List::Deny | List::Ask => "leave it out; only a denial can kill the process",
            },
        );
        return None;
    }
    reader.boolean(name, value)
}

/// Reads the `access` of a rule about files.
pub(super) fn read_file_access(reader: &mut Reader, value: &Value) -> Option<u8> {
    let words = Access::ALL.map(|access| (access.name(), access.verb()));
    read_access(reader, value, &words)
}

/// Reads `access` as a set of verbs.
fn read_access(reader: &mut Reader, value: &Value, words: &[(&str, u8)]) -> Option<u8> {
    let mut verbs = 0;
    for (text, span) in reader.strings("access", value)? {
        let bit = verb::bit(reader.word("access", text, span.clone(), words)?);
        if verbs & bit != 0 {
            reader.warning(
                span,
                "written-twice",
                format!("access \"{text}\" is written twice"),
                "leave one out",
            );
        }
        verbs |= bit;
    }
    Some(verbs)
}

pub(super) fn read_patterns(
    reader: &mut Reader,
    key: Key,
    name: &str,
    value: &Value,
) -> Vec<RulePattern> {
    let mut patterns: Vec<RulePattern> = Vec::new();
    for (text, span) in reader.strings(name, value).unwrap_or_default() {
        if patterns.iter().any(|pattern| pattern.text == text) {
            reader.warning(
                span,
                "written-twice",
                "this pattern is written twice",
                "leave one out",
            );
            continue;
        }
        match parse_pattern(key, text) {
            Ok(AddressPattern {
                subject,
                pattern,
                host,
                warning,
            }) => {
                if let Some(warning) = warning {
                    let at = reader.within(span.clone(), text, warning.at.clone());
                    reader.warning(at, "wide-address", warning.message, warning.help);
                }
                patterns.push(RulePattern {
                    pattern: Arc::new(pattern),
                    subject,
                    text: text.to_owned(),
                    host,
                    args: Vec::new(),
                    span,
                });
            }
            Err(error) => reader.pattern_error(error, text, span),
        }
    }
    patterns
}

/// Reads `args`. Empty when it says nothing.
pub(super) fn read_args(
    reader: &mut Reader,
    programs: &[RulePattern],
    key: Span,
    value: &Value,
) -> Vec<Pattern> {
    let mut args = Vec::new();
    for (text, span) in reader.strings("args", value).unwrap_or_default() {
        match pattern::parse_argument(text) {
            Ok(pattern) => args.push(pattern),
            Err(error) => reader.pattern_error(error, text, span),
        }
    }
    // `**` after `**` adds nothing.
    let any = |pattern: &Pattern| pattern.alternatives == [vec![Token::Arguments]];
    args.dedup_by(|next, pattern| any(next) && any(pattern));
    if args.len() == 1 && any(&args[0]) {
        reader.warning(
            key.clone(),
            "idle-args",
            "any number of any arguments: `args` says nothing",
            "leave it out",
        );
        args.clear();
    }
    let alternatives = alternatives(programs, &args);
    if alternatives > MAX_ALTERNATIVES {
        reader.error(
            key,
            "bad-value",
            format!(
                "the `{{…}}` of programs and arguments stand for {alternatives} patterns, more than {MAX_ALTERNATIVES}"
            ),
            "use `*` or fewer alternatives",
        );
    }
    args
}

fn parse_pattern(key: Key, text: &str) -> Result<AddressPattern, PatternError> {
    let path = |subject, space| {
        Ok(AddressPattern {
            subject,
            pattern: pattern::parse(text, space)?,
            host: None,
            warning: None,
        })
    };
    let end = match key {
        Key::File => return path(Subject::File, Space::Path),
        Key::Exec => return path(Subject::Exec, Space::Program),
        Key::Connect => End::Remote,
        Key::Listen => End::Local,
    };
    address::parse_pattern(text, end)
}
