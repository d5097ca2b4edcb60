//! Tasks and the program a task is about to become.

use agentguard_common::offsets::ABSENT;
use aya_ebpf::{
    cty::c_void,
    helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs},
};

use super::{direct, offsets, probe};

/// The current `struct task_struct`.
#[inline(always)]
pub fn current() -> *const c_void {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task_btf() }.cast::<c_void>()
}

/// Whether the current task carries anything for BPF programs, of whomever. The helper that looks for a map's value begins
/// with the same question (kernel/bpf/bpf_task_storage.c, `task_storage_lookup`), but is a call.
#[inline(always)]
pub fn has_storage() -> bool {
    // SAFETY: the current task.
    unsafe { direct::<u64>(current(), offsets().task_struct_bpf_storage) != 0 }
}

/// The current task's mount namespace, 0 when it has none any more.
#[inline(always)]
pub fn mount_namespace() -> u64 {
    let o = offsets();
    // SAFETY: both are pointers the verifier knows; the second is checked for null.
    unsafe {
        let proxy = direct::<*const c_void>(current(), o.task_struct_nsproxy);
        if proxy.is_null() {
            return 0;
        }
        direct(proxy, o.nsproxy_mnt_ns)
    }
}

/// What the current process was started from, null when nobody can say.
#[inline(always)]
pub fn exe_file() -> u64 {
    let o = offsets();
    // SAFETY: both are pointers the verifier knows; the second is checked for null.
    unsafe {
        let mm = direct::<*const c_void>(current(), o.task_struct_mm);
        if mm.is_null() {
            return 0;
        }
        direct(mm, o.mm_struct_exe_file)
    }
}

/// Whether the kernel has the current task act with other rights than its own (include/linux/cred.h,
/// `override_creds`): a file system, such as an overlay, works on the one below it with those of whoever mounted it.
/// A ring's worker may do so with rights that the agent chose, and doesn't count; nor does a ring get as far in the
/// task itself, because `uring_override_creds` is refused.
#[inline(always)]
pub fn acts_for_another() -> bool {
    // include/linux/sched.h
    const PF_IO_WORKER: u32 = 0x10;
    let o = offsets();
    // SAFETY: the current task.
    unsafe {
        direct::<u64>(current(), o.task_struct_cred)
            != direct::<u64>(current(), o.task_struct_real_cred)
            && direct::<u32>(current(), o.task_struct_flags) & PF_IO_WORKER == 0
    }
}

/// Whether the current task was forked and has run no program since (include/linux/sched.h).
#[inline(always)]
pub fn runs_what_forked_it() -> bool {
    const PF_FORKNOEXEC: u32 = 0x40;
    // SAFETY: the current task.
    unsafe { direct::<u32>(current(), offsets().task_struct_flags) & PF_FORKNOEXEC != 0 }
}

/// The `struct cgroup` of the current task.
#[inline(always)]
pub fn cgroup() -> Option<u64> {
    let o = offsets();
    let set: u64 = probe(current() as u64, o.task_struct_cgroups)?;
    probe(set, o.css_set_dfl_cgrp)
}

/// Process id of the current task's parent, in the initial pid namespace.
#[inline(always)]
pub fn parent_pid() -> u32 {
    let o = offsets();
    // SAFETY: as above.
    unsafe {
        let parent = direct::<*const c_void>(current(), o.task_struct_real_parent);
        if parent.is_null() {
            return 0;
        }
        direct(parent, o.task_struct_tgid)
    }
}

/// Whom the kernel takes the current task for when it looks at a file's owner: `cred.fsuid`, as the initial user
/// namespace numbers users.
#[inline(always)]
pub fn user() -> Option<u32> {
    let o = offsets();
    let cred: u64 = probe(current() as u64, o.task_struct_cred)?;
    probe(cred, o.cred_fsuid)
}

