//! How a host's name, with a protocol and a port, is written as the bytes that an automaton reads.
//!
//! `class (1 byte) | labels, the last one first, with "/" between them | NUL | protocol (IPPROTO_*, 1 byte) | port (2
//! bytes, network order)`: `\x01com/github/api\0\x06\x01\xbb`. The last label comes first so that `*.github.com` is a
//! prefix, and "/" is between labels because wildcards of patterns stop at it. Labels are lower-case LDH labels and
//! underscores (RFC 5890 section 2.3.1, RFC 8552): internationalised names are in their ASCII form, and a name with
//! any other byte is nobody's.
//!
//! Up to the NUL, and no further, it is the question whether the name may be looked up: whether anything is allowed
//! there, whatever the protocol and the port.

/// Class of names of which any address counts that isn't [`PRIVATE`].
pub const PUBLIC: u8 = 1;
/// Class of names whose address is on a private, link-local or otherwise special network, which only rules with
/// `private = true` open.
pub const PRIVATE: u8 = 2;

/// Longest name in text, without the dot at its end (RFC 1035 section 2.3.4, RFC 1123 section 2.1).
pub const NAME_BYTES: usize = 253;

/// What comes after the name's NUL: a protocol and a port.
pub const SERVICE_BYTES: usize = 3;

/// Names by which one address is known to an agent and judged, as far as rules tell them apart.
pub const NAMES: usize = crate::limits::ALIASES;

/// The protocol and the port of an object, as they come after a name's NUL.
#[inline(always)]
pub const fn service(protocol: u8, port: u16) -> [u8; SERVICE_BYTES] {
    [protocol, (port >> 8) as u8, port as u8]
}

/// The port on which names are looked up, over UDP and TCP (RFC 1035 section 4.2).
pub const DNS_PORT: u16 = 53;

/// Key of the `NAME_GRANTS` map: an address that the resolver answered to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct NameKey {
    pub agent: u64,
    /// IPv6, or IPv4-mapped: 16 bytes in network order, in words as they lie in memory.
    pub address: [u64; 2],
    /// Installation of the profile that the states belong to.
    pub install: u32,
    pub padding: u32,
}

/// Value of the `NAME_GRANTS` map: the names by which the agent knows the address.
///
/// Elements of such a map can be freed and used again while a program reads one. `serial` comes first and last, is
/// another with every write, and the key is in here, so that a reader who copies can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct NameGrant {
    pub serial: u64,
    pub key: NameKey,
    /// The one that lasts longest comes first.
    pub names: [NamedState; NAMES],
    /// How many of `names` there are.
    pub count: u32,
    /// Class of the names: [`PUBLIC`] or [`PRIVATE`].
    pub class: u32,
    pub serial_again: u64,
}

/// Where the automata stand after one name, or several that they don't tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct NamedState {
    pub states: [u32; crate::limits::AUTOMATA],
    /// End of the answer's lifetime on the boot clock, in nanoseconds. No connection is begun after it.
    pub expires_ns: u64,
}

/// Key of the `DESTINATIONS` map: where an agent was let go because of a name. Packets there, and datagrams from there,
/// need no other look at names; the value is when that was, on the boot clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct DestinationKey {
    pub agent: u64,
    /// As [`crate::address`] writes it, zero-padded.
    pub address: [u64; 3],
    /// Installation of the profile that let it go there. The daemon judges anew what is here before it switches to
    /// another one.
    pub install: u32,
    pub padding: u32,
}

/// Value of the `RESOLVERS` map, by the cookie of a network namespace: where the daemon's resolver listens in it, on
/// 127.0.0.1 and `::1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Resolver {
    /// Number of the pair, never used again.
    pub listener: u32,
    /// In network order; 0 where there is none. The same for UDP and TCP.
    pub port_v4: u16,
    pub port_v6: u16,
}

/// Key of the `QUESTIONS` map: who sent something to the resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct QuestionKey {
    pub listener: u32,
    /// Source port, in host order.
    pub port: u16,
    /// IPPROTO_UDP or IPPROTO_TCP.
    pub protocol: u8,
    /// [`V4`](crate::address::V4) or [`V6`](crate::address::V6).
    pub family: u8,
}

/// Value of the `QUESTIONS` map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct QuestionFrom {
    pub agent: u64,
    /// When the packet left, on the boot clock.
    pub boot_ns: u64,
    pub asker: Asker,
}

/// How long after a packet has left an agent its question counts, in nanoseconds. It is on loopback.
pub const QUESTION_NS: u64 = 5_000_000_000;

/// Who asks: a [`Process`](crate::event::Process) up to its program, in words.
pub type Asker = [u64; core::mem::offset_of!(crate::event::Process, exe) / 8];

const _: () = {
    assert!(size_of::<NameKey>() == 32);
    assert!(size_of::<NamedState>() == 24);
    assert!(size_of::<NameGrant>() == 56 + 24 * NAMES);
    assert!(size_of::<DestinationKey>() == 40);
    assert!(size_of::<Resolver>() == 8);
    assert!(size_of::<QuestionKey>() == 8);
    assert!(size_of::<QuestionFrom>() == 72);
    assert!(core::mem::offset_of!(crate::event::Process, exe).is_multiple_of(8));
};
