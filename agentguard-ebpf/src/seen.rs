//! Files that an agent was allowed to open or to map as code before, and is again, without a look at paths or rules.
//!
//! An answer is kept on the inode, together with everything that it followed from (`agentguard_common::seen`), and counts
//! only while all of that is the same. Only permissions are kept, and of those that are logged what their events say: the path
//! is as old as the answer, and as true. Whatever is denied or held goes the whole way each time.
//!
//! FAIL-CLOSED: nothing here denies or decides. Whatever can't be read, doesn't fit or is being written at this moment is
//! not known, and what isn't known is judged.
//!
//! The kernel's own sequence counters say whether anything moved: `rename_lock` is written around every move of a directory
//! entry (fs/dcache.c, `d_move`, `d_exchange`, `d_splice_alias`), `mount_lock` around every change to mounts, their making
//! and their end (fs/namespace.c). They are read before anything that depends on them, as `d_path` does.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use agentguard_common::{
    Decision, Outcome, Verdict,
    event::Reason,
    label::{OBJECT_BYTES, TaskState},
    profile::{self, LogAllow},
    seen::{MAPPED, NAME_BYTES, OPENED, PLACE_WORDS, Place, Seen, TOLD_BYTES, Told, window},
    system::magic::{CGROUP2, PROC},
};
use aya_ebpf::{cty::c_void, helpers::generated::bpf_jiffies64};

use crate::{
    engine::{Arena, fresh},
    kernel::{self, fs, probe, sequences, task},
    maps::{CONTROL, SEEN},
    subject::Subject,
};

/// What is known of an access from before.
pub enum Before {
    Nothing,
    /// It is allowed, and nobody is told.
    Silent,
    /// It is allowed, and what its event says is in the workspace.
    Told(Decision),
}

/// Whether this file may be opened for `verbs`, or [`MAPPED`], because it was before. Leaves in the workspace what [`keep`]
/// needs if not.
#[inline(always)]
pub fn before(subject: &Subject, file: *const c_void, verbs: u64) -> Before {
    let state = subject.state;
    // SAFETY: the task's own map value.
    let sight = unsafe { &mut *TaskState::sight(state) };
    sight.profile = 0;
    // SAFETY: the hook's own argument.
    let Some(seen) = (unsafe { look(subject, file, sight) }) else {
        return Before::Nothing;
    };
    if seen.is_null() {
        return Before::Nothing;
    }
    // SAFETY: a map value. Whoever writes it says so before and after.
    unsafe {
        let done = core::ptr::read_volatile(&raw const (*seen).done);
        let allowed = core::ptr::read_volatile(&raw const (*seen).verbs);
        if allowed & verbs != verbs || !is_same(&raw const (*seen).place, sight) {
            return Before::Nothing;
        }
        let told = &raw const (*seen).told;
        if verbs == MAPPED || fresh(&raw const (*told).path_bytes) == 0 {
            return if core::ptr::read_volatile(&raw const (*seen).begun) == done {
                Before::Silent
            } else {
                Before::Nothing
            };
        }
        let decision = tell(told, state);
        if allowed & OPENED != verbs || core::ptr::read_volatile(&raw const (*seen).begun) != done {
            return Before::Nothing;
        }
        match decision {
            Some(decision) => Before::Told(decision),
            None => Before::Nothing,
        }
    }
}

/// Puts what the event of an open says into the workspace, and returns what was decided.
///
/// # Safety
/// `told` lies in a map value, `state` is the task's own.
#[inline(always)]
unsafe fn tell(told: *const Told, state: *mut TaskState) -> Option<Decision> {
    // SAFETY: the caller's.
    unsafe {
        let path_bytes = fresh(&raw const (*told).path_bytes);
        let path = (&raw const (*told).path).cast();
        if path_bytes > TOLD_BYTES as u32
            || !kernel::copy(path_place(state), TOLD_BYTES as u32, path)
        {
            return None;
        }
        let climb = &mut (*state).climb;
        climb.inode = core::ptr::read_volatile(&raw const (*told).inode);
        climb.object_device = fresh(&raw const (*told).device);
        climb.start = OBJECT_BYTES as u32 - path_bytes;
        climb.stop = OBJECT_BYTES as u32;
        Some(Decision {
            outcome: Outcome(fresh(&raw const (*told).outcome)),
            verb: fresh(&raw const (*told).verb) as u8,
            reason: if fresh(&raw const (*told).by_default) == 0 {
                Reason::Rule
            } else {
                Reason::Default
            },
        })
    }
}

