//! What the processes of a cgroup have open before it becomes an agent's. Descriptors are judged when they are opened
//! or received, so that those which are there already are judged here, by the same profile and by the names that they
//! have now. Meanwhile the processes stand still ([`crate::cgroup::Cgroup::freeze`]).
//!
//! Standard input, output and error are the launcher's to choose, as they are with `agentguard run`: of those only
//! what no agent may have counts. Memory shared with others (memfd, System V, anonymous) is not judged, as pipes aren't.

use std::{
    fmt, fs, io,
    net::{IpAddr, SocketAddrV4, SocketAddrV6},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{FileTypeExt as _, MetadataExt as _},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use agentguard_common::{
    Verdict,
    profile::named,
    system::{Operation, is_harmless_device, magic},
};
use rustix::{
    net::{AddressFamily, SocketAddrAny, SocketAddrUnix, SocketType, ipproto, sockopt},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use crate::{
    policy::{Access, Ask, CompiledProfile, Destination, Expect, explain},
    render::safe,
};

/// How many are told of one cgroup.
const TOLD: usize = 20;
/// How long the look at one descriptor may take. Everybody in the cgroup stands still.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Something open that the profile wouldn't let the agent open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub pid: u32,
    /// The process's own name for itself.
    pub comm: String,
    /// `descriptor 5`, `a mapping`.
    pub by: String,
    /// What it is of.
    pub object: String,
    /// Why an agent under this profile wouldn't get it.
    pub why: String,
}

impl Held {
    /// Of a process that can't be looked at. FAIL-CLOSED: it may have anything.
    fn unseen(pid: u32, why: String) -> Self {
        Self {
            pid,
            comm: comm(pid),
            by: String::from("its descriptors"),
            object: String::from("what can't be looked at"),
            why,
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "process {} ({}) has open {} ({}): {}",
            self.pid,
            safe(&self.comm),
            safe(&self.object),
            self.by,
            self.why
        )
    }
}

/// What these processes have open that the profile denies, at most [`TOLD`]. Where a file system doesn't answer, that is
/// one of them: what is on it is not known.
pub fn of(pids: Vec<u32>, profile: &CompiledProfile) -> Vec<Held> {
    let progress = Arc::new(Progress::default());
    let (send, receive) = mpsc::channel();
    let (profile, reported) = (profile.clone(), Arc::clone(&progress));
    // A thread, because a look at a file may wait for a server that is gone, and nobody can end that.
    thread::spawn(move || {
        let judge = Judge {
            profile: &profile,
            progress: &reported,
        };
        let mut held = Vec::new();
        for pid in pids {
            reported.pid.store(pid, Relaxed);
            judge.process(pid, &mut held);
            if held.len() >= TOLD {
                held.truncate(TOLD);
                break;
            }
        }
        // Whoever asked may be gone.
        let _ = send.send(held);
    });
    loop {
        let before = progress.looks.load(Relaxed);
        match receive.recv_timeout(ANSWER_WITHIN) {
            Ok(held) => return held,
            Err(mpsc::RecvTimeoutError::Timeout) if progress.looks.load(Relaxed) != before => {}
            Err(error) => {
                let pid = progress.pid.load(Relaxed);
                let why = match error {
                    mpsc::RecvTimeoutError::Timeout => {
                        "the file system that it is on doesn't answer"
                    }
                    mpsc::RecvTimeoutError::Disconnected => "the look at it failed",
                };
                return vec![Held::unseen(pid, why.to_owned())];
            }
        }
    }
}

/// How far the look has got.
#[derive(Debug, Default)]
struct Progress {
    /// The process that is looked at.
    pid: AtomicU32,
    /// Descriptors and mappings that were looked at.
    looks: AtomicU64,
}

/// A descriptor or mapping that the profile denies, and why.
type Finding = Option<(String, String)>;

struct Judge<'p> {
    profile: &'p CompiledProfile,
    progress: &'p Progress,
}

