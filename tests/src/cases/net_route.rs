//! Packets that take another way than the address that was judged: source routes and extension headers, set
//! for a socket or for one message; and networks that aren't the machine's own.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Result, ensure};

use crate::{
    bench::Bench,
    log::Wanted,
    remote::{
        Act, Arg, Remote,
        calls::{
            accept, at, bind, call, connect, internet, listen, send_to, send_with_control,
            set_option, socket, socket_for,
        },
    },
    scene::Case,
};

const CLOSED: &str = r#"
[[allow]]
id = "service"
connect = ["192.0.2.1:5353", "[2001:db8::1]:5353", "127.0.0.1:9000", "[::1]:9000"]

[[allow]]
id = "server"
listen = ["127.0.0.1:9000", "[::1]:9000"]
"#;

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(CLOSED);
    // Most of these options take a capability.
    let raw = |name, play| {
        Case::new(name, play).policy(&format!(
            "{CLOSED}\n[system]\ncapabilities = \"CAP_NET_RAW\"\n"
        ))
    };
    vec![
        case("net::options_that_route", options),
        raw("net::ipv6_headers_per_message", ipv6_messages),
        raw("net::ipv4_routes_per_message", ipv4_messages),
        case("net::in_another_network_namespace", another_network),
    ]
}

const IP_RETOPTS: i32 = 7;
const IPV6_2292RTHDR: i32 = 5;
const IPV6_2292PKTOPTIONS: i32 = 6;
const IPV6_HOPOPTS: i32 = 54;
const IPV6_RTHDRDSTOPTS: i32 = 55;
const IPV6_DSTOPTS: i32 = 59;

/// A receiver outside.
fn receiver(address: &str) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(at(address))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn has_none(receiver: &UdpSocket) -> bool {
    receiver.recv(&mut [0; 16]).is_err()
}

fn octets(address: &str) -> [u8; 16] {
    match at(&format!("[{address}]:0")) {
        SocketAddr::V6(address) => address.ip().octets(),
        SocketAddr::V4(_) => unreachable!("it is written as IPv6"),
    }
}

/// `struct rt2_hdr` (include/uapi/linux/ipv6.h): by way of one other host.
fn type_2(hop: &str) -> Vec<u8> {
    let mut bytes = vec![0, 2, 2, 1, 0, 0, 0, 0];
    bytes.extend(octets(hop));
    bytes
}

/// `struct ipv6_sr_hdr` (include/uapi/linux/seg6.h) of two segments, the last of which comes first.
fn type_4(hop: &str) -> Vec<u8> {
    let mut bytes = vec![0, 4, 4, 1, 1, 0, 0, 0];
    bytes.extend(octets("2001:db8::1"));
    bytes.extend(octets(hop));
    bytes
}

/// A header of options with nothing but padding (RFC 8200 section 4.2).
const PADDING: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];

/// A route (RFC 791) by way of 198.51.100.1: loose 131, strict 137.
fn ipv4_route(kind: u8) -> [u8; 8] {
    [kind, 7, 4, 198, 51, 100, 1, 0]
}

fn routed() -> Wanted {
    Wanted::refusal("net.send", "source-routed")
}

