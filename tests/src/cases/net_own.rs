//! `self`: an agent's connections with its own sockets, and nobody else's.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::{
    bench::Bench,
    log::Wanted,
    remote::{
        Act, Arg, Birth, Remote,
        calls::{
            accept, at, bind, close, connect, exec, internet, listen, receive, send, send_to,
            set_option, socket_for,
        },
    },
    scene::Case,
};

/// Test servers, and nothing of anybody else.
const OWN: &str = r#"
[default]
file = "allow"
exec = "allow"
connect = "deny"
listen = "allow"

[[allow]]
id = "own"
connect = "self"

[[deny]]
id = "never"
connect = "127.0.0.1:4999"
"#;

/// The same without `self`.
const CLOSED: &str = r#"
[default]
file = "allow"
exec = "allow"
connect = "deny"
listen = "allow"
"#;

pub fn cases() -> Vec<Case> {
    let own = |name, play| Case::new(name, play).policy(OWN).second(CLOSED);
    vec![
        own("net::own_stream", stream),
        own("net::own_datagrams", datagrams),
        own("net::own_datagrams_to_everybody", to_everybody),
        own("net::own_port_that_changes_hands", changes_hands),
        own("net::own_port_beside_somebody_elses", beside),
        own("net::own_port_of_another_agent", other_agent),
        own("net::own_port_elsewhere", elsewhere),
        own("net::own_server_in_python", python),
        own("net::own_listener_that_connects", listened),
    ]
}

/// Who listens, by its descriptor.
fn server(bench: &Bench, who: &mut Remote, address: &str) -> Result<i64> {
    listener(bench, who, address, libc::SO_REUSEADDR)
}

fn listener(bench: &Bench, who: &mut Remote, address: &str, option: i32) -> Result<i64> {
    let address = at(address);
    let fd = bench.allowed(who, &socket_for(address, libc::SOCK_STREAM))?;
    let on = 1_i32.to_ne_bytes();
    bench.allowed(who, &set_option(fd, libc::SOL_SOCKET, option, &on))?;
    bench.allowed(who, &bind(fd, internet(address)))?;
    bench.allowed(who, &listen(fd))?;
    Ok(fd)
}

/// A socket that listened before answers nobody when it connects. Two threads connect it at once, of which one is
/// refused, so that the hooks lose sight of what was decided.
fn listened(bench: &mut Bench) -> Result<()> {
    let somebody = TcpListener::bind("127.0.0.1:4800")?;
    somebody.set_nonblocking(true)?;
    let mut agent = bench.agent()?;
    let mut other = bench.agent()?;
    server(bench, &mut agent, "127.0.0.1:4801")?;
    let race = |to: &str| Act::RacingConnects {
        local: internet(at("127.0.0.1:4802")),
        to: internet(at(to)),
        other: internet(at("192.0.2.1:1")),
        times: 2000,
    };
    for agent in [&mut agent, &mut other] {
        let through = bench.allowed(agent, &race("127.0.0.1:4800"))?;
        ensure!(through == 0, "{through} connections went to somebody else");
    }
    ensure!(somebody.accept().is_err(), "somebody was connected to");
    // Its own server is there for it, whatever the socket did before.
    let act = Act::RacingConnects {
        local: internet(at("127.0.0.1:4802")),
        to: internet(at("127.0.0.1:4801")),
        other: internet(at("127.0.0.1:4801")),
        times: 20,
    };
    ensure!(bench.allowed(&mut agent, &act)? > 0);
    Ok(())
}

fn connecting(address: SocketAddr) -> Act {
    Act::Sequence(vec![
        socket_for(address, libc::SOCK_STREAM),
        connect(Arg::Step(0), internet(address)),
    ])
}

fn sending(address: SocketAddr) -> Act {
    Act::Sequence(vec![
        socket_for(address, libc::SOCK_DGRAM),
        send_to(Arg::Step(0), internet(address), 0),
    ])
}

fn allowed(address: SocketAddr) -> Wanted {
    Wanted::allow("net.connect")
        .address("tcp", address)
        .with("/rule", "own")
        .with("/process/comm", "agentguard-gues")
}

fn denied(bench: &Bench, action: &str, protocol: &str, address: SocketAddr) -> Wanted {
    Wanted::deny(action, &format!("{}/default", bench.profile)).address(protocol, address)
}