impl Judge<'_> {
    fn process(&self, pid: u32, held: &mut Vec<Held>) {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let found = held.len();
        let result = self.descriptors(pid, &folder, true, held).and_then(|()| {
            for tid in threads_apart(pid)? {
                let folder = folder.join(format!("task/{tid}"));
                self.descriptors(pid, &folder, false, held)?;
            }
            self.mappings(pid, &folder, held)
        });
        match result {
            Err(error) if !is_gone(&error) => held.push(Held::unseen(pid, error.to_string())),
            _ => {}
        }
        for held in &mut held[found..] {
            held.comm = comm(pid);
        }
    }

    fn descriptors(
        &self,
        pid: u32,
        folder: &Path,
        leader: bool,
        held: &mut Vec<Held>,
    ) -> io::Result<()> {
        for entry in fs::read_dir(folder.join("fd"))? {
            self.progress.looks.fetch_add(1, Relaxed);
            let path = entry?.path();
            let number: i32 = path
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok())
                .ok_or_else(|| io::Error::other("a descriptor without a number"))?;
            match self.descriptor(pid, number, &path, leader) {
                Ok(None) => {}
                Ok(Some((object, why))) => held.push(Held {
                    pid,
                    comm: String::new(),
                    by: format!("descriptor {number}"),
                    object,
                    why,
                }),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn descriptor(&self, pid: u32, number: i32, path: &Path, leader: bool) -> io::Result<Finding> {
        let link = fs::read_link(path)?;
        let target = link.as_os_str().as_bytes();
        // The link's own permissions are how the descriptor was opened; O_PATH has none.
        let mode = fs::symlink_metadata(path)?.mode();
        let (reads, writes) = (mode & 0o400 != 0, mode & 0o200 != 0);
        let standard = number <= 2;
        if let Some(kind) = target.strip_prefix(b"anon_inode:") {
            let named = link.to_string_lossy().into_owned();
            return Ok(self.of_no_file(kind).map(|why| (named, why)));
        }
        if target.starts_with(b"socket:") {
            if standard {
                return Ok(None);
            }
            if !leader {
                return Ok(Some((
                    link.to_string_lossy().into_owned(),
                    String::from(
                        "a thread has descriptors of its own, whose sockets can't be looked at",
                    ),
                )));
            }
            return self.socket(&duplicate(pid, number)?);
        }
        if !target.starts_with(b"/") || !(reads || writes) {
            return Ok(None);
        }
        let metadata = fs::metadata(path)?;
        let shown = link.to_string_lossy().into_owned();
        if let Some(why) = self.of_kernel(path, &metadata, writes)? {
            return Ok(Some((shown, why)));
        }
        if standard {
            return Ok(None);
        }
        Ok(self.file(target, metadata.nlink() == 0, reads, writes))
    }

    /// Descriptors without a file.
    fn of_no_file(&self, kind: &[u8]) -> Option<String> {
        let operation = match kind {
            b"[io_uring]" => {
                return Some(String::from(
                    "what the ring's kernel threads do would not be judged as the agent's",
                ));
            }
            b"[userfaultfd]" => Operation::Userfaultfd,
            b"[perf_event]" => Operation::Perf,
            kind if kind.starts_with(b"bpf") || kind == b"btf" => Operation::Bpf,
            // FAIL-OPEN: counters, timers, pidfds, watches, mounts to be: what is done by them is judged when it is.
            _ => return None,
        };
        self.system(operation)
    }

    /// Files of the kernel, and devices.
    fn of_kernel(
        &self,
        path: &Path,
        metadata: &fs::Metadata,
        writes: bool,
    ) -> io::Result<Option<String>> {
        let kind = metadata.file_type();
        let (major, minor) = (
            rustix::fs::major(metadata.rdev()),
            rustix::fs::minor(metadata.rdev()),
        );
        let operation = if kind.is_block_device() {
            Operation::BlockDevices
        } else if kind.is_char_device() && !is_harmless_device(major, minor) {
            Operation::Devices
        } else {
            match rustix::fs::statfs(path)?.f_type as u64 {
                magic::BPF_FS => Operation::Bpf,
                magic::MQUEUE if kind.is_file() => Operation::Ipc,
                magic::DEBUGFS | magic::TRACEFS => Operation::KernelFiles,
                magic::CGROUP | magic::CGROUP2 if writes => Operation::Cgroups,
                magic::PROC if writes => Operation::KernelFiles,
                number if writes && magic::CONTROLS.contains(&number) => Operation::KernelFiles,
                _ => return Ok(None),
            }
        };
        Ok(self.system(operation))
    }

    fn system(&self, operation: Operation) -> Option<String> {
        // FAIL-CLOSED: a profile whose tables are broken allows nothing.
        let system = self.profile.system().unwrap_or_default();
        (system.verdict(operation) != Verdict::Allow)
            .then(|| format!("[system] {} of the profile denies it", operation.name()))
    }

    fn file(&self, name: &[u8], deleted: bool, reads: bool, writes: bool) -> Finding {
        // The kernel shows these as files: memory of processes (mm/shmem.c, ipc/shm.c).
        if deleted
            && [&b"/memfd:"[..], b"/SYSV", b"/dev/zero"]
                .iter()
                .any(|shared| name.starts_with(shared))
        {
            return None;
        }
        let path = match name.strip_suffix(b" (deleted)") {
            Some(path) if deleted => path,
            _ => name,
        };
        let accesses = [(reads, Access::Read), (writes, Access::Write)];
        let access = accesses
            .into_iter()
            .filter_map(|(has, access)| has.then_some(access))
            .collect();
        self.ask(&Ask::Open {
            path: path.to_vec(),
            access,
        })
    }

    fn socket(&self, socket: &OwnedFd) -> io::Result<Finding> {
        let (domain, kind) = (
            sockopt::socket_domain(socket)?,
            sockopt::socket_type(socket)?,
        );
        let protocol = sockopt::socket_protocol(socket)?;
        let refused = |operation: Operation| {
            let object = format!("a socket of family {}", domain.as_raw());
            self.system(operation).map(|why| (object, why))
        };
        match domain {
            AddressFamily::UNIX => {}
            AddressFamily::INET | AddressFamily::INET6 => match kind {
                SocketType::RAW => return Ok(refused(Operation::RawSockets)),
                SocketType::STREAM
                    if matches!(protocol, None | Some(ipproto::TCP | ipproto::MPTCP)) => {}
                SocketType::DGRAM if matches!(protocol, None | Some(ipproto::UDP)) => {}
                _ if protocol == Some(ipproto::SCTP) && self.profile.names(named::SCTP) => {}
                SocketType::DGRAM if self.profile.names(named::ICMP) => {}
                _ => return Ok(refused(Operation::OtherSockets)),
            },
            AddressFamily::NETLINK if protocol.is_none() => return Ok(None),
            AddressFamily::PACKET => return Ok(refused(Operation::PacketSockets)),
            AddressFamily::VSOCK if self.profile.names(named::VSOCK) => {}
            _ => return Ok(refused(Operation::OtherSockets)),
        }
        let number = match (kind, protocol) {
            (_, Some(protocol)) if protocol != ipproto::MPTCP => protocol.as_raw().get() as u8,
            (SocketType::DGRAM, _) => ipproto::UDP.as_raw().get() as u8,
            _ => ipproto::TCP.as_raw().get() as u8,
        };
        if sockopt::socket_acceptconn(socket)? {
            // Who listens on a Unix socket waits for others; an agent may do so anyway.
            let local = internet(&rustix::net::getsockname(socket)?, number);
            return Ok(local.and_then(|address| self.ask(&Ask::Listen { address })));
        }
        let peer = match rustix::net::getpeername(socket) {
            // Not connected: judged when it is, or sends.
            Err(rustix::io::Errno::NOTCONN) | Ok(None) => return Ok(None),
            Ok(Some(peer)) => peer,
            Err(error) => return Err(error.into()),
        };
        if domain == AddressFamily::VSOCK {
            // FAIL-CLOSED: rules name the other end, which isn't read here.
            let why = String::from("where it leads isn't known");
            return Ok(Some((String::from("a vsock connection"), why)));
        }
        let peer = internet(&peer, number).or_else(|| unix(peer));
        Ok(peer.and_then(|address| self.ask(&Ask::Connect { address })))
    }

    fn ask(&self, ask: &Ask) -> Finding {
        let explained = explain(self.profile, ask);
        (explained.verdict != Expect::Allow).then(|| {
            let verb = match explained.verdict {
                Expect::Ask => "would ask",
                _ => "denies it",
            };
            let why = format!("rule \"{}\" {verb}", explained.rule);
            (explained.object, why)
        })
    }

    /// Shared mappings of files, and those of rings.
    fn mappings(&self, pid: u32, folder: &Path, held: &mut Vec<Held>) -> io::Result<()> {
        for line in fs::read(folder.join("maps"))?.split(|byte| *byte == b'\n') {
            self.progress.looks.fetch_add(1, Relaxed);
            // Addresses, permissions, offset, device, inode, and the name (Documentation/filesystems/proc.rst).
            let mut fields = line.splitn(6, |byte| *byte == b' ');
            let permissions = fields.nth(1).unwrap_or_default();
            let name = fields.nth(3).unwrap_or_default().trim_ascii_start();
            let found = if let Some(kind) = name.strip_prefix(b"anon_inode:") {
                let named = String::from_utf8_lossy(name).into_owned();
                self.of_no_file(kind).map(|why| (named, why))
            } else if name.starts_with(b"/") && permissions.get(3) == Some(&b's') {
                // A name that ends like that of a deleted file is taken for one: what is left of it is judged.
                let deleted = name.ends_with(b" (deleted)");
                let writes = permissions.get(1) == Some(&b'w');
                self.file(name, deleted, true, writes)
            } else {
                None
            };
            let found = found.map(|(object, why)| Held {
                pid,
                comm: String::new(),
                by: String::from("a mapping"),
                object,
                why,
            });
            // A file has several mappings more often than not.
            if found.is_some() && found.as_ref() != held.last() {
                held.extend(found);
            }
        }
        Ok(())
    }
}

/// A process's own name for itself.
fn comm(pid: u32) -> String {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    comm.trim_end().to_owned()
}

/// Whether a process ended, or closed it.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Threads that don't share the descriptors of their process.
fn threads_apart(pid: u32) -> io::Result<Vec<u32>> {
    const KCMP_FILES: libc::c_int = 2;
    let mut apart = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let tid = entry?.file_name().to_string_lossy().parse::<u32>();
        let Some(tid) = tid.ok().filter(|tid| *tid != pid) else {
            continue;
        };
        // SAFETY: kcmp(2) takes numbers and no memory.
        let order = unsafe { libc::syscall(libc::SYS_kcmp, pid, tid, KCMP_FILES, 0, 0) };
        // FAIL-CLOSED: a kernel without kcmp says nothing of whether they share them.
        if order != 0 {
            apart.push(tid);
        }
    }
    Ok(apart)
}

