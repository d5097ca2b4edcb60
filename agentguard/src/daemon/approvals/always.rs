//! A yes for good: the overlay's file is written, or put back.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::policy::overlay;

/// A changed overlay, and what it was before.
#[derive(Debug)]
pub struct Change {
    path: PathBuf,
    /// `None` when it wasn't there.
    old: Option<String>,
    pub diff: String,
}

/// Adds to the overlay of a profile.
pub fn add(policies: &Path, profile: &str, addition: &str) -> io::Result<Change> {
    let path = overlay::path(policies, profile);
    let old = match fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let before = old.as_deref().unwrap_or_default();
    let after = overlay::add(before, addition);
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)?;
    }
    write(&path, &after)?;
    let diff = overlay::diff(&path, before, &after);
    Ok(Change { path, old, diff })
}

impl Change {
    /// Makes the file what it was.
    pub fn take_back(self) -> io::Result<()> {
        match &self.old {
            Some(old) => write(&self.path, old),
            None => fs::remove_file(&self.path),
        }
    }
}

/// Replaces a file: whoever reads it, also after a crash, sees all of the old or all of the new.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_is_made_changed_and_put_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = overlay::path(directory.path(), "p");
        let first = add(directory.path(), "p", "[[allow]]\nfile = \"/a\"\n").expect("written");
        let text = fs::read_to_string(&path).expect("read");
        assert_eq!(text, "version = 1\n\n[[allow]]\nfile = \"/a\"\n");
        let second = add(directory.path(), "p", "[[allow]]\nfile = \"/b\"\n").expect("written");
        assert!(second.diff.contains("+file = \"/b\""), "{}", second.diff);
        assert!(!second.diff.contains("+file = \"/a\""), "{}", second.diff);
        second.take_back().expect("written");
        assert_eq!(fs::read_to_string(&path).expect("read"), text);
        first.take_back().expect("removed");
        assert!(!path.exists());
        let left = fs::read_dir(path.parent().expect("a folder")).expect("read");
        assert_eq!(left.count(), 0);
    }
}
