//! Who is an agent: what a task carries, what a tagged cgroup says, and what the kernel knows of each
//! agent. All of it is shared with the kernel: integers and byte arrays, explicit padding.

use crate::{
    approval::{GrantKey, Note, Request, RequestKey},
    automaton::{Cursor, VERBS},
    decide::Alias,
    event::{Process, RecordHeader},
    limits::{
        ALIASES, ARGUMENTS_BYTES, AUTOMATA, LANES, NAME_BYTES, PATH_BYTES, PROGRAM_BYTES, ROUNDS,
    },
    moved::Moved,
    name::Asker,
    outcome::Outcome,
    seen::Place,
};

/// What a task of an agent carries. An all-zero label is no label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Label {
    /// The agent's number; never 0, never given twice while the pins live.
    pub agent: u64,
    /// Slot of the agent in `AGENTS`.
    pub slot: u32,
    /// [`BEFORE_ITS_PROGRAM`], or 0. The other bits are kept for conditions of rules.
    pub conditions: u32,
}

/// In [`Label::conditions`]: somebody else forked this task and put it below the tagged cgroup, and what it ran when it
/// was first seen there was still the program of whoever forked it. Children don't inherit it.
pub const BEFORE_ITS_PROGRAM: u32 = 1 << 31;

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
    /// The same as a list ([`level_list`]), and the tagged cgroups' [`tag_bit`]s: who is below none of them is told by
    /// these alone.
    pub level_list: u64,
    pub tagged: u64,
    /// Grows after every change to profiles and identities: what was decided before may be decided otherwise now.
    pub generation: u64,
    /// When the record that the daemon has in hand was made (boot clock, in nanoseconds), and the number
    /// that its event gets. A daemon that finds this record still in its ring knows from its log whether it
    /// was written.
    pub in_hand_ns: u64,
    pub in_hand_seq: u64,
    /// Number of the last request for an approval; the kernel's.
    pub requests: u64,
    /// Random key of the hashes of objects in [`crate::approval`]; zero until the daemon has written it.
    pub hash_key: [u64; 2],
}

/// Instead of a list of levels: there may be tagged cgroups at any.
pub const ANY_LEVEL: u64 = u64::MAX;

/// Levels in one word, a byte for each from the low one on, the lowest level first; the byte after the last is 0.
/// [`ANY_LEVEL`] when there are more than seven.
pub fn level_list(levels: u32) -> u64 {
    let mut list = 0;
    let mut bits = 0;
    for level in (1..32_u64).filter(|level| levels & 1 << level != 0) {
        if bits == 56 {
            return ANY_LEVEL;
        }
        list |= level << bits;
        bits += 8;
    }
    list
}

/// The bit that stands for a tagged cgroup among those of all: whoever has none of these is tagged nowhere.
#[inline(always)]
pub const fn tag_bit(cgroup: u64) -> u64 {
    // Fibonacci hashing: ids are inode numbers, most of them one after the other.
    1 << (cgroup.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58)
}

/// Size of the object buffer, and the index in it at which every object ends: paths are written from
/// the end towards the front, as they are climbed from the file to the root.
pub const OBJECT_BYTES: usize = PATH_BYTES + 1;

/// Value of the `LABELS` map (task storage): the label, what events say of the process, and the
/// task's own workspace.
///
/// The workspace is the task's because a per-CPU one is not safe: LSM programs can be preempted (on
/// `PREEMPT_LAZY` and `PREEMPT` kernels), and the next task on that CPU would write over the path
/// that is being judged.
#[repr(C)]
pub struct TaskState {
    pub label: Label,
    pub climb: Climb,
    pub walk: Walk,
    pub asked: Asked,
    pub execution: Execution,
    pub hold: Hold,
    /// What is said of the action.
    pub report: RecordHeader,
    /// Identities met by the current climb.
    pub aliases: [Alias; ALIASES],
    /// The strictest outcome so far for each verb of the current question.
    pub outcomes: [Outcome; VERBS as usize],
    /// What was found out about the two names of a rename or a link; of an open, [`TaskState::sight`].
    pub moved: Moved,
    pub names: Names,
    pub object: [u8; OBJECT_BYTES],
    /// Lies behind `object` so that a name copied to any place in it stays inside the value.
    pub process: Process,
}