/// A process's descriptor, as one of this process.
fn duplicate(pid: u32, number: i32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::ErrorKind::NotFound)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    match pidfd_getfd(pidfd.as_fd(), number, PidfdGetfdFlags::empty()) {
        Err(rustix::io::Errno::BADF) => Err(io::ErrorKind::NotFound.into()),
        descriptor => Ok(descriptor?),
    }
}

fn internet(address: &SocketAddrAny, protocol: u8) -> Option<Destination> {
    let (address, port): (IpAddr, u16) = if let Ok(v4) = SocketAddrV4::try_from(address.clone()) {
        ((*v4.ip()).into(), v4.port())
    } else {
        let v6 = SocketAddrV6::try_from(address.clone()).ok()?;
        (IpAddr::from(*v6.ip()).to_canonical(), v6.port())
    };
    Some(Destination::Inet {
        protocol,
        address,
        port,
    })
}

/// A Unix socket's name; none of those made in pairs has one.
fn unix(address: SocketAddrAny) -> Option<Destination> {
    let address = SocketAddrUnix::try_from(address).ok()?;
    // KERNEL: of a socket without a name the length alone says so, and this reads it as an empty one.
    if let Some(name) = address.abstract_name().filter(|name| !name.is_empty()) {
        return Some(Destination::Unix([b"@", name].concat()));
    }
    let path = address.path()?;
    Some(Destination::Unix(path.to_bytes().to_vec()))
}
