//! The log file: whole lines only, numbered without holes, across restarts and full disks. What a
//! line says is not known here.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Name of the file in its folder.
pub const FILE: &str = "events.jsonl";
/// Bytes read at a time from the end towards the front.
const CHUNK: u64 = 64 << 10;
/// Bytes written at a time at most.
const BATCH: usize = 256 << 10;

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

/// The open log.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    /// Length of the file up to its last whole line.
    len_bytes: u64,
    seq: u64,
    backlog: VecDeque<String>,
    capacity: usize,
    error: Option<String>,
    #[cfg(test)]
    own: Option<File>,
}

impl Log {
    /// Opens the log in `directory` (made when it isn't there), cuts a torn end off, and goes on
    /// with the number after its last. `capacity` lines are kept while it can't be written.
    pub fn open(directory: &Path, capacity: usize) -> Result<(Self, Option<Gap>), Error> {
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| Error {
                operation,
                path,
                source,
            }
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(directory)
            .map_err(failed("make the folder of", directory))?;
        let path = directory.join(FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o640)
            .open(&path)
            .map_err(failed("open", &path))?;
        let (seq, whole, len) = recover(&mut file).map_err(failed("read the end of", &path))?;
        let gap = (whole < len).then_some(Gap {
            cut_bytes: len - whole,
            after_seq: seq,
        });
        if gap.is_some() {
            file.set_len(whole).map_err(failed("cut", &path))?;
        }
        let log = Self {
            path,
            file,
            len_bytes: whole,
            seq,
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

    /// Number of the last line that was taken.
    pub fn seq(&self) -> u64 {
        self.seq
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

    /// Takes the next line.
    pub fn append(&mut self, line: &str) {
        self.seq += 1;
        let mut line = line.to_owned();
        line.push('\n');
        self.backlog.push_back(line);
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

/// Number of the last whole event, where it ends, and the file's length.
fn recover(file: &mut File) -> io::Result<(u64, u64, u64)> {
    let len = file.seek(SeekFrom::End(0))?;
    let mut lines = Backwards::new(file, len);
    while let Some((end, line)) = lines.next_line()? {
        if let Some(seq) = seq_of(&line) {
            return Ok((seq, end, len));
        }
    }
    Ok((0, 0, len))
}

/// The number of a line, if it is an event.
fn seq_of(line: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Numbered {
        seq: u64,
    }
    let numbered: Numbered = serde_json::from_slice(line).ok()?;
    Some(numbered.seq)
}

/// The whole lines of a file, last first. What follows the last line end is none.
#[derive(Debug)]
struct Backwards<'a> {
    file: &'a File,
    /// Everything from here on is in `buffer` or was given.
    start: u64,
    buffer: Vec<u8>,
}

impl<'a> Backwards<'a> {
    fn new(file: &'a File, len: u64) -> Self {
        Self {
            file,
            start: len,
            buffer: Vec::new(),
        }
    }

    /// A line without its end, and the offset behind that end.
    fn next_line(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        // The buffer is cut so that it ends with the line end of the next line to give.
        loop {
            match self.buffer.iter().rposition(|byte| *byte == b'\n') {
                Some(last) => {
                    self.buffer.truncate(last + 1);
                    let before = self.buffer[..last].iter().rposition(|byte| *byte == b'\n');
                    if before.is_some() || self.start == 0 {
                        let from = before.map_or(0, |at| at + 1);
                        let line = self.buffer[from..last].to_vec();
                        let end = self.start + last as u64 + 1;
                        self.buffer.truncate(from);
                        return Ok(Some((end, line)));
                    }
                }
                None if self.start == 0 => return Ok(None),
                None => {}
            }
            let len = CHUNK.min(self.start);
            let mut chunk = vec![0; len as usize];
            self.file.read_exact_at(&mut chunk, self.start - len)?;
            self.start -= len;
            chunk.append(&mut self.buffer);
            self.buffer = chunk;
        }
    }
}

/// The last `count` lines of the log at `path` that `wanted` takes, oldest first.
pub fn last_lines(
    path: &Path,
    count: usize,
    mut wanted: impl FnMut(&[u8]) -> bool,
) -> io::Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    if count == 0 {
        return Ok(found);
    }
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        result => result?,
    };
    let len = file.metadata()?.len();
    let mut lines = Backwards::new(&file, len);
    while found.len() < count
        && let Some((_, line)) = lines.next_line()?
    {
        if wanted(&line) {
            found.push(line);
        }
    }
    found.reverse();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(directory: &Path, text: &[u8]) {
        std::fs::write(directory.join(FILE), text).expect("written");
    }

    fn text(directory: &Path) -> String {
        std::fs::read_to_string(directory.join(FILE)).expect("read")
    }

    #[test]
    fn numbers_go_on_after_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        for expected in 1..=3 {
            let (mut log, gap) = Log::open(directory.path(), 8).expect("opened");
            assert_eq!(gap, None);
            let line = format!("{{\"seq\":{}}}", log.seq() + 1);
            log.append(&line);
            log.flush();
            assert_eq!(log.seq(), expected);
        }
        assert_eq!(
            text(directory.path()),
            "{\"seq\":1}\n{\"seq\":2}\n{\"seq\":3}\n"
        );
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

    #[test]
    fn the_last_lines_are_found() {
        let directory = tempfile::tempdir().expect("a directory");
        write(directory.path(), b"a1\nb2\na3\nb4\na5\ntorn");
        let path = directory.path().join(FILE);
        let found = last_lines(&path, 2, |line| line.starts_with(b"a")).expect("read");
        assert_eq!(found, [b"a3".to_vec(), b"a5".to_vec()]);
        let missing = last_lines(&directory.path().join("none"), 2, |_| true).expect("none");
        assert!(missing.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn backwards_is_forwards_reversed(lengths in prop::collection::vec(0_usize..40_000, 0..12)) {
            let directory = tempfile::tempdir().expect("a directory");
            let lines: Vec<Vec<u8>> = lengths.iter().map(|len| vec![b'x'; *len]).collect();
            let mut whole = lines.join(&b'\n');
            if !lines.is_empty() {
                whole.push(b'\n');
            }
            write(directory.path(), &whole);
            let found = last_lines(&directory.path().join(FILE), usize::MAX, |_| true).expect("read");
            prop_assert_eq!(found, lines);
        }
    }
}