fn options(bench: &mut Bench) -> Result<()> {
    let mut agents = [bench.agent()?, bench.user_agent()?];
    for agent in &mut agents {
        let (v4, v6) = (at("192.0.2.1:5353"), at("[2001:db8::1]:5353"));
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            let with = |address, level, option, value: &[u8]| {
                Act::Sequence(vec![
                    socket_for(address, kind),
                    set_option(Arg::Step(0), level, option, value),
                ])
            };
            for route in [131, 137] {
                let route = ipv4_route(route);
                let act = with(v4, libc::IPPROTO_IP, libc::IP_OPTIONS, &route);
                bench.denied(agent, &act, routed())?;
                // An IPv6 socket has them too, for what it sends over IPv4.
                let act = with(v6, libc::IPPROTO_IP, libc::IP_OPTIONS, &route);
                bench.denied(agent, &act, routed())?;
            }
            for (option, value) in [
                (libc::IPV6_RTHDR, type_2("2001:db8::2")),
                (libc::IPV6_RTHDR, type_4("2001:db8::2")),
                (IPV6_2292RTHDR, 1_i32.to_ne_bytes().to_vec()),
                (IPV6_2292PKTOPTIONS, vec![0; 32]),
                (IPV6_HOPOPTS, PADDING.to_vec()),
                (IPV6_RTHDRDSTOPTS, PADDING.to_vec()),
                (IPV6_DSTOPTS, PADDING.to_vec()),
            ] {
                let act = with(v6, libc::IPPROTO_IPV6, option, &value);
                bench.denied(agent, &act, routed())?;
            }
            let on = 1_i32.to_ne_bytes();
            for (address, level, option) in [
                (v4, libc::SOL_SOCKET, libc::SO_REUSEADDR),
                (v4, libc::SOL_SOCKET, libc::SO_KEEPALIVE),
                (v4, libc::IPPROTO_IP, libc::IP_TTL),
                (v4, libc::IPPROTO_IP, libc::IP_TOS),
                (v4, libc::IPPROTO_IP, libc::IP_RECVOPTS),
                (v6, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
                (v6, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
                (v6, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
            ] {
                bench.allowed(agent, &with(address, level, option, &on))?;
            }
        }
        let nodelay = Act::Sequence(vec![
            socket_for(v4, libc::SOCK_STREAM),
            set_option(
                Arg::Step(0),
                libc::IPPROTO_TCP,
                libc::TCP_NODELAY,
                &1_i32.to_ne_bytes(),
            ),
        ]);
        bench.allowed(agent, &nodelay)?;
    }
    Ok(())
}

/// Options that go with one message don't come by where options of sockets do; the packet does by the lock.
fn ipv6_messages(bench: &mut Bench) -> Result<()> {
    let address = at("[2001:db8::1]:5353");
    let (allowed, detour) = (
        receiver("[2001:db8::1]:5353")?,
        receiver("[2001:db8::2]:5353")?,
    );
    let sending = |option, data: &[u8]| {
        let what = (libc::IPPROTO_IPV6, option);
        Act::Sequence(vec![
            socket_for(address, libc::SOCK_DGRAM),
            send_with_control(Arg::Step(0), internet(address), what, data),
        ])
    };
    // KERNEL: of routes, a message can have just this type (net/ipv6/datagram.c, `ip6_datagram_send_ctl`).
    let route = type_2("2001:db8::2");
    let mut user = bench.user_agent()?;
    let mut root = bench.agent()?;
    for option in [libc::IPV6_RTHDR, IPV6_2292RTHDR] {
        bench.denied(&mut user, &sending(option, &route), routed())?;
        bench.denied(&mut root, &sending(option, &route), routed())?;
    }
    for option in [IPV6_HOPOPTS, IPV6_DSTOPTS] {
        bench.denied(&mut root, &sending(option, &PADDING), routed())?;
    }
    ensure!(has_none(&allowed) && has_none(&detour), "it has arrived");
    for agent in [&mut user, &mut root] {
        let hops = sending(libc::IPV6_HOPLIMIT, &9_i32.to_ne_bytes());
        bench.allowed(agent, &hops)?;
        ensure!(!has_none(&allowed), "what was allowed has not arrived");
    }
    // The detour is there, for who may take it.
    let act = sending(libc::IPV6_RTHDR, &route);
    bench.allowed(&mut Remote::outside()?, &act)?;
    Ok(())
}

fn ipv4_messages(bench: &mut Bench) -> Result<()> {
    let address = at("192.0.2.1:5353");
    let (allowed, detour) = (receiver("192.0.2.1:5353")?, receiver("198.51.100.1:5353")?);
    let sending = |option, data: &[u8]| {
        let what = (libc::IPPROTO_IP, option);
        Act::Sequence(vec![
            socket_for(address, libc::SOCK_DGRAM),
            send_with_control(Arg::Step(0), internet(address), what, data),
        ])
    };
    let mut agent = bench.agent()?;
    for kind in [131, 137] {
        let act = sending(IP_RETOPTS, &ipv4_route(kind));
        bench.denied(&mut agent, &act, routed())?;
    }
    ensure!(has_none(&allowed) && has_none(&detour), "it has arrived");
    bench.allowed(&mut agent, &sending(libc::IP_TTL, &9_i32.to_ne_bytes()))?;
    ensure!(!has_none(&allowed), "what was allowed has not arrived");
    Ok(())
}

/// Both locks hold wherever the packets go.
fn another_network(bench: &mut Bench) -> Result<()> {
    const SIOCSIFFLAGS: i64 = 0x8914;
    // struct ifreq: a name and flags.
    let mut up = b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    up.extend((libc::IFF_UP as u16).to_ne_bytes());
    up.resize(40, 0);
    let before = [
        call(libc::SYS_unshare, [libc::CLONE_NEWNET.into()]),
        Act::Sequence(vec![
            socket(libc::AF_INET, libc::SOCK_DGRAM, 0),
            call(
                libc::SYS_ioctl,
                [Arg::Step(0), SIOCSIFFLAGS.into(), Arg::Bytes(up)],
            ),
            crate::remote::calls::close(Arg::Step(0)),
        ]),
    ];
    let (mut agent, _cgroup) = bench.tagged_after(&before)?;
    let rule = format!("{}/default", bench.profile);
    for (allowed, denied) in [
        ("127.0.0.1:9000", "127.0.0.1:9001"),
        ("[::1]:9000", "[::1]:9001"),
    ] {
        let (allowed, denied) = (at(allowed), at(denied));
        let wanted = Wanted::deny("net.connect", &rule).address("tcp", denied);
        let to = |address| {
            Act::Sequence(vec![
                socket_for(address, libc::SOCK_STREAM),
                connect(Arg::Step(0), internet(address)),
            ])
        };
        bench.denied(&mut agent, &to(denied), wanted)?;
        let wanted = Wanted::deny("net.send", &rule).address("udp", denied);
        let sending = |address| {
            Act::Sequence(vec![
                socket_for(address, libc::SOCK_DGRAM),
                send_to(Arg::Step(0), internet(address), 0),
            ])
        };
        bench.denied(&mut agent, &sending(denied), wanted)?;
        let both = Act::Sequence(vec![
            socket_for(allowed, libc::SOCK_STREAM),
            bind(Arg::Step(0), internet(allowed)),
            listen(Arg::Step(0)),
            socket_for(allowed, libc::SOCK_STREAM),
            connect(Arg::Step(3), internet(allowed)),
            accept(Arg::Step(0)),
        ]);
        bench.allowed(&mut agent, &both)?;
        bench.allowed(&mut agent, &sending(allowed))?;
    }
    // The lock on packets as well.
    let address = at("[::1]:9000");
    let what = (libc::IPPROTO_IPV6, libc::IPV6_RTHDR);
    let act = Act::Sequence(vec![
        socket_for(address, libc::SOCK_DGRAM),
        send_with_control(Arg::Step(0), internet(address), what, &type_2("::1")),
    ]);
    bench.denied(&mut agent, &act, routed())?;
    Ok(())
}
