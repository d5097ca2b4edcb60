//! Kinds of sockets: which an agent can have at all, which only when a rule names them, and where those may
//! go then.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use crate::{
    bench::{Bench, run, run_well},
    log::Wanted,
    remote::{
        Act, Arg, Birth, Remote,
        calls::{
            at, bind, call, connect, exec, internet, listen, open, read, socket, vsock, write,
        },
    },
    scene::Case,
};

/// Rules for any protocol, and for one that is denied, name no kind.
const UNNAMED: &str = r#"
[default]
file = "allow"
exec = "allow"
connect = "allow"
listen = "allow"

[[deny]]
id = "not-this"
connect = ["sctp://198.51.100.1", "icmp://198.51.100.1", "vsock:1:5001"]

[[allow]]
id = "any"
connect = ["192.0.2.1", "tcp://*:443"]
"#;

/// What is in the way before the device is attached to.
const DEVICES: &str = r#"
[system]
devices = "allow"
capabilities = "CAP_NET_ADMIN"
"#;

const NAMED: &str = r#"
[[allow]]
id = "named"
connect = ["icmp://192.0.2.1", "icmp://[2001:db8::1]", "vsock:1:5000"]
"#;

pub fn cases() -> Vec<Case> {
    let unnamed = |name, play| Case::new(name, play).policy(UNNAMED);
    let named = |name, play| Case::new(name, play).policy(NAMED);
    vec![
        unnamed("net::kinds_of_sockets", kinds),
        unnamed("net::kinds_of_an_ordinary_user", kinds_of_user),
        unnamed("net::kinds_that_all_programs_need", needed),
        Case::new("net::persistent_tun", tun).policy(&format!("{UNNAMED}{DEVICES}")),
        named("net::ping_where_a_rule_says", ping),
        named("net::vsock_where_a_rule_says", vsock_by_rule),
    ]
}

fn default_rule(bench: &Bench) -> String {
    format!("{}/default", bench.profile)
}

const STREAM: i32 = libc::SOCK_STREAM;
const DGRAM: i32 = libc::SOCK_DGRAM;
const RAW: i32 = libc::SOCK_RAW;
const PACKETS: i32 = libc::SOCK_SEQPACKET;
const SOCK_PACKET: i32 = 10;
const V4: i32 = libc::AF_INET;
const V6: i32 = libc::AF_INET6;

/// Family, type and protocol of sockets that need a rule with their scheme.
const BY_RULE: [(i32, i32, i32); 8] = [
    (V4, DGRAM, libc::IPPROTO_ICMP),
    (V6, DGRAM, libc::IPPROTO_ICMPV6),
    (V4, STREAM, libc::IPPROTO_SCTP),
    (V6, STREAM, libc::IPPROTO_SCTP),
    (V4, PACKETS, libc::IPPROTO_SCTP),
    (V6, PACKETS, 0),
    (libc::AF_VSOCK, STREAM, 0),
    (libc::AF_VSOCK, DGRAM, 0),
];

/// Those that choose their packets' headers themselves.
const BELOW: [(i32, i32, i32); 8] = [
    (V4, RAW, libc::IPPROTO_ICMP),
    (V4, RAW, libc::IPPROTO_RAW),
    (V4, RAW, libc::IPPROTO_UDP),
    (V6, RAW, libc::IPPROTO_ICMPV6),
    // ETH_P_IP, in network order.
    (libc::AF_PACKET, RAW, 0x0008),
    (libc::AF_PACKET, DGRAM, 0x0008),
    // The kernel makes it AF_PACKET.
    (V4, SOCK_PACKET, 0x0008),
    (libc::AF_XDP, RAW, 0),
];

