//! Where events go: each is numbered once, here, and handed to the log file and to followers. Sinks
//! see events, never maps.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::broadcast;

use crate::event::{Clock, Event, Lifecycle, Loss, Stage, lifecycle::LossCount};

pub mod chain;
pub mod journal;
pub mod log;
pub mod verify;

pub use log::Log;

/// Lines that a follower may lag behind.
const FOLLOWERS: usize = 4096;
/// How long after a file couldn't be closed it is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// When the next file of the log is begun, and what becomes of the closed ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// A file is closed when it has so many bytes, or its first line is so old.
    pub max_bytes: u64,
    pub max_age: Duration,
    /// Closed files that are kept. All of them, if it isn't said.
    pub keep: Option<usize>,
    /// How often the log's head is told to the journal.
    pub heads_every: Duration,
}

/// A written event, with what it is filtered by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub seq: u64,
    pub agent: Option<String>,
    pub verdict: Option<&'static str>,
    pub action: &'static str,
    pub text: String,
}

/// State of the log, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    pub writing: bool,
    pub error: Option<String>,
    pub seq: u64,
    /// Hash of the last line that was taken.
    pub hash: Option<String>,
    pub backlog: usize,
    /// Events that the backlog could not take, since the start.
    pub lost: u64,
}

/// Numbers events and hands them on.
#[derive(Debug)]
pub struct Sinks {
    log: Log,
    followers: broadcast::Sender<Arc<Line>>,
    clock: Arc<Clock>,
    /// What the backlog could not take and no `lost` event has told yet.
    unwritten: Option<Unwritten>,
    lost: u64,
    rotation: Rotation,
    /// Before this no file is closed.
    next_close: Instant,
    /// Before this no head is told.
    next_head: Instant,
    /// Number of the last line that the journal was told of.
    told: u64,
}

#[derive(Debug)]
struct Unwritten {
    first: String,
    last: String,
    counts: BTreeMap<(&'static str, &'static str), u64>,
}

impl Sinks {
    /// Goes on where the log ends.
    pub fn new(log: Log, clock: Arc<Clock>, rotation: Rotation) -> Self {
        let now = Instant::now();
        Self {
            next_close: now,
            next_head: now + rotation.heads_every,
            told: 0,
            rotation,
            log,
            followers: broadcast::Sender::new(FOLLOWERS),
            clock,
            unwritten: None,
            lost: 0,
        }
    }

    /// The followers' end.
    pub fn followers(&self) -> broadcast::Sender<Arc<Line>> {
        self.followers.clone()
    }

    /// Whether the latest write failed.
    pub fn is_broken(&self) -> bool {
        self.log.error().is_some()
    }

    /// Number of the latest event that is in the file.
    pub fn written(&self) -> u64 {
        self.log.seq() - self.log.backlog() as u64
    }

    /// Number of the latest event.
    pub fn seq(&self) -> u64 {
        self.log.seq()
    }

    /// The log's path.
    pub fn log_path(&self) -> &Path {
        self.log.path()
    }

    /// Takes an event. It is in the log when this returns or, while that can't be written, in memory until
    /// [`Self::flush`] can write it.
    pub fn emit(&mut self, event: &Event) {
        if self.log.is_full() {
            // Numbered only when taken: the numbers in the log have no holes.
            self.lost += 1;
            let unwritten = self.unwritten.get_or_insert_with(|| Unwritten {
                first: event.time.clone(),
                last: event.time.clone(),
                counts: BTreeMap::new(),
            });
            unwritten.last.clone_from(&event.time);
            *unwritten
                .counts
                .entry((event.action, event.verdict.unwrap_or("none")))
                .or_default() += 1;
            return;
        }
        self.append(event);
    }

    fn append(&mut self, event: &Event) {
        let seq = self.log.seq() + 1;
        let text = self.log.append(&event.line(seq));
        if self.log.error().is_none() {
            self.log.flush();
        }
        self.follow(seq, event, text);
    }

    fn follow(&self, seq: u64, event: &Event, text: String) {
        // Nobody following is no error.
        let _ = self.followers.send(Arc::new(Line {
            seq,
            agent: event.agent.clone(),
            verdict: event.verdict,
            action: event.action,
            text,
        }));
    }

    /// Writes what was taken, and tells what was lost once there is room again.
    pub fn flush(&mut self) {
        self.log.flush();
        if !self.log.is_full()
            && let Some(unwritten) = self.unwritten.take()
        {
            let counts: Vec<LossCount> = unwritten
                .counts
                .into_iter()
                .map(|((action, verdict), count)| LossCount {
                    action: Some(action.to_owned()),
                    hook: None,
                    verdict: verdict.to_owned(),
                    count,
                })
                .collect();
            let event = lost(
                self.clock.now(),
                Stage::Sink,
                counts,
                unwritten.first,
                unwritten.last,
            );
            self.append(&event);
            self.log.flush();
        }
    }

    /// Begins the log's next file and tells the journal where the log ends, when it is time. Not between an event's
    /// number and the event: the line that closes a file has a number of its own.
    pub fn tend(&mut self) {
        let now = Instant::now();
        let Rotation {
            max_bytes, max_age, ..
        } = self.rotation;
        if now >= self.next_close && self.log.is_due(max_bytes, max_age) {
            match self.close() {
                Ok(()) => self.remove_oldest(),
                Err(error) => {
                    self.next_close = now + RETRY;
                    tracing::error!(
                        "cannot close {}, which goes on growing: {error}",
                        self.log.path().display()
                    );
                }
            }
        }
        if now >= self.next_head {
            self.next_head = now + self.rotation.heads_every;
            self.tell_head();
        }
    }

