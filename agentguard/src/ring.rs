//! The two rings, drained. It never waits for anybody: what the queue can't take is counted and
//! dropped, and records are copied out undecoded. Denials have a queue of their own and go first.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, Mutex, PoisonError},
};

use aya::maps::{MapData, RingBuf};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc::{self, error::TrySendError},
};

pub mod record;

pub use record::Record;

/// Records waiting to be decoded, for each of the two rings.
pub const QUEUE: usize = 16_384;

/// Records drained before other tasks have a turn.
const RUN: usize = 1024;

/// What was dropped in front of a full queue, by action and verdict.
#[derive(Debug, Default)]
pub struct Dropped {
    counts: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
}

impl Dropped {
    /// Counts one.
    pub fn count(&self, action: &'static str, verdict: &'static str) {
        *self.lock().entry((action, verdict)).or_default() += 1;
    }

    /// Takes what was counted since the last time.
    pub fn take(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(&'static str, &'static str), u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The other end of the rings.
#[derive(Debug)]
pub struct Records {
    pub denials: mpsc::Receiver<Vec<u8>>,
    pub allowed: mpsc::Receiver<Vec<u8>>,
}

impl Records {
    /// The next record, denials first; `None` when the rings are gone.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        tokio::select! {
            biased;
            Some(record) = self.denials.recv() => Some(record),
            Some(record) = self.allowed.recv() => Some(record),
            else => None,
        }
    }

    /// The next record if there is one right now, denials first.
    pub fn try_next(&mut self) -> Option<Vec<u8>> {
        self.denials
            .try_recv()
            .or_else(|_| self.allowed.try_recv())
            .ok()
    }
}

/// A ring as something with a descriptor that doesn't move.
struct Ring(RingBuf<MapData>);

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Drains the rings into queues, for as long as the runtime lives.
pub fn drain(rings: [RingBuf<MapData>; 2], dropped: &Arc<Dropped>) -> io::Result<Records> {
    let [denials, events] = rings;
    Ok(Records {
        denials: drain_one(denials, Arc::clone(dropped))?,
        allowed: drain_one(events, Arc::clone(dropped))?,
    })
}

fn drain_one(ring: RingBuf<MapData>, dropped: Arc<Dropped>) -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (queue, records) = mpsc::channel(QUEUE);
    // SAFETY: the ring owns its descriptor, which neither changes nor closes while the ring lives,
    // and nothing but this value drops it.
    let mut ring = unsafe { AsyncFd::register_with_interest(Ring(ring), Interest::READABLE) }?;
    tokio::spawn(async move {
        loop {
            // What came before the first wake-up, or between the last look and its end.
            let mut run = 0;
            while let Some(item) = ring.get_mut().0.next() {
                run += 1;
                if run % RUN == 0 {
                    tokio::task::yield_now().await;
                }
                match queue.try_send(item.to_vec()) {
                    Ok(()) => {}
                    Err(TrySendError::Full(bytes)) => {
                        let (action, verdict) = record::peek(&bytes);
                        dropped.count(action, verdict);
                    }
                    Err(TrySendError::Closed(_)) => return,
                }
            }
            match ring.readable_mut().await {
                Ok(mut guard) => guard.clear_ready(),
                Err(error) => {
                    tracing::error!("cannot wait for a ring: {error}");
                    return;
                }
            }
        }
    });
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn denials_go_first() {
        let (denial, denials) = mpsc::channel(4);
        let (allow, allowed) = mpsc::channel(4);
        let mut records = Records { denials, allowed };
        allow.try_send(vec![1]).expect("room");
        denial.try_send(vec![2]).expect("room");
        assert_eq!(records.next().await, Some(vec![2]));
        assert_eq!(records.try_next(), Some(vec![1]));
        assert_eq!(records.try_next(), None);
        drop((denial, allow));
        assert_eq!(records.next().await, None);
    }

    #[test]
    fn what_was_dropped_is_counted_once() {
        let dropped = Dropped::default();
        dropped.count("file.open", "allow");
        dropped.count("file.open", "allow");
        assert_eq!(dropped.take()[&("file.open", "allow")], 2);
        assert!(dropped.take().is_empty());
    }
}
