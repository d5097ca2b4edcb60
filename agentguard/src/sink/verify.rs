//! Whether a log is as it was written: every line, their order, the files, and where it ends.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
};

use blake3::Hash;
use serde::{Deserialize, Serialize};

use super::{
    chain::{self, Link},
    log::{CLOSED, FILE, Head, Numbered, REMOVED, files::Files},
};

/// A line of the log that somebody else knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub head: Head,
    /// Who knows it.
    pub by: String,
}

/// What was found of a log that is as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    pub files: usize,
    pub lines: u64,
    /// Number of the first line. What was before it was removed by the daemon, which the log says.
    pub first_seq: u64,
    /// Number and hash of the last line.
    pub last_seq: u64,
    pub hash: String,
    /// How many of the lines that others know were compared, and the number of the last of them.
    pub compared: usize,
    pub compared_to: Option<u64>,
    /// Bytes at the end that are no line yet.
    pub unfinished_bytes: u64,
}

/// Why a log can't be verified.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("there is no log in {}", .0.display())]
    NoLog(PathBuf),
    /// It is not as it was written. The first thing that shows it.
    #[error(transparent)]
    Tampered(#[from] Tampered),
}

/// Where a log is not as it was written, and how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {what}", file.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct Tampered {
    pub file: PathBuf,
    /// Counted from 1. None where it is about what the file lacks.
    pub line: Option<u64>,
    pub what: What,
}

/// How a log is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum What {
    #[error("not a line of the log: it has no number, or no hash at its end")]
    NoLine,
    #[error("line {0} was altered: its hash isn't that of what it says")]
    Altered(u64),
    #[error("line {0} was altered, with its hash: the next one was written after another")]
    Replaced(u64),
    #[error("{} missing before this one, which is line {found}", lines(*from, *found - 1))]
    Missing { from: u64, found: u64 },
    #[error("out of order: this is line {found}, and line {expected} is due")]
    OutOfOrder { found: u64, expected: u64 },
    #[error("{} missing: neither there nor removed by the daemon", lines(1, *.0))]
    NoBeginning(u64),
    #[error("the file was closed before, so nothing can come after")]
    AfterTheEnd,
    #[error("the closing line tells of another file: {0}")]
    OtherFile(&'static str),
    #[error("its end is missing: a closed file ends with the line that closes it")]
    NoEnd,
    #[error("line {seq} is another than {by} knows: the log was written anew from there or before")]
    Rewritten { seq: u64, by: String },
    #[error("the end is missing: {by} knows line {known}, and the last one here is {last}")]
    Truncated { last: u64, known: u64, by: String },
}

fn lines(from: u64, to: u64) -> String {
    if from == to {
        format!("line {from} is")
    } else {
        format!("lines {from} to {to} are")
    }
}

/// The object of a `log.closed`.
#[derive(Deserialize)]
struct Closing<'a> {
    file: Cow<'a, str>,
    first_seq: u64,
    lines: u64,
    root: Cow<'a, str>,
}

/// The object of a `log.removed`.
#[derive(Deserialize)]
struct Removal<'a> {
    last_seq: u64,
    hash: Cow<'a, str>,
}

#[derive(Deserialize)]
struct With<T> {
    object: T,
}

/// Goes through all files of the log in `directory`, to which a daemon may be adding. What others know of it was asked for
/// before.
pub fn verify(directory: &Path, known: &[Known]) -> Result<Verified, Error> {
    let reading = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Read { path, source }
    };
    let current = directory.join(FILE);
    'again: loop {
        let files = Files::of(directory).map_err(reading(directory))?;
        let mut walk = Walk::new(known);
        for closed in &files.closed {
            let file = match File::open(&closed.path) {
                // The daemon has removed it since, and then says so in a file that is not among these.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue 'again,
                file => file.map_err(reading(&closed.path))?,
            };
            walk.file(&closed.path, &file, true)?;
        }
        if let Some(file) = &files.current {
            walk.file(&current, file, false)?;
        } else if files.closed.is_empty() {
            return Err(Error::NoLog(directory.to_owned()));
        }
        return walk.end(&current);
    }
}

/// A log as far as it was gone through.
struct Walk<'a> {
    known: BTreeMap<u64, Vec<&'a Known>>,
    verified: Verified,
    /// The last line.
    head: Head,
    /// The line before the first one, and the first one's file, as long as the log doesn't say that it was removed.
    before: Option<(Head, PathBuf)>,
}

/// A file as far as it was gone through.
struct Part<'a> {
    path: &'a Path,
    /// The number of its first line.
    first_seq: u64,
    lines: u64,
    hasher: blake3::Hasher,
    closed: bool,
}

