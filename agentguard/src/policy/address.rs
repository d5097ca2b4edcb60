//! Addresses: as patterns in a rule, and as the one destination that a question names. Both end up as
//! the bytes that `agentguard_common::address` lays down. Unix sockets are recognised here, and their
//! paths handed to `pattern`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::{Range, RangeInclusive},
};

use agentguard_common::{
    address::{self, ENCODED_BYTES, V4, V6, VSOCK},
    name::PUBLIC,
    profile::{Subject, named},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    host::{HostName, HostPattern, Use},
    model::{Rule, RulePattern},
    pattern::{self, PatternError, Space},
    profile::List,
    tokens::{ByteSet, Pattern, Token},
};

/// Protocol numbers (IPPROTO_*, include/uapi/linux/in.h) by scheme.
const SCHEMES: [(&str, u8); 4] = [("tcp", TCP), ("udp", UDP), ("sctp", SCTP), ("icmp", ICMP)];
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const ICMP: u8 = 1;
const SCTP: u8 = 132;
/// What `icmp://` is over IPv6 (IPPROTO_ICMPV6).
const ICMP_V6: u8 = 58;

/// The pattern for the asking agent's own sockets.
pub(super) const OWN: &str = "self";

/// IPv4 addresses inside of IPv6 (`::ffff:0:0/96`).
const MAPPED: Ipv6Net = match Ipv6Net::new(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96) {
    Ok(net) => net,
    Err(_) => panic!("96 is a prefix length"),
};

/// An address pattern, the subject it belongs to, and what its author should know.
#[derive(Debug)]
pub(super) struct AddressPattern {
    pub subject: Subject,
    pub pattern: Pattern,
    /// The host that it names.
    pub host: Option<HostPattern>,
    pub warning: Option<PatternError>,
}

/// Which end of a connection an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// `connect`: the other end.
    Remote,
    /// `listen`: our own.
    Local,
}

/// The one thing that a question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    Inet {
        /// IPPROTO_* number.
        protocol: u8,
        address: IpAddr,
        port: u16,
    },
    /// A host by its name.
    Host {
        /// IPPROTO_* number.
        protocol: u8,
        name: HostName,
        port: u16,
    },
    Vsock {
        /// Context id: 2 is the host of this virtual machine.
        cid: u32,
        port: u32,
    },
    /// `/path`, or `@name` for an abstract socket.
    Unix(Vec<u8>),
}

impl Destination {
    /// The bytes that the automata read.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Inet {
                protocol,
                address,
                port,
            } => {
                let mut out = [0; ENCODED_BYTES];
                let len = match address {
                    IpAddr::V4(v4) => address::encode_v4(&mut out, *protocol, v4.octets(), *port),
                    IpAddr::V6(v6) => address::encode_v6(&mut out, *protocol, &v6.octets(), *port),
                };
                out[..len].to_vec()
            }
            Self::Host {
                protocol,
                name,
                port,
            } => name.service(PUBLIC, *protocol, *port),
            Self::Vsock { cid, port } => {
                let mut out = [0; ENCODED_BYTES];
                let len = address::encode_vsock(&mut out, *cid, *port);
                out[..len].to_vec()
            }
            Self::Unix(text) => text.clone(),
        }
    }

    /// The kind of socket that is there only when a rule names it; `None` for the others.
    pub fn named_kind(&self) -> Option<u8> {
        match self {
            Self::Inet { protocol, .. } | Self::Host { protocol, .. } => named_protocol(*protocol),
            Self::Vsock { .. } => Some(named::VSOCK),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet {
                protocol,
                address,
                port,
            } => {
                scheme(f, *protocol)?;
                match address {
                    IpAddr::V4(v4) => write!(f, "{v4}")?,
                    IpAddr::V6(v6) => write!(f, "[{v6}]")?,
                }
                if matches!(*protocol, ICMP | ICMP_V6) {
                    return Ok(());
                }
                write!(f, ":{port}")
            }
            Self::Host {
                protocol,
                name,
                port,
            } => {
                scheme(f, *protocol)?;
                write!(f, "{name}")?;
                if matches!(*protocol, ICMP | ICMP_V6) {
                    return Ok(());
                }
                write!(f, ":{port}")
            }
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
            Self::Unix(text) => write!(f, "unix:{}", text.escape_ascii()),
        }
    }
}

