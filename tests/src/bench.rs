//! What a case works with: its folder, its profile, its part of the log, and the two things that almost
//! every case says: this is denied, and its twin is allowed.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    log::{self, Log, Wanted},
    remote::{Act, Outcome, Remote},
    scene::Case,
};

/// Folder of the policies.
pub const POLICIES: &str = "/etc/agentguard/policies";
/// Folder of the cases' folders.
const FOLDERS: &str = "/srv";

/// What a case works with.
#[derive(Debug)]
pub struct Bench {
    /// The case's own folder.
    pub dir: PathBuf,
    /// The case's own profile.
    pub profile: String,
    pub log: Log,
    agents: u32,
}

/// The folder of a case.
pub fn folder(case: &Case) -> PathBuf {
    Path::new(FOLDERS).join(case.slug())
}

impl Bench {
    /// # Errors
    /// When the log can't be read.
    pub fn new(case: &Case) -> Result<Self> {
        Ok(Self {
            dir: folder(case),
            profile: case.slug(),
            log: Log::from_now(Path::new(log::PATH))?,
            agents: 0,
        })
    }

    /// A path in the case's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A new agent under the case's profile, as root.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn agent(&mut self) -> Result<Remote> {
        let name = self.name();
        Remote::agent(&self.profile, &name, None)
    }

    /// The same as an ordinary user.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn user_agent(&mut self) -> Result<Remote> {
        let name = self.name();
        Remote::agent(&self.profile, &name, Some("1000"))
    }

    /// A name that no agent has.
    pub fn name(&mut self) -> String {
        self.agents += 1;
        format!("{}.{}", self.profile, self.agents)
    }

    /// The act succeeds. Returns what its call returned.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn allowed(&self, remote: &mut Remote, act: &Act) -> Result<i64> {
        match remote.act(act)? {
            Outcome::Done(result) => Ok(result),
            other => bail!("must be allowed, but {}: {act:?}", shown(other)),
        }
    }

    /// The act succeeds, and the log says what was allowed.
    ///
    /// # Errors
    /// When either isn't so.
    pub fn allowed_and_logged(
        &mut self,
        remote: &mut Remote,
        act: &Act,
        wanted: Wanted,
    ) -> Result<i64> {
        self.log.skip()?;
        let result = self.allowed(remote, act)?;
        self.log.wait(&of(remote, wanted))?;
        Ok(result)
    }

    /// The act fails with EPERM, and the log says why. Returns the event.
    ///
    /// # Errors
    /// When either isn't so.
    pub fn denied(&mut self, remote: &mut Remote, act: &Act, wanted: Wanted) -> Result<Value> {
        self.log.skip()?;
        let outcome = remote.act(act)?;
        ensure!(
            outcome == Outcome::Failed(libc::EPERM),
            "must be denied, but {}: {act:?}",
            shown(outcome)
        );
        self.log
            .wait(&of(remote, wanted))
            .with_context(|| format!("denied, as it must be: {act:?}"))
    }

    /// The act fails with this errno, which is not AgentGuard's.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn fails(&self, remote: &mut Remote, act: &Act, errno: i32) -> Result<()> {
        let outcome = remote.act(act)?;
        ensure!(
            outcome == Outcome::Failed(errno),
            "must fail with {}, but {}: {act:?}",
            errno_name(errno),
            shown(outcome)
        );
        Ok(())
    }
}

fn of(remote: &Remote, wanted: Wanted) -> Wanted {
    match &remote.agent {
        Some(agent) => wanted.agent(agent),
        None => wanted,
    }
}

/// The outcome in words.
pub fn shown(outcome: Outcome) -> String {
    match outcome {
        Outcome::Done(result) => format!("it was done ({result})"),
        Outcome::Failed(errno) => format!("it failed with {}", errno_name(errno)),
        Outcome::Killed(signal) => format!("its process was killed by signal {signal}"),
    }
}

fn errno_name(errno: i32) -> String {
    format!(
        "errno {errno} ({})",
        std::io::Error::from_raw_os_error(errno)
    )
}

/// Runs a program to its end.
///
/// # Errors
/// When it can't be started.
pub fn run(program: &str, arguments: &[&str]) -> Result<Output> {
    Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}"))
}

/// Runs a program that must succeed, and returns what it printed.
///
/// # Errors
/// When it fails.
pub fn run_well(program: &str, arguments: &[&str]) -> Result<String> {
    let output = run(program, arguments)?;
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What `agentguard status --json` says.
///
/// # Errors
/// When it can't be asked, or enforcement has a problem.
pub fn status() -> Result<Value> {
    let text = run_well("agentguard", &["status", "--json"])?;
    serde_json::from_str(&text).context("agentguard status --json")
}
