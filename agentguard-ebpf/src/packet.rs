//! The second lock on the network: packets that leave a tagged cgroup (`egress`), and datagrams that reach one
//! of its sockets (`ingress`). Here is what both need: whose a packet is, the addresses in it, and the report.

use core::mem::MaybeUninit;

use agentguard_common::{
    Decision, Verdict,
    address::{self, ENCODED_BYTES},
    counter::{Hook, Site, WOULD_DENY},
    event::{FLAG_AUDIT, ObjectKind, Process, Reason, Record, RecordHeader, SHORT_OBJECT},
    label::{AGENT_RELEASED, Socket, TaskState},
    profile::{self, Mode},
};
use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    cty::c_void,
    helpers::generated::{
        bpf_ktime_get_boot_ns, bpf_ringbuf_submit, bpf_sk_fullsock, bpf_skb_load_bytes,
    },
};

use crate::{
    count,
    engine::Arena,
    kernel::{self, net},
    maps::SOCKETS,
    record::{self, Verb},
    subject,
};

mod egress;
mod hello;
mod ingress;
mod judge;

// What the programs return.
const PASS: i32 = 1;
const DROP: i32 = 0;

/// An end of a packet, as far as it could be read.
pub struct Packet {
    pub encoded: [u8; ENCODED_BYTES],
    pub len_bytes: usize,
}

impl Packet {
    pub const UNREAD: Self = Self {
        encoded: [0; ENCODED_BYTES],
        len_bytes: 0,
    };
}

impl Packet {
    /// The encoded address in words, first byte lowest.
    #[inline(always)]
    pub fn words(&self) -> [u64; 3] {
        let mut words = [0; 3];
        let mut word = 0;
        while word < words.len() {
            let mut byte = 0;
            while byte < 8 && word * 8 + byte < ENCODED_BYTES {
                words[word] |= u64::from(self.encoded[word * 8 + byte]) << (8 * byte);
                byte += 1;
            }
            word += 1;
        }
        words
    }
}

/// Which end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

/// The socket that a packet leaves from or has reached.
#[inline(always)]
pub fn socket_of(skb: *mut __sk_buff) -> Option<*mut bpf_sock> {
    // SAFETY: the program's own context; every pointer is checked for null.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        let full = bpf_sk_fullsock(sk);
        (!full.is_null()).then_some(full)
    }
}

/// Who made a socket, and the arena cell of the descriptor that it is judged by. `Err` is the verdict on a socket
/// that isn't judged.
///
/// # Safety
/// `sk` comes from [`socket_of`], if it isn't null.
#[inline(always)]
unsafe fn owner(hook: Hook, sk: Option<*mut bpf_sock>) -> Result<(&'static Socket, u32), i32> {
    // SAFETY: the caller's; a map value or null, which lives as long as the program's run.
    let socket: Option<&'static Socket> =
        sk.and_then(|sk| unsafe { SOCKETS.of(sk.cast::<c_void>(), false).cast_const().as_ref() });
    let Some(socket) = socket else {
        // FAIL-CLOSED: a socket of the tagged cgroup that no task of the agent made, or made before
        // the cgroup was tagged.
        count::failure(Site::PacketRead);
        count::decision(hook, Verdict::Deny as u32);
        return Err(DROP);
    };
    let Some(agent) = subject::agent(socket.slot, socket.agent) else {
        // FAIL-CLOSED: the agent is gone, the socket is still its.
        count::failure(Site::StaleLabel);
        count::decision(hook, Verdict::Deny as u32);
        return Err(DROP);
    };
    // SAFETY: aligned words that userspace changes atomically.
    let (state, profile_slot) = unsafe {
        (
            core::ptr::read_volatile(&raw const agent.state),
            core::ptr::read_volatile(&raw const agent.profile),
        )
    };
    if state == AGENT_RELEASED {
        return Err(PASS);
    }
    Ok((socket, subject::profile(profile_slot)))
}

/// Copies bytes out of the packet, from its network header on.
#[inline(always)]
pub fn load<const N: usize>(skb: *mut __sk_buff, offset: u32) -> Option<[u8; N]> {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: that many bytes, initialized on success.
    unsafe {
        load_to(skb, offset, bytes.as_mut_ptr().cast(), N as u32).then(|| bytes.assume_init())
    }
}

/// The same, to `to`. False when there are not so many.
///
/// # Safety
/// `to` has room for `len_bytes` bytes.
#[inline(always)]
pub unsafe fn load_to(skb: *mut __sk_buff, offset: u32, to: *mut u8, len_bytes: u32) -> bool {
    // SAFETY: the caller's; the helper checks the offset.
    unsafe { bpf_skb_load_bytes(skb.cast(), offset, to.cast(), len_bytes) == 0 }
}