fn scheme(f: &mut fmt::Formatter<'_>, protocol: u8) -> fmt::Result {
    match protocol {
        ICMP_V6 => f.write_str("icmp://"),
        _ => match SCHEMES.iter().find(|(_, number)| *number == protocol) {
            Some((scheme, _)) => write!(f, "{scheme}://"),
            None => write!(f, "protocol-{protocol}://"),
        },
    }
}

fn named_protocol(protocol: u8) -> Option<u8> {
    match protocol {
        SCTP => Some(named::SCTP),
        ICMP | ICMP_V6 => Some(named::ICMP),
        _ => None,
    }
}

/// The kinds of sockets that a profile with these rules has because a rule that doesn't deny names them: by
/// its scheme, since a rule for any protocol names none.
pub(super) fn named_kinds(rules: &[Rule]) -> impl Iterator<Item = u8> {
    rules
        .iter()
        .filter(|rule| rule.list != List::Deny)
        .flat_map(|rule| &rule.patterns)
        .flat_map(kinds_of)
}

fn kinds_of(pattern: &RulePattern) -> Vec<u8> {
    if let Some(host) = &pattern.host {
        let protocols = host.protocols.iter();
        return protocols
            .filter_map(|number| named_protocol(*number))
            .collect();
    }
    if !matches!(pattern.subject, Subject::Connect | Subject::Listen) {
        return Vec::new();
    }
    let alternatives = pattern.pattern.alternatives.iter();
    alternatives
        .filter_map(|tokens| match tokens.as_slice() {
            [_, Token::Byte(VSOCK), ..] => Some(named::VSOCK),
            [Token::Byte(protocol), ..] => named_protocol(*protocol),
            _ => None,
        })
        .collect()
}

/// Parses an address of a rule.
pub(super) fn parse_pattern(text: &str, end: End) -> Result<AddressPattern, PatternError> {
    if text.len() > pattern::PATTERN_BYTES {
        return Err(PatternError::new(
            0..text.len(),
            format!(
                "address is {} bytes long, more than the {} that are read",
                text.len(),
                pattern::PATTERN_BYTES
            ),
            "write a shorter one",
        ));
    }
    if let Some(own) = own_pattern(text, end)? {
        return Ok(own);
    }
    if let Some(name) = text.strip_prefix("unix:") {
        return unix_pattern(text, name, end);
    }
    if let Some(rest) = text.strip_prefix("vsock:") {
        return vsock_pattern(text, rest, end);
    }
    let parts = Parts::of(text)?;
    let mut warning = None;
    let nets = match parse_host(parts.host, parts.host_at.clone())? {
        Host::Name if end == End::Local => {
            return Err(PatternError::new(
                parts.host_at,
                "a name is the other end of a connection",
                "write the address that the agent may listen on, such as tcp://127.0.0.1:3000",
            ));
        }
        Host::Name => return host_pattern(parts),
        Host::Any => vec![Net::V4(Ipv4Net::default()), Net::V6(Ipv6Net::default())],
        Host::Net(net) => {
            if net.addr() != net.network() {
                warning = Some(PatternError::new(
                    parts.host_at.clone(),
                    format!(
                        "`{net}` has bits set behind its prefix, so it stands for all of {}",
                        net.trunc()
                    ),
                    format!(
                        "write \"{}\" for the network or \"{}\" for the one address",
                        net.trunc(),
                        net.addr()
                    ),
                ));
            }
            let net = canonical(net);
            let mut nets = vec![net];
            // Linux takes 0.0.0.0 and :: as a destination for this host itself, so whoever speaks of
            // loopback speaks of them as well.
            if end == End::Remote && net.contains(IpAddr::V4(Ipv4Addr::LOCALHOST)) {
                nets.push(Net::V4(Ipv4Addr::UNSPECIFIED.into()));
            }
            if end == End::Remote && net.contains(IpAddr::V6(Ipv6Addr::LOCALHOST)) {
                nets.push(Net::V6(Ipv6Addr::UNSPECIFIED.into()));
            }
            nets
        }
    };
    let mut alternatives = Vec::new();
    for net in nets {
        let protocol = match (parts.protocol, net) {
            (None, _) => Token::Set(ByteSet::ALL),
            (Some(ICMP), Net::V6(_)) => Token::Byte(ICMP_V6),
            (Some(protocol), _) => Token::Byte(protocol),
        };
        for ports in port_tokens(&parts.ports) {
            let mut tokens = vec![protocol];
            match net {
                Net::V4(net) => {
                    tokens.push(Token::Byte(V4));
                    net_tokens(&net.network().octets(), net.prefix_len(), &mut tokens);
                }
                Net::V6(net) => {
                    tokens.push(Token::Byte(V6));
                    net_tokens(&net.network().octets(), net.prefix_len(), &mut tokens);
                }
            }
            tokens.extend(ports);
            if !alternatives.contains(&tokens) {
                alternatives.push(tokens);
            }
        }
    }
    Ok(AddressPattern {
        subject: match end {
            End::Remote => Subject::Connect,
            End::Local => Subject::Listen,
        },
        pattern: Pattern { alternatives },
        host: None,
        warning,
    })
}

