//! Tasks and the program a task is about to become.

use aya_ebpf::{cty::c_void, helpers::generated::bpf_get_current_task_btf};

use super::{direct, offsets, probe};

/// The current `struct task_struct`.
#[inline(always)]
pub fn current() -> *const c_void {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task_btf() }.cast::<c_void>()
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

/// Of a task: process id, thread id, and when its process started on the boot clock. Zero where it can't be
/// read.
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

/// Where a task's name is.
#[inline(always)]
pub fn comm(task: *const c_void) -> u64 {
    (task as u64).wrapping_add(offsets().task_struct_comm as u64)
}

/// Id of the cgroup at `level` above a task, 0 when its own is higher up than that. The helper that says so
/// of the current task is of no use for others.
#[inline(always)]
pub fn ancestor_cgroup(task: *const c_void, level: u32) -> Option<u64> {
    let o = offsets();
    let set: u64 = probe(task as u64, o.task_struct_cgroups)?;
    let cgroup: u64 = probe(set, o.css_set_dfl_cgrp)?;
    if probe::<u32>(cgroup, o.cgroup_level)? < level {
        return Some(0);
    }
    let at = cgroup.wrapping_add(u64::from(level) * 8);
    let ancestor: u64 = probe(at, o.cgroup_ancestors)?;
    let node: u64 = probe(ancestor, o.cgroup_kn)?;
    probe(node, o.kernfs_node_id)
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
