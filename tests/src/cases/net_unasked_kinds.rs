//! What comes in to sockets of datagrams that aren't UDP's.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use super::net_unasked::{dropped, hears, hears_nothing};
use crate::{
    bench::{Bench, of},
    remote::{
        Act, Arg, Remote,
        calls::{at, bind, call, internet, received, send_to, socket},
    },
    scene::Case,
};

/// Kinds of sockets beside UDP. A rule without a scheme is for all of them.
const KINDS: &str = r#"
[[allow]]
id = "named"
connect = ["icmp://192.0.2.1", "icmp://[2001:db8::1]", "192.0.2.1:5353", "[2001:db8::1]:5353"]

[system]
other_sockets = "allow"
raw_sockets = "allow"
capabilities = "CAP_NET_RAW"
"#;

pub fn cases() -> Vec<Case> {
    let kinds = |name, play| Case::new(name, play).policy(KINDS);
    vec![
        kinds("net::unasked_echoes", echoes),
        kinds("net::unasked_datagrams_of_other_kinds", other_kinds),
    ]
}

/// The sum of RFC 1071 over an ICMP message that has none yet.
fn with_checksum(mut message: Vec<u8>) -> Vec<u8> {
    let words = message.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(pair[0]) << 8 | u32::from(low)
    });
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

fn message_to(fd: i64, message: Vec<u8>, address: SocketAddr) -> Act {
    let (length, address) = (message.len(), internet(address));
    let bytes = address.len();
    call(
        libc::SYS_sendto,
        [
            fd.into(),
            Arg::Bytes(message),
            length.into(),
            0.into(),
            Arg::Bytes(address),
            bytes.into(),
        ],
    )
}

/// Answers to nobody's echo request, which a socket for `ping` and a raw one would hear.
fn echoes(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let mut outside = Remote::outside()?;
    for (service, stranger, protocol, [request, answer], table) in [
        (
            "192.0.2.1:0",
            "198.51.100.1:0",
            libc::IPPROTO_ICMP,
            [8, 0],
            "icmp",
        ),
        (
            "[2001:db8::1]:0",
            "[2001:db8::2]:0",
            libc::IPPROTO_ICMPV6,
            [128, 129],
            "icmp6",
        ),
    ] {
        let (service, stranger) = (at(service), at(stranger));
        let family = if service.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        };
        let echo = |kind: u8, ident: u16| {
            let [high, low] = ident.to_be_bytes();
            let message = vec![
                kind, 0, 0, 0, high, low, 0, 1, b'p', b'i', b'n', b'g', b'!', b'!',
            ];
            with_checksum(message)
        };
        let raw = bench.allowed(&mut outside, &socket(family, libc::SOCK_RAW, protocol))?;
        bench.allowed(&mut outside, &bind(raw, internet(stranger)))?;
        for kind in [libc::SOCK_DGRAM, libc::SOCK_RAW] {
            let fd = bench.allowed(&mut agent, &socket(family, kind, protocol))?;
            let mut ident = 77;
            if kind == libc::SOCK_DGRAM {
                bench.allowed(&mut agent, &message_to(fd, echo(request, 0), service))?;
                ident = agent.port_of(fd, table)?;
                // What was asked for.
                let heard = bench.allowed(&mut agent, &received(fd, 0))?;
                ensure!(heard == 14, "{heard} bytes");
            }
            bench.log.skip()?;
            let act = message_to(raw, echo(answer, ident), service);
            bench.allowed(&mut outside, &act)?;
            let wanted = dropped(bench, "icmp", stranger);
            bench.log.wait(&of(&agent, wanted))?;
            hears_nothing(bench, &mut agent, fd)?;
        }
    }
    Ok(())
}

/// UDP-Lite, which is let in by a word of `[system]` alone.
fn other_kinds(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let mut outside = Remote::outside()?;
    let (service, stranger) = (at("192.0.2.1:5353"), at("198.51.100.1:5353"));
    let lite = socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE);
    let mut bound = |bench: &Bench, address| -> Result<i64> {
        let fd = bench.allowed(&mut outside, &lite)?;
        bench.allowed(&mut outside, &bind(fd, internet(address)))?;
        Ok(fd)
    };
    let peer = bound(bench, service)?;
    let unknown = bound(bench, stranger)?;
    let fd = bench.allowed(&mut agent, &lite)?;
    bench.allowed(&mut agent, &send_to(fd, internet(service), 0))?;
    let own = SocketAddr::new(service.ip(), agent.port_of(fd, "udplite")?);
    bench.log.skip()?;
    bench.allowed(&mut outside, &send_to(unknown, internet(own), 0))?;
    let wanted = dropped(bench, &libc::IPPROTO_UDPLITE.to_string(), stranger);
    bench.log.wait(&of(&agent, wanted))?;
    hears_nothing(bench, &mut agent, fd)?;
    bench.allowed(&mut outside, &send_to(peer, internet(own), 0))?;
    hears(bench, &mut agent, fd, b"ping")
}