/// Start of the current process (its thread-group leader) on the boot clock, in nanoseconds.
#[inline(always)]
pub fn process_start_ns() -> u64 {
    let o = offsets();
    // SAFETY: as above.
    unsafe {
        let leader = direct::<*const c_void>(current(), o.task_struct_group_leader);
        if leader.is_null() {
            return 0;
        }
        direct(leader, o.task_struct_start_boottime)
    }
}

/// Process id of the current task in its own pid namespace, the innermost that has it.
#[inline(always)]
pub fn own_id() -> Option<u32> {
    // include/linux/pid.h, `struct upid`: a number and a pointer.
    const UPID_BYTES: u64 = 16;
    let o = offsets();
    let leader: u64 = probe(current() as u64, o.task_struct_group_leader)?;
    let pid: u64 = probe(leader, o.task_struct_thread_pid)?;
    let level: u32 = probe(pid, o.pid_level)?;
    let numbers = pid.wrapping_add(o.pid_numbers.into());
    let own = numbers.wrapping_add(u64::from(level) * UPID_BYTES);
    probe(own, o.upid_nr)
}

/// Process id of a task in the initial pid namespace.
#[inline(always)]
pub fn process_id(task: u64) -> Option<u32> {
    probe(task, offsets().task_struct_tgid)
}

/// Of a task: process id, thread id, and when its process started on the boot clock. Zero where it can't be
/// read: this is for events to tell, and decides nothing.
#[inline(always)]
pub fn identity(task: *const c_void) -> (u32, u32, u64) {
    let o = offsets();
    let task = task as u64;
    let pid = probe(task, o.task_struct_tgid).unwrap_or(0);
    let tid = probe(task, o.task_struct_pid).unwrap_or(0);
    let start = probe::<u64>(task, o.task_struct_group_leader)
        .and_then(|leader| probe(leader, o.task_struct_start_boottime))
        .unwrap_or(0);
    (pid, tid, start)
}

/// The task with this `struct pid` as its thread id (`PIDTYPE_PID`, the first of its lists), 0 when it is gone.
#[inline(always)]
pub fn of_pid(pid: u64) -> Option<u64> {
    let o = offsets();
    let node: u64 = probe(pid, o.pid_tasks)?;
    Some(match node {
        0 => 0,
        node => node.wrapping_sub(o.task_struct_pid_links.into()),
    })
}

/// Where a task's name is.
#[inline(always)]
pub fn comm(task: *const c_void) -> u64 {
    (task as u64).wrapping_add(offsets().task_struct_comm as u64)
}

/// Id of the cgroup at `level` above a task, 0 when its own is higher up than that. The helper that says so
/// of the current task is of no use for others.
#[inline(always)]
pub fn ancestor_cgroup(task: u64, level: u32) -> Option<u64> {
    let o = offsets();
    let set: u64 = probe(task, o.task_struct_cgroups)?;
    ancestor_of(probe(set, o.css_set_dfl_cgrp)?, level)
}

/// Id of the cgroup at `level` above a `struct cgroup`, or its own, 0 when it is higher up than that.
#[inline(always)]
pub fn ancestor_of(cgroup: u64, level: u32) -> Option<u64> {
    let o = offsets();
    if probe::<u32>(cgroup, o.cgroup_level)? < level {
        return Some(0);
    }
    let at = cgroup.wrapping_add(u64::from(level) * 8);
    let ancestor: u64 = probe(at, o.cgroup_ancestors)?;
    let node: u64 = probe(ancestor, o.cgroup_kn)?;
    probe(node, o.kernfs_node_id)
}

/// Level of a `struct cgroup`; the root's is 0.
#[inline(always)]
pub fn cgroup_level(cgroup: u64) -> Option<u32> {
    probe(cgroup, offsets().cgroup_level)
}

