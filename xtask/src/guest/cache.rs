//! Directories below `target/guest` that are made once from named inputs and used until an input changes.
//! Several runs may ask at the same time: one makes it, the others wait for it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::paths;

/// Holds the lock `name` until it is dropped. The kernel gives it up for a process that dies.
///
/// # Errors
/// When the lock file can't be made or locked.
pub fn lock(name: &str) -> Result<File> {
    let directory = paths::guest_cache();
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let path = directory.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// The directory `name` made from `inputs`. When it is not there, `make` fills an empty directory, which
/// takes the place of one that was made from other inputs only when `make` succeeds.
///
/// # Errors
/// What `make` failed with, or a file operation below `target/guest`.
pub fn directory(
    name: &str,
    inputs: &[&[u8]],
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let key = key(inputs);
    let directory = paths::guest_cache().join(format!("{name}-{key}"));
    if directory.exists() {
        return Ok(directory);
    }
    let _lock = lock(name)?;
    if directory.exists() {
        return Ok(directory);
    }
    let partial = paths::guest_cache().join(format!("{name}.partial"));
    remove(&partial)?;
    fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    make(&partial)?;
    remove_others(name)?;
    fs::rename(&partial, &directory)
        .with_context(|| format!("cannot rename {}", partial.display()))?;
    Ok(directory)
}

/// Removes a directory that may not be there.
///
/// # Errors
/// When it is there and stays.
pub fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Guests that run on older images hold them open, so removing them is safe.
fn remove_others(name: &str) -> Result<()> {
    let cache = paths::guest_cache();
    let entries =
        fs::read_dir(&cache).with_context(|| format!("cannot list {}", cache.display()))?;
    for entry in entries.flatten() {
        let file_name = entry.file_name();
        let key = file_name
            .to_str()
            .and_then(|file| file.strip_prefix(name))
            .and_then(|rest| rest.strip_prefix('-'));
        if key.is_some_and(|key| key.len() == KEY_LENGTH && !key.contains('-')) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

const KEY_LENGTH: usize = 16;

fn key(inputs: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for input in inputs {
        // Lengths keep ("ab", "c") apart from ("a", "bc").
        hash.update((input.len() as u64).to_le_bytes());
        hash.update(input);
    }
    let digest = hash.finalize();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    hex[..KEY_LENGTH].to_owned()
}