impl<'a> Walk<'a> {
    fn new(known: &'a [Known]) -> Self {
        let mut by_seq: BTreeMap<u64, Vec<&Known>> = BTreeMap::new();
        for known in known {
            by_seq.entry(known.head.seq).or_default().push(known);
        }
        Self {
            known: by_seq,
            verified: Verified {
                files: 0,
                lines: 0,
                first_seq: 0,
                last_seq: 0,
                hash: String::new(),
                compared: 0,
                compared_to: None,
                unfinished_bytes: 0,
            },
            head: Head {
                seq: 0,
                hash: chain::START,
            },
            before: None,
        }
    }

    fn file(&mut self, path: &Path, file: &File, must_be_closed: bool) -> Result<(), Error> {
        let mut part = Part {
            path,
            first_seq: 0,
            lines: 0,
            hasher: blake3::Hasher::new(),
            closed: false,
        };
        let mut reader = BufReader::with_capacity(256 << 10, file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let len = reader
                .read_until(b'\n', &mut line)
                .map_err(|source| Error::Read {
                    path: path.to_owned(),
                    source,
                })?;
            match line.strip_suffix(b"\n") {
                _ if len == 0 => break,
                None if !must_be_closed => {
                    self.verified.unfinished_bytes = len as u64;
                    break;
                }
                None => return Err(part.tampered(What::NoEnd).into()),
                Some(text) => {
                    part.lines += 1;
                    self.line(&mut part, text)?;
                    part.hasher.update(&line);
                }
            }
        }
        if must_be_closed && !part.closed {
            return Err(Tampered {
                file: path.to_owned(),
                line: None,
                what: What::NoEnd,
            }
            .into());
        }
        self.verified.files += 1;
        self.verified.lines += part.lines;
        Ok(())
    }

    fn line(&mut self, part: &mut Part<'_>, text: &[u8]) -> Result<(), Tampered> {
        if part.closed {
            return Err(part.tampered(What::AfterTheEnd));
        }
        let link = Link::of(text);
        let event = serde_json::from_slice::<Numbered<'_>>(text);
        let (Some(link), Ok(event)) = (link, event) else {
            return Err(part.tampered(What::NoLine));
        };
        let is_first = self.verified.first_seq == 0;
        let expected = if is_first {
            event.seq
        } else {
            self.head.seq + 1
        };
        if !link.holds {
            return Err(part.tampered(What::Altered(expected)));
        }
        let found = event.seq;
        if found > expected {
            let from = expected;
            return Err(part.tampered(What::Missing { from, found }));
        }
        if found < expected || found == 0 {
            return Err(part.tampered(What::OutOfOrder { found, expected }));
        }
        if is_first {
            self.verified.first_seq = found;
            let before = Head {
                seq: found - 1,
                hash: link.prev,
            };
            if before != self.head {
                self.before = Some((before, part.path.to_owned()));
            }
        } else if link.prev != self.head.hash {
            return Err(part.tampered(What::Replaced(self.head.seq)));
        }
        self.head = Head {
            seq: found,
            hash: link.hash,
        };
        if part.lines == 1 {
            part.first_seq = found;
        }
        self.compare(part)?;
        match &*event.action {
            CLOSED => part.close(text),
            REMOVED => self.removed(part, text),
            _ => Ok(()),
        }
    }

    /// Compares the last line with what others know of it.
    fn compare(&mut self, part: &Part<'_>) -> Result<(), Tampered> {
        for known in self.known.remove(&self.head.seq).unwrap_or_default() {
            if known.head != self.head {
                return Err(part.tampered(What::Rewritten {
                    seq: self.head.seq,
                    by: known.by.clone(),
                }));
            }
            self.verified.compared += 1;
            self.verified.compared_to = Some(self.head.seq);
        }
        Ok(())
    }

    /// Takes note of what the daemon removed.
    fn removed(&mut self, part: &Part<'_>, text: &[u8]) -> Result<(), Tampered> {
        let Ok(With { object }) = serde_json::from_slice::<With<Removal<'_>>>(text) else {
            return Err(part.tampered(What::NoLine));
        };
        let told = |(before, _): &mut (Head, PathBuf)| {
            before.seq == object.last_seq && *before.hash.to_hex() == *object.hash
        };
        self.before.take_if(told);
        Ok(())
    }

    fn end(mut self, current: &Path) -> Result<Verified, Error> {
        let lacks = |file: PathBuf, what| Tampered {
            file,
            line: None,
            what,
        };
        if let Some((before, file)) = self.before {
            return Err(lacks(file, What::NoBeginning(before.seq)).into());
        }
        let beyond = self.known.range(self.head.seq + 1..);
        if let Some(known) = beyond.flat_map(|(_, known)| known).next_back() {
            let what = What::Truncated {
                last: self.head.seq,
                known: known.head.seq,
                by: known.by.clone(),
            };
            return Err(lacks(current.to_owned(), what).into());
        }
        self.verified.last_seq = self.head.seq;
        self.verified.hash = self.head.hash.to_string();
        Ok(self.verified)
    }
}

