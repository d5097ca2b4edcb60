//! Internet sockets: who made them, and where they may connect and send.
//!
//! Addresses are judged here and not in cgroup programs, because an LSM program knows the acting task
//! wherever its socket was born. The second lock, on packets, is `packet`.

use agentguard_common::{
    Decision, Outcome, Verdict,
    address::{self, ENCODED_BYTES, is_same},
    counter::{Hook, Site},
    event::{Action, ObjectKind, Reason},
    label::{SOCKET_INSIDE, SOCKET_WITH_ITSELF, Socket, TaskState},
    profile::{Subject as Kind, verb},
    system::Operation,
};
use aya_ebpf::{cty::c_void, macros::lsm, programs::LsmContext};

use crate::{
    count, hosts,
    kernel::{net, probe},
    maps::SOCKETS,
    object::{self, Object},
    own,
    record::{self, Verb},
    resolver,
    subject::{self, Subject},
    system,
    verdict::{ALLOWED, carry_out, guard, judge_object},
};

const MSG_FASTOPEN: u32 = 0x2000_0000;

/// `socket_post_create(sock, family, type, protocol, kern)`: notes who made the socket.
#[lsm(hook = "socket_post_create")]
pub fn socket_post_create(ctx: LsmContext) -> i32 {
    guard(Hook::SocketPostCreate, |subject| {
        // SAFETY: the hook's own argument.
        let sk = unsafe { net::sk(ctx.arg(0)) };
        if sk.is_null() {
            // No protocol has it, and nobody is to be reached by it.
            return ALLOWED;
        }
        // SAFETY: just read from the hook's argument, and not null.
        let socket = unsafe { SOCKETS.of(sk, true) };
        if socket.is_null() {
            // FAIL-CLOSED: without this note the socket could not be told from a foreign one.
            count::failure(Site::SocketCreate);
            return refuse(
                subject,
                Hook::SocketPostCreate,
                Action::NetConnect,
                Reason::NoMemory,
            );
        }
        // SAFETY: a map value of a socket that nobody else has yet.
        unsafe {
            (*socket).slot = subject.slot;
            (*socket).flags = if subject::is_inside(subject) {
                SOCKET_INSIDE
            } else {
                0
            };
            (*socket).agent = subject.agent;
        }
        ALLOWED
    })
}

/// `socket_connect(sock, address, addrlen)`.
#[lsm(hook = "socket_connect")]
pub fn socket_connect(ctx: LsmContext) -> i32 {
    guard(Hook::SocketConnect, |subject| {
        let verb = Verb {
            hook: Hook::SocketConnect,
            action: Action::NetConnect,
            kind: Kind::Connect,
            verbs: verb::bit(verb::ONLY),
        };
        // SAFETY: the hook's own argument.
        let sk = unsafe { net::sk(ctx.arg(0)) };
        let address: u64 = ctx.arg::<*const c_void>(1) as u64;
        let len: i32 = ctx.arg(2);
        // SAFETY: just read from the hook's argument.
        unsafe { outbound(subject, verb, sk, address, len, false) }
    })
}

/// `socket_sendmsg(sock, msg, size)`: datagrams with an address of their own, and TCP fast open, which
/// connects without `socket_connect`. File systems on a network send on sockets of the kernel's own in the name of
/// whoever uses them.
#[lsm(hook = "socket_sendmsg")]
pub fn socket_sendmsg(ctx: LsmContext) -> i32 {
    guard(Hook::SocketSendmsg, |subject| {
        // SAFETY: the hook's own argument.
        if unsafe { net::is_kernels(ctx.arg(0)) } {
            return ALLOWED;
        }
        // SAFETY: the hook's own arguments.
        let (sk, (name, len, flags)) = unsafe { (net::sk(ctx.arg(0)), net::message(ctx.arg(1))) };
        // SAFETY: just read from the hook's argument, and not null.
        let tcp = !sk.is_null() && unsafe { net::protocol(sk) } == net::IPPROTO_TCP;
        let verb = Verb {
            hook: Hook::SocketSendmsg,
            action: if tcp {
                Action::NetConnect
            } else {
                Action::NetSend
            },
            kind: Kind::Connect,
            verbs: verb::bit(verb::ONLY),
        };
        // TCP takes no notice of an address unless the flag is there (net/ipv4/tcp.c).
        let name = if tcp && flags & MSG_FASTOPEN == 0 {
            0
        } else {
            name
        };
        // SAFETY: just read from the hook's argument.
        unsafe { outbound(subject, verb, sk, name, len, true) }
    })
}

