//! `agentguard tail`: from a daemon, through its restart, and from the log file without one.

use std::{
    fs,
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
};

use agentguard::api::types::{Counters, Kernel, Log, Policy, RefusalCode, Status};
use axum::http::StatusCode;

use crate::{
    agentguard, fails,
    fake::{Answer, Fake, ok, refuse},
    text,
};

fn event(seq: u64) -> String {
    let verdict = if seq.is_multiple_of(2) {
        "deny"
    } else {
        "allow"
    };
    format!(
        r#"{{"v":1,"seq":{seq},"time":"2026-11-20T10:15:42.123456789Z","agent":"alice","action":"file.open","verdict":"{verdict}","object":{{"path":"/tmp/\u001b[2J","access":["read"]}},"process":{{"pid":812,"comm":"cat"}}}}"#
    )
}

fn events(numbers: impl IntoIterator<Item = u64>) -> String {
    numbers.into_iter().map(|seq| event(seq) + "\n").collect()
}

fn status(seq: u64) -> Answer {
    ok(&Status {
        enforcing: true,
        problems: Vec::new(),
        warnings: Vec::new(),
        version: String::new(),
        pid: 1,
        uptime_seconds: 1,
        kernel: Kernel {
            release: String::new(),
            lsm: Vec::new(),
        },
        hooks: Vec::new(),
        verbs: Vec::new(),
        policy: Policy {
            install: 1,
            profiles: Vec::new(),
            warnings: Vec::new(),
            refused: None,
        },
        agents: Vec::new(),
        pending: 0,
        counters: Counters::default(),
        log: Log {
            path: "/var/log/agentguard/events.jsonl".into(),
            writing: true,
            error: None,
            seq,
            hash: None,
            backlog: 0,
        },
        maps: Vec::new(),
    })
}

#[test]
fn a_pipe_gets_the_daemons_lines_as_they_are() {
    let fake = Fake::new(|_, _| (StatusCode::OK, events(1..=3).into_bytes()));
    let output = agentguard(&fake.socket())
        .args(["tail", "-n", "3", "--verdict", "deny", "--action", "file.*"])
        .output()
        .expect("it starts");
    assert_eq!(text(&output.stdout), events([2]));
    assert!(output.status.success());
    assert_eq!(
        fake.requests().last().map(String::as_str),
        Some("GET /v1/events?follow=false&n=3&verdict=deny&action=file.")
    );
}

#[test]
fn lists_are_selected_here_and_the_last_are_shown() {
    let fake = Fake::new(|request, _| match request {
        "GET /v1/status" => status(9),
        _ => (StatusCode::OK, events(1..=9).into_bytes()),
    });
    let output = agentguard(&fake.socket())
        .args(["tail", "-n", "2", "--verdict", "deny,kill"])
        .output()
        .expect("it starts");
    assert_eq!(text(&output.stdout), events([6, 8]));
}

#[test]
fn text_is_one_harmless_line_and_coloured_when_asked() {
    let fake = Fake::new(|_, _| (StatusCode::OK, events([2]).into_bytes()));
    let plain = agentguard(&fake.socket())
        .args(["tail", "--text"])
        .output()
        .expect("it starts");
    assert_eq!(
        text(&plain.stdout),
        "Nov 20 10:15:42.123  deny   alice  file.open /tmp/\\u{1b}[2J (read)  cat[812]\n"
    );
    let coloured = agentguard(&fake.socket())
        .args(["tail", "--text", "--color", "always"])
        .output()
        .expect("it starts");
    let coloured = text(&coloured.stdout);
    assert!(
        coloured.contains("\u{1b}[31m") || coloured.contains("\u{1b}[1m"),
        "{coloured:?}"
    );
    assert!(!coloured.contains("\u{1b}[2J"), "{coloured:?}");
    let never = agentguard(&fake.socket())
        .args(["--color", "never", "tail", "--text"])
        .output()
        .expect("it starts");
    assert_eq!(never.stdout, plain.stdout);
}

