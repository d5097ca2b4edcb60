//! What a case works with: its folder, its profile, its part of the log, and the two things that almost
//! every case says: this is denied, and its twin is allowed.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    log::{self, Log, Wanted},
    remote::{Act, Outcome, PROGRAM, Remote},
    scene::Case,
};

/// Folder of the policies.
pub const POLICIES: &str = "/etc/agentguard/policies";
/// Folder of the cases' folders.
const FOLDERS: &str = "/srv";

/// The guests' ordinary user.
pub const ORDINARY_USER: u32 = 1000;

/// Where cgroup v2 is mounted.
pub const CGROUPS: &str = "/sys/fs/cgroup";

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

    /// Leaves nothing in the log, and nothing of what an earlier daemon knew. Its programs may stay in the kernel, so
    /// that the next one needn't load them: that takes an emulated machine most of a minute.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn fresh(&mut self) -> Result<()> {
        crate::daemon::forget()?;
        self.log = Log::from_start(Path::new(crate::log::PATH));
        Ok(())
    }

    /// Leaves nothing of AgentGuard in the kernel either.
    ///
    /// # Errors
    /// When it can't be unloaded.
    pub fn unloaded(&mut self) -> Result<()> {
        crate::daemon::unload()?;
        self.fresh()
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

    /// A new agent under another profile.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn agent_under(&mut self, profile: &str) -> Result<Remote> {
        let name = self.name();
        Remote::agent(profile, &name, None)
    }

    /// The name of the case's second profile.
    pub fn second_profile(&self) -> String {
        format!("{}.2", self.profile)
    }

    /// A new cgroup that is not tagged.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn cgroup(&mut self) -> Result<Cgroup> {
        Cgroup::new(&format!("test-{}", self.name()))
    }

    /// Tags a cgroup with the case's profile and has what `remote` does be that agent's from now on.
    ///
    /// # Errors
    /// When it can't be tagged.
    pub fn tag(&mut self, cgroup: &Cgroup, remote: &mut Remote) -> Result<()> {
        let name = self.name();
        cgroup.tag(&self.profile, &name)?;
        remote.agent = Some(name);
        Ok(())
    }

    /// A remote that did `before` as nobody's agent and is an agent now.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn tagged_after(&mut self, before: &[Act]) -> Result<(Remote, Cgroup)> {
        let mut remote = Remote::outside()?;
        for act in before {
            self.allowed(&mut remote, act)?;
        }
        let cgroup = self.cgroup()?;
        self.tag(&cgroup, &mut remote)?;
        cgroup.add(remote.pid())?;
        Ok((remote, cgroup))
    }

    /// An agent that is an ordinary user, in a tagged cgroup of its own, which lies below one that isn't.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn delegated(&mut self) -> Result<(Remote, Cgroup, Cgroup)> {
        let above = self.cgroup()?;
        let cgroup = Cgroup {
            path: above.path.join("agent"),
        };
        std::fs::create_dir(&cgroup.path)?;
        cgroup.give_away()?;
        let mut command = Command::new(PROGRAM);
        command.uid(ORDINARY_USER).gid(ORDINARY_USER);
        let mut remote = Remote::start(&mut command, None)?;
        self.tag(&cgroup, &mut remote)?;
        cgroup.add(remote.pid())?;
        Ok((remote, cgroup, above))
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

/// A cgroup of a case; removed with it, when it is empty by then.
#[derive(Debug)]
pub struct Cgroup {
    pub path: PathBuf,
}

impl Cgroup {
    fn new(name: &str) -> Result<Self> {
        let path = Path::new(CGROUPS).join(name);
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Makes it the agent `name`.
    ///
    /// # Errors
    /// When the daemon refuses.
    pub fn tag(&self, profile: &str, name: &str) -> Result<()> {
        let path = self.path.display().to_string();
        run_well("agentguard", &["tag", &path, profile, "--name", name]).map(drop)
    }

    /// Makes it the ordinary user's, as far as a service manager hands a cgroup over
    /// (Documentation/admin-guide/cgroup-v2.rst, "Delegation").
    ///
    /// # Errors
    /// When it can't be given away.
    pub fn give_away(&self) -> Result<()> {
        let user = Some(ORDINARY_USER);
        for file in [
            "",
            "cgroup.procs",
            "cgroup.threads",
            "cgroup.subtree_control",
        ] {
            std::os::unix::fs::chown(self.path.join(file), user, user)?;
        }
        Ok(())
    }

    /// Moves a process into it.
    ///
    /// # Errors
    /// When that is refused.
    pub fn add(&self, pid: u32) -> Result<()> {
        move_to(&self.path, pid)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// Moves a process into the cgroup at `path`.
///
/// # Errors
/// When that is refused.
pub fn move_to(path: &Path, pid: u32) -> Result<()> {
    std::fs::write(path.join("cgroup.procs"), pid.to_string())
        .with_context(|| format!("cannot move {pid} into {}", path.display()))
}

/// What the log must say of this remote's agent.
pub fn of(remote: &Remote, wanted: Wanted) -> Wanted {
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
