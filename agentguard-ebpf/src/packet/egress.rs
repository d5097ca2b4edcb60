//! Packets that leave a tagged cgroup.
//!
//! The LSM hooks judge the address that a call names. Where a packet really goes can differ: IPv6
//! routing headers and IPv4 source routes name another first hop. So the packet's own destination is
//! judged again, by the same rules, and packets with such headers don't leave at all.

use agentguard_common::{
    Decision, Verdict,
    address::is_same,
    counter::Hook,
    event::{Action, Reason},
    label::{SOCKET_LISTENS, SOCKET_WANTS_SNI, Socket},
    offsets::ABSENT,
    profile::{self, Subject as Kind, verb},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, bpf_sock},
    cty::c_void,
    helpers::generated::bpf_skc_to_mptcp_sock,
    macros::cgroup_skb,
    programs::SkBuffContext,
};

use super::{
    DROP, End, PASS, Packet, deny,
    hello::{self, Heard},
    judge, owner, read, socket_of,
};
use crate::{
    count,
    engine::Arena,
    hosts,
    kernel::{self, offsets},
    maps::SOCKETS,
    own,
    record::Verb,
    resolver,
};

/// `cgroup_skb/egress` on a tagged cgroup.
#[cgroup_skb(egress)]
pub fn cgroup_egress(ctx: SkBuffContext) -> i32 {
    let skb: *mut __sk_buff = ctx.as_ptr().cast();
    // SAFETY: it comes from there.
    let (socket, profile) = match unsafe { owner(Hook::CgroupEgress, socket_of(skb)) } {
        Ok(owner) => owner,
        Err(verdict) => return verdict,
    };
    let mut packet = Packet::UNREAD;
    let mut judged = false;
    let mut decision = match read(skb, End::Destination, &mut packet) {
        Err(reason) => Decision::refuse(reason),
        // A lookup, to whom a call of this socket was sent.
        Ok(()) if resolver::is_for_it(skb, socket, &packet) => return PASS,
        // What answers a peer that the agent was allowed to listen to.
        Ok(()) if socket.flags & SOCKET_LISTENS != 0 && !own::begins(skb) => return PASS,
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
        // Not reported: the call that sent it was.
        count::decision(Hook::CgroupEgress, Verdict::Allow as u32);
        return PASS;
    }
    let asks = judged && decision.outcome.rank() == Verdict::Ask as u32;
    if asks
        && (is_same(packet.words(), socket.approved) || is_approved_for_mptcp(skb, socket, &packet))
    {
        // A person said yes to the call that sent it.
        count::decision(Hook::CgroupEgress, Verdict::Allow as u32);
        return PASS;
    }
    // VERIFIER: it would follow the rest once for each decision there can be.
    let is_open = kernel::forgotten((judged && own::is_open(decision)).into()) != 0;
    if is_open && hosts::was_let_go(socket, profile, packet.words()) {
        if names_itself(skb, socket, &packet, profile) {
            count::decision(Hook::CgroupEgress, Verdict::Allow as u32);
            return PASS;
        }
        decision = Decision::refuse(Reason::ServerName);
    }
    if is_open && own::is_with_itself(skb, profile, socket) || judged && answers_for_mptcp(skb) {
        return PASS;
    }
    let verb = Verb {
        hook: Hook::CgroupEgress,
        action: Action::NetSend,
        kind: Kind::Connect,
        verbs: verb::bit(verb::ONLY),
    };
    // No task is named: packets leave in anybody's context.
    if deny(verb, &packet, socket, profile, decision, 0) {
        DROP
    } else {
        PASS
    }
}

/// Whether a packet names a host that rules open, where it must, or need not any more.
#[inline(always)]
fn names_itself(skb: *mut __sk_buff, socket: &Socket, packet: &Packet, profile: u32) -> bool {
    if socket.flags & SOCKET_WANTS_SNI == 0 {
        return true;
    }
    let Some(sk) = socket_of(skb) else {
        return false;
    };
    // SAFETY: a socket that the verifier knows; a map value, which is checked for null.
    unsafe {
        let note = SOCKETS.of(sk.cast::<c_void>(), false);
        if note.is_null() {
            return false;
        }
        match hello::hear(skb, packet, note, profile) {
            Heard::Nothing => true,
            Heard::Right => {
                (*note).flags &= !SOCKET_WANTS_SNI;
                true
            }
            Heard::Wrong => false,
        }
    }
}

/// The socket that the packet leaves, and what is noted of the MPTCP socket that it is a part of, if it is one.
#[inline(always)]
fn whole_of(skb: *mut __sk_buff) -> Option<(*mut bpf_sock, *mut Socket)> {
    if offsets().mptcp_sock_sk == ABSENT {
        return None;
    }
    let part = socket_of(skb)?;
    // SAFETY: the program's own context; every pointer is checked for null.
    unsafe {
        let whole = bpf_skc_to_mptcp_sock(part.cast());
        if whole.is_null() {
            return None;
        }
        let whole = SOCKETS.of(whole.cast::<c_void>(), false);
        (!whole.is_null()).then_some((part, whole))
    }
}

/// Whether the packet leaves a part of an MPTCP socket that was let go there. The kernel makes the parts, and connects
/// them, without asking a hook.
#[inline(always)]
fn is_approved_for_mptcp(skb: *mut __sk_buff, socket: &Socket, packet: &Packet) -> bool {
    let Some((_, whole)) = whole_of(skb) else {
        return false;
    };
    // SAFETY: a map value.
    unsafe { (*whole).agent == socket.agent && is_same((*whole).approved, packet.words()) }
}

/// Whether the packet leaves the kernel's own part of an MPTCP socket that listens. The kernel makes it, and has it
/// listen, without asking a hook; what it notes of it here is copied to whatever is accepted. The first packet
/// that answers a peer goes by here before there is a copy.
#[inline(always)]
fn answers_for_mptcp(skb: *mut __sk_buff) -> bool {
    let Some((part, whole)) = whole_of(skb) else {
        return false;
    };
    // SAFETY: a socket that the verifier knows, and map values, which are checked for null.
    unsafe {
        if (*whole).flags & SOCKET_LISTENS == 0 {
            return false;
        }
        let part = SOCKETS.of(part.cast::<c_void>(), false);
        if part.is_null() || (*part).agent != (*whole).agent {
            return false;
        }
        (*part).flags |= SOCKET_LISTENS;
        true
    }
}
