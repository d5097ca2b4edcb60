//! A process that makes the system calls it is told, and says what came of them. What it is told is plain
//! data, so that a case can be an attack in a few lines and still be made by a real process with a real
//! label. It judges nothing: what should come of a call is the cases' business.

pub mod calls;
mod child;
mod kept_back;
mod narrow;
mod perform;
mod race;

use std::{
    fmt, fs,
    io::{BufRead as _, BufReader, Write as _},
    os::fd::AsRawFd as _,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

pub use self::perform::send_descriptor;
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

/// Where the program of all remotes (and of the cases) is in a guest.
pub const PROGRAM: &str = "/usr/local/bin/agentguard-guest";

/// Something for a remote to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Act {
    /// One system call.
    Call { number: i64, arguments: Vec<Arg> },
    /// One 32-bit system call (`int 0x80`), with the number that it has there, at most five arguments, and addresses of
    /// 4 bytes. Where the kernel has none, the process is killed by SIGSEGV.
    Call32 { number: i64, arguments: Vec<Arg> },
    /// One after the other until one fails. The outcome is that of the last one made.
    Sequence(Vec<Act>),
    /// The same many times, until one fails. The outcome is that of the last one made.
    Repeat { times: u32, act: Box<Act> },
    /// Done when the act fails with EPERM; otherwise failed with ENOTRECOVERABLE.
    Denied(Box<Act>),
    /// In a new thread, which then ends.
    Thread(Box<Act>),
    /// In a new process, which then ends.
    Child { birth: Birth, act: Box<Act> },
    /// In a new process that runs a program. Done with its exit status, or failed as the exec did.
    Exec {
        birth: Birth,
        program: Program,
        arguments: Vec<Vec<u8>>,
    },
    /// Runs a program with one argument so many times, each in a child that shares this process's memory, while
    /// a thread changes a byte of that argument: to `other`, and back. Done with how often the program ran and
    /// ended well.
    SwappingExec {
        program: Vec<u8>,
        argument: Vec<u8>,
        other: Vec<u8>,
        times: u32,
    },
    /// Runs a program with one argument in a child that shares this process's memory, while that argument is kept
    /// back: `pages` are two pages that `uffd` watches. The kernel copies the argument from the second and then waits
    /// for the name in the first. Before it gets that, the second is taken away, and nobody ever brings it again.
    KeptBackExec {
        uffd: i32,
        pages: i64,
        program: Vec<u8>,
        argument: Vec<u8>,
    },
    /// Connects a TCP socket that listened at `local` before to `to` so many times, while another thread connects the same
    /// socket to `other`. Done with how often it got through.
    RacingConnects {
        local: Vec<u8>,
        to: Vec<u8>,
        other: Vec<u8>,
        times: u32,
    },
    /// Two Unix sockets that are connected. Done with the first's number; the second's is the next.
    SocketPair { kind: i32 },
    /// Sends the descriptor `fd` over the Unix socket `socket`.
    SendDescriptor { socket: i32, fd: i32 },
    /// Receives a descriptor over the Unix socket `socket`. Done with its number.
    ReceiveDescriptor { socket: i32 },
}

/// An argument of a system call.
#[derive(Clone, Serialize, Deserialize)]
pub enum Arg {
    Int(i64),
    /// The address of these bytes, which the call may overwrite.
    Bytes(Vec<u8>),
    /// The address of these bytes, in which addresses of other arguments are put at some offsets.
    Struct {
        bytes: Vec<u8>,
        pointers: Vec<(usize, Arg)>,
    },
    /// What the step of the innermost sequence with this number was done with.
    Step(usize),
}

/// Bytes as messages show them.
const SHOWN_BYTES: usize = 120;

impl fmt::Debug for Arg {
    /// As a call is written: `-100`, `"/etc/x\0"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => write!(f, "{number}"),
            Self::Step(step) => write!(f, "step {step}"),
            Self::Bytes(bytes) => {
                let end = bytes.len().min(SHOWN_BYTES);
                let dots = if end < bytes.len() { "..." } else { "" };
                write!(f, "\"{}{dots}\"", bytes[..end].escape_ascii())
            }
            Self::Struct { bytes, pointers } => {
                write!(f, "\"{}\"{pointers:?}", bytes.escape_ascii())
            }
        }
    }
}

/// How a process is born.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Birth {
    Fork,
    /// Shares its parent's memory, which waits for it.
    Vfork,
    Clone3,
    /// `CLONE_INTO_CGROUP` with this descriptor of a cgroup's directory.
    IntoCgroup(i32),
    /// `posix_spawn` of the C library. Only for [`Act::Exec`].
    Spawn,
}

/// What an exec is given.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Program {
    Path(Vec<u8>),
    /// `execveat` with `AT_EMPTY_PATH`.
    Descriptor(i32),
}

