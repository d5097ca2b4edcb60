//! From a question to the number a hook returns: asks the profile, counts, reports, clamps.

use agentguard_common::{
    Decision, Engine as _, Outcome, Question, Verdict,
    counter::{Hook, Site, WOULD_DENY},
    decide::{Text, answer},
    event::{Action, FLAG_AUDIT, ObjectKind, Reason, RecordHeader},
    label::TaskState,
    profile::{self, LogAllow, Mode, Subject as Kind},
};
use aya_ebpf::helpers::generated::bpf_send_signal;
use aya_log_ebpf::debug;

use crate::{
    approval, count,
    engine::{Arena, Workspace, fresh},
    object::{self, Object},
    record::{self, Verb},
    subject::{self, Subject, Who},
    system,
};

/// The only verdicts there are. KERNEL: 6.1 doesn't check what an LSM program returns, and a positive
/// number crashes it.
pub const ALLOWED: i32 = 0;
pub const DENIED: i32 = -1;
/// `ERESTARTNOINTR` (include/linux/errno.h): the process is stopped, and makes the same call again when it goes on.
pub const HELD: i32 = -513;

const SIGKILL: u32 = 9;

/// Leaves a hook: everybody but agents goes free, an agent that isn't known is denied, and for the rest
/// `judge` decides.
///
/// An earlier program's verdict is kept by the kernel: LSM programs are attached as "modify return",
/// and the trampoline runs none after one that returned something else than 0
/// (arch/x86/net/bpf_jit_comp.c, `invoke_bpf_mod_ret`).
///
/// KERNEL: the argument with the earlier verdict must not be read. 6.18.15 takes the bounds of whatever
/// the register held before for the bounds of what is loaded (kernel/bpf/verifier.c,
/// `__mark_reg_s32_range` on a register that was not reset): with -1 in it, it took "is not 0" for
/// certain, cut out the rest of `socket_sendmsg` and left a program that denied everything to everyone.
#[inline(always)]
pub fn guard(hook: Hook, judge: impl FnOnce(&Subject) -> i32) -> i32 {
    match subject::current() {
        Who::Nobody => ALLOWED,
        Who::Agent(subject) => judge(&subject),
        Who::Unknown(state, reason) => refuse_unknown(hook, state, reason),
    }
}

/// FAIL-CLOSED: a task that is an agent's, but nobody can say what it may do.
#[inline(never)]
pub fn refuse_unknown(hook: Hook, state: *mut TaskState, reason: Reason) -> i32 {
    count::decision(hook, Verdict::Deny as u32);
    if state.is_null() {
        record::lost(hook, Verdict::Deny as u32);
        return DENIED;
    }
    object::nothing(state);
    let verb = Verb {
        hook,
        action: action_of(hook),
        kind: Kind::File,
        verbs: 0,
    };
    // SAFETY: the task's own map value.
    unsafe {
        (*state).report = RecordHeader {
            agent: (*state).label.agent,
            slot: (*state).label.slot,
            ..record::header(verb, ObjectKind::Path, Decision::refuse(reason))
        };
    }
    if !record::send(state, true) {
        record::lost(hook, Verdict::Deny as u32);
    }
    DENIED
}

/// The action that a hook is mostly about, for refusals before the object is known.
#[inline(always)]
fn action_of(hook: Hook) -> Action {
    match hook {
        Hook::SocketCreate
        | Hook::SocketPostCreate
        | Hook::SocketConnect
        | Hook::SctpBindConnect => Action::NetConnect,
        Hook::SocketSendmsg | Hook::SocketSetsockopt | Hook::TunDevAttach | Hook::CgroupEgress => {
            Action::NetSend
        }
        Hook::SocketAccept | Hook::CgroupIngress => Action::NetAccept,
        Hook::BprmCheckSecurity
        | Hook::BprmCredsForExec
        | Hook::BprmCommittingCreds
        | Hook::BprmCommittedCreds
        | Hook::MmapFile
        | Hook::FileMprotect
        | Hook::TaskAlloc => Action::Exec,
        Hook::SocketBind | Hook::SocketListen => Action::NetListen,
        Hook::UnixStreamConnect | Hook::UnixMaySend => Action::UnixConnect,
        Hook::TaskKill => Action::ProcessSignal,
        Hook::PtraceAccessCheck | Hook::PtraceTraceme => Action::ProcessPtrace,
        Hook::Capable
        | Hook::UsernsCreate
        | Hook::InodeInitSecurityAnon
        | Hook::Bpf
        | Hook::PerfEventOpen
        | Hook::KeyAlloc
        | Hook::KeyPermission
        | Hook::KernelModuleRequest
        | Hook::TaskPrlimit
        | Hook::TaskSetscheduler
        | Hook::TaskSetnice
        | Hook::TaskSetioprio
        | Hook::FileIoctl
        | Hook::FileIoctlCompat
        | Hook::FileFcntl
        | Hook::IpcPermission
        | Hook::MsgQueueMsgctl
        | Hook::ShmShmctl
        | Hook::SemSemctl
        | Hook::InodeUnlink
        | Hook::UringOverrideCreds => Action::System,
        Hook::InodeSetattr
        | Hook::InodeSetxattr
        | Hook::InodeRemovexattr
        | Hook::InodeSetAcl
        | Hook::InodeRemoveAcl
        | Hook::InodeFileSetattr => Action::FileMetadata,
        _ => Action::FileOpen,
    }
}

