//! Which kinds of sockets an agent may have at all. What goes over those it has is judged elsewhere, by
//! address; here is what has no address that a rule could name, or no hook that would see where it goes.

use agentguard_common::{
    Decision, Verdict,
    address::{self, ENCODED_BYTES},
    counter::Hook,
    event::{Action, ObjectKind, Reason},
    profile::{Subject as Kind, default_outcome, named, verb},
    system::Operation,
};
use aya_ebpf::{macros::lsm, programs::LsmContext};

use crate::{
    engine::Arena,
    kernel::net,
    object,
    record::Verb,
    subject::Subject,
    system,
    verdict::{ALLOWED, carry_out, guard},
};

/// What a kind of socket needs.
mod gate {
    /// Nothing: its addresses are judged one by one.
    pub const OPEN: u32 = 0;
    /// Chooses headers, and so the destination, of its packets itself.
    pub const RAW: u32 = 1;
    /// Below IP, where the second lock sees nothing.
    pub const PACKET: u32 = 2;
    pub const OTHER: u32 = 3;
    /// A rule that names the protocol or family; plus the number in `profile::named`.
    pub const NAMED: u32 = 16;
}

/// `socket_create(family, type, protocol, kern)`. Asked before the kernel loads a module for the family.
#[lsm(hook = "socket_create")]
pub fn socket_create(ctx: LsmContext) -> i32 {
    guard(Hook::SocketCreate, |subject| {
        let (family, kind, protocol): (i32, i32, i32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
        if ctx.arg::<i32>(3) != 0 {
            // The kernel's own, such as a subflow of MPTCP.
            return ALLOWED;
        }
        match gate_of(family as u16, kind as i16, protocol) {
            gate::OPEN => ALLOWED,
            gate::RAW => closed(subject, Operation::RawSockets, family),
            gate::PACKET => closed(subject, Operation::PacketSockets, family),
            gate::OTHER => closed(subject, Operation::OtherSockets, family),
            named => by_name(subject, family as u16, named - gate::NAMED),
        }
    })
}

/// `tun_dev_attach(sk, security)`: a descriptor of `/dev/net/tun` becomes one end of a network device, new or
/// there already. What is written to it are packets that no socket sends.
#[lsm(hook = "tun_dev_attach")]
pub fn tun_dev_attach(_ctx: LsmContext) -> i32 {
    guard(Hook::TunDevAttach, |subject| {
        system::judge(subject, Hook::TunDevAttach, Operation::Tun, 0)
    })
}

/// What a socket needs, by the arguments of `socket`. The kernel has taken flags off the type.
#[inline(always)]
fn gate_of(family: u16, kind: i16, protocol: i32) -> u32 {
    match family {
        net::AF_UNIX => gate::OPEN,
        net::AF_INET | net::AF_INET6 => internet(kind, protocol),
        // NETLINK_ROUTE. KERNEL: everything but reading needs CAP_NET_ADMIN, each message by itself
        // (net/core/rtnetlink.c, `rtnetlink_rcv_msg`; net/netlink/af_netlink.c, `netlink_sendmsg`).
        net::AF_NETLINK if protocol == 0 => gate::OPEN,
        net::AF_PACKET => gate::PACKET,
        net::AF_VSOCK => gate::NAMED + named::VSOCK as u32,
        _ => gate::OTHER,
    }
}

#[inline(always)]
fn internet(kind: i16, protocol: i32) -> u32 {
    const TCP: i32 = net::IPPROTO_TCP as i32;
    const UDP: i32 = net::IPPROTO_UDP as i32;
    const ICMP: i32 = net::IPPROTO_ICMP as i32;
    const ICMPV6: i32 = net::IPPROTO_ICMPV6 as i32;
    const SCTP: i32 = net::IPPROTO_SCTP as i32;
    const MPTCP: i32 = net::IPPROTO_MPTCP as i32;
    match (kind, protocol) {
        (net::SOCK_STREAM, 0 | TCP | MPTCP) | (net::SOCK_DGRAM, 0 | UDP) => gate::OPEN,
        (net::SOCK_DGRAM, ICMP | ICMPV6) => gate::NAMED + named::ICMP as u32,
        (net::SOCK_STREAM, SCTP) | (net::SOCK_SEQPACKET, 0 | SCTP) => {
            gate::NAMED + named::SCTP as u32
        }
        (net::SOCK_RAW, _) => gate::RAW,
        _ => gate::OTHER,
    }
}

/// A kind of socket that `[system]` decides about.
#[inline(always)]
fn closed(subject: &Subject, operation: Operation, family: i32) -> i32 {
    system::judge(subject, Hook::SocketCreate, operation, family as u64)
}

/// A socket of a kind that is there only when a rule names it.
#[inline(always)]
fn by_name(subject: &Subject, family: u16, kind: u32) -> i32 {
    let outcome = default_outcome(&Arena, subject.profile, named::SUBJECT, kind);
    if outcome.is_some_and(|outcome| outcome.rank() == Verdict::Allow as u32) {
        return ALLOWED;
    }
    // FAIL-CLOSED: no rule, or broken tables. The object is any address of that kind.
    let mut encoded = [0; ENCODED_BYTES];
    let protocol = match (kind as u8, family) {
        (named::SCTP, _) => net::IPPROTO_SCTP,
        (_, net::AF_INET6) => net::IPPROTO_ICMPV6,
        _ => net::IPPROTO_ICMP,
    };
    let len_bytes = if family == net::AF_VSOCK {
        address::encode_vsock(&mut encoded, u32::MAX, u32::MAX)
    } else if family == net::AF_INET6 {
        address::encode_v6(&mut encoded, protocol, &[0; 16], 0)
    } else {
        address::encode_v4(&mut encoded, protocol, [0; 4], 0)
    };
    object::address(subject, &encoded, len_bytes);
    let verb = Verb {
        hook: Hook::SocketCreate,
        action: Action::NetConnect,
        kind: Kind::Connect,
        verbs: verb::bit(verb::ONLY),
    };
    carry_out(
        subject,
        verb,
        ObjectKind::Address,
        Decision::refuse(Reason::SocketKind),
    )
}
