//! The log: whole lines only, numbered without holes and chained, across restarts, full disks and files. What a line says
//! is not known here.

pub mod files;
pub mod lines;

use std::{
    borrow::Cow,
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use blake3::Hash;
use jiff::Timestamp;
use serde::Deserialize;

use self::lines::Backwards;
pub use self::{files::FILE, lines::last_lines};
use super::chain;

/// Bytes written at a time at most.
const BATCH: usize = 256 << 10;
/// What the line that closes a file says it is.
pub const CLOSED: &str = "log.closed";
/// What the line says it is that comes before a closed file is removed.
pub const REMOVED: &str = "log.removed";

/// The log can't be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} the log {}: {source}; make it writable for root, or set log.dir in the configuration", path.display())]
pub struct Error {
    pub operation: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

/// What an earlier daemon, or the power, left unfinished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Bytes that were cut off.
    pub cut_bytes: u64,
    /// Number of the last whole line.
    pub after_seq: u64,
}

/// What is looked at of a line: its number, and whether it is about the log.
#[derive(Deserialize)]
pub(super) struct Numbered<'a> {
    pub seq: u64,
    #[serde(borrow, default)]
    pub action: Cow<'a, str>,
}

/// A line of the log, by its number and hash. Whoever knows one knows that nothing before it was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub seq: u64,
    pub hash: Hash,
}

/// What the line that closes a file says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// Number of the closing line.
    pub seq: u64,
    /// The name that the file gets.
    pub file: String,
    pub first_seq: u64,
    /// Lines before the closing one.
    pub lines: u64,
    /// BLAKE3 of all that is before the closing line.
    pub root: Hash,
}

/// The open log.
#[derive(Debug)]
pub struct Log {
    directory: PathBuf,
    path: PathBuf,
    file: File,
    /// Length of the file up to its last whole line.
    len_bytes: u64,
    /// The file's first line: its number, and when it was written.
    first: Option<(u64, Timestamp)>,
    /// The last line that was taken.
    head: Head,
    backlog: VecDeque<String>,
    capacity: usize,
    error: Option<String>,
    #[cfg(test)]
    own: Option<File>,
}

