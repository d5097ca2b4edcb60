//! `agentguard watch`: shows requests on a terminal, one after the other, and takes one key for an answer.
//! What is shown and what a key means is in `prompt`; here are the terminal, the daemon and the signals.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use crossterm::event::{self, Event};
use jiff::Timestamp;
use nix::sys::signal::{SigSet, Signal, raise};

use self::{
    prompt::{Effect, Prompt},
    terminal::Terminal,
};
use crate::{
    api::{
        client::{self, Client, Lines},
        types::{Change, Decide},
    },
    config::Config,
    exit::Code,
};

mod prompt;
mod terminal;

/// How long until a daemon that has gone is looked for again.
const RETRY: Duration = Duration::from_secs(1);
/// How often the time that is left is shown anew.
const TICK: Duration = Duration::from_secs(1);

/// Arguments of `agentguard watch`.
#[derive(Clone, Debug, clap::Args)]
pub struct WatchArgs {}

/// There is nobody to ask.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} is no terminal, and `agentguard watch` asks a person; use `agentguard pending --watch --json` in programs"
)]
struct NoTerminal(&'static str);

/// What the prompt is woken by.
enum Message {
    /// A connection to the daemon, which begins with all that waits.
    Connected,
    Change(Box<Change>),
    /// The connection has ended, for this reason.
    Lost(String),
    Terminal(Event),
    /// The terminal can't be read any more.
    Deaf(io::Error),
    Signal(Signal),
}

/// Asks until the person has had enough.
pub fn run(_: &WatchArgs, config: &Config) -> anyhow::Result<Code> {
    if !io::stdin().is_terminal() {
        return Err(NoTerminal("standard input").into());
    }
    if !io::stdout().is_terminal() {
        return Err(NoTerminal("standard output").into());
    }
    let socket = config.socket.as_path();
    // Before the terminal is touched, so that an error is told as ever.
    let lines = follow(socket).context("cannot read the requests that wait")?;
    // Before there are threads: each inherits it, and one alone waits for them.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block().context("cannot wait for signals")?;

    let (sender, messages) = mpsc::channel();
    let mut terminal = Terminal::enter().context("cannot take over the terminal")?;
    listen(&sender, socket, lines, signals);
    drop(sender);

    let mut prompt = Prompt::default();
    let mut ended_by = None;
    loop {
        prompt.settle(Instant::now());
        terminal.draw(|size| prompt.screen(size, Timestamp::now()))?;
        let message = match messages.recv_timeout(TICK) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        match message {
            Message::Connected => prompt.connected(),
            Message::Change(change) => prompt.change(*change),
            Message::Lost(why) => prompt.lost(&why),
            // Pasted text is an event of another kind, and no answer.
            Message::Terminal(Event::Key(key)) => match prompt.key(key, Instant::now()) {
                Effect::Nothing => {}
                Effect::Quit => break,
                Effect::Answer(id, answer) => {
                    prompt.answered(id, decide(socket, id, &answer));
                }
            },
            Message::Terminal(_) => {}
            Message::Deaf(error) => return Err(error).context("cannot read the terminal"),
            Message::Signal(signal) => {
                ended_by = Some(signal);
                break;
            }
        }
    }
    drop(terminal);
    if let Some(signal) = ended_by {
        // The terminal is as it was; now the signal does what it does.
        let _ = signals.thread_unblock();
        let _ = raise(signal);
    }
    Ok(Code::Success)
}

/// Starts the threads that wait for the daemon, the person and signals. They end with the process.
fn listen(sender: &Sender<Message>, socket: &Path, lines: Lines, signals: SigSet) {
    let (requests, socket) = (sender.clone(), socket.to_owned());
    thread::spawn(move || {
        let mut lines: Result<_, client::Error> = Ok(lines);
        loop {
            let lost = match lines {
                Ok(lines) => read(lines, &requests),
                Err(error) => Some(error.to_string()),
            };
            let why = lost.unwrap_or_else(|| "it has ended".to_owned());
            if requests.send(Message::Lost(why)).is_err() {
                return;
            }
            thread::sleep(RETRY);
            lines = follow(&socket);
        }
    });
    let keys = sender.clone();
    thread::spawn(move || {
        loop {
            let message = match event::read() {
                Ok(event) => Message::Terminal(event),
                Err(error) => Message::Deaf(error),
            };
            let deaf = matches!(message, Message::Deaf(_));
            if keys.send(message).is_err() || deaf {
                return;
            }
        }
    });
    let told = sender.clone();
    thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            let _ = told.send(Message::Signal(signal));
        }
    });
}

fn follow(socket: &Path) -> Result<Lines, client::Error> {
    Client::connect(socket)?.follow_approvals()
}

/// Hands on what a connection says until it ends, and says why it did.
fn read(lines: Lines, sender: &Sender<Message>) -> Option<String> {
    sender.send(Message::Connected).ok()?;
    for line in lines {
        let line = match line {
            Ok(line) => line,
            Err(error) => return Some(error.to_string()),
        };
        // A line that isn't understood is a newer daemon's; what it is about can't be answered here.
        if let Ok(change) = serde_json::from_str(&line) {
            sender.send(Message::Change(Box::new(change))).ok()?;
        }
    }
    None
}

fn decide(
    socket: &Path,
    id: u64,
    answer: &Decide,
) -> Result<crate::api::types::Decided, client::Error> {
    Client::connect(socket)?.decide(id, answer)
}
