//! Datagrams that reach a socket of a tagged cgroup.
//!
//! Whoever knows its port can send to a datagram socket, and a socket gets a port by sending. So what comes in is
//! judged: where the `listen` rules allow the socket's own address and port, it hears from anyone, as `bind` was
//! judged; otherwise only from where the `connect` rules would let it send, which is what answers it. Both are
//! asked anew for each datagram, so that a reload reaches sockets that are there already, and no note of a `bind`
//! can outlive what it was made for.
//!
//! Of connections nothing is judged here: they were when they were made, or when their socket listened. Nor do
//! ICMP errors come this way: the kernel puts them on the error queue of the socket whose packet they are about.

use agentguard_common::{
    Decision, Verdict, address,
    counter::{Hook, Site},
    event::{Action, Reason},
    profile::{self, Subject as Kind, verb},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, bpf_sock},
    macros::cgroup_skb,
    programs::SkBuffContext,
};

use super::{DROP, End, PASS, Packet, deny, judge, owner, read, socket_of};
use crate::{
    count,
    engine::Arena,
    hosts,
    kernel::{self, net},
    own,
    record::Verb,
    resolver,
};

/// `cgroup_skb/ingress` on a tagged cgroup. The kernel asks when it has put fragments together, and before the
/// datagram is queued (net/core/filter.c, `sk_filter_trim_cap`).
#[cgroup_skb(ingress)]
pub fn cgroup_ingress(ctx: SkBuffContext) -> i32 {
    let skb: *mut __sk_buff = ctx.as_ptr().cast();
    let Some(sk) = socket_of(skb) else {
        // FAIL-CLOSED: nobody knows what it has reached.
        count::failure(Site::PacketRead);
        count::decision(Hook::CgroupIngress, Verdict::Deny as u32);
        return DROP;
    };
    // SAFETY: a socket that the verifier knows.
    let (kind, protocol) = unsafe { ((*sk).type_ as i16, (*sk).protocol as u8) };
    // By the socket and not by the packet: a raw socket would hear TCP as well, and before TCP there may be
    // headers of IPv6.
    if kind == net::SOCK_STREAM || kind == net::SOCK_SEQPACKET {
        return PASS;
    }
    // SAFETY: it comes from there.
    let (socket, profile) = match unsafe { owner(Hook::CgroupIngress, Some(sk)) } {
        Ok(owner) => owner,
        Err(verdict) => return verdict,
    };
    // Raw sockets have no port, and `bind` is not judged of them.
    // SAFETY: as above.
    if kind == net::SOCK_DGRAM && unsafe { hears_anyone(sk, profile) } {
        count::decision(Hook::CgroupIngress, Verdict::Allow as u32);
        return PASS;
    }
    let mut packet = Packet::UNREAD;
    let mut judged = false;
    let decision = match read(skb, End::Source, &mut packet) {
        Err(reason) => Decision::refuse(reason),
        // FAIL-CLOSED: behind headers of IPv6, where nobody has looked for its port.
        Ok(()) if kernel::apart(packet.encoded[0]) != protocol => {
            Decision::refuse(Reason::PacketUnreadable)
        }
        // What it was asked.
        Ok(()) if resolver::is_from_it(socket, &packet) => {
            count::decision(Hook::CgroupIngress, Verdict::Allow as u32);
            return PASS;
        }
        // FAIL-CLOSED: where the descriptor should be is something else.
        Ok(()) if profile == 0 || profile::header(&Arena, profile).is_none() => {
            Decision::refuse(Reason::TablesBroken)
        }
        Ok(()) => {
            judged = true;
            judge::far_end(&packet, profile)
        }
    };
    if decision.outcome.rank() == Verdict::Allow as u32 {
        // Not reported: what it answers was.
        count::decision(Hook::CgroupIngress, Verdict::Allow as u32);
        return PASS;
    }
    // VERIFIER: it would follow the rest once for each decision there can be.
    let is_open = kernel::forgotten((judged && own::is_open(decision)).into()) != 0;
    if is_open
        && (hosts::was_let_go(socket, profile, packet.words())
            || own::is_from_itself(skb, profile, socket.agent))
    {
        count::decision(Hook::CgroupIngress, Verdict::Allow as u32);
        return PASS;
    }
    let verb = Verb {
        hook: Hook::CgroupIngress,
        action: Action::NetAccept,
        kind: Kind::Connect,
        verbs: verb::bit(verb::ONLY),
    };
    // No task is named: packets arrive in anybody's context.
    if deny(verb, &packet, socket, profile, decision, 0) {
        DROP
    } else {
        PASS
    }
}

/// Whether the `listen` rules allow a socket's near end.
///
/// # Safety
/// `sk` comes from [`socket_of`].
#[inline(always)]
unsafe fn hears_anyone(sk: *mut bpf_sock, profile: u32) -> bool {
    if profile == 0 || profile::header(&Arena, profile).is_none() {
        // FAIL-CLOSED: where the descriptor should be is something else. The far end's judge says so.
        return false;
    }
    let mut local = Packet::UNREAD;
    // VERIFIER: each field of a socket can be read as it is, and no two at once.
    // SAFETY: the caller's.
    unsafe {
        let field = |field: *const u32| core::ptr::read_volatile(field);
        let protocol = field(&raw const (*sk).protocol) as u8;
        let port = field(&raw const (*sk).src_port) as u16;
        local.len_bytes = if field(&raw const (*sk).family) == u32::from(net::AF_INET) {
            let host = field(&raw const (*sk).src_ip4).to_ne_bytes();
            address::encode_v4(&mut local.encoded, protocol, host, port)
        } else {
            let host = (&raw const (*sk).src_ip6).cast::<u32>();
            let words = [
                field(host),
                field(host.add(1)),
                field(host.add(2)),
                field(host.add(3)),
            ];
            let host = core::mem::transmute::<[u32; 4], [u8; 16]>(words);
            address::encode_v6(&mut local.encoded, protocol, &host, port)
        };
    }
    let decision = judge::near_end(&local, profile);
    let is_allowed = decision.outcome.rank() == Verdict::Allow as u32;
    // VERIFIER: as above.
    kernel::forgotten(is_allowed.into()) != 0
}
