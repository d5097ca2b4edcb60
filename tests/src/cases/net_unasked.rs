//! Datagrams that come in: who is heard by a socket with which an agent sends, and who by one on which it serves.

use std::{
    fs::File,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{
    bench::{Bench, of, run_well},
    log::Wanted,
    remote::{
        Act, Arg, Birth, Remote,
        calls::{
            at, bind, call, connect, exec, internet, open, receive, received, send, send_to,
            set_option, socket_for,
        },
    },
    said::Said,
    scene::Case,
};

const CLOSED: &str = r#"
[[allow]]
id = "service"
connect = ["udp://192.0.2.1:5353-5354", "udp://[2001:db8::1]:5353-5354", "udp://10.77.0.2:5353", "udp://[fd77::2]:5353"]

[[deny]]
id = "never"
connect = "203.0.113.1"

[[allow]]
id = "server"
listen = ["udp://192.0.2.1:9100-9110", "udp://[2001:db8::1]:9100-9110", "udp://0.0.0.0:9120", "udp://[::]:9121"]
"#;

/// The same, but nothing is held back.
const AUDIT: &str = r#"
mode = "audit"

[default]
file = "allow"
exec = "allow"
connect = "deny"
listen = "deny"
"#;

/// Test servers, and nothing of anybody else. Of datagrams none is to be heard from outside.
const OWN: &str = r#"
[[allow]]
id = "own"
connect = "self"
"#;

pub fn cases() -> Vec<Case> {
    let closed = |name, play| Case::new(name, play).policy(CLOSED);
    let own = |name, play| Case::new(name, play).policy(OWN);
    vec![
        closed("net::unasked_datagrams", unasked),
        closed("net::unasked_datagrams_with_options", options),
        closed("net::unasked_datagrams_from_another_machine", far),
        closed("net::datagrams_to_a_server", served),
        closed("net::unasked_datagrams_in_audit_mode", audit).second(AUDIT),
        closed("net::unasked_datagrams_after_untag", untagged),
        own("net::own_datagrams_and_nobody_elses", own_only),
        own("net::own_datagrams_in_python", python),
    ]
}

fn default_rule(bench: &Bench) -> String {
    format!("{}/default", bench.profile)
}

/// What strangers send, and what the agent is to hear; told apart by their length.
const UNASKED: &[u8] = b"unasked";
const ANSWER: &[u8] = b"pong";

/// The agent has heard nothing.
pub fn hears_nothing(bench: &Bench, agent: &mut Remote, fd: i64) -> Result<()> {
    bench.fails(agent, &receive(fd), libc::EAGAIN)
}

pub fn hears(bench: &Bench, agent: &mut Remote, fd: i64, sent: &[u8]) -> Result<()> {
    let heard = bench.allowed(agent, &receive(fd))?;
    ensure!(heard == sent.len() as i64, "{heard} bytes of {sent:?}");
    Ok(())
}

/// A new datagram socket of the agent.
fn datagrams(bench: &Bench, agent: &mut Remote, address: SocketAddr) -> Result<i64> {
    bench.allowed(agent, &socket_for(address, libc::SOCK_DGRAM))
}

pub fn dropped(bench: &Bench, protocol: &str, source: SocketAddr) -> Wanted {
    Wanted::deny("net.accept", &default_rule(bench)).address(protocol, source)
}

/// What somebody sends doesn't reach the agent's socket, and the log says whose it was.
fn unheard(
    bench: &mut Bench,
    agent: &mut Remote,
    fd: i64,
    (stranger, to): (&UdpSocket, SocketAddr),
    wanted: Wanted,
) -> Result<()> {
    bench.log.skip()?;
    // Who is no agent is not told.
    ensure!(stranger.send_to(UNASKED, to)? == UNASKED.len());
    let event = bench.log.wait(&of(agent, wanted))?;
    ensure!(event.get("process").is_none(), "whose is it: {event}");
    hears_nothing(bench, agent, fd)
}

fn unasked(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for (named, service, strangers) in [
        (
            "192.0.2.1:5353",
            "192.0.2.1:5353",
            ["198.51.100.1:5353", "192.0.2.1:5355", "127.0.0.1:5353"],
        ),
        (
            "[2001:db8::1]:5353",
            "[2001:db8::1]:5353",
            ["[2001:db8::2]:5353", "[2001:db8::1]:5355", "[::1]:5353"],
        ),
        (
            "[::ffff:192.0.2.1]:5353",
            "192.0.2.1:5353",
            ["198.51.100.1:5353", "192.0.2.1:5355", "127.0.0.1:5353"],
        ),
    ]
    .map(|(named, service, strangers)| (at(named), at(service), strangers.map(at)))
    {
        let peer = UdpSocket::bind(service)?;
        let any = if named.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        for explicitly in [false, true] {
            let fd = datagrams(bench, &mut agent, named)?;
            if explicitly {
                bench.allowed(&mut agent, &bind(fd, internet(at(any))))?;
            }
            bench.allowed(&mut agent, &send_to(fd, internet(named), 0))?;
            let (_, own) = peer.recv_from(&mut [0; 16])?;
            for stranger in strangers {
                let wanted = dropped(bench, "udp", stranger);
                let stranger = UdpSocket::bind(stranger)?;
                unheard(bench, &mut agent, fd, (&stranger, own), wanted)?;
            }
            peer.send_to(ANSWER, own)?;
            hears(bench, &mut agent, fd, ANSWER)?;
        }
        // With just one it talks to, and with anyone again. KERNEL: an IPv6 socket goes on to hear just that one
        // (net/ipv4/udp.c, `__udp_disconnect`).
        let fd = datagrams(bench, &mut agent, named)?;
        bench.allowed(&mut agent, &connect(fd, internet(named)))?;
        bench.allowed(&mut agent, &send(fd))?;
        let (_, own) = peer.recv_from(&mut [0; 16])?;
        peer.send_to(ANSWER, own)?;
        hears(bench, &mut agent, fd, ANSWER)?;
        if named.is_ipv6() {
            continue;
        }
        bench.allowed(&mut agent, &connect(fd, vec![0; 16]))?;
        bench.allowed(&mut agent, &send_to(fd, internet(named), 0))?;
        let (_, own) = peer.recv_from(&mut [0; 16])?;
        let wanted = dropped(bench, "udp", strangers[0]);
        let stranger = UdpSocket::bind(strangers[0])?;
        unheard(bench, &mut agent, fd, (&stranger, own), wanted)?;
    }
    // By a rule, and not for want of one.
    let fd = datagrams(bench, &mut agent, at("192.0.2.1:5353"))?;
    bench.allowed(&mut agent, &bind(fd, internet(at("0.0.0.0:0"))))?;
    let to = SocketAddr::new(at("192.0.2.1:0").ip(), agent.port_of(fd, "udp")?);
    let wanted = Wanted::deny("net.accept", "never").address("udp", at("203.0.113.1:5353"));
    let stranger = UdpSocket::bind(at("203.0.113.1:5353"))?;
    unheard(bench, &mut agent, fd, (&stranger, to), wanted)
}

/// A source that rules allow, behind headers in which it could be another one's.
fn options(bench: &mut Bench) -> Result<()> {
    const IPV6_DSTOPTS: i32 = 59;
    // Padding (RFC 8200 section 4.2), and a record of the route (RFC 791).
    const PADDING: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
    const RECORD: [u8; 8] = [7, 7, 4, 0, 0, 0, 0, 0];
    let mut agent = bench.agent()?;
    let mut outside = Remote::outside()?;
    for (service, server, level, option, value) in [
        (
            "192.0.2.1:5354",
            "192.0.2.1:9104",
            libc::IPPROTO_IP,
            libc::IP_OPTIONS,
            RECORD,
        ),
        (
            "[2001:db8::1]:5354",
            "[2001:db8::1]:9104",
            libc::IPPROTO_IPV6,
            IPV6_DSTOPTS,
            PADDING,
        ),
    ] {
        let (service, server) = (at(service), at(server));
        let peer = bench.allowed(&mut outside, &socket_for(service, libc::SOCK_DGRAM))?;
        bench.allowed(&mut outside, &bind(peer, internet(service)))?;
        let fd = datagrams(bench, &mut agent, service)?;
        bench.allowed(&mut agent, &send_to(fd, internet(service), 0))?;
        let table = if service.is_ipv4() { "udp" } else { "udp6" };
        let own = SocketAddr::new(service.ip(), agent.port_of(fd, table)?);
        bench.allowed(&mut outside, &send_to(peer, internet(own), 0))?;
        hears(bench, &mut agent, fd, b"ping")?;
        bench.allowed(&mut outside, &set_option(peer, level, option, &value))?;
        bench.log.skip()?;
        bench.allowed(&mut outside, &send_to(peer, internet(own), 0))?;
        let wanted = Wanted::refusal("net.accept", "source-routed");
        bench.log.wait(&of(&agent, wanted))?;
        hears_nothing(bench, &mut agent, fd)?;
        // Who hears anyone doesn't ask whose it is.
        let fd = datagrams(bench, &mut agent, server)?;
        bench.allowed(&mut agent, &bind(fd, internet(server)))?;
        bench.allowed(&mut outside, &send_to(peer, internet(server), 0))?;
        hears(bench, &mut agent, fd, b"ping")?;
    }
    Ok(())
}

/// How long the other network may take to be there.
const PATIENCE: Duration = Duration::from_secs(20);

/// Another network, at the other end of a pair of devices.
struct Network(Remote);

impl Network {
    fn new(bench: &Bench) -> Result<Self> {
        let mut holder = Remote::outside()?;
        bench.allowed(
            &mut holder,
            &call(libc::SYS_unshare, [libc::CLONE_NEWNET.into()]),
        )?;
        let network = Self(holder);
        run_well("modprobe", &["veth"])?;
        // The other one's name is the kernel's choice.
        ip("link add near type veth")?;
        ip(&format!("link set veth0 netns {}", network.0.pid()))?;
        ip("address add 10.77.0.1/24 dev near")?;
        ip("address add fd77::1/64 dev near")?;
        ip("link set near up")?;
        network.inside(|| {
            for address in ["10.77.0.2/24", "10.77.0.3/24", "fd77::2/64", "fd77::3/64"] {
                ip(&format!("address add {address} dev veth0"))?;
            }
            ip("link set veth0 up")
        })?;
        bound(at("[fd77::1]:0"))?;
        Ok(network)
    }

    /// Does something there, and what it starts does too.
    fn inside<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(format!("/proc/{}/ns/net", self.0.pid()))?;
        let there = || {
            // SAFETY: no memory is involved; only this thread goes there.
            let entered = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            ensure!(entered == 0, "{}", std::io::Error::last_os_error());
            act()
        };
        thread::scope(|scope| scope.spawn(there).join())
            .map_err(|_| anyhow::anyhow!("the thread in the other network failed"))?
    }

    /// A socket there.
    fn bind(&self, address: SocketAddr) -> Result<UdpSocket> {
        self.inside(|| bound(address))
    }
}

