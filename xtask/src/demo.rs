//! `cargo xtask demo`: a small scripted agent under the `coding` profile, its output beside the event log and what a
//! person says when they are asked.

use std::{
    env,
    io::{self, BufRead, BufReader, IsTerminal as _, Write},
    process::{Command, Stdio},
    sync::mpsc::{self, Sender},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    build,
    guest::{self, Copy, Kernel, Options, Root},
    paths, process,
};

/// Where the demo's scripts are in a guest.
const GUEST: &str = "/usr/lib/agentguard-demo";

/// Who said a line.
#[derive(Clone, Copy)]
enum Voice {
    Agent,
    /// With what follows [`PERSON`], a person's.
    Log,
}

/// How lines among the log's begin that are a person's.
const PERSON: &str = "person: ";

/// Runs the demo in a guest with this kernel, or on this machine.
///
/// # Errors
/// When it can't be built or started, or when the host can't enforce.
pub fn run(kernel: Kernel, host: bool) -> Result<()> {
    let binary = build::build_quietly()?;
    let (lines, printed) = mpsc::channel();
    let printer = thread::spawn(move || print(printed));
    let result = if host {
        on_host(&binary, &lines)
    } else {
        in_guest(kernel, binary, &lines)
    };
    drop(lines);
    printer
        .join()
        .map_err(|_| anyhow::anyhow!("the printer of the demo's lines panicked"))?
        .context("cannot print the demo's lines")?;
    result
}

fn in_guest(
    kernel: Kernel,
    binary: std::path::PathBuf,
    lines: &Sender<(Voice, String)>,
) -> Result<()> {
    eprintln!("demo: starting a virtual machine with Linux {kernel}");
    let scripts = paths::root().join("tests/demo");
    let options = Options {
        binary: Some(binary),
        root: Root::Systemd,
        copies: ["guest.sh", "agent.sh", "agentguard-demo.toml"]
            .map(|script| Copy {
                host: scripts.join(script),
                guest: format!("{GUEST}/{script}").into(),
            })
            .into(),
        timeout: Duration::from_secs(300),
        ..Options::new(kernel, ["sh", &format!("{GUEST}/guest.sh")])
    };
    let mut agent = Lines::new(Voice::Agent, lines.clone());
    let mut log = Lines::new(Voice::Log, lines.clone());
    let outcome = guest::run(&options, &mut agent, &mut log)?;
    ensure!(
        outcome.success(),
        "the demo ended with exit status {}",
        outcome.status
    );
    Ok(())
}

fn on_host(binary: &std::path::Path, lines: &Sender<(Voice, String)>) -> Result<()> {
    let doctor = Command::new(binary)
        .arg("doctor")
        .output()
        .with_context(|| format!("cannot run {}", binary.display()))?;
    if !doctor.status.success() {
        io::stderr().write_all(&doctor.stdout)?;
        bail!("this machine can't enforce; leave --host out to use a virtual machine");
    }
    let scripts = paths::root().join("tests/demo");
    let mut directories = vec![binary.parent().context("the binary has no folder")?.into()];
    directories.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let mut child = process::command("sh")
        .arg(scripts.join("guest.sh"))
        .env("PATH", env::join_paths(directories)?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start the demo's script")?;
    let readers = [
        child
            .stdout
            .take()
            .map(|out| relay(out, Voice::Agent, lines)),
        child.stderr.take().map(|out| relay(out, Voice::Log, lines)),
    ];
    for reader in readers.into_iter().flatten() {
        reader
            .join()
            .map_err(|_| anyhow::anyhow!("a reader of the demo's output panicked"))?;
    }
    let status = child.wait().context("cannot wait for the demo's script")?;
    ensure!(status.success(), "the demo ended with {status}");
    Ok(())
}

fn relay(
    out: impl io::Read + Send + 'static,
    voice: Voice,
    lines: &Sender<(Voice, String)>,
) -> thread::JoinHandle<()> {
    let lines = lines.clone();
    thread::spawn(move || {
        for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
            // The printer only ends after all senders have.
            let _ = lines.send((voice, String::from_utf8_lossy(&line).into_owned()));
        }
    })
}

/// A writer that passes whole lines on.
struct Lines {
    voice: Voice,
    lines: Sender<(Voice, String)>,
    rest: Vec<u8>,
}

impl Lines {
    fn new(voice: Voice, lines: Sender<(Voice, String)>) -> Self {
        Self {
            voice,
            lines,
            rest: Vec::new(),
        }
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]).into_owned();
            self.lines
                .send((self.voice, line))
                .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints lines as they come: the agent's on the left edge, the log's marked beside them.
fn print(lines: mpsc::Receiver<(Voice, String)>) -> io::Result<()> {
    let colours = io::stdout().is_terminal();
    let paint = |code: &str, text: &str| {
        if colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    };
    let mut out = io::stdout().lock();
    for (voice, line) in lines {
        let line = if colours { line } else { plain(&line) };
        match voice {
            Voice::Agent if line.starts_with('#') => {
                writeln!(out, "{} {}", paint("36", "agent │"), paint("1", &line))?;
            }
            Voice::Agent => writeln!(out, "{} {line}", paint("36", "agent │"))?,
            Voice::Log => match line.strip_prefix(PERSON) {
                Some(line) => writeln!(out, "{} {line}", paint("35", "  you │"))?,
                None => writeln!(out, "{} {line}", paint("33", "  log │"))?,
            },
        }
        out.flush()?;
    }
    Ok(())
}

/// The line without colours (SGR sequences), for outputs that are no terminal.
fn plain(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    plain
}
