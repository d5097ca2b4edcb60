//! Unix sockets: who may be talked to, by path or abstract name.

use agentguard_common::{
    Decision, Outcome, Verdict,
    counter::{Hook, Site},
    decide::Text,
    event::{Action, ObjectKind, Reason},
    label::SOCKET_FOR_AGENTS,
    profile::{Subject as Kind, verb},
};
use aya_ebpf::{cty::c_void, macros::lsm, programs::LsmContext};

use super::socket::note_of;
use crate::{
    count,
    engine::fresh,
    kernel::{net, probe},
    names::decide_entry,
    object::{self, UNIX},
    record::Verb,
    subject::Subject,
    verdict::{ALLOWED, carry_out, guard, install, judge_object},
};

/// `unix_stream_connect(sock, other, newsk)`: streams and sequenced packets. `other` listens.
#[lsm(hook = "unix_stream_connect")]
pub fn unix_stream_connect(ctx: LsmContext) -> i32 {
    guard(Hook::UnixStreamConnect, |subject| {
        // SAFETY: the hook's own argument.
        unsafe { peer(subject, Hook::UnixStreamConnect, ctx.arg(1)) }
    })
}

/// `unix_may_send(sock, other)`: every datagram, and datagram connects.
#[lsm(hook = "unix_may_send")]
pub fn unix_may_send(ctx: LsmContext) -> i32 {
    guard(Hook::UnixMaySend, |subject| {
        // SAFETY: the hook's own argument.
        let other = unsafe { net::sk(ctx.arg(1)) };
        if other.is_null() {
            return ALLOWED;
        }
        // SAFETY: just read from the hook's argument.
        unsafe { peer(subject, Hook::UnixMaySend, other) }
    })
}

/// Judges talking to the socket `other`. Sockets of the same agent are free, and so is the one on which the daemon
/// tells agents about themselves.
///
/// # Safety
/// `other` is a `struct sock` the verifier knows, not null.
#[inline(always)]
unsafe fn peer(subject: &Subject, hook: Hook, other: *const c_void) -> i32 {
    // SAFETY: the caller's.
    if let Some(socket) = unsafe { note_of(other) }
        && (socket.agent == subject.agent || socket.flags & SOCKET_FOR_AGENTS != 0)
    {
        return ALLOWED;
    }
    let verb = Verb {
        hook,
        action: Action::UnixConnect,
        kind: Kind::Unix,
        verbs: verb::bit(verb::ONLY),
    };
    let decision = match decide(subject, verb, other) {
        Ok(Some(decision)) => decision,
        // A socket without a name can only be reached over a descriptor that somebody handed over.
        Ok(None) => return ALLOWED,
        // FAIL-CLOSED: what can't be named can't be allowed.
        Err(reason) => Decision::refuse(reason),
    };
    carry_out(subject, verb, ObjectKind::Unix, decision)
}

/// What the profile says of talking to `other`, `None` when it has no name.
#[inline(always)]
fn decide(subject: &Subject, verb: Verb, other: *const c_void) -> Result<Option<Decision>, Reason> {
    let unreadable = |()| {
        count::failure(Site::KernelRead);
        Reason::AddressUnreadable
    };
    let place = net::unix_path(other).ok_or(()).map_err(unreadable)?;
    let (len_bytes, name) = net::unix_name(other).ok_or(()).map_err(unreadable)?;
    if place.1 == 0 {
        if len_bytes == 0 {
            return Ok(None);
        }
        return match probe::<u8>(name, 0) {
            Some(0) => {
                let object = object::abstract_name(subject, len_bytes - 1, name.wrapping_add(1))?;
                Ok(Some(judge_object(subject, verb, object)))
            }
            // FAIL-CLOSED: a name that is a path, on a socket that has none.
            _ => Err(Reason::AddressUnreadable),
        };
    }
    // Whoever may rename it can give it another path, but not another name to bind by: that is what its server
    // said. It was said in another mount namespace, perhaps, or with another root, so it allows nothing.
    // SAFETY: the task's own map value.
    unsafe { (*subject.state).hold.note.request.outcome = 0 };
    if probe::<u8>(name, 0) == Some(b'/') {
        let bound = object::bound_name(subject, len_bytes, name)?;
        let decision = judge_object(subject, verb, bound);
        if decision.reason as u8 == Reason::Rule as u8 {
            if decision.outcome.rank() > Verdict::Ask as u32 {
                return Ok(Some(decision));
            }
            // SAFETY: the task's own map value.
            unsafe { (*subject.state).hold.note.request.outcome = decision.outcome.0 };
        }
    }
    let decision = decide_path(subject, verb, place)?;
    // SAFETY: as above.
    let bound = Outcome(unsafe { fresh(&raw const (*subject.state).hold.note.request.outcome) });
    Ok(Some(
        if bound.rank() == Verdict::Ask as u32 && decision.outcome.rank() < Verdict::Ask as u32 {
            Decision {
                outcome: bound,
                verb: verb::ONLY,
                reason: Reason::Rule,
            }
        } else {
            decision
        },
    ))
}

/// What the profile says of the socket's file.
#[inline(always)]
fn decide_path(subject: &Subject, verb: Verb, place: (u64, u64)) -> Result<Decision, Reason> {
    let object = object::path(subject, install(subject), place, UNIX, ObjectKind::Unix)?;
    if object.text as u8 != Text::Detached as u8 {
        return Ok(judge_object(subject, verb, object));
    }
    // The server bound it in a mount namespace of its own, as services with a sandbox do: what counts is whether, and
    // how, the agent sees it.
    Ok(decide_entry(subject, verb, place.1, UNIX))
}
