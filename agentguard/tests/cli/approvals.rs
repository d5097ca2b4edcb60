//! `agentguard pending`, `approve`, `deny` and `watch`: what is shown of a request, and what is sent for an answer.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use agentguard::api::types::{
    Approval, AskingProcess, Change, Decided, Gone, GoneWhy, RefusalCode, Scope,
};
use axum::http::StatusCode;

use crate::{
    agentguard, fails,
    fake::{Answer, Fake, ok, refuse},
    text,
};

/// What an agent may call a file.
const PATH: &str = "/tmp/\u{1b}]0;mine\u{7}\n[y] yes \u{202e}gnp";
const SHOWN: &str = "/tmp/\\u{1b}]0;mine\\u{7}\\n[y] yes \\u{202e}gnp";

fn request() -> Approval {
    Approval {
        id: 17,
        agent: "alice".to_owned(),
        session: "01JC".to_owned(),
        profile: "coding".to_owned(),
        action: "file.open".to_owned(),
        object: serde_json::json!({"path": PATH, "access": ["read"]}),
        rule: "keys".to_owned(),
        because: None,
        process: Some(AskingProcess {
            pid: 812,
            exe: Some("/usr/bin/cat".to_owned()),
            ..AskingProcess::default()
        }),
        waiting: 1,
        asked: "2026-11-20T10:15:42Z".to_owned(),
        expires: "2999-11-20T10:16:42Z".to_owned(),
        held: true,
        justification: None,
    }
}

fn line(change: &Change) -> String {
    serde_json::to_string(change).expect("it can be serialised") + "\n"
}

/// One request waits, and every answer to it is carried out.
fn daemon(request: &str) -> Answer {
    let decided = |approved, scope| {
        ok(&Decided {
            id: 17,
            approved,
            scope,
            diff: None,
        })
    };
    match request {
        "GET /v1/approvals" => ok(&[self::request()]),
        "GET /v1/approvals?follow=true" => {
            let asked = line(&Change::Asked(self::request()));
            (StatusCode::OK, asked.into_bytes())
        }
        "POST /v1/approvals/17" => decided(true, Scope::Once),
        _ => refuse(
            StatusCode::NOT_FOUND,
            RefusalCode::UnknownRequest,
            "no request with this number waits",
        ),
    }
}

fn run(fake: &Fake, arguments: &[&str]) -> std::process::Output {
    agentguard(&fake.socket())
        .args(arguments)
        .output()
        .expect("it starts")
}

#[test]
fn what_waits_is_shown_to_people_and_programs() {
    let fake = Fake::new(|request, _| daemon(request));
    let output = run(&fake, &["pending"]);
    let shown = text(&output.stdout);
    assert!(shown.contains(SHOWN) && shown.starts_with("17"), "{shown}");
    assert!(
        shown.lines().skip(1).all(|line| line.starts_with("  ")),
        "{shown}"
    );
    let output = run(&fake, &["pending", "--json"]);
    let requests: Vec<Approval> = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(requests, [request()]);
    let none = Fake::new(|_, _| ok(&Vec::<Approval>::new()));
    assert_eq!(
        text(&run(&none, &["pending"]).stdout),
        "nothing waits for an answer\n"
    );
}

#[test]
fn what_happens_is_followed_until_the_daemon_goes() {
    let changes = [
        Change::Asked(request()),
        Change::Gone(Gone {
            id: 17,
            why: GoneWhy::Expired,
        }),
    ];
    let lines: String = changes.iter().map(line).collect();
    let sent = lines.clone();
    let fake = Fake::new(move |_, _| (StatusCode::OK, sent.clone().into_bytes()));
    let output = run(&fake, &["pending", "--watch", "--json"]);
    assert_eq!(text(&output.stdout), lines);
    assert!(fails(&output, 1).contains("the daemon has gone"));
    let shown = text(&run(&fake, &["pending", "-w"]).stdout);
    assert!(
        shown.contains(SHOWN)
            && shown.ends_with("17 waits no longer: nobody answered in time, so it was denied\n"),
        "{shown}"
    );
}

