//! Cgroups as directories of the v2 hierarchy: opened, made, removed, looked at. Which of them is
//! tagged is not known here.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{FileExt as _, MetadataExt as _},
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use agentguard_common::limits::TAG_LEVELS;
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::{Mode, OFlags},
};

use crate::loader::requirements::CGROUP_ROOT;

/// Where the daemon makes the cgroups of the agents it starts.
const PARENT: &str = "agentguard.slice";
/// How long processes may take to stand still.
const STILL_WITHIN: Duration = Duration::from_secs(5);
/// Cgroups that are removed with one agent at most.
const MAX_REMOVED: usize = 100_000;

/// A cgroup can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no cgroup {}: {source}", path.display())]
    Missing { path: PathBuf, source: io::Error },
    #[error("{} is not below {CGROUP_ROOT}", path.display())]
    Outside { path: PathBuf },
    #[error("the root cgroup can't be tagged: every process would be an agent's")]
    Root,
    #[error("the cgroup {} is {level} levels deep; at most {} can be tagged", path.display(), TAG_LEVELS - 1)]
    Deep { path: PathBuf, level: u32 },
    #[error("cannot write {}, by which a later daemon would have the processes move again: {source}; nothing was frozen", path.display())]
    Note { path: PathBuf, source: io::Error },
    #[error("cannot {operation} the cgroup {}: {source}", path.display())]
    Failed {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the cgroup {} is the daemon's own, or above it: it can't hold itself to a profile", path.display())]
    Daemon { path: PathBuf },
    #[error(
        "a process in the cgroup {} doesn't stand still within {} seconds, so that nobody can say what it has open; find it by its state D in ps, end it, and try again",
        path.display(),
        STILL_WITHIN.as_secs()
    )]
    Restless { path: PathBuf },
    #[error("the cgroup {} is left from an earlier agent and has processes in it", path.display())]
    Populated { path: PathBuf },
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Failed {
        operation,
        path,
        source,
    }
}

