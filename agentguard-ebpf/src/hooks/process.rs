//! Other tasks: an agent signals, traces and looks into its own tasks and no others. No rule can change
//! that, and audit mode doesn't either.

use agentguard_common::{
    Decision, Outcome, Verdict,
    counter::Hook,
    event::{Action, ObjectKind, Reason},
    label::LOOK_REFUSED,
    profile::Subject as Kind,
    system::Operation,
};
use aya_ebpf::{cty::c_void, macros::lsm, programs::LsmContext};

use crate::{
    count, object,
    record::Verb,
    subject::{self, Subject},
    verdict::{ALLOWED, DENIED, carry_out, guard},
};

/// `PTRACE_MODE_NOAUDIT` (include/linux/ptrace.h): somebody only wants to know how much to show, as `ps` does
/// of every process.
const NOAUDIT: u32 = 0x04;

/// `PTRACE_MODE_READ`: to look, not to change.
const READ: u32 = 0x01;

/// `task_kill(p, info, sig, cred)`: every signal that a program sends, number 0 too; none of the kernel's own.
#[lsm(hook = "task_kill")]
pub fn task_kill(ctx: LsmContext) -> i32 {
    guard(Hook::TaskKill, |subject| {
        let signal: u32 = ctx.arg(2);
        // SAFETY: the hook's own argument.
        unsafe { reach(subject, Hook::TaskKill, ctx.arg(0), signal, false) }
    })
}

/// `ptrace_access_check(child, mode)`: attaching, `process_vm_readv`, `pidfd_getfd`, and what of
/// `/proc/PID` is private (mem, environ, maps, root, cwd, fd, exe). Not asked within a thread group.
#[lsm(hook = "ptrace_access_check")]
pub fn ptrace_access_check(ctx: LsmContext) -> i32 {
    guard(Hook::PtraceAccessCheck, |subject| {
        let mode: u32 = ctx.arg(1);
        let quiet = mode & NOAUDIT != 0;
        // SAFETY: the hook's own argument.
        let verdict = unsafe { reach(subject, Hook::PtraceAccessCheck, ctx.arg(0), mode, quiet) };
        if verdict != ALLOWED && mode & READ != 0 {
            // SAFETY: the task's own map value.
            unsafe { (*subject.state).asked.look = LOOK_REFUSED };
        }
        verdict
    })
}

/// `ptrace_traceme(parent)`: the current task asks to be traced by its parent, which would then make it do
/// what it likes.
#[lsm(hook = "ptrace_traceme")]
pub fn ptrace_traceme(ctx: LsmContext) -> i32 {
    guard(Hook::PtraceTraceme, |subject| {
        // SAFETY: the hook's own argument.
        unsafe { reach(subject, Hook::PtraceTraceme, ctx.arg(0), 0, false) }
    })
}

/// `task_setscheduler(p)`: scheduling policy and affinity.
#[lsm(hook = "task_setscheduler")]
pub fn task_setscheduler(ctx: LsmContext) -> i32 {
    guard(Hook::TaskSetscheduler, |subject| {
        // SAFETY: the hook's own argument.
        unsafe { reach(subject, Hook::TaskSetscheduler, ctx.arg(0), 0, false) }
    })
}

/// `task_setnice(p, nice)`.
#[lsm(hook = "task_setnice")]
pub fn task_setnice(ctx: LsmContext) -> i32 {
    guard(Hook::TaskSetnice, |subject| {
        // SAFETY: the hook's own argument.
        unsafe { reach(subject, Hook::TaskSetnice, ctx.arg(0), 0, false) }
    })
}

/// `task_setioprio(p, ioprio)`.
#[lsm(hook = "task_setioprio")]
pub fn task_setioprio(ctx: LsmContext) -> i32 {
    guard(Hook::TaskSetioprio, |subject| {
        // SAFETY: the hook's own argument.
        unsafe { reach(subject, Hook::TaskSetioprio, ctx.arg(0), 0, false) }
    })
}

/// # Safety
/// `task` is a `struct task_struct` the verifier knows.
#[inline(always)]
unsafe fn reach(
    subject: &Subject,
    hook: Hook,
    task: *const c_void,
    detail: u32,
    quiet: bool,
) -> i32 {
    // SAFETY: the caller's.
    if unsafe { subject::is_same(subject, task) } {
        return ALLOWED;
    }
    if quiet {
        count::decision(hook, Verdict::Deny as u32);
        return DENIED;
    }
    object::task(subject, task, detail);
    let verb = Verb {
        hook,
        action: match hook {
            Hook::TaskKill => Action::ProcessSignal,
            Hook::PtraceAccessCheck | Hook::PtraceTraceme => Action::ProcessPtrace,
            _ => Action::System,
        },
        kind: Kind::File,
        verbs: 0,
    };
    let refusal = Decision {
        outcome: Outcome::new(Verdict::Never, false, Outcome::DEFAULT_RULE),
        verb: Operation::OtherProcesses as u8,
        reason: Reason::OtherTask,
    };
    carry_out(subject, verb, ObjectKind::Task, refusal)
}
