//! Addresses that a name rule doesn't open unless it says `private = true`: a name that is looked up from outside must
//! not lead to what is inside (DNS rebinding), nor to what hands out a machine's credentials.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address as maps have it: IPv6, or IPv4-mapped.
pub fn long(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address that is meant.
pub fn short(address: &[u8; 16]) -> IpAddr {
    Ipv6Addr::from(*address).to_canonical()
}

/// Whether an address is on a private, link-local, shared or otherwise special network, or one of a cloud's own
/// services.
pub fn is_special(address: &[u8; 16]) -> bool {
    match short(address) {
        IpAddr::V4(v4) => is_special_v4(v4),
        IpAddr::V6(v6) => is_special_v6(v6),
    }
}

/// The IANA IPv4 Special-Purpose Address Registry (RFC 6890), without the networks for documentation, which are
/// nobody's; multicast (RFC 5771); and the address on which Azure's hosts serve their guests, which is in public space.
fn is_special_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_private()
        || address.is_loopback()
        // 169.254.169.254 hands out credentials on most clouds.
        || address.is_link_local()
        || address.is_multicast()
        || a == 0
        || a >= 240
        // Shared by carriers (RFC 6598), and metadata on Alibaba Cloud (100.100.100.200).
        || a == 100 && b & 0xc0 == 64
        // Protocol assignments (RFC 6890).
        || a == 192 && b == 0 && c == 0
        // Benchmarks (RFC 2544).
        || a == 198 && b & 0xfe == 18
        || address == Ipv4Addr::new(168, 63, 129, 16)
}

/// The IANA IPv6 Special-Purpose Address Registry, likewise. What carries an IPv4 address is judged by that.
fn is_special_v6(address: Ipv6Addr) -> bool {
    let words = address.segments();
    let inside = match words {
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => Some((high, low)),
        // NAT64 (RFC 6052, RFC 8215), IPv4-compatible (RFC 4291).
        [0x64, 0xff9b, 0 | 1, _, _, _, high, low] => Some((high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some((high, low)),
        _ => None,
    };
    if let Some((high, low)) = inside {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        return is_special_v4(Ipv4Addr::new(a, b, c, d));
    }
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        // Unique local (RFC 4193), with metadata on AWS (fd00:ec2::254), and link-local.
        || words[0] & 0xfe00 == 0xfc00
        || words[0] & 0xffc0 == 0xfe80
        // Site-local, deprecated (RFC 3879) and still routed by nobody outside.
        || words[0] & 0xffc0 == 0xfec0
        // Teredo (RFC 4380), whose servers choose; discard-only (RFC 6666).
        || words[0] == 0x2001 && words[1] == 0
        || words[..4] == [0x100, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inside_is_special_in_every_form() {
        for text in [
            "10.0.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.251",
            "255.255.255.255",
            "198.19.0.1",
            "192.0.0.8",
            "::1",
            "::",
            "fe80::1",
            "fec0::1",
            "fd00:ec2::254",
            "ff02::fb",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::169.254.169.254",
            "2002:a00:1::",
            "2001::1",
            "100::1",
        ] {
            let address = text.parse().expect("an address");
            assert!(is_special(&long(address)), "{text}");
        }
        for text in [
            "1.1.1.1",
            "203.0.113.7",
            "192.0.2.1",
            "172.32.0.1",
            "100.128.0.1",
            "198.20.0.1",
            "2001:db8::1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::",
        ] {
            let address = text.parse().expect("an address");
            assert!(!is_special(&long(address)), "{text}");
        }
    }

    #[test]
    fn an_address_is_the_same_in_either_form() {
        for text in ["10.0.0.1", "2001:db8::1"] {
            let address: IpAddr = text.parse().expect("an address");
            assert_eq!(short(&long(address)), address);
        }
    }
}