impl Log {
    /// Opens the log in `directory` (made when it isn't there), cuts a torn end off, ends what was begun with a file that
    /// is closed, and goes on with the number after its last. `capacity` lines are kept while it can't be written.
    pub fn open(directory: &Path, capacity: usize) -> Result<(Self, Option<Gap>), Error> {
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| Error {
                operation,
                path,
                source,
            }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(directory)
            .map_err(failed("make the folder of", directory))?;
        let path = directory.join(FILE);
        let mut file = create(&path).map_err(failed("open", &path))?;
        let len = file.metadata().map_err(failed("look at", &path))?.len();
        let last = Last::of(&file).map_err(failed("read the end of", &path))?;
        let whole = last.as_ref().map_or(0, |last| last.end);
        if whole < len {
            file.set_len(whole).map_err(failed("cut", &path))?;
        }
        let mut len_bytes = whole;
        let mut first = first_line(&file).map_err(failed("read the beginning of", &path))?;
        let closed = last.as_ref().is_some_and(|last| last.closes);
        let head = match last {
            Some(last) => last.head,
            None => newest_closed(directory).map_err(failed("read the files beside", &path))?,
        };
        if whole > 0 && first.is_none() {
            // Somebody has been at its first line. Its name is to be another than any.
            first = Some((head.seq, Timestamp::now()));
        }
        if closed && let Some((seq, _)) = first {
            put_away(directory, &path, seq).map_err(failed("rename", &path))?;
            file = create(&path).map_err(failed("open", &path))?;
            (len_bytes, first) = (0, None);
        }
        let gap = (whole < len).then_some(Gap {
            cut_bytes: len - whole,
            after_seq: head.seq,
        });
        let log = Self {
            directory: directory.to_owned(),
            path,
            file,
            len_bytes,
            first,
            head,
            backlog: VecDeque::new(),
            capacity,
            error: None,
            #[cfg(test)]
            own: None,
        };
        Ok((log, gap))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder with all of its files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Number of the last line that was taken.
    pub fn seq(&self) -> u64 {
        self.head.seq
    }

    /// The last line, once it and all before it are on the disk. None while some wait to be written, or there is none.
    pub fn head_on_disk(&self) -> io::Result<Option<Head>> {
        if !self.backlog.is_empty() || self.head.seq == 0 {
            return Ok(None);
        }
        self.file.sync_data()?;
        Ok(Some(self.head))
    }

    /// The last line that was taken, unless none was.
    pub fn head(&self) -> Option<Head> {
        (self.head.seq > 0).then_some(self.head)
    }

    /// Lines waiting to be written.
    pub fn backlog(&self) -> usize {
        self.backlog.len()
    }

    /// Whether no further line can be taken. A healthy log is never full: it is written first.
    pub fn is_full(&mut self) -> bool {
        if self.backlog.len() >= self.capacity && self.error.is_none() {
            self.flush();
        }
        self.backlog.len() >= self.capacity
    }

    /// Why the latest write failed.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Takes the next line, a JSON object, and gives it back as it is written.
    pub fn append(&mut self, line: &str) -> String {
        let (text, hash) = chain::seal(line, self.head.hash);
        self.head = Head {
            seq: self.head.seq + 1,
            hash,
        };
        self.first.get_or_insert((self.head.seq, Timestamp::now()));
        self.backlog.push_back(format!("{text}\n"));
        text
    }

    /// Whether the file is so long or so old that the next one should be begun.
    pub fn is_due(&self, max_bytes: u64, max_age: Duration) -> bool {
        let Some((_, began)) = self.first else {
            return false;
        };
        let age = Duration::try_from(Timestamp::now().duration_since(began)).unwrap_or_default();
        self.backlog.is_empty()
            && self.error.is_none()
            && self.len_bytes > 0
            && (self.len_bytes >= max_bytes || age >= max_age)
    }

    /// Closes the file with the line that is made, and begins the next one. The closing line is given back. On an error
    /// nothing has changed.
    pub fn close(&mut self, line: impl FnOnce(&Closing) -> String) -> io::Result<String> {
        let Some((first_seq, _)) = self.first.filter(|_| self.backlog.is_empty()) else {
            return Err(io::Error::other("lines wait to be written"));
        };
        let closing = Closing {
            seq: self.head.seq + 1,
            file: files::closed_name(first_seq),
            first_seq,
            lines: self.head.seq + 1 - first_seq,
            root: root(&self.file, self.len_bytes)?,
        };
        let (text, hash) = chain::seal(&line(&closing), self.head.hash);
        let before = self.len_bytes;
        self.write(format!("{text}\n").as_bytes())?;
        let next = self.file.sync_data().and_then(|()| {
            put_away(&self.directory, &self.path, first_seq)?;
            create(&self.path).inspect_err(|_| {
                // Whoever opens the log would do the same anew.
                let _ = fs::rename(self.directory.join(&closing.file), &self.path);
            })
        });
        match next {
            Ok(next) => {
                self.file = next;
                self.len_bytes = 0;
                self.first = None;
                self.head = Head {
                    seq: closing.seq,
                    hash,
                };
                Ok(text)
            }
            Err(error) => {
                self.file.set_len(before)?;
                self.len_bytes = before;
                Err(error)
            }
        }
    }

    /// Writes the backlog, whole lines at a time. What can't be written stays in it.
    pub fn flush(&mut self) {
        let mut most = usize::MAX;
        while !self.backlog.is_empty() {
            let mut batch = String::new();
            let mut lines = 0;
            for line in &self.backlog {
                if lines >= most || (lines > 0 && batch.len() + line.len() > BATCH) {
                    break;
                }
                batch.push_str(line);
                lines += 1;
            }
            match self.write(batch.as_bytes()) {
                Ok(()) => {
                    self.backlog.drain(..lines);
                    if self.error.take().is_some() {
                        tracing::info!("the log {} can be written again", self.path.display());
                    }
                }
                // There may be room for some of them.
                Err(_) if lines > 1 => most = 1,
                Err(error) => {
                    if self.error.is_none() {
                        tracing::error!(
                            "cannot write the log {}: {error}; enforcement goes on, events are kept in memory",
                            self.path.display()
                        );
                    }
                    self.error = Some(error.to_string());
                    return;
                }
            }
        }
    }

    /// Writes whole lines or, as far as the file can tell, nothing.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(bytes) {
            // A part may have been written; a reader must not see half a line. Cutting works on a
            // full disk.
            if let Err(error) = self.file.set_len(self.len_bytes) {
                tracing::error!("cannot cut the log {}: {error}", self.path.display());
            }
            return Err(error);
        }
        self.len_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Lets writes go elsewhere.
    #[cfg(test)]
    pub(super) fn redirect(&mut self, path: &str) {
        let other = OpenOptions::new().write(true).open(path).expect("opened");
        self.own = Some(std::mem::replace(&mut self.file, other));
    }

