//! The two rings, read where they lie. A record leaves its ring only when it was dealt with, so that a
//! daemon that is killed at any moment finds it again; what finds no room in a ring, the kernel counts.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use aya::maps::{MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};

pub mod record;

pub use record::Record;

/// A ring as something with a descriptor that doesn't move.
struct Ring(RingBuf<MapData>);

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Ring {
    /// When its next record was made (boot clock, in nanoseconds), if there is one. It stays there.
    fn time(&mut self) -> Option<u64> {
        let item = self.0.next()?;
        let time = record::time(&item);
        // Dropped, it would be gone.
        std::mem::forget(item);
        Some(time)
    }
}

/// The daemon's ends of the rings.
pub struct Rings {
    denials: AsyncFd<Ring>,
    allowed: AsyncFd<Ring>,
}

impl Rings {
    /// Of denials, and of allowed actions. To be called within a runtime.
    pub fn new([denials, allowed]: [RingBuf<MapData>; 2]) -> io::Result<Self> {
        let register = |ring| {
            // SAFETY: the ring owns its descriptor, which neither changes nor closes while the ring lives,
            // and nothing but this value drops it.
            unsafe { AsyncFd::register_with_interest(Ring(ring), Interest::READABLE) }
                .map_err(io::Error::from)
        };
        Ok(Self {
            denials: register(denials)?,
            allowed: register(allowed)?,
        })
    }

    /// Waits until a ring holds a record. Loses nothing when it is cancelled.
    pub async fn readable(&mut self) -> io::Result<()> {
        loop {
            // What came before the first wake-up, or between the last look and its end.
            if self.oldest().is_some() {
                return Ok(());
            }
            tokio::select! {
                guard = self.denials.readable_mut() => guard?.clear_ready(),
                guard = self.allowed.readable_mut() => guard?.clear_ready(),
            }
        }
    }

    /// When the oldest record was made (boot clock, in nanoseconds).
    pub fn oldest(&mut self) -> Option<u64> {
        self.next().map(|(time, _)| time)
    }

    /// The ring whose next record is the older one: the order of events is the kernel's.
    fn next(&mut self) -> Option<(u64, &mut Ring)> {
        let denied = self.denials.get_mut().time();
        let allowed = self.allowed.get_mut().time();
        match (denied, allowed) {
            (Some(denied), Some(allowed)) if allowed < denied => {
                Some((allowed, self.allowed.get_mut()))
            }
            (Some(denied), _) => Some((denied, self.denials.get_mut())),
            (None, Some(allowed)) => Some((allowed, self.allowed.get_mut())),
            (None, None) => None,
        }
    }

    /// Takes the oldest record when `deal` says that it is done with it; otherwise it stays. False when
    /// none was taken.
    pub fn take(&mut self, deal: impl FnOnce(&[u8]) -> bool) -> bool {
        let Some(item) = self.next().and_then(|(_, ring)| ring.0.next()) else {
            return false;
        };
        let done = deal(&item);
        if !done {
            // Dropped, it would be gone.
            std::mem::forget(item);
        }
        done
    }
}
