//! `self` in rules: an agent's connections with its own sockets, which nobody can tell by an address.
//!
//! `socket_connect` and `socket_sendmsg` can't look sockets up. Where only `self` could allow a destination on
//! loopback, they let it pass and note who calls. The cgroup's programs on connect and send come next, in the same
//! call: they look who would get it, tell and, when it is somebody else's, refuse. What leaves is looked at once
//! more, packet by packet, because by then another socket may be there. Where nobody is, the kernel's own answer
//! is the right one: `ECONNREFUSED` is what a program that waits for its server wants to see.

use core::mem::MaybeUninit;

use agentguard_common::{
    Decision, Outcome, Verdict,
    address::{self, ENCODED_BYTES},
    counter::{Hook, Site},
    event::{Action, ObjectKind, Reason},
    label::{AGENT_RELEASED, Socket},
    profile::{self, LogAllow, Subject as Kind, default_outcome, named, verb},
};
use aya_ebpf::{
    bindings::{bpf_sock_addr, bpf_sock_tuple},
    cty::c_void,
    helpers::generated::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release},
};

use crate::{
    count,
    engine::Arena,
    kernel::{net, probe},
    maps::SOCKETS,
    packet::{self, Packet},
    record::{self, Verb},
    subject,
};

pub use self::packets::{begins, is_from_itself, is_with_itself};

mod packets;

// What the programs return (Documentation/bpf/prog_cgroup_sockopt.rst; 0 becomes EPERM).
pub const REFUSE: i32 = 0;
pub const PROCEED: i32 = 1;

/// `BPF_F_CURRENT_NETNS`: the network namespace of the context's socket or device.
const CURRENT_NETNS: u64 = u64::MAX;
/// What the profile's rules say of the agent's own sockets, if they allow them.
#[inline(always)]
pub fn allowed(profile: u32) -> Option<Outcome> {
    default_outcome(&Arena, profile, named::SUBJECT, named::OWN.into())
        .filter(|outcome| outcome.rank() == Verdict::Allow as u32)
}

/// Whether nothing but the `[default]` is against it.
#[inline(always)]
pub fn is_open(decision: Decision) -> bool {
    decision.outcome.rank() > Verdict::Allow as u32
        && decision.outcome.rule() == Outcome::DEFAULT_RULE
        && decision.reason as u8 == Reason::Default as u8
}

/// Whether a socket address in kernel memory lies on loopback, or is the unspecified one, which means it.
#[inline(always)]
pub fn is_loopback(family: u16, address: u64) -> bool {
    if family == net::AF_INET {
        return probe::<[u8; 4]>(address, 4).is_some_and(is_loopback_v4);
    }
    if family == net::AF_INET6 {
        return probe::<[u8; 16]>(address, 8).is_some_and(|host| {
            if address::is_mapped(&host) {
                is_loopback_v4([host[12], host[13], host[14], host[15]])
            } else {
                // `::` and `::1`.
                let mut other = host[15] & 0xfe;
                let mut i = 0;
                while i < 15 {
                    other |= host[i];
                    i += 1;
                }
                other == 0
            }
        });
    }
    false
}

/// Not its broadcast addresses: what is sent there goes to everybody who waits on that port, of whom a lookup finds one.
#[inline(always)]
fn is_loopback_v4(host: [u8; 4]) -> bool {
    let number = u32::from_ne_bytes(host);
    host[0] == 127 && !is_for_all(number) || number == 0
}

/// Whether an address is one of those on which everybody on loopback can be reached at once. KERNEL: 127.0.0.0 only before
/// 5.14 (mainline 3bb02ec57d4b), and unless something gives `lo` another mask.
#[inline(always)]
fn is_for_all(host: u32) -> bool {
    host == u32::from_ne_bytes([127, 255, 255, 255]) || host == u32::from_ne_bytes([127, 0, 0, 0])
}

/// Who would get something.
mod peer {
    pub const NOBODY: u32 = 0;
    pub const OWN: u32 = 1;
    pub const SOMEBODY_ELSE: u32 = 2;
}

