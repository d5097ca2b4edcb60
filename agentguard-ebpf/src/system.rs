//! `[system]`: whether the profile lets an operation on the kernel itself through, and which files are such
//! operations. No rules and no automata are asked.

use agentguard_common::{
    Decision, Outcome, Verdict,
    event::{Action, ObjectKind, Reason},
    label::{BEFORE_ITS_PROGRAM, OBJECT_BYTES, TaskState},
    limits::TAG_LEVELS,
    profile::{self, Subject as Kind, verb},
    system::{
        DETAIL_BYTES, Operation, is_harmless_device,
        magic::{BPF_FS, CGROUP, CGROUP2, CONTROLS, DEBUGFS, MQUEUE, PROC, TRACEFS},
    },
};

use crate::{
    engine::Arena,
    kernel::{fs, probe, task},
    object,
    record::Verb,
    subject::{self, Subject},
    verdict::carry_out,
};
use agentguard_common::counter::Hook;

/// What the profile says of an operation.
#[inline(always)]
pub fn decide(subject: &Subject, operation: Operation) -> Decision {
    let Some(system) = profile::system(&Arena, subject.profile) else {
        // FAIL-CLOSED: where the descriptor should be is something else.
        return Decision::refuse(Reason::TablesBroken);
    };
    decision(operation, system.verdict(operation))
}

/// A verdict of `[system]`.
#[inline(always)]
pub fn decision(operation: Operation, verdict: Verdict) -> Decision {
    Decision {
        outcome: Outcome::new(verdict, false, Outcome::DEFAULT_RULE),
        verb: operation as u8,
        reason: Reason::System,
    }
}

/// How an operation is reported.
#[inline(always)]
pub fn verb(hook: Hook) -> Verb {
    Verb {
        hook,
        action: Action::System,
        kind: Kind::File,
        verbs: 0,
    }
}

/// Judges an operation that has neither a path nor a task; `detail` is what its event says of it.
#[inline(always)]
pub fn judge(subject: &Subject, hook: Hook, operation: Operation, detail: u64) -> i32 {
    let decision = decide(subject, operation);
    report(subject, hook, decision, detail)
}

/// Carries out a decision whose object is a number.
#[inline(always)]
pub fn report(subject: &Subject, hook: Hook, decision: Decision, detail: u64) -> i32 {
    object::nothing(subject.state);
    // SAFETY: the task's own map value; a multiple of 8 bytes from its end, which is aligned.
    unsafe {
        let start = OBJECT_BYTES - DETAIL_BYTES;
        let at = (&raw mut (*subject.state).object).cast::<u8>().add(start);
        at.cast::<u64>().write(detail);
        (*subject.state).climb.start = start as u32;
    }
    carry_out(subject, verb(hook), ObjectKind::Detail, decision)
}

const READ: u8 = verb::bit(verb::READ);

// include/uapi/linux/stat.h.
const S_IFMT: u16 = 0o170_000;
const S_IFCHR: u16 = 0o020_000;
const S_IFBLK: u16 = 0o060_000;
const S_IFREG: u16 = 0o100_000;

/// Major and minor number of a device as the kernel keeps them (include/linux/kdev_t.h).
const MINOR_BITS: u32 = 20;

/// Nobody's operation.
const NONE: u32 = u32::MAX;
/// The kernel's structures could not be read.
const UNREADABLE: u32 = u32::MAX - 1;

/// The operation that an access to the file of the latest climb is, if it is one.
#[inline(always)]
pub fn of_file(subject: &Subject, verbs: u8) -> Result<Option<Operation>, Reason> {
    match file_operation(subject.state, verbs.into(), subject.level, subject.cgroup) {
        NONE => Ok(None),
        UNREADABLE => Err(Reason::PathUnreadable),
        // VERIFIER: an operation by its number, without a table.
        number if number == Operation::Bpf as u32 => Ok(Some(Operation::Bpf)),
        number if number == Operation::Cgroups as u32 => Ok(Some(Operation::Cgroups)),
        number if number == Operation::KernelFiles as u32 => Ok(Some(Operation::KernelFiles)),
        number if number == Operation::BlockDevices as u32 => Ok(Some(Operation::BlockDevices)),
        number if number == Operation::Devices as u32 => Ok(Some(Operation::Devices)),
        number if number == Operation::ProcessList as u32 => Ok(Some(Operation::ProcessList)),
        number if number == Operation::Ipc as u32 => Ok(Some(Operation::Ipc)),
        _ => Ok(Some(Operation::OtherProcesses)),
    }
}

/// Number of the operation, [`NONE`] or [`UNREADABLE`]. VERIFIER: a program of its own, and only numbers go in
/// and out.
#[inline(never)]
fn file_operation(state: *mut TaskState, verbs: u32, level: u32, cgroup: u64) -> u32 {
    // SAFETY: the task's own map value.
    let dentry = unsafe { core::ptr::read_volatile(&raw const (*state).climb.object_dentry) };
    let reads_only = verbs as u8 & !READ == 0;
    // SAFETY: as above; only this task writes its label.
    let conditions = unsafe { core::ptr::read_volatile(&raw const (*state).label.conditions) };
    let launched = conditions & BEFORE_ITS_PROGRAM != 0 && task::runs_what_forked_it();
    match surface(dentry, reads_only, level, cgroup, launched) {
        Some(number) => number,
        // FAIL-CLOSED: nobody knows what kind of file it is.
        None => UNREADABLE,
    }
}