impl TaskState {
    /// Where the file is that is being opened; `profile` is 0 when that can't be told. It lies where a rename has its two
    /// names: no action is both.
    ///
    /// # Safety
    /// `state` points to a value of the map.
    #[inline(always)]
    pub const unsafe fn sight(state: *mut Self) -> *mut Place {
        const { assert!(size_of::<Place>() <= size_of::<Moved>()) };
        // SAFETY: the caller's; words lie in the place of words.
        unsafe { (&raw mut (*state).moved).cast() }
    }
}

/// Where a climb from an object to its root has got to.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Climb {
    /// `struct dentry *` to look at next.
    pub dentry: u64,
    /// `struct mount *` it lies on.
    pub mount: u64,
    /// Root `struct dentry *` of that mount, and the mount and entry that it lies on.
    pub root: u64,
    pub above: u64,
    pub mountpoint: u64,
    /// The `struct vfsmount *` and `struct dentry *` of the object itself.
    pub object_mount: u64,
    pub object_dentry: u64,
    /// Inode number of the object itself.
    pub inode: u64,
    /// Device of the mount's file system.
    pub device: u32,
    /// Device of the object itself.
    pub object_device: u32,
    /// Index in `object` of its first byte, and after its last.
    pub start: u32,
    pub stop: u32,
    /// Identities met.
    pub aliases: u32,
    /// Install number of the profile, for the identities' keys.
    pub install: u32,
    /// Slot of the profile, likewise.
    pub profile: u32,
    /// How the climb ended; meaningful to the kernel side alone.
    pub end: u32,
    /// Which way the climb takes at the root of a mount; meaningful to the kernel side alone.
    pub way: u32,
    /// 1 when an identity was met above the root of a mount, where no name leads.
    pub hidden: u32,
    /// The path subject (`Subject::File`, `Exec` or `Unix` as 0, 1, 2) whose states are wanted.
    pub subject: u32,
}

/// Where the search for the names of a directory entry has got to whose hook doesn't say on which mount it is.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Names {
    /// The entry's `struct dentry *`.
    pub dentry: u64,
    /// Address of the list of its file system's mounts, and of the element to look at next.
    pub list: u64,
    pub next: u64,
    /// Any mount of the file system (`struct vfsmount *`, as below).
    pub any: u64,
    /// The latest that no mount namespace has.
    pub internal: u64,
    /// The one by which the entry has the name that is told; 0 while none was found in the task's namespace.
    pub told: u64,
    /// Names in the task's mount namespace.
    pub names: u32,
    /// 1 when another mount namespace has the file system, or had.
    pub elsewhere: u32,
    /// 1 when an identity was met where no name leads.
    pub hidden: u32,
    /// [`Reason`](crate::event::Reason) why the search failed, as a number; 0 when it didn't.
    pub failed: u32,
    /// 1 when the list was read to its end.
    pub done: u32,
    /// How often it was begun anew.
    pub again: u32,
    /// Number of the subject among those whose objects are paths (as in [`Climb`]), and of the verb.
    pub subject: u32,
    pub verb: u32,
}

/// The question that is being decided.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Asked {
    /// Arena cell of the profile's descriptor.
    pub profile: u32,
    pub subject: u32,
    pub verbs: u32,
    pub text: u32,
    /// The strictest decision so far, in parts.
    pub outcome: u32,
    pub verb: u32,
    pub reason: u32,
    /// [`LOOK_REFUSED`], [`LOOK_BY_PERFMON`], or 0.
    pub look: u32,
    /// Class of the names ([`crate::name`]) by which the address was known that was asked about last.
    pub class: u32,
    pub padding: u32,
}

/// In [`Asked::look`]: the task was refused a look into somebody else's, and has asked for no capability since.
pub const LOOK_REFUSED: u32 = 1;
/// And went on to ask for CAP_PERFMON, with which the kernel would show it nevertheless.
pub const LOOK_BY_PERFMON: u32 = 2;