/// A host in a rule. What it does there is for the rule to say.
fn host_pattern(parts: Parts<'_>) -> Result<AddressPattern, PatternError> {
    let protocols = match parts.protocol {
        None => Vec::new(),
        Some(ICMP) => vec![ICMP, ICMP_V6],
        Some(protocol) => vec![protocol],
    };
    let start = parts.host_at.start;
    let host =
        HostPattern::parse(parts.host, protocols, parts.ports).map_err(|error| PatternError {
            at: error.at.start + start..error.at.end + start,
            ..error
        })?;
    Ok(AddressPattern {
        subject: Subject::Name,
        pattern: use_host(
            &host,
            Use {
                private: true,
                lookup: true,
            },
        ),
        host: Some(host),
        warning: None,
    })
}

/// The pattern of a host that is used like this.
pub(super) fn use_host(host: &HostPattern, how: Use) -> Pattern {
    host.pattern(how, &port_tokens(&host.ports))
}

/// Parses the one address that a question is about. Without a scheme it is TCP.
pub fn parse_destination(text: &str) -> Result<Destination, PatternError> {
    if host_part(text) == "self" {
        return Err(PatternError::new(
            0..text.len(),
            "`self` is no address",
            "ask about an address on loopback, such as tcp://127.0.0.1:3000",
        ));
    }
    if let Some(name) = text.strip_prefix("unix:") {
        return if name.len() > 1 && name.starts_with(['/', '@']) {
            Ok(Destination::Unix(name.as_bytes().to_vec()))
        } else {
            Err(PatternError::new(
                0..text.len(),
                "a Unix socket is a path or an abstract name",
                "write unix:/path or unix:@name",
            ))
        };
    }
    if let Some(rest) = text.strip_prefix("vsock:") {
        let (cid, ports) = vsock_parts(text, rest)?;
        let (Some(cid), true) = (cid, ports.start() == ports.end()) else {
            return Err(PatternError::new(
                0..text.len(),
                "a question is about one context id and one port",
                "write one of each, such as vsock:2:1024",
            ));
        };
        let port = *ports.start();
        return Ok(Destination::Vsock { cid, port });
    }
    let parts = Parts::of(text)?;
    let protocol = parts.protocol.unwrap_or(TCP);
    let host = parse_host(parts.host, parts.host_at.clone())?;
    if parts.ports.start() != parts.ports.end() && protocol != ICMP {
        return Err(PatternError::new(
            0..text.len(),
            "a question is about one port",
            "write one, such as tcp://192.0.2.1:443",
        ));
    }
    let port = *parts.ports.start();
    let address = match host {
        Host::Name => {
            let start = parts.host_at.start;
            let name = HostName::parse(parts.host).map_err(|error| PatternError {
                at: error.at.start + start..error.at.end + start,
                ..error
            })?;
            return Ok(Destination::Host {
                protocol,
                name,
                port: if protocol == ICMP { 0 } else { port },
            });
        }
        Host::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr(),
        Host::Net(_) | Host::Any => {
            return Err(PatternError::new(
                parts.host_at,
                "a question is about one address, not a network",
                "write one address, such as tcp://192.0.2.1:443",
            ));
        }
    };
    let address = match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 => v4,
    };
    if protocol == ICMP {
        let protocol = if address.is_ipv6() { ICMP_V6 } else { ICMP };
        return Ok(Destination::Inet {
            protocol,
            address,
            port: 0,
        });
    }
    Ok(Destination::Inet {
        protocol,
        address,
        port,
    })
}

