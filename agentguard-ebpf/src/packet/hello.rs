//! The name that TLS asks for. Where a rule says `sni = "require"`, what leaves first must be a ClientHello, in one piece,
//! which names a host that rules open at this port. What names none, hides it (Encrypted Client Hello) or is no TLS
//! doesn't leave.
//!
//! The automata read a name's last label first, so it is walked backwards: to the beginning of a label, and then over it.

use agentguard_common::{
    Verdict,
    automaton::{self, Cursor},
    decide::collect,
    label::{Hello, Socket},
    limits::AUTOMATA,
    profile::{self, Subject as Kind},
};
use aya_ebpf::{
    bindings::__sk_buff,
    cty::{c_long, c_void},
    helpers::generated::bpf_loop,
};

use super::{Packet, judge::Judge, load};
use crate::{engine::Arena, kernel};

/// Extensions of a ClientHello that are looked at; one more is a denial. Browsers send some twenty.
const EXTENSIONS: u32 = 48;
/// Longest name (RFC 1035), and steps over it: each byte once backwards and once forwards, and the dots.
const NAME_BYTES: u32 = 253;
const STEPS: u32 = 2 * NAME_BYTES + 2;
/// TLS (RFC 8446): content type, handshake type, extensions (RFC 6066 section 3, RFC 9849).
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// What is to be done with a packet of such a socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It carries nothing.
    Nothing,
    /// A ClientHello that names such a host.
    Right,
    Wrong,
}

struct Context {
    skb: *mut __sk_buff,
    hello: *mut Hello,
}

/// Looks at a packet whose socket must say a right name first.
///
/// # Safety
/// `note` is what is known of the packet's socket; TCP's lock keeps its packets one after the other.
#[inline(always)]
pub unsafe fn hear(skb: *mut __sk_buff, packet: &Packet, note: *mut Socket, profile: u32) -> Heard {
    let transport = if packet.len_bytes == 8 { 20 } else { 40 };
    let Some([offset]) = load::<1>(skb, transport + 12) else {
        return Heard::Wrong;
    };
    let start = transport + u32::from(offset >> 4) * 4;
    // SAFETY: the program's own context.
    let len_bytes = unsafe { (*skb).len };
    if start >= len_bytes {
        return Heard::Nothing;
    }
    // SAFETY: the caller's.
    if unsafe { find_name(skb, &raw mut (*note).hello, start, len_bytes) }.is_none() {
        return Heard::Wrong;
    }
    let Some(cursor) = profile::cursor(&Arena, profile, Kind::Name as u32) else {
        return Heard::Wrong;
    };
    // SAFETY: the caller's; the callback has the signature that bpf_loop calls.
    unsafe {
        let hello = &raw mut (*note).hello;
        (*hello).base = cursor.base;
        (*hello).state = cursor.state;
        (*hello).end = core::ptr::read_volatile(&raw const (*hello).label_end);
        (*hello).at = 0;
        step(hello, (*hello).class as u8);
        let mut context = Context { skb, hello };
        bpf_loop(STEPS, walk as *mut c_void, (&raw mut context).cast(), 0);
        // All of it was walked, up to its first label.
        let is_whole = core::ptr::read_volatile(&raw const (*hello).broken) == 0
            && core::ptr::read_volatile(&raw const (*hello).label_end) == 0;
        step(hello, 0);
        step(hello, kernel::apart(packet.encoded[0]));
        let (high, low) = if packet.len_bytes == 8 {
            (packet.encoded[6], packet.encoded[7])
        } else {
            (packet.encoded[18], packet.encoded[19])
        };
        step(hello, high);
        step(hello, low);
        if !is_whole || core::ptr::read_volatile(&raw const (*hello).broken) != 0 {
            return Heard::Wrong;
        }
        let mut judge = Judge::<{ Kind::Name as u32 }>::at(Cursor {
            base: (*hello).base,
            state: (*hello).state,
        });
        if collect(&mut judge).is_none() {
            return Heard::Wrong;
        }
        let rank = judge.ruled().rank();
        // What is asked about was asked when it connected.
        if rank == Verdict::Allow as u32 || rank == Verdict::Ask as u32 {
            Heard::Right
        } else {
            Heard::Wrong
        }
    }
}

/// Finds the name in a packet whose payload begins at `start`: it lies between `first` and `label_end`. False when there
/// is none that can be believed.
///
/// # Safety
/// `hello` is a map value.
#[inline(always)]
unsafe fn find_name(
    skb: *mut __sk_buff,
    hello: *mut Hello,
    start: u32,
    len_bytes: u32,
) -> Option<()> {
    let head = load::<6>(skb, start)?;
    if head[0] != HANDSHAKE || head[1] != 3 || head[5] != CLIENT_HELLO {
        return None;
    }
    // Of the record alone, and only when all of it is here.
    let record_end = start + 5 + (u32::from(head[3]) << 8 | u32::from(head[4]));
    if record_end > len_bytes {
        return None;
    }
    // Handshake header, version, random; then session, cipher suites, compressions.
    let mut at = start + 5 + 4 + 2 + 32;
    let [session] = load::<1>(skb, at)?;
    at += 1 + u32::from(session);
    let suites = number(skb, at)?;
    at += 2 + suites;
    let [compressions] = load::<1>(skb, at)?;
    at += 1 + u32::from(compressions);
    let extensions = number(skb, at)?;
    at += 2;
    let end = at + extensions;
    if end > record_end {
        return None;
    }
    // SAFETY: the caller's; the callback has the signature that bpf_loop calls.
    unsafe {
        (*hello).at = at;
        (*hello).end = end;
        (*hello).first = 0;
        (*hello).label_end = 0;
        (*hello).broken = 0;
        let mut context = Context { skb, hello };
        bpf_loop(
            EXTENSIONS,
            look as *mut c_void,
            (&raw mut context).cast(),
            0,
        );
        let read = |number: *const u32| core::ptr::read_volatile(number);
        let is_found = read(&raw const (*hello).broken) == 0
            && read(&raw const (*hello).at) == read(&raw const (*hello).end)
            && read(&raw const (*hello).first) != 0;
        is_found.then_some(())
    }
}