/// A socket at an address, as soon as that can be used: one of IPv6 is first looked for elsewhere.
fn bound(address: SocketAddr) -> Result<UdpSocket> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UdpSocket::bind(address) {
            Err(error)
                if error.kind() == ErrorKind::AddrNotAvailable && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            socket => {
                let socket = socket?;
                socket.set_read_timeout(Some(PATIENCE))?;
                return Ok(socket);
            }
        }
    }
}

fn ip(line: &str) -> Result<()> {
    let words: Vec<&str> = line.split(' ').collect();
    run_well("ip", &words).map(drop)
}

/// Whole datagrams, and such as come in fragments.
fn far(bench: &mut Bench) -> Result<()> {
    let network = Network::new(bench)?;
    let mut agent = bench.agent()?;
    for (service, stranger) in [
        ("10.77.0.2:5353", "10.77.0.3:5353"),
        ("[fd77::2]:5353", "[fd77::3]:5353"),
    ] {
        let (service, stranger) = (at(service), at(stranger));
        let wanted = dropped(bench, "udp", stranger);
        let (peer, stranger) = (network.bind(service)?, network.bind(stranger)?);
        let fd = datagrams(bench, &mut agent, service)?;
        bench.allowed(&mut agent, &send_to(fd, internet(service), 0))?;
        let (_, own) = peer.recv_from(&mut [0; 16])?;
        for length in [100, 4000] {
            let datagram = vec![0; length];
            bench.log.skip()?;
            stranger.send_to(&datagram, own)?;
            bench.log.wait(&of(&agent, wanted.clone()))?;
            hears_nothing(bench, &mut agent, fd)?;
            peer.send_to(&datagram, own)?;
            // It takes as long as it takes.
            let heard = bench.allowed(&mut agent, &received(fd, 0))?;
            ensure!(heard == length as i64, "{heard} bytes of {length}");
        }
    }
    Ok(())
}

