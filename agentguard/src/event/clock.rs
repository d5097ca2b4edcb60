//! From the kernel's boot clock to wall-clock time. Events are ordered by the former and written
//! with the latter.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// A difference between the clocks up to this is jitter of their reading, not a step, in ns.
const JITTER_NS: i64 = 5_000_000;

/// How far the wall clock is ahead of the boot clock.
#[derive(Debug)]
pub struct Clock {
    offset_ns: AtomicI64,
}

impl Clock {
    /// Reads both clocks.
    pub fn new() -> Self {
        Self {
            offset_ns: AtomicI64::new(offset_ns()),
        }
    }

    /// Reads them again. Only when the wall clock was set is the difference replaced, so that times
    /// of the same boot-clock order keep it.
    pub fn adjust(&self) {
        let now = offset_ns();
        if (now - self.offset_ns.load(Ordering::Relaxed)).abs() > JITTER_NS {
            self.offset_ns.store(now, Ordering::Relaxed);
        }
    }

    /// The wall-clock time of a moment on the boot clock.
    pub fn at(&self, boot_ns: u64) -> String {
        render(i128::from(boot_ns) + i128::from(self.offset_ns.load(Ordering::Relaxed)))
    }

    /// The wall-clock time now.
    pub fn now(&self) -> String {
        self.at(boot_ns())
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// RFC 3339 of nanoseconds since the epoch.
pub fn render(epoch_ns: i128) -> String {
    let time = Timestamp::from_nanosecond(epoch_ns).unwrap_or_default();
    format!("{time:.9}")
}

/// The boot clock now, in nanoseconds.
pub fn boot_ns() -> u64 {
    nanoseconds(ClockId::Boottime) as u64
}

/// The wall clock now, in nanoseconds since the epoch.
pub fn wall_ns() -> u64 {
    nanoseconds(ClockId::Realtime) as u64
}

fn offset_ns() -> i64 {
    nanoseconds(ClockId::Realtime) - nanoseconds(ClockId::Boottime)
}

fn nanoseconds(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_digits_and_a_z() {
        assert_eq!(
            render(1_795_169_742_123_456_789),
            "2026-11-20T10:15:42.123456789Z"
        );
        assert_eq!(render(0), "1970-01-01T00:00:00.000000000Z");
    }

    #[test]
    fn a_time_beyond_all_calendars_is_no_panic() {
        assert_eq!(render(i128::MAX), "1970-01-01T00:00:00.000000000Z");
        Clock::new().at(u64::MAX);
    }

    #[test]
    fn order_is_the_boot_clocks() {
        let clock = Clock::new();
        let earlier = clock.at(1_000_000_000);
        clock.adjust();
        assert!(earlier < clock.at(1_000_000_001));
    }
}
