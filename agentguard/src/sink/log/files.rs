//! The files of a log: the one that is written, and those that were closed. A closed one is named after its first line.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// Name of the file that is written.
pub const FILE: &str = "events.jsonl";

/// A closed file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Closed {
    /// Number of its first line.
    pub first_seq: u64,
    pub path: PathBuf,
}

/// Name of the closed file that begins with this line. In the order of their names they are in that of their lines.
pub fn closed_name(first_seq: u64) -> String {
    format!("events-{first_seq:020}.jsonl")
}

fn first_seq(name: &str) -> Option<u64> {
    let seq = name
        .strip_prefix("events-")?
        .strip_suffix(".jsonl")?
        .parse()
        .ok()?;
    (closed_name(seq) == name).then_some(seq)
}

/// The closed files in a folder, oldest first.
pub fn closed(directory: &Path) -> io::Result<Vec<Closed>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if let Some(first_seq) = entry.file_name().to_str().and_then(first_seq) {
            found.push(Closed {
                first_seq,
                path: entry.path(),
            });
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The files of a log as they were at one moment.
#[derive(Debug)]
pub struct Files {
    /// Oldest first.
    pub closed: Vec<Closed>,
    /// The one that is written. Not there where there is no log, or its next file is being made.
    pub current: Option<File>,
}

impl Files {
    /// Looks at a folder, in which files may be closed meanwhile.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let mut before = closed(directory)?;
        loop {
            let current = open(&directory.join(FILE))?;
            let after = closed(directory)?;
            if before == after {
                return Ok(Self {
                    closed: after,
                    current,
                });
            }
            before = after;
        }
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_files_are_found_in_the_order_of_their_lines() {
        let directory = tempfile::tempdir().expect("a folder");
        let write = |name: &str| fs::write(directory.path().join(name), "").expect("written");
        for seq in [10, 9, u64::MAX, 1] {
            write(&closed_name(seq));
        }
        for other in ["events-.jsonl", "events-7.jsonl", "events.jsonl", "x"] {
            write(other);
        }
        let files = Files::of(directory.path()).expect("read");
        let found: Vec<u64> = files.closed.iter().map(|file| file.first_seq).collect();
        assert_eq!(found, [1, 9, 10, u64::MAX]);
        assert!(files.current.is_some());
    }
}