/// Where the agent may listen it hears anyone, by each name of the place.
fn served(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for (bound, to, strangers) in [
        (
            "192.0.2.1:9100",
            "192.0.2.1:9100",
            ["198.51.100.1:0", "203.0.113.1:0"],
        ),
        (
            "[2001:db8::1]:9100",
            "[2001:db8::1]:9100",
            ["[2001:db8::2]:0", "[::1]:0"],
        ),
        (
            "[::ffff:192.0.2.1]:9101",
            "192.0.2.1:9101",
            ["198.51.100.1:0", "203.0.113.1:0"],
        ),
        (
            "0.0.0.0:9120",
            "127.0.0.1:9120",
            ["198.51.100.1:0", "127.0.0.1:0"],
        ),
        (
            "[::]:9121",
            "192.0.2.1:9121",
            ["198.51.100.1:0", "127.0.0.1:0"],
        ),
        ("[::]:9121", "[::1]:9121", ["[2001:db8::2]:0", "[::1]:0"]),
    ] {
        let act = Act::Sequence(vec![
            socket_for(at(bound), libc::SOCK_DGRAM),
            bind(Arg::Step(0), internet(at(bound))),
            call(libc::SYS_dup, [Arg::Step(0)]),
        ]);
        let fd = bench.allowed(&mut agent, &act)?;
        for stranger in strangers {
            UdpSocket::bind(at(stranger))?.send_to(UNASKED, at(to))?;
            hears(bench, &mut agent, fd, UNASKED)?;
        }
        for fd in [fd - 1, fd] {
            bench.allowed(&mut agent, &crate::remote::calls::close(fd))?;
        }
    }
    Ok(())
}