fn stream(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for (address, means, seen) in [
        ("127.0.0.1:4000", "127.0.0.1:4000", "127.0.0.1:4000"),
        ("[::1]:4000", "[::1]:4000", "[::1]:4000"),
        ("0.0.0.0:4001", "127.0.0.9:4001", "127.0.0.9:4001"),
        ("[::]:4002", "[::ffff:127.0.0.1]:4002", "127.0.0.1:4002"),
        ("[::]:4003", "127.0.0.1:4003", "127.0.0.1:4003"),
        ("0.0.0.0:4004", "0.0.0.0:4004", "0.0.0.0:4004"),
        ("[::]:4005", "[::]:4005", "[::]:4005"),
    ] {
        let means = at(means);
        // Before anybody is there, the kernel says so.
        bench.fails(&mut agent, &connecting(means), libc::ECONNREFUSED)?;
        let server = server(bench, &mut agent, address)?;
        let client = bench.allowed(&mut agent, &socket_for(means, libc::SOCK_STREAM))?;
        let act = connect(client, internet(means));
        bench.allowed_and_logged(&mut agent, &act, allowed(at(seen)))?;
        let accepted = bench.allowed(&mut agent, &accept(server))?;
        for fd in [client, accepted, client] {
            bench.allowed(&mut agent, &send(fd))?;
        }
        // The one that goes first waits a while for what the other still says.
        for fd in [accepted, client, server] {
            bench.allowed(&mut agent, &close(fd))?;
        }
    }
    // A denial is a denial.
    let address = at("127.0.0.1:4999");
    server(bench, &mut agent, "127.0.0.1:4999")?;
    let wanted = Wanted::deny("net.connect", "never").address("tcp", address);
    bench.denied(&mut agent, &connecting(address), wanted)?;
    // And without the rule, what the default says.
    let mut agent = bench.agent_under(&bench.second_profile())?;
    let address = at("127.0.0.1:4010");
    server(bench, &mut agent, "127.0.0.1:4010")?;
    let rule = format!("{}/default", bench.second_profile());
    let wanted = Wanted::deny("net.connect", &rule).address("tcp", address);
    bench.denied(&mut agent, &connecting(address), wanted)?;
    Ok(())
}

fn datagrams(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for address in ["127.0.0.1:4100", "[::1]:4100"].map(at) {
        let server = bench.allowed(&mut agent, &socket_for(address, libc::SOCK_DGRAM))?;
        bench.allowed(&mut agent, &bind(server, internet(address)))?;
        let own = |action: &str| {
            Wanted::allow(action)
                .address("udp", address)
                .with("/rule", "own")
        };
        bench.allowed_and_logged(&mut agent, &sending(address), own("net.send"))?;
        let client = bench.allowed(&mut agent, &socket_for(address, libc::SOCK_DGRAM))?;
        let act = connect(client, internet(address));
        bench.allowed_and_logged(&mut agent, &act, own("net.connect"))?;
        bench.allowed(&mut agent, &send(client))?;
    }
    for address in ["127.0.0.1:4101", "[::1]:4101"].map(at) {
        let _foreign = UdpSocket::bind(address)?;
        let wanted = denied(bench, "net.send", "udp", address);
        bench.denied(&mut agent, &sending(address), wanted)?;
    }
    Ok(())
}

/// What is sent to the broadcast address goes to everybody on the port, though only the agent's own socket is found there.
fn to_everybody(bench: &mut Bench) -> Result<()> {
    let on = 1_i32.to_ne_bytes();
    let reuse = |fd: i64| set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &on);
    let (everywhere, everybody) = (at("0.0.0.0:4150"), at("127.255.255.255:4150"));
    let waits = |bench: &Bench, who: &mut Remote| {
        let fd = bench.allowed(who, &socket_for(everywhere, libc::SOCK_DGRAM))?;
        bench.allowed(who, &reuse(fd))?;
        bench.allowed(who, &bind(fd, internet(everywhere)))?;
        anyhow::Ok(fd)
    };
    let mut outside = Remote::outside()?;
    let foreign = waits(bench, &mut outside)?;
    let mut agent = bench.agent()?;
    waits(bench, &mut agent)?;
    let fd = bench.allowed(&mut agent, &socket_for(everybody, libc::SOCK_DGRAM))?;
    let broadcast = set_option(fd, libc::SOL_SOCKET, libc::SO_BROADCAST, &on);
    bench.allowed(&mut agent, &broadcast)?;
    let act = send_to(fd, internet(everybody), 0);
    let wanted = denied(bench, "net.send", "udp", everybody);
    bench.denied(&mut agent, &act, wanted)?;
    let act = connect(fd, internet(everybody));
    let wanted = denied(bench, "net.connect", "udp", everybody);
    bench.denied(&mut agent, &act, wanted)?;
    bench.fails(&mut outside, &receive(foreign), libc::EAGAIN)?;
    // It would have come.
    let sender = bench.allowed(&mut outside, &socket_for(everybody, libc::SOCK_DGRAM))?;
    let broadcast = set_option(sender, libc::SOL_SOCKET, libc::SO_BROADCAST, &on);
    bench.allowed(&mut outside, &broadcast)?;
    bench.allowed(&mut outside, &send_to(sender, internet(everybody), 0))?;
    bench.allowed(&mut outside, &receive(foreign))?;
    Ok(())
}