/// An open cgroup.
#[derive(Debug)]
pub struct Cgroup {
    directory: OwnedFd,
    path: PathBuf,
    id: u64,
    level: u32,
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Cgroup {
    /// Opens the cgroup at `path`, absolute or below the root of the hierarchy.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let path = if path.starts_with(CGROUP_ROOT) {
            path.to_owned()
        } else {
            // What is absolute may also be written as systemd and /proc/PID/cgroup do.
            let relative = path.strip_prefix("/").unwrap_or(path);
            Path::new(CGROUP_ROOT).join(relative)
        };
        let path = path.canonicalize().map_err(|source| Error::Missing {
            path: path.clone(),
            source,
        })?;
        let level = level(&path)?;
        let directory = rustix::fs::open(
            &path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|source| Error::Missing {
            path: path.clone(),
            source: source.into(),
        })?;
        // cgroup2's inode number is the cgroup's id on 64-bit machines.
        let id = rustix::fs::fstat(&directory)
            .map_err(|error| failed("look at", &path)(error.into()))?
            .st_ino;
        Ok(Self {
            directory,
            path,
            id,
            level,
        })
    }

    /// Makes the cgroup of a new agent, empty. What an ended agent left under that name is taken
    /// away first.
    pub fn create(agent: &str) -> Result<Self, Error> {
        let parent = Path::new(CGROUP_ROOT).join(PARENT);
        match fs::create_dir(&parent) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.map_err(failed("make", &parent))?,
        }
        let path = parent.join(format!("agent-{agent}.scope"));
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if Self::open(&path)?.is_populated() != Some(false) {
                    return Err(Error::Populated { path });
                }
                remove(&path)?;
                fs::create_dir(&path).map_err(failed("make", &path))?;
            }
            result => result.map_err(failed("make", &path))?,
        }
        Self::open(&path)
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether there are processes in it or below; `None` when it is gone.
    pub fn is_populated(&self) -> Option<bool> {
        is_populated(&self.path, self.id)
    }

    /// Depth below the root, which is 0.
    pub fn level(&self) -> u32 {
        self.level
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has every process in it and below stand still until the answer is dropped, and waits until they do. Meanwhile
    /// the file `note` names it, so that [`thaw_left`] has them move when this process is killed.
    pub fn freeze(&self, note: &Path) -> Result<Frozen, Error> {
        let file = self.path.join("cgroup.freeze");
        if of_process(std::process::id()).is_some_and(|own| own.starts_with(&self.path)) {
            return Err(Error::Daemon {
                path: self.path.clone(),
            });
        }
        let before = fs::read_to_string(&file).map_err(failed("look at", &self.path))?;
        let thaw = before.trim() == "0";
        if thaw {
            fs::write(note, self.path.as_os_str().as_bytes()).map_err(|source| Error::Note {
                path: note.to_owned(),
                source,
            })?;
        }
        let frozen = Frozen {
            thaw: thaw.then(|| (file.clone(), note.to_owned())),
        };
        fs::write(&file, "1").map_err(failed("freeze", &self.path))?;
        let events = self.path.join("cgroup.events");
        let events = File::open(&events).map_err(failed("look at", &self.path))?;
        let deadline = Instant::now() + STILL_WITHIN;
        // cgroup.events is polled for POLLPRI (Documentation/admin-guide/cgroup-v2.rst).
        while !is_frozen(&events).map_err(failed("look at", &self.path))? {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut waiting = [PollFd::new(&events, PollFlags::PRI)];
            let left = Timespec::try_from(left).unwrap_or_default();
            let ready = match rustix::event::poll(&mut waiting, Some(&left)) {
                Err(rustix::io::Errno::INTR) => continue,
                ready => ready.map_err(|error| failed("freeze", &self.path)(error.into()))?,
            };
            if ready == 0 {
                return Err(Error::Restless {
                    path: self.path.clone(),
                });
            }
        }
        Ok(frozen)
    }
}

/// Processes that stand still as long as this is there.
#[derive(Debug)]
pub struct Frozen {
    /// `None` when somebody else has them stand still.
    thaw: Option<(PathBuf, PathBuf)>,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let Some((file, note)) = &self.thaw else {
            return;
        };
        thaw(file);
        if let Err(error) = fs::remove_file(note) {
            tracing::error!("cannot remove {}: {error}", note.display());
        }
    }
}

/// Has the processes move again that a daemon left standing still which was killed ([`Cgroup::freeze`]).
pub fn thaw_left(note: &Path) {
    let Ok(path) = fs::read(note) else { return };
    let path = Path::new(OsStr::from_bytes(&path));
    tracing::warn!(
        "an earlier daemon ended while it tagged {}; its processes move again",
        path.display()
    );
    thaw(&path.join("cgroup.freeze"));
    let _ = fs::remove_file(note);
}

fn thaw(file: &Path) {
    if let Err(error) = fs::write(file, "0")
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::error!(
            "cannot thaw a cgroup: {error}; write 0 to {}",
            file.display()
        );
    }
}

fn is_frozen(events: &File) -> io::Result<bool> {
    let mut text = [0; 256];
    let length = events.read_at(&mut text, 0)?;
    Ok(text[..length]
        .split(|byte| *byte == b'\n')
        .any(|line| line == b"frozen 1"))
}

/// The depth of a cgroup that can be tagged.
fn level(path: &Path) -> Result<u32, Error> {
    let relative = path.strip_prefix(CGROUP_ROOT).map_err(|_| Error::Outside {
        path: path.to_owned(),
    })?;
    let level = relative.components().count() as u32;
    match level {
        0 => Err(Error::Root),
        level if level >= TAG_LEVELS => Err(Error::Deep {
            path: path.to_owned(),
            level,
        }),
        level => Ok(level),
    }
}

