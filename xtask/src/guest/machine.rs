//! The emulator: its command line, its file descriptors, and that it is gone when its guest is dropped.

use std::{
    fs::File,
    io::Write,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow};
use command_fds::{CommandFdExt as _, FdMapping};

use super::{
    HalfPatched, NeverStarted, Options, Outcome, payload,
    relay::{Relay, Stream},
    root,
};
use crate::process;

/// `lsm=` is spelled out so that the tests don't depend on a kernel's default list.
const KERNEL_LINE: &str = "console=ttyS0 panic=-1 quiet lsm=landlock,lockdown,yama,bpf";

/// Everything that the emulator has but what it is slow at: strings that are moved and filled byte by byte, page tables
/// of five levels, and looking at each access of the kernel whether it is to user space. To load all programs takes a
/// sixth less time without.
const FAST_CPU: &str = "max,erms=off,fsrm=off,la57=off,smap=off,smep=off";
/// For the same reason: mending what the emulator's processors don't have.
const FAST_KERNEL: &str = "mitigations=off";

/// The initramfs, in the emulator.
const INITRAMFS_FD: i32 = 10;

/// A guest that has been started.
#[derive(Debug)]
pub struct Guest {
    emulator: Child,
    started: Instant,
    relay: Relay,
    options: Options,
}

impl Guest {
    /// Starts the guest. Its output waits until [`Guest::relay`] is called.
    ///
    /// # Errors
    /// When a file or image is missing or can't be made, or the emulator can't be started.
    pub fn boot(options: &Options) -> Result<Self> {
        options.check()?;
        let kernel = options.kernel.image()?;
        let root = options.root.image()?;
        let initramfs = payload::initramfs(options, &kernel, &root)?;

        // The kernel kills the emulator when the thread that runs this ends, however it ends.
        let mut command = process::command("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(process::find("qemu-system-x86_64").unwrap_or_else(|| "qemu-system-x86_64".into()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        hardware(&mut command, options, &root);
        command
            .arg("-kernel")
            .arg(&kernel.vmlinuz)
            .args(["-initrd", &format!("/proc/self/fd/{INITRAMFS_FD}")])
            .args(["-append", &kernel_line(options)]);

        let mut descriptors = vec![(OwnedFd::from(initramfs), INITRAMFS_FD)];
        let mut ends = Vec::new();
        for stream in Stream::ALL {
            let (ours, theirs) =
                UnixStream::pair().context("cannot make a socket for the emulator")?;
            descriptors.push((theirs.into(), socket_fd(stream)));
            ends.push((stream, ours));
        }
        let mappings = descriptors
            .into_iter()
            .map(|(parent_fd, child_fd)| FdMapping {
                parent_fd,
                child_fd,
            });
        command
            .fd_mappings(mappings.collect())
            .context("cannot pass files to the emulator")?;

        let started = Instant::now();
        let mut emulator = command
            .spawn()
            .with_context(|| format!("cannot run {}", process::line(&command)))?;
        // Its ends of the sockets must be open in the emulator only, else they never read as closed.
        drop(command);
        let complaints = emulator.stderr.take();
        Ok(Self {
            emulator,
            started,
            relay: Relay::start(ends, complaints),
            options: options.clone(),
        })
    }

    /// Relays the command's output until the guest is off.
    ///
    /// # Errors
    /// As [`super::run`].
    pub fn relay(mut self, stdout: &mut dyn Write, stderr: &mut dyn Write) -> Result<Outcome> {
        let deadline = self.started + self.options.timeout;
        let ended = self.relay.run(self.started, deadline, stdout, stderr);
        if let Some(path) = &self.options.console_log {
            File::create(path)
                .and_then(|mut file| file.write_all(self.relay.console()))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let never_started = ended.is_ok() && !self.relay.has_started();
        let report = match ended {
            Ok(()) => self
                .emulator
                .wait()
                .context("cannot wait for the emulator")
                .and_then(|status| self.relay.report(status)),
            Err(error) => Err(error),
        };
        let report = report.map_err(|error| {
            let series = self.options.kernel;
            let text = format!("kernel {series}: {error:#}{}", self.relay.last_words());
            if never_started {
                NeverStarted(text).into()
            } else if is_in(self.relay.console(), HALF_PATCHED) {
                HalfPatched(text).into()
            } else {
                anyhow!(text)
            }
        })?;
        Ok(Outcome {
            status: report.status,
            release: report.release,
            boot: report.started - self.started,
            total: self.started.elapsed(),
            console: self.relay.console().to_vec(),
        })
    }
}

/// What a kernel says of the breakpoint that it put into its own code until the rest of an instruction is written
/// (arch/x86/kernel/alternative.c, `smp_text_poke_batch_finish`), when it doesn't know it any more.
const HALF_PATCHED: &[u8] = b"int3: 0000 [#";

fn is_in(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is what is wanted.
        let _ = self.emulator.kill();
        let _ = self.emulator.wait();
    }
}

fn hardware(command: &mut Command, options: &Options, root: &root::Image) {
    let (threads, cpus, cpu) = match options.count_instructions {
        true => ("single", 1, "max"),
        false => ("multi", options.cpus, FAST_CPU),
    };
    command
        .args(["-accel", &format!("tcg,thread={threads}"), "-cpu", cpu])
        .args(["-smp", &cpus.to_string()])
        .args(["-m", &options.memory_mib.to_string()])
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none"]);
    if options.count_instructions {
        command.args(["-icount", "shift=0,sleep=off"]);
    }
    for stream in Stream::ALL {
        let (name, fd) = (stream.name(), socket_fd(stream));
        command.args(["-chardev", &format!("socket,id={name},fd={fd}")]);
    }
    command
        .args(["-serial", "chardev:console"])
        .args(["-device", "virtio-serial-pci"]);
    for (number, stream) in Stream::PORTS.into_iter().enumerate() {
        let (name, number) = (stream.name(), number + 1);
        command.args([
            "-device",
            &format!("virtserialport,nr={number},chardev={name},name={name}"),
        ]);
    }
    if let Some(disk) = &root.disk {
        // Changes go to a file that the emulator has already unlinked, so guests can share the disk.
        let disk = disk.display().to_string().replace(',', ",,");
        command
            .args([
                "-drive",
                &format!("file={disk},format=raw,if=none,id=root,snapshot=on"),
            ])
            .args(["-device", "nvme,drive=root,serial=root"]);
    }
}

fn kernel_line(options: &Options) -> String {
    let mut line = KERNEL_LINE.to_owned();
    let fast = (!options.count_instructions).then_some(FAST_KERNEL);
    for more in fast.into_iter().chain(options.append.as_deref()) {
        line = format!("{line} {more}");
    }
    line
}

fn socket_fd(stream: Stream) -> i32 {
    INITRAMFS_FD + 1 + stream as i32
}
