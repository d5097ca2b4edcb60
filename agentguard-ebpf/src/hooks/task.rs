//! New tasks: a child of an agent's task is the agent's.

use agentguard_common::counter::Hook;
use aya_ebpf::{cty::c_void, macros::lsm, programs::LsmContext};

use super::system::born_elsewhere;
use crate::{
    subject::{self, Subject},
    verdict::{ALLOWED, DENIED, guard},
};

/// `CLONE_INTO_CGROUP` (include/uapi/linux/sched.h).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `task_alloc(task, clone_flags)`. Sees every new task: fork, vfork, clone3 into another cgroup,
/// threads, io_uring's workers. Sleepable, so that memory for the label can be waited for.
#[lsm(hook = "task_alloc", sleepable)]
pub fn task_alloc(ctx: LsmContext) -> i32 {
    guard(Hook::TaskAlloc, |parent| judge(parent, &ctx))
}

/// The same without waiting. KERNEL: before 6.2 nobody else on this CPU gets at task storage while somebody
/// waits for memory in it (`bpf_task_storage_trylock`, kernel/bpf/bpf_task_storage.c), and what is then seen is
/// an agent without its label.
#[lsm(hook = "task_alloc")]
pub fn task_alloc_at_once(ctx: LsmContext) -> i32 {
    guard(Hook::TaskAlloc, |parent| judge(parent, &ctx))
}

/// VERIFIER: each program has a closure of its own around it, because one that both share would be called with
/// the address of its captures on the stack.
#[inline(always)]
fn judge(parent: &Subject, ctx: &LsmContext) -> i32 {
    let child: *const c_void = ctx.arg(0);
    let flags: u64 = ctx.arg(1);
    if flags & CLONE_INTO_CGROUP != 0 {
        let verdict = born_elsewhere(parent);
        if verdict != ALLOWED {
            return verdict;
        }
    }
    // SAFETY: the hook's own argument.
    if unsafe { subject::inherit(parent, child) } {
        ALLOWED
    } else {
        // FAIL-CLOSED: never an unlabelled child.
        crate::count::decision(Hook::TaskAlloc, agentguard_common::Verdict::Deny as u32);
        DENIED
    }
}
