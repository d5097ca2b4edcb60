//! The records that travel through the rings, as bytes. Userspace turns them into events.
//!
//! A record is a `RecordHeader`, then room for the object ([`SHORT_OBJECT`] or [`LONG_OBJECT`] bytes, of
//! which the first `object_bytes` count), then a `Process`. Two sizes, because the ring wants a size
//! that the verifier knows. The rings are `DENIALS` (denials, asks, lifecycle) and `EVENTS` (allowed
//! actions).

use crate::limits::{ARGS_BYTES, EXE_BYTES};

/// Room for the object in a short record.
pub const SHORT_OBJECT: usize = 256;
/// Room for the object in a long record.
pub const LONG_OBJECT: usize = 4096;

/// First field of every record: what kind it is.
pub mod kind {
    /// An action and its verdict.
    pub const ACTION: u16 = 1;
    /// The same, about an approval: a [`Note`](crate::approval::Note) comes behind the process.
    pub const APPROVAL: u16 = 2;
}

/// A record with `N` bytes of room for its object.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Record<const N: usize> {
    pub header: RecordHeader,
    pub object: [u8; N],
    pub process: Process,
}

/// What was attempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Action {
    FileOpen = 1,
    FileCreate = 2,
    FileDelete = 3,
    FileRename = 4,
    FileLink = 5,
    FileMetadata = 6,
    Exec = 7,
    NetConnect = 8,
    NetSend = 9,
    NetListen = 10,
    NetAccept = 11,
    UnixConnect = 12,
    /// A truncation without an open: an access `write`, reported as `file.open`.
    FileTruncate = 13,
    /// A signal to a task that isn't the same agent's.
    ProcessSignal = 14,
    /// Looking into such a task, or tracing it.
    ProcessPtrace = 15,
    /// An operation of `[system]`; the verb is its number ([`Operation`](crate::system::Operation)).
    System = 16,
}

/// Why the verdict is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// A rule of the profile.
    Rule = 0,
    /// No rule matched: the profile's `[default]`.
    Default = 1,
    /// The path is longer than [`PATH_BYTES`](crate::limits::PATH_BYTES), or deeper than can be climbed.
    PathTooLong = 2,
    /// The kernel's structures could not be read on the way from the object to its root.
    PathUnreadable = 3,
    /// The object lies on a mount outside the task's mount namespace.
    Detached = 4,
    /// A program without a path (memfd, deleted) that no rule allows.
    NoPath = 5,
    /// More identities on the way than can be judged.
    TooManyAliases = 6,
    /// The tables in the arena are not what they should be.
    TablesBroken = 7,
    /// The task's label names an agent that is gone.
    StaleLabel = 8,
    /// The task's own workspace could not be allocated.
    NoMemory = 9,
    /// An internet socket that was not made inside the agent's cgroup.
    ForeignSocket = 10,
    /// The packet asks, or the option would ask, to be routed over hops that were not judged.
    SourceRouted = 11,
    /// A packet that can't be taken apart, or whose socket has no known owner.
    PacketUnreadable = 12,
    /// The address can't be read, or is of a family that no rule can name.
    AddressUnreadable = 13,
    /// A rule asks, and nobody can answer: the daemon isn't running.
    AskUnavailable = 14,
    /// A kernel-internal file whose text means nothing and which no identity forbids.
    Internal = 15,
    /// The socket belongs to the same agent.
    SameAgent = 16,
    /// The other task is not the same agent's.
    OtherTask = 17,
    /// The profile's `[system]`.
    System = 18,
    /// A kind of socket that the profile doesn't let through.
    SocketKind = 19,
    /// The directory would have a name below which other rules hold than below the old one.
    WouldLift = 20,
    /// A rule looks at the program's arguments, and they are longer than can be judged.
    ArgumentsTooLong = 21,
    /// A rule looks at the program's arguments, and they can't be read, or the policy was replaced while the
    /// program was being started.
    ArgumentsUnreadable = 22,
    /// A rule asks, and a person said yes.
    Granted = 23,
    /// A rule asks, and the process is held until somebody answers.
    Held = 24,
    /// A rule asks, and a person said no, just now or a short while ago.
    Refused = 25,
    /// A rule asks, and nobody answered in time.
    TimedOut = 26,
    /// A rule asks, and the agent has as many questions waiting as it may.
    TooManyPending = 27,
    /// A rule asks, and there is no room to ask in: the map of requests or the ring is full.
    NoRoom = 28,
    /// A rule asks, and the action can't wait for an answer: it isn't a system call's own, or one that can't be made
    /// again.
    CantHold = 29,
    /// A lookup that can't be sent to the daemon's resolver: there is none in its network namespace yet, or its protocol
    /// is MPTCP.
    NoResolver = 30,
    /// A rule requires that TLS names a host which rules open: it names another or none, hides it, or its first message
    /// can't be read in one piece.
    ServerName = 31,
}

