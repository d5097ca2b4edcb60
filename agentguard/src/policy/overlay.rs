//! Overlays: what was allowed for good while somebody was asked, each in a file beside the policies. How one is
//! added to its profile's rules, and the text that goes into one. Who writes it is no business of this module.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use agentguard_common::profile::verb;

use super::{
    Access,
    address::{Destination, TCP, UDP},
    compile::overlap::overlap,
    diagnostic::{Diagnostic, Diagnostics, Severity},
    document::nearest,
    model::{Exception, Overlay, Rule},
    profile::List,
};

/// The folder in that of the policies.
pub const FOLDER: &str = "local.d";

/// The overlay's file of the profile with this name.
pub fn path(policies: &Path, profile: &str) -> PathBuf {
    policies.join(FOLDER).join(format!("{profile}.toml"))
}

/// Adds an overlay to its profile's rules: a rule with exceptions for some of its accesses becomes several.
pub(super) fn apply(overlay: Overlay, rules: &mut Vec<Rule>, diagnostics: &mut Diagnostics) {
    let mut of_rules: Vec<Vec<&Exception>> = vec![Vec::new(); rules.len()];
    for exception in &overlay.exceptions {
        if let Some(index) = find(exception, rules, diagnostics) {
            of_rules[index].push(exception);
        }
    }
    let mut out = Vec::with_capacity(rules.len() + overlay.rules.len());
    for (rule, exceptions) in std::mem::take(rules).into_iter().zip(of_rules) {
        split(rule, &exceptions, &mut out);
    }
    out.extend(overlay.rules);
    *rules = out;
}

/// The rule that an exception is for. One without a rule to it excepts nothing, so that more is asked and not
/// less; that is no reason to refuse the policy.
fn find(exception: &Exception, rules: &[Rule], diagnostics: &mut Diagnostics) -> Option<usize> {
    let mut report = |severity, code, message: String, help: String| {
        diagnostics.push(Diagnostic::at(
            &exception.source,
            exception.rule_span.clone(),
            severity,
            code,
            message,
            help,
        ));
    };
    let id = &exception.rule;
    let Some(index) = rules.iter().position(|rule| rule.id == *id) else {
        let ids: Vec<&str> = rules.iter().map(|rule| rule.id.as_str()).collect();
        let help = match nearest(id, &ids) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => "leave the exception out".to_owned(),
        };
        let message = format!("the profile has no rule \"{id}\"");
        report(Severity::Warning, "unknown-rule", message, help);
        return None;
    };
    let rule = &rules[index];
    if rule.list != List::Ask {
        report(
            Severity::Error,
            "not-an-ask",
            format!("rule \"{id}\" doesn't ask, and only rules that ask have exceptions here"),
            format!(
                "write `except` on the rule itself, at {}:{}",
                rule.source.name, rule.line
            ),
        );
        return None;
    }
    let meets = exception.verbs & rule.verbs != 0
        && exception.patterns.iter().all(|except| {
            rule.patterns
                .iter()
                .filter(|pattern| pattern.subject == except.subject)
                .flat_map(|pattern| &pattern.pattern.alternatives)
                .any(|pattern| {
                    let mut except = except.pattern.alternatives.iter();
                    except.any(|except| overlap(pattern, except))
                })
        });
    if !meets {
        report(
            Severity::Warning,
            "idle-except",
            format!("this exception excludes nothing from rule \"{id}\""),
            "leave it out".to_owned(),
        );
        return None;
    }
    Some(index)
}

/// Splits a rule by what is excepted from its verbs.
fn split(rule: Rule, exceptions: &[&Exception], out: &mut Vec<Rule>) {
    let mut parts: Vec<(Vec<usize>, u8)> = Vec::new();
    for bit in (0..8).map(verb::bit).filter(|bit| rule.verbs & bit != 0) {
        let of_bit: Vec<usize> = (0..exceptions.len())
            .filter(|index| exceptions[*index].verbs & bit != 0)
            .collect();
        match parts.iter_mut().find(|(other, _)| *other == of_bit) {
            Some((_, verbs)) => *verbs |= bit,
            None => parts.push((of_bit, bit)),
        }
    }
    for (of_part, verbs) in parts {
        let mut part = rule.clone();
        part.verbs = verbs;
        for index in of_part {
            part.except
                .extend(exceptions[index].patterns.iter().cloned());
        }
        out.push(part);
    }
}

