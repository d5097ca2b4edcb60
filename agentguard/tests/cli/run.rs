//! `agentguard run` before and after the moment in which it becomes the agent. The cgroup is an
//! ordinary directory here, and the stand-in says whether the label is there. Entering a cgroup and
//! changing users are root's, so these tests need root and say so when they don't have it.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, Output},
};

use agentguard::api::types::{Policy, Profile, RefusalCode, Verified};
use axum::http::StatusCode;

use crate::{
    agentguard, fails,
    fake::{Answer, Fake, agent, ok, refuse},
    text,
};

/// Whether the test can go on.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: `agentguard run` needs root, and this test runs as an ordinary user");
    }
    root
}

/// A daemon that makes an agent in a directory and says what `verified` says to whoever asks for its
/// label.
fn daemon(verified: impl Fn() -> Answer + Send + Sync + 'static) -> Fake {
    let fake = Fake::new(move |request, dir| match request {
        "POST /v1/agents" => ok(&agent(&dir.join("cgroup"))),
        "POST /v1/agents/7/verify" => verified(),
        _ => ok(&agent(&dir.join("cgroup"))),
    });
    let cgroup = fake.dir.path().join("cgroup");
    fs::create_dir(&cgroup).expect("a directory");
    fs::write(cgroup.join("cgroup.procs"), "").expect("a file");
    fake
}

/// A daemon for which the kernel's label is there.
fn labelling() -> Fake {
    daemon(|| ok(&Verified { agent: 7, pid: 1 }))
}

fn run(fake: &Fake, options: &[&str], command: &[&str]) -> Output {
    agentguard(&fake.socket())
        .args(["run", "--profile", "coding"])
        .args(options)
        .arg("--")
        .args(command)
        .output()
        .expect("it starts")
}