/// Other ways to other machines or into the kernel.
const OTHERS: [(i32, i32, i32); 27] = [
    (V4, STREAM, 256), // SMC by its protocol (6.11 on)
    (V4, DGRAM, libc::IPPROTO_UDPLITE),
    (V6, DGRAM, libc::IPPROTO_UDPLITE),
    (V4, 6, 33),      // DCCP
    (V4, DGRAM, 115), // L2TP
    (V4, STREAM, libc::IPPROTO_UDP),
    (libc::AF_ALG, PACKETS, 0),
    (libc::AF_KEY, RAW, 2),
    (libc::AF_TIPC, libc::SOCK_RDM, 0),
    (libc::AF_RDS, PACKETS, 0),
    (libc::AF_CAN, RAW, 1),
    (libc::AF_BLUETOOTH, PACKETS, 0),
    (libc::AF_PPPOX, STREAM, 0),
    (libc::AF_NFC, PACKETS, 0),
    (libc::AF_LLC, DGRAM, 0),
    (libc::AF_X25, PACKETS, 0),
    (libc::AF_IB, STREAM, 0),
    (41, DGRAM, 0),  // AF_KCM
    (42, DGRAM, 0),  // AF_QIPCRTR
    (43, STREAM, 0), // AF_SMC
    (45, STREAM, 0), // AF_MCTP
    (libc::AF_NETLINK, RAW, libc::NETLINK_USERSOCK),
    (libc::AF_NETLINK, RAW, libc::NETLINK_SOCK_DIAG),
    (libc::AF_NETLINK, RAW, libc::NETLINK_XFRM),
    (libc::AF_NETLINK, RAW, libc::NETLINK_NETFILTER),
    (libc::AF_NETLINK, RAW, libc::NETLINK_KOBJECT_UEVENT),
    (libc::AF_NETLINK, RAW, libc::NETLINK_GENERIC),
];

fn kinds(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    refused(bench, &mut agent)?;
    // Two at once.
    let pair = call(
        libc::SYS_socketpair,
        [
            libc::AF_TIPC.into(),
            libc::SOCK_RDM.into(),
            0.into(),
            Arg::Bytes(vec![0; 8]),
        ],
    );
    let wanted = Wanted::refusal("system.other_sockets", "system");
    bench.denied(
        &mut agent,
        &pair,
        wanted.with("/object/family", libc::AF_TIPC),
    )?;
    // Everybody else has them, as far as the kernel does.
    run("modprobe", &["-a", "af_alg", "sctp", "vsock"])?;
    let mut outside = Remote::outside()?;
    for (family, kind, protocol) in [
        BY_RULE[0], BY_RULE[2], BELOW[0], BELOW[4], OTHERS[6], OTHERS[22],
    ] {
        bench.allowed(&mut outside, &socket(family, kind, protocol))?;
    }
    Ok(())
}

fn kinds_of_user(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.user_agent()?;
    refused(bench, &mut agent)
}

fn other_kind() -> Wanted {
    Wanted::refusal("net.connect", "socket-kind")
}

fn refused(bench: &mut Bench, agent: &mut Remote) -> Result<()> {
    for (family, kind, protocol) in BY_RULE {
        let named = match protocol {
            _ if family == libc::AF_VSOCK => "vsock",
            libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6 => "icmp",
            _ => "sctp",
        };
        let wanted = other_kind().with("/object/protocol", named);
        bench.denied(agent, &socket(family, kind, protocol), wanted)?;
    }
    for (family, kind, protocol) in BELOW.into_iter().chain(OTHERS) {
        let word = match (family, kind) {
            (V4 | V6, RAW) => "raw_sockets",
            (libc::AF_PACKET, _) | (V4, SOCK_PACKET) => "packet_sockets",
            _ => "other_sockets",
        };
        let wanted = Wanted::refusal(&format!("system.{word}"), "system");
        bench.denied(agent, &socket(family, kind, protocol), wanted)?;
    }
    Ok(())
}