/// Where a walk of the automata over the object's bytes has got to.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Walk {
    pub cursor: Cursor,
    /// Index in `object` of the next byte, and after the last one.
    pub next: u32,
    pub stop: u32,
    /// 1 when the tables were found broken.
    pub broken: u32,
    pub padding: u32,
}

/// A program that is being started, as far as rules look at its arguments: where the automata stand after the
/// paths of its files. The arguments themselves can be read only when there is no way back.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Execution {
    /// The `struct linux_binprm *`, by which one start is told from an earlier one that failed.
    pub binprm: u64,
    /// Address of the string that is read, 0 for the next one of the list at `list`.
    pub string: u64,
    pub list: u64,
    /// Descriptor and install number that the states belong to.
    pub profile: u32,
    pub install: u32,
    /// How many of `round` and of `lane` there are.
    pub rounds: u32,
    pub lanes: u32,
    /// The round that is judged.
    pub current: u32,
    /// 1 when arguments can make a difference to the current round.
    pub open: u32,
    /// Strings still to be read or passed over.
    pub wanted: u32,
    /// Index in `object` of the next byte of them, and of the first one that was not filled.
    pub next: u32,
    pub end: u32,
    /// 1 when there were more strings than there was room for.
    pub cut: u32,
    pub round: [Round; ROUNDS],
    pub lane: [Lane; LANES],
}

/// One file of a start: the program, a script, its interpreter.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Round {
    pub inode: u64,
    pub device: u32,
    /// Its arguments: so many of the last ones that the program gets in the end.
    pub arguments: u32,
    /// [`Text`](crate::decide::Text) of its path, as a number.
    pub text: u32,
    pub path_bytes: u32,
    /// The path's last bytes.
    pub path: [u8; PROGRAM_BYTES],
}

/// Where the automata stand after the path of a file, under one of its names, and its NUL.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Lane {
    pub states: [u32; AUTOMATA],
    /// Index of the file.
    pub round: u32,
}

/// What is found out about an action that a rule asks about, and what the rest of the same call must know of it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Hold {
    /// State of the hash of the object.
    pub hash: [u64; 4],
    /// Before there is a note, its request's outcome and verb are those that the path inside a file system came to.
    pub note: Note,
    /// The key that is looked for in `GRANTS`.
    pub grant: GrantKey,
    /// An answer for once that the start of a program at hand has used up; all zero: none.
    pub used_key: RequestKey,
    pub used: Request,
    /// The `struct linux_binprm *` of the start at hand, and the one that `used` and `approved` belong to.
    pub start: u64,
    pub answered_start: u64,
    /// Hash of the program and arguments that were approved at the first look; all zero: none.
    pub approved: [u64; 2],
    /// What the content of the program is known by.
    pub content: [u64; 2],
    /// The directory entry whose making was approved in the call at hand, and the one whose opening was.
    pub approved_made: u64,
    pub approved_open: u64,
    /// 1 when the call at hand has made the file that it opens.
    pub made: u32,
    /// Index in `object` of the next byte that is hashed; afterwards, how many different hashes were counted.
    pub next: u32,
    /// Counted in `REQUESTS`: processes of the agent, and leaders.
    pub held: u32,
    pub leaders: u32,
}

/// Value of the `SOCKETS` map (socket storage): who made a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Socket {
    pub agent: u64,
    /// [`SOCKET_INSIDE`], [`SOCKET_LISTENS`], [`SOCKET_UNBOUND`], [`SOCKET_WITH_ITSELF`] and [`SOCKET_FOR_AGENTS`].
    pub flags: u32,
    pub slot: u32,
    /// Kernel address of the [`TaskState`] of whoever calls right now to go where only a socket of the same agent
    /// may wait; 0 for nobody. The call's program of the cgroup looks who does.
    pub caller: u64,
    /// Where a rule asks and a person said yes, as [`crate::address`] writes it, zero-padded: packets of the socket
    /// may go there. All zero: nowhere.
    pub approved: [u64; 3],
    /// Where it was let go last because of a name, likewise, and by which installation of the profile.
    pub named: [u64; 3],
    /// The resolver that a lookup asked, and the daemon's, to which it went.
    pub asked: [u64; 3],
    pub redirected: [u64; 3],
    /// Number of the daemon's resolver.
    pub listener: u32,
    pub named_install: u32,
    pub asker: Asker,
    pub hello: Hello,
}

