//! Unix sockets: who may be talked to, by path or abstract name.

use agentguard_common::{
    counter::{Hook, Site},
    event::{Action, ObjectKind, Reason},
    profile::{Subject as Kind, verb},
};
use aya_ebpf::{cty::c_void, macros::lsm, programs::LsmContext};

use super::socket::note_of;
use crate::{
    count,
    kernel::{net, probe},
    object::{self, Object},
    record::Verb,
    subject::Subject,
    verdict::{ALLOWED, guard, install, judge},
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

/// Judges talking to the socket `other`. Sockets of the same agent are free.
///
/// # Safety
/// `other` is a `struct sock` the verifier knows, not null.
#[inline(always)]
unsafe fn peer(subject: &Subject, hook: Hook, other: *const c_void) -> i32 {
    // SAFETY: the caller's.
    if let Some(socket) = unsafe { note_of(other) }
        && socket.agent == subject.agent
    {
        return ALLOWED;
    }
    let object = match address(subject, other) {
        Ok(Some(object)) => Ok(object),
        // A socket without a name can only be reached over a descriptor that somebody handed over.
        Ok(None) => return ALLOWED,
        Err(reason) => Err(reason),
    };
    let verb = Verb {
        hook,
        action: Action::UnixConnect,
        kind: Kind::Unix,
        verbs: verb::bit(verb::ONLY),
    };
    judge(subject, verb, object)
}

/// The address that `other` is bound to.
#[inline(always)]
fn address(subject: &Subject, other: *const c_void) -> Result<Option<Object>, Reason> {
    let Some(place) = net::unix_path(other) else {
        count::failure(Site::KernelRead);
        return Err(Reason::AddressUnreadable);
    };
    if place.1 != 0 {
        return object::path(subject, install(subject), place, 2, ObjectKind::Unix).map(Some);
    }
    let Some((len_bytes, name)) = net::unix_name(other) else {
        count::failure(Site::KernelRead);
        return Err(Reason::AddressUnreadable);
    };
    if len_bytes == 0 {
        return Ok(None);
    }
    match probe::<u8>(name, 0) {
        Some(0) => object::abstract_name(subject, len_bytes - 1, name.wrapping_add(1)).map(Some),
        // FAIL-CLOSED: a name that is a path, on a socket that has none.
        _ => Err(Reason::AddressUnreadable),
    }
}
