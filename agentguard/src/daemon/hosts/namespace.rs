//! Network namespaces: which of them a process is in, and sockets that are made there.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::MetadataExt as _,
    },
    sync::Arc,
};

use nix::sched::{CloneFlags, setns};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// A network namespace, held as long as this is.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Number of its file, the same for all processes in it.
    pub inode: u64,
    /// `None` for the daemon's own.
    file: Option<Arc<File>>,
}

impl Namespace {
    /// Inode of the network namespace that a process is in.
    pub fn inode_of(pid: u32) -> io::Result<u64> {
        Ok(fs::metadata(format!("/proc/{pid}/ns/net"))?.ino())
    }

    /// The one that a process is in.
    pub fn of(pid: u32) -> io::Result<Self> {
        let own = fs::metadata("/proc/self/ns/net")?;
        let file = File::open(format!("/proc/{pid}/ns/net"))?;
        let found = file.metadata()?;
        let is_own = (found.dev(), found.ino()) == (own.dev(), own.ino());
        Ok(Self {
            inode: found.ino(),
            file: (!is_own).then(|| Arc::new(file)),
        })
    }

    /// The daemon's own.
    pub fn own() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// Does something in the namespace, such as making sockets: they stay in it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let Some(file) = &self.file else {
            return work();
        };
        // A thread of its own: a namespace is a thread's, and this one must not come back to the daemon's threads.
        std::thread::scope(|scope| {
            let entered = scope.spawn(|| {
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
                work()
            });
            entered
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread in it panicked")))
        })
    }
}

/// `SO_NETNS_COOKIE` (include/uapi/asm-generic/socket.h), Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// What the kernel's programs know the current network namespace by.
pub fn cookie() -> io::Result<u64> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: an open socket, and room for what is asked.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}
