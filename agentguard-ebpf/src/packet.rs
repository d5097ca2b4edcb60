//! The second lock on the network: packets that leave a tagged cgroup.
//!
//! The LSM hooks judge the address that a call names. Where a packet really goes can differ: IPv6
//! routing headers and IPv4 source routes name another first hop. So the packet's own destination is
//! judged again, by the same rules, and packets with such headers don't leave at all.

use core::mem::MaybeUninit;

use agentguard_common::{
    Decision, Engine, Outcome, Question, Verdict,
    address::{self, ENCODED_BYTES},
    automaton::{self, Cursor, SINK, Tables},
    counter::{Hook, Site, WOULD_DENY},
    decide,
    decide::{Alias, Text, look},
    event::{Action, FLAG_AUDIT, ObjectKind, Process, Reason, Record, SHORT_OBJECT},
    label::{AGENT_RELEASED, SOCKET_LISTENS, Socket},
    limits::AUTOMATA,
    profile::{self, Mode, Subject as Kind, verb},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::__sk_buff,
    cty::c_void,
    helpers::generated::{
        bpf_ktime_get_boot_ns, bpf_ringbuf_submit, bpf_sk_fullsock, bpf_skb_load_bytes,
    },
    macros::cgroup_skb,
    programs::SkBuffContext,
};

use crate::{
    count,
    engine::Arena,
    kernel::{self, net},
    maps::SOCKETS,
    record::{self, Verb},
    subject,
};

const PASS: i32 = 1;
const DROP: i32 = 0;

/// A packet's destination, as far as it could be read.
struct Packet {
    encoded: [u8; ENCODED_BYTES],
    len_bytes: usize,
}

/// `cgroup_skb/egress` on a tagged cgroup.
#[cgroup_skb(egress)]
pub fn cgroup_egress(ctx: SkBuffContext) -> i32 {
    let skb: *mut __sk_buff = ctx.as_ptr().cast();
    let Some(socket) = owner(skb) else {
        // FAIL-CLOSED: a socket of the tagged cgroup that no task of the agent made, or made before
        // the cgroup was tagged.
        count::failure(Site::PacketRead);
        count::decision(Hook::CgroupEgress, Verdict::Deny as u32);
        return DROP;
    };
    let Some(agent) = subject::agent(socket.slot, socket.agent) else {
        // FAIL-CLOSED: the agent is gone, the socket is still its.
        count::failure(Site::StaleLabel);
        count::decision(Hook::CgroupEgress, Verdict::Deny as u32);
        return DROP;
    };
    // SAFETY: aligned words that userspace changes atomically.
    let (state, profile_slot) = unsafe {
        (
            core::ptr::read_volatile(&raw const agent.state),
            core::ptr::read_volatile(&raw const agent.profile),
        )
    };
    if state == AGENT_RELEASED {
        return PASS;
    }
    let profile = subject::profile(profile_slot);
    let mut packet = Packet {
        encoded: [0; ENCODED_BYTES],
        len_bytes: 0,
    };
    let decision = match read(skb, &mut packet) {
        Err(reason) => Decision::refuse(reason),
        // What answers a peer that the agent was allowed to listen to.
        Ok(()) if socket.flags & SOCKET_LISTENS != 0 => return PASS,
        // FAIL-CLOSED: where the descriptor should be is something else.
        Ok(()) if profile == 0 || profile::header(&Arena, profile).is_none() => {
            Decision::refuse(Reason::TablesBroken)
        }
        Ok(()) => decide(
            &mut Judge::new(&packet),
            profile,
            Question {
                subject: Kind::Connect,
                verbs: verb::bit(verb::ONLY),
                text: Text::Attached,
            },
        ),
    };
    if decision.outcome.rank() == Verdict::Allow as u32 {
        // Not reported: the call that sent it was.
        count::decision(Hook::CgroupEgress, Verdict::Allow as u32);
        return PASS;
    }
    drop_packet(&packet, &socket, profile, decision)
}

/// Who made the socket that the packet leaves from.
#[inline(always)]
fn owner(skb: *mut __sk_buff) -> Option<Socket> {
    // SAFETY: the program's own context; every pointer is checked for null.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        let full = bpf_sk_fullsock(sk);
        if full.is_null() {
            return None;
        }
        let socket = SOCKETS.of(full.cast::<c_void>(), false);
        (!socket.is_null()).then(|| *socket)
    }
}

