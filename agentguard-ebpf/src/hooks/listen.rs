//! Internet sockets that wait for others: streams that listen and accept, datagram sockets bound to a port.

use agentguard_common::{
    address::{self, ENCODED_BYTES},
    counter::{Hook, Site},
    event::{Action, Reason},
    label::{SOCKET_LISTENS, SOCKET_UNBOUND},
    profile::{Subject as Kind, verb},
};
use aya_ebpf::{cty::c_void, macros::lsm, programs::LsmContext};

use super::socket::{is_own, note, note_of, object_at, refuse};
use crate::{
    count,
    kernel::{net, probe},
    object::{self, Object},
    record::Verb,
    subject::Subject,
    verdict::{ALLOWED, guard, judge},
};

const fn verb(hook: Hook, action: Action) -> Verb {
    Verb {
        hook,
        action,
        kind: Kind::Listen,
        verbs: verb::bit(verb::ONLY),
    }
}

/// `socket_bind(sock, address, addrlen)`: a datagram socket on a port of its choice hears from anyone.
/// Streams are judged when they listen.
#[lsm(hook = "socket_bind")]
pub fn socket_bind(ctx: LsmContext) -> i32 {
    guard(Hook::SocketBind, |subject| {
        // SAFETY: the hook's own argument.
        let (sk, kind) = unsafe { (net::sk(ctx.arg(0)), net::socket_type(ctx.arg(0))) };
        // Without a `struct sock` no protocol has it, and nobody is to be reached by it.
        if sk.is_null() || kind != net::SOCK_DGRAM {
            return ALLOWED;
        }
        // SAFETY: just read from the hook's argument.
        let own = unsafe { net::family(sk) };
        if own != net::AF_INET && own != net::AF_INET6 {
            return ALLOWED;
        }
        let address: u64 = ctx.arg::<*const c_void>(1) as u64;
        let (Some(family), Some(port)) = (probe::<u16>(address, 0), probe::<u16>(address, 2))
        else {
            count::failure(Site::KernelRead);
            return refuse(
                subject,
                Hook::SocketBind,
                Action::NetListen,
                Reason::AddressUnreadable,
            );
        };
        if port == 0 {
            return ALLOWED;
        }
        let family = if family == net::AF_UNSPEC {
            own
        } else {
            family
        };
        // SAFETY: as above.
        let protocol = unsafe { net::protocol(sk) };
        let object = object_at(subject, protocol, family, address, ctx.arg(2));
        judge(subject, verb(Hook::SocketBind, Action::NetListen), object)
    })
}

/// `socket_listen(sock, backlog)`: judged by the address the socket is bound to, port 0 when none.
#[lsm(hook = "socket_listen")]
pub fn socket_listen(ctx: LsmContext) -> i32 {
    guard(Hook::SocketListen, |subject| {
        // SAFETY: the hook's own argument.
        unsafe {
            let verb = verb(Hook::SocketListen, Action::NetListen);
            let sk = net::sk(ctx.arg(0));
            if sk.is_null() {
                // As in `socket_bind`.
                return ALLOWED;
            }
            let port = net::local_port(sk);
            let verdict = waiting(subject, verb, sk, port);
            if verdict == ALLOWED {
                // Only for TCP is everything that leaves such a socket an answer; and the kernel refuses one that is
                // connected, after this hook.
                let listens = if net::protocol(sk) == net::IPPROTO_TCP && net::may_listen(sk) {
                    SOCKET_LISTENS
                } else {
                    0
                };
                let unbound = if port == 0 { SOCKET_UNBOUND } else { 0 };
                note(sk, listens | unbound, SOCKET_UNBOUND);
            }
            verdict
        }
    })
}

/// `socket_accept(sock, newsock)`: asked of the same rules as listening, since who comes isn't known yet. It
/// is how a listener that is somebody else's is refused, and how a new policy reaches one that listens already.
#[lsm(hook = "socket_accept")]
pub fn socket_accept(ctx: LsmContext) -> i32 {
    guard(Hook::SocketAccept, |subject| {
        let verb = verb(Hook::SocketAccept, Action::NetAccept);
        // SAFETY: the hook's own argument.
        unsafe {
            let sk = net::sk(ctx.arg(0));
            if sk.is_null() {
                // As in `socket_bind`.
                return ALLOWED;
            }
            let unbound = note_of(sk).is_some_and(|note| note.flags & SOCKET_UNBOUND != 0);
            let port = if unbound { 0 } else { net::local_port(sk) };
            waiting(subject, verb, sk, port)
        }
    })
}

/// Judges a socket that listens, or is about to, by its local end.
///
/// # Safety
/// `sk` is a `struct sock` the verifier knows, not null.
#[inline(always)]
unsafe fn waiting(subject: &Subject, verb: Verb, sk: *const c_void, port: u16) -> i32 {
    // SAFETY: the caller's.
    let family = unsafe { net::family(sk) };
    if family == net::AF_UNIX {
        return ALLOWED;
    }
    // SAFETY: as above.
    if !unsafe { is_own(subject, sk) } {
        return refuse(subject, verb.hook, verb.action, Reason::ForeignSocket);
    }
    if family != net::AF_INET && family != net::AF_INET6 {
        // FAIL-CLOSED: no rule can name its local end.
        return refuse(subject, verb.hook, verb.action, Reason::AddressUnreadable);
    }
    judge(subject, verb, local(subject, sk, family, port))
}

/// The local end of a socket as an object.
#[inline(always)]
fn local(subject: &Subject, sk: *const c_void, family: u16, port: u16) -> Result<Object, Reason> {
    let mut encoded = [0; ENCODED_BYTES];
    // SAFETY: checked by the caller.
    let protocol = unsafe { net::protocol(sk) };
    let len_bytes = if family == net::AF_INET {
        let host = net::local_v4(sk).ok_or(Reason::AddressUnreadable)?;
        address::encode_v4(&mut encoded, protocol, host, port)
    } else {
        let host = net::local_v6(sk).ok_or(Reason::AddressUnreadable)?;
        address::encode_v6(&mut encoded, protocol, &host, port)
    };
    Ok(object::address(subject, &encoded, len_bytes))
}