    /// Ends what [`Self::redirect`] began.
    #[cfg(test)]
    pub(super) fn restore(&mut self) {
        self.file = self.own.take().expect("redirected");
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

/// Gives the file its name among the closed ones, and never another's.
fn put_away(directory: &Path, path: &Path, first_seq: u64) -> io::Result<()> {
    let closed = directory.join(files::closed_name(first_seq));
    if closed.exists() {
        let problem = format!("{} is there already", closed.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
    }
    fs::rename(path, closed)?;
    // It has its name already; should that not be on the disk yet, it gets it again when the log is opened.
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
    Ok(())
}

/// BLAKE3 of the first bytes of a file.
fn root(file: &File, len_bytes: u64) -> io::Result<Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 64 << 10];
    let mut at = 0;
    while at < len_bytes {
        let len = (buffer.len() as u64).min(len_bytes - at) as usize;
        file.read_exact_at(&mut buffer[..len], at)?;
        hasher.update(&buffer[..len]);
        at += len as u64;
    }
    Ok(hasher.finalize())
}

/// The last event of a file.
struct Last {
    head: Head,
    /// Where its line ends.
    end: u64,
    /// It closes the file.
    closes: bool,
}

impl Last {
    fn of(file: &File) -> io::Result<Option<Self>> {
        let mut lines = Backwards::new(file)?;
        while let Some((end, line)) = lines.next_line()? {
            if let Ok(event) = serde_json::from_slice::<Numbered<'_>>(&line) {
                let link = chain::Link::of(&line);
                return Ok(Some(Self {
                    head: Head {
                        seq: event.seq,
                        hash: link.map_or(chain::START, |link| link.hash),
                    },
                    end,
                    closes: event.action == CLOSED,
                }));
            }
        }
        Ok(None)
    }
}

/// The last line of a file, if it has any.
pub fn last_head(path: &Path) -> io::Result<Option<Head>> {
    let last = Last::of(&File::open(path)?)?;
    Ok(last.map(|last| last.head))
}

/// Where the files that were closed end.
fn newest_closed(directory: &Path) -> io::Result<Head> {
    let head = match files::closed(directory)?.pop() {
        Some(newest) => last_head(&newest.path)?,
        None => None,
    };
    Ok(head.unwrap_or(Head {
        seq: 0,
        hash: chain::START,
    }))
}