/// Heard, and told what would have become of it.
fn audit(bench: &mut Bench) -> Result<()> {
    let profile = bench.second_profile();
    let mut agent = bench.agent_under(&profile)?;
    for (any, local, stranger, table) in [
        ("0.0.0.0:0", "127.0.0.1:0", "198.51.100.1:5353", "udp"),
        ("[::]:0", "[::1]:0", "[2001:db8::2]:5353", "udp6"),
    ] {
        let fd = datagrams(bench, &mut agent, at(any))?;
        bench.allowed(&mut agent, &bind(fd, internet(at(any))))?;
        let to = SocketAddr::new(at(local).ip(), agent.port_of(fd, table)?);
        bench.log.skip()?;
        UdpSocket::bind(at(stranger))?.send_to(UNASKED, to)?;
        let wanted = Wanted::action("net.accept")
            .with("/verdict", "audit")
            .with("/would", "deny")
            .with("/rule", format!("{profile}/default"))
            .address("udp", at(stranger));
        bench.log.wait(&of(&agent, wanted))?;
        hears(bench, &mut agent, fd, UNASKED)?;
    }
    Ok(())
}

fn untagged(bench: &mut Bench) -> Result<()> {
    let (mut agent, cgroup) = bench.tagged_after(&[])?;
    // What gives a task that was moved in its label, before it makes a socket.
    bench.allowed(&mut agent, &open("/dev/null", libc::O_RDONLY))?;
    let fd = datagrams(bench, &mut agent, at("0.0.0.0:0"))?;
    bench.allowed(&mut agent, &bind(fd, internet(at("0.0.0.0:0"))))?;
    let to = SocketAddr::new(at("127.0.0.1:0").ip(), agent.port_of(fd, "udp")?);
    let stranger = UdpSocket::bind(at("198.51.100.1:5353"))?;
    let wanted = dropped(bench, "udp", at("198.51.100.1:5353"));
    unheard(bench, &mut agent, fd, (&stranger, to), wanted)?;
    let path = cgroup.path.display().to_string();
    bench.log.skip()?;
    Said::by(&["untag", &path])?.ends(0)?;
    bench.log.wait(&Wanted::action("agent.ended"))?;
    stranger.send_to(UNASKED, to)?;
    hears(bench, &mut agent, fd, UNASKED)?;
    agent.end()?;
    Ok(())
}

