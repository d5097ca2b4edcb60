//! `agentguard tail`: shows events from the daemon's stream, or from the log file when no daemon
//! answers. Following survives a restart of the daemon: events are numbered without gaps, so it is
//! known which of them were shown already and whether any are missing.

mod filter;
pub mod view;

use std::{
    collections::VecDeque,
    fmt,
    fs::File,
    hash::{BuildHasher as _, RandomState},
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use jiff::tz::TimeZone;

use self::{filter::Filter, view::Event};
use super::style;
use crate::{
    api::{
        client::{self, Client},
        types,
    },
    config::Config,
    exit::Code,
    render::{safe_escaped, safe_json},
    sink::log::{FILE, last_lines},
};

/// What was being done when the daemon failed to answer.
const READING: &str = "cannot read the events";
/// How often a daemon that has gone is looked for.
const RETRY: Duration = Duration::from_millis(500);
/// Lines whose hashes are kept.
const RECENT: usize = 8192;
/// Events that may be under way between the daemon's count of them and its answer.
const SLACK: u64 = 1024;

/// Arguments of `agentguard tail`.
#[derive(Clone, Debug, clap::Args)]
pub struct TailArgs {
    /// Go on with the events that come
    #[arg(short, long)]
    pub follow: bool,

    /// How many of the latest events to begin with
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    pub lines: u32,

    #[command(flatten)]
    pub filter: Filter,

    /// One JSON object per line, also on a terminal
    #[arg(long, conflicts_with = "text")]
    pub json: bool,

    /// One line of text per event, also into a file or pipe
    #[arg(long)]
    pub text: bool,

    /// Log file to read when no daemon answers [default: the configuration's, or
    /// /var/log/agentguard/events.jsonl]
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

/// Shows events.
pub fn run(args: &TailArgs, config: &Config) -> anyhow::Result<Code> {
    let socket = &config.socket;
    let log = match &args.log {
        Some(log) => log.clone(),
        None => config.log.dir.join(FILE),
    };
    let mut shown = Shown::new(args);
    match from_daemon(args, socket, &mut shown) {
        Ok(()) => {}
        Err(error) if is_gone(&error) && shown.last.is_none() => {
            note(format_args!(
                "no daemon answers at {}; reading {}, to which nothing is being added",
                socket.display(),
                log.display()
            ));
            from_log(args, &log, &mut shown)?;
        }
        Err(error) if is_gone(&error) && args.follow => {}
        Err(error) => return Err(error),
    }
    if !args.follow {
        return Ok(Code::Success);
    }
    let mut waiting = false;
    loop {
        if !waiting {
            note(format_args!("waiting for a daemon to answer"));
            waiting = true;
        }
        match resume(socket, &mut shown) {
            Ok(()) => waiting = false,
            Err(error) if is_gone(&error) => thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
}

/// The latest events and, with `--follow`, those that come, until the daemon goes.
fn from_daemon(args: &TailArgs, socket: &Path, shown: &mut Shown<'_>) -> anyhow::Result<()> {
    if args.follow || !shown.filter.is_simple() {
        shown.start = newest(socket)?;
    }
    if shown.filter.is_simple() {
        return shown.stream(socket, u64::from(args.lines), args.follow);
    }
    // The daemon can't select by lists, so it sends all it has, and the last that are wanted are shown.
    let mut wanted = VecDeque::new();
    for line in events(socket, &shown.filter.query(shown.start, false))? {
        let line = line.context(READING)?;
        let event = parse(&line);
        if args.lines > 0 && shown.filter.matches(&event) {
            if wanted.len() == args.lines as usize {
                wanted.pop_front();
            }
            wanted.push_back((line, event));
        }
    }
    for (line, event) in wanted {
        shown.offer(&line, &event)?;
    }
    if args.follow {
        resume(socket, shown)?;
    }
    Ok(())
}

/// The latest events of the log file.
fn from_log(args: &TailArgs, log: &Path, shown: &mut Shown<'_>) -> anyhow::Result<()> {
    let reading = || format!("cannot read {}", log.display());
    File::open(log).with_context(reading)?;
    let filter = shown.filter;
    let lines = last_lines(log, args.lines as usize, |line| {
        filter.matches(&parse(&String::from_utf8_lossy(line)))
    })
    .with_context(reading)?;
    for line in lines {
        let line = String::from_utf8_lossy(&line);
        shown.offer(&line, &parse(&line))?;
    }
    Ok(())
}

/// What came after the last event that was shown, and then follows, until the daemon goes.
fn resume(socket: &Path, shown: &mut Shown<'_>) -> anyhow::Result<()> {
    let newest = newest(socket)?;
    let from = shown.last.unwrap_or(shown.start);
    let missed = match newest.checked_sub(from) {
        Some(missed) => missed + SLACK,
        None => {
            note(format_args!(
                "the log was begun anew: event {newest} is its latest, {from} was seen before"
            ));
            shown.last = None;
            shown.start = 0;
            newest + SLACK
        }
    };
    // More than were missed may be sent; what was shown already is known by its number.
    shown.last = Some(shown.last.unwrap_or(shown.start));
    shown.stream(socket, missed, true)
}

/// The number of the daemon's latest event.
fn newest(socket: &Path) -> anyhow::Result<u64> {
    let status = Client::connect(socket)
        .and_then(|mut client| client.status())
        .context(READING)?;
    Ok(status.log.seq)
}

fn events(socket: &Path, query: &types::Events) -> anyhow::Result<client::Lines> {
    Client::connect(socket)
        .and_then(|client| client.events(query))
        .context(READING)
}

/// An event from its line. What is no event is shown as it is.
fn parse(line: &str) -> Event {
    serde_json::from_str(line).unwrap_or_default()
}

/// Whether the daemon is not there (any more), as opposed to refusing.
fn is_gone(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(
            cause.downcast_ref(),
            Some(client::Error::Unreachable { .. } | client::Error::Http { .. })
        )
    })
}

/// Tells something about the events on standard error, so that standard output stays events only.
fn note(text: fmt::Arguments<'_>) {
    let faint = style::FAINT;
    anstream::eprintln!(
        "{faint}agentguard: {}{faint:#}",
        safe_escaped(&text.to_string())
    );
}

/// What was shown, and how.
struct Shown<'a> {
    filter: &'a Filter,
    json: bool,
    terminal: bool,
    zone: TimeZone,
    /// Number of the last event that was shown or passed over.
    last: Option<u64>,
    /// Number and hash of the latest lines that were received, oldest first.
    recent: VecDeque<(u64, u64)>,
    hasher: RandomState,
    /// Number of the daemon's latest event at the beginning.
    start: u64,
}

impl<'a> Shown<'a> {
    fn new(args: &'a TailArgs) -> Self {
        let terminal = io::stdout().is_terminal();
        Self {
            filter: &args.filter,
            json: args.json || !(args.text || terminal),
            terminal,
            zone: TimeZone::system(),
            last: None,
            recent: VecDeque::new(),
            hasher: RandomState::new(),
            start: 0,
        }
    }

    /// Shows a stream of the daemon's, of which the first `n` are from before.
    fn stream(&mut self, socket: &Path, n: u64, follow: bool) -> anyhow::Result<()> {
        for line in events(socket, &self.filter.query(n, follow))? {
            let line = line.context(READING)?;
            self.offer(&line, &parse(&line))?;
        }
        Ok(())
    }

    /// Shows an event unless it was shown already or isn't wanted.
    fn offer(&mut self, line: &str, event: &Event) -> anyhow::Result<()> {
        if let Some(seq) = event.seq {
            let hash = self.hasher.hash_one(line);
            if let Some(last) = self.last {
                if seq <= last && !self.reused(seq, hash) {
                    return Ok(());
                }
                if seq > last + 1 && self.filter.is_empty() {
                    note(format_args!(
                        "events {} to {} were not received; the log has them",
                        last + 1,
                        seq - 1
                    ));
                }
            }
            self.last = Some(seq);
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back((seq, hash));
        }
        if self.filter.matches(event) {
            self.print(line, event)?;
        }
        Ok(())
    }

    /// Whether another event had this number. That is so when a daemon was killed before it had
    /// written what it had already sent: the next one goes on from what is in the log.
    fn reused(&mut self, seq: u64, hash: u64) -> bool {
        let at = self.recent.partition_point(|(number, _)| *number < seq);
        let reused = matches!(self.recent.get(at), Some((number, before)) if *number == seq && *before != hash);
        if reused {
            note(format_args!(
                "the daemon was stopped before it had written event {seq} and later ones shown above"
            ));
            self.recent.truncate(at);
        }
        reused
    }

    fn print(&self, line: &str, event: &Event) -> anyhow::Result<()> {
        if !self.json {
            let mut out = anstream::stdout().lock();
            if event.action.is_empty() {
                writeln!(out, "{}", safe_escaped(line))?;
            } else {
                writeln!(out, "{}", event.line(&self.zone))?;
            }
        } else if self.terminal {
            writeln!(io::stdout().lock(), "{}", safe_json(line))?;
        } else {
            writeln!(io::stdout().lock(), "{line}")?;
        }
        Ok(())
    }
}
