//! What an operator reads in each state.

use std::path::PathBuf;

use super::*;
use crate::{
    api::types::{
        Agent, AgentState, Counters, Failure, Hook, Kernel, Log, Policy, PolicyRefusal, Profile,
    },
    enforcement::{Absent, Foundation},
};

fn healthy() -> Status {
    Status {
        enforcing: true,
        problems: Vec::new(),
        warnings: Vec::new(),
        version: "0.1.0".to_owned(),
        pid: 812,
        uptime_seconds: 93_600,
        kernel: Kernel {
            release: "6.12.1".to_owned(),
            lsm: vec!["landlock".to_owned(), "bpf".to_owned()],
        },
        hooks: vec![hook("file_open"), hook("task_alloc")],
        verbs: vec![
            foundation("file.read", &["file_open"]),
            foundation("label", &["task_alloc"]),
        ],
        policy: Policy {
            install: 3,
            profiles: vec![profile("coding", "enforce"), profile("observe", "audit")],
            warnings: Vec::new(),
            refused: None,
        },
        agents: vec![Agent {
            id: 1,
            name: "alice".to_owned(),
            session: "01JC".to_owned(),
            profile: "coding".to_owned(),
            state: AgentState::Active,
            cgroup: PathBuf::from("/sys/fs/cgroup/agentguard.slice/alice"),
            since: "2026-11-20T10:15:42Z".to_owned(),
            owned: true,
        }],
        pending: 0,
        counters: Counters {
            decisions: vec![
                count("file_open", "allow", 40),
                count("file_open", "deny", 2),
            ],
            ..Counters::default()
        },
        log: Log {
            path: PathBuf::from("/var/log/agentguard/events.jsonl"),
            writing: true,
            error: None,
            seq: 4711,
            hash: None,
            backlog: 0,
        },
        maps: Vec::new(),
    }
}

fn foundation(verb: &str, hooks: &[&str]) -> Foundation {
    Foundation {
        verb: verb.to_owned(),
        hooks: hooks.iter().map(ToString::to_string).collect(),
        missing: Vec::new(),
        holds: false,
        absent: Vec::new(),
    }
}

fn hook(name: &str) -> Hook {
    Hook {
        name: name.to_owned(),
        attached: true,
        link: Some(1),
        program: Some(2),
    }
}

fn profile(name: &str, mode: &str) -> Profile {
    Profile {
        name: name.to_owned(),
        description: None,
        mode: mode.to_owned(),
        source: PathBuf::from(format!("/etc/agentguard/policies/{name}.toml")),
        digest: String::new(),
        rules: 12,
        install: 3,
        agents: 1,
    }
}

fn count(hook: &str, verdict: &str, count: u64) -> Count {
    Count {
        hook: hook.to_owned(),
        verdict: verdict.to_owned(),
        count,
    }
}

fn shown(status: &Status) -> String {
    let mut out = Vec::new();
    write_status(&mut out, status).expect("a vector takes everything");
    let text = String::from_utf8(out).expect("text");
    anstream::adapter::strip_str(&text).to_string()
}

#[test]
fn a_healthy_status_says_so_first_and_gives_no_advice() {
    let text = shown(&healthy());
    assert!(
        text.starts_with("ENFORCING: the kernel holds 1 agent to 2 profiles\n"),
        "{text}"
    );
    assert!(!text.contains("what to do"));
    assert!(text.contains("events   none lost"));
    assert!(text.contains("hooks    2 of 2 attached"));
    assert!(text.contains("up 1 d 2 h"));
    assert!(text.contains("audit (denies only what no profile can allow)"));
    let row = text
        .lines()
        .find(|line| line.starts_with("file_open"))
        .expect("a row for file_open");
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells, ["file_open", "40", "0", "2", "0", "0", "0"]);
}

#[test]
fn a_missing_hook_is_named_with_what_to_do() {
    let mut status = healthy();
    status.enforcing = false;
    status.problems = vec!["file_open is not attached".to_owned()];
    status.hooks[0].attached = false;
    let text = shown(&status);
    let mut lines = text.lines();
    assert!(
        lines
            .next()
            .is_some_and(|line| line.starts_with("NOT ENFORCING"))
    );
    assert_eq!(lines.next(), Some("  problem: file_open is not attached"));
    assert!(
        lines
            .next()
            .is_some_and(|line| line.contains("agentguard doctor"))
    );
    assert!(text.contains("1 of 2 attached, missing: file_open"));
}

#[test]
fn each_verb_is_told_with_what_it_rests_on() {
    let mut status = healthy();
    let row = |status: &Status| {
        let text = shown(status);
        let row = text.lines().find(|line| line.starts_with("file.read"));
        row.expect("a row for file.read").trim_end().to_owned()
    };
    let cells = row(&status);
    let cells: Vec<&str> = cells.split_whitespace().collect();
    assert_eq!(cells, ["file.read", "enforced", "file_open"]);
    status.verbs[0].missing = vec!["file_open".to_owned()];
    assert!(row(&status).contains("NOT ENFORCED, missing: file_open"));
}

#[test]
fn a_hook_that_the_kernel_lacks_is_not_missing_when_another_sees_the_same() {
    let mut status = healthy();
    for verb in &mut status.verbs {
        verb.absent.push(Absent {
            hook: "inode_set_acl".to_owned(),
            instead: "inode_setxattr".to_owned(),
        });
    }
    let text = shown(&status);
    assert!(text.contains("hooks    2 of 2 attached"), "{text}");
    let line = "not in this kernel: inode_set_acl (inode_setxattr sees the same)";
    assert_eq!(text.matches(line).count(), 1, "{text}");
    assert!(!text.contains("missing"));
}

#[test]
fn losses_and_a_broken_log_are_told_with_their_numbers() {
    let mut status = healthy();
    status.counters.lost_kernel = vec![count("file_open", "allow", 5)];
    status.counters.lost_sink = 2;
    status.counters.failures = vec![Failure {
        site: "label_create".to_owned(),
        count: 9,
    }];
    status.log.writing = false;
    status.log.error = Some("no space left on device".to_owned());
    let text = shown(&status);
    assert!(text.starts_with("ENFORCING"), "{text}");
    assert!(text.contains("7 lost: 5 in the kernel, 2 by the log, 0 not understood"));
    assert!(text.contains("NOT WRITTEN"));
    assert!(text.contains("(no space left on device)"));
    assert!(text.contains("9 failures at label_create"));
}

#[test]
fn many_warnings_do_not_hide_what_matters() {
    let mut status = healthy();
    status.policy.warnings = (0..30).map(|number| format!("warning {number}")).collect();
    let text = shown(&status);
    assert_eq!(text.matches("warning: ").count(), 3);
    assert!(text.contains("and 27 more warnings"), "{text}");
}

#[test]
fn a_refused_policy_shows_its_diagnostics() {
    let mut status = healthy();
    status.policy.refused = Some(PolicyRefusal {
        time: "2026-11-20T10:15:42Z".to_owned(),
        message: "coding.toml: unknown key `fiel`".to_owned(),
        diagnostics: Some("line 4\n  fiel = \"\u{1b}[2J\"".to_owned()),
    });
    let text = shown(&status);
    assert!(text.contains("unknown key `fiel`"));
    assert!(text.contains("    fiel = \"\\u{1b}[2J\""));
    assert!(text.contains("agentguard policy check"));
}