/// Judges what goes out of `sk` to the socket address at `address` (0: to where it is connected).
///
/// # Safety
/// `sk` is a `struct sock` the verifier knows, or null.
#[inline(always)]
unsafe fn outbound(
    subject: &Subject,
    verb: Verb,
    sk: *const c_void,
    address: u64,
    len: i32,
    sending: bool,
) -> i32 {
    if sk.is_null() {
        return refuse(subject, verb.hook, verb.action, Reason::AddressUnreadable);
    }
    // SAFETY: the caller's.
    let own = unsafe { net::family(sk) };
    if own == net::AF_UNIX {
        // Unix sockets have hooks of their own.
        return ALLOWED;
    }
    // SAFETY: the caller's.
    if !unsafe { is_own(subject, sk) } {
        return refuse(subject, verb.hook, verb.action, Reason::ForeignSocket);
    }
    if own == net::AF_NETLINK || address == 0 {
        // Netlink stays on the machine.
        return ALLOWED;
    }
    if own != net::AF_INET && own != net::AF_INET6 && own != net::AF_VSOCK {
        // No rule can name an address of this family.
        let operation = if own == net::AF_PACKET {
            Operation::PacketSockets
        } else {
            Operation::OtherSockets
        };
        return system::judge(subject, verb.hook, operation, own.into());
    }
    let Some(family) = probe::<u16>(address, 0) else {
        count::failure(Site::KernelRead);
        return refuse(subject, verb.hook, verb.action, Reason::AddressUnreadable);
    };
    let family = if family != net::AF_UNSPEC {
        family
    } else if sending && own == net::AF_INET {
        // KERNEL: udp_sendmsg takes AF_UNSPEC for AF_INET (net/ipv4/udp.c).
        net::AF_INET
    } else {
        // A disconnect, or (IPv6) an address the kernel takes no notice of.
        return ALLOWED;
    };
    // SAFETY: the caller's.
    let protocol = unsafe { net::protocol(sk) };
    let mut decision = match object_at(subject, protocol, family, address, len) {
        Ok(object) => judge_object(subject, verb, object),
        // FAIL-CLOSED: what can't be named can't be allowed.
        Err(reason) => Decision::refuse(reason),
    };
    // Others have no program of the cgroup on their calls.
    let is_seen = (protocol == net::IPPROTO_TCP || protocol == net::IPPROTO_UDP)
        // SAFETY: the caller's.
        && !unsafe { net::is_mptcp(sk) };
    let names = hosts::are_named(subject.profile);
    if names {
        if resolver::is_asked(family, address) {
            if !is_ruled_out(decision) {
                if is_seen {
                    // SAFETY: the caller's.
                    unsafe { note_caller(subject.state, sk, true) };
                    // Not open: the cgroup's own program on this call comes next, and sends it to the daemon's resolver.
                    return ALLOWED;
                }
                // FAIL-CLOSED: it would go past it.
                decision = Decision::refuse(Reason::NoResolver);
            }
        } else {
            let before = decision.outcome.rank();
            decision = hosts::judge(subject, decision);
            if decision.outcome.wants_sni() && (!is_seen || protocol != net::IPPROTO_TCP) {
                // FAIL-CLOSED: what leaves first isn't looked at.
                decision = Decision::refuse(Reason::ServerName);
            }
            if decision.outcome.rank() == Verdict::Allow as u32 && before > Verdict::Allow as u32 {
                // SAFETY: the caller's.
                unsafe { note_destination(subject, sk, decision.outcome) };
            }
        }
    }
    if own::allowed(subject.profile).is_some() {
        let is_waiting = is_seen && own::is_open(decision) && own::is_loopback(family, address);
        // SAFETY: the caller's.
        unsafe { note_caller(subject.state, sk, is_waiting) };
        if is_waiting {
            // Not open: the cgroup's own program on this call comes next and decides.
            return ALLOWED;
        }
    }
    if decision.outcome.rank() == Verdict::Ask as u32 {
        // SAFETY: the caller's.
        return unsafe { ask(subject, verb, sk, decision) };
    }
    carry_out(subject, verb, ObjectKind::Address, decision)
}

/// Whether a rule is against it, or the tables are.
#[inline(always)]
fn is_ruled_out(decision: Decision) -> bool {
    decision.outcome.rank() > Verdict::Allow as u32
        && decision.reason as u8 != Reason::Default as u8
}

/// Notes for the packets of a socket where it was let go because of a name.
///
/// # Safety
/// `sk` is a `struct sock` the verifier knows, not null.
#[inline(always)]
unsafe fn note_destination(subject: &Subject, sk: *const c_void, outcome: Outcome) {
    // SAFETY: the caller's; a map value or null.
    unsafe {
        let socket = SOCKETS.of(sk, false);
        if !socket.is_null() {
            hosts::let_go(
                subject,
                socket,
                object::address_words(subject.state),
                outcome,
            );
        }
    }
}