/// What every program expects to have: the kinds themselves, and what the C library asks of the kernel
/// before it resolves a name.
fn needed(bench: &mut Bench) -> Result<()> {
    const IPPROTO_MPTCP: i32 = 262;
    let mut agent = bench.user_agent()?;
    for (family, kind, protocol) in [
        (V4, STREAM, 0),
        (V4, STREAM, libc::IPPROTO_TCP),
        (V6, STREAM, 0),
        (V4, STREAM, IPPROTO_MPTCP),
        (V6, STREAM | libc::SOCK_NONBLOCK, IPPROTO_MPTCP),
        (V4, DGRAM, 0),
        (V6, DGRAM | libc::SOCK_NONBLOCK, libc::IPPROTO_UDP),
        (libc::AF_UNIX, STREAM, 0),
        (libc::AF_UNIX, PACKETS, 0),
        (libc::AF_UNIX, DGRAM, 0),
        (libc::AF_NETLINK, RAW, libc::NETLINK_ROUTE),
        (libc::AF_NETLINK, DGRAM, libc::NETLINK_ROUTE),
    ] {
        bench.allowed(&mut agent, &socket(family, kind, protocol))?;
    }
    let shell = |script: &str| exec(Birth::Fork, "/usr/bin/sh", &["-c", script]);
    let list = shell("{ ip address && ip link && ip route; } >/dev/null");
    ensure!(bench.allowed(&mut agent, &list)? == 0);
    // Resolved, but nobody listens there: 7 and not 6.
    let curl = shell("curl -s http://guest:1/");
    ensure!(bench.allowed(&mut agent, &curl)? == 7);
    // Changing the network takes a capability that an ordinary user hasn't.
    let change = shell("ip link set lo down 2>/dev/null");
    ensure!(bench.allowed(&mut agent, &change)? != 0);
    Ok(())
}

/// `struct ifreq` with a name and flags.
fn interface(name: &str, flags: i32) -> Vec<u8> {
    let mut request = name.as_bytes().to_vec();
    request.resize(16, 0);
    request.extend((flags as u16).to_ne_bytes());
    request.resize(40, 0);
    request
}

/// A device that somebody left to an ordinary user needs no capability to be attached to.
fn tun(bench: &mut Bench) -> Result<()> {
    const TUNSETIFF: i64 = 0x4004_54ca;
    const TUNSETPERSIST: i64 = 0x4004_54cb;
    const TUNSETOWNER: i64 = 0x4004_54cc;
    run_well("modprobe", &["tun"])?;
    run_well("chmod", &["666", "/dev/net/tun"])?;
    let control = |request: i64, argument: Arg| {
        call(libc::SYS_ioctl, [Arg::Step(0), request.into(), argument])
    };
    let attaching = |name: &str| {
        let flags = libc::IFF_TUN | libc::IFF_NO_PI;
        Act::Sequence(vec![
            open("/dev/net/tun", libc::O_RDWR | libc::O_CLOEXEC),
            control(TUNSETIFF, Arg::Bytes(interface(name, flags))),
        ])
    };
    let mut outside = Remote::outside()?;
    let flags = libc::IFF_TUN | libc::IFF_NO_PI;
    let leaving = Act::Sequence(vec![
        open("/dev/net/tun", libc::O_RDWR | libc::O_CLOEXEC),
        control(TUNSETIFF, Arg::Bytes(interface("agt0", flags))),
        control(TUNSETOWNER, 1000.into()),
        control(TUNSETPERSIST, 1.into()),
        crate::remote::calls::close(Arg::Step(0)),
    ]);
    bench.allowed(&mut outside, &leaving)?;
    let wanted = Wanted::refusal("system.tun", "system");
    let mut agent = bench.user_agent()?;
    bench.denied(&mut agent, &attaching("agt0"), wanted.clone())?;
    // As root, also a new one.
    let mut agent = bench.agent()?;
    bench.denied(&mut agent, &attaching("agt0"), wanted.clone())?;
    bench.denied(&mut agent, &attaching("agt1"), wanted)?;
    bench.allowed(&mut outside, &attaching("agt0"))?;
    Ok(())
}

