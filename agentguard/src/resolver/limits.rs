//! How much one may ask: a resolver carries data out of a machine, in the names that are asked for.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Questions of one asker in a second, and how many it may have saved up. A page with many hosts asks some hundred.
const PER_SECOND: f64 = 50.0;
const SAVED_UP: f64 = 300.0;
/// Questions of one asker that wait for an answer at once, and of all.
const WAITING_OF_ONE: usize = 256;
const WAITING: usize = 1024;
/// How often it is told that somebody asks too much.
const TELL: Duration = Duration::from_secs(1);

/// What is counted.
#[derive(Default)]
pub struct Limits {
    askers: Mutex<HashMap<u64, Asker>>,
    waiting: Arc<AtomicUsize>,
}

struct Asker {
    /// Questions that it may ask now.
    saved: f64,
    at: Instant,
    waiting: Arc<AtomicUsize>,
    told: Option<Instant>,
}

/// A question that waits, as long as this lives.
pub struct Place([Arc<AtomicUsize>; 2]);

impl Drop for Place {
    fn drop(&mut self) {
        for count in &self.0 {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Limits {
    /// Counts a question. `None` when it is one too many.
    pub fn enter(&self, key: u64) -> Option<Place> {
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if askers.len() > WAITING {
            // Who has saved up everything is as good as new.
            askers.retain(|_, asker| {
                asker.waiting.load(Ordering::Relaxed) > 0 || asker.at.elapsed() < TELL * 60
            });
        }
        let asker = askers.entry(key).or_insert_with(|| Asker {
            saved: SAVED_UP,
            at: now,
            waiting: Arc::default(),
            told: None,
        });
        let more = now.duration_since(asker.at).as_secs_f64() * PER_SECOND;
        asker.saved = (asker.saved + more).min(SAVED_UP);
        asker.at = now;
        if asker.saved < 1.0
            || asker.waiting.load(Ordering::Relaxed) >= WAITING_OF_ONE
            || self.waiting.load(Ordering::Relaxed) >= WAITING
        {
            return None;
        }
        asker.saved -= 1.0;
        let counts = [Arc::clone(&asker.waiting), Arc::clone(&self.waiting)];
        for count in &counts {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Some(Place(counts))
    }

    /// Whether it is time to tell that somebody asks too much.
    pub fn tells(&self, key: u64) -> bool {
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(asker) = askers.get_mut(&key) else {
            return true;
        };
        let tells = asker.told.is_none_or(|told| told.elapsed() >= TELL);
        if tells {
            asker.told = Some(Instant::now());
        }
        tells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_asker_can_use_up_what_is_its_own() {
        let limits = Limits::default();
        let mut places: Vec<Place> = std::iter::from_fn(|| limits.enter(1)).collect();
        assert_eq!(places.len(), WAITING_OF_ONE);
        assert!(limits.tells(1));
        assert!(!limits.tells(1));
        assert!(limits.enter(2).is_some());
        places.clear();
        let asked = std::iter::from_fn(|| limits.enter(1)).count();
        assert!(asked < WAITING_OF_ONE, "{asked}");
    }
}
