//! What the system call at hand has to do with an approval: whether it can be made again, and what else it does that the
//! approval covers.

use agentguard_common::{
    counter::Hook,
    label::{Hold, TaskState},
};
use aya_ebpf::helpers::generated::bpf_map_update_elem;

use super::{NOEXIST, hold};
use crate::{kernel::task, maps::REQUESTS};

/// Whether the action can wait: it is the current task's own, in a system call that can be made again, and the
/// error gets there.
#[inline(always)]
pub fn can_hold(state: *mut TaskState) -> bool {
    // include/linux/sched.h.
    const PF_IO_WORKER: u32 = 0x10;
    const PF_EXITING: u32 = 0x4;
    const PF_USER_WORKER: u32 = 0x4000;
    const PF_KTHREAD: u32 = 0x0020_0000;
    // The same number on every architecture.
    const IO_URING_ENTER: i64 = 426;
    if task::flags() & (PF_IO_WORKER | PF_EXITING | PF_USER_WORKER | PF_KTHREAD) != 0 {
        return false;
    }
    let call = task::system_call();
    if call < 0 || call == IO_URING_ENTER || task::acts_for_another() {
        return false;
    }
    // SAFETY: the task's own map value.
    let hook = u32::from(unsafe { core::ptr::read_volatile(&raw const (*state).report.hook) });
    // A descriptor that isn't taken is lost, with what else came with it.
    if hook == Hook::FileReceive as u32
        // There is no way back.
        || hook == Hook::BprmCommittingCreds as u32
        // One call asks several times for what can't be told apart.
        || hook == Hook::KeyAlloc as u32
        || hook == Hook::KeyPermission as u32
        // Whoever asks for a module goes on without it.
        || hook == Hook::KernelModuleRequest as u32
        // Asked in the middle of more than one connection, and of packets that came in.
        || hook == Hook::SctpBindConnect as u32
    {
        return false;
    }
    if hook == Hook::MmapFile as u32 || hook == Hook::FileMprotect as u32 {
        return is_mapping(call);
    }
    true
}

/// Whether a system call maps or changes a mapping, so that the kernel's own loader isn't at it: `mmap`, `mprotect`,
/// `pkey_mprotect`, and their numbers for 32-bit programs (arch/x86/entry/syscalls).
#[inline(always)]
fn is_mapping(call: i64) -> bool {
    matches!(call, 9 | 10 | 329 | 90 | 125 | 192 | 380)
}

/// Whether a system call opens a file: `open`, `creat`, `openat`, `openat2`.
#[inline(always)]
fn is_open(call: i64) -> bool {
    matches!(call, 2 | 85 | 257 | 437)
}

/// Whether a system call is `ioctl`, of a 64-bit or a 32-bit program.
#[inline(always)]
fn is_ioctl(call: i64) -> bool {
    matches!(call, 16 | 54)
}

/// Whether the action is a part of one that was approved in the same call: opening what was just made,
/// shortening what was just opened (KERNEL: before 6.2 `O_TRUNC` comes to `path_truncate` as well), and what an ioctl
/// changes (KERNEL: from 6.17 on it comes to `inode_file_setattr` as well).
#[inline(always)]
pub fn is_covered(state: *mut TaskState) -> bool {
    // SAFETY: the task's own map value.
    let (hook, entry) = unsafe {
        (
            u32::from(core::ptr::read_volatile(&raw const (*state).report.hook)),
            core::ptr::read_volatile(&raw const (*state).climb.object_dentry),
        )
    };
    let hold = hold(state);
    if hook == Hook::FileIoctl as u32 || hook == Hook::FileIoctlCompat as u32 {
        hold.approved_open = 0;
        return false;
    }
    if hook == Hook::FileOpen as u32 {
        hold.approved_open = 0;
        return hold.made != 0 && hold.approved_made == entry && entry != 0;
    }
    if hold.approved_open != entry || entry == 0 {
        return false;
    }
    let call = task::system_call();
    hook == Hook::PathTruncate as u32 && is_open(call)
        || hook == Hook::InodeFileSetattr as u32 && is_ioctl(call)
}

/// Keeps what the rest of the same call must know of an approval.
#[inline(always)]
pub fn remember(state: *mut TaskState) {
    // SAFETY: the task's own map value.
    let (hook, entry) = unsafe {
        (
            u32::from(core::ptr::read_volatile(&raw const (*state).report.hook)),
            core::ptr::read_volatile(&raw const (*state).climb.object_dentry),
        )
    };
    let hold = hold(state);
    if hook == Hook::PathMknod as u32 {
        hold.approved_made = entry;
    } else if hook == Hook::FileOpen as u32
        || hook == Hook::FileIoctl as u32
        || hook == Hook::FileIoctlCompat as u32
    {
        hold.approved_open = entry;
    } else if hook == Hook::BprmCheckSecurity as u32 {
        answers_start(hold);
        // Only an answer for once is used up.
        if hold.note.grant == 0 {
            hold.used_key = hold.note.key;
            hold.used = hold.note.request;
        }
    }
}

/// Forgets the answers of another start than the one at hand.
#[inline(always)]
pub fn answers_start(hold: &mut Hold) {
    if hold.answered_start != hold.start {
        hold.answered_start = hold.start;
        hold.used_key.agent = 0;
        hold.approved = [0; 2];
    }
}

/// A start of a program has several files, and its call is made again as a whole: what was used up for an earlier file of
/// the same start is given back when a later one has to wait.
#[inline(always)]
pub fn restore(state: *mut TaskState) {
    let hold = hold(state);
    let is_later = task::start_is_first(hold.start) == Some(false);
    // SAFETY: the task's own map value; the map's key and value.
    unsafe {
        if u32::from(core::ptr::read_volatile(&raw const (*state).report.hook))
            != Hook::BprmCheckSecurity as u32
            || hold.used_key.agent == 0
            || hold.answered_start != hold.start
            || !is_later
        {
            return;
        }
        bpf_map_update_elem(
            (&raw const REQUESTS).cast_mut().cast(),
            (&raw const hold.used_key).cast(),
            (&raw const hold.used).cast(),
            NOEXIST,
        );
        hold.used_key.agent = 0;
    }
}
