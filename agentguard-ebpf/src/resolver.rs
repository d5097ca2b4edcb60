//! Lookups of names: calls to port 53 go to the daemon's resolver in the same network namespace, and what it answers
//! comes from where the program asked.
//!
//! `socket_connect` and `socket_sendmsg` let such a call pass and note who calls. The cgroup's program on it comes next,
//! writes the resolver's address into it, and notes on the socket who asked whom. `cgroup_egress` tells the daemon by the
//! packet's source port whose it is, because a socket that connects has no port before. The programs on `recvmsg` and
//! `getpeername` put back what the program asked: a resolver takes no answer from elsewhere.

use agentguard_common::{
    Decision,
    address::{self, ENCODED_BYTES, V4, is_same},
    counter::Hook,
    event::{Action, Process, Reason},
    label::{AGENT_RELEASED, Socket, TaskState},
    name::{Asker, DNS_PORT, QuestionFrom, QuestionKey, Resolver},
    profile::{Subject as Kind, verb},
};
use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock_addr},
    cty::c_void,
    helpers::generated::{bpf_get_netns_cookie, bpf_ktime_get_boot_ns},
};

use crate::{
    hosts,
    kernel::{self, net, probe},
    maps::{QUESTIONS, RESOLVERS, SOCKETS},
    own::{PROCEED, REFUSE},
    packet::{self, Packet, load},
    record::Verb,
    subject,
};

const LOOPBACK_V4: [u8; 4] = [127, 0, 0, 1];
const LOOPBACK_V6: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Whether a socket address in kernel memory has the port of lookups.
#[inline(always)]
pub fn is_asked(family: u16, address: u64) -> bool {
    (family == net::AF_INET || family == net::AF_INET6)
        && probe::<u16>(address, 2).is_some_and(|port| u16::from_be(port) == DNS_PORT)
}

/// Sends a call to the daemon's resolver. `None` when it isn't a lookup that the hook before let pass.
#[inline(always)]
pub fn redirect<const V6: bool>(call: *mut bpf_sock_addr, hook: Hook) -> Option<i32> {
    // SAFETY: the program's own context; every pointer is checked for null.
    unsafe {
        if (*call).user_port as u16 != DNS_PORT.to_be() {
            return None;
        }
        let sk = (*call).__bindgen_anon_1.sk;
        if sk.is_null() {
            return None;
        }
        let note = SOCKETS.of(sk.cast::<c_void>(), false);
        if note.is_null() || (*note).caller == 0 {
            return None;
        }
        let agent = subject::agent((*note).slot, (*note).agent)?;
        let profile = subject::profile(core::ptr::read_volatile(&raw const agent.profile));
        if core::ptr::read_volatile(&raw const agent.state) == AGENT_RELEASED
            || !hosts::are_named(profile)
        {
            return None;
        }
        let caller = (*note).caller;
        let protocol = if (*call).type_ == net::SOCK_DGRAM as u32 {
            net::IPPROTO_UDP
        } else {
            net::IPPROTO_TCP
        };
        let mut asked = Packet::UNREAD;
        end::<V6>(call, protocol, &mut asked);
        let cookie = bpf_get_netns_cookie(call.cast());
        let resolver = match RESOLVERS.get(cookie) {
            Some(resolver) => *resolver,
            None => Resolver {
                listener: 0,
                port_v4: 0,
                port_v6: 0,
            },
        };
        let is_v4 = kernel::apart(asked.encoded[1]) == V4;
        let port = if is_v4 {
            resolver.port_v4
        } else {
            resolver.port_v6
        };
        if port == 0 {
            let socket = *note;
            (*note).caller = 0;
            // FAIL-CLOSED: names aren't looked up past the daemon.
            let verb = Verb {
                hook,
                action: Action::NetConnect,
                kind: Kind::Connect,
                verbs: verb::bit(verb::ONLY),
            };
            let refusal = Decision::refuse(Reason::NoResolver);
            return Some(
                if packet::deny(verb, &asked, &socket, profile, refusal, caller) {
                    REFUSE
                } else {
                    PROCEED
                },
            );
        }
        let mut there = Packet::UNREAD;
        let number = u16::from_be(port);
        there.len_bytes = if is_v4 {
            address::encode_v4(&mut there.encoded, protocol, LOOPBACK_V4, number)
        } else {
            address::encode_v6(&mut there.encoded, protocol, &LOOPBACK_V6, number)
        };
        (*note).caller = 0;
        (*note).asked = asked.words();
        (*note).redirected = there.words();
        (*note).listener = resolver.listener;
        let known = caller.wrapping_add(core::mem::offset_of!(TaskState, process) as u64);
        if !kernel::copy(
            (&raw mut (*note).asker).cast(),
            size_of::<Asker>() as u32,
            known as *const u8,
        ) {
            (*note).asker = [0; size_of::<Asker>() / 8];
        }
        write::<V6>(
            call,
            is_v4,
            port,
            u32::from_ne_bytes(LOOPBACK_V4),
            [0, 0, 0, 1_u32.to_be()],
        );
        Some(PROCEED)
    }
}

