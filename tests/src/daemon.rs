//! The real daemon as a child of a test: started, waited for until it says that it is ready, stopped or
//! killed. Nothing here looks into it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::ErrorKind,
    os::{
        fd::AsRawFd as _,
        unix::{net::UnixDatagram, process::CommandExt as _},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Where daemons say what they say; added to by each.
pub const OUTPUT: &str = "/run/test-daemon.log";
/// Longest that a daemon takes to be ready, or to refuse.
const PATIENCE: Duration = Duration::from_secs(400);

/// A daemon that is ready.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
}

/// How a start went.
#[derive(Debug)]
pub enum Started {
    Ready(Daemon),
    /// It ended instead: with this status, having said this.
    Refused(ExitStatus, String),
}

impl Daemon {
    /// Starts one with the configuration that is there.
    ///
    /// # Errors
    /// When it doesn't get ready.
    pub fn start() -> Result<Self> {
        Self::start_with::<&str>(&[])
    }

    /// Starts one with more arguments.
    ///
    /// # Errors
    /// When it doesn't get ready.
    pub fn start_with<A: AsRef<OsStr>>(arguments: &[A]) -> Result<Self> {
        match Self::try_start(arguments)? {
            Started::Ready(daemon) => Ok(daemon),
            Started::Refused(status, said) => bail!("the daemon ended ({status}):\n{said}"),
        }
    }

    /// Starts one with more arguments and waits until it is ready or has ended.
    ///
    /// # Errors
    /// When it can't be started or does neither.
    pub fn try_start<A: AsRef<OsStr>>(arguments: &[A]) -> Result<Started> {
        let mut command = Command::new("agentguard");
        command.arg("daemon").args(arguments);
        Self::try_start_command(&mut command)
    }

    /// The same, with the command as it is, but always in the machine's network namespace.
    ///
    /// # Errors
    /// As above.
    pub fn try_start_command(command: &mut Command) -> Result<Started> {
        let path = format!("/run/test-notify-{}", std::process::id());
        let notices = notice_socket(&path)?;
        let output = File::options().create(true).append(true).open(OUTPUT)?;
        let begin = output.metadata()?.len();
        in_network_of_init(command)?;
        let mut child = command
            .env("NOTIFY_SOCKET", &path)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let deadline = Instant::now() + PATIENCE;
        let ready = wait_for_ready(&notices, &mut child, deadline);
        let _ = fs::remove_file(&path);
        let said = || anyhow::Ok(fs::read_to_string(OUTPUT)?[begin as usize..].to_owned());
        match ready? {
            Readiness::Ready => Ok(Started::Ready(Self { child })),
            Readiness::Ended => Ok(Started::Refused(child.wait()?, said()?)),
            Readiness::Neither => {
                let doing = doing(child.id());
                child.kill()?;
                child.wait()?;
                let seconds = PATIENCE.as_secs();
                bail!(
                    "the daemon is not ready after {seconds} s:\n{}\n{doing}",
                    said()?
                )
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When it can't be asked.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Tells it to stop and waits until it has.
    ///
    /// # Errors
    /// When it doesn't stop as a daemon does.
    pub fn stop(mut self) -> Result<()> {
        signal(self.pid(), libc::SIGTERM)?;
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the daemon was told to stop and ended with {status}");
        }
        Ok(())
    }

    /// Kills it as the kernel would, and waits until it is gone.
    ///
    /// # Errors
    /// When it can't be killed.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal.
///
/// # Errors
/// When there is no such process.
pub fn signal(pid: u32, signal: i32) -> Result<()> {
    // SAFETY: no memory is involved.
    if unsafe { libc::kill(pid as i32, signal) } != 0 {
        return Err(std::io::Error::last_os_error())
            .with_context(|| format!("cannot send signal {signal} to {pid}"));
    }
    Ok(())
}

/// Takes everything of AgentGuard out of the kernel.
///
/// # Errors
/// When that can't be done.
pub fn unload() -> Result<()> {
    let pins = Path::new("/sys/fs/bpf/agentguard");
    if pins.exists() {
        let output = Command::new("agentguard")
            .args(["unload", "--force"])
            .output()?;
        if !output.status.success() {
            bail!(
                "agentguard unload: {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    Ok(())
}

/// Takes the log and the state of earlier daemons off the disk.
///
/// # Errors
/// When that can't be done.
pub fn forget() -> Result<()> {
    for directory in ["/run/agentguard", "/var/log/agentguard"] {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {directory}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A service of the machine is in its network, wherever the case that starts it is.
fn in_network_of_init(command: &mut Command) -> Result<()> {
    let network = File::open("/proc/1/ns/net")?;
    let enter = move || {
        // SAFETY: the descriptor lives as long as this function, and setns touches no memory.
        match unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec there is one system call, which is async-signal-safe.
    unsafe { command.pre_exec(enter) };
    Ok(())
}

fn notice_socket(path: &str) -> Result<UnixDatagram> {
    let _ = fs::remove_file(path);
    let notices = UnixDatagram::bind(path).with_context(|| format!("cannot bind {path}"))?;
    notices.set_read_timeout(Some(Duration::from_millis(20)))?;
    Ok(notices)
}

enum Readiness {
    Ready,
    Ended,
    Neither,
}

fn wait_for_ready(
    notices: &UnixDatagram,
    child: &mut Child,
    deadline: Instant,
) -> Result<Readiness> {
    let mut buffer = [0; 4096];
    loop {
        match notices.recv(&mut buffer) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&buffer[..length]);
                if text.lines().any(|line| line == "READY=1") {
                    return Ok(Readiness::Ready);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if child.try_wait()?.is_some() {
                    return Ok(Readiness::Ended);
                }
            }
            Err(error) => return Err(error).context("cannot hear the daemon"),
        }
        if Instant::now() > deadline {
            return Ok(Readiness::Neither);
        }
    }
}

/// What the threads of a process are in the middle of.
pub fn doing(pid: u32) -> String {
    let mut text = String::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        for file in ["comm", "syscall", "stack"] {
            text += &fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        }
    }
    text
}

/// Waits until `done`, looking often.
///
/// # Errors
/// When it isn't in time, or can't be looked at.
pub fn wait_until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done()? {
        if Instant::now() > deadline {
            bail!("waited in vain: {what}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
