//! Where an agent may connect and send, over both families and in every way there is to name an address.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use anyhow::{Result, ensure};

use crate::{
    bench::Bench,
    log::Wanted,
    remote::{
        Act, Arg, Remote,
        calls::{at, connect, internet, send, send_many, send_to, set_option, socket, socket_for},
    },
    scene::Case,
};

/// Everything that isn't here is denied.
const CLOSED: &str = r#"
[default]
file = "allow"
exec = "allow"
connect = "deny"
listen = "deny"

[[allow]]
id = "service"
connect = ["tcp://192.0.2.1:8080", "tcp://[2001:db8::1]:8080", "udp://192.0.2.1:5353", "udp://[2001:db8::1]:5353"]

[[allow]]
id = "range"
connect = ["tcp://10.20.0.0/16:5000-5999", "udp://10.20.0.0/16:5000-5999", "tcp://[fd00::]/16:5000-5999"]
"#;

/// Everything that isn't here is allowed.
const OPEN: &str = r#"
[default]
file = "allow"
exec = "allow"
connect = "allow"
listen = "allow"

[[deny]]
id = "host"
connect = "203.0.113.1"

[[deny]]
id = "net"
connect = ["10.9.0.0/16", "[fd00::]/8"]
"#;

pub fn cases() -> Vec<Case> {
    let closed = |name, play| Case::new(name, play).policy(CLOSED);
    let open = |name, play| Case::new(name, play).policy(OPEN);
    vec![
        closed("net::tcp_connect", tcp_connect),
        closed("net::ranges_of_addresses_and_ports", ranges),
        closed("net::udp_connect", udp_connect),
        closed("net::udp_without_connect", udp_without_connect),
        closed("net::many_datagrams_in_one_call", many_datagrams),
        closed("net::tcp_fast_open", fast_open),
        closed("net::mptcp", mptcp),
        closed(
            "net::mapped_addresses_are_not_other_addresses",
            mapped_closed,
        ),
        open("net::mapped_addresses_dont_evade_a_denial", mapped_open),
        open("net::denied_by_address_and_range", denied_by_range),
        closed("net::addresses_without_a_family", unspecified),
        closed("net::ipv4_address_on_an_ipv6_socket", ipv4_on_ipv6),
        closed("net::fast_open_by_option", fast_open_by_option),
        closed("net::of_an_ordinary_user", ordinary_user),
    ]
}

fn default_rule(bench: &Bench) -> String {
    format!("{}/default", bench.profile)
}

/// A new socket and a connect with it.
fn connecting(kind: i32, address: SocketAddr) -> Act {
    Act::Sequence(vec![
        socket_for(address, kind),
        connect(Arg::Step(0), internet(address)),
    ])
}

/// A new datagram socket and one datagram without a connect.
fn sending(address: SocketAddr) -> Act {
    Act::Sequence(vec![
        socket_for(address, libc::SOCK_DGRAM),
        send_to(Arg::Step(0), internet(address), 0),
    ])
}

fn denied_connect(
    bench: &mut Bench,
    agent: &mut Remote,
    (kind, protocol): (i32, &str),
    address: &str,
) -> Result<()> {
    let address = at(address);
    let wanted = Wanted::deny("net.connect", &default_rule(bench)).address(protocol, address);
    bench.denied(agent, &connecting(kind, address), wanted)?;
    Ok(())
}

const TCP: (i32, &str) = (libc::SOCK_STREAM, "tcp");
const UDP: (i32, &str) = (libc::SOCK_DGRAM, "udp");