/// Looks a socket up by a packet's addresses.
///
/// # Safety
/// `context` is the program's own, `tuple` has `len_bytes` bytes.
#[inline(always)]
unsafe fn look_up(
    context: *mut c_void,
    tuple: *mut bpf_sock_tuple,
    len_bytes: u32,
    is_udp: bool,
    agent: u64,
) -> u32 {
    // SAFETY: the caller's; every pointer is checked for null, and the socket is let go.
    unsafe {
        let found = if is_udp {
            bpf_sk_lookup_udp(context, tuple, len_bytes, CURRENT_NETNS, 0)
        } else {
            bpf_sk_lookup_tcp(context, tuple, len_bytes, CURRENT_NETNS, 0)
        };
        if found.is_null() {
            return peer::NOBODY;
        }
        let note = SOCKETS.of(found.cast::<c_void>(), false);
        let who = if !note.is_null() && (*note).agent == agent {
            peer::OWN
        } else {
            peer::SOMEBODY_ELSE
        };
        bpf_sk_release(found.cast());
        who
    }
}

/// Addresses of `N` words and ports as `struct bpf_sock_tuple` has them (include/uapi/linux/bpf.h), in network order.
#[repr(C)]
struct Tuple<const N: usize> {
    source: [u32; N],
    destination: [u32; N],
    source_port: u16,
    destination_port: u16,
}

impl<const N: usize> Tuple<N> {
    #[inline(always)]
    fn forget_source(&mut self) {
        let mut i = 0;
        while i < N {
            // VERIFIER: volatile, or it would be a call of `memset`, with a pointer to the stack.
            // SAFETY: a field of its own.
            unsafe { core::ptr::write_volatile(&raw mut self.source[i], 0) };
            i += 1;
        }
        self.source_port = 0;
    }

    /// # Safety
    /// `context` is the program's own.
    #[inline(always)]
    unsafe fn look_up(&mut self, context: *mut c_void, is_udp: bool, agent: u64) -> u32 {
        let tuple = core::ptr::from_mut(self).cast();
        // SAFETY: the caller's.
        unsafe { look_up(context, tuple, size_of::<Self>() as u32, is_udp, agent) }
    }
}

/// Who would get what comes from nowhere in particular.
///
/// # Safety
/// `context` is the program's own.
#[inline(always)]
unsafe fn who_waits<const N: usize>(
    context: *mut c_void,
    destination: [u32; N],
    destination_port: u16,
    is_udp: bool,
    agent: u64,
) -> u32 {
    let mut tuple = MaybeUninit::<Tuple<N>>::uninit();
    // SAFETY: the caller's; every field is written.
    unsafe {
        let tuple = tuple.assume_init_mut();
        tuple.destination = destination;
        tuple.destination_port = destination_port;
        tuple.forget_source();
        tuple.look_up(context, is_udp, agent)
    }
}