/// The host that an address begins with, without scheme and port.
fn host_part(text: &str) -> &str {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    rest.split(':').next().unwrap_or(rest)
}

/// `self`: the sockets of the agent that asks. `None` for everything else.
fn own_pattern(text: &str, end: End) -> Result<Option<AddressPattern>, PatternError> {
    if host_part(text) != "self" {
        return Ok(None);
    }
    if text != OWN {
        return Err(PatternError::new(
            0..text.len(),
            "`self` stands alone: it is any socket that the agent itself listens on, over TCP and UDP",
            "write \"self\"",
        ));
    }
    if end == End::Local {
        return Err(PatternError::new(
            0..text.len(),
            "`self` is the other end of a connection",
            "write the address that the agent may listen on, such as tcp://127.0.0.1:3000",
        ));
    }
    Ok(Some(AddressPattern {
        subject: Subject::Connect,
        pattern: Pattern {
            alternatives: vec![address::OWN.map(Token::Byte).to_vec()],
        },
        host: None,
        warning: None,
    }))
}

fn vsock_pattern(text: &str, rest: &str, end: End) -> Result<AddressPattern, PatternError> {
    if end == End::Local {
        return Err(PatternError::new(
            0..text.len(),
            "`listen` can't be enforced for vsock by this version",
            "leave it out; listening on such sockets is refused to every agent",
        ));
    }
    let (cid, ports) = vsock_parts(text, rest)?;
    let any = [Token::Set(ByteSet::ALL); 4];
    let cid = cid.map_or(any, |cid| cid.to_be_bytes().map(Token::Byte));
    let ports = range_tokens(ports.start().to_be_bytes(), ports.end().to_be_bytes());
    let whole = |port| [&[Token::Byte(0), Token::Byte(VSOCK)], cid.as_slice(), port].concat();
    Ok(AddressPattern {
        subject: Subject::Connect,
        pattern: Pattern {
            alternatives: ports.iter().map(|port| whole(port.as_slice())).collect(),
        },
        host: None,
        warning: None,
    })
}

/// `CID:PORT`, each a number or `*`, the port also a range.
fn vsock_parts(text: &str, rest: &str) -> Result<(Option<u32>, RangeInclusive<u32>), PatternError> {
    let bad = || {
        PatternError::new(
            0..text.len(),
            format!("`{text}` is not a vsock address"),
            "write vsock:CID:PORT, such as vsock:2:1024 or vsock:*:1024-2047",
        )
    };
    let number = |text: &str| {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            text.parse::<u32>().map_err(|_| bad())
        } else {
            Err(bad())
        }
    };
    let (cid, port) = rest.split_once(':').ok_or_else(bad)?;
    let cid = match cid {
        "*" => None,
        cid => Some(number(cid)?),
    };
    let ports = match port.split_once('-') {
        _ if port == "*" => 0..=u32::MAX,
        Some((low, high)) => number(low)?..=number(high)?,
        None => number(port)?..=number(port)?,
    };
    if ports.is_empty() {
        return Err(bad());
    }
    Ok((cid, ports))
}

fn unix_pattern(text: &str, name: &str, end: End) -> Result<AddressPattern, PatternError> {
    if end == End::Local {
        return Err(PatternError::new(
            0..text.len(),
            "`listen` has no Unix sockets: making one is creating a file",
            format!("write a rule with file = \"{name}\" and access = \"create\""),
        ));
    }
    let front = "unix:".len();
    let space = if name.starts_with('@') {
        Space::Abstract
    } else {
        Space::Path
    };
    let pattern = pattern::parse(name, space).map_err(|error| PatternError {
        at: error.at.start + front..error.at.end + front,
        help: if name.is_empty() || name.starts_with('*') && !name.starts_with("**/") {
            "write \"unix:/**\" for every path, \"unix:@**\" for every abstract name".into()
        } else {
            error.help
        },
        ..error
    })?;
    Ok(AddressPattern {
        subject: Subject::Unix,
        pattern,
        host: None,
        warning: None,
    })
}