/// What is to be allowed for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thing {
    File {
        path: Vec<u8>,
        access: Vec<Access>,
    },
    Exec {
        path: Vec<u8>,
        /// Where a rule looked at them.
        args: Option<Vec<Vec<u8>>>,
    },
    Connect(Destination),
    Listen(Destination),
}

/// Why something can't be named by a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    #[error("its name is not UTF-8, and a policy file is text")]
    NotUtf8,
    #[error("no rule can name a program that is run without arguments")]
    NoArguments,
    #[error("no rule can name its protocol")]
    Protocol,
}

/// The text that is added to an overlay: an exception to the rule that asked (none when a `[default]` did), and
/// a rule that allows what is then decided by others. `comment` is put above it, a line each.
pub fn addition(
    rule: Option<&str>,
    thing: &Thing,
    comment: &[String],
) -> Result<String, Unwritable> {
    let subject = subject(thing)?;
    let mut text = String::new();
    for line in comment {
        let line: String = line
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        let _ = writeln!(text, "# {line}");
    }
    if let Some(rule) = rule {
        let _ = writeln!(text, "[[except]]\nrule = {}\n{subject}", quoted(rule));
    }
    let _ = write!(text, "[[allow]]\n{subject}");
    Ok(text)
}

/// An overlay's text with an addition at its end.
pub fn add(old: &str, addition: &str) -> String {
    if old.trim().is_empty() {
        return format!("version = 1\n\n{addition}");
    }
    format!("{}\n\n{addition}", old.trim_end_matches('\n'))
}

/// What changed in the file, for people.
pub fn diff(path: &Path, old: &str, new: &str) -> String {
    let name = path.display().to_string();
    similar::TextDiff::from_lines(old, new)
        .unified_diff()
        .header(&name, &name)
        .to_string()
}

/// The lines that name a thing.
fn subject(thing: &Thing) -> Result<String, Unwritable> {
    Ok(match thing {
        Thing::File { path, access } => {
            let access: Vec<String> = access.iter().map(|access| quoted(access.name())).collect();
            let path = quoted(&literal(path)?);
            format!("file = {path}\naccess = [{}]\n", access.join(", "))
        }
        Thing::Exec { path, args } => {
            let mut text = format!("exec = {}\n", quoted(&literal(path)?));
            if let Some(args) = args {
                if args.is_empty() {
                    return Err(Unwritable::NoArguments);
                }
                let args: Vec<String> = args
                    .iter()
                    .map(|argument| literal(argument).map(|argument| quoted(&argument)))
                    .collect::<Result<_, _>>()?;
                let _ = writeln!(text, "args = [{}]", args.join(", "));
            }
            text
        }
        Thing::Connect(end) => format!("connect = {}\n", quoted(&address(end)?)),
        Thing::Listen(end) => format!("listen = {}\n", quoted(&address(end)?)),
    })
}

fn address(end: &Destination) -> Result<String, Unwritable> {
    if let Destination::Unix(name) = end {
        return Ok(format!("unix:{}", literal(name)?));
    }
    let text = end.to_string();
    if let Destination::Inet { protocol, .. } = end
        && !matches!(*protocol, TCP | UDP)
        && end.named_kind().is_none()
    {
        return Err(Unwritable::Protocol);
    }
    Ok(text)
}

/// The pattern that matches these bytes and nothing else.
fn literal(bytes: &[u8]) -> Result<String, Unwritable> {
    let text = std::str::from_utf8(bytes).map_err(|_| Unwritable::NotUtf8)?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\\' | '*' | '?' | '[' | ']' | '{' | '}' | '$') {
            out.push('\\');
        }
        out.push(c);
    }
    Ok(out)
}

