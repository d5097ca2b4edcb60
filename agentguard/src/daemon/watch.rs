//! inotify for a set of paths that changes: says that something happened, never what. Whoever is told
//! looks for himself, so that nothing depends on events that were merged or dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::RawFd,
    path::PathBuf,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::{Interest, unix::AsyncFd};

/// A descriptor that doesn't move.
struct Source(Inotify);

impl std::os::fd::AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        use std::os::fd::AsFd as _;
        self.0.as_fd().as_raw_fd()
    }
}

/// The watched paths.
pub struct Watch {
    source: AsyncFd<Source>,
    flags: AddWatchFlags,
    paths: BTreeMap<PathBuf, WatchDescriptor>,
}

impl Watch {
    /// Watches nothing yet.
    pub fn new(flags: AddWatchFlags) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // SAFETY: the source owns its descriptor, which neither changes nor closes while it lives.
        let source =
            unsafe { AsyncFd::register_with_interest(Source(inotify), Interest::READABLE) }?;
        Ok(Self {
            source,
            flags,
            paths: BTreeMap::new(),
        })
    }

    /// Watches exactly these paths. One that isn't there is left out; `false` when a path can't be
    /// watched for another reason, which is logged.
    pub fn set(&mut self, wanted: BTreeSet<PathBuf>) -> bool {
        let inotify = &self.source.get_ref().0;
        self.paths.retain(|path, descriptor| {
            let keep = wanted.contains(path);
            if !keep {
                // The kernel may have dropped it itself when the path went.
                let _ = inotify.rm_watch(*descriptor);
            }
            keep
        });
        let mut whole = true;
        for path in wanted {
            // Again for those that are known: what is at the path may be another file now.
            match inotify.add_watch(&path, self.flags) {
                Ok(descriptor) => {
                    self.paths.insert(path, descriptor);
                }
                Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => {
                    self.paths.remove(&path);
                }
                Err(error) => {
                    tracing::warn!("cannot watch {}: {error}", path.display());
                    self.paths.remove(&path);
                    whole = false;
                }
            }
        }
        whole
    }

    /// Waits until something happened.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.source.readable_mut().await?;
            let mut some = false;
            loop {
                match guard.get_inner().0.read_events() {
                    Ok(events) => some |= !events.is_empty(),
                    Err(nix::Error::EAGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            guard.clear_ready();
            if some {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_told_and_a_missing_path_is_fine() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut watch = Watch::new(AddWatchFlags::IN_CREATE).expect("made");
        let here = directory.path().to_owned();
        assert!(watch.set(BTreeSet::from([here.clone(), here.join("none")])));
        std::fs::write(here.join("file"), "").expect("written");
        watch.changed().await.expect("told");
        assert!(watch.set(BTreeSet::new()));
        assert!(watch.paths.is_empty());
    }
}
