//! The thread that turns records into events and hands them to the sinks. It alone touches the sinks;
//! the rings' drain never waits for it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;

use super::{first::First, losses::Losses};
use crate::{
    event::{Clock, Event, Stage, enrich, lifecycle::LossCount},
    names::Names,
    ring::{Dropped, Record, Records},
    sink::{LogState, Sinks, lost},
};

/// Events handed to the sinks before they are flushed.
const BATCH: usize = 256;
/// How long an event waits in a broken log before the next attempt.
const RETRY: Duration = Duration::from_secs(1);

/// What the thread is told.
#[derive(Debug)]
pub enum Message {
    /// An event of AgentGuard itself.
    Event(Box<Event>),
    /// The counters of the kernel side.
    Counters(Vec<u64>),
    /// Everything before this is to be written; then the sender is told.
    Flush(tokio::sync::oneshot::Sender<()>),
}

/// What others see of the thread.
#[derive(Debug, Default)]
pub struct Shared {
    log: Mutex<LogState>,
    /// Records dropped in front of the queue.
    pub lost_queue: AtomicU64,
    pub undecodable: AtomicU64,
    /// The agent that proves the enforcement, and who waits for its records.
    canary: Mutex<Option<(u64, mpsc::UnboundedSender<Record>)>>,
}

impl Shared {
    pub fn log(&self) -> LogState {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Sends the records of one agent elsewhere instead of to the log.
    pub fn watch(&self, agent: u64) -> mpsc::UnboundedReceiver<Record> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.canary.lock().unwrap_or_else(PoisonError::into_inner) = Some((agent, sender));
        receiver
    }

    /// Whether the record is the canary's, which it then gets. The log is for agents.
    fn is_canary(&self, record: &Record) -> bool {
        let canary = self.canary.lock().unwrap_or_else(PoisonError::into_inner);
        match canary.as_ref() {
            Some((agent, sender)) if *agent == record.header.agent => {
                // It may have seen enough.
                let _ = sender.send(record.clone());
                true
            }
            _ => false,
        }
    }
}

/// Everything the thread works with.
pub struct Worker {
    pub records: Records,
    pub messages: mpsc::UnboundedReceiver<Message>,
    pub sinks: Sinks,
    pub names: Names,
    pub clock: Arc<Clock>,
    pub dropped: Arc<Dropped>,
    pub losses: Losses,
    pub shared: Arc<Shared>,
}

impl Worker {
    /// Works until all senders are gone. Runs on a thread of its own: sinks block.
    pub fn run(mut self, runtime: &tokio::runtime::Handle) {
        let mut first = First::default();
        let mut last_tell = self.clock.now();
        loop {
            let next = runtime.block_on(async {
                tokio::select! {
                    biased;
                    message = self.messages.recv() => Next::Message(message),
                    record = self.records.next() => Next::Record(record),
                    () = tokio::time::sleep(RETRY) => Next::Nothing,
                }
            });
            let mut flushed = None;
            match next {
                Next::Message(None) | Next::Record(None) => break,
                Next::Message(Some(message)) => flushed = self.message(message, &mut last_tell),
                Next::Record(Some(bytes)) => self.record(&bytes, &mut first),
                Next::Nothing => {}
            }
            for _ in 0..BATCH {
                let Some(bytes) = self.records.try_next() else {
                    break;
                };
                self.record(&bytes, &mut first);
            }
            self.dropped(&last_tell);
            self.sinks.flush();
            *self
                .shared
                .log
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = self.sinks.log_state();
            if let Some(flushed) = flushed {
                // Whoever asked may have gone.
                let _ = flushed.send(());
            }
        }
        self.sinks.flush();
    }

    fn message(
        &mut self,
        message: Message,
        last_tell: &mut String,
    ) -> Option<tokio::sync::oneshot::Sender<()>> {
        match message {
            Message::Event(event) => {
                self.sinks.emit(&event);
                None
            }
            Message::Counters(counters) => {
                let counts = self.losses.tell(&counters);
                let now = self.clock.now();
                if !counts.is_empty() {
                    let since = std::mem::replace(last_tell, now.clone());
                    let event = lost(now.clone(), Stage::Kernel, counts, since, now);
                    self.sinks.emit(&event);
                } else {
                    *last_tell = now;
                }
                None
            }
            Message::Flush(flushed) => {
                while let Some(bytes) = self.records.try_next() {
                    self.record(&bytes, &mut First::default());
                }
                Some(flushed)
            }
        }
    }

    fn record(&mut self, bytes: &[u8], first: &mut First) {
        match Record::decode(bytes) {
            Ok(record) => {
                if self.shared.is_canary(&record) {
                    return;
                }
                let header = &record.header;
                let fold = self
                    .names
                    .agent(header.agent)
                    .and_then(|agent| self.names.profile(header.install, agent.slot))
                    .is_some_and(|profile| profile.log_first);
                if !(fold && first.seen(&record)) {
                    let event = enrich::event(&record, &self.names, &self.clock);
                    self.sinks.emit(&event);
                }
            }
            Err(error) => {
                if self.shared.undecodable.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::error!("cannot decode a record of the kernel: {error}");
                }
                let now = self.clock.now();
                let counts = vec![LossCount {
                    action: Some("unknown".to_owned()),
                    hook: None,
                    verdict: "unknown".to_owned(),
                    count: 1,
                }];
                let event = lost(now.clone(), Stage::Queue, counts, now.clone(), now);
                self.sinks.emit(&event);
            }
        }
    }

    fn dropped(&mut self, since: &str) {
        let dropped = self.dropped.take();
        if dropped.is_empty() {
            return;
        }
        let counts: Vec<LossCount> = dropped
            .into_iter()
            .map(|((action, verdict), count)| LossCount {
                action: Some(action.to_owned()),
                hook: None,
                verdict: verdict.to_owned(),
                count,
            })
            .collect();
        let count: u64 = counts.iter().map(|count| count.count).sum();
        self.shared.lost_queue.fetch_add(count, Ordering::Relaxed);
        let now = self.clock.now();
        let event = lost(now.clone(), Stage::Queue, counts, since.to_owned(), now);
        self.sinks.emit(&event);
    }
}

enum Next {
    Message(Option<Message>),
    Record(Option<Vec<u8>>),
    Nothing,
}
