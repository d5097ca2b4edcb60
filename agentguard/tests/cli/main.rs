//! The `agentguard` binary as a user meets it, without a kernel that enforces: what it answers to bad
//! input, and how it deals with a daemon, for which [`fake`] stands in.

mod approvals;
mod fake;
mod input;
mod run;
mod tail;

use std::{
    path::Path,
    process::{Command, Output},
};

/// The binary, talking to the daemon at `socket`, with none of the test's own settings.
fn agentguard(socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentguard"));
    command
        .env("AGENTGUARD_SOCKET", socket)
        .env("TZ", "UTC")
        .env_remove("SUDO_UID")
        .env_remove("CLICOLOR_FORCE");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts the exit code and gives back what was said on standard error.
#[track_caller]
fn fails(output: &Output, code: i32) -> String {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    stderr
}