/// `linux_binprm.file`: the file about to be run.
///
/// # Safety
/// `bprm` is a `struct linux_binprm` the verifier knows.
#[inline(always)]
pub unsafe fn binprm_file(bprm: *const c_void) -> *const c_void {
    // SAFETY: the caller's.
    unsafe { direct(bprm, offsets().linux_binprm_file) }
}

/// Whether it is only asked if the file could be run (AT_EXECVE_CHECK).
///
/// # Safety
/// `bprm` is a `struct linux_binprm` the verifier knows.
#[inline(always)]
pub unsafe fn binprm_is_check(bprm: *const c_void) -> bool {
    let bit = offsets().linux_binprm_is_check;
    // SAFETY: the caller's.
    bit != ABSENT && unsafe { direct::<u8>(bprm, bit / 8) } & (1 << (bit % 8)) != 0
}

/// Where the new program's strings begin on its stack, where they end (the program's own path comes
/// there), and how many of them are arguments.
///
/// # Safety
/// `bprm` is a `struct linux_binprm` the verifier knows.
#[inline(always)]
pub unsafe fn binprm_arguments(bprm: *const c_void) -> (u64, u64, u32) {
    let o = offsets();
    // SAFETY: the caller's.
    unsafe {
        (
            direct(bprm, o.linux_binprm_p),
            direct(bprm, o.linux_binprm_exec),
            direct(bprm, o.linux_binprm_argc),
        )
    }
}

/// Whether this is the file that was named, and not the interpreter of one that was: whatever hands a start over to
/// another file gives that a name of its own (fs/exec.c, `bprm_change_interp`).
///
/// # Safety
/// `bprm` is a `struct linux_binprm` the verifier knows.
#[inline(always)]
pub unsafe fn binprm_is_first(bprm: *const c_void) -> bool {
    let o = offsets();
    // SAFETY: the caller's.
    unsafe {
        direct::<u64>(bprm, o.linux_binprm_filename) == direct::<u64>(bprm, o.linux_binprm_interp)
    }
}

/// `task_struct.flags` of the current task (include/linux/sched.h, `PF_*`).
#[inline(always)]
pub fn flags() -> u32 {
    // SAFETY: the current task.
    unsafe { direct(current(), offsets().task_struct_flags) }
}

/// Number of the system call that the current task is in, as the task gave it; negative when it is in none (or one
/// that is not to be made again).
#[inline(always)]
pub fn system_call() -> i64 {
    // SAFETY: the helper gives the registers that the current task entered the kernel with.
    unsafe {
        let registers = bpf_task_pt_regs(bpf_get_current_task_btf()) as *const c_void;
        direct(registers, offsets().pt_regs_orig_ax)
    }
}

/// As [`binprm_is_first`], by the address of a `struct linux_binprm` alone. `None` when it can't be read.
#[inline(always)]
pub fn start_is_first(binprm: u64) -> Option<bool> {
    let o = offsets();
    let filename: u64 = probe(binprm, o.linux_binprm_filename)?;
    let interp: u64 = probe(binprm, o.linux_binprm_interp)?;
    Some(filename == interp)
}

// arch/x86/entry/syscalls/syscall_64.tbl. The numbers of the 32-bit and x32 calls that run programs are others
// (11, 358, 0x40000208, 0x40000221).
const EXECVE: u64 = 59;
const EXECVEAT: u64 = 322;

/// Where the list of arguments of the current system call is in the caller's memory; 0 when it isn't a 64-bit
/// call that runs a program, whose list would be of other pointers.
#[inline(always)]
pub fn caller_arguments() -> u64 {
    let o = offsets();
    // SAFETY: the helper gives the registers that the current task entered the kernel with.
    unsafe {
        let registers = bpf_task_pt_regs(bpf_get_current_task_btf()) as *const c_void;
        match direct::<u64>(registers, o.pt_regs_orig_ax) {
            EXECVE => direct(registers, o.pt_regs_si),
            EXECVEAT => direct(registers, o.pt_regs_dx),
            _ => 0,
        }
    }
}