/// Judges the call that the hook before let pass.
#[inline(always)]
pub fn judge<const V6: bool>(call: *mut bpf_sock_addr, hook: Hook) -> i32 {
    // SAFETY: the program's own context; every pointer is checked for null.
    let (note, is_udp) = unsafe {
        let sk = (*call).__bindgen_anon_1.sk;
        if sk.is_null() {
            return PROCEED;
        }
        let note = SOCKETS.of(sk.cast::<c_void>(), false);
        if note.is_null() || (*note).caller == 0 {
            // The hook before has decided.
            return PROCEED;
        }
        (note, (*call).type_ == net::SOCK_DGRAM as u32)
    };
    // SAFETY: a map value.
    let socket = unsafe {
        let socket = *note;
        (*note).caller = 0;
        socket
    };
    let Some(agent) = subject::agent(socket.slot, socket.agent) else {
        // FAIL-CLOSED: the agent is gone, the socket is still its.
        count::failure(Site::StaleLabel);
        count::decision(hook, Verdict::Deny as u32);
        return REFUSE;
    };
    // SAFETY: aligned words that userspace changes atomically.
    let (state, profile_slot) = unsafe {
        (
            core::ptr::read_volatile(&raw const agent.state),
            core::ptr::read_volatile(&raw const agent.profile),
        )
    };
    if state == AGENT_RELEASED {
        return PROCEED;
    }
    let profile = subject::profile(profile_slot);
    let protocol = if is_udp {
        net::IPPROTO_UDP
    } else {
        net::IPPROTO_TCP
    };
    let mut packet = Packet {
        encoded: [0; ENCODED_BYTES],
        len_bytes: 0,
    };
    // SAFETY: the program's own context.
    let who = unsafe {
        let port = (*call).user_port as u16;
        let number = u16::from_be(port);
        let (context, agent) = (call.cast(), socket.agent);
        if V6 {
            let words = [
                (*call).user_ip6[0],
                (*call).user_ip6[1],
                (*call).user_ip6[2],
                (*call).user_ip6[3],
            ];
            let host = core::mem::transmute::<[u32; 4], [u8; 16]>(words);
            packet.len_bytes = address::encode_v6(&mut packet.encoded, protocol, &host, number);
            if address::is_mapped(&host) {
                let host = loopback_v4(words[3]);
                who_waits(context, [host], port, is_udp, agent)
            } else {
                // `::` means this host; what else comes here is `::1`.
                let host = [words[0], words[1], words[2], 1_u32.to_be()];
                who_waits(context, host, port, is_udp, agent)
            }
        } else {
            let host = (*call).user_ip4;
            let bytes = host.to_ne_bytes();
            packet.len_bytes = address::encode_v4(&mut packet.encoded, protocol, bytes, number);
            let host = loopback_v4(host);
            who_waits(context, [host], port, is_udp, agent)
        }
    };
    conclude(hook, &packet, &socket, profile, who)
}

/// The address that the kernel takes for 0.0.0.0 as a destination.
#[inline(always)]
fn loopback_v4(host: u32) -> u32 {
    if host == 0 {
        u32::from_ne_bytes([127, 0, 0, 1])
    } else {
        host
    }
}

#[inline(always)]
fn conclude(hook: Hook, packet: &Packet, socket: &Socket, profile: u32, who: u32) -> i32 {
    let is_connect =
        hook as u8 == Hook::CgroupConnect4 as u8 || hook as u8 == Hook::CgroupConnect6 as u8;
    let verb = Verb {
        hook,
        action: if is_connect {
            Action::NetConnect
        } else {
            Action::NetSend
        },
        kind: Kind::Connect,
        verbs: verb::bit(verb::ONLY),
    };
    let header = profile::header(&Arena, profile);
    let (Some(outcome), Some((install, _, log))) = (allowed(profile), header) else {
        // FAIL-CLOSED: the policy changed between two hooks of one call.
        let refusal = Decision::refuse(Reason::TablesBroken);
        return deny(verb, packet, socket, profile, refusal);
    };
    if who == peer::SOMEBODY_ELSE {
        let outcome = default_outcome(&Arena, profile, Kind::Connect as u32, verb::ONLY.into());
        let decision = match outcome {
            Some(outcome) if outcome.rank() > Verdict::Allow as u32 => Decision {
                outcome,
                verb: verb::ONLY,
                reason: Reason::Default,
            },
            // FAIL-CLOSED: as above.
            _ => Decision::refuse(Reason::TablesBroken),
        };
        return deny(verb, packet, socket, profile, decision);
    }
    count::decision(hook, Verdict::Allow as u32);
    let decision = Decision {
        outcome,
        verb: verb::ONLY,
        reason: Reason::Rule,
    };
    let mut header = record::header(verb, ObjectKind::Address, decision);
    header.install = install;
    if !outcome.is_quiet()
        && log != LogAllow::None as u32
        && !packet::send(header, packet, socket, socket.caller, false)
    {
        record::lost(hook, Verdict::Allow as u32);
    }
    PROCEED
}

#[inline(always)]
fn deny(verb: Verb, packet: &Packet, socket: &Socket, profile: u32, decision: Decision) -> i32 {
    if packet::deny(verb, packet, socket, profile, decision, socket.caller) {
        REFUSE
    } else {
        PROCEED
    }
}
