//! Who is an agent: what a task carries, what a tagged cgroup says, and what the kernel knows of each
//! agent. All of it is shared with the kernel: integers and byte arrays, explicit padding.

use crate::{
    decide::Alias,
    event::Process,
    limits::{ALIASES, NAME_BYTES, PATH_BYTES},
};

/// What a task of an agent carries. An all-zero label is no label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Label {
    /// The agent's number; never 0, never given twice while the pins live.
    pub agent: u64,
    /// Slot of the agent in `AGENTS`.
    pub slot: u32,
    /// Condition bits (taints), for rules that depend on what the agent did before.
    pub conditions: u32,
}

/// Value of the `TAGS` map, whose key is the cgroup's id (its inode number in cgroup2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Tag {
    pub agent: u64,
    pub slot: u32,
    pub padding: u32,
}

/// An element of the `AGENTS` map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Agent {
    /// The agent's number, 0 in a free slot. A label with another number than its slot is stale and
    /// everything its task does is denied.
    pub id: u64,
    /// Id of the tagged cgroup.
    pub cgroup: u64,
    /// Wall-clock time of the tagging in nanoseconds since the epoch; for people.
    pub since_ns: u64,
    /// Slot of the profile in `PROFILES`.
    pub profile: u32,
    /// Level of the tagged cgroup (the root is 0).
    pub level: u32,
    /// [`AGENT_ACTIVE`] or [`AGENT_RELEASED`].
    pub state: u32,
    /// Label generation, for humans reading a dump; not used in verdicts.
    pub padding: u32,
    /// The session's ULID in its 16 binary bytes.
    pub session: [u8; 16],
    /// Name as given or made up, UTF-8, zero-padded.
    pub name: [u8; AGENT_NAME_BYTES],
    /// Name of the profile, UTF-8, zero-padded.
    pub profile_name: [u8; AGENT_NAME_BYTES],
}

/// Longest name of an agent or of a profile, in bytes.
pub const AGENT_NAME_BYTES: usize = 64;
/// The agent's tasks are judged.
pub const AGENT_ACTIVE: u32 = 1;
/// The agent was untagged: its tasks are treated as if they carried no label.
pub const AGENT_RELEASED: u32 = 2;

/// The single element of the `CONTROL` map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Control {
    /// Boot-clock time of the daemon's last sign of life, in nanoseconds.
    pub heartbeat_ns: u64,
    /// Levels at which cgroups are tagged, one bit each (bit 0, the root, is never set).
    pub levels: u32,
    pub padding: u32,
}

/// Room in the object buffer before the object: the record's header goes right in front of it.
pub const OBJECT_FRONT: usize = 128;
/// Index in the object buffer at which every object ends. Paths are written towards the front, as
/// they are climbed from the file to the root.
pub const OBJECT_END: usize = OBJECT_FRONT + PATH_BYTES + 1;
/// Size of the object buffer: behind the end there is room for one name, so that the verifier can
/// see that a copy of any name to any place in front of the end stays inside.
pub const OBJECT_BYTES: usize = OBJECT_END + NAME_BYTES + 1;

/// Value of the `LABELS` map (task storage): the label, what events say of the process, and the
/// task's own workspace.
///
/// The workspace is the task's because a per-CPU one is not safe: LSM programs can be preempted (on
/// `PREEMPT_LAZY` and `PREEMPT` kernels), and the next task on that CPU would write over the path
/// that is being judged.
#[repr(C)]
pub struct TaskState {
    pub label: Label,
    /// Identities met by the current climb.
    pub aliases: [Alias; ALIASES],
    pub alias_count: u32,
    /// Index in `object` of the first byte.
    pub object_start: u32,
    pub object: [u8; OBJECT_BYTES],
    /// Follows the object directly: a record is copied out of here in one piece.
    pub process: Process,
}

/// Value of the `SOCKETS` map (socket storage): who made a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Socket {
    pub agent: u64,
    /// [`SOCKET_INSIDE`] and [`SOCKET_LISTENS`].
    pub flags: u32,
    pub slot: u32,
}

/// The socket was made by a task inside the tagged cgroup, so that the cgroup's programs see it.
pub const SOCKET_INSIDE: u32 = 1;
/// The socket listens, or was accepted from one that does: what it sends answers a peer.
pub const SOCKET_LISTENS: u32 = 2;

const _: () = {
    assert!(size_of::<Label>() == 16);
    assert!(size_of::<Tag>() == 16);
    assert!(size_of::<Agent>() == 184);
    assert!(size_of::<Control>() == 16);
    assert!(size_of::<Socket>() == 16);
    assert!(OBJECT_BYTES % 8 == 0);
    assert!(OBJECT_END % 8 == 0);
    assert!(
        core::mem::offset_of!(TaskState, process)
            == core::mem::offset_of!(TaskState, object) + OBJECT_BYTES
    );
    // With the kernel's own header it still fits an 8 KiB slab object.
    assert!(size_of::<TaskState>() <= 8192 - 256);
};