/// Where the last [`TOLD_BYTES`] of an object are.
///
/// # Safety
/// `state` is the task's own map value.
#[inline(always)]
unsafe fn path_place(state: *mut TaskState) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe {
        (&raw mut (*state).object)
            .cast::<u8>()
            .add(OBJECT_BYTES - TOLD_BYTES)
    }
}

/// Puts together where the file is, and returns what its inode carries, null when it carries nothing. `None` when that
/// can't be told or is not to be kept.
///
/// # Safety
/// `file` is a `struct file` the verifier knows, `sight` the task's own.
#[inline(always)]
unsafe fn look(subject: &Subject, file: *const c_void, sight: &mut Place) -> Option<*mut Seen> {
    let changes = changes()?;
    // SAFETY: one aligned word that userspace changes atomically.
    let generation =
        unsafe { core::ptr::read_volatile(&raw const (*CONTROL.get_ptr(0)?).generation) };
    // SAFETY: the caller's; every pointer that may be null is checked.
    unsafe {
        let (mount, _) = fs::file_path(file);
        let dentry = fs::file_dentry(file);
        let inode = fs::file_inode(file);
        if dentry.is_null() || inode.is_null() {
            return None;
        }
        let turn = fs::dentry_sequence(dentry);
        if turn & 1 != 0 || fs::entry_inode(dentry) as u64 != inode as u64 {
            return None;
        }
        let name = fs::entry_name(dentry);
        let parent = fs::entry_parent(dentry);
        if name.len_bytes > NAME_BYTES as u32 || parent.is_null() {
            return None;
        }
        let mut i = 0;
        while i < NAME_BYTES / 8 {
            core::ptr::write_volatile(&raw mut sight.name[i], 0);
            i += 1;
        }
        let len_bytes = kernel::bounded::<NAME_BYTES>(name.len_bytes);
        let at = (&raw mut sight.name).cast::<u8>();
        if !kernel::copy(at, len_bytes, name.address as *const u8) {
            return None;
        }
        let folder = fs::entry_inode(parent);
        if folder.is_null() {
            return None;
        }
        let (number, version) = fs::identity(folder);
        // A name that changed meanwhile is half of each.
        if fs::dentry_sequence(dentry) != turn {
            return None;
        }
        sight.len_bytes = len_bytes.into();
        sight.folder = parent as u64;
        sight.folder_inode = number;
        sight.folder_generation = version.into();
        sight.mount = mount;
        sight.namespace = task::mount_namespace();
        sight.generation = generation;
        sight.changes = changes;
        // The kernel puts a load in the place of the call.
        sight.window = window(bpf_jiffies64());
        sight.profile = subject.profile.into();
        Some(SEEN.get_ptr_mut(inode.cast_mut().cast()))
    }
}

/// Renames and changes to mounts, as counted; `None` while there is one, or when the kernel doesn't say where it counts.
#[inline(always)]
fn changes() -> Option<u64> {
    let at = sequences();
    if at.renames == 0 || at.mounts == 0 {
        return None;
    }
    let renames: u32 = probe(at.renames, 0)?;
    let mounts: u32 = probe(at.mounts, 0)?;
    ((renames | mounts) & 1 == 0).then_some(u64::from(renames) | u64::from(mounts) << 32)
}

/// # Safety
/// `one` is a map value.
#[inline(always)]
unsafe fn is_same(one: *const Place, other: *const Place) -> bool {
    let (one, other) = (one.cast::<u64>(), other.cast::<u64>());
    let mut i = 0;
    while i < PLACE_WORDS {
        // SAFETY: the caller's.
        unsafe {
            if core::ptr::read_volatile(one.add(i)) != core::ptr::read_volatile(other.add(i)) {
                return false;
            }
        }
        i += 1;
    }
    true
}