/// The same port is the agent's, nobody's, and somebody else's.
fn changes_hands(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let address = at("127.0.0.1:4200");
    for _ in 0..2 {
        let server = server(bench, &mut agent, "127.0.0.1:4200")?;
        bench.allowed(&mut agent, &connecting(address))?;
        bench.allowed(&mut agent, &close(server))?;
        let foreign = TcpListener::bind(address)?;
        let wanted = denied(bench, "net.connect", "tcp", address);
        let event = bench.denied(&mut agent, &connecting(address), wanted)?;
        let pid = event.pointer("/process/pid").and_then(Value::as_u64);
        ensure!(pid == Some(agent.pid().into()), "whose is it: {event}");
        drop(foreign);
    }
    Ok(())
}

/// A listener that is nearer to the address than the agent's own. Who has the same user may share a port.
fn beside(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let mut foreign = Remote::outside()?;
    listener(bench, &mut foreign, "127.0.0.1:4300", libc::SO_REUSEPORT)?;
    listener(bench, &mut agent, "0.0.0.0:4300", libc::SO_REUSEPORT)?;
    let address = at("127.0.0.1:4300");
    let wanted = denied(bench, "net.connect", "tcp", address);
    bench.denied(&mut agent, &connecting(address), wanted)?;
    bench.allowed(&mut agent, &connecting(at("127.0.0.2:4300")))?;
    Ok(())
}

fn other_agent(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let mut other = bench.agent()?;
    let address = at("127.0.0.1:4400");
    server(bench, &mut other, "127.0.0.1:4400")?;
    let wanted = denied(bench, "net.connect", "tcp", address);
    bench.denied(&mut agent, &connecting(address), wanted)?;
    bench.allowed(&mut other, &connecting(address))?;
    Ok(())
}

/// A port of its own opens no other machine's.
fn elsewhere(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    server(bench, &mut agent, "0.0.0.0:4500")?;
    for address in ["192.0.2.77:4500", "[2001:db8::77]:4500"].map(at) {
        let wanted = denied(bench, "net.connect", "tcp", address);
        bench.denied(&mut agent, &connecting(address), wanted)?;
    }
    bench.allowed(&mut agent, &connecting(at("127.0.0.1:4500")))?;
    Ok(())
}

/// As the tests of a project do it: ports that the kernel gives, threads, answers, many connections.
const PYTHON: &str = r#"
import socket, threading

def serve(listener):
    while True:
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(100000):
                connection.sendall(data)

for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    listener = socket.create_server((host, 0), family=family)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    for length in [1, 70000] * 20:
        with socket.create_connection(listener.getsockname()[:2]) as client:
            client.sendall(b"x" * length)
            client.shutdown(socket.SHUT_WR)
            echo = b""
            while data := client.recv(100000):
                echo += data
            assert len(echo) == length, (len(echo), length)

    server = socket.socket(family, socket.SOCK_DGRAM)
    server.bind((host, 0))
    client = socket.socket(family, socket.SOCK_DGRAM)
    for number in range(20):
        client.sendto(b"ping %d" % number, server.getsockname())
        data, sender = server.recvfrom(100)
        server.sendto(data, sender)
        assert client.recv(100) == b"ping %d" % number
"#;

fn python(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    bench.log.skip()?;
    let act = exec(Birth::Fork, "/usr/bin/python3", &["-Sc", PYTHON]);
    let status = bench.allowed(&mut agent, &act)?;
    ensure!(status == 0, "it ended with {status}");
    bench
        .log
        .wait(&Wanted::allow("net.send").with("/rule", "own"))?;
    // Whatever a packet was dropped for came before this.
    let address = at("192.0.2.77:80");
    agent.act(&connecting(address))?;
    bench
        .log
        .wait(&denied(bench, "net.connect", "tcp", address))?;
    bench
        .log
        .lacks(&Wanted::action("net.send").with("/verdict", "deny"))
}