fn tcp_connect(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for address in ["192.0.2.1:8080", "[2001:db8::1]:8080"].map(at) {
        let listener = TcpListener::bind(address)?;
        let wanted = Wanted::allow("net.connect")
            .address("tcp", address)
            .with("/rule", "service");
        let act = connecting(libc::SOCK_STREAM, address);
        bench.allowed_and_logged(&mut agent, &act, wanted)?;
        listener.accept()?;
        drop(listener);
        // What is allowed and isn't there fails as it does for everybody.
        bench.fails(&mut agent, &act, libc::ECONNREFUSED)?;
    }
    for denied in [
        "192.0.2.1:8081",
        "198.51.100.1:8080",
        "127.0.0.1:8080",
        "[2001:db8::1]:8081",
        "[2001:db8::2]:8080",
        "[::1]:8080",
    ] {
        denied_connect(bench, &mut agent, TCP, denied)?;
    }
    Ok(())
}

fn ranges(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for address in [
        "10.20.0.1:5000",
        "10.20.0.1:5500",
        "10.20.0.1:5999",
        "10.20.255.255:5432",
        "[fd00::1]:5432",
    ] {
        let address = at(address);
        bench.log.skip()?;
        // Nobody listens: what comes is an answer from the network or none at all.
        let act = Act::Sequence(vec![
            socket_for(address, libc::SOCK_STREAM | libc::SOCK_NONBLOCK),
            connect(Arg::Step(0), internet(address)),
        ]);
        agent.act(&act)?;
        let wanted = Wanted::allow("net.connect").address("tcp", address);
        bench.log.wait(&wanted.with("/rule", "range"))?;
    }
    for denied in [
        "10.20.0.1:4999",
        "10.20.0.1:6000",
        "10.19.255.255:5432",
        "10.21.0.0:5432",
        "[fd01::1]:5432",
        "[fd00::1]:6000",
    ] {
        denied_connect(bench, &mut agent, TCP, denied)?;
    }
    Ok(())
}

/// A receiver outside that says whether a datagram came.
struct Receiver(UdpSocket);

