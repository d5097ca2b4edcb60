//! How an internet address is written as the bytes that an automaton reads.
//!
//! `protocol (IPPROTO_*, 1 byte) | family (4 or 6) | address (4 or 16 bytes) | port (2 bytes)`, all in
//! network order, so that a CIDR is a prefix of the address's bytes. A vsock address is protocol 0, family
//! [`VSOCK`], and 4 bytes each of context id and port. [`OWN`] is an address as well. An IPv4-mapped IPv6 address
//! (`::ffff:0:0/96`, RFC 4291 §2.5.5.2) is written as the IPv4 address it is.

/// Longest encoded address, in bytes.
pub const ENCODED_BYTES: usize = 20;
/// Family byte of an IPv4 address.
pub const V4: u8 = 4;
/// Family byte of an IPv6 address.
pub const V6: u8 = 6;

/// Family byte of a vsock address (`AF_VSOCK`).
pub const VSOCK: u8 = 40;
/// Length of an encoded vsock address, in bytes.
pub const VSOCK_BYTES: usize = 10;

/// What stands for the sockets of the asking agent itself: protocol 0 and a family that there is none of.
pub const OWN: [u8; 2] = [0, 255];

/// Whether these 16 bytes are an IPv4-mapped address.
#[inline(always)]
pub fn is_mapped(address: &[u8; 16]) -> bool {
    // VERIFIER: no branch per byte, each of which it would follow to the end.
    let mut other = (address[10] ^ 0xff) | (address[11] ^ 0xff);
    let mut i = 0;
    while i < 10 {
        other |= address[i];
        i += 1;
    }
    other == 0
}

/// Whether two encoded addresses, in words, are the same. Not by `==`: what the compiler would make a call of it is given
/// addresses on the stack, through which verifiers before Linux 6.8 lose track of numbers (mainline 41f6f64e6999).
#[inline(always)]
pub const fn is_same(one: [u64; 3], other: [u64; 3]) -> bool {
    (one[0] ^ other[0]) | (one[1] ^ other[1]) | (one[2] ^ other[2]) == 0
}

/// Writes an IPv4 destination and returns its length (8).
#[inline(always)]
pub fn encode_v4(
    out: &mut [u8; ENCODED_BYTES],
    protocol: u8,
    address: [u8; 4],
    port: u16,
) -> usize {
    out[0] = protocol;
    out[1] = V4;
    let mut i = 0;
    while i < 4 {
        out[2 + i] = address[i];
        i += 1;
    }
    out[6] = (port >> 8) as u8;
    out[7] = port as u8;
    8
}

/// Writes an IPv6 destination and returns its length (20, or 8 for a mapped address).
#[inline(always)]
pub fn encode_v6(
    out: &mut [u8; ENCODED_BYTES],
    protocol: u8,
    address: &[u8; 16],
    port: u16,
) -> usize {
    if is_mapped(address) {
        return encode_v4(
            out,
            protocol,
            [address[12], address[13], address[14], address[15]],
            port,
        );
    }
    out[0] = protocol;
    out[1] = V6;
    let mut i = 0;
    while i < 16 {
        out[2 + i] = address[i];
        i += 1;
    }
    out[18] = (port >> 8) as u8;
    out[19] = port as u8;
    20
}

/// Writes a vsock destination and returns its length.
#[inline(always)]
pub fn encode_vsock(out: &mut [u8; ENCODED_BYTES], cid: u32, port: u32) -> usize {
    out[0] = 0;
    out[1] = VSOCK;
    let mut i = 0;
    while i < 4 {
        out[2 + i] = (cid >> (24 - 8 * i)) as u8;
        out[6 + i] = (port >> (24 - 8 * i)) as u8;
        i += 1;
    }
    VSOCK_BYTES
}
