//! Virtual machines in which AgentGuard is tried on real kernels: [`run`] boots one, runs a command in it
//! as root and relays what the command prints and how it ends.
//!
//! A guest is software emulation and nothing else, so that it works, and counts the same instructions, on
//! every machine. It has no way out to a network, gets its files through its initramfs, and talks to
//! the host over three virtio ports whose other ends are sockets without a name. Nothing of a run has a
//! name on the host, so nothing can be left behind, and the emulator dies with the thread that started it.
//!
//! Where to look: `archive` finds packages, `kernel` and `modules` and `root` make the cached
//! images from them, `payload` packs what one run adds, `machine` is the emulator's command line, and
//! `relay` carries the output. `tests/init` holds what runs inside.

pub mod archive;
mod cache;
mod cpio;
pub mod kernel;
mod machine;
mod modules;
mod payload;
mod relay;
pub(crate) mod root;
pub mod selftests;

use std::{
    error::Error,
    ffi::{OsStr, OsString},
    fmt,
    io::Write,
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use anyhow::{Result, bail};

pub use self::{kernel::Kernel, machine::Guest, root::Root};

/// A file or directory of the host that a guest gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Where it is on the host.
    pub host: PathBuf,
    /// Where it will be in the guest: an absolute path. What is a directory there already is added to.
    pub guest: PathBuf,
}

impl FromStr for Copy {
    type Err = anyhow::Error;

    /// Reads `HOST:GUEST`.
    fn from_str(text: &str) -> Result<Self> {
        match text.rsplit_once(':') {
            Some((host, guest)) if !host.is_empty() && guest.starts_with('/') => Ok(Self {
                host: host.into(),
                guest: guest.into(),
            }),
            _ => bail!("`{text}` is not HOST:GUEST with an absolute path in the guest"),
        }
    }
}

/// One run of a guest.
#[derive(Debug, Clone)]
pub struct Options {
    /// The kernel to boot.
    pub kernel: Kernel,
    /// What it runs on.
    pub root: Root,
    /// The command and its arguments, looked up on the guest's `PATH`.
    pub command: Vec<OsString>,
    /// The `agentguard` to bring along; the release build when there is none.
    pub binary: Option<PathBuf>,
    /// More files to bring along.
    pub copies: Vec<Copy>,
    /// More words for the kernel's command line. They come last, so `lsm=landlock` takes the place of the
    /// runner's own.
    pub append: Option<String>,
    /// From the start of the emulator to the end of the command.
    pub timeout: Duration,
    /// Memory of the guest.
    pub memory_mib: u32,
    /// Processors of the guest.
    pub cpus: u32,
    /// Let the guest's clock count instructions (1 ns each) on one processor: times measured inside become
    /// the same in every run.
    pub count_instructions: bool,
    /// Where to leave all that the kernel and init said.
    pub console_log: Option<PathBuf>,
}

impl Options {
    /// A run of `command` under `kernel`, with everything else as `cargo xtask vm` has it.
    pub fn new<I, S>(kernel: Kernel, command: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        Self {
            kernel,
            root: Root::default(),
            command: command.into_iter().map(Into::into).collect(),
            binary: None,
            copies: Vec::new(),
            append: None,
            timeout: Duration::from_secs(300),
            memory_mib: 1024,
            cpus: 2,
            count_instructions: false,
            console_log: None,
        }
    }

    fn check(&self) -> Result<()> {
        if self.command.is_empty() {
            bail!("no command was given for the guest");
        }
        // No argument of a program can hold one either, so this is a caller's mistake.
        if self.command.iter().any(|word| has_nul(word)) {
            bail!("an argument of the guest's command holds a NUL byte");
        }
        Ok(())
    }
}

/// How a run ended, when the runner itself did its part.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The command's exit status; 128 + n when signal n ended it, as a shell has it.
    pub status: u8,
    /// The guest's `uname -r`.
    pub release: String,
    /// From the start of the emulator to that of the command.
    pub boot: Duration,
    /// From the start of the emulator to its end.
    pub total: Duration,
    /// What the kernel and init said; the last 256 KiB of it.
    pub console: Vec<u8>,
}

impl Outcome {
    /// Whether the command ended with status 0.
    pub fn success(&self) -> bool {
        self.status == 0
    }
}

/// Boots a guest, runs the command and relays its output, byte for byte, to `stdout` and `stderr`.
/// Images are made on the way when they are not cached; `agentguard` must be built and the kernels
/// downloaded ([`crate::setup::ensure`]).
///
/// # Errors
/// When the runner can't do its part: a file or image is missing, the emulator fails, the guest ends or
/// the timeout passes before the command has. The message ends with the last lines of the console.
pub fn run(options: &Options, stdout: &mut dyn Write, stderr: &mut dyn Write) -> Result<Outcome> {
    let mut boots = 1;
    loop {
        match Guest::boot(options)?.relay(stdout, stderr) {
            // Seen once in some hundred boots on a busy machine: the kernel patches its own code while it
            // boots, and under emulation another processor runs into it half patched (int3 in
            // `sched_clock_idle_wakeup_event`). Nothing of the command has happened yet.
            Err(error) if boots < BOOTS && error.is::<NeverStarted>() => {
                boots += 1;
                eprintln!("guest: it ended before its command started; boot {boots} of {BOOTS}");
            }
            result => return result,
        }
    }
}

/// How often a guest is booted that ends before its command has started.
const BOOTS: u32 = 3;

/// The guest ended before its command started.
#[derive(Debug)]
struct NeverStarted(String);

impl fmt::Display for NeverStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for NeverStarted {}

/// The guest's kernel ran into its own code half patched, as in [`run`], when programs were attached: nothing that a
/// machine's own processors do.
#[derive(Debug)]
pub struct HalfPatched(String);

impl fmt::Display for HalfPatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for HalfPatched {}

fn has_nul(word: &OsStr) -> bool {
    word.as_bytes().contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_two_paths() {
        let copy: Copy = "a:b/c:/d/e".parse().expect("a pair");
        assert_eq!(copy.host, PathBuf::from("a:b/c"));
        assert_eq!(copy.guest, PathBuf::from("/d/e"));
        for wrong in ["a", "a:b", ":/b", "/a"] {
            assert!(wrong.parse::<Copy>().is_err(), "{wrong}");
        }
    }
}
