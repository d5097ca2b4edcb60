//! New tasks: a child of an agent's task is the agent's.

use agentguard_common::counter::Hook;
use aya_ebpf::{cty::c_void, macros::lsm, programs::LsmContext};

use crate::{
    subject,
    verdict::{ALLOWED, DENIED, guard},
};

/// `task_alloc(task, clone_flags)`. Sees every new task: fork, vfork, clone3 into another cgroup,
/// threads, io_uring's workers. Sleepable, so that memory for the label can be waited for.
#[lsm(hook = "task_alloc", sleepable)]
pub fn task_alloc(ctx: LsmContext) -> i32 {
    guard(Hook::TaskAlloc, |parent| {
        let child: *const c_void = ctx.arg(0);
        // SAFETY: the hook's own argument.
        if unsafe { subject::inherit(parent, child) } {
            ALLOWED
        } else {
            // FAIL-CLOSED: never an unlabelled child.
            crate::count::decision(Hook::TaskAlloc, agentguard_common::Verdict::Deny as u32);
            DENIED
        }
    })
}