/// One end of the packet, as the packet itself has it.
#[inline(always)]
fn read(skb: *mut __sk_buff, end: End, packet: &mut Packet) -> Result<(), Reason> {
    let [first] = load::<1>(skb, 0).ok_or(Reason::PacketUnreadable)?;
    match first >> 4 {
        4 => {
            let header = load::<20>(skb, 0).ok_or(Reason::PacketUnreadable)?;
            if header[0] & 0xf != 5 {
                return Err(Reason::SourceRouted);
            }
            let later_fragment = (header[6] & 0x1f) | header[7] != 0;
            let port = port(skb, 20, end, header[9], later_fragment)?;
            let host = match end {
                End::Source => [header[12], header[13], header[14], header[15]],
                End::Destination => [header[16], header[17], header[18], header[19]],
            };
            packet.len_bytes = address::encode_v4(&mut packet.encoded, header[9], host, port);
            Ok(())
        }
        6 => {
            let [next] = load::<1>(skb, 6).ok_or(Reason::PacketUnreadable)?;
            let host = match end {
                End::Source => 8,
                End::Destination => 24,
            };
            let host = load::<16>(skb, host).ok_or(Reason::PacketUnreadable)?;
            let kind = kernel::apart(next);
            // Hop-by-hop options, routing, destination options (RFC 8200 section 4).
            if kind == 0 || kind == 43 || kind == 60 {
                return Err(Reason::SourceRouted);
            }
            if kind == 44 {
                // FAIL-CLOSED: a fragment, also one that is the whole packet; its port is behind another header.
                return Err(Reason::PacketUnreadable);
            }
            let port = port(skb, 40, end, next, false)?;
            packet.len_bytes = address::encode_v6(&mut packet.encoded, next, &host, port);
            Ok(())
        }
        _ => Err(Reason::PacketUnreadable),
    }
}

/// The port at one end, 0 for protocols without one.
#[inline(always)]
fn port(
    skb: *mut __sk_buff,
    transport: u32,
    end: End,
    protocol: u8,
    fragment: bool,
) -> Result<u16, Reason> {
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
    let port = match end {
        End::Source => transport,
        End::Destination => transport + 2,
    };
    let [high, low] = load::<2>(skb, port).ok_or(Reason::PacketUnreadable)?;
    Ok(u16::from(high) << 8 | u16::from(low))
}

/// Counts and reports what is not allowed. False when the profile only audits.
#[inline(always)]
pub fn deny(
    verb: Verb,
    packet: &Packet,
    socket: &Socket,
    profile: u32,
    mut decision: Decision,
    caller: u64,
) -> bool {
    let (install, mode, _) =
        profile::header(&Arena, profile).unwrap_or((0, Mode::Enforce as u32, 0));
    if decision.outcome.rank() == Verdict::Ask as u32 {
        // FAIL-CLOSED: a packet can't wait for an answer.
        decision.reason = Reason::CantHold;
    }
    let audit = mode == Mode::Audit as u32;
    let rank = decision.outcome.rank();
    count::decision(verb.hook, if audit { WOULD_DENY } else { rank });
    let mut header = record::header(verb, ObjectKind::Address, decision);
    header.install = install;
    if audit {
        header.flags |= FLAG_AUDIT;
    }
    // What comes in is somebody else's doing, and must not push the agent's own denials out of their ring.
    let urgent = verb.hook as u8 != Hook::CgroupIngress as u8;
    if !send(header, packet, socket, caller, urgent) {
        record::lost(verb.hook, rank);
    }
    // FAIL-OPEN: audit mode says what it would have done, and does nothing.
    !audit
}

/// Sends a record without a task's workspace. `caller` is the kernel address of the state of the task that is to be
/// named, or 0. False when there was no room.
#[inline(always)]
pub fn send(
    mut header: RecordHeader,
    packet: &Packet,
    socket: &Socket,
    caller: u64,
    urgent: bool,
) -> bool {
    header.agent = socket.agent;
    header.slot = socket.slot;
    header.len_bytes = size_of::<Record<SHORT_OBJECT>>() as u32;
    header.object_bytes = packet.len_bytes as u32;
    // SAFETY: no preconditions.
    header.boot_ns = unsafe { bpf_ktime_get_boot_ns() };
    let Some(record) = record::reserve::<SHORT_OBJECT>(urgent) else {
        return false;
    };
    // SAFETY: the reserved record.
    unsafe {
        core::ptr::write(&raw mut (*record).header, header);
        let object = (&raw mut (*record).object).cast::<u8>();
        let mut i = 0;
        while i < ENCODED_BYTES {
            *object.add(i) = packet.encoded[i];
            i += 1;
        }
        let process = &raw mut (*record).process;
        let known = caller.wrapping_add(core::mem::offset_of!(TaskState, process) as u64);
        if caller == 0
            || !kernel::copy(
                process.cast(),
                size_of::<Process>() as u32,
                known as *const u8,
            )
        {
            clear(process);
        }
        bpf_ringbuf_submit(record.cast(), 0);
    }
    true
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