#[test]
fn the_label_is_asked_for_from_inside_over_the_first_connection() {
    if !is_root() {
        return;
    }
    let fake = labelling();
    let output = run(&fake, &["--name", "alice"], &["true"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(
        fake.requests(),
        [
            r#"POST /v1/agents {"profile":"coding","name":"alice"}"#,
            "POST /v1/agents/7/verify",
        ]
    );
    assert_eq!(fake.connections(), 1);
    let procs = fs::read_to_string(fake.dir.path().join("cgroup/cgroup.procs"));
    assert_eq!(procs.expect("it is there"), "0");
}

#[test]
fn status_and_signal_are_the_commands_own() {
    if !is_root() {
        return;
    }
    let fake = labelling();
    let output = run(&fake, &[], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(text(&output.stdout), "out\n");
    assert_eq!(text(&output.stderr), "err\n");
    let output = run(&fake, &[], &["sh", "-c", "kill -TERM $$"]);
    assert_eq!(output.status.signal(), Some(libc::SIGTERM));
    // Rust ignores SIGPIPE in its own programs; the command must not inherit that.
    let output = run(&fake, &[], &["sh", "-c", "kill -PIPE $$"]);
    assert_eq!(output.status.signal(), Some(libc::SIGPIPE));
}

#[test]
fn without_a_label_the_command_is_never_run() {
    if !is_root() {
        return;
    }
    for verified in [
        || {
            refuse(
                StatusCode::CONFLICT,
                RefusalCode::NotLabelled,
                "process 1 carries no label",
            )
        },
        || ok(&Verified { agent: 8, pid: 1 }),
        || (StatusCode::OK, b"no JSON".to_vec()),
        || (StatusCode::INTERNAL_SERVER_ERROR, Vec::new()),
    ] {
        let fake = daemon(verified);
        let marker = fake.dir.path().join("marker");
        let output = run(&fake, &[], &["touch", &marker.to_string_lossy()]);
        let stderr = fails(&output, 125);
        assert!(stderr.contains("the command was not run"), "{stderr}");
        assert!(!marker.exists());
    }
}

#[test]
fn an_agent_that_cannot_be_entered_is_ended_again() {
    if !is_root() {
        return;
    }
    let fake = labelling();
    let cgroup = fake.dir.path().join("cgroup");
    fs::remove_dir_all(&cgroup).expect("it was there");
    let stderr = fails(&run(&fake, &[], &["true"]), 125);
    assert!(stderr.contains("cgroup.procs"), "{stderr}");
    assert_eq!(
        fake.requests().last().map(String::as_str),
        Some(format!("DELETE /v1/tags?cgroup={}", cgroup.display()).as_str())
    );
}

#[test]
fn an_unknown_profile_is_refused_with_the_known_ones() {
    if !is_root() {
        return;
    }
    let fake = Fake::new(|request, _| match request {
        "GET /v1/policy" => ok(&Policy {
            install: 1,
            profiles: ["baseline", "coding"].map(profile).to_vec(),
            warnings: Vec::new(),
            refused: None,
        }),
        _ => refuse(
            StatusCode::NOT_FOUND,
            RefusalCode::UnknownProfile,
            "no profile is named \"codin\"",
        ),
    });
    let stderr = fails(&run(&fake, &[], &["true"]), 125);
    assert!(stderr.contains("no profile is named \"codin\""), "{stderr}");
    assert!(stderr.contains("baseline, coding"), "{stderr}");
}

fn profile(name: &str) -> Profile {
    Profile {
        name: name.to_owned(),
        description: None,
        mode: "enforce".to_owned(),
        source: Path::new("/etc/agentguard/policies").join(name),
        digest: String::new(),
        rules: 1,
        install: 1,
        agents: 0,
    }
}

#[test]
fn what_cannot_be_run_has_the_statuses_of_other_launchers() {
    if !is_root() {
        return;
    }
    let fake = labelling();
    let stderr = fails(&run(&fake, &[], &["/no/such/program"]), 127);
    assert!(stderr.contains("/no/such/program"), "{stderr}");
    fails(&run(&fake, &[], &["no-such-program"]), 127);
    let file = fake.dir.path().join("cgroup/cgroup.procs");
    fails(&run(&fake, &[], &[&file.to_string_lossy()]), 126);
}

#[test]
fn nothing_but_the_standard_streams_is_inherited() {
    if !is_root() {
        return;
    }
    let fake = labelling();
    // Descriptor 9 comes from outside; the shell in the agent looks for what is left.
    let script = r#"exec 9</dev/null; exec "$0" run --profile coding -- sh -c '
        for fd in 0 1 2 3 4 5 6 7 8 9; do test -e /proc/$$/fd/$fd && echo $fd; done; true'"#;
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_agentguard")])
        .env("AGENTGUARD_SOCKET", fake.socket())
        .env_remove("SUDO_UID")
        .output()
        .expect("it starts");
    assert_eq!(
        text(&output.stdout),
        "0\n1\n2\n",
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn the_user_is_become_for_good() {
    if !is_root() {
        return;
    }
    const SHOW: &str = "id -un; id -gn; echo $HOME $USER $LOGNAME; umask; \
                        grep 'Max core' /proc/self/limits | tr -s ' ' | cut -d' ' -f5,6; \
                        grep NoNewPrivs /proc/self/status | cut -f2";
    let fake = labelling();
    let nobody = text(
        &Command::new("id")
            .args(["-u", "nobody"])
            .output()
            .expect("id")
            .stdout,
    );
    let entry = fs::read_to_string("/etc/passwd").expect("it can be read");
    let home = entry
        .lines()
        .find(|line| line.starts_with("nobody:"))
        .and_then(|line| line.split(':').nth(5))
        .expect("nobody has a home")
        .to_owned();
    let umask = text(
        &Command::new("sh")
            .args(["-c", "umask"])
            .output()
            .expect("sh")
            .stdout,
    );
    let group = text(
        &Command::new("id")
            .args(["-gn", "nobody"])
            .output()
            .expect("id")
            .stdout,
    );
    let expected = format!("nobody\n{group}{home} nobody nobody\n{umask}1 1\n1\n");

    let asked = run(&fake, &["--user", "nobody"], &["sh", "-c", SHOW]);
    assert_eq!(text(&asked.stdout), expected, "{}", text(&asked.stderr));
    let sudo = agentguard(&fake.socket())
        .env("SUDO_UID", nobody.trim())
        .args(["run", "--profile", "coding", "--", "sh", "-c", SHOW])
        .output()
        .expect("it starts");
    assert_eq!(text(&sudo.stdout), expected, "{}", text(&sudo.stderr));
    let root = agentguard(&fake.socket())
        .env("SUDO_UID", nobody.trim())
        .args([
            "run",
            "--profile",
            "coding",
            "--user",
            "root",
            "--",
            "id",
            "-un",
        ])
        .output()
        .expect("it starts");
    assert_eq!(text(&root.stdout), "root\n", "{}", text(&root.stderr));
}

#[test]
fn an_unknown_user_is_told_before_an_agent_is_made() {
    if !is_root() {
        return;
    }
    let fake = labelling();
    let stderr = fails(&run(&fake, &["--user", "no-such-user"], &["true"]), 125);
    assert!(stderr.contains("no-such-user"), "{stderr}");
    assert_eq!(fake.connections(), 0);
}
