//! A request that waits for an answer, as people read it: named pieces of text, harmless on a terminal. How
//! they are laid out is the business of whoever prints.

use jiff::Timestamp;

use super::tail::view::object;
use crate::{
    api::types::{Approval, AskingProcess},
    render::safe,
};

/// A piece of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    /// Already escaped.
    pub text: String,
    pub source: Source,
}

/// Who chose a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The daemon, or the policy.
    Trusted,
    /// The agent, but the kernel has seen it: a path, an address, arguments.
    Seen,
    /// The agent, and nobody has checked it.
    Claimed,
}

/// What the person who answers must know, the most important first.
pub fn fields(request: &Approval) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut add = |name, text: String, source| {
        if !text.is_empty() {
            fields.push(Field { name, text, source });
        }
    };
    let (agent, profile) = (safe(&request.agent), safe(&request.profile));
    add(
        "agent",
        format!("{agent} (profile {profile})"),
        Source::Trusted,
    );
    add("action", safe(&request.action).to_string(), Source::Trusted);
    add("object", object(&request.object), Source::Seen);
    add("rule", safe(&request.rule).to_string(), Source::Trusted);
    let because = request.because.as_deref().unwrap_or_default();
    add("because", safe(because).to_string(), Source::Trusted);
    if !request.held {
        add(
            "held",
            "no: it could not wait and was refused; a yes counts for its next attempt".to_owned(),
            Source::Trusted,
        );
    }
    if let Some(process) = &request.process {
        add("program", program(process), Source::Seen);
        let cwd = process.cwd.as_deref().unwrap_or_default();
        add("in", safe(cwd).to_string(), Source::Seen);
        let user = match &process.user {
            Some(user) => safe(user).to_string(),
            None => process.uid.to_string(),
        };
        add("user", user, Source::Trusted);
        add("process", tree(process), Source::Seen);
    }
    if request.waiting > 1 {
        add(
            "waiting",
            format!("{} processes", request.waiting),
            Source::Trusted,
        );
    }
    // A name that says what it is: whoever reads only this must not take it for a fact.
    let justification = request.justification.as_deref().unwrap_or_default();
    add(
        "AGENT SAYS",
        safe(justification).to_string(),
        Source::Claimed,
    );
    fields
}

/// The program with its arguments, each whole: what has spaces is quoted.
fn program(process: &AskingProcess) -> String {
    let mut shown = match &process.exe {
        Some(exe) => safe(exe).to_string(),
        None => "(unknown)".to_owned(),
    };
    // The first one is the name that it was called by.
    for argument in process.args.iter().skip(1) {
        let argument = safe(argument).to_string();
        let plain = |c: char| !c.is_whitespace() && !matches!(c, '\'' | '"');
        if !argument.is_empty() && argument.chars().all(plain) {
            shown.push_str(&format!(" {argument}"));
        } else {
            shown.push_str(&format!(" '{}'", argument.replace('\'', "\\'")));
        }
    }
    shown
}

/// The way from the oldest known ancestor to the process.
fn tree(process: &AskingProcess) -> String {
    let one = |exe: &Option<String>, pid: u32| {
        let name = exe.as_deref().unwrap_or("?");
        let name = name.rsplit('/').next().unwrap_or(name);
        format!("{}[{pid}]", safe(name))
    };
    let mut way: Vec<String> = process
        .ancestors
        .iter()
        .rev()
        .map(|ancestor| one(&ancestor.exe, ancestor.pid))
        .collect();
    way.push(one(&process.exe, process.pid));
    way.join(" > ")
}