/// One extension of a ClientHello. VERIFIER: what changes is in the map value.
unsafe extern "C" fn look(_step: u32, context: *mut c_void) -> c_long {
    // SAFETY: `find_name` passes a Context with the program's own context and a map value.
    unsafe {
        let Context { skb, hello } = *context.cast::<Context>();
        let at = core::ptr::read_volatile(&raw const (*hello).at);
        if at >= core::ptr::read_volatile(&raw const (*hello).end) {
            return 1;
        }
        match extension(skb, hello, at) {
            Some(next) => {
                (*hello).at = next;
                0
            }
            None => {
                (*hello).broken = 1;
                1
            }
        }
    }
}

/// Looks at the extension at `at`; where the next one is. `None` when the message isn't to be believed.
///
/// # Safety
/// `hello` is a map value.
#[inline(always)]
unsafe fn extension(skb: *mut __sk_buff, hello: *mut Hello, at: u32) -> Option<u32> {
    let kind = number(skb, at)?;
    let len = number(skb, at + 2)?;
    if kind == u32::from(ENCRYPTED_CLIENT_HELLO) {
        return None;
    }
    if kind == u32::from(SERVER_NAME) {
        // One name, of a host.
        let list = number(skb, at + 4)?;
        let [name] = load::<1>(skb, at + 6)?;
        let name_bytes = number(skb, at + 7)?;
        let is_one = list == name_bytes + 3 && len == list + 2 && name == 0;
        // SAFETY: the caller's.
        unsafe {
            let is_second = core::ptr::read_volatile(&raw const (*hello).first) != 0;
            if is_second || !is_one || name_bytes == 0 || name_bytes > NAME_BYTES {
                return None;
            }
            (*hello).first = at + 9;
            (*hello).label_end = at + 9 + name_bytes;
        }
    }
    Some(at + 4 + len)
}

/// Two bytes in network order.
#[inline(always)]
fn number(skb: *mut __sk_buff, at: u32) -> Option<u32> {
    let [high, low] = load::<2>(skb, at)?;
    // VERIFIER: it would follow every length.
    Some(kernel::bounded::<0x8000>(
        u32::from(high) << 8 | u32::from(low),
    ))
}

/// One byte, backwards or forwards. VERIFIER: what changes is in the map value.
unsafe extern "C" fn walk(_step: u32, context: *mut c_void) -> c_long {
    // SAFETY: `hear` passes a Context with the program's own context and a map value.
    unsafe {
        let Context { skb, hello } = *context.cast::<Context>();
        let read = |number: *const u32| core::ptr::read_volatile(number);
        let (first, end, at, label_end) = (
            read(&raw const (*hello).first),
            read(&raw const (*hello).end),
            read(&raw const (*hello).at),
            read(&raw const (*hello).label_end),
        );
        if at == 0 {
            // Backwards, to the label's beginning.
            if end > first {
                let Some([byte]) = load::<1>(skb, end - 1) else {
                    (*hello).broken = 1;
                    return 1;
                };
                if byte != b'.' {
                    (*hello).end = end - 1;
                    return 0;
                }
            }
            if end == label_end {
                // FAIL-CLOSED: an empty label, or a dot at the end, which RFC 6066 forbids.
                (*hello).broken = 1;
                return 1;
            }
            (*hello).at = end;
            return 0;
        }
        if at < label_end {
            let Some([byte]) = load::<1>(skb, at) else {
                (*hello).broken = 1;
                return 1;
            };
            let byte = if byte.is_ascii_uppercase() {
                byte | 0x20
            } else {
                byte
            };
            if !byte.is_ascii_lowercase() && !byte.is_ascii_digit() && byte != b'-' && byte != b'_'
            {
                // FAIL-CLOSED: no host's name.
                (*hello).broken = 1;
                return 1;
            }
            step(hello, byte);
            (*hello).at = at + 1;
            return 0;
        }
        if end <= first {
            // That was the first label.
            (*hello).label_end = 0;
            return 1;
        }
        // The dot before the label.
        step(hello, b'/');
        (*hello).end = end - 1;
        (*hello).label_end = end - 1;
        (*hello).at = 0;
        0
    }
}

/// One step of every automaton.
///
/// # Safety
/// `hello` is a map value.
#[inline(always)]
unsafe fn step(hello: *mut Hello, byte: u8) {
    const { assert!(AUTOMATA == 4) };
    // SAFETY: the caller's.
    unsafe {
        step_one::<0>(hello, byte);
        step_one::<1>(hello, byte);
        step_one::<2>(hello, byte);
        step_one::<3>(hello, byte);
    }
}

/// # Safety
/// `hello` is a map value.
#[inline(always)]
unsafe fn step_one<const I: usize>(hello: *mut Hello, byte: u8) {
    // SAFETY: the caller's; a constant index.
    unsafe {
        let base = core::ptr::read_volatile(&raw const (*hello).base[I]);
        let state = core::ptr::read_volatile(&raw const (*hello).state[I]);
        if state & automaton::SINK != 0 {
            return;
        }
        match automaton::step(&Arena, base, state, byte) {
            Some(next) => (*hello).state[I] = next,
            // FAIL-CLOSED: the tables are broken.
            None => (*hello).broken = 1,
        }
    }
}