/// Install number of the subject's profile, 0 when the tables are broken (which [`judge`] finds).
#[inline(always)]
pub fn install(subject: &Subject) -> u32 {
    match profile::header(&Arena, subject.profile) {
        Some((install, _, _)) => install,
        None => 0,
    }
}

/// Mode of the subject's profile; enforcing when the tables are broken.
#[inline(always)]
pub fn mode(subject: &Subject) -> u32 {
    match profile::header(&Arena, subject.profile) {
        Some((_, mode, _)) => mode,
        None => Mode::Enforce as u32,
    }
}

/// Judges the object in the workspace and carries the verdict out.
#[inline(always)]
pub fn judge(subject: &Subject, verb: Verb, object: Result<Object, Reason>) -> i32 {
    let kind = match &object {
        Ok(object) => object.kind,
        Err(_) => ObjectKind::Path,
    };
    let (verb, decision) = decide(subject, verb, object);
    carry_out(subject, verb, kind, decision)
}

/// Judges the object in the workspace.
#[inline(always)]
pub fn decide(subject: &Subject, verb: Verb, object: Result<Object, Reason>) -> (Verb, Decision) {
    match object {
        Ok(object) => {
            let decision = judge_object(subject, verb, object);
            judge_surface(subject, verb, decision)
        }
        // FAIL-CLOSED: what can't be named can't be allowed.
        Err(reason) => (verb, Decision::refuse(reason)),
    }
}

/// A file that the rules allow may be a device, or one of the kernel's own: then `[system]` decides. Also of one that they
/// ask about: what it forbids nobody can approve, and what it asks about says more.
#[inline(always)]
pub fn judge_surface(subject: &Subject, verb: Verb, ruled: Decision) -> (Verb, Decision) {
    if verb.kind as u8 != Kind::File as u8 || ruled.outcome.rank() > Verdict::Ask as u32 {
        return (verb, ruled);
    }
    match system::of_file(subject, verb.verbs) {
        Ok(None) => (verb, ruled),
        Ok(Some(operation)) => {
            let decision = system::decide(subject, operation);
            if decision.outcome.rank() == Verdict::Allow as u32 {
                (verb, ruled)
            } else {
                (system::verb(verb.hook), decision)
            }
        }
        Err(reason) => (verb, Decision::refuse(reason)),
    }
}

/// The stricter of what the object's path says and what identities say that only its path inside its
/// own file system leads to.
#[inline(always)]
pub fn judge_object(subject: &Subject, verb: Verb, object: Object) -> Decision {
    let state = subject.state;
    if kind_has_path(object.kind) && object::is_hidden(state) {
        let inside = if object::look_inside(state) {
            ask_profile(state, subject.profile, verb, Text::Internal)
        } else {
            // FAIL-CLOSED: an identity is there, but not the way to it.
            Decision::refuse(Reason::PathUnreadable)
        };
        let outside = object::look_outside(state);
        if inside.outcome.rank() > Verdict::Ask as u32 {
            return inside;
        }
        if !outside {
            // FAIL-CLOSED: it was there a moment ago.
            return Decision::refuse(Reason::PathUnreadable);
        }
        if inside.outcome.rank() == Verdict::Ask as u32 {
            return stricter_than_inside(subject, verb, object, inside);
        }
    }
    ask_profile(state, subject.profile, verb, object.text)
}

/// The path inside the file system is asked about; what everybody sees of it may be denied. VERIFIER: what is kept lies
/// in the map value.
#[inline(always)]
fn stricter_than_inside(
    subject: &Subject,
    verb: Verb,
    object: Object,
    inside: Decision,
) -> Decision {
    let state = subject.state;
    // SAFETY: the task's own map value.
    let hold = unsafe { &mut (*state).hold };
    hold.note.request.outcome = inside.outcome.0;
    hold.note.request.verb = inside.verb;
    let outside = ask_profile(state, subject.profile, verb, object.text);
    if outside.outcome.rank() >= Verdict::Ask as u32 {
        return outside;
    }
    // SAFETY: as above.
    unsafe {
        Decision {
            outcome: Outcome(fresh(&raw const hold.note.request.outcome)),
            verb: core::ptr::read_volatile(&raw const hold.note.request.verb),
            reason: Reason::Rule,
        }
    }
}