/// The address in a call, encoded.
///
/// # Safety
/// `call` is the program's own context.
#[inline(always)]
unsafe fn end<const V6: bool>(call: *mut bpf_sock_addr, protocol: u8, packet: &mut Packet) {
    // SAFETY: the caller's.
    unsafe {
        let port = u16::from_be((*call).user_port as u16);
        packet.len_bytes = if V6 {
            let words = [
                (*call).user_ip6[0],
                (*call).user_ip6[1],
                (*call).user_ip6[2],
                (*call).user_ip6[3],
            ];
            let host = core::mem::transmute::<[u32; 4], [u8; 16]>(words);
            address::encode_v6(&mut packet.encoded, protocol, &host, port)
        } else {
            let host = (*call).user_ip4.to_ne_bytes();
            address::encode_v4(&mut packet.encoded, protocol, host, port)
        };
    }
}

/// Writes an address into a call; an IPv4 one into a call of IPv6 in its mapped form.
///
/// # Safety
/// `call` is the program's own context.
#[inline(always)]
unsafe fn write<const V6: bool>(
    call: *mut bpf_sock_addr,
    is_v4: bool,
    port: u16,
    v4: u32,
    v6: [u32; 4],
) {
    // VERIFIER: field by field, each as a whole word.
    // SAFETY: the caller's.
    unsafe {
        if V6 {
            let words = if is_v4 {
                [0, 0, 0xffff_u32.to_be(), v4]
            } else {
                v6
            };
            core::ptr::write_volatile(&raw mut (*call).user_ip6[0], words[0]);
            core::ptr::write_volatile(&raw mut (*call).user_ip6[1], words[1]);
            core::ptr::write_volatile(&raw mut (*call).user_ip6[2], words[2]);
            core::ptr::write_volatile(&raw mut (*call).user_ip6[3], words[3]);
        } else {
            core::ptr::write_volatile(&raw mut (*call).user_ip4, v4);
        }
        core::ptr::write_volatile(&raw mut (*call).user_port, u32::from(port));
    }
}

/// Puts the address that a program asked in the place of the resolver's, in what the program is told. Never refuses:
/// KERNEL: these programs must return 1 (kernel/bpf/verifier.c, `check_return_code`).
#[inline(always)]
pub fn put_back<const V6: bool>(call: *mut bpf_sock_addr) -> i32 {
    // SAFETY: the program's own context; every pointer is checked for null.
    unsafe {
        let sk = (*call).__bindgen_anon_1.sk;
        if sk.is_null() {
            return PROCEED;
        }
        let note = SOCKETS.of(sk.cast::<c_void>(), false);
        if note.is_null() || (*note).redirected[0] == 0 {
            return PROCEED;
        }
        let protocol = (*note).redirected[0] as u8;
        let mut shown = Packet::UNREAD;
        end::<V6>(call, protocol, &mut shown);
        if !is_same(shown.words(), (*note).redirected) {
            return PROCEED;
        }
        let asked = (*note).asked;
        let is_v4 = (asked[0] >> 8) as u8 == V4;
        let (port, v4, v6) = taken_apart(asked);
        write::<V6>(call, is_v4, port, v4, v6);
        PROCEED
    }
}

/// Port (of either family), IPv4 address and IPv6 address of an encoded one, all as they lie in memory.
#[inline(always)]
fn taken_apart(words: [u64; 3]) -> (u16, u32, [u32; 4]) {
    let [first, second, third] = words;
    let is_v4 = (first >> 8) as u8 == V4;
    let port = if is_v4 {
        (first >> 48) as u16
    } else {
        (third >> 16) as u16
    };
    let v6 = [
        (first >> 16) as u32,
        (first >> 48) as u32 | (second as u32) << 16,
        (second >> 16) as u32,
        (second >> 48) as u32 | (third as u32) << 16,
    ];
    (port, (first >> 16) as u32, v6)
}

/// Whether a packet goes to the daemon's resolver, where a call of the socket was sent. Then it is told whose it is.
#[inline(always)]
pub fn is_for_it(skb: *mut __sk_buff, socket: &Socket, packet: &Packet) -> bool {
    if socket.redirected[0] == 0 || !is_same(packet.words(), socket.redirected) {
        return false;
    }
    let family = kernel::apart(packet.encoded[1]);
    let transport = if family == V4 { 20 } else { 40 };
    let Some([high, low]) = load::<2>(skb, transport) else {
        // FAIL-CLOSED: it would be nobody's question.
        return false;
    };
    let key = QuestionKey {
        listener: socket.listener,
        port: u16::from(high) << 8 | u16::from(low),
        protocol: packet.encoded[0],
        family: packet.encoded[1],
    };
    let from = QuestionFrom {
        agent: socket.agent,
        // SAFETY: no preconditions.
        boot_ns: unsafe { bpf_ktime_get_boot_ns() },
        asker: socket.asker,
    };
    // FAIL-CLOSED: without room for it the question is nobody's, and gets no answer.
    let _ = QUESTIONS.insert(key, from, 0);
    true
}

/// Whether a packet comes from the daemon's resolver, which a call of the socket asked.
#[inline(always)]
pub fn is_from_it(socket: &Socket, packet: &Packet) -> bool {
    socket.redirected[0] != 0 && is_same(packet.words(), socket.redirected)
}

const _: () = {
    // The words above are taken apart as they are put together on machines that put the low byte first.
    assert!(cfg!(target_endian = "little"));
    assert!(ENCODED_BYTES == 20);
    assert!(size_of::<Asker>() <= size_of::<Process>());
};
