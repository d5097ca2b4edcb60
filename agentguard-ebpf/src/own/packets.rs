//! The agent's packets with itself: those that leave for one of its own sockets, and datagrams that come from one.

use core::mem::MaybeUninit;

use agentguard_common::label::{SOCKET_LISTENS, SOCKET_WITH_ITSELF, Socket};
use aya_ebpf::{bindings::__sk_buff, cty::c_void};

use super::{Tuple, allowed, is_for_all, peer};
use crate::{
    kernel::net,
    maps::SOCKETS,
    packet::{self, load, load_to},
};

/// `LOOPBACK_IFINDEX` (include/net/net_namespace.h), the same in every network namespace.
const LOOPBACK: u32 = 1;

const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// Whether a packet of a TCP socket that listens, or did, begins a connection, which nobody does who answers. Then it
/// listens no more.
#[inline(always)]
pub fn begins(skb: *mut __sk_buff) -> bool {
    let flags = match load::<1>(skb, 0) {
        Some([first]) if first >> 4 == 4 => load::<1>(skb, 20 + 13),
        _ => load::<1>(skb, 40 + 13),
    };
    // FAIL-CLOSED: what can't be read is judged.
    let begins = flags.is_none_or(|[flags]| flags & (TCP_SYN | TCP_ACK) == TCP_SYN);
    if begins {
        change(skb, 0, SOCKET_LISTENS);
    }
    begins
}

/// Whether a packet goes from one of the agent's sockets to another, over loopback, and rules allow that.
#[inline(always)]
pub fn is_with_itself(skb: *mut __sk_buff, profile: u32, socket: &Socket) -> bool {
    // SAFETY: the program's own context.
    if unsafe { (*skb).ifindex } != LOOPBACK || allowed(profile).is_none() {
        return false;
    }
    match load::<1>(skb, 0) {
        Some([first]) if first >> 4 == 4 => over::<1>(skb, 9, 12, 20, socket),
        Some([first]) if first >> 4 == 6 => over::<4>(skb, 6, 8, 40, socket),
        _ => false,
    }
}

/// The same of a packet whose header has the protocol, the addresses and its end at these places.
#[inline(always)]
fn over<const N: usize>(
    skb: *mut __sk_buff,
    protocol: u32,
    addresses: u32,
    end: u32,
    socket: &Socket,
) -> bool {
    let Some([protocol]) = load::<1>(skb, protocol) else {
        return false;
    };
    let mut tuple = MaybeUninit::<Tuple<N>>::uninit();
    let to: *mut u8 = tuple.as_mut_ptr().cast();
    let hosts = 8 * N as u32;
    // SAFETY: the program's own context; the two fill the tuple.
    unsafe {
        if !load_to(skb, addresses, to, hosts) || !load_to(skb, end, to.add(hosts as usize), 4) {
            return false;
        }
        let tuple = tuple.assume_init_mut();
        if protocol == net::IPPROTO_UDP {
            if N == 1 && is_for_all(tuple.destination[0]) {
                return false;
            }
            return tuple.look_up(skb.cast(), true, socket.agent) != peer::SOMEBODY_ELSE;
        }
        if protocol != net::IPPROTO_TCP {
            return false;
        }
        let Some([flags]) = load::<1>(skb, end + 13) else {
            return false;
        };
        if flags & (TCP_SYN | TCP_ACK) != TCP_SYN {
            // Of a connection that its first packet decided about: the other end may be gone or waiting by now.
            return socket.flags & SOCKET_WITH_ITSELF != 0;
        }
        let mut who = tuple.look_up(skb.cast(), false, socket.agent);
        if who == peer::NOBODY {
            // What waits where a connection was before is looked for without it.
            tuple.forget_source();
            who = tuple.look_up(skb.cast(), false, socket.agent);
        }
        if who == peer::OWN {
            change(skb, SOCKET_WITH_ITSELF, 0);
        }
        who != peer::SOMEBODY_ELSE
    }
}

/// Whether a datagram comes from another of the agent's sockets, over loopback, and rules allow that: who would
/// get an answer is who sent it. When that one is gone nobody can say, and it isn't the agent's.
#[inline(always)]
pub fn is_from_itself(skb: *mut __sk_buff, profile: u32, agent: u64) -> bool {
    // SAFETY: the program's own context.
    if unsafe { (*skb).ifindex } != LOOPBACK || allowed(profile).is_none() {
        return false;
    }
    match load::<1>(skb, 0) {
        Some([first]) if first >> 4 == 4 => back_over::<1>(skb, 9, 12, 20, agent),
        Some([first]) if first >> 4 == 6 => back_over::<4>(skb, 6, 8, 40, agent),
        _ => false,
    }
}

/// The same of a datagram whose header has the protocol, the addresses and its end at these places.
#[inline(always)]
fn back_over<const N: usize>(
    skb: *mut __sk_buff,
    protocol: u32,
    addresses: u32,
    end: u32,
    agent: u64,
) -> bool {
    if !load::<1>(skb, protocol).is_some_and(|[protocol]| protocol == net::IPPROTO_UDP) {
        return false;
    }
    let mut tuple = MaybeUninit::<Tuple<N>>::uninit();
    let to: *mut u8 = tuple.as_mut_ptr().cast();
    let host = 4 * N as u32;
    // SAFETY: the program's own context; the four fill the tuple, with the ends turned round.
    unsafe {
        let ports = to.add(2 * host as usize);
        load_to(skb, addresses + host, to, host)
            && load_to(skb, addresses, to.add(host as usize), host)
            && load_to(skb, end + 2, ports, 2)
            && load_to(skb, end, ports.add(2), 2)
            && tuple.assume_init_mut().look_up(skb.cast(), true, agent) == peer::OWN
    }
}

/// Takes the flags `off` from what is known of the packet's socket and adds `on`.
#[inline(always)]
fn change(skb: *mut __sk_buff, on: u32, off: u32) {
    let Some(full) = packet::socket_of(skb) else {
        return;
    };
    // SAFETY: the program's own context; a map value or null.
    unsafe {
        let note = SOCKETS.of(full.cast::<c_void>(), false);
        if !note.is_null() {
            (*note).flags = (*note).flags & !off | on;
        }
    }
}