#[test]
fn following_survives_a_restart_without_repeating_or_losing() {
    let follows = AtomicUsize::new(0);
    let statuses = AtomicUsize::new(0);
    let fake = Fake::new(move |request, _| {
        if request == "GET /v1/status" {
            return match statuses.fetch_add(1, Ordering::SeqCst) {
                0 => status(3),
                1 => status(5),
                // Ends the test: a refusal is no restart.
                _ => refuse(StatusCode::FORBIDDEN, RefusalCode::Forbidden, "enough"),
            };
        }
        // Each answer ends, as when the daemon stops.
        match follows.fetch_add(1, Ordering::SeqCst) {
            0 => (StatusCode::OK, events(2..=3).into_bytes()),
            _ => (StatusCode::OK, events(1..=6).into_bytes()),
        }
    });
    let output = agentguard(&fake.socket())
        .args(["tail", "-f", "-n", "2"])
        .output()
        .expect("it starts");
    assert_eq!(text(&output.stdout), events(2..=6));
    let stderr = fails(&output, 18);
    assert!(stderr.contains("waiting for a daemon"), "{stderr}");
    assert!(!stderr.contains("not received"), "{stderr}");
    let asked: Vec<u64> = fake
        .requests()
        .iter()
        .filter_map(|request| request.split_once("follow=true&n=")?.1.parse().ok())
        .collect();
    assert_eq!(asked[0], 2);
    assert!(asked[1] >= 2, "at least what was missed: {asked:?}");
}

#[test]
fn events_that_were_never_written_give_their_numbers_to_others() {
    let follows = AtomicUsize::new(0);
    let fake = Fake::new(move |request, _| {
        let round = match request {
            "GET /v1/status" => follows.load(Ordering::SeqCst),
            _ => follows.fetch_add(1, Ordering::SeqCst),
        };
        match (request, round) {
            ("GET /v1/status", 0 | 1) => status(3),
            ("GET /v1/status", _) => {
                refuse(StatusCode::FORBIDDEN, RefusalCode::Forbidden, "enough")
            }
            (_, 0) => (StatusCode::OK, events(2..=3).into_bytes()),
            _ => {
                let other = event(3).replace("alice", "bob") + "\n";
                (StatusCode::OK, (events(2..=2) + &other).into_bytes())
            }
        }
    });
    let output = agentguard(&fake.socket())
        .args(["tail", "-f", "-n", "2"])
        .output()
        .expect("it starts");
    let expected = events(2..=3) + &event(3).replace("alice", "bob") + "\n";
    assert_eq!(text(&output.stdout), expected);
    assert!(fails(&output, 18).contains("before it had written event 3"));
}

#[test]
fn a_gap_is_told() {
    let fake = Fake::new(|_, _| (StatusCode::OK, events([1, 2, 5]).into_bytes()));
    let output = agentguard(&fake.socket())
        .arg("tail")
        .output()
        .expect("it starts");
    assert_eq!(text(&output.stdout), events([1, 2, 5]));
    assert!(text(&output.stderr).contains("events 3 to 4 were not received"));
}

#[test]
fn without_a_daemon_the_log_file_is_read_and_that_is_said() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log = dir.path().join("events.jsonl");
    fs::write(&log, events(1..=9) + "torn").expect("it can be written");
    let output = agentguard(&dir.path().join("no-socket"))
        .args(["tail", "-n", "2", "--verdict", "deny", "--log"])
        .arg(&log)
        .output()
        .expect("it starts");
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), events([6, 8]));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("no daemon answers"), "{stderr}");
    assert!(stderr.contains("events.jsonl"), "{stderr}");
}

#[test]
fn without_daemon_and_log_it_fails_and_names_the_file() {
    let output = agentguard(Path::new("/nonexistent/socket"))
        .args(["tail", "--log", "/nonexistent/log"])
        .output()
        .expect("it starts");
    assert!(fails(&output, 1).contains("/nonexistent/log"));
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let fake = Fake::new(|_, _| (StatusCode::OK, events(1..=5000).into_bytes()));
    let mut child = agentguard(&fake.socket())
        .args(["tail", "-n", "5000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{:?}", output.status);
    assert_eq!(text(&output.stderr), "");
}