/// What `self` opens on loopback is the agent's own, whoever else is there.
fn own_only(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let mut other = bench.agent()?;
    for (local, table) in [("127.0.0.1:0", "udp"), ("[::1]:0", "udp6")] {
        let local = at(local);
        let bound = |bench: &Bench, agent: &mut Remote| -> Result<(i64, SocketAddr)> {
            let fd = datagrams(bench, agent, local)?;
            bench.allowed(agent, &bind(fd, internet(local)))?;
            let port = agent.port_of(fd, table)?;
            Ok((fd, SocketAddr::new(local.ip(), port)))
        };
        let (server, to) = bound(bench, &mut agent)?;
        let (client, from) = bound(bench, &mut agent)?;
        bench.allowed(&mut agent, &send_to(client, internet(to), 0))?;
        hears(bench, &mut agent, server, b"ping")?;
        bench.allowed(&mut agent, &send_to(server, internet(from), 0))?;
        hears(bench, &mut agent, client, b"ping")?;

        let stranger = UdpSocket::bind(local)?;
        let wanted = dropped(bench, "udp", stranger.local_addr()?);
        unheard(bench, &mut agent, client, (&stranger, from), wanted)?;
        // Another agent's is refused where it sends.
        let (fd, _) = bound(bench, &mut other)?;
        let wanted = Wanted::deny("net.send", &default_rule(bench)).address("udp", from);
        bench.denied(&mut other, &send_to(fd, internet(from), 0), wanted)?;
        hears_nothing(bench, &mut agent, client)?;
    }
    Ok(())
}

/// Servers of datagrams in a test run, on ports that the kernel gives and no rule knows.
const PYTHON: &str = r#"
import socket

for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    server = socket.socket(family, socket.SOCK_DGRAM)
    server.bind((host, 0))
    server.settimeout(20)
    for number in range(20):
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.settimeout(20)
            client.sendto(b"ping %d" % number, server.getsockname())
            data, sender = server.recvfrom(100)
            server.sendto(data, sender)
            assert client.recv(100) == b"ping %d" % number
"#;

fn python(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let act = exec(Birth::Fork, "/usr/bin/python3", &["-Sc", PYTHON]);
    let status = bench.allowed(&mut agent, &act)?;
    ensure!(status == 0, "it ended with {status}");
    Ok(())
}
