//! Writes the kernel's initramfs format (cpio "newc", uncompressed). Nothing is read back here.
//!
//! Archives may follow one another in one initramfs; the kernel unpacks them in turn, and that is how a
//! cached root, a kernel's modules and the files of one run come together without being copied twice.
//! Uncompressed, because emulated decompression costs more than the host's page cache does.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Write},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// An archive being written. Parents of an entry are added as needed, owned by root and mode 755.
pub struct Archive<W: Write> {
    out: W,
    written: u64,
    entries: u32,
    directories: BTreeSet<PathBuf>,
}

impl<W: Write> Archive<W> {
    /// An empty archive that is written to `out`.
    pub fn new(out: W) -> Self {
        Self {
            out,
            written: 0,
            entries: 0,
            directories: BTreeSet::new(),
        }
    }

    /// Adds a directory, unless it is there already.
    pub fn directory(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        let path = relative(path);
        if path.as_os_str().is_empty() || self.directories.contains(path) {
            return Ok(());
        }
        self.parents(path)?;
        self.directories.insert(path.to_owned());
        self.entry(path, DIRECTORY | mode, 0, &mut io::empty())
    }

    /// Adds a regular file of exactly `size` bytes.
    pub fn file(
        &mut self,
        path: &Path,
        mode: u32,
        size: u64,
        content: &mut dyn Read,
    ) -> io::Result<()> {
        let path = relative(path);
        self.parents(path)?;
        self.entry(path, REGULAR | mode, size, content)
    }

    /// Adds a regular file with this content.
    pub fn bytes(&mut self, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        self.file(path, mode, content.len() as u64, &mut &content[..])
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        let path = relative(path);
        self.parents(path)?;
        let target = target.as_os_str().as_bytes();
        self.entry(path, SYMLINK | 0o777, target.len() as u64, &mut &target[..])
    }

    /// Adds what lies at `source` on the host, a directory with everything in it. Permissions are kept,
    /// root owns all of it.
    pub fn tree(&mut self, path: &Path, source: &Path) -> io::Result<()> {
        for found in walkdir::WalkDir::new(source).sort_by_file_name() {
            let found = found?;
            let below = found
                .path()
                .strip_prefix(source)
                .expect("the walk starts at source");
            let path = match below.as_os_str().is_empty() {
                true => path.to_owned(),
                false => path.join(below),
            };
            // The link given by name is followed, those found inside are kept as links.
            let metadata = match found.depth() {
                0 => fs::metadata(found.path())?,
                _ => fs::symlink_metadata(found.path())?,
            };
            let mode = metadata.permissions().mode() & 0o7777;
            if metadata.is_dir() {
                self.directory(&path, mode)?;
            } else if metadata.is_symlink() {
                self.symlink(&path, &fs::read_link(found.path())?)?;
            } else if metadata.is_file() {
                self.file(
                    &path,
                    mode,
                    metadata.size(),
                    &mut fs::File::open(found.path())?,
                )?;
            }
        }
        Ok(())
    }

    /// Ends the archive, so that another may follow, and returns what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(Path::new("TRAILER!!!"), 0, 0, &mut io::empty())?;
        Ok(self.out)
    }

    fn parents(&mut self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) => self.directory(parent, 0o755),
            None => Ok(()),
        }
    }

    fn entry(
        &mut self,
        path: &Path,
        mode: u32,
        size: u64,
        content: &mut dyn Read,
    ) -> io::Result<()> {
        let name = path.as_os_str().as_bytes();
        let size = u32::try_from(size)
            .map_err(|_| io::Error::other(format!("{} is larger than 4 GiB", path.display())))?;
        self.entries += 1;
        let (inode, name_size) = (self.entries, name.len() + 1);
        // Inode, mode, user, group, links, time, size, device, special device, name size, checksum.
        let header = format!(
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}",
            0, 1
        );
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(name)?;
        self.out.write_all(&[0])?;
        self.written += (header.len() + name_size) as u64;
        self.pad()?;
        let copied = io::copy(&mut content.take(size.into()), &mut self.out)?;
        if copied != u64::from(size) {
            return Err(io::Error::other(format!(
                "{} shrank while it was read",
                path.display()
            )));
        }
        self.written += copied;
        self.pad()
    }

    fn pad(&mut self) -> io::Result<()> {
        let missing = self.written.next_multiple_of(4) - self.written;
        self.written += missing;
        self.out.write_all(&[0; 4][..missing as usize])
    }
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}