impl Reason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 32] = [
        Self::Rule,
        Self::Default,
        Self::PathTooLong,
        Self::PathUnreadable,
        Self::Detached,
        Self::NoPath,
        Self::TooManyAliases,
        Self::TablesBroken,
        Self::StaleLabel,
        Self::NoMemory,
        Self::ForeignSocket,
        Self::SourceRouted,
        Self::PacketUnreadable,
        Self::AddressUnreadable,
        Self::AskUnavailable,
        Self::Internal,
        Self::SameAgent,
        Self::OtherTask,
        Self::System,
        Self::SocketKind,
        Self::WouldLift,
        Self::ArgumentsTooLong,
        Self::ArgumentsUnreadable,
        Self::Granted,
        Self::Held,
        Self::Refused,
        Self::TimedOut,
        Self::TooManyPending,
        Self::NoRoom,
        Self::CantHold,
        Self::NoResolver,
        Self::ServerName,
    ];
}

/// What the object's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ObjectKind {
    Path = 1,
    /// As [`crate::address`] writes it.
    Address = 2,
    /// A Unix socket: a path, or `@` and an abstract name.
    Unix = 3,
    /// A [`Target`].
    Task = 4,
    /// A number ([`DETAIL_BYTES`](crate::system::DETAIL_BYTES) bytes).
    Detail = 5,
    /// A program with its arguments after `argv[0]`, each string with its NUL.
    Program = 6,
    /// Two paths with a NUL between them: what is renamed or linked, and its new name. Where somebody is asked.
    Names = 7,
}

/// The object of `process.signal` and `process.ptrace`: another task, as the kernel knows it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Target {
    /// Start of its process on the boot clock, in nanoseconds.
    pub start_ns: u64,
    /// Its process and thread ids in the initial pid namespace.
    pub pid: u32,
    pub tid: u32,
    /// The signal's number, or the `PTRACE_MODE_*` bits (include/linux/ptrace.h); 0 when the acting task asked
    /// to be traced by it.
    pub detail: u32,
    pub padding: u32,
    pub comm: [u8; 16],
}

/// The profile is in audit mode: the verdict was not carried out.
pub const FLAG_AUDIT: u8 = 1;
/// The object was cut or could not be read whole.
pub const FLAG_PARTIAL: u8 = 2;
/// The action could no longer be refused, so the process was killed before it could go on.
pub const FLAG_KILLED: u8 = 4;
/// The process is stopped until somebody answers.
pub const FLAG_HELD: u8 = 8;
/// A rule asks, and an answer let the action through.
pub const FLAG_GRANTED: u8 = 16;

/// First part of every record.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RecordHeader {
    /// One of [`kind`].
    pub kind: u16,
    pub reserved: u16,
    /// Length of the whole record in bytes.
    pub len_bytes: u32,
    /// When, on the boot clock (`bpf_ktime_get_boot_ns`).
    pub boot_ns: u64,
    /// The agent's number.
    pub agent: u64,
    /// `inode->i_ino` of the object, 0 if it has none.
    pub inode: u64,
    /// `super_block->s_dev` of the object, as the kernel writes it.
    pub device: u32,
    /// Install number of the policy that decided.
    pub install: u32,
    /// The [`Outcome`](crate::Outcome): verdict and rule index.
    pub outcome: u32,
    /// Slot of the agent.
    pub slot: u32,
    /// Length of the object in bytes.
    pub object_bytes: u32,
    /// Set of verbs that were asked for.
    pub verbs: u8,
    /// The verb that decided.
    pub verb: u8,
    /// [`Action`], not checked.
    pub action: u8,
    /// [`Reason`], not checked.
    pub reason: u8,
    /// [`ObjectKind`], not checked.
    pub object_kind: u8,
    /// [`FLAG_AUDIT`], [`FLAG_PARTIAL`], [`FLAG_KILLED`], [`FLAG_HELD`], [`FLAG_GRANTED`].
    pub flags: u8,
    /// [`Hook`](crate::counter::Hook), not checked.
    pub hook: u8,
    pub padding: [u8; 5],
}

/// Last part of every record: the acting process as the kernel knows it, without a look at `/proc`
/// and its races. Zero in records that no task made (packets).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Process {
    /// Start of the process (thread-group leader) on the boot clock, in nanoseconds
    /// (`task_struct->start_boottime`).
    pub start_ns: u64,
    /// Process id, in the initial pid namespace.
    pub pid: u32,
    /// Thread id, likewise.
    pub tid: u32,
    /// Parent process id, likewise.
    pub ppid: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bytes of `exe` in use. 0: the program was started before the task was labelled.
    pub exe_bytes: u16,
    /// Bytes of `args` in use.
    pub args_bytes: u16,
    /// 1 when `exe` was cut, 2 when `args` was.
    pub cut: u8,
    pub padding: [u8; 7],
    /// `task_struct->comm`, for people only: every process can write its own.
    pub comm: [u8; 16],
    /// Path of the program, its last [`EXE_BYTES`] bytes.
    pub exe: [u8; EXE_BYTES],
    /// Arguments as the program got them, NUL-separated.
    pub args: [u8; ARGS_BYTES],
}

const _: () = {
    assert!(size_of::<RecordHeader>() == 64);
    assert!(size_of::<Record<SHORT_OBJECT>>() == 64 + SHORT_OBJECT + 824);
    assert!(size_of::<Process>() == 824);
    assert!(size_of::<Target>() == 40);
};