/// Keeps what was decided about the file that [`before`] was asked about, if it is to be kept.
#[inline(always)]
pub fn keep(subject: &Subject, file: *const c_void, verbs: u64, decision: Decision) {
    let state = subject.state;
    // SAFETY: the task's own map value.
    if unsafe { core::ptr::read_volatile(&raw const (*TaskState::sight(state)).profile) } == 0
        || decision.outcome.rank() != Verdict::Allow as u32
    {
        return;
    }
    let Some((_, _, log)) = profile::header(&Arena, subject.profile) else {
        return;
    };
    // What may be mapped is never logged.
    let path_bytes =
        if verbs == MAPPED || decision.outcome.is_quiet() || log == LogAllow::None as u32 {
            0
        } else {
            // SAFETY: the task's own map value.
            let climb = unsafe { &raw const (*state).climb };
            // SAFETY: as above.
            let (start, stop) = unsafe {
                (
                    fresh(&raw const (*climb).start),
                    fresh(&raw const (*climb).stop),
                )
            };
            let path_bytes = stop.wrapping_sub(start);
            if stop != OBJECT_BYTES as u32 || path_bytes == 0 || path_bytes > TOLD_BYTES as u32 {
                return;
            }
            path_bytes
        };
    // SAFETY: the hook's own argument.
    unsafe {
        let inode = fs::file_inode(file);
        if inode.is_null() {
            return;
        }
        // What these are follows from more than where they are: from whose they are, and who asks.
        let Some(magic) = fs::inode_magic(inode as u64) else {
            return;
        };
        if magic == PROC || magic == CGROUP2 {
            return;
        }
        let seen = SEEN.get_or_insert_ptr_mut(inode.cast_mut().cast(), None);
        if !seen.is_null() {
            write(seen, state, verbs, path_bytes, decision);
        }
    }
}

/// Writes it, unless somebody else does at this moment. Of two who begin at once none writes.
///
/// # Safety
/// `seen` is a map value, `state` the task's own.
#[inline(always)]
unsafe fn write(
    seen: *mut Seen,
    state: *mut TaskState,
    verbs: u64,
    path_bytes: u32,
    decision: Decision,
) {
    // SAFETY: the caller's. KERNEL: an atomic add is a full barrier on x86, and loads and stores keep their order.
    unsafe {
        let done = core::ptr::read_volatile(&raw const (*seen).done);
        if core::ptr::read_volatile(&raw const (*seen).begun) != done {
            return;
        }
        count(&raw mut (*seen).begun);
        if core::ptr::read_volatile(&raw const (*seen).begun) == done.wrapping_add(1) {
            let sight = TaskState::sight(state).cast_const();
            let told = &raw mut (*seen).told;
            let mut allowed = verbs;
            let mut path_bytes = path_bytes;
            if is_same(&raw const (*seen).place, sight) {
                let known = core::ptr::read_volatile(&raw const (*seen).verbs);
                if verbs == MAPPED {
                    allowed |= known;
                    path_bytes = fresh(&raw const (*told).path_bytes);
                } else if path_bytes == 0 && fresh(&raw const (*told).path_bytes) == 0 {
                    allowed |= known;
                } else {
                    allowed |= known & MAPPED;
                }
            }
            let (to, from) = ((&raw mut (*seen).place).cast::<u64>(), sight.cast::<u64>());
            let mut i = 0;
            while i < PLACE_WORDS {
                core::ptr::write_volatile(to.add(i), core::ptr::read_volatile(from.add(i)));
                i += 1;
            }
            if path_bytes != 0 && verbs != MAPPED {
                let climb = &raw const (*state).climb;
                let path = (&raw mut (*told).path).cast();
                let inode = core::ptr::read_volatile(&raw const (*climb).inode);
                let device = fresh(&raw const (*climb).object_device);
                core::ptr::write_volatile(&raw mut (*told).inode, inode);
                core::ptr::write_volatile(&raw mut (*told).device, device);
                core::ptr::write_volatile(&raw mut (*told).outcome, decision.outcome.0);
                core::ptr::write_volatile(&raw mut (*told).verb, decision.verb.into());
                let by_default = decision.reason as u8 != Reason::Rule as u8;
                core::ptr::write_volatile(&raw mut (*told).by_default, by_default.into());
                if !kernel::copy(path, TOLD_BYTES as u32, path_place(state)) {
                    // Then it is allowed to nobody.
                    allowed = 0;
                    path_bytes = 0;
                }
            }
            core::ptr::write_volatile(&raw mut (*told).path_bytes, path_bytes);
            core::ptr::write_volatile(&raw mut (*seen).verbs, allowed);
        }
        count(&raw mut (*seen).done);
    }
}

/// # Safety
/// `counter` lies in a map value.
#[inline(always)]
unsafe fn count(counter: *mut u64) {
    // SAFETY: the caller's.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, 1) };
}