/// What came of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// With the call's own result.
    Done(i64),
    /// With this errno.
    Failed(i32),
    /// A signal ended the process that did it.
    Killed(i32),
}

/// A remote that waits to be told.
#[derive(Debug)]
pub struct Remote {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// Name of the agent it is of, if any.
    pub agent: Option<String>,
}

impl Remote {
    /// One that is nobody's agent, unless it is started by one.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn outside() -> Result<Self> {
        Self::start(&mut Command::new(PROGRAM), None)
    }

    /// An agent, made by the real command. `user` is a name or a number.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn agent(profile: &str, name: &str, user: Option<&str>) -> Result<Self> {
        let mut run = Command::new("agentguard");
        run.args(["run", "--profile", profile, "--name", name]);
        if let Some(user) = user {
            run.args(["--user", user]);
        }
        run.args(["--", PROGRAM]);
        Self::start(&mut run, Some(name))
    }

    /// Starts `command`, which ends in [`PROGRAM`], and waits until it is there.
    ///
    /// # Errors
    /// When it can't be started or ends before it is there.
    pub fn start(command: &mut Command, agent: Option<&str>) -> Result<Self> {
        let mut child = command
            .arg("remote")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("no standard output")?;
        let mut remote = Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
            agent: agent.map(str::to_owned),
        };
        remote.hear().with_context(|| format!("from {command:?}"))?;
        Ok(remote)
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The port, or what ping has instead of one, of a socket of the remote, as `/proc/net/TABLE` has it.
    ///
    /// # Errors
    /// When it isn't in that table.
    pub fn port_of(&self, fd: i64, table: &str) -> Result<u16> {
        let pid = self.pid();
        let link = fs::read_link(format!("/proc/{pid}/fd/{fd}"))?;
        let link = link.to_string_lossy().into_owned();
        let inode = link
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'))
            .with_context(|| format!("{link} is no socket"))?;
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}"))?;
        // Local address and inode come second and tenth.
        for line in text.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields.get(9) == Some(&inode) {
                let (_, port) = fields[1].rsplit_once(':').context("no port")?;
                return Ok(u16::from_str_radix(port, 16)?);
            }
        }
        bail!("{link} is not in {table}:\n{text}")
    }

    /// Has it do something.
    ///
    /// # Errors
    /// When it can't be told, or doesn't live to tell.
    pub fn act(&mut self, act: &Act) -> Result<Outcome> {
        self.tell(act)?;
        self.hear().with_context(|| format!("after {act:?}"))
    }

    /// Tells it to do something, without waiting for the outcome.
    ///
    /// # Errors
    /// When it can't be told.
    pub fn tell(&mut self, act: &Act) -> Result<()> {
        let mut line = serde_json::to_vec(act)?;
        line.push(b'\n');
        self.stdin
            .as_mut()
            .context("the remote was told to end")?
            .write_all(&line)
            .context("cannot tell the remote")
    }

    /// Waits for the outcome of what it was told.
    ///
    /// # Errors
    /// When it ends before.
    pub fn hear(&mut self) -> Result<Outcome> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        if line.is_empty() {
            let status = self.child.wait()?;
            bail!("the remote ended ({status})");
        }
        serde_json::from_str(&line).with_context(|| format!("not an outcome: {line}"))
    }

    /// Whether it has said what came of what it was told.
    ///
    /// # Errors
    /// When it can't be asked.
    pub fn has_answered(&self) -> Result<bool> {
        let mut poll = libc::pollfd {
            fd: self.stdout.get_ref().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one such struct, which outlives the call.
        match unsafe { libc::poll(&raw mut poll, 1, 5) } {
            -1 => Err(std::io::Error::last_os_error()).context("cannot ask the remote"),
            count => Ok(count > 0 || !self.stdout.buffer().is_empty()),
        }
    }

    /// Tells it to end, and waits until it has.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub fn end(mut self) -> Result<std::process::ExitStatus> {
        drop(self.stdin.take());
        self.child.wait().context("cannot wait for the remote")
    }

    /// Waits until it has ended of itself, or because it was killed.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub fn wait(&mut self) -> Result<std::process::ExitStatus> {
        self.child.wait().context("cannot wait for the remote")
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // Its end of input would end it too, unless it hangs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the program does when it is a remote: acts until the end of its input.
///
/// # Errors
/// When it is told what can't be understood, or can't tell.
pub fn serve() -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    let mut answer = |outcome: Outcome| -> Result<()> {
        let mut line = serde_json::to_vec(&outcome)?;
        line.push(b'\n');
        stdout.write_all(&line)?;
        Ok(stdout.flush()?)
    };
    answer(Outcome::Done(0))?;
    for line in std::io::stdin().lock().lines() {
        let act: Act = serde_json::from_str(&line?)?;
        answer(perform::perform(&act, &[]))?;
    }
    Ok(())
}
