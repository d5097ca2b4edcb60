//! Bad input and missing rights: each has a clear message and its documented exit code.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};

use agentguard::api::types::{Refusal, RefusalCode};
use axum::http::StatusCode;

use crate::{
    agentguard, fails,
    fake::{Fake, refuse},
    text,
};

/// A socket at which nobody listens.
const NOBODY: &str = "/nonexistent/agentguard.sock";

fn answer(arguments: &[&str]) -> std::process::Output {
    agentguard(Path::new(NOBODY))
        .args(arguments)
        .output()
        .expect("it starts")
}

#[test]
fn what_is_no_command_line_is_a_usage_error() {
    for arguments in [
        &["--no-such-option"][..],
        &[],
        &["no-such-command"],
        &["run", "--", "true"],
        &["run", "--profile", "coding"],
        &["run", "--profile", "coding", "true"],
        &[
            "run",
            "--profile",
            "coding",
            "--no-such-option",
            "--",
            "true",
        ],
        &["tag", "user.slice"],
        &["tag", "/etc", "coding"],
        &["untag", "/sys/fs/cgroup"],
        &["tail", "-n", "many"],
        &["tail", "--json", "--text"],
        &["tail", "--verdict", "maybe"],
        &["tail", "--action", "file.opn"],
        &["status", "--color", "sometimes"],
        &["completions", "no-such-shell"],
    ] {
        let stderr = fails(&answer(arguments), 2);
        assert!(
            stderr.contains("Usage") || stderr.contains("--help"),
            "{stderr}"
        );
    }
}

#[test]
fn help_and_version_are_asked_for_and_so_succeed() {
    for arguments in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let output = answer(arguments);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("agentguard"));
    }
}

#[test]
fn without_a_daemon_each_command_says_so_and_names_the_socket() {
    for arguments in [
        &["tag", "user.slice", "coding"][..],
        &["untag", "user.slice"],
        &["agents"],
        &["reload"],
    ] {
        let stderr = fails(&answer(arguments), 17);
        assert!(stderr.contains(NOBODY), "{stderr}");
    }
}

#[test]
fn status_without_a_daemon_says_what_the_kernel_does() {
    let output = answer(&["status"]);
    assert_eq!(output.status.code(), Some(17));
    let stdout = text(&output.stdout);
    assert!(
        ["NO DAEMON", "NOT ENFORCING", "NOT KNOWN"]
            .iter()
            .any(|state| stdout.starts_with(state)),
        "{stdout}"
    );
    assert!(
        stdout.contains(NOBODY) && stdout.contains("what to do"),
        "{stdout}"
    );
    let output = answer(&["status", "--json"]);
    assert_eq!(output.status.code(), Some(17));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["enforcing"], false);
}

#[test]
fn run_without_a_daemon_never_runs_the_command() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let marker = dir.path().join("marker");
    let output = agentguard(Path::new(NOBODY))
        .args(["run", "--profile", "coding", "--", "touch"])
        .arg(&marker)
        .output()
        .expect("it starts");
    fails(&output, 125);
    assert!(!marker.exists());
}

#[test]
fn an_ordinary_user_is_told_that_root_is_needed() {
    // Where everybody can reach it.
    let dir = tempfile::tempdir().expect("a temporary directory");
    let program = dir.path().join("agentguard");
    fs::copy(env!("CARGO_BIN_EXE_agentguard"), &program).expect("it can be copied");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("it can be opened");
    let mut command = Command::new(&program);
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let output = command
        .args(["run", "--profile", "coding", "--", "true"])
        .output()
        .expect("it starts");
    let stderr = fails(&output, 125);
    assert!(stderr.contains("only root can start an agent"), "{stderr}");
}

#[test]
fn unloading_is_refused_while_a_daemon_runs() {
    if !rustix::process::geteuid().is_root() {
        let output = answer(&["unload", "--force"]);
        assert!(fails(&output, 3).contains("only root can end enforcement"));
        return;
    }
    let fake = Fake::new(|_, _| refuse(StatusCode::NOT_FOUND, RefusalCode::NotFound, "unused"));
    let output = agentguard(&fake.socket())
        .args(["unload", "--force"])
        .output()
        .expect("it starts");
    assert!(fails(&output, 12).contains("a daemon runs"));
}

#[test]
fn doctor_needs_no_daemon_and_says_what_to_do() {
    let output = answer(&["doctor", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let code = match json["enforcement"].as_str() {
        Some("possible") => 0,
        Some("impossible") => 1,
        Some("unknown") => 3,
        other => panic!("{other:?}"),
    };
    assert_eq!(output.status.code(), Some(code));
    let output = answer(&["doctor"]);
    assert_eq!(output.status.code(), Some(code));
    assert_eq!(text(&output.stdout).contains("what to do"), code != 0);
}

#[test]
fn a_refused_policy_is_shown_with_its_diagnostics() {
    let fake = Fake::new(|_, _| {
        let refusal = Refusal {
            code: RefusalCode::PolicyRefused,
            message: "coding.toml is wrong".to_owned(),
            diagnostics: Some("coding.toml:4:1\n  fiel = \"\u{1b}[2J\"".to_owned()),
        };
        let body = serde_json::to_vec(&refusal).expect("it can be serialised");
        (StatusCode::UNPROCESSABLE_ENTITY, body)
    });
    let output = agentguard(&fake.socket())
        .arg("reload")
        .output()
        .expect("it starts");
    let stderr = fails(&output, 15);
    assert!(
        stderr.contains("coding.toml:4:1\n  fiel = \"\\u{1b}[2J\"\n"),
        "{stderr}"
    );
    assert!(
        stderr
            .contains("not reloaded, so the policy in force stays in force: coding.toml is wrong"),
        "{stderr}"
    );
}

#[test]
fn a_refusal_has_the_code_of_its_reason() {
    let fake = Fake::new(|_, _| {
        refuse(
            StatusCode::FORBIDDEN,
            RefusalCode::Forbidden,
            "an agent may not ask this",
        )
    });
    let output = agentguard(&fake.socket())
        .args(["untag", "user.slice"])
        .output()
        .expect("it starts");
    assert!(fails(&output, 18).contains("an agent may not ask this"));
}