/// How long somebody can still answer, in words.
pub fn time_left(expires: &str, now: Timestamp) -> String {
    let Ok(expires) = expires.parse::<Timestamp>() else {
        return format!("until {}", safe(expires));
    };
    let seconds = expires.duration_since(now).as_secs();
    match seconds {
        ..=0 => "time is over".to_owned(),
        1..=119 => format!("{seconds} s left"),
        120..=7199 => format!("{} min left", seconds / 60),
        _ => format!("{} h left", seconds / 3600),
    }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::api::types::AskingAncestor;

    /// A request for a connection.
    pub fn request() -> Approval {
        Approval {
            id: 17,
            agent: "alice".to_owned(),
            session: "01JC".to_owned(),
            profile: "coding".to_owned(),
            action: "net.connect".to_owned(),
            object: json!({"address": "192.0.2.7", "port": 443, "protocol": "tcp"}),
            rule: "ask-network".to_owned(),
            because: Some("Ask before leaving this machine.".to_owned()),
            process: Some(AskingProcess {
                pid: 812,
                exe: Some("/usr/bin/curl".to_owned()),
                args: ["curl", "-d", "a b", "https://example.org"]
                    .map(str::to_owned)
                    .into(),
                cwd: Some("/home/u/work".to_owned()),
                uid: 1000,
                user: Some("u".to_owned()),
                ancestors: vec![
                    AskingAncestor {
                        pid: 800,
                        exe: Some("/usr/bin/bash".to_owned()),
                    },
                    AskingAncestor {
                        pid: 790,
                        exe: Some("/usr/bin/node".to_owned()),
                    },
                ],
            }),
            waiting: 1,
            asked: "2026-11-20T10:15:42Z".to_owned(),
            expires: "2026-11-20T10:16:42Z".to_owned(),
            held: true,
            justification: None,
        }
    }

    fn shown(request: &Approval) -> Vec<String> {
        fields(request)
            .iter()
            .map(|field| format!("{}: {}", field.name, field.text))
            .collect()
    }

    #[test]
    fn a_request_says_who_wants_what_why_and_by_which_way() {
        assert_eq!(
            shown(&request()),
            [
                "agent: alice (profile coding)",
                "action: net.connect",
                "object: tcp://192.0.2.7:443",
                "rule: ask-network",
                "because: Ask before leaving this machine.",
                "program: /usr/bin/curl -d 'a b' https://example.org",
                "in: /home/u/work",
                "user: u",
                "process: node[790] > bash[800] > curl[812]",
            ]
        );
    }

    #[test]
    fn what_an_agent_says_is_marked_as_such() {
        let request = Approval {
            justification: Some("I must.\nrule: none\u{1b}[2J".to_owned()),
            held: false,
            ..request()
        };
        let fields = fields(&request);
        let said = fields.last().expect("fields");
        assert_eq!((said.name, said.source), ("AGENT SAYS", Source::Claimed));
        assert_eq!(said.text, "I must.\\nrule: none\\u{1b}[2J");
        assert!(fields.iter().any(|field| field.name == "held"));
    }

    #[test]
    fn time_runs_out() {
        let now = |text: &str| text.parse::<Timestamp>().expect("a time");
        let expires = "2026-11-20T10:16:42Z";
        for (at, text) in [
            ("2026-11-20T10:16:41Z", "1 s left"),
            ("2026-11-20T10:14:43Z", "119 s left"),
            ("2026-11-20T10:14:42Z", "2 min left"),
            ("2026-11-20T07:16:42Z", "3 h left"),
            ("2026-11-20T10:16:42Z", "time is over"),
            ("2026-11-21T10:16:42Z", "time is over"),
        ] {
            assert_eq!(time_left(expires, now(at)), text);
        }
        assert_eq!(time_left("\u{1b}", now(expires)), "until \\u{1b}");
    }

    proptest! {
        #[test]
        fn no_request_controls_a_terminal(text in any::<String>()) {
            let mut request = request();
            request.agent.clone_from(&text);
            request.action.clone_from(&text);
            request.object = json!({"path": text, (text.clone()): text});
            request.rule.clone_from(&text);
            request.because = Some(text.clone());
            request.justification = Some(text.clone());
            request.process = Some(AskingProcess {
                pid: 1,
                exe: Some(text.clone()),
                args: vec![text.clone(), text.clone()],
                cwd: Some(text.clone()),
                uid: 1,
                user: Some(text.clone()),
                ancestors: vec![AskingAncestor { pid: 2, exe: Some(text) }],
            });
            for field in fields(&request) {
                prop_assert!(!field.text.chars().any(char::is_control), "{field:?}");
                prop_assert!(!field.text.contains(['\u{202e}', '\u{2066}', '\u{200b}', '\u{2028}']), "{field:?}");
            }
        }
    }
}
