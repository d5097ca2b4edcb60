//! Carries what a guest says to where it belongs: the command's two streams to the caller as they come, the
//! console and the runner's own lines into memory.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::{ChildStderr, ExitStatus},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Where bytes of a guest come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
    Control,
    Console,
    /// The emulator's own standard error.
    Emulator,
}

impl Stream {
    /// Those that the emulator gets a socket for.
    pub const ALL: [Self; 4] = [Self::Stdout, Self::Stderr, Self::Control, Self::Console];
    /// Those that are ports of the guest, in the order of their numbers.
    pub const PORTS: [Self; 3] = [Self::Stdout, Self::Stderr, Self::Control];

    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Control => "control",
            Self::Console => "console",
            Self::Emulator => "emulator",
        }
    }
}

/// What `tests/init/run.sh` said about the command.
#[derive(Debug)]
pub(super) struct Report {
    pub status: u8,
    pub release: String,
    pub started: Instant,
}

/// The console is kept for messages and logs; what comes before this much is dropped.
const CONSOLE_BYTES: usize = 256 << 10;
/// Lines of the console that a message shows.
const LAST_LINES: usize = 25;
/// How many chunks may wait for a slow reader before the guest itself has to.
const WAITING_CHUNKS: usize = 64;
/// The longest a guest takes to turn itself off once its command has ended.
const OFF: Duration = Duration::from_secs(30);

/// Some bytes of a stream; none at its end.
type Chunk = (Stream, Vec<u8>);

#[derive(Debug)]
pub(super) struct Relay {
    chunks: Receiver<Chunk>,
    open: usize,
    console: Vec<u8>,
    control: Vec<u8>,
    emulator: Vec<u8>,
    started: Option<Instant>,
}

impl Relay {
    /// Starts reading all streams, each in a thread that ends with its stream.
    pub fn start(ends: Vec<(Stream, UnixStream)>, complaints: Option<ChildStderr>) -> Self {
        let (sender, chunks) = sync_channel(WAITING_CHUNKS);
        let mut open = 0;
        for (stream, end) in ends {
            read_all(stream, end, sender.clone());
            open += 1;
        }
        if let Some(complaints) = complaints {
            read_all(Stream::Emulator, complaints, sender);
            open += 1;
        }
        Self {
            chunks,
            open,
            console: Vec::new(),
            control: Vec::new(),
            emulator: Vec::new(),
            started: None,
        }
    }

    /// Relays until all streams have ended.
    ///
    /// # Errors
    /// When `deadline` passes before, or one of the writers fails.
    pub fn run(
        &mut self,
        begin: Instant,
        mut deadline: Instant,
        stdout: &mut dyn Write,
        stderr: &mut dyn Write,
    ) -> Result<()> {
        while self.open > 0 {
            let wait = deadline.saturating_duration_since(Instant::now());
            let (stream, bytes) = match self.chunks.recv_timeout(wait) {
                Ok(chunk) => chunk,
                Err(RecvTimeoutError::Timeout) => bail!(self.late(deadline - begin)),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if bytes.is_empty() {
                self.open -= 1;
            }
            match stream {
                Stream::Stdout => write(stdout, &bytes).context("cannot relay standard output")?,
                Stream::Stderr => write(stderr, &bytes).context("cannot relay standard error")?,
                Stream::Console => keep_last(&mut self.console, &bytes),
                Stream::Emulator => keep_last(&mut self.emulator, &bytes),
                Stream::Control => {
                    self.control.extend_from_slice(&bytes);
                    self.started = self
                        .started
                        .or_else(|| self.control.contains(&b'\n').then(Instant::now));
                    if self.status().is_some() {
                        // The command was in time; how long its guest takes to end is not its fault.
                        deadline = deadline.max(Instant::now() + OFF);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the guest has said that its command started.
    pub fn has_started(&self) -> bool {
        self.started.is_some()
    }

    /// How the command ended, once the emulator has.
    ///
    /// # Errors
    /// When the guest ended before its command did.
    pub fn report(&self, emulator: ExitStatus) -> Result<Report> {
        match (self.status(), self.started) {
            (Some(status), Some(started)) => Ok(Report {
                status,
                release: self.field("start ").unwrap_or_default(),
                started,
            }),
            (_, Some(_)) => bail!("the guest ended before its command did (emulator: {emulator})"),
            (_, None) => bail!("the guest ended before its command started (emulator: {emulator})"),
        }
    }

    /// What the kernel and init said.
    pub fn console(&self) -> &[u8] {
        &self.console
    }

    /// The end of what was said, for a message.
    pub fn last_words(&self) -> String {
        let mut words = String::new();
        for (what, bytes) in [("emulator", &self.emulator), ("console", &self.console)] {
            let text = String::from_utf8_lossy(bytes);
            let lines: Vec<_> = text.lines().map(str::trim_end).collect();
            let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
            for line in last.iter().filter(|line| !line.is_empty()) {
                words.push_str(&format!("\n  {what}: {line}"));
            }
        }
        words
    }

    fn late(&self, after: Duration) -> String {
        let what = match (self.started, self.status()) {
            (None, _) => "the guest had not started its command",
            (_, None) => "the command had not ended",
            (_, Some(_)) => "the command had ended, but its guest had not",
        };
        format!("{what} after {} s", after.as_secs())
    }

    fn status(&self) -> Option<u8> {
        self.field("exit ")?.parse().ok()
    }

    /// The rest of the whole line of the control port that starts with `name`.
    fn field(&self, name: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.control);
        let line = text
            .split_inclusive('\n')
            .find_map(|line| line.strip_prefix(name)?.strip_suffix('\n'));
        line.map(str::to_owned)
    }
}

fn read_all(stream: Stream, mut from: impl Read + Send + 'static, to: SyncSender<Chunk>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        loop {
            // An emulator that was killed may reset its sockets; that is an end like any other.
            let length = from.read(&mut buffer).unwrap_or(0);
            if to.send((stream, buffer[..length].to_vec())).is_err() || length == 0 {
                return;
            }
        }
    });
}

/// Written at once: whoever waits for a line must not wait for a buffer.
fn write(to: &mut dyn Write, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

fn keep_last(kept: &mut Vec<u8>, bytes: &[u8]) {
    kept.extend_from_slice(bytes);
    if kept.len() > 2 * CONSOLE_BYTES {
        kept.drain(..kept.len() - CONSOLE_BYTES);
    }
}