#[inline(always)]
fn kind_has_path(kind: ObjectKind) -> bool {
    kind as u8 != ObjectKind::Address as u8
}

/// The one decision function on this task's workspace.
#[inline(always)]
fn ask_profile(state: *mut TaskState, profile: u32, verb: Verb, text: Text) -> Decision {
    Workspace { state }.ask(
        profile,
        Question {
            subject: verb.kind,
            verbs: verb.verbs,
            text,
        },
    );
    answer_asked(state);
    Workspace { state }.decision()
}

/// VERIFIER: a program of its own; the question and its answer are in the workspace.
#[inline(never)]
pub fn answer_asked(state: *mut TaskState) -> u32 {
    let mut workspace = Workspace { state };
    let decision = answer(&mut workspace);
    workspace.set_decision(decision);
    0
}

/// Counts, reports and clamps.
#[inline(always)]
pub fn carry_out(subject: &Subject, verb: Verb, kind: ObjectKind, decision: Decision) -> i32 {
    // SAFETY: the task's own map value.
    unsafe {
        (*subject.state).report = RecordHeader {
            agent: subject.agent,
            slot: subject.slot,
            ..record::header(verb, kind, decision)
        };
    }
    settle(subject.state, subject.profile, verb.hook)
}

/// Counts what is allowed and doesn't log it, whatever the profile says: programs do it by the dozen. The rest as above.
#[inline(always)]
pub fn carry_out_unlogged(subject: &Subject, verb: Verb, decision: Decision) -> i32 {
    if decision.outcome.rank() == Verdict::Allow as u32 {
        count::decision(verb.hook, Verdict::Allow as u32);
        return ALLOWED;
    }
    carry_out(subject, verb, ObjectKind::Path, decision)
}

/// VERIFIER: the report is in the map value and not on the stack. KERNEL: 6.1 takes what a function reads
/// from its caller's stack for what it was the first time it looked (see [`agentguard_common::decide`]):
/// it had seen refusals first, and cut the way of allowed actions out of `unix_stream_connect`.
#[inline(never)]
pub fn settle(state: *mut TaskState, profile: u32, hook: Hook) -> i32 {
    // SAFETY: the task's own map value.
    let report = unsafe { &mut (*state).report };
    let (install, mode, log) = match profile::header(&Arena, profile) {
        Some(header) => header,
        None => {
            // FAIL-CLOSED: where the descriptor should be is something else, whatever it led to.
            let refusal = Decision::refuse(Reason::TablesBroken);
            report.outcome = refusal.outcome.0;
            report.reason = refusal.reason as u8;
            (0, Mode::Enforce as u32, LogAllow::All as u32)
        }
    };
    report.install = install;
    // SAFETY: as above.
    let outcome = Outcome(unsafe { fresh(&raw const report.outcome) });
    let never = outcome.rank() == Verdict::Never as u32;
    if never {
        // Audit mode is the profile's as well.
        report.outcome = outcome.denial().0;
    }
    let rank = if never {
        Verdict::Deny as u32
    } else {
        outcome.rank()
    };
    // The verifier cuts this out unless the loader sets the level.
    debug!(
        (),
        "agent {} hook {} verdict {} reason {} rule {}",
        report.agent,
        u32::from(report.hook),
        rank,
        u32::from(report.reason),
        outcome.rule()
    );
    if rank == Verdict::Allow as u32 {
        count::decision(hook, rank);
        if !outcome.is_quiet() && log != LogAllow::None as u32 && !record::send(state, false) {
            record::lost(hook, rank);
        }
        return ALLOWED;
    }
    let audit = mode == Mode::Audit as u32 && !never;
    if rank == Verdict::Ask as u32 && !audit {
        return approval::ask(state, profile, hook);
    }
    if audit {
        report.flags |= FLAG_AUDIT;
        count::decision(hook, WOULD_DENY);
    } else {
        count::decision(hook, rank);
    }
    if !record::send(state, true) {
        record::lost(hook, rank);
    }
    if audit {
        // FAIL-OPEN: audit mode says what it would have done, and does nothing.
        return ALLOWED;
    }
    if rank == Verdict::Kill as u32 {
        // The errno below denies the action whether or not this works.
        kill();
    }
    DENIED
}

/// Kills the current process: it runs no further instruction of its own.
#[inline(always)]
pub fn kill() {
    // SAFETY: no preconditions.
    if unsafe { bpf_send_signal(SIGKILL) } != 0 {
        count::failure(Site::Kill);
    }
}