#[inline(always)]
fn surface(dentry: u64, reads_only: bool, level: u32, cgroup: u64, launched: bool) -> Option<u32> {
    let mut inode = fs::dentry_inode(dentry)?;
    let mut mode = 0;
    if inode != 0 {
        mode = fs::inode_mode(inode)? & S_IFMT;
    } else {
        // About to be made: what its folder is, it will be.
        inode = fs::dentry_inode(fs::dentry_parent(dentry)?)?;
    }
    if mode == S_IFBLK {
        return Some(Operation::BlockDevices as u32);
    }
    if mode == S_IFCHR {
        return Some(if is_harmless(fs::inode_device(inode)?) {
            NONE
        } else {
            Operation::Devices as u32
        });
    }
    let magic = fs::inode_magic(inode)?;
    if magic == BPF_FS {
        return Some(Operation::Bpf as u32);
    }
    if magic == MQUEUE && mode == S_IFREG {
        return Some(Operation::Ipc as u32);
    }
    if magic == DEBUGFS || magic == TRACEFS {
        return Some(Operation::KernelFiles as u32);
    }
    if magic == PROC && (!reads_only || mode == S_IFREG) {
        return proc_operation(inode, reads_only, level, cgroup);
    }
    if reads_only {
        return Some(NONE);
    }
    if magic == CGROUP {
        return Some(Operation::Cgroups as u32);
    }
    if magic == CGROUP2 {
        return cgroup_operation(dentry, mode, level, cgroup, launched);
    }
    let mut i = 0;
    while i < CONTROLS.len() {
        if magic == CONTROLS[i] {
            return Some(Operation::KernelFiles as u32);
        }
        i += 1;
    }
    Some(NONE)
}

/// Changing a cgroup file: free below the agent's own cgroup. In that one itself may be changed who is where, and
/// not what all of them together may use (Documentation/admin-guide/cgroup-v2.rst, "Delegation").
///
/// A task that is `launched` still runs the code of whoever puts it there, who moves it as its parent and has it move
/// itself too: what comes second finds it where it is going (src/core/execute.c of systemd 252, `exec_spawn`).
#[inline(always)]
fn cgroup_operation(dentry: u64, mode: u16, level: u32, own: u64, launched: bool) -> Option<u32> {
    let folder = fs::dentry_parent(dentry)?;
    let cgroup = fs::cgroup_of_folder(fs::dentry_inode(folder)?)?;
    // FAIL-CLOSED: the root's folder is its own parent, and no agent's.
    if folder == dentry || task::ancestor_of(cgroup, level)? != own {
        return Some(Operation::Cgroups as u32);
    }
    if mode != S_IFREG {
        return Some(NONE);
    }
    let name = fs::dentry_name(dentry)?;
    let begin = probe::<u64>(name.address, 0)?;
    let below = task::cgroup_level(cgroup)?.checked_sub(level)?;
    // `cgroup.procs` and `cgroup.threads`.
    let moves = begin == u64::from_le_bytes(*b"cgroup.p") && name.len_bytes == 12
        || begin == u64::from_le_bytes(*b"cgroup.t") && name.len_bytes == 14;
    let free = if moves {
        launched && task::cgroup()? == cgroup || !can_move_others(folder, below)?
    } else {
        // `cgroup.subtree_control`.
        below > 0 || begin == u64::from_le_bytes(*b"cgroup.s") && name.len_bytes == 22
    };
    Some(if free {
        NONE
    } else {
        Operation::Cgroups as u32
    })
}

/// Whether the current task could move somebody else's process into a cgroup, so that this would be an agent's: the
/// kernel only wants it to be allowed to write `cgroup.procs` of the cgroup above both (kernel/cgroup/cgroup.c,
/// `cgroup_procs_write_permission`), and of what is written no hook hears. The agent's own cgroup is `below` levels above
/// `folder`; who owns the one above that is taken to own all further up.
#[inline(always)]
fn can_move_others(folder: u64, below: u32) -> Option<bool> {
    let uid = task::user()?;
    if uid == 0 {
        return Some(true);
    }
    let mut above = fs::dentry_parent(folder)?;
    let mut i = 0;
    while i < TAG_LEVELS && i < below {
        above = fs::dentry_parent(above)?;
        i += 1;
    }
    Some(fs::inode_owner(fs::dentry_inode(above)?)? == uid)
}

/// Files in /proc: those of a process are that process's, all others are the kernel's.
#[inline(always)]
fn proc_operation(inode: u64, reads_only: bool, level: u32, cgroup: u64) -> Option<u32> {
    let pid = fs::proc_pid(inode)?;
    if pid == 0 {
        return Some(if reads_only {
            NONE
        } else {
            Operation::KernelFiles as u32
        });
    }
    let of = task::of_pid(pid)?;
    // FAIL-CLOSED: a process that is gone is nobody's.
    let own = of != 0
        && (subject::is_below(of, level, cgroup)
            // One that was moved out of the cgroup is still its own.
            || task::process_id(of)? == task::process_id(task::current() as u64)?);
    Some(if own {
        NONE
    } else if reads_only {
        Operation::ProcessList as u32
    } else {
        Operation::OtherProcesses as u32
    })
}

/// Whether a device is one that needs no leave.
#[inline(always)]
fn is_harmless(device: u32) -> bool {
    is_harmless_device(device >> MINOR_BITS, device & ((1 << MINOR_BITS) - 1))
}