    /// Tells the journal where the log ends, if it is written and longer than when that was told last.
    pub fn tell_head(&mut self) {
        if self.log.seq() == self.told {
            return;
        }
        match self.log.head_on_disk() {
            Ok(Some(head)) => {
                journal::tell(self.log.path(), head);
                self.told = head.seq;
            }
            Ok(None) => {}
            Err(error) => tracing::error!(
                "cannot tell the journal where {} ends, for it can't be brought to the disk: {error}",
                self.log.path().display()
            ),
        }
    }

    fn close(&mut self) -> io::Result<()> {
        let time = self.clock.now();
        let mut closed = None;
        let text = self.log.close(|closing| {
            let event = Event::lifecycle(
                time,
                log::CLOSED,
                Lifecycle::Closed {
                    file: closing.file.clone(),
                    first_seq: closing.first_seq,
                    lines: closing.lines,
                    root: closing.root.to_string(),
                },
            );
            let line = event.line(closing.seq);
            closed = Some((closing.seq, event));
            line
        })?;
        if let Some((seq, event)) = closed {
            self.follow(seq, &event, text);
        }
        Ok(())
    }

    /// Removes the oldest files beyond those that are to be kept. The log says so before, with what the chain goes on from.
    fn remove_oldest(&mut self) {
        let Some(keep) = self.rotation.keep else {
            return;
        };
        if let Err(error) = self.remove_beyond(keep) {
            tracing::error!(
                "cannot remove the oldest files in {}: {error}",
                self.log.directory().display()
            );
        }
    }

    fn remove_beyond(&mut self, keep: usize) -> io::Result<()> {
        let closed = log::files::closed(self.log.directory())?;
        let beyond = closed.len().saturating_sub(keep);
        for file in &closed[..beyond] {
            let Some(last) = log::last_head(&file.path)? else {
                continue;
            };
            let name = file.path.file_name().unwrap_or_default();
            let event = Event::lifecycle(
                self.clock.now(),
                log::REMOVED,
                Lifecycle::Removed {
                    file: name.to_string_lossy().into_owned(),
                    last_seq: last.seq,
                    hash: last.hash.to_string(),
                },
            );
            self.append(&event);
            if self.log.backlog() > 0 {
                return Err(io::Error::other("the log can't be written"));
            }
            fs::remove_file(&file.path)?;
        }
        Ok(())
    }

    /// How the log is.
    pub fn log_state(&self) -> LogState {
        LogState {
            writing: self.log.error().is_none(),
            error: self.log.error().map(str::to_owned),
            seq: self.log.seq(),
            hash: self.log.head().map(|head| head.hash.to_string()),
            backlog: self.log.backlog(),
            lost: self.lost,
        }
    }
}

/// A `lost` event.
pub fn lost(
    time: String,
    stage: Stage,
    counts: Vec<LossCount>,
    first: String,
    last: String,
) -> Event {
    Event::lifecycle(
        time,
        "lost",
        Lifecycle::Lost(Loss {
            stage,
            count: counts.iter().map(|count| count.count).sum(),
            counts,
            first,
            last,
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &'static str) -> Event {
        Event::lifecycle(
            "2026-01-01T00:00:00.000000000Z".to_owned(),
            action,
            Lifecycle::Stopped { enforcing: true },
        )
    }

    fn rotation() -> Rotation {
        crate::config::Config::default().log.rotation()
    }

    /// `/dev/full` takes nothing, as a full disk does.
    #[test]
    fn a_full_disk_is_survived_and_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let (log, _) = Log::open(directory.path(), 3).expect("opened");
        let mut sinks = Sinks::new(log, Arc::new(Clock::new()), rotation());
        sinks.emit(&event("daemon.started"));
        sinks.flush();
        sinks.log.redirect("/dev/full");
        for _ in 0..5 {
            sinks.emit(&event("daemon.stopped"));
            sinks.flush();
        }
        let state = sinks.log_state();
        assert!(!state.writing);
        assert_eq!((state.backlog, state.lost, state.seq), (3, 2, 4));
        sinks.log.restore();
        sinks.flush();
        assert!(sinks.log_state().writing);
        let text = std::fs::read_to_string(sinks.log_path()).expect("read");
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("an event"))
            .collect();
        let numbers: Vec<u64> = lines
            .iter()
            .map(|line| line["seq"].as_u64().expect("a number"))
            .collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
        let last = &lines[4];
        assert_eq!(last["action"], "lost");
        assert_eq!(last["object"]["stage"], "sink");
        assert_eq!(last["object"]["count"], 2);
        assert_eq!(last["object"]["counts"][0]["action"], "daemon.stopped");
    }

    #[test]
    fn followers_see_what_the_log_gets() {
        let directory = tempfile::tempdir().expect("a directory");
        let (log, _) = Log::open(directory.path(), 3).expect("opened");
        let mut sinks = Sinks::new(log, Arc::new(Clock::new()), rotation());
        let mut follower = sinks.followers().subscribe();
        sinks.emit(&event("daemon.started"));
        sinks.flush();
        let line = follower.try_recv().expect("a line");
        let text = std::fs::read_to_string(sinks.log_path()).expect("read");
        assert_eq!(format!("{}\n", line.text), text);
        assert_eq!((line.seq, line.action), (1, "daemon.started"));
    }
}
