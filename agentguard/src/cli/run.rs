//! `agentguard run`: becomes an agent and then runs its program in the same process, so that exit
//! status, signals and the terminal are the program's own. Nothing supervises it afterwards: the
//! kernel does.
//!
//! The order matters. What reads files, looks up users or needs root's powers comes before the process enters
//! the cgroup, because from there on the profile judges this very process. The connection to the daemon is made
//! before as well (the agent itself may not connect) and is used once more from inside, to have the
//! daemon confirm that the kernel has put the agent's label on this process. Without that confirmation
//! the program is never run.

mod user;

use std::{
    convert::Infallible,
    ffi::OsString,
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    process::Command,
};

use anyhow::{Context as _, anyhow, bail};
use rustix::process::{Resource, Rlimit, setrlimit};

use self::user::Target;
use super::{NotRoot, name_profiles};
use crate::{
    api::{
        client::Client,
        types::{Agent, CreateAgent, Untag},
    },
    config::Config,
    render::safe,
};

/// Status when `agentguard run` itself failed and the program was not started.
pub const FAILED: u8 = 125;
/// Status when the program was found but could not be run, for instance because the profile forbids it.
pub const NOT_EXECUTABLE: u8 = 126;
/// Status when there is no such program.
pub const NOT_FOUND: u8 = 127;

/// What `agentguard run` ends with when it does not end as its program, for the manual page.
pub const STATUSES: [(u8, &str); 3] = [
    (
        FAILED,
        "agentguard run: it failed itself (no daemon, no such profile or user, the label could not \
         be verified); the command was never run",
    ),
    (
        NOT_EXECUTABLE,
        "agentguard run: the command was found but could not be run, or the profile forbids it",
    ),
    (NOT_FOUND, "agentguard run: the command was not found"),
];

/// Arguments of `agentguard run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Profile that the agent is held to, by its name
    #[arg(short, long, value_name = "PROFILE")]
    pub profile: String,

    /// Name of the agent in events and in `agentguard agents` [default: made of profile and session]
    #[arg(short, long, value_name = "NAME")]
    pub name: Option<String>,

    /// User to run the command as, by name or number [default: who called sudo, else unchanged]
    ///
    /// The user's groups are taken, and HOME, USER and LOGNAME set. Without this option the command
    /// runs as the user who called sudo (SUDO_UID). When sudo was not used, or root used it, it stays
    /// root; write `--user root` to stay root under sudo.
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,

    /// Command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// A run that came to nothing.
struct Failure {
    status: u8,
    error: anyhow::Error,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self {
            status: FAILED,
            error,
        }
    }
}

/// Becomes an agent and the program. Returns only when that failed, with the exit status.
pub fn run(args: &RunArgs, config: &Config) -> u8 {
    match start(args, config) {
        Ok(never) => match never {},
        Err(failure) => {
            super::report(&failure.error);
            failure.status
        }
    }
}

fn start(args: &RunArgs, config: &Config) -> Result<Infallible, Failure> {
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(anyhow!("no command to run").into());
    };
    if !rustix::process::geteuid().is_root() {
        return Err(anyhow!(NotRoot("start an agent")).into());
    }
    let target = Target::choose(
        args.user.as_deref(),
        std::env::var_os("SUDO_UID").as_deref(),
    )
    .context("cannot choose the agent's user")?;
    let mut client = Client::connect(&config.socket).context("cannot start an agent")?;
    let agent = client
        .create_agent(&CreateAgent {
            profile: args.profile.clone(),
            name: args.name.clone(),
        })
        .map_err(|error| name_profiles(error, &mut client))
        .context("cannot start an agent")?;
    if let Err(error) = drop_and_enter(&agent, target.as_ref()) {
        // From outside the agent can still be ended; from inside, it ends with its last process.
        return Err(match client.untag(&Untag {
            cgroup: agent.cgroup.clone(),
        }) {
            Ok(_) => error,
            Err(untag) => error.context(format!(
                "agent {} was made and could not be ended again: {untag}",
                safe(&agent.name)
            )),
        }
        .into());
    }
    verify(&mut client, &agent)?;
    close_at_exec()?;

    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(target) = &target {
        command.envs(target.environment());
    }
    // On success this closes the connection with every other descriptor. It also gives SIGPIPE back
    // its default, which Rust's start-up took away.
    let error = command.exec();
    let shown = program.to_string_lossy();
    Err(not_run(&shown, &agent, error))
}