/// An echo request, as `ping` sends it.
fn echo(fd: impl Into<Arg>, address: SocketAddr) -> Act {
    let kind = if address.is_ipv4() { 8 } else { 128 };
    let request = vec![kind, 0, 0, 0, 0, 0, 0, 1, b'p', b'i', b'n', b'g'];
    let (length, address) = (request.len(), internet(address));
    let bytes = address.len();
    call(
        libc::SYS_sendto,
        [
            fd.into(),
            Arg::Bytes(request),
            length.into(),
            0.into(),
            Arg::Bytes(address),
            bytes.into(),
        ],
    )
}

fn ping(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.user_agent()?;
    let rule = default_rule(bench);
    for (allowed, denied, protocol) in [
        ("192.0.2.1:0", "198.51.100.1:0", libc::IPPROTO_ICMP),
        ("[2001:db8::1]:0", "[2001:db8::2]:0", libc::IPPROTO_ICMPV6),
    ] {
        let (allowed, denied) = (at(allowed), at(denied));
        let family = if allowed.is_ipv4() { V4 } else { V6 };
        let fd = bench.allowed(&mut agent, &socket(family, DGRAM, protocol))?;
        let wanted = Wanted::allow("net.send").address("icmp", allowed);
        bench.allowed_and_logged(&mut agent, &echo(fd, allowed), wanted)?;
        ensure!(bench.allowed(&mut agent, &read(fd))? == 12, "no answer");
        let wanted = Wanted::deny("net.send", &rule).address("icmp", denied);
        bench.denied(&mut agent, &echo(fd, denied), wanted)?;
        let wanted = Wanted::deny("net.connect", &rule).address("icmp", denied);
        bench.denied(&mut agent, &connect(fd, internet(denied)), wanted)?;
        bench.allowed(&mut agent, &connect(fd, internet(allowed)))?;
    }
    // The rule is for echoes, not for packets of the agent's own making.
    let raw = socket(V4, RAW, libc::IPPROTO_ICMP);
    let mut agent = bench.agent()?;
    let wanted = Wanted::refusal("system.raw_sockets", "system");
    bench.denied(&mut agent, &raw, wanted)?;
    Ok(())
}

fn vsock_by_rule(bench: &mut Bench) -> Result<()> {
    run_well("modprobe", &["-a", "vsock", "vsock_loopback"])?;
    let mut outside = Remote::outside()?;
    for port in [5000, 5001] {
        let serving = Act::Sequence(vec![
            socket(libc::AF_VSOCK, STREAM, 0),
            bind(Arg::Step(0), vsock(libc::VMADDR_CID_ANY, port)),
            listen(Arg::Step(0)),
        ]);
        bench.allowed(&mut outside, &serving)?;
    }
    let mut agent = bench.user_agent()?;
    let connecting = |cid, port| {
        Act::Sequence(vec![
            socket(libc::AF_VSOCK, STREAM, 0),
            connect(Arg::Step(0), vsock(cid, port)),
            write(Arg::Step(0), "ping"),
        ])
    };
    let on_vsock = |wanted: Wanted, cid: &str, port: u32| {
        wanted
            .with("/object/protocol", "vsock")
            .with("/object/address", cid)
            .with("/object/port", port)
    };
    for (cid, port) in [(1, 5001), (2, 5000)] {
        let wanted = Wanted::deny("net.connect", &default_rule(bench));
        let wanted = on_vsock(wanted, &cid.to_string(), port);
        bench.denied(&mut agent, &connecting(cid, port), wanted)?;
    }
    let wanted = on_vsock(Wanted::allow("net.connect"), "1", 5000).with("/rule", "named");
    ensure!(bench.allowed_and_logged(&mut agent, &connecting(1, 5000), wanted)? == 4);
    let serving = Act::Sequence(vec![
        socket(libc::AF_VSOCK, STREAM, 0),
        bind(Arg::Step(0), vsock(libc::VMADDR_CID_ANY, 5002)),
        listen(Arg::Step(0)),
    ]);
    let wanted = Wanted::refusal("net.listen", "address-unreadable");
    bench.denied(&mut agent, &serving, wanted)?;
    Ok(())
}
