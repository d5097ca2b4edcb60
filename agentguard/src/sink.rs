//! Where events go: each is numbered once, here, and handed to the log file and to followers. Sinks
//! see events, never maps.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use tokio::sync::broadcast;

use crate::event::{Clock, Event, Lifecycle, Loss, Stage, lifecycle::LossCount};

pub mod log;

pub use log::Log;

/// Lines that a follower may lag behind.
const FOLLOWERS: usize = 4096;

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
}

#[derive(Debug)]
struct Unwritten {
    first: String,
    last: String,
    counts: BTreeMap<(&'static str, &'static str), u64>,
}

impl Sinks {
    /// Goes on where the log ends.
    pub fn new(log: Log, clock: Arc<Clock>) -> Self {
        Self {
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
        let text = event.line(seq);
        self.log.append(&text);
        if self.log.error().is_none() {
            self.log.flush();
        }
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

    /// How the log is.
    pub fn log_state(&self) -> LogState {
        LogState {
            writing: self.log.error().is_none(),
            error: self.log.error().map(str::to_owned),
            seq: self.log.seq(),
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

    /// `/dev/full` takes nothing, as a full disk does.
    #[test]
    fn a_full_disk_is_survived_and_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let (log, _) = Log::open(directory.path(), 3).expect("opened");
        let mut sinks = Sinks::new(log, Arc::new(Clock::new()));
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
        let mut sinks = Sinks::new(log, Arc::new(Clock::new()));
        let mut follower = sinks.followers().subscribe();
        sinks.emit(&event("daemon.started"));
        sinks.flush();
        let line = follower.try_recv().expect("a line");
        let text = std::fs::read_to_string(sinks.log_path()).expect("read");
        assert_eq!(format!("{}\n", line.text), text);
        assert_eq!((line.seq, line.action), (1, "daemon.started"));
    }
}
