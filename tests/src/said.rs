//! What a command said and how it ended, and what cases ask of that. Commands are run to their end with
//! nothing on their standard input.

use std::{
    os::unix::process::ExitStatusExt as _,
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Said {
    what: String,
    pub status: ExitStatus,
    /// Its standard output. What is not UTF-8 is replaced.
    pub out: String,
    /// Its standard error, likewise.
    pub err: String,
}

impl Said {
    /// Runs `agentguard` with these arguments.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn by(arguments: &[&str]) -> Result<Self> {
        Self::by_command(Command::new("agentguard").args(arguments))
    }

    /// Runs `agentguard` as an ordinary user.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn by_user(arguments: &[&str]) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new("agentguard");
        Self::by_command(command.args(arguments).uid(1000).gid(1000))
    }

    /// Runs a script with the shell.
    ///
    /// # Errors
    /// When the shell can't be started.
    pub fn by_shell(script: &str) -> Result<Self> {
        Self::by_command(Command::new("sh").args(["-c", script]))
    }

    /// Runs a command.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn by_command(command: &mut Command) -> Result<Self> {
        let output = command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {command:?}"))?;
        Ok(Self {
            what: format!("{command:?}"),
            status: output.status,
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// It ended of itself, with this status.
    ///
    /// # Errors
    /// When it didn't.
    pub fn ends(self, code: i32) -> Result<Self> {
        ensure!(
            self.status.code() == Some(code),
            "must end with {code}: {}",
            self.all()
        );
        Ok(self)
    }

    /// This signal ended it.
    ///
    /// # Errors
    /// When it didn't.
    pub fn ends_by(self, signal: i32) -> Result<Self> {
        ensure!(
            self.status.signal() == Some(signal),
            "must be ended by signal {signal}: {}",
            self.all()
        );
        Ok(self)
    }

    /// Its standard output has all of these parts.
    ///
    /// # Errors
    /// When it lacks one.
    pub fn prints(self, parts: &[&str]) -> Result<Self> {
        for part in parts {
            ensure!(
                self.out.contains(part),
                "must print {part:?}: {}",
                self.all()
            );
        }
        Ok(self)
    }

    /// Its standard error has all of these parts.
    ///
    /// # Errors
    /// When it lacks one.
    pub fn complains(self, parts: &[&str]) -> Result<Self> {
        for part in parts {
            ensure!(
                self.err.contains(part),
                "must say {part:?} on standard error: {}",
                self.all()
            );
        }
        Ok(self)
    }

    /// Its standard output, which is one JSON value.
    ///
    /// # Errors
    /// When it isn't.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.out).with_context(|| format!("not JSON: {}", self.all()))
    }

    /// Its standard output, of which each line is a JSON value.
    ///
    /// # Errors
    /// When one isn't.
    pub fn json_lines(&self) -> Result<Vec<Value>> {
        let lines = self.out.lines().map(serde_json::from_str);
        lines
            .collect::<Result<_, _>>()
            .with_context(|| format!("not JSON lines: {}", self.all()))
    }

    /// Everything, for messages.
    pub fn all(&self) -> String {
        format!(
            "{}: {}\non standard output:\n{}\non standard error:\n{}",
            self.what, self.status, self.out, self.err
        )
    }
}
