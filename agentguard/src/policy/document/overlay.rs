//! From the text of an overlay to checked exceptions and rules. An overlay is what was allowed for good while
//! somebody was asked: it is added to one profile, and lies beside the policies in a folder of its own.

use std::sync::Arc;

use agentguard_common::profile::Subject;
use toml::de::DeTable;

use super::{
    read_version,
    reader::{Reader, Value},
    rule::{self, Place},
};
use crate::policy::{
    diagnostic::Diagnostics,
    model::{Exception, Overlay, all_verbs},
    profile::List,
    source::{Source, Span},
};

/// The keys at the top of an overlay.
const KEYS: [&str; 3] = ["version", "except", "allow"];
/// The keys of an `[[except]]`.
const EXCEPT_KEYS: [&str; 7] = [
    "rule", "file", "exec", "connect", "listen", "access", "args",
];

/// Parses the overlay of the profile with this name. There is one whenever the file is TOML.
pub(in crate::policy) fn parse(
    source: &Arc<Source>,
    profile: &str,
) -> (Option<Overlay>, Diagnostics) {
    super::with_root(source, |reader, root| read(reader, root, profile))
}

fn read(reader: &mut Reader, root: &DeTable, profile: &str) -> Overlay {
    let mut overlay = Overlay {
        exceptions: Vec::new(),
        rules: Vec::new(),
    };
    let mut version = None;
    for (key, value) in super::in_order(root) {
        match key.get_ref().as_ref() {
            "version" => version = Some(value),
            "except" => {
                for (table, span) in reader.tables("except", value) {
                    overlay
                        .exceptions
                        .extend(read_exception(reader, table, span));
                }
            }
            "allow" => {
                // No profile has a name like this one, and so no rule an id like theirs.
                let profile: Arc<str> = format!("{profile}/local").into();
                for (index, (table, span)) in reader.tables("allow", value).into_iter().enumerate()
                {
                    let place = Place {
                        list: List::Allow,
                        number: index + 1,
                        profile: &profile,
                        span,
                        builtin: false,
                    };
                    overlay.rules.extend(rule::read(reader, &place, table));
                }
            }
            name => reader.unknown_key(name, key.span(), "an overlay", &KEYS),
        }
    }
    read_version(reader, version);
    overlay
}

fn read_exception(reader: &mut Reader, table: &DeTable, span: Span) -> Option<Exception> {
    let before = reader.diagnostics.errors();
    let mut rule = None;
    let mut subject: Option<(rule::Key, Span, &Value)> = None;
    let mut access = None;
    let mut args = None;
    for (key, value) in super::in_order(table) {
        let name: &str = key.get_ref();
        match name {
            "rule" => {
                rule = reader
                    .string(name, value)
                    .map(|id| (id.to_owned(), value.span()));
            }
            "access" => access = Some((key.span(), value)),
            "args" => args = Some((key.span(), value)),
            _ => match rule::Key::of(name) {
                Some(_) if subject.is_some() => reader.error(
                    key.span(),
                    "two-subjects",
                    "an exception has one subject",
                    "write another [[except]] for it",
                ),
                Some(found) => subject = Some((found, key.span(), value)),
                None => reader.unknown_key(name, key.span(), "[[except]]", &EXCEPT_KEYS),
            },
        }
    }
    if rule.is_none() && reader.diagnostics.errors() == before {
        reader.error(
            span.clone(),
            "no-rule",
            "an exception without `rule`",
            "write the id of the rule that asks",
        );
    }
    let Some((key, _, value)) = subject else {
        if reader.diagnostics.errors() == before {
            reader.error(
                span,
                "no-subject",
                "an exception without a subject",
                "write one of `file`, `exec`, `connect` and `listen`",
            );
        }
        return None;
    };
    let mut patterns = rule::read_patterns(reader, key, key.name(), value);
    let mut verbs = all_verbs(match key {
        rule::Key::File => Subject::File,
        rule::Key::Exec => Subject::Exec,
        rule::Key::Connect => Subject::Connect,
        rule::Key::Listen => Subject::Listen,
    });
    if let Some((span, value)) = access {
        if key == rule::Key::File {
            verbs = rule::read_file_access(reader, value).unwrap_or(verbs);
        } else {
            reader.error(
                span,
                "misplaced-key",
                format!("`access` in an exception about `{}`", key.name()),
                "leave it out; only `file` has accesses",
            );
        }
    }
    if let Some((span, value)) = args {
        if key == rule::Key::Exec {
            let args = rule::read_args(reader, &patterns, span, value);
            for pattern in &mut patterns {
                pattern.args.clone_from(&args);
            }
        } else {
            reader.error(
                span,
                "misplaced-key",
                format!("`args` in an exception about `{}`", key.name()),
                "leave it out; only programs have arguments",
            );
        }
    }
    let (rule, rule_span) = rule?;
    (reader.diagnostics.errors() == before).then(|| Exception {
        rule,
        rule_span,
        verbs,
        patterns,
        source: reader.source.clone(),
    })
}