/// Carries out an ask, and notes for the packets of the socket where they may go.
///
/// # Safety
/// `sk` is a `struct sock` the verifier knows, not null.
#[inline(always)]
unsafe fn ask(subject: &Subject, verb: Verb, sk: *const c_void, decision: Decision) -> i32 {
    // SAFETY: the caller's; a map value, which is checked for null.
    unsafe {
        let socket = SOCKETS.of(sk, false);
        if socket.is_null() {
            // FAIL-CLOSED: it was there a moment ago.
            return refuse(subject, verb.hook, verb.action, Reason::ForeignSocket);
        }
        let address = object::address_words(subject.state);
        if net::is_connecting(sk) && is_same((*socket).approved, address) && address[0] != 0 {
            // The same connection once more: a signal came in between, or the program wants to know how far it is.
            count::decision(verb.hook, Verdict::Allow as u32);
            return ALLOWED;
        }
        let verdict = carry_out(subject, verb, ObjectKind::Address, decision);
        if verdict == ALLOWED {
            (*socket).approved = address;
            if hosts::are_named(subject.profile) {
                // Packets don't know whether a name was asked about, or the address.
                hosts::let_go(subject, socket, address, decision.outcome);
            }
        }
        verdict
    }
}

/// Notes who calls, for the cgroup's program on the same call; nobody when that has nothing to decide. A connection
/// of before is none any more.
///
/// # Safety
/// `sk` is a `struct sock` the verifier knows, not null.
#[inline(always)]
unsafe fn note_caller(state: *mut TaskState, sk: *const c_void, is_waiting: bool) {
    record::describe_process(state);
    // SAFETY: the caller's; a map value or null.
    unsafe {
        let socket = SOCKETS.of(sk, false);
        if !socket.is_null() {
            (*socket).flags &= !SOCKET_WITH_ITSELF;
            (*socket).caller = if is_waiting { state as u64 } else { 0 };
        }
    }
}

/// The socket address at `address` as an object.
#[inline(always)]
pub fn object_at(
    subject: &Subject,
    protocol: u8,
    family: u16,
    address: u64,
    len: i32,
) -> Result<Object, Reason> {
    let mut encoded = [0; ENCODED_BYTES];
    if family == net::AF_INET && len >= 8 {
        let port = probe::<u16>(address, 2).ok_or(Reason::AddressUnreadable)?;
        let host = probe::<[u8; 4]>(address, 4).ok_or(Reason::AddressUnreadable)?;
        let len_bytes = address::encode_v4(&mut encoded, protocol, host, u16::from_be(port));
        return Ok(object::address(subject, &encoded, len_bytes));
    }
    if family == net::AF_INET6 && len >= 24 {
        let port = probe::<u16>(address, 2).ok_or(Reason::AddressUnreadable)?;
        let host = probe::<[u8; 16]>(address, 8).ok_or(Reason::AddressUnreadable)?;
        let len_bytes = address::encode_v6(&mut encoded, protocol, &host, u16::from_be(port));
        return Ok(object::address(subject, &encoded, len_bytes));
    }
    // `struct sockaddr_vm` (include/uapi/linux/vm_sockets.h).
    if family == net::AF_VSOCK && len >= 16 {
        let port = probe::<u32>(address, 4).ok_or(Reason::AddressUnreadable)?;
        let cid = probe::<u32>(address, 8).ok_or(Reason::AddressUnreadable)?;
        let len_bytes = address::encode_vsock(&mut encoded, cid, port);
        return Ok(object::address(subject, &encoded, len_bytes));
    }
    Err(Reason::AddressUnreadable)
}

/// Whether the agent made the socket, inside its cgroup.
///
/// # Safety
/// `sk` is a `struct sock` the verifier knows, not null.
#[inline(always)]
pub unsafe fn is_own(subject: &Subject, sk: *const c_void) -> bool {
    // SAFETY: the caller's.
    let socket = unsafe { note_of(sk) };
    match socket {
        Some(socket) => socket.agent == subject.agent && socket.flags & SOCKET_INSIDE != 0,
        None => false,
    }
}

/// What is known of a socket.
///
/// # Safety
/// `sk` is a `struct sock` the verifier knows, not null.
#[inline(always)]
pub unsafe fn note_of(sk: *const c_void) -> Option<Socket> {
    // SAFETY: the caller's; a map value or null.
    unsafe {
        let socket = SOCKETS.of(sk, false);
        (!socket.is_null()).then(|| *socket)
    }
}

/// Takes the flags `off` from what is known of a socket and adds `on`.
///
/// # Safety
/// `sk` is a `struct sock` the verifier knows, not null.
#[inline(always)]
pub unsafe fn note(sk: *const c_void, on: u32, off: u32) {
    // SAFETY: the caller's; a map value or null.
    unsafe {
        let socket = SOCKETS.of(sk, false);
        if !socket.is_null() {
            (*socket).flags = (*socket).flags & !off | on;
        }
    }
}

/// FAIL-CLOSED: a denial before there is an object.
#[inline(always)]
pub fn refuse(subject: &Subject, hook: Hook, action: Action, reason: Reason) -> i32 {
    object::nothing(subject.state);
    let verb = Verb {
        hook,
        action,
        kind: Kind::Connect,
        verbs: verb::bit(verb::ONLY),
    };
    carry_out(subject, verb, ObjectKind::Address, Decision::refuse(reason))
}