/// The number of a file's first line, and its time; now, if it tells none.
fn first_line(file: &File) -> io::Result<Option<(u64, Timestamp)>> {
    #[derive(Deserialize)]
    struct Event {
        seq: u64,
        time: Option<Timestamp>,
    }
    let mut line = Vec::new();
    io::BufReader::new(file).read_until(b'\n', &mut line)?;
    let first: Option<Event> = serde_json::from_slice(&line).ok();
    Ok(first.map(|first| (first.seq, first.time.unwrap_or_else(Timestamp::now))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, text: &[u8]) {
        std::fs::write(directory.join(FILE), text).expect("written");
    }

    fn text(directory: &Path) -> String {
        std::fs::read_to_string(directory.join(FILE)).expect("read")
    }

    /// Appends lines with the next numbers.
    fn append(log: &mut Log, count: u64) {
        for _ in 0..count {
            let line = format!("{{\"seq\":{}}}", log.seq() + 1);
            log.append(&line);
        }
        log.flush();
    }

    fn close(log: &mut Log) -> io::Result<String> {
        log.close(|closing| format!("{{\"seq\":{},\"action\":\"{CLOSED}\"}}", closing.seq))
    }

    /// The lines of all files, which must hang together.
    fn chained(directory: &Path) -> Vec<u64> {
        let lines = last_lines(&directory.join(FILE), usize::MAX, |_| true).expect("read");
        let mut prev = chain::START;
        lines
            .iter()
            .map(|line| {
                let link = chain::Link::of(line).expect("a link");
                assert!(link.holds && link.prev == prev);
                prev = link.hash;
                let line: serde_json::Value = serde_json::from_slice(line).expect("JSON");
                line["seq"].as_u64().expect("a number")
            })
            .collect()
    }

    #[test]
    fn numbers_and_hashes_go_on_after_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        for expected in 1..=3 {
            let (mut log, gap) = Log::open(directory.path(), 8).expect("opened");
            assert_eq!(gap, None);
            append(&mut log, 1);
            assert_eq!(log.seq(), expected);
        }
        assert_eq!(chained(directory.path()), [1, 2, 3]);
    }

    #[test]
    fn a_file_is_closed_and_the_next_goes_on() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut log, _) = Log::open(directory.path(), 8).expect("opened");
        assert!(!log.is_due(0, Duration::ZERO), "nothing to close");
        append(&mut log, 2);
        assert!(log.is_due(10, Duration::MAX) && log.is_due(u64::MAX, Duration::ZERO));
        assert!(!log.is_due(u64::MAX, Duration::from_secs(3600)));
        let before = text(directory.path());
        log.close(|closing| {
            assert_eq!((closing.seq, closing.first_seq, closing.lines), (3, 1, 2));
            assert_eq!(closing.root, blake3::hash(before.as_bytes()));
            format!("{{\"seq\":3,\"action\":\"{CLOSED}\"}}")
        })
        .expect("closed");
        assert_eq!(text(directory.path()), "");
        drop(log);
        let (mut log, gap) = Log::open(directory.path(), 8).expect("opened");
        assert_eq!((log.seq(), gap), (3, None));
        append(&mut log, 1);
        close(&mut log).expect("closed");
        append(&mut log, 1);
        assert_eq!(chained(directory.path()), [1, 2, 3, 4, 5, 6]);
        let closed = files::closed(directory.path()).expect("listed");
        let closed: Vec<u64> = closed.iter().map(|file| file.first_seq).collect();
        assert_eq!(closed, [1, 4]);
    }

    /// As when the daemon is killed between the closing line and the new name.
    #[test]
    fn a_file_that_was_being_closed_is_put_away() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut log, _) = Log::open(directory.path(), 8).expect("opened");
        append(&mut log, 1);
        close(&mut log).expect("closed");
        let closed = directory.path().join(files::closed_name(1));
        std::fs::rename(&closed, directory.path().join(FILE)).expect("renamed");
        let (mut log, gap) = Log::open(directory.path(), 8).expect("opened");
        assert_eq!((log.seq(), gap), (2, None));
        append(&mut log, 1);
        assert!(closed.exists());
        assert_eq!(chained(directory.path()), [1, 2, 3]);
    }

    #[test]
    fn a_file_that_cannot_be_closed_stays_as_it_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut log, _) = Log::open(directory.path(), 8).expect("opened");
        append(&mut log, 1);
        let taken = directory.path().join(files::closed_name(1));
        std::fs::write(&taken, "").expect("written");
        let before = text(directory.path());
        let error = close(&mut log).expect_err("in the way").to_string();
        assert!(error.contains("is there already"), "{error}");
        assert_eq!((log.seq(), text(directory.path())), (1, before));
        std::fs::remove_file(&taken).expect("removed");
        append(&mut log, 1);
        close(&mut log).expect("closed");
        assert_eq!(chained(directory.path()), [1, 2, 3]);
    }

    #[test]
    fn a_torn_line_is_cut_and_told() {
        let directory = tempfile::tempdir().expect("a directory");
        write(directory.path(), b"{\"seq\":7}\n{\"seq\":8,\"ti");
        let (log, gap) = Log::open(directory.path(), 8).expect("opened");
        assert_eq!(
            gap,
            Some(Gap {
                cut_bytes: 12,
                after_seq: 7
            })
        );
        assert_eq!(log.seq(), 7);
        assert_eq!(text(directory.path()), "{\"seq\":7}\n");
    }

    /// After a power loss a file may end in zeros.
    #[test]
    fn whole_lines_of_rubbish_are_cut_as_well() {
        let directory = tempfile::tempdir().expect("a directory");
        write(directory.path(), b"{\"seq\":7}\n\0\0\0\0\n\0\0");
        let (_, gap) = Log::open(directory.path(), 8).expect("opened");
        assert_eq!(
            gap,
            Some(Gap {
                cut_bytes: 7,
                after_seq: 7
            })
        );
    }

    #[test]
    fn a_folder_that_is_a_file_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        std::fs::write(&path, "").expect("written");
        let error = Log::open(&path, 8).expect_err("refused").to_string();
        assert!(error.contains("/file"), "{error}");
    }
}