impl Part<'_> {
    fn tampered(&self, what: What) -> Tampered {
        Tampered {
            file: self.path.to_owned(),
            line: Some(self.lines),
            what,
        }
    }

    /// Compares what the closing line says of the file.
    fn close(&mut self, text: &[u8]) -> Result<(), Tampered> {
        let Ok(With { object }) = serde_json::from_slice::<With<Closing<'_>>>(text) else {
            return Err(self.tampered(What::NoLine));
        };
        let root: Hash = self.hasher.finalize();
        let is_current = self.path.ends_with(FILE);
        let wrong = [
            (
                !is_current && !self.path.ends_with(&*object.file),
                "its name",
            ),
            (object.first_seq != self.first_seq, "its first line"),
            (object.lines != self.lines - 1, "its lines"),
            (*root.to_hex() != *object.root, "its root"),
        ];
        if let Some((_, what)) = wrong.iter().find(|(is_wrong, _)| *is_wrong) {
            return Err(self.tampered(What::OtherFile(what)));
        }
        self.closed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc, time::Duration};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        event::{Clock, Event, Lifecycle},
        sink::{Log, Rotation, Sinks, log::files},
    };

    /// Writes a log of this many events, of which every seventh begins a file.
    fn write(directory: &Path, events: u64, keep: Option<usize>) -> Head {
        let (log, _) = Log::open(directory, 8).expect("opened");
        let rotation = Rotation {
            max_bytes: 1,
            max_age: Duration::MAX,
            keep,
            heads_every: Duration::from_secs(60),
        };
        let mut sinks = Sinks::new(log, Arc::new(Clock::new()), rotation);
        for number in 1..=events {
            let time = format!("2026-01-01T00:00:00.{number:09}Z");
            let object = Lifecycle::Stopped { enforcing: true };
            sinks.emit(&Event::lifecycle(time, "daemon.stopped", object));
            if number % 7 == 0 {
                sinks.tend();
            }
        }
        let state = sinks.log_state();
        Head {
            seq: state.seq,
            hash: Hash::from_hex(state.hash.expect("a hash")).expect("a hash"),
        }
    }

    fn paths(directory: &Path) -> Vec<PathBuf> {
        let closed = files::closed(directory).expect("listed");
        let closed = closed.into_iter().map(|file| file.path);
        closed.chain([directory.join(FILE)]).collect()
    }

    fn lines(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).expect("read");
        text.split_inclusive('\n').map(str::to_owned).collect()
    }

    fn what(directory: &Path, known: &[Known]) -> What {
        match verify(directory, known) {
            Err(Error::Tampered(found)) => found.what,
            other => panic!("not found: {other:?}"),
        }
    }

    fn known(head: Head) -> Known {
        Known {
            head,
            by: "a friend".to_owned(),
        }
    }

    #[test]
    fn a_log_is_verified_over_its_files() {
        let directory = tempfile::tempdir().expect("a folder");
        let no_log = verify(directory.path(), &[]).expect_err("none").to_string();
        assert!(no_log.contains("no log"), "{no_log}");
        let head = write(directory.path(), 20, None);
        assert_eq!(paths(directory.path()).len(), 3);
        let verified = verify(directory.path(), &[known(head)]).expect("verified");
        // Two of them close a file.
        assert_eq!(
            (verified.first_seq, verified.last_seq, verified.lines),
            (1, 22, 22)
        );
        assert_eq!((verified.files, verified.compared), (3, 1));
        assert_eq!(verified.hash, head.hash.to_string());
        // A daemon is adding to it.
        let current = directory.path().join(FILE);
        fs::write(
            &current,
            fs::read_to_string(&current).expect("read") + "{\"v\"",
        )
        .expect("written");
        let verified = verify(directory.path(), &[]).expect("verified");
        assert_eq!((verified.last_seq, verified.unfinished_bytes), (22, 4));
        assert_eq!(verified.compared_to, None);
    }

    #[test]
    fn what_the_daemon_removed_is_not_missing_and_what_others_removed_is() {
        let directory = tempfile::tempdir().expect("a folder");
        let head = write(directory.path(), 40, Some(2));
        let files = paths(directory.path());
        assert_eq!(files.len(), 3);
        let old = known(Head { seq: 1, ..head });
        let verified = verify(directory.path(), &[known(head), old]).expect("verified");
        assert!(verified.first_seq > 1);
        assert_eq!(verified.compared, 1);
        fs::remove_file(&files[0]).expect("removed");
        let What::NoBeginning(before) = what(directory.path(), &[]) else {
            panic!("not found")
        };
        assert!(before > verified.first_seq);
    }

    #[test]
    fn a_log_can_be_verified_while_its_oldest_files_are_removed() {
        let directory = tempfile::tempdir().expect("a folder");
        write(directory.path(), 1, Some(1));
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| write(directory.path(), 7_000, Some(1)));
            while !writer.is_finished() {
                verify(directory.path(), &[]).expect("verified");
            }
        });
    }

    #[test]
    fn a_file_that_is_missing_is_named_by_its_lines() {
        let directory = tempfile::tempdir().expect("a folder");
        write(directory.path(), 20, None);
        fs::remove_file(&paths(directory.path())[1]).expect("removed");
        let found = verify(directory.path(), &[])
            .expect_err("found")
            .to_string();
        let end = "events.jsonl:1: lines 9 to 16 are missing before this one, which is line 17";
        assert!(found.ends_with(end), "{found}");
    }

    #[test]
    fn new_hashes_help_only_until_somebody_knows_an_old_one() {
        let directory = tempfile::tempdir().expect("a folder");
        let head = write(directory.path(), 5, None);
        let path = directory.path().join(FILE);
        let mut text = lines(&path);
        let reseal = |line: &str, prev: Hash| {
            let body = &line[..line.find(",\"prev\"").expect("a link")];
            let altered = body.replace("true", "false");
            chain::seal(&format!("{altered}}}"), prev)
        };
        let link = |line: &str| Link::of(line.trim_end().as_bytes()).expect("a link");
        let mut prev = link(&text[1]).hash;
        for at in 2..5 {
            let (line, hash) = reseal(&text[at], prev);
            text[at] = line + "\n";
            prev = hash;
            fs::write(&path, text.concat()).expect("written");
            if at < 4 {
                assert_eq!(what(directory.path(), &[]), What::Replaced(at as u64 + 1));
            }
        }
        verify(directory.path(), &[]).expect("nobody knows");
        assert!(matches!(
            what(directory.path(), &[known(head)]),
            What::Rewritten { seq: 5, .. }
        ));
        fs::write(&path, "").expect("written");
        assert!(matches!(
            what(directory.path(), &[known(head)]),
            What::Truncated {
                last: 0,
                known: 5,
                ..
            }
        ));
    }

    #[derive(Clone, Copy, Debug)]
    enum Change {
        Byte(u8),
        Remove,
        Repeat,
        Swap,
        /// Everything after the line, in this file.
        Cut,
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            (1..=255_u8).prop_map(Change::Byte),
            Just(Change::Remove),
            Just(Change::Repeat),
            Just(Change::Swap),
            Just(Change::Cut),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn no_change_goes_unseen(
            change in change(),
            (file, line, byte) in any::<(prop::sample::Index, prop::sample::Index, prop::sample::Index)>(),
        ) {
            let directory = tempfile::tempdir().expect("a folder");
            let head = write(directory.path(), 20, None);
            let files = paths(directory.path());
            let path = file.get(&files);
            let mut text = lines(path);
            let at = line.index(text.len());
            let before = text.concat();
            let changed = match change {
                Change::Byte(by) => {
                    let mut bytes = before.clone().into_bytes();
                    let at = byte.index(bytes.len());
                    bytes[at] ^= by;
                    bytes
                }
                Change::Remove => {
                    text.remove(at);
                    text.concat().into_bytes()
                }
                Change::Repeat => {
                    text.insert(at, text[at].clone());
                    text.concat().into_bytes()
                }
                Change::Swap => {
                    let other = (at + 1) % text.len();
                    text.swap(at, other);
                    text.concat().into_bytes()
                }
                Change::Cut => text[..at].concat().into_bytes(),
            };
            // A file is never empty for another reason.
            prop_assume!(changed != before.as_bytes());
            fs::write(path, &changed).expect("written");
            prop_assert!(
                matches!(verify(directory.path(), &[known(head)]), Err(Error::Tampered(_))),
                "{change:?} in line {at} of {}", path.display()
            );
        }
    }
}
