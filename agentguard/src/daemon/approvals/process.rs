//! A held process: known for good by a descriptor, so that nobody else ever gets its signal.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd, OwnedFd, RawFd},
    sync::Arc,
};

use agentguard_common::approval::RequestKey;
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
    task::AbortHandle,
};

use super::Notice;
use crate::event::process;

/// One process.
#[derive(Clone, Debug)]
pub struct Process(Arc<OwnedFd>);

/// Whether the process with this number is the one that began then.
pub fn is(pid: u32, start_ns: u64) -> bool {
    process::began(pid) == Some(process::ticks(start_ns))
}

/// When a process began, in the unit of `/proc`.
#[cfg(test)]
pub(super) fn ticks_of(pid: u32) -> Option<u64> {
    process::began(pid)
}

impl Process {
    /// The process of a request; `None` when it has ended.
    pub fn of(key: RequestKey) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(key.pid).ok()?)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // After it was opened: from here on the descriptor means this process and no later one of its number.
        is(key.pid, key.start_ns).then(|| Self(Arc::new(pidfd)))
    }

    /// Lets it make its call again.
    pub fn resume(&self) {
        match rustix::process::pidfd_send_signal(self.0.as_fd(), Signal::CONT) {
            // It has ended meanwhile.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::error!("cannot continue a held process: {error}"),
        }
    }

    /// Says when it ends.
    pub fn watch(
        &self,
        key: RequestKey,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> io::Result<Watched> {
        // SAFETY: the descriptor is kept by the value, and neither changes nor closes while that lives.
        let end = unsafe {
            AsyncFd::register_with_interest(End(Arc::clone(&self.0)), Interest::READABLE)
        }?;
        let task = tokio::spawn(async move {
            if end.readable().await.is_ok() {
                // Only at the very end is nobody there to take it.
                let _ = notices.send(Notice::Ended(key));
            }
        });
        Ok(Watched(task.abort_handle()))
    }
}

/// A descriptor that is readable when its process has ended.
struct End(Arc<OwnedFd>);

impl AsRawFd for End {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Waiting for the end of a process; dropped, it isn't waited for any more.
#[derive(Debug)]
pub struct Watched(AbortHandle);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.abort();
    }
}
