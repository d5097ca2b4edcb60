//! Addresses and Unix sockets as objects of events.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agentguard_common::address::{V4, V6, VSOCK};
use serde::Serialize;

use super::text;
use crate::policy::Destination;

/// An internet address, or a vsock's: its context id in decimal, and its wider port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Object {
    pub address: String,
    pub port: u32,
    pub protocol: String,
    /// The name that the agent looked up last of those that were answered with the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A lookup of a name, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lookup {
    /// Absent, as the type is, when the question could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Type of the records that were asked for (RFC 1035 section 3.2.2 and others), such as `A`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// How it was answered (RFC 6895 section 2.3), such as `NOERROR`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// The addresses that the agent may use by this name, as far as rules allow.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Those on private and other special networks, which only a rule with `private = true` opens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub private: Vec<String>,
}

/// A Unix socket: one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unix {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(rename = "abstract", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<&'static str>,
}

impl Object {
    /// Reads what [`agentguard_common::address`] wrote; `None` when it isn't that.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (protocol, rest) = bytes.split_first()?;
        let (family, rest) = rest.split_first()?;
        let (address, rest) = match *family {
            V4 => {
                let (address, rest) = rest.split_first_chunk::<4>()?;
                (Ipv4Addr::from(*address).to_string(), rest)
            }
            V6 => {
                let (address, rest) = rest.split_first_chunk::<16>()?;
                (Ipv6Addr::from(*address).to_string(), rest)
            }
            VSOCK => {
                let (cid, port) = rest.split_first_chunk::<4>()?;
                return Some(Self {
                    address: u32::from_be_bytes(*cid).to_string(),
                    port: u32::from_be_bytes(port.try_into().ok()?),
                    protocol: "vsock".to_owned(),
                    name: None,
                });
            }
            _ => return None,
        };
        let port: [u8; 2] = rest.try_into().ok()?;
        Some(Self {
            address,
            port: u16::from_be_bytes(port).into(),
            protocol: protocol_name(*protocol),
            name: None,
        })
    }
}

/// Reads what [`agentguard_common::address`] wrote into words; `None` when it is no internet address.
pub fn destination(words: [u64; 3]) -> Option<Destination> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let (address, port) = match *bytes.get(1)? {
        V4 => {
            let host: [u8; 4] = bytes.get(2..6)?.try_into().ok()?;
            (IpAddr::from(host), bytes.get(6..8)?)
        }
        V6 => {
            let host: [u8; 16] = bytes.get(2..18)?.try_into().ok()?;
            (IpAddr::from(host), bytes.get(18..20)?)
        }
        _ => return None,
    };
    Some(Destination::Inet {
        protocol: *bytes.first()?,
        address,
        port: u16::from_be_bytes(port.try_into().ok()?),
    })
}

impl Unix {
    /// Reads `/path`, or `@` and an abstract name.
    pub fn decode(bytes: &[u8]) -> Self {
        let (name, is_abstract) = match bytes.split_first() {
            Some((b'@', name)) => (name, true),
            _ => (bytes, false),
        };
        let (name, escaped) = text::decode(name);
        let (path, name) = if is_abstract {
            (None, Some(name))
        } else {
            (Some(name), None)
        };
        Self {
            path,
            name,
            encoding: escaped.then_some(text::ESCAPED),
        }
    }
}

/// The name of a protocol as policies write it; its number when they can't.
fn protocol_name(number: u8) -> String {
    match i32::from(number) {
        libc::IPPROTO_TCP => "tcp".to_owned(),
        libc::IPPROTO_UDP => "udp".to_owned(),
        libc::IPPROTO_SCTP => "sctp".to_owned(),
        libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6 => "icmp".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use agentguard_common::address::{ENCODED_BYTES, encode_v4, encode_v6, encode_vsock};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_read_as_they_were_written() {
        let mut bytes = [0; ENCODED_BYTES];
        let len = encode_v4(&mut bytes, 6, [10, 0, 0, 7], 443);
        assert_eq!(
            Object::decode(&bytes[..len]),
            Some(Object {
                address: "10.0.0.7".to_owned(),
                port: 443,
                protocol: "tcp".to_owned(),
                name: None,
            })
        );
        let address = Ipv6Addr::LOCALHOST.octets();
        let len = encode_v6(&mut bytes, 17, &address, 53);
        assert_eq!(
            Object::decode(&bytes[..len]),
            Some(Object {
                address: "::1".to_owned(),
                port: 53,
                protocol: "udp".to_owned(),
                name: None,
            })
        );
        let len = encode_vsock(&mut bytes, 2, 70_000);
        assert_eq!(
            Object::decode(&bytes[..len]),
            Some(Object {
                address: "2".to_owned(),
                port: 70_000,
                protocol: "vsock".to_owned(),
                name: None,
            })
        );
    }

    #[test]
    fn unix_sockets_are_paths_or_names() {
        let object = serde_json::to_string(&Unix::decode(b"/run/x")).expect("written");
        assert_eq!(object, r#"{"path":"/run/x"}"#);
        let object = serde_json::to_string(&Unix::decode(b"@a\0b")).expect("written");
        assert_eq!(object, "{\"abstract\":\"a\\u0000b\"}");
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..32)) {
            let _ = Object::decode(&bytes);
            let _ = Unix::decode(&bytes);
        }
    }
}