/// Whether the daemon made the cgroup at this path.
pub fn is_own(path: &Path) -> bool {
    path.parent() == Some(&Path::new(CGROUP_ROOT).join(PARENT))
        && path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with("agent-") && name.ends_with(".scope"))
}

/// Whether there are processes in the cgroup with this id or below; `None` when it is gone, be it that
/// another one has been made at its path.
pub fn is_populated(path: &Path, id: u64) -> Option<bool> {
    if fs::metadata(path).ok()?.ino() != id {
        return None;
    }
    let events = fs::read_to_string(path.join("cgroup.events")).ok()?;
    events
        .lines()
        .find_map(|line| line.strip_prefix("populated "))
        .map(|value| value.trim() == "1")
}

/// Removes an empty cgroup with all that are below it.
pub fn remove(path: &Path) -> Result<(), Error> {
    for path in with_all_below(path)
        .take(MAX_REMOVED)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
    {
        match fs::remove_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(failed("remove", &path))?,
        }
    }
    Ok(())
}

/// The paths of the cgroups with these ids, in one walk over the hierarchy.
pub fn paths(ids: &[u64]) -> Vec<(u64, PathBuf)> {
    if ids.is_empty() {
        return Vec::new();
    }
    with_all_below(Path::new(CGROUP_ROOT))
        .filter_map(|path| Some((fs::metadata(&path).ok()?.ino(), path)))
        .filter(|(id, _)| ids.contains(id))
        .collect()
}

/// The processes in the cgroup and below.
pub fn processes(path: &Path) -> Result<Vec<u32>, Error> {
    let mut processes = Vec::new();
    for path in with_all_below(path) {
        let listed = match fs::read_to_string(path.join("cgroup.procs")) {
            // A threaded cgroup tells of threads alone (Documentation/admin-guide/cgroup-v2.rst, "Threads").
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                fs::read_to_string(path.join("cgroup.threads"))
            }
            listed => listed,
        };
        match listed {
            Err(error) if is_gone(&error) => {}
            listed => processes.extend(
                listed
                    .map_err(failed("look at", &path))?
                    .lines()
                    .filter_map(|line| line.parse::<u32>().ok()),
            ),
        }
    }
    Ok(processes)
}

/// Whether a cgroup was removed meanwhile.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// A cgroup and all that are below it, each after the one above.
fn with_all_below(path: &Path) -> impl Iterator<Item = PathBuf> {
    let mut stack = vec![path.to_owned()];
    std::iter::from_fn(move || {
        let next = stack.pop()?;
        if let Ok(entries) = fs::read_dir(&next) {
            stack.extend(
                entries
                    .flatten()
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
        Some(next)
    })
}

/// The cgroup of a process, as a path of the hierarchy; `None` when the process is gone.
pub fn of_process(pid: u32) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(CGROUP_ROOT).join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_counted_from_the_root() {
        let at = |path: &str| level(&Path::new(CGROUP_ROOT).join(path));
        assert_eq!(at("a.slice").expect("a level"), 1);
        assert_eq!(at("a.slice/b.scope").expect("a level"), 2);
        assert!(matches!(level(Path::new(CGROUP_ROOT)), Err(Error::Root)));
        assert!(matches!(at(&"x/".repeat(31)), Ok(31)));
        assert!(matches!(
            at(&"x/".repeat(32)),
            Err(Error::Deep { level: 32, .. })
        ));
        assert!(matches!(
            level(Path::new("/tmp")),
            Err(Error::Outside { .. })
        ));
    }

    #[test]
    fn own_cgroups_are_known_by_their_place() {
        assert!(is_own(Path::new(
            "/sys/fs/cgroup/agentguard.slice/agent-a.scope"
        )));
        assert!(!is_own(Path::new("/sys/fs/cgroup/x/agent-a.scope")));
        assert!(!is_own(Path::new("/sys/fs/cgroup/agentguard.slice/x")));
    }
}
