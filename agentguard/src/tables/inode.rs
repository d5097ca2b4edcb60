//! From a path to what the kernel knows a file by: the device of its super block and its inode
//! number. `st_dev` and `st_ino` won't do: on btrfs and overlayfs they are others.

use std::{
    cell::RefCell, collections::HashMap, fs, io, os::fd::AsRawFd as _,
    os::unix::ffi::OsStrExt as _, path::Path,
};

use rustix::fs::{Mode, OFlags};

/// A file as the kernel programs meet it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inode {
    /// `super_block->s_dev`: 12 bits major, 20 bits minor.
    pub device: u32,
    /// `inode->i_ino`.
    pub number: u64,
}

/// What was found at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub inode: Inode,
    /// The path has no symbolic link in it.
    pub canonical: bool,
}

/// Looks files up, each once, and by one reading of the mount table: many profiles name the same files.
#[derive(Debug)]
pub struct Resolver {
    mountinfo: String,
    found: RefCell<HashMap<Asked, Option<Found>>>,
}

/// A path, and whether the link at its end is followed.
type Asked = (Vec<u8>, bool);

impl Resolver {
    /// Reads the mount table of this process.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            mountinfo: fs::read_to_string("/proc/self/mountinfo")?,
            found: RefCell::default(),
        })
    }

    /// The file at `path`; `None` when there is none. Symbolic links are followed on the way, and at the
    /// end as well if `follow`; a link that isn't followed counts as none.
    ///
    /// # Errors
    ///
    /// The file is there but can't be identified.
    pub fn resolve(&self, path: &[u8], follow: bool) -> io::Result<Option<Found>> {
        let key = (path.to_owned(), follow);
        if let Some(found) = self.found.borrow().get(&key) {
            return Ok(*found);
        }
        let found = self.look(path, follow)?;
        self.found.borrow_mut().insert(key, found);
        Ok(found)
    }

    fn look(&self, path: &[u8], follow: bool) -> io::Result<Option<Found>> {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if !follow {
            if path.is_symlink() {
                return Ok(None);
            }
            flags |= OFlags::NOFOLLOW;
        }
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
        let (mount, number) = parse_fdinfo(&info)
            .ok_or_else(|| io::Error::other("the kernel doesn't say its inode number"))?;
        let device = device_of_mount(&self.mountinfo, mount)
            .ok_or_else(|| io::Error::other("its mount is not in the mount table"))?;
        let real = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        Ok(Some(Found {
            inode: Inode { device, number },
            canonical: real == path,
        }))
    }
}

/// Mount id and inode number (fs/proc/fd.c, `seq_show`; `ino` since 5.14).
fn parse_fdinfo(info: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    Some((field("mnt_id:")?, field("ino:")?))
}

/// The device of a mount, from `/proc/self/mountinfo` (fs/proc_namespace.c, `show_mountinfo`, prints
/// `s_dev`).
fn device_of_mount(mountinfo: &str, mount: u64) -> Option<u32> {
    mountinfo.lines().find_map(|line| {
        let mut fields = line.split(' ');
        if fields.next()?.parse::<u64>().ok()? != mount {
            return None;
        }
        let (major, minor) = fields.nth(1)?.split_once(':')?;
        let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
        // include/linux/kdev_t.h: MINORBITS is 20.
        (major < 1 << 12 && minor < 1 << 20).then_some(major << 20 | minor)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
31 22 0:27 / /home rw,relatime shared:15 - btrfs /dev/sdb rw,subvol=/home
40 22 0:5 / /dev\\040x rw master:2 - devtmpfs udev rw
";

    #[test]
    fn devices_are_written_as_the_kernel_writes_them() {
        assert_eq!(device_of_mount(MOUNTS, 22), Some(259 << 20 | 1));
        assert_eq!(device_of_mount(MOUNTS, 31), Some(27));
        assert_eq!(device_of_mount(MOUNTS, 40), Some(5));
        assert_eq!(device_of_mount(MOUNTS, 1), None);
        assert_eq!(device_of_mount("22 1 x:y / /", 22), None);
        assert_eq!(device_of_mount("22", 22), None);
    }

    #[test]
    fn fdinfo_is_read() {
        let info = "pos:\t0\nflags:\t012000000\nmnt_id:\t31\nino:\t4242\n";
        assert_eq!(parse_fdinfo(info), Some((31, 4242)));
        assert_eq!(parse_fdinfo("pos:\t0\nmnt_id:\t31\n"), None);
    }

    #[test]
    fn links_are_followed_to_the_same_inode() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("file");
        let link = directory.path().join("link");
        fs::write(&file, "").expect("written");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        let resolver = Resolver::new().expect("read");
        let of = |path: &Path| {
            resolver
                .resolve(path.as_os_str().as_bytes(), true)
                .expect("looked up")
        };
        let inode = |path: &Path| of(path).map(|found| found.inode);
        assert!(of(&file).is_some_and(|found| found.canonical));
        assert!(of(&link).is_some_and(|found| !found.canonical));
        assert_eq!(inode(&file), inode(&link));
        assert_ne!(inode(&file), inode(directory.path()));
        assert_eq!(of(&directory.path().join("none")), None);
        assert_eq!(of(&file.join("below")), None);
        let unfollowed = |path: &Path| {
            resolver
                .resolve(path.as_os_str().as_bytes(), false)
                .expect("looked up")
        };
        assert_eq!(unfollowed(&file), of(&file));
        assert_eq!(unfollowed(&link), None);
    }
}