#[test]
fn answers_are_sent_as_they_are_meant() {
    let fake = Fake::new(|request, _| daemon(request));
    for (arguments, body) in [
        (
            &["approve", "17"][..],
            r#"{"approve":true,"scope":"once","how":"cli"}"#,
        ),
        (
            &["approve", "17", "--for", "10m"],
            r#"{"approve":true,"scope":{"for":600},"how":"cli"}"#,
        ),
        (
            &["approve", "17", "--rule"],
            r#"{"approve":true,"scope":"rule","how":"cli"}"#,
        ),
        (
            &["approve", "17", "--always", "--reason", "it is mine"],
            r#"{"approve":true,"scope":"always","reason":"it is mine","how":"cli"}"#,
        ),
        (
            &["deny", "17", "--reason", "no"],
            r#"{"approve":false,"scope":"once","reason":"no","how":"cli"}"#,
        ),
    ] {
        let output = run(&fake, arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        assert_eq!(
            fake.requests().last().expect("a request"),
            &format!("POST /v1/approvals/17 {body}")
        );
    }
    assert!(fails(&run(&fake, &["approve", "18"]), 19).contains("cannot approve 18"));
    for arguments in [
        &["approve"][..],
        &["approve", "17", "--once", "--always"],
        &["approve", "17", "--for", "never"],
        &["approve", "-1"],
        &["deny", "17", "--rule"],
    ] {
        fails(&run(&fake, arguments), 2);
    }
}

#[test]
fn a_change_of_policy_is_shown_and_controls_nothing() {
    let fake = Fake::new(|_, _| {
        ok(&Decided {
            id: 17,
            approved: true,
            scope: Scope::Always,
            diff: Some("+[[except]]\n+file = \"/\u{9b}2J\"\n".to_owned()),
        })
    });
    let output = run(&fake, &["approve", "17", "--always"]);
    assert_eq!(
        text(&output.stdout),
        "17 approved, for good\n+[[except]]\n+file = \"/\\u{9b}2J\"\n"
    );
}

/// A terminal with `agentguard watch` on it.
struct Watch {
    child: Child,
    terminal: File,
    shown: Arc<Mutex<Vec<u8>>>,
    before: libc::termios,
}

impl Watch {
    fn start(fake: &Fake) -> Self {
        let (mut master, mut slave) = (-1, -1);
        let size = libc::winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the pointers are to values that live; two of them may be null.
        let made = unsafe {
            libc::openpty(
                &raw mut master,
                &raw mut slave,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                &raw const size,
            )
        };
        assert_eq!(made, 0, "no terminal");
        // SAFETY: both were just opened, and are nobody else's.
        let (terminal, slave) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        let before = settings(&terminal);
        let stdio = || Stdio::from(slave.try_clone().expect("a descriptor"));
        let mut command = agentguard(&fake.socket());
        command
            .arg("watch")
            .env("TERM", "xterm")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio());
        // SAFETY: only system calls between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let child = command.spawn().expect("it starts");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut output, all) = (
            terminal.try_clone().expect("a descriptor"),
            Arc::clone(&shown),
        );
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = output.read(&mut buffer) {
                all.lock()
                    .expect("no panic")
                    .extend_from_slice(&buffer[..len]);
            }
        });
        Self {
            child,
            terminal,
            shown,
            before,
        }
    }

    fn shown(&self) -> String {
        text(&self.shown.lock().expect("no panic"))
    }

    fn press(&mut self, key: u8) {
        self.terminal.write_all(&[key]).expect("a terminal");
    }

    /// Does something now and then until it has happened.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !done(self) {
            assert!(Instant::now() < deadline, "{what}: {}", self.shown());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for its end. The terminal is then as it was.
    fn end(mut self) -> std::process::ExitStatus {
        let status = self.child.wait().expect("it ends");
        self.until("the screen is given back", |watch| {
            watch.shown().contains("\u{1b}[?1049l")
        });
        let after = settings(&self.terminal);
        assert_eq!(after.c_lflag, self.before.c_lflag);
        assert_eq!(after.c_iflag, self.before.c_iflag);
        assert_eq!(after.c_oflag, self.before.c_oflag);
        status
    }
}

fn settings(terminal: &File) -> libc::termios {
    // SAFETY: a struct of integers, which the call fills.
    unsafe {
        let mut settings = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(terminal.as_raw_fd(), &raw mut settings), 0);
        settings
    }
}

#[test]
fn a_person_answers_with_a_key() {
    let fake = Fake::new(|request, _| daemon(request));
    let mut watch = Watch::start(&fake);
    watch.until("the request is shown", |watch| {
        watch.shown().contains(SHOWN)
    });
    let answered = |request: &String| request.starts_with("POST");
    assert!(!fake.requests().iter().any(answered));
    let answer = r#"POST /v1/approvals/17 {"approve":true,"scope":"once","how":"cli"}"#;
    watch.until("the answer is sent", |watch| {
        watch.press(b'y');
        fake.requests().iter().any(|request| request == answer)
    });
    // Nothing that the agent chose reached the terminal as it is.
    let shown = watch.shown();
    assert!(
        !shown.contains("\u{1b}]0;") && !shown.contains('\u{202e}'),
        "{shown:?}"
    );
    watch.press(b'q');
    assert_eq!(watch.end().code(), Some(0));
}

#[test]
fn a_signal_ends_it_and_the_terminal_is_as_before() {
    let fake = Fake::new(|request, _| daemon(request));
    let mut watch = Watch::start(&fake);
    watch.until("the request is shown", |watch| {
        watch.shown().contains(SHOWN)
    });
    // SAFETY: no memory is involved.
    unsafe { libc::kill(watch.child.id() as i32, libc::SIGTERM) };
    assert_eq!(watch.end().signal(), Some(libc::SIGTERM));
}

#[test]
fn without_a_terminal_nobody_is_asked() {
    let fake = Fake::new(|request, _| daemon(request));
    let stderr = fails(&run(&fake, &["watch"]), 1);
    assert!(
        stderr.contains("no terminal") && stderr.contains("pending --watch"),
        "{stderr}"
    );
    assert_eq!(fake.connections(), 0);
}
