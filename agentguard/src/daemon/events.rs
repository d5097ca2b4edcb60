//! The thread that turns records into events and hands them to the sinks. It alone touches the rings and
//! the sinks, and no verdict waits for it.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;

use super::{first::First, losses::Losses};
use crate::{
    event::{Clock, Event, Processes, Stage, clock::boot_ns, enrich, lifecycle::LossCount},
    names::Names,
    ring::{Record, Rings, record},
    sink::{LogState, Sinks, lost},
    tables::InHand,
};

/// Records taken before messages have a turn.
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
    pub rings: Rings,
    pub in_hand: InHand,
    pub messages: mpsc::UnboundedReceiver<Message>,
    pub writer: Writer,
}

impl Worker {
    /// Works until all senders are gone. Runs on a thread of its own: sinks block.
    pub fn run(mut self, runtime: &tokio::runtime::Handle) {
        self.resume();
        loop {
            let next = runtime.block_on(async {
                tokio::select! {
                    biased;
                    message = self.messages.recv() => Next::Message(message),
                    ready = self.rings.readable() => Next::Records(ready),
                    () = tokio::time::sleep(RETRY) => Next::Nothing,
                }
            });
            let mut flushed = None;
            match next {
                Next::Message(None) => break,
                Next::Message(Some(Message::Event(event))) => self.writer.emit(&event),
                Next::Message(Some(Message::Counters(counters))) => self.writer.losses(&counters),
                Next::Message(Some(Message::Flush(sender))) => {
                    self.catch_up();
                    flushed = Some(sender);
                }
                Next::Records(Ok(())) | Next::Nothing => {}
                Next::Records(Err(error)) => {
                    tracing::error!("cannot wait for the rings: {error}; looking every second");
                    std::thread::sleep(RETRY);
                }
            }
            for _ in 0..BATCH {
                if !self.take() {
                    break;
                }
            }
            self.writer.flush();
            if let Some(flushed) = flushed {
                // Whoever asked may have gone.
                let _ = flushed.send(());
            }
        }
        self.writer.flush();
    }

    /// Takes what was made before now; an agent that never stops must not hold the daemon up.
    fn catch_up(&mut self) {
        let now = boot_ns();
        while self.rings.oldest().is_some_and(|time| time <= now) {
            self.take();
        }
    }

    /// A daemon that was killed may have written the event of a record and not have taken the record.
    fn resume(&mut self) {
        let (time, seq) = self.in_hand.get();
        if time != 0 && self.rings.oldest() == Some(time) && seq <= self.writer.sinks.seq() {
            self.rings.take(|_| ());
        }
    }

    /// Deals with the oldest record. False when there is none.
    fn take(&mut self) -> bool {
        self.rings.take(|bytes| {
            self.in_hand
                .set(record::time(bytes), self.writer.sinks.seq() + 1);
            self.writer.record(bytes);
        })
    }
}

enum Next {
    Message(Option<Message>),
    Records(io::Result<()>),
    Nothing,
}

/// What turns records into events and hands them to the sinks.
pub struct Writer {
    sinks: Sinks,
    names: Names,
    clock: Arc<Clock>,
    losses: Losses,
    shared: Arc<Shared>,
    first: First,
    processes: Processes,
    /// When losses were last looked for.
    last_look: String,
}

impl Writer {
    pub fn new(
        sinks: Sinks,
        names: Names,
        clock: Arc<Clock>,
        losses: Losses,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            last_look: clock.now(),
            sinks,
            names,
            clock,
            losses,
            shared,
            first: First::default(),
            processes: Processes::default(),
        }
    }

    fn emit(&mut self, event: &Event) {
        self.sinks.emit(event);
    }

    /// Tells what the kernel lost since it was last told.
    fn losses(&mut self, counters: &[u64]) {
        let counts = self.losses.tell(counters);
        let now = self.clock.now();
        let since = std::mem::replace(&mut self.last_look, now.clone());
        if !counts.is_empty() {
            let event = lost(now.clone(), Stage::Kernel, counts, since, now);
            self.sinks.emit(&event);
        }
    }

    fn record(&mut self, bytes: &[u8]) {
        let record = match Record::decode(bytes) {
            Ok(record) => record,
            Err(error) => {
                self.undecodable(&error);
                return;
            }
        };
        if self.shared.is_canary(&record) {
            return;
        }
        let header = &record.header;
        let fold = self
            .names
            .agent(header.agent)
            .and_then(|agent| self.names.profile(header.install, agent.slot))
            .is_some_and(|profile| profile.log_first);
        if !(fold && self.first.seen(&record)) {
            let event = enrich::event(&record, &self.names, &self.clock, &mut self.processes);
            self.sinks.emit(&event);
        }
    }

    fn undecodable(&mut self, error: &record::Error) {
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
        let event = lost(now.clone(), Stage::Decode, counts, now.clone(), now);
        self.sinks.emit(&event);
    }

    fn flush(&mut self) {
        self.sinks.flush();
        *self
            .shared
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = self.sinks.log_state();
    }
}