/// Copies bytes out of the packet, from its network header on.
#[inline(always)]
fn load<const N: usize>(skb: *mut __sk_buff, offset: u32) -> Option<[u8; N]> {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: the helper checks the offset and writes N bytes or fails.
    let result =
        unsafe { bpf_skb_load_bytes(skb.cast(), offset, bytes.as_mut_ptr().cast(), N as u32) };
    // SAFETY: written on success.
    (result == 0).then(|| unsafe { bytes.assume_init() })
}

/// The packet's own destination.
#[inline(always)]
fn read(skb: *mut __sk_buff, packet: &mut Packet) -> Result<(), Reason> {
    let [first] = load::<1>(skb, 0).ok_or(Reason::PacketUnreadable)?;
    match first >> 4 {
        4 => {
            let header = load::<20>(skb, 0).ok_or(Reason::PacketUnreadable)?;
            if header[0] & 0xf != 5 {
                return Err(Reason::SourceRouted);
            }
            let later_fragment = (header[6] & 0x1f) | header[7] != 0;
            let port = port(skb, 20, header[9], later_fragment)?;
            packet.len_bytes = address::encode_v4(
                &mut packet.encoded,
                header[9],
                [header[16], header[17], header[18], header[19]],
                port,
            );
            Ok(())
        }
        6 => {
            let [next] = load::<1>(skb, 6).ok_or(Reason::PacketUnreadable)?;
            let host = load::<16>(skb, 24).ok_or(Reason::PacketUnreadable)?;
            // Hop-by-hop options, routing, destination options (RFC 8200 section 4).
            if next == 0 || next == 43 || next == 60 {
                return Err(Reason::SourceRouted);
            }
            let port = port(skb, 40, next, next == 44)?;
            let protocol = if kernel::apart(next) == net::IPPROTO_ICMPV6 {
                net::IPPROTO_ICMP
            } else {
                next
            };
            packet.len_bytes = address::encode_v6(&mut packet.encoded, protocol, &host, port);
            Ok(())
        }
        _ => Err(Reason::PacketUnreadable),
    }
}

/// The destination port, 0 for protocols without one.
#[inline(always)]
fn port(skb: *mut __sk_buff, transport: u32, protocol: u8, fragment: bool) -> Result<u16, Reason> {
    let protocol = kernel::apart(protocol);
    // UDP-Lite 136, SCTP 132 and DCCP 33 keep their ports where TCP and UDP do.
    let has_ports = protocol == net::IPPROTO_TCP
        || protocol == net::IPPROTO_UDP
        || protocol == 136
        || protocol == 132
        || protocol == 33;
    if !has_ports {
        return Ok(0);
    }
    if fragment {
        // FAIL-CLOSED: its port is in another packet. Sockets don't send such; raw ones might.
        return Err(Reason::PacketUnreadable);
    }
    let [high, low] = load::<2>(skb, transport + 2).ok_or(Reason::PacketUnreadable)?;
    Ok(u16::from(high) << 8 | u16::from(low))
}

/// Counts and reports a packet that is not allowed, and drops it unless the profile only audits.
#[inline(always)]
fn drop_packet(packet: &Packet, socket: &Socket, profile: u32, mut decision: Decision) -> i32 {
    let (install, mode, _) =
        profile::header(&Arena, profile).unwrap_or((0, Mode::Enforce as u32, 0));
    if decision.outcome.rank() == Verdict::Ask as u32 {
        // FAIL-CLOSED: a packet can't wait for a person.
        decision.reason = Reason::AskUnavailable;
    }
    let audit = mode == Mode::Audit as u32;
    let rank = decision.outcome.rank();
    count::decision(Hook::CgroupEgress, if audit { WOULD_DENY } else { rank });
    let verb = Verb {
        hook: Hook::CgroupEgress,
        action: Action::NetSend,
        kind: Kind::Connect,
        verbs: verb::bit(verb::ONLY),
    };
    let mut header = record::header(verb, ObjectKind::Address, decision);
    header.agent = socket.agent;
    header.slot = socket.slot;
    header.install = install;
    header.len_bytes = size_of::<Record<SHORT_OBJECT>>() as u32;
    header.object_bytes = packet.len_bytes as u32;
    // SAFETY: no preconditions.
    header.boot_ns = unsafe { bpf_ktime_get_boot_ns() };
    if audit {
        header.flags |= FLAG_AUDIT;
    }
    match record::reserve::<SHORT_OBJECT>(true) {
        Some(record) => {
            // SAFETY: the reserved record. No task is named: packets leave in anybody's context.
            unsafe {
                core::ptr::write(&raw mut (*record).header, header);
                let object = (&raw mut (*record).object).cast::<u8>();
                let mut i = 0;
                while i < ENCODED_BYTES {
                    *object.add(i) = packet.encoded[i];
                    i += 1;
                }
                clear(&raw mut (*record).process);
                bpf_ringbuf_submit(record.cast(), 0);
            }
        }
        None => record::lost(Hook::CgroupEgress, rank),
    }
    if audit {
        // FAIL-OPEN: audit mode says what it would have done, and does nothing.
        return PASS;
    }
    DROP
}