/// Becomes the agent's user and moves this process into the agent's cgroup.
fn drop_and_enter(agent: &Agent, target: Option<&Target>) -> anyhow::Result<()> {
    let procs = agent.cgroup.join("cgroup.procs");
    let failed = || {
        format!(
            "cannot enter the agent's cgroup through {}",
            procs.display()
        )
    };
    // KERNEL: who may write is who opened it (since 5.16; CVE-2021-4197), so the user can be changed first: an
    // agent has no capability for it.
    let mut file = OpenOptions::new()
        .write(true)
        .open(&procs)
        .with_context(failed)?;
    confine(target)?;
    // "0" is the writer itself: right in every pid namespace (Documentation/admin-guide/cgroup-v2.rst).
    file.write_all(b"0").with_context(failed)
}

/// Has the daemon look up this process's label in the kernel.
fn verify(client: &mut Client, agent: &Agent) -> anyhow::Result<()> {
    // The kernel labels a task at its first action that a hook sees, and an open is one. Whether the
    // profile lets it succeed doesn't matter.
    let _ = std::fs::File::open("/proc/self/cgroup");
    let verified = client.verify(agent.id).context(
        "the kernel's label on this process could not be verified; the command was not run",
    )?;
    if verified.agent != agent.id {
        // FAIL-CLOSED: held to another agent's profile is not held to the one that was asked for.
        bail!(
            "this process carries the label of agent number {}, not of {}; the command was not run",
            verified.agent,
            safe(&agent.name)
        );
    }
    Ok(())
}

/// Gives up what the program must not have.
fn confine(target: Option<&Target>) -> anyhow::Result<()> {
    // A hard limit of exactly 1 makes the kernel skip core dumps to a pipe, whose helper would run as
    // root outside the agent (fs/coredump.c).
    let one = Rlimit {
        current: Some(1),
        maximum: Some(1),
    };
    setrlimit(Resource::Core, one).context("cannot limit core dumps")?;
    if let Some(target) = target {
        target.become_for_good()?;
    }
    rustix::thread::set_no_new_privs(true).context("cannot set no_new_privs")
}

/// Marks every descriptor beyond the standard streams, to be closed when the program starts.
fn close_at_exec() -> anyhow::Result<()> {
    // At exec, not now: if there is no exec, the connection must still be whole. Descriptors from
    // outside would be ways around the profile, an io_uring with a kernel thread above all: what that
    // thread does is judged as its creator's, outside.
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC closes nothing; it only sets a flag on descriptors.
    let marked = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3 as libc::c_uint,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if marked != 0 {
        return Err(io::Error::last_os_error())
            .context("cannot close inherited descriptors; the command was not run");
    }
    Ok(())
}

/// What a failed exec comes to.
fn not_run(program: &str, agent: &Agent, error: io::Error) -> Failure {
    let name = safe(program);
    match error.raw_os_error() {
        Some(libc::ENOENT) => Failure {
            status: NOT_FOUND,
            error: anyhow!("cannot run {name}: no such command, or its interpreter is missing"),
        },
        Some(libc::EPERM) => Failure {
            status: NOT_EXECUTABLE,
            error: anyhow!(
                "cannot run {name}: profile {} does not allow it; \
                 `agentguard tail --agent {} --verdict deny` shows the rule",
                safe(&agent.profile),
                safe(&agent.name)
            ),
        },
        _ => Failure {
            status: NOT_EXECUTABLE,
            error: anyhow!("cannot run {name}: {error}"),
        },
    }
}
