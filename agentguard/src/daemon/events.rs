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

use super::{approvals::Asking, denied::Denied, first::First, losses::Losses};
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
        let _guard = AbortOnPanic;
        self.resume();
        loop {
            // While the log can't be written, records stay in their rings: what finds no room there is
            // counted by the kernel, whatever becomes of this daemon.
            let broken = self.writer.sinks.is_broken();
            let next = runtime.block_on(async {
                tokio::select! {
                    biased;
                    message = self.messages.recv() => Next::Message(message),
                    ready = self.rings.readable(), if !broken => Next::Records(ready),
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
            self.writer.flush();
            self.writer.sinks.tend();
            for _ in 0..BATCH {
                if !self.take() {
                    break;
                }
            }
            self.writer.show();
            if let Some(flushed) = flushed {
                self.writer.sinks.tell_head();
                // Whoever asked may have gone.
                let _ = flushed.send(());
            }
        }
        self.writer.flush();
    }

    /// Takes what was made before now; an agent that never stops must not hold the daemon up.
    fn catch_up(&mut self) {
        let now = boot_ns();
        while self.rings.oldest().is_some_and(|time| time <= now) && self.take() {}
    }

    /// Forgets what an earlier daemon had in hand, unless it is to be taken next and its event was written:
    /// its number may become another event's.
    fn resume(&mut self) {
        let written = self.writer.sinks.written();
        if !is_written(self.in_hand.get(), self.rings.oldest(), written) {
            self.in_hand.set(0, 0);
        }
    }

    /// Deals with the oldest record. False when there is none, or when its event can't be written yet.
    fn take(&mut self) -> bool {
        let Self {
            rings,
            in_hand,
            writer,
            ..
        } = self;
        let taken = rings.take(|bytes| {
            let time = record::time(bytes);
            let hand = in_hand.get();
            if is_written(hand, Some(time), writer.sinks.written()) {
                return true;
            }
            if writer.sinks.is_broken() {
                return false;
            }
            let seq = writer.sinks.seq() + 1;
            in_hand.set(time, seq);
            writer.record(bytes);
            // It may have become no event.
            writer.sinks.seq() < seq || writer.sinks.written() >= seq
        });
        if taken {
            // Another may have been made at the same time, on another processor, and is not the same.
            in_hand.set(0, 0);
        }
        taken
    }
}

/// Whether the oldest record is the one that was in hand, (its time, its event's number), and its event is
/// in the log, whose last number is `written`.
fn is_written((time, seq): (u64, u64), oldest: Option<u64>, written: u64) -> bool {
    time != 0 && oldest == Some(time) && seq <= written
}

/// A daemon whose log has silently ended is worse than one that is started again.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
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
    asking: Asking,
    first: First,
    denied: Arc<Denied>,
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
        denied: Arc<Denied>,
        asking: Asking,
    ) -> Self {
        Self {
            last_look: clock.now(),
            sinks,
            names,
            clock,
            losses,
            shared,
            asking,
            first: First::default(),
            denied,
            processes: Processes::default(),
        }
    }

    fn emit(&mut self, event: &Event) {
        self.sinks.emit(event);
        self.denied.note(event);
    }

    /// Tells what the kernel lost since it was last told.
    fn losses(&mut self, counters: &[u64]) {
        if self.sinks.is_broken() {
            // They are kept where they are.
            return;
        }
        let counts = self.losses.news(counters);
        let now = self.clock.now();
        let since = std::mem::replace(&mut self.last_look, now.clone());
        if !counts.is_empty() {
            let event = lost(now.clone(), Stage::Kernel, counts, since, now);
            self.sinks.emit(&event);
        }
        // Told twice is better than not at all.
        self.losses.told(counters);
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
            if record.held {
                self.asking.keep(&record, bytes);
            }
            self.sinks.emit(&event);
            self.denied.note(&event);
        }
        if record.held {
            self.asking.tell(record);
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
        self.show();
    }

    /// Lets others see how the log is.
    fn show(&self) {
        *self
            .shared
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = self.sinks.log_state();
    }
}

#[cfg(test)]
mod tests {
    use super::is_written;

    #[test]
    fn a_record_is_left_out_only_when_it_is_the_one_in_hand_and_its_event_is_in_the_log() {
        assert!(is_written((7, 3), Some(7), 3));
        assert!(is_written((7, 3), Some(7), 9));
        // Killed before the line was there, or the line was torn and cut.
        assert!(!is_written((7, 3), Some(7), 2));
        // Taken already; the next one is another.
        assert!(!is_written((7, 3), Some(8), 3));
        assert!(!is_written((7, 3), None, 3));
        // Nothing was in hand; a record that is too short has the time 0.
        assert!(!is_written((0, 0), Some(0), 3));
    }
}
