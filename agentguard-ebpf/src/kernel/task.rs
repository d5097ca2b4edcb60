//! Tasks and the program a task is about to become.

use aya_ebpf::{cty::c_void, helpers::generated::bpf_get_current_task_btf};

use super::{direct, offsets};

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