/// The pieces of `[SCHEME://]HOST[:PORTS]`.
struct Parts<'a> {
    protocol: Option<u8>,
    host: &'a str,
    host_at: Range<usize>,
    ports: RangeInclusive<u16>,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Result<Self, PatternError> {
        let (protocol, start) = match text.split_once("://") {
            None => (None, 0),
            Some((scheme, _)) => {
                let Some((_, number)) = SCHEMES.iter().find(|(name, _)| *name == scheme) else {
                    return Err(PatternError::new(
                        0..scheme.len(),
                        format!("unknown scheme `{scheme}`"),
                        "write tcp://, udp://, sctp://, icmp://, unix: or nothing for any protocol",
                    ));
                };
                (Some(*number), scheme.len() + 3)
            }
        };
        let rest = &text[start..];
        let host_len = host_len(rest);
        let host = &rest[..host_len];
        let host_at = start..start + host_len;
        if host.is_empty() {
            return Err(PatternError::new(
                0..text.len(),
                "address without a host",
                "write an address, a network such as 10.0.0.0/8, or `*` for any",
            ));
        }
        let tail = &rest[host_len..];
        let tail_at = start + host_len..text.len();
        let ports = match tail.strip_prefix(':') {
            None if tail.is_empty() => 0..=u16::MAX,
            None => {
                return Err(PatternError::new(
                    tail_at,
                    format!("`{tail}` behind the host is not a port"),
                    "write :PORT, :LOW-HIGH or :* there",
                ));
            }
            Some(_) if protocol == Some(ICMP) => {
                return Err(PatternError::new(
                    tail_at,
                    "icmp has no ports",
                    "leave the port out",
                ));
            }
            Some(ports) => parse_ports(ports, tail_at)?,
        };
        Ok(Self {
            protocol,
            host,
            host_at,
            ports,
        })
    }
}

/// Length of the host (with brackets and prefix length) at the start of `text`.
fn host_len(text: &str) -> usize {
    if text.starts_with('[') {
        let inside = text.find(']').map_or(text.len(), |at| at + 1);
        let rest = &text[inside..];
        return inside
            + if rest.starts_with('/') {
                rest.find(':').unwrap_or(rest.len())
            } else {
                0
            };
    }
    // An IPv6 address without brackets has no port, so a single colon is the port's.
    match text.bytes().filter(|byte| *byte == b':').count() {
        0 => text.len(),
        1 => text.find(':').unwrap_or(text.len()),
        _ => text.len(),
    }
}

enum Host {
    Any,
    Net(IpNet),
    /// Anything that doesn't look like an address.
    Name,
}

fn parse_host(host: &str, at: Range<usize>) -> Result<Host, PatternError> {
    if host == "*" {
        return Ok(Host::Any);
    }
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let plain = match bracketed {
        Some((address, prefix)) => format!("{address}{prefix}"),
        None => host.to_owned(),
    };
    let looks_numeric = plain.contains(':')
        || plain
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'/'));
    let net = if plain.contains('/') {
        plain.parse::<IpNet>().ok()
    } else {
        plain.parse::<IpAddr>().ok().map(IpNet::from)
    };
    if let Some(net) = net
        && (bracketed.is_none() || matches!(net, IpNet::V6(_)))
    {
        return Ok(Host::Net(net));
    }
    if looks_numeric {
        let help = if host.contains(':') && !host.starts_with('[') {
            "an IPv6 address with a port is written [2001:db8::1]:443"
        } else {
            "write an address such as 192.0.2.1 or 2001:db8::1, or a network such as 10.0.0.0/8"
        };
        return Err(PatternError::new(
            at,
            format!("`{host}` is not an IP address or network"),
            help,
        ));
    }
    if host == "localhost" || bracketed.is_some() {
        return Err(PatternError::new(
            at,
            format!("`{host}` is not looked up"),
            "write 127.0.0.0/8 or [::1]",
        ));
    }
    Ok(Host::Name)
}