/// The first message of a TLS connection, as far as it was walked, and what it is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Hello {
    /// Where the automata stand.
    pub base: [u32; AUTOMATA],
    pub state: [u32; AUTOMATA],
    /// Offsets in the packet: where the name begins, where the part ends that was not walked yet, and where in the label at
    /// hand the walk is; 0 while that label's beginning is looked for.
    pub first: u32,
    pub end: u32,
    pub at: u32,
    /// Where the label at hand ends.
    pub label_end: u32,
    /// 1 when something could not be read or walked.
    pub broken: u32,
    /// Class of the names ([`crate::name`]) of the address.
    pub class: u32,
}

impl Socket {
    /// Nothing known of it.
    pub const EMPTY: Self = Self {
        agent: 0,
        flags: 0,
        slot: 0,
        caller: 0,
        approved: [0; 3],
        named: [0; 3],
        asked: [0; 3],
        redirected: [0; 3],
        listener: 0,
        named_install: 0,
        asker: [0; size_of::<Asker>() / 8],
        hello: Hello {
            base: [0; AUTOMATA],
            state: [0; AUTOMATA],
            first: 0,
            end: 0,
            at: 0,
            label_end: 0,
            broken: 0,
            class: 0,
        },
    };
}

/// The socket was made by a task inside the tagged cgroup, so that the cgroup's programs see it.
pub const SOCKET_INSIDE: u32 = 1;
/// The socket listens, or was accepted from one that does: what it sends answers a peer.
pub const SOCKET_LISTENS: u32 = 2;
/// The socket listened before it had a port, and was judged as having none.
pub const SOCKET_UNBOUND: u32 = 4;
/// A TCP socket that was let through to a listener of the same agent.
pub const SOCKET_WITH_ITSELF: u32 = 8;
/// The daemon's Unix socket on which it tells agents about themselves, marked by the daemon alone: every agent may
/// connect to it. The socket itself is marked and not its path, so that no rule, mount or rename makes another one
/// of it.
pub const SOCKET_FOR_AGENTS: u32 = 16;
/// What leaves first must be a TLS ClientHello that names a host which rules open.
pub const SOCKET_WANTS_SNI: u32 = 32;

const _: () = {
    assert!(size_of::<Label>() == 16);
    assert!(size_of::<Tag>() == 16);
    assert!(size_of::<Agent>() == 184);
    assert!(size_of::<Control>() == 80);
    assert!(size_of::<Socket>() == 240);
    assert!(size_of::<Hold>() == 368);
    // A path's last bytes, a NUL, and arguments.
    assert!(PROGRAM_BYTES + 1 + ARGUMENTS_BYTES == OBJECT_BYTES);
    assert!(OBJECT_BYTES.is_multiple_of(8));
    assert!(size_of::<Process>() > NAME_BYTES + 1);
    assert!(
        core::mem::offset_of!(TaskState, process)
            == core::mem::offset_of!(TaskState, object) + OBJECT_BYTES
    );
    // With the kernel's own header (72 bytes of a `bpf_local_storage_elem` come before the value) it still fits an 8 KiB
    // slab object.
    assert!(size_of::<TaskState>() <= 8192 - 128);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_levels() {
        assert_eq!(level_list(0), 0);
        assert_eq!(level_list(1 << 2), 2);
        assert_eq!(level_list(1 << 2 | 1 << 31 | 1 << 5), 0x1f_05_02);
        // The root is no level, and a byte is left for the end of the list.
        assert_eq!(level_list(1), 0);
        assert_eq!(level_list(0xfe), 0x07_06_05_04_03_02_01);
        assert_eq!(level_list(0x1fe), ANY_LEVEL);
    }

    #[test]
    fn neighbouring_cgroups_have_bits_of_their_own() {
        let bits = (1000..1032).fold(0, |bits, id| bits | tag_bit(id));
        assert!(bits.count_ones() > 24, "{bits:b}");
    }
}
