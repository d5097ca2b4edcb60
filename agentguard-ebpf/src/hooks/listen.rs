//! Internet sockets that wait for others: streams that listen, datagram sockets bound to a port.

use agentguard_common::{
    address::{self, ENCODED_BYTES},
    counter::{Hook, Site},
    event::{Action, Reason},
    profile::{Subject as Kind, verb},
};
use aya_ebpf::{cty::c_void, macros::lsm, programs::LsmContext};

use super::socket::{is_own, note_listening, object_at, refuse};
use crate::{
    count,
    kernel::{net, probe},
    object::{self, Object},
    record::Verb,
    subject::Subject,
    verdict::{ALLOWED, guard, judge},
};

const fn verb(hook: Hook) -> Verb {
    Verb {
        hook,
        action: Action::NetListen,
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
        judge(subject, verb(Hook::SocketBind), object)
    })
}

/// `socket_listen(sock, backlog)`: judged by the address the socket is bound to, port 0 when none.
#[lsm(hook = "socket_listen")]
pub fn socket_listen(ctx: LsmContext) -> i32 {
    guard(Hook::SocketListen, |subject| {
        // SAFETY: the hook's own argument.
        let sk = unsafe { net::sk(ctx.arg(0)) };
        if sk.is_null() {
            return ALLOWED;
        }
        // SAFETY: just read from the hook's argument.
        let family = unsafe { net::family(sk) };
        if family != net::AF_INET && family != net::AF_INET6 {
            return ALLOWED;
        }
        // SAFETY: as above.
        if !unsafe { is_own(subject, sk) } {
            return refuse(
                subject,
                Hook::SocketListen,
                Action::NetListen,
                Reason::ForeignSocket,
            );
        }
        let verdict = judge(
            subject,
            verb(Hook::SocketListen),
            local(subject, sk, family),
        );
        if verdict == ALLOWED {
            // SAFETY: as above.
            unsafe { note_listening(sk) };
        }
        verdict
    })
}

/// The local end of a socket as an object.
#[inline(always)]
fn local(subject: &Subject, sk: *const c_void, family: u16) -> Result<Object, Reason> {
    let mut encoded = [0; ENCODED_BYTES];
    // SAFETY: checked by the caller.
    let (protocol, port) = unsafe { (net::protocol(sk), net::local_port(sk)) };
    let len_bytes = if family == net::AF_INET {
        let host = net::local_v4(sk).ok_or(Reason::AddressUnreadable)?;
        address::encode_v4(&mut encoded, protocol, host, port)
    } else {
        let host = net::local_v6(sk).ok_or(Reason::AddressUnreadable)?;
        address::encode_v6(&mut encoded, protocol, &host, port)
    };
    Ok(object::address(subject, &encoded, len_bytes))
}