/// Zeroes a record's process.
///
/// # Safety
/// `process` lies in a reserved record.
#[inline(always)]
unsafe fn clear(process: *mut Process) {
    let words = process.cast::<u64>();
    let mut i = 0;
    while i < size_of::<Process>() / 8 {
        // SAFETY: the caller's.
        unsafe { core::ptr::write_volatile(words.add(i), 0) };
        i += 1;
    }
}

/// The decision's engine on one packet: there is no task, so everything is in registers and on the stack.
struct Judge {
    /// The encoded destination, first byte lowest.
    object: [u64; 3],
    len_bytes: usize,
    profile: u32,
    cursor: Cursor,
    outcome: Outcome,
    decision: Decision,
}

impl Judge {
    #[inline(always)]
    fn new(packet: &Packet) -> Self {
        let mut object = [0; 3];
        let mut word = 0;
        while word < object.len() {
            let mut byte = 0;
            while byte < 8 && word * 8 + byte < ENCODED_BYTES {
                object[word] |= u64::from(packet.encoded[word * 8 + byte]) << (8 * byte);
                byte += 1;
            }
            word += 1;
        }
        Self {
            object,
            len_bytes: packet.len_bytes,
            profile: 0,
            cursor: Cursor::EMPTY,
            outcome: Outcome::NONE,
            decision: Decision::refuse(Reason::TablesBroken),
        }
    }

    /// Feeds the object to automaton number `I`: at most 20 steps of a plain loop.
    #[inline(always)]
    fn walk<const I: usize>(&mut self) -> Option<()> {
        let base = self.cursor.base[I];
        let mut state = self.cursor.state[I];
        let [mut word, second, third] = self.object;
        let mut i = 0;
        while i < self.len_bytes && state & SINK == 0 {
            state = automaton::step(&Arena, base, state, word as u8)?;
            word >>= 8;
            i += 1;
            if i == 8 {
                word = second;
            }
            if i == 16 {
                word = third;
            }
        }
        self.cursor.state[I] = state;
        Some(())
    }
}

impl Tables for Judge {
    #[inline(always)]
    fn cell(&self, index: u32) -> Option<u64> {
        Arena.cell(index)
    }
}

impl Engine for Judge {
    #[inline(always)]
    fn ask(&mut self, profile: u32, _question: Question) {
        self.profile = profile;
    }

    #[inline(always)]
    fn profile(&self) -> u32 {
        self.profile
    }

    #[inline(always)]
    fn subject(&self) -> u32 {
        Kind::Connect as u32
    }

    #[inline(always)]
    fn text(&self) -> u32 {
        Text::Attached as u32
    }

    #[inline(always)]
    fn asks(&self, verb: u32) -> bool {
        verb == 0
    }

    #[inline(always)]
    fn decision(&self) -> Decision {
        self.decision
    }

    #[inline(always)]
    fn set_decision(&mut self, decision: Decision) {
        self.decision = decision;
    }

    #[inline(always)]
    fn look_at_all(&mut self, _last: u32) -> Option<()> {
        look(self, 0)
    }

    #[inline(always)]
    fn outcome(&self, verb: u32) -> Outcome {
        if verb == 0 {
            self.outcome
        } else {
            Outcome::NONE
        }
    }

    #[inline(always)]
    fn set_outcome(&mut self, verb: u32, outcome: Outcome) {
        if verb == 0 {
            self.outcome = outcome;
        }
    }

    #[inline(always)]
    fn cursor(&mut self) -> &mut Cursor {
        &mut self.cursor
    }

    #[inline(always)]
    fn feed(&mut self, _from: u32) -> Option<()> {
        const { assert!(AUTOMATA == 4) };
        self.walk::<0>()?;
        self.walk::<1>()?;
        self.walk::<2>()?;
        self.walk::<3>()
    }

    #[inline(always)]
    fn start(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn aliases(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn alias(&self, _number: u32) -> Option<Alias> {
        None
    }
}
