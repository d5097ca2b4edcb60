//! How much one asker may ask, and all of them: the names of questions carry data out of a machine,
//! and answers in waiting take memory. It isn't about what is asked.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use lru::LruCache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Questions of one asker in a second, in the long run.
const PER_SECOND: f64 = 50.0;
/// Questions that one asker may have saved up: a build that fetches from many hosts asks for all of
/// them at once.
const BURST: f64 = 200.0;
/// Questions of one asker that wait for an answer at once.
const IN_FLIGHT_OF_ONE: usize = 256;
/// Questions that wait for an answer at once, of all askers. Each has a socket: this stays well
/// below the usual 4096 and more open files of a daemon.
const IN_FLIGHT: usize = 1024;
/// How often it is told that one asker asks too much.
const TELL: Duration = Duration::from_secs(1);
/// Askers that are remembered; the one that was silent longest is forgotten first, and by then has
/// usually saved up its whole burst again.
const ASKERS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// What is counted.
pub(super) struct Limits {
    askers: Mutex<LruCache<u64, Asker>>,
    in_flight: Arc<Semaphore>,
}

struct Asker {
    /// Questions that may be asked now.
    saved: f64,
    /// When that was reckoned.
    at: Instant,
    in_flight: Arc<Semaphore>,
    told: Option<Instant>,
}

/// A question waits for its answer as long as this lives.
pub(super) struct Permit {
    _one: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

/// Which limit was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    One,
    All,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            askers: Mutex::new(LruCache::new(ASKERS)),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
        }
    }
}

impl Limits {
    /// Counts something that was sent. False when it is one too many in this time.
    pub(super) fn take(&self, key: u64, now: Instant) -> bool {
        self.with(key, now, |asker| {
            let seconds = now.saturating_duration_since(asker.at).as_secs_f64();
            asker.saved = (asker.saved + seconds * PER_SECOND).min(BURST);
            asker.at = asker.at.max(now);
            let is_allowed = asker.saved >= 1.0;
            if is_allowed {
                asker.saved -= 1.0;
            }
            is_allowed
        })
    }

    /// Lets a question wait for its answer.
    pub(super) fn enter(&self, key: u64, now: Instant) -> Result<Permit, Over> {
        let one = self.with(key, now, |asker| Arc::clone(&asker.in_flight));
        let one = one.try_acquire_owned().map_err(|_| Over::One)?;
        let all = Arc::clone(&self.in_flight)
            .try_acquire_owned()
            .map_err(|_| Over::All)?;
        Ok(Permit {
            _one: one,
            _all: all,
        })
    }

    /// Whether it is time to tell again that something was one too many.
    pub(super) fn tells(&self, key: u64, now: Instant) -> bool {
        self.with(key, now, |asker| {
            let is_due = asker
                .told
                .is_none_or(|told| now.saturating_duration_since(told) >= TELL);
            if is_due {
                asker.told = Some(now);
            }
            is_due
        })
    }

    fn with<T>(&self, key: u64, now: Instant, does: impl FnOnce(&mut Asker) -> T) -> T {
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        does(askers.get_or_insert_mut(key, || Asker {
            saved: BURST,
            at: now,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_OF_ONE)),
            told: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_so_many_a_second() {
        let limits = Limits::default();
        let start = Instant::now();
        let limits = &limits;
        let taken = |now| std::iter::repeat_with(move || limits.take(1, now)).take_while(|is| *is);
        assert_eq!(taken(start).count(), 200);
        assert_eq!(taken(start + Duration::from_secs(1)).count(), 50);
        assert_eq!(taken(start + Duration::from_secs(3600)).count(), 200);
        assert!(limits.take(2, start));
    }

    #[test]
    fn it_is_told_once_a_second() {
        let limits = Limits::default();
        let start = Instant::now();
        assert!(limits.tells(1, start));
        assert!(!limits.tells(1, start + Duration::from_millis(999)));
        assert!(limits.tells(2, start));
        assert!(limits.tells(1, start + TELL));
    }

    #[test]
    fn so_many_wait_at_once_of_one_and_of_all() {
        let limits = Limits::default();
        let now = Instant::now();
        let mut permits = Vec::new();
        for key in 0..4 {
            permits.extend((0..256).map(|_| limits.enter(key, now).expect("a permit")));
            assert_eq!(limits.enter(key, now).err(), Some(Over::One));
        }
        assert_eq!(limits.enter(5, now).err(), Some(Over::All));
        permits.pop();
        assert!(limits.enter(5, now).is_ok());
        assert!(limits.enter(3, now).is_ok());
    }
}