fn parse_ports(text: &str, at: Range<usize>) -> Result<RangeInclusive<u16>, PatternError> {
    if text == "*" {
        return Ok(0..=u16::MAX);
    }
    let bad = || {
        PatternError::new(
            at.clone(),
            format!("`{text}` is not a port"),
            "write :PORT, :LOW-HIGH or :*, with ports from 0 to 65535",
        )
    };
    let port = |text: &str| {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            text.parse::<u16>().map_err(|_| bad())
        } else {
            Err(bad())
        }
    };
    let (low, high) = match text.split_once('-') {
        Some((low, high)) => (port(low)?, port(high)?),
        None => (port(text)?, port(text)?),
    };
    if low > high {
        return Err(PatternError::new(
            at,
            format!("port range {low}-{high} ends before it begins"),
            format!("write :{high}-{low}"),
        ));
    }
    Ok(low..=high)
}

/// A network of one family, mapped ones already where they belong.
#[derive(Clone, Copy)]
enum Net {
    V4(Ipv4Net),
    V6(Ipv6Net),
}

impl Net {
    fn contains(self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::V4(net), IpAddr::V4(v4)) => net.contains(&v4),
            (Self::V6(net), IpAddr::V6(v6)) => net.contains(&v6),
            _ => false,
        }
    }
}

fn canonical(net: IpNet) -> Net {
    match net.trunc() {
        IpNet::V4(net) => Net::V4(net),
        IpNet::V6(net) if MAPPED.contains(&net) => {
            let [.., a, b, c, d] = net.network().octets();
            let net = Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), net.prefix_len() - 96);
            Net::V4(net)
        }
        IpNet::V6(net) => Net::V6(net),
    }
}

/// The tokens of a network's address: whole bytes of the prefix, a range for its last bits, then
/// anything.
fn net_tokens(octets: &[u8], prefix_len: u8, tokens: &mut Vec<Token>) {
    let mut bits = usize::from(prefix_len);
    for octet in octets {
        let taken = bits.min(8);
        bits -= taken;
        let free = 0xff_u8.checked_shr(taken as u32).unwrap_or(0);
        tokens.push(ByteSet::range(octet & !free, octet | free).token());
    }
}

fn port_tokens(ports: &RangeInclusive<u16>) -> Vec<[Token; 2]> {
    range_tokens(ports.start().to_be_bytes(), ports.end().to_be_bytes())
}

/// A range of numbers, in network order, as sequences of one token per byte.
fn range_tokens<const N: usize>(low: [u8; N], high: [u8; N]) -> Vec<[Token; N]> {
    let mut sequences = Vec::new();
    let any = [Token::Set(ByteSet::ALL); N];
    push_range(low, high, 0, any, &mut sequences);
    sequences
}

/// The same from byte `at` on, behind the tokens of `front` before it; those after it stand for any byte.
fn push_range<const N: usize>(
    low: [u8; N],
    high: [u8; N],
    at: usize,
    mut front: [Token; N],
    sequences: &mut Vec<[Token; N]>,
) {
    let (Some(first), Some(last)) = (low.get(at), high.get(at)) else {
        sequences.push(front);
        return;
    };
    let mut whole = *first..=*last;
    let (below, above) = (
        low[at + 1..].iter().any(|byte| *byte != 0),
        high[at + 1..].iter().any(|byte| *byte != 0xff),
    );
    if first == last {
        front[at] = Token::Byte(*first);
        return push_range(low, high, at + 1, front, sequences);
    }
    if below {
        front[at] = Token::Byte(*first);
        push_range(low, [0xff; N], at + 1, front, sequences);
        whole = first + 1..=*last;
    }
    if above {
        front[at] = Token::Byte(*last);
        push_range([0; N], high, at + 1, front, sequences);
        whole = *whole.start()..=last - 1;
    }
    if !whole.is_empty() {
        front[at] = ByteSet::range(*whole.start(), *whole.end()).token();
        sequences.push(front);
    }
}