impl Receiver {
    fn at(address: &str) -> Result<Self> {
        let socket = UdpSocket::bind(at(address))?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// How many datagrams came. Loopback delivers before the sender's call returns.
    fn count(&self) -> usize {
        let mut buffer = [0; 16];
        std::iter::from_fn(|| self.0.recv(&mut buffer).ok()).count()
    }
}

fn udp_connect(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for address in ["192.0.2.1:5353", "[2001:db8::1]:5353"] {
        let receiver = Receiver::at(address)?;
        let address = at(address);
        let wanted = Wanted::allow("net.connect").address("udp", address);
        let socket = bench.allowed(&mut agent, &socket_for(address, libc::SOCK_DGRAM))?;
        let act = connect(socket, internet(address));
        bench.allowed_and_logged(&mut agent, &act, wanted)?;
        bench.allowed(&mut agent, &send(socket))?;
        ensure!(receiver.count() == 1, "what is allowed must arrive");

        // A connected socket still sends elsewhere when it is told to.
        let mut other = address;
        other.set_port(5354);
        let receiver = Receiver::at(&other.to_string())?;
        let wanted = Wanted::deny("net.send", &default_rule(bench)).address("udp", other);
        let act = send_to(socket, internet(other), 0);
        bench.denied(&mut agent, &act, wanted)?;
        ensure!(receiver.count() == 0, "what was denied has arrived");
    }
    for denied in ["192.0.2.1:53", "[2001:db8::2]:5353", "198.51.100.1:5353"] {
        denied_connect(bench, &mut agent, UDP, denied)?;
    }
    Ok(())
}

fn udp_without_connect(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for address in ["192.0.2.1:5353", "[2001:db8::1]:5353"] {
        let receiver = Receiver::at(address)?;
        let wanted = Wanted::allow("net.send").address("udp", at(address));
        bench.allowed_and_logged(&mut agent, &sending(at(address)), wanted)?;
        ensure!(receiver.count() == 1);
    }
    for address in [
        "192.0.2.1:53",
        "198.51.100.1:5353",
        "[2001:db8::2]:5353",
        "10.20.0.1:6000",
    ] {
        let receiver = Receiver::at(address)?;
        let wanted = Wanted::deny("net.send", &default_rule(bench)).address("udp", at(address));
        bench.denied(&mut agent, &sending(at(address)), wanted)?;
        ensure!(receiver.count() == 0, "what was denied has arrived");
    }
    Ok(())
}

fn many_datagrams(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let (allowed, denied) = ("192.0.2.1:5353", "198.51.100.1:5353");
    let (good, bad) = (Receiver::at(allowed)?, Receiver::at(denied)?);
    let [to_good, to_bad] = [allowed, denied].map(|address| internet(at(address)));
    let socket = bench.allowed(&mut agent, &socket(libc::AF_INET, libc::SOCK_DGRAM, 0))?;
    let wanted = Wanted::deny("net.send", &default_rule(bench)).address("udp", at(denied));

    let act = send_many(socket, &[to_bad.clone(), to_good.clone()]);
    bench.denied(&mut agent, &act, wanted.clone())?;
    ensure!((good.count(), bad.count()) == (0, 0));

    // One after the other until one fails: the call says how many went.
    bench.log.skip()?;
    let act = send_many(socket, &[to_good.clone(), to_bad.clone(), to_good.clone()]);
    ensure!(bench.allowed(&mut agent, &act)? == 1);
    bench.log.wait(&wanted)?;
    ensure!((good.count(), bad.count()) == (1, 0));

    // KERNEL: the messages after the first to the same address skip the hook (net/socket.c,
    // `sock_sendmsg_nosec`), which must not carry one to another.
    let list = [to_good.clone(), to_good.clone(), to_bad, to_good];
    ensure!(bench.allowed(&mut agent, &send_many(socket, &list))? == 2);
    ensure!((good.count(), bad.count()) == (2, 0));
    Ok(())
}

fn fast_open(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let opening = |address: SocketAddr| {
        Act::Sequence(vec![
            socket_for(address, libc::SOCK_STREAM),
            send_to(Arg::Step(0), internet(address), libc::MSG_FASTOPEN),
        ])
    };
    for (allowed, denied) in [
        ("192.0.2.1:8080", "192.0.2.1:8081"),
        ("[2001:db8::1]:8080", "[2001:db8::1]:8081"),
    ] {
        let (allowed, denied) = (at(allowed), at(denied));
        let listeners = [TcpListener::bind(allowed)?, TcpListener::bind(denied)?];
        let wanted = Wanted::deny("net.connect", &default_rule(bench)).address("tcp", denied);
        bench.denied(&mut agent, &opening(denied), wanted)?;
        listeners[1].set_nonblocking(true)?;
        ensure!(
            listeners[1].accept().is_err(),
            "what was denied has arrived"
        );
        let wanted = Wanted::allow("net.connect").address("tcp", allowed);
        ensure!(bench.allowed_and_logged(&mut agent, &opening(allowed), wanted)? == 4);
        listeners[0].accept()?;
    }
    Ok(())
}

/// `connect` that only remembers where to, until something is sent.
fn fast_open_by_option(bench: &mut Bench) -> Result<()> {
    const TCP_FASTOPEN_CONNECT: i32 = 30;
    let mut agent = bench.agent()?;
    let opening = |address: SocketAddr| {
        let on = 1_i32.to_ne_bytes();
        Act::Sequence(vec![
            socket_for(address, libc::SOCK_STREAM),
            set_option(Arg::Step(0), libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on),
            connect(Arg::Step(0), internet(address)),
            send(Arg::Step(0)),
        ])
    };
    let (allowed, denied) = (at("192.0.2.1:8080"), at("192.0.2.1:8081"));
    let listeners = [TcpListener::bind(allowed)?, TcpListener::bind(denied)?];
    listeners[1].set_nonblocking(true)?;
    let wanted = Wanted::deny("net.connect", &default_rule(bench)).address("tcp", denied);
    bench.denied(&mut agent, &opening(denied), wanted)?;
    ensure!(
        listeners[1].accept().is_err(),
        "what was denied has arrived"
    );
    let wanted = Wanted::allow("net.connect").address("tcp", allowed);
    ensure!(bench.allowed_and_logged(&mut agent, &opening(allowed), wanted)? == 4);
    listeners[0].accept()?;
    Ok(())
}

/// MPTCP is TCP to the rules, in both ways to connect.
fn mptcp(bench: &mut Bench) -> Result<()> {
    const IPPROTO_MPTCP: i32 = 262;
    let mut agent = bench.agent()?;
    let (allowed, denied) = (at("192.0.2.1:8080"), at("192.0.2.1:8081"));
    let listeners = [TcpListener::bind(allowed)?, TcpListener::bind(denied)?];
    listeners[1].set_nonblocking(true)?;
    let with = |act: Act| {
        let socket = socket(libc::AF_INET, libc::SOCK_STREAM, IPPROTO_MPTCP);
        Act::Sequence(vec![socket, act])
    };
    let connecting = |address| with(connect(Arg::Step(0), internet(address)));
    let opening = |address| with(send_to(Arg::Step(0), internet(address), libc::MSG_FASTOPEN));
    let wanted = Wanted::deny("net.connect", &default_rule(bench)).address("tcp", denied);
    bench.denied(&mut agent, &connecting(denied), wanted.clone())?;
    bench.denied(&mut agent, &opening(denied), wanted)?;
    ensure!(
        listeners[1].accept().is_err(),
        "what was denied has arrived"
    );
    let wanted = Wanted::allow("net.connect").address("tcp", allowed);
    bench.allowed_and_logged(&mut agent, &connecting(allowed), wanted)?;
    listeners[0].accept()?;
    Ok(())
}

fn mapped_closed(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let mapped = |port: u16| at(&format!("[::ffff:192.0.2.1]:{port}"));
    // Both are told as the addresses that they are.
    let listener = TcpListener::bind("192.0.2.1:8080")?;
    let wanted = Wanted::allow("net.connect").address("tcp", at("192.0.2.1:8080"));
    let act = connecting(libc::SOCK_STREAM, mapped(8080));
    bench.allowed_and_logged(&mut agent, &act, wanted)?;
    listener.accept()?;
    let wanted =
        Wanted::deny("net.connect", &default_rule(bench)).address("tcp", at("192.0.2.1:8081"));
    let act = connecting(libc::SOCK_STREAM, mapped(8081));
    bench.denied(&mut agent, &act, wanted)?;

    let receiver = Receiver::at("192.0.2.1:5353")?;
    let wanted = Wanted::allow("net.send").address("udp", at("192.0.2.1:5353"));
    bench.allowed_and_logged(&mut agent, &sending(mapped(5353)), wanted)?;
    ensure!(receiver.count() == 1);
    let receiver = Receiver::at("192.0.2.1:5354")?;
    let wanted =
        Wanted::deny("net.send", &default_rule(bench)).address("udp", at("192.0.2.1:5354"));
    bench.denied(&mut agent, &sending(mapped(5354)), wanted)?;
    ensure!(receiver.count() == 0);
    Ok(())
}

fn mapped_open(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let receiver = Receiver::at("203.0.113.1:53")?;
    for (kind, protocol) in [TCP, UDP] {
        let wanted = Wanted::deny("net.connect", "host").address(protocol, at("203.0.113.1:53"));
        let act = connecting(kind, at("[::ffff:203.0.113.1]:53"));
        bench.denied(&mut agent, &act, wanted)?;
    }
    let wanted = Wanted::deny("net.send", "host").address("udp", at("203.0.113.1:53"));
    let act = sending(at("[::ffff:203.0.113.1]:53"));
    bench.denied(&mut agent, &act, wanted)?;
    ensure!(receiver.count() == 0, "what was denied has arrived");
    let _receiver = Receiver::at("198.51.100.1:53")?;
    let twin = sending(at("[::ffff:198.51.100.1]:53"));
    bench.allowed(&mut agent, &twin)?;
    Ok(())
}

fn denied_by_range(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for (address, rule) in [
        ("203.0.113.1:80", "host"),
        ("10.9.8.7:80", "net"),
        ("10.9.255.255:65535", "net"),
        ("[fd00::1]:80", "net"),
        ("[fdff:ffff::1]:80", "net"),
    ] {
        for (kind, protocol) in [TCP, UDP] {
            let wanted = Wanted::deny("net.connect", rule).address(protocol, at(address));
            bench.denied(&mut agent, &connecting(kind, at(address)), wanted)?;
        }
    }
    let listener = TcpListener::bind("10.20.0.1:80")?;
    let twin = connecting(libc::SOCK_STREAM, at("10.20.0.1:80"));
    bench.allowed(&mut agent, &twin)?;
    listener.accept()?;
    Ok(())
}

/// A socket address with another family number.
fn with_family(mut address: Vec<u8>, family: i32) -> Vec<u8> {
    address[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    address
}

/// The kernel takes `AF_UNSPEC` for IPv4 in datagrams, and for "disconnect" in connect.
fn unspecified(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let (allowed, denied) = (at("192.0.2.1:5353"), at("198.51.100.1:5353"));
    let (good, bad) = (
        Receiver::at("192.0.2.1:5353")?,
        Receiver::at("198.51.100.1:5353")?,
    );
    let disguised = |address| with_family(internet(address), libc::AF_UNSPEC);
    let socket = bench.allowed(&mut agent, &socket(libc::AF_INET, libc::SOCK_DGRAM, 0))?;
    let wanted = Wanted::deny("net.send", &default_rule(bench)).address("udp", denied);
    let act = send_to(socket, disguised(denied), 0);
    bench.denied(&mut agent, &act, wanted)?;
    bench.allowed(&mut agent, &send_to(socket, disguised(allowed), 0))?;
    ensure!((good.count(), bad.count()) == (1, 0));
    // Connected, disconnected, and then nowhere.
    bench.allowed(&mut agent, &connect(socket, internet(allowed)))?;
    bench.allowed(&mut agent, &connect(socket, disguised(denied)))?;
    bench.fails(&mut agent, &send(socket), libc::EDESTADDRREQ)?;
    ensure!((good.count(), bad.count()) == (0, 0));
    Ok(())
}

fn ipv4_on_ipv6(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let (allowed, denied) = (at("192.0.2.1:5353"), at("198.51.100.1:5353"));
    let (good, bad) = (
        Receiver::at("192.0.2.1:5353")?,
        Receiver::at("198.51.100.1:5353")?,
    );
    let with = |act: Act| {
        let socket = socket(libc::AF_INET6, libc::SOCK_DGRAM, 0);
        Act::Sequence(vec![socket, act])
    };
    let sending = |address| with(send_to(Arg::Step(0), internet(address), 0));
    let connecting = |address| with(connect(Arg::Step(0), internet(address)));
    let rule = default_rule(bench);
    let wanted = Wanted::deny("net.send", &rule).address("udp", denied);
    bench.denied(&mut agent, &sending(denied), wanted)?;
    let wanted = Wanted::deny("net.connect", &rule).address("udp", denied);
    bench.denied(&mut agent, &connecting(denied), wanted)?;
    bench.allowed(&mut agent, &sending(allowed))?;
    bench.allowed(&mut agent, &connecting(allowed))?;
    ensure!((good.count(), bad.count()) == (1, 0));
    Ok(())
}

fn ordinary_user(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.user_agent()?;
    let listener = TcpListener::bind("192.0.2.1:8080")?;
    let twin = connecting(libc::SOCK_STREAM, at("192.0.2.1:8080"));
    bench.allowed(&mut agent, &twin)?;
    listener.accept()?;
    denied_connect(bench, &mut agent, TCP, "192.0.2.1:8081")?;
    denied_connect(bench, &mut agent, UDP, "[2001:db8::2]:5353")?;
    Ok(())
}
