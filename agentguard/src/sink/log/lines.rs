//! The lines of a log, latest first.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use super::files::{Closed, FILE, Files};

/// Bytes read at a time from the end towards the front.
const CHUNK: u64 = 64 << 10;

/// The whole lines of a file, last first. What follows the last line end is none.
#[derive(Debug)]
pub(super) struct Backwards<F> {
    file: F,
    /// Everything from here on is in `buffer` or was given.
    start: u64,
    buffer: Vec<u8>,
}

impl<F: std::borrow::Borrow<File>> Backwards<F> {
    pub(super) fn new(file: F) -> io::Result<Self> {
        let start = file.borrow().metadata()?.len();
        Ok(Self {
            file,
            start,
            buffer: Vec::new(),
        })
    }

    /// A line without its end, and the offset behind that end.
    pub(super) fn next_line(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
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
            let file = self.file.borrow();
            file.read_exact_at(&mut chunk, self.start - len)?;
            self.start -= len;
            chunk.append(&mut self.buffer);
            self.buffer = chunk;
        }
    }
}

/// The lines of a log over all of its files, latest first.
#[derive(Debug)]
pub struct Latest {
    lines: Option<Backwards<File>>,
    closed: Vec<Closed>,
}

impl Latest {
    /// From the end of the file at `path`. Where that is the one that is written, the closed ones beside it follow.
    pub fn of(path: &Path) -> io::Result<Self> {
        let directory = path.parent().unwrap_or(Path::new("."));
        let files = if path.ends_with(FILE) && directory.is_dir() {
            Files::of(directory)?
        } else {
            let current = match File::open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                result => Some(result?),
            };
            Files {
                closed: Vec::new(),
                current,
            }
        };
        Ok(Self {
            lines: files.current.map(Backwards::new).transpose()?,
            closed: files.closed,
        })
    }

    /// The line before.
    pub fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(lines) = &mut self.lines
                && let Some((_, line)) = lines.next_line()?
            {
                return Ok(Some(line));
            }
            let Some(older) = self.closed.pop() else {
                return Ok(None);
            };
            self.lines = match File::open(&older.path) {
                // The oldest may be removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                file => Some(Backwards::new(file?)?),
            };
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
    let mut lines = Latest::of(path)?;
    while found.len() < count
        && let Some(line) = lines.next_line()?
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

    use super::{super::files::closed_name, *};

    fn write(directory: &Path, name: &str, text: &[u8]) {
        std::fs::write(directory.join(name), text).expect("written");
    }

    #[test]
    fn the_last_lines_are_found_over_files() {
        let directory = tempfile::tempdir().expect("a directory");
        write(directory.path(), FILE, b"a3\nb4\na5\ntorn");
        write(directory.path(), &closed_name(2), b"a2\n");
        write(directory.path(), &closed_name(1), b"a1\nb2\n");
        let path = directory.path().join(FILE);
        let wanted = |line: &[u8]| line.starts_with(b"a");
        let found = last_lines(&path, 2, wanted).expect("read");
        assert_eq!(found, [b"a3".to_vec(), b"a5".to_vec()]);
        let found = last_lines(&path, 9, wanted).expect("read");
        assert_eq!(
            found,
            [b"a1", b"a2", b"a3", b"a5"].map(|line| line.to_vec())
        );
        // One file alone.
        let alone = directory.path().join(closed_name(1));
        let found = last_lines(&alone, 9, |_| true).expect("read");
        assert_eq!(found, [b"a1", b"b2"].map(|line| line.to_vec()));
        let missing = last_lines(&directory.path().join("none"), 2, |_| true).expect("none");
        assert!(missing.is_empty());
        let missing = directory.path().join("none").join(FILE);
        assert!(last_lines(&missing, 2, |_| true).expect("none").is_empty());
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
            write(directory.path(), FILE, &whole);
            let found = last_lines(&directory.path().join(FILE), usize::MAX, |_| true).expect("read");
            prop_assert_eq!(found, lines);
        }
    }
}
