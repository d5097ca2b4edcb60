//! Every map, under the name by which userspace pins and opens it.

use agentguard_common::{
    approval::{self, Grant, GrantKey, Request, RequestKey},
    counter::COUNTERS as COUNTER_SLOTS,
    identity::{FILTER_WORDS, Identity, IdentityKey},
    label::{Agent, Control, Socket, Tag, TaskState},
    limits,
    name::{DestinationKey, NameGrant, NameKey, QuestionFrom, QuestionKey, Resolver},
    offsets::KernelOffsets,
    seen::{Seen, Sequences},
};
use aya_ebpf::{
    Global,
    bindings::{
        BPF_F_CLONE, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC,
        bpf_map_type::{BPF_MAP_TYPE_SK_STORAGE, BPF_MAP_TYPE_TASK_STORAGE},
    },
    btf_maps::{Array, HashMap, InodeStorage, LruHashMap, PerCpuArray, RingBuf},
    cty::c_void,
    helpers::generated::{bpf_sk_storage_get, bpf_task_storage_get},
    macros::btf_map,
};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

/// Offsets in the running kernel's structures, filled in and frozen by the loader.
#[unsafe(no_mangle)]
pub static OFFSETS: Global<KernelOffsets> = Global::new(KernelOffsets::UNSET);

/// Where the kernel counts what moves, filled in and frozen by the loader likewise.
#[unsafe(no_mangle)]
pub static SEQUENCES: Global<Sequences> = Global::new(Sequences::UNKNOWN);

/// What each task of an agent carries.
#[btf_map]
pub static LABELS: TaskStorage<TaskState> = TaskStorage::new();

/// Who made each socket.
#[btf_map]
pub static SOCKETS: SocketStorage<Socket> = SocketStorage::new();

/// Tagged cgroups by their id.
#[btf_map]
pub static TAGS: HashMap<u64, Tag, { limits::TAGS as usize }> = HashMap::new();

/// What was allowed of files.
#[btf_map]
pub static SEEN: InodeStorage<Seen> = InodeStorage::new();

/// Agents by slot.
#[btf_map]
pub static AGENTS: Array<Agent, { limits::AGENTS as usize }, MMAPABLE> = Array::new();

/// Arena cell of the descriptor in force, by profile slot; 0 for a free slot.
#[btf_map]
pub static PROFILES: Array<u64, { limits::PROFILES as usize }, MMAPABLE> = Array::new();

/// The arena: automata and descriptors of all profiles. The loader sets its size.
#[btf_map]
pub static AUTOMATON: Array<u64, { limits::ARENA_CELLS as usize }, MMAPABLE> = Array::new();

/// What the daemon tells every program.
#[btf_map]
pub static CONTROL: Array<Control, 1, MMAPABLE> = Array::new();

/// Literally named files and directories by device and inode.
#[btf_map]
pub static IDENTITIES: HashMap<IdentityKey, Identity, { limits::IDENTITIES as usize }> =
    HashMap::new();

/// One bit per hash of an identity: most inodes are ruled out here.
#[btf_map]
pub static IDENTITY_FILTER: Array<u64, { FILTER_WORDS as usize }, MMAPABLE> = Array::new();

/// Actions that are held, and the answers that each waits for.
#[btf_map]
pub static REQUESTS: HashMap<RequestKey, Request, { approval::REQUESTS as usize }> = HashMap::new();

/// Answers that hold for longer than one action.
#[btf_map]
pub static GRANTS: HashMap<GrantKey, Grant, { approval::GRANTS as usize }> = HashMap::new();

/// Addresses that names were answered with, by agent.
#[btf_map]
pub static NAME_GRANTS: HashMap<
    NameKey,
    NameGrant,
    { limits::NAME_GRANTS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Where agents were let go because of a name.
#[btf_map]
pub static DESTINATIONS: LruHashMap<DestinationKey, u64, { limits::DESTINATIONS as usize }> =
    LruHashMap::new();

/// The daemon's resolvers, by the cookie of their network namespace.
#[btf_map]
pub static RESOLVERS: HashMap<u64, Resolver, { limits::RESOLVERS as usize }> = HashMap::new();

/// Who sent something to a resolver of the daemon's lately.
#[btf_map]
pub static QUESTIONS: LruHashMap<QuestionKey, QuestionFrom, { limits::QUESTIONS as usize }> =
    LruHashMap::new();

/// Counters of decisions, losses and failed helpers.
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { COUNTER_SLOTS as usize }> = PerCpuArray::new();

/// Denials, asks and lifecycle.
#[btf_map]
pub static DENIALS: RingBuf<u8, { limits::DENIALS_BYTES as usize }> = RingBuf::new();

/// Allowed actions, and what others sent in vain, apart so that a flood of them can't push out a denial.
#[btf_map]
pub static EVENTS: RingBuf<u8, { limits::EVENTS_BYTES as usize }> = RingBuf::new();

/// Task storage, which aya-ebpf does not have: a map definition in the layout that BTF maps share.
#[repr(C)]
pub struct TaskStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_TASK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

// SAFETY: the fields are placeholders that only the loader reads.
unsafe impl<T> Sync for TaskStorage<T> {}

impl<T> TaskStorage<T> {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }

    /// What `task` carries, zeroed and new if `create`; null if there is nothing or no memory.
    ///
    /// # Safety
    /// `task` is the current task or one the verifier knows as trusted.
    #[inline(always)]
    pub unsafe fn of(&self, task: *const c_void, create: bool) -> *mut T {
        // SAFETY: the map is a task storage and the caller vouches for the task.
        unsafe {
            bpf_task_storage_get(
                core::ptr::from_ref(self).cast_mut().cast(),
                task.cast_mut().cast(),
                core::ptr::null_mut(),
                u64::from(create),
            )
            .cast()
        }
    }
}

/// Socket storage that is copied to accepted sockets (`BPF_F_CLONE`), and takes any socket pointer.
#[repr(C)]
pub struct SocketStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the fields are placeholders that only the loader reads.
unsafe impl<T> Sync for SocketStorage<T> {}

impl<T> SocketStorage<T> {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }

    /// What is known of `sk`, zeroed and new if `create`; null if there is nothing or no memory.
    ///
    /// # Safety
    /// `sk` is a `struct sock` that the verifier knows.
    #[inline(always)]
    pub unsafe fn of(&self, sk: *const c_void, create: bool) -> *mut T {
        // SAFETY: the map is a socket storage and the caller vouches for the socket.
        unsafe {
            bpf_sk_storage_get(
                core::ptr::from_ref(self).cast_mut().cast(),
                sk.cast_mut(),
                core::ptr::null_mut(),
                u64::from(create),
            )
            .cast()
        }
    }
}