/// A TOML string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            // Nor what would make the file look other than it is.
            c if c.is_control() || is_deceptive(c) => {
                let _ = write!(out, "\\U{:08X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Characters that change the order in which others are shown, or show nothing.
fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::{Ask, Capabilities, Expect, explain, load_dir, load_file, load_profile};

    const PROFILE: &str = r#"
version = 1
[default]
file = "deny"
exec = "deny"
connect = "ask"
[[deny]]
id = "never"
file = "/never/**"
[[ask]]
id = "files"
file = "/**"
[[ask]]
id = "pushes"
exec = "/usr/bin/git"
args = ["push", "**"]
[[ask]]
id = "programs"
exec = "/opt/**"
"#;

    fn folder(overlay: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join(FOLDER)).expect("made");
        std::fs::write(directory.path().join("p.toml"), PROFILE).expect("written");
        std::fs::write(path(directory.path(), "p"), overlay).expect("written");
        directory
    }

    /// What the profile says once these things are allowed for good.
    fn after(things: &[(Option<&str>, Thing)], ask: &Ask) -> (Expect, String) {
        let mut text = String::new();
        for (rule, thing) in things {
            let addition = addition(*rule, thing, &["by root".to_owned()]).expect("written");
            text = add(&text, &addition);
        }
        let directory = folder(&text);
        let set = load_dir(directory.path(), &Capabilities::all()).unwrap_or_else(|found| {
            panic!("{text}\n{}", found.render(crate::policy::Style::Plain))
        });
        assert!(
            set.warnings.is_empty(),
            "{text}\n{}",
            set.warnings.render(crate::policy::Style::Plain)
        );
        let found = explain(set.get("p").expect("there"), ask);
        (found.verdict, found.rule)
    }

    fn open(path: &[u8], access: Access) -> Ask {
        Ask::Open {
            path: path.to_vec(),
            access: vec![access],
        }
    }

    fn file(path: &str, access: Access) -> Thing {
        Thing::File {
            path: path.as_bytes().to_vec(),
            access: vec![access],
        }
    }

    fn run(path: &str, args: &[&str]) -> Ask {
        Ask::Exec {
            path: path.as_bytes().to_vec(),
            args: args.iter().map(|text| text.as_bytes().to_vec()).collect(),
        }
    }

    #[test]
    fn a_file_is_allowed_for_the_access_that_was_asked_for_and_no_other() {
        let things = [
            (Some("files"), file("/a/b", Access::Write)),
            (Some("files"), file("/a/c", Access::Read)),
            (Some("files"), file("/never/b", Access::Write)),
        ];
        let said = |path: &str, access| after(&things, &open(path.as_bytes(), access));
        assert_eq!(
            said("/a/b", Access::Write),
            (Expect::Allow, "p/local/allow/1".to_owned())
        );
        assert_eq!(
            said("/a/b", Access::Read),
            (Expect::Ask, "files".to_owned())
        );
        assert_eq!(said("/a/c", Access::Read).0, Expect::Allow);
        assert_eq!(said("/a/c", Access::Write).0, Expect::Ask);
        assert_eq!(said("/a/b/c", Access::Write).0, Expect::Ask);
        // A prohibition still wins.
        assert_eq!(
            said("/never/b", Access::Write),
            (Expect::Deny, "never".to_owned())
        );
    }

    #[test]
    fn a_program_is_allowed_with_these_arguments_and_no_others() {
        let thing = Thing::Exec {
            path: b"/usr/bin/git".to_vec(),
            args: Some(vec![b"push".to_vec(), b"a*b".to_vec(), Vec::new()]),
        };
        let things = [(Some("pushes"), thing)];
        let said = |args: &[&str]| after(&things, &run("/usr/bin/git", args)).0;
        assert_eq!(said(&["push", "a*b", ""]), Expect::Allow);
        for other in [
            &["push", "axb", ""][..],
            &["push"],
            &["push", "a*b", "", "--force"],
        ] {
            assert_eq!(said(other), Expect::Ask, "{other:?}");
        }
        let things = [(
            Some("programs"),
            Thing::Exec {
                path: b"/opt/x".to_vec(),
                args: None,
            },
        )];
        assert_eq!(after(&things, &run("/opt/x", &["y"])).0, Expect::Allow);
        assert_eq!(after(&things, &run("/opt/z", &[])).0, Expect::Ask);
    }

    #[test]
    fn addresses_and_sockets_are_allowed_against_a_default() {
        let inet = |protocol, address: &str, port| Destination::Inet {
            protocol,
            address: address.parse::<IpAddr>().expect("an address"),
            port,
        };
        for (end, other) in [
            (inet(TCP, "192.0.2.1", 443), inet(TCP, "192.0.2.1", 80)),
            (inet(UDP, "2001:db8::1", 53), inet(TCP, "2001:db8::1", 53)),
            (
                Destination::Unix(b"/run/a[b]".to_vec()),
                Destination::Unix(b"/run/ab".to_vec()),
            ),
            (
                Destination::Unix(b"@a*".to_vec()),
                Destination::Unix(b"@ab".to_vec()),
            ),
            (
                Destination::Vsock { cid: 2, port: 7 },
                Destination::Unix(b"@ab".to_vec()),
            ),
        ] {
            let things = [(None, Thing::Connect(end.clone()))];
            let said = |address| after(&things, &Ask::Connect { address }).0;
            assert_eq!(said(end), Expect::Allow);
            assert_eq!(said(other), Expect::Ask);
        }
        let thing = Thing::Connect(inet(136, "192.0.2.1", 1));
        assert_eq!(addition(None, &thing, &[]), Err(Unwritable::Protocol));
    }

    #[test]
    fn what_no_policy_file_can_name_is_refused() {
        let thing = Thing::File {
            path: b"/a\xff".to_vec(),
            access: vec![Access::Read],
        };
        assert_eq!(addition(None, &thing, &[]), Err(Unwritable::NotUtf8));
        let thing = Thing::Exec {
            path: b"/a".to_vec(),
            args: Some(Vec::new()),
        };
        assert_eq!(addition(None, &thing, &[]), Err(Unwritable::NoArguments));
    }

    #[test]
    fn exceptions_that_are_none_are_told_and_those_of_prohibitions_refused() {
        let dir = folder("version = 1\n[[except]]\nrule = \"filse\"\nfile = \"/a\"\n");
        let set = load_dir(dir.path(), &Capabilities::all()).expect("usable");
        let said = set.warnings.render(crate::policy::Style::Plain);
        assert!(said.contains("did you mean \"files\""), "{said}");
        for (text, part) in [
            (
                "[[except]]\nrule = \"never\"\nfile = \"/never/a\"\n",
                "not-an-ask",
            ),
            ("[[except]]\nfile = \"/a\"\n", "no-rule"),
            ("[[except]]\nrule = \"files\"\n", "no-subject"),
            ("[[deny]]\nfile = \"/a\"\n", "unknown-key"),
            (
                "[[except]]\nrule = \"files\"\nfile = \"/a\"\nargs = [\"x\"]\n",
                "misplaced-key",
            ),
            ("[[except\n", "not-toml"),
        ] {
            let dir = folder(&format!("version = 1\n{text}"));
            let found = load_dir(dir.path(), &Capabilities::all()).expect_err(text);
            let said = found.render(crate::policy::Style::Plain);
            assert!(said.contains(part), "{text}: {said}");
        }
        // One that can't be read is no reason to go on without it.
        let dir = folder("");
        std::fs::remove_file(path(dir.path(), "p")).expect("removed");
        std::fs::create_dir(path(dir.path(), "p")).expect("made");
        assert!(load_profile(dir.path(), "p", &Capabilities::all()).is_err());
        // One without its profile does nothing.
        let dir = folder("version = 1\n");
        std::fs::write(path(dir.path(), "q"), "version = 1\n").expect("written");
        let set = load_dir(dir.path(), &Capabilities::all()).expect("usable");
        assert_eq!(
            set.warnings.iter().next().map(|one| one.code),
            Some("stale-overlay")
        );
        // Checked by itself, it is checked with its profile.
        let dir = folder("version = 1\n[[except]]\nrule = \"files\"\nfile = \"/a\"\n");
        assert!(load_file(&path(dir.path(), "p"), &Capabilities::all()).is_ok());
    }

    #[test]
    fn a_file_that_is_there_is_kept_as_it_is() {
        let old = "# mine\nversion = 1\n\n[[allow]]\nfile = \"/x\" # why\n\n";
        let new = add(old, "[[allow]]\nfile = \"/y\"\n");
        assert!(new.starts_with(old), "{new}");
        let diff = diff(Path::new("/etc/p.toml"), old, &new);
        assert!(diff.contains("\n+file = \"/y\"\n"), "{diff}");
        assert!(!diff.contains("\n-"), "{diff}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever a file is called, its name is meant as it is.
        #[test]
        fn names_are_meant_literally(name in r#"[a-c*?\[\]{}\\$,!~"'#\n\u{202e}é.-]{1,12}"#) {
            prop_assume!(name != "." && name != "..");
            let path = format!("/w/{name}");
            let things = [(Some("files"), file(&path, Access::Read))];
            let (verdict, rule) = after(&things, &open(path.as_bytes(), Access::Read));
            prop_assert_eq!((verdict, rule.as_str()), (Expect::Allow, "p/local/allow/1"));
            // Not as the pattern that it could be.
            for other in ["/w/a", "/w/ab", "/w/abc", "/w/b", "/w/c"] {
                if other != path {
                    let (verdict, _) = after(&things, &open(other.as_bytes(), Access::Read));
                    prop_assert_eq!(verdict, Expect::Ask);
                }
            }
        }
    }
}
