//! What connect and send don't show: sockets that were born elsewhere, and sockets that wait for others.

use std::{
    io::Read as _,
    net::{SocketAddr, TcpStream, UdpSocket},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};

use crate::{
    bench::Bench,
    log::Wanted,
    remote::{
        Act, Arg, Outcome, PROGRAM, Remote,
        calls::{
            accept, at, bind, call, connect, forked, internet, listen, send, send_to, socket,
            socket_for, unix, write,
        },
    },
    scene::Case,
};

const CLOSED: &str = r#"
[default]
file = "allow"
exec = "allow"
connect = "deny"
listen = "deny"

[[allow]]
id = "service"
connect = ["192.0.2.1:8080", "[2001:db8::1]:8080", "192.0.2.1:5353", "[2001:db8::1]:5353", "unix:{dir}/giver"]

[[allow]]
id = "server"
listen = ["tcp://192.0.2.1:9000-9010", "tcp://[2001:db8::1]:9000-9010", "udp://192.0.2.1:9000-9010", "tcp://*:0"]
"#;

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(CLOSED);
    vec![
        case("net::socket_received_from_outside", received),
        case("net::socket_inherited_from_outside", inherited),
        case("net::socket_from_before_the_tag", before_the_tag),
        case("net::unix_socket_as_standard_stream", standard_stream),
        case("net::listener_that_is_somebody_elses", foreign_listener),
        case("net::server_answers_who_comes", server_answers),
        case("net::listen", listening),
        case("net::udp_bind", udp_bind),
        case("net::accept", accepting),
        case("net::mptcp_server_answers", mptcp_server),
        case(
            "net::mapped_addresses_where_an_agent_listens",
            mapped_listener,
        ),
    ]
}

/// A receiver outside.
fn receiver(address: &str) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(at(address))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn has_none(receiver: &UdpSocket) -> bool {
    receiver.recv(&mut [0; 16]).is_err()
}

/// Everything that sends is refused on a socket that isn't the agent's own.
fn refused(bench: &mut Bench, agent: &mut Remote, fd: i64, kind: i32) -> Result<()> {
    let foreign = |action| Wanted::refusal(action, "foreign-socket");
    let address = at("192.0.2.1:5353");
    let receiver = receiver("192.0.2.1:5353")?;
    let act = connect(fd, internet(address));
    bench.denied(agent, &act, foreign("net.connect"))?;
    if kind == libc::SOCK_DGRAM {
        let act = send_to(fd, internet(address), 0);
        bench.denied(agent, &act, foreign("net.send"))?;
        let act = call(
            libc::SYS_write,
            [fd.into(), Arg::Bytes(b"ping".to_vec()), 4.into()],
        );
        bench.denied(agent, &act, foreign("net.send"))?;
    }
    ensure!(has_none(&receiver), "what was refused has arrived");
    Ok(())
}

/// The same agent with a socket of its own.
fn own_works(bench: &Bench, agent: &mut Remote) -> Result<()> {
    let receiver = receiver("192.0.2.1:5353")?;
    let act = Act::Sequence(vec![
        socket(libc::AF_INET, libc::SOCK_DGRAM, 0),
        connect(Arg::Step(0), internet(at("192.0.2.1:5353"))),
        send(Arg::Step(0)),
    ]);
    bench.allowed(agent, &act)?;
    ensure!(!has_none(&receiver), "what was allowed has not arrived");
    Ok(())
}

fn received(bench: &mut Bench) -> Result<()> {
    let path = bench.path("giver");
    let giver = UnixListener::bind(&path)?;
    let mut agent = bench.agent()?;
    let way = Act::Sequence(vec![
        socket(libc::AF_UNIX, libc::SOCK_STREAM, 0),
        connect(Arg::Step(0), unix(&path)),
        call(libc::SYS_dup, [Arg::Step(0)]),
    ]);
    let way = bench.allowed(&mut agent, &way)?;
    let (giving, _) = giver.accept()?;
    for kind in [libc::SOCK_DGRAM, libc::SOCK_STREAM] {
        let socket: OwnedFd = if kind == libc::SOCK_DGRAM {
            UdpSocket::bind("0.0.0.0:0")?.into()
        } else {
            fresh_stream()?
        };
        send_descriptor(&giving, &socket)?;
        let act = Act::ReceiveDescriptor { socket: way as i32 };
        let fd = bench.allowed(&mut agent, &act)?;
        refused(bench, &mut agent, fd, kind)?;
    }
    own_works(bench, &mut agent)
}

/// A TCP socket that isn't connected.
fn fresh_stream() -> Result<OwnedFd> {
    use std::os::fd::FromRawFd as _;
    // SAFETY: a new descriptor that is nobody else's.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        ensure!(fd >= 0, "{}", std::io::Error::last_os_error());
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Hands a descriptor to whoever is at the other end.
fn send_descriptor(to: &UnixStream, fd: &OwnedFd) -> Result<()> {
    match crate::remote::send_descriptor(to.as_raw_fd(), fd.as_raw_fd()) {
        Outcome::Done(_) => Ok(()),
        other => anyhow::bail!("cannot send a descriptor: {other:?}"),
    }
}

/// An agent whose standard error is this.
fn agent_with_stderr(bench: &mut Bench, stderr: OwnedFd) -> Result<Remote> {
    let name = bench.name();
    let mut run = Command::new("agentguard");
    run.args(["run", "--profile", &bench.profile, "--name", &name]);
    run.args(["--", PROGRAM]).stderr(Stdio::from(stderr));
    Remote::start(&mut run, Some(&name))
}

fn inherited(bench: &mut Bench) -> Result<()> {
    let stream = fresh_stream()?;
    let mut agent = agent_with_stderr(bench, stream)?;
    refused(bench, &mut agent, 2, libc::SOCK_STREAM)?;
    own_works(bench, &mut agent)?;
    let datagrams = UdpSocket::bind("0.0.0.0:0")?;
    let mut agent = agent_with_stderr(bench, datagrams.into())?;
    refused(bench, &mut agent, 2, libc::SOCK_DGRAM)?;
    Ok(())
}

fn before_the_tag(bench: &mut Bench) -> Result<()> {
    let before = [
        socket(libc::AF_INET, libc::SOCK_DGRAM, 0),
        socket(libc::AF_INET, libc::SOCK_STREAM, 0),
    ];
    let (mut agent, _cgroup) = bench.tagged_after(&before)?;
    // The first descriptors after the three standard ones.
    refused(bench, &mut agent, 3, libc::SOCK_DGRAM)?;
    refused(bench, &mut agent, 4, libc::SOCK_STREAM)?;
    own_works(bench, &mut agent)
}

fn standard_stream(bench: &mut Bench) -> Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut agent = agent_with_stderr(bench, theirs.into())?;
    bench.allowed(&mut agent, &write(2, "written"))?;
    bench.allowed(&mut agent, &send(2))?;
    let mut said = [0; 11];
    (&ours).read_exact(&mut said)?;
    ensure!(&said == b"writtenping");
    Ok(())
}

/// A server in the agent and a client outside, whose address no rule allows to connect to.
fn server_answers(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for address in ["192.0.2.1:9001", "[2001:db8::1]:9001"].map(at) {
        let server = bench.allowed(&mut agent, &socket_for(address, libc::SOCK_STREAM))?;
        bench.allowed(&mut agent, &bind(server, internet(address)))?;
        let wanted = Wanted::allow("net.listen").address("tcp", address);
        bench.allowed_and_logged(&mut agent, &listen(server), wanted)?;
        let mut client = TcpStream::connect(address)?;
        let accepted = bench.allowed(&mut agent, &accept(server))?;
        bench.allowed(&mut agent, &send(accepted))?;
        let mut answer = [0; 4];
        client.read_exact(&mut answer)?;
        ensure!(&answer == b"ping");
        // The way back is no way out.
        let out = Act::Sequence(vec![
            socket_for(address, libc::SOCK_STREAM),
            connect(Arg::Step(0), internet(client.local_addr()?)),
        ]);
        let rule = format!("{}/default", bench.profile);
        bench.denied(&mut agent, &out, Wanted::deny("net.connect", &rule))?;
    }
    Ok(())
}

fn listening(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let rule = format!("{}/default", bench.profile);
    // Each in a process of its own: a socket that is bound and refused stays open, and in the way.
    let serving = |address: SocketAddr| {
        forked(Act::Sequence(vec![
            socket_for(address, libc::SOCK_STREAM),
            bind(Arg::Step(0), internet(address)),
            listen(Arg::Step(0)),
        ]))
    };
    for denied in [
        "192.0.2.1:8999",
        "127.0.0.1:9007",
        "[::]:9007",
        "0.0.0.0:9007",
    ] {
        let denied = at(denied);
        let wanted = Wanted::deny("net.listen", &rule).address("tcp", denied);
        bench.denied(&mut agent, &serving(denied), wanted)?;
    }
    for allowed in ["192.0.2.1:9010", "[2001:db8::1]:9000"].map(at) {
        let wanted = Wanted::allow("net.listen").address("tcp", allowed);
        bench.allowed_and_logged(&mut agent, &serving(allowed), wanted)?;
    }
    // Without a bind the kernel chooses a port, which no rule can know before.
    let unbound = Act::Sequence(vec![
        socket(libc::AF_INET, libc::SOCK_STREAM, 0),
        listen(Arg::Step(0)),
    ]);
    let wanted = Wanted::allow("net.listen").address("tcp", at("0.0.0.0:0"));
    bench.allowed_and_logged(&mut agent, &unbound, wanted)?;
    Ok(())
}

fn udp_bind(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let rule = format!("{}/default", bench.profile);
    let binding = |address: SocketAddr| {
        Act::Sequence(vec![
            socket_for(address, libc::SOCK_DGRAM),
            bind(Arg::Step(0), internet(address)),
        ])
    };
    for denied in ["192.0.2.1:8999", "0.0.0.0:9001", "[2001:db8::1]:9001"].map(at) {
        let wanted = Wanted::deny("net.listen", &rule).address("udp", denied);
        bench.denied(&mut agent, &binding(denied), wanted)?;
    }
    let allowed = at("192.0.2.1:9001");
    let wanted = Wanted::allow("net.listen").address("udp", allowed);
    bench.allowed_and_logged(&mut agent, &binding(allowed), wanted)?;
    // A port of the kernel's choice is what every client has.
    bench.allowed(&mut agent, &binding(at("0.0.0.0:0")))?;
    Ok(())
}

/// Who listened before it was an agent's, or somebody else for it, can't be heard of.
fn foreign_listener(bench: &mut Bench) -> Result<()> {
    let before = [
        socket(libc::AF_INET, libc::SOCK_STREAM, 0),
        bind(3, internet(at("192.0.2.1:9004"))),
        listen(3),
    ];
    let (mut agent, _cgroup) = bench.tagged_after(&before)?;
    let _client = TcpStream::connect(at("192.0.2.1:9004"))?;
    let foreign = |action| Wanted::refusal(action, "foreign-socket");
    bench.denied(&mut agent, &accept(3), foreign("net.accept"))?;
    bench.denied(&mut agent, &listen(3), foreign("net.listen"))?;
    let server = bench.allowed(&mut agent, &serving(at("192.0.2.1:9005"), 0))? + 4;
    let _client = TcpStream::connect(at("192.0.2.1:9005"))?;
    bench.allowed(&mut agent, &accept(server))?;
    Ok(())
}

/// A server of an agent. Done with 0; its socket is the first free descriptor.
fn serving(address: SocketAddr, protocol: i32) -> Act {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    Act::Sequence(vec![
        socket(family, libc::SOCK_STREAM, protocol),
        bind(Arg::Step(0), internet(address)),
        listen(Arg::Step(0)),
    ])
}

fn accepting(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let address = at("192.0.2.1:9006");
    bench.allowed(&mut agent, &serving(address, 0))?;
    let _client = TcpStream::connect(address)?;
    let wanted = Wanted::allow("net.accept")
        .address("tcp", address)
        .with("/rule", "server");
    bench.allowed_and_logged(&mut agent, &accept(3), wanted)?;
    // Where the kernel chose the port, the rule that allowed to listen there knew of none.
    let unbound = Act::Sequence(vec![
        socket(libc::AF_INET, libc::SOCK_STREAM, 0),
        listen(Arg::Step(0)),
        call(libc::SYS_dup, [Arg::Step(0)]),
    ]);
    let server = bench.allowed(&mut agent, &unbound)?;
    let port = port_of(agent.pid())?;
    let mut client = TcpStream::connect(("127.0.0.1", port))?;
    let wanted = Wanted::allow("net.accept").address("tcp", at("0.0.0.0:0"));
    let accepted = bench.allowed_and_logged(&mut agent, &accept(server), wanted)?;
    bench.allowed(&mut agent, &send(accepted))?;
    let mut answer = [0; 4];
    client.read_exact(&mut answer)?;
    ensure!(&answer == b"ping");
    Ok(())
}

/// The port on which a process listens at any address.
fn port_of(pid: u32) -> Result<u16> {
    // Local address and state come second and fourth; 0A is TCP_LISTEN.
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
    let mut ports = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = fields.get(1)?.strip_prefix("00000000:")?;
        (*fields.get(3)? == "0A").then(|| u16::from_str_radix(port, 16).ok())?
    });
    ports
        .next_back()
        .ok_or_else(|| anyhow::anyhow!("nobody listens: {table}"))
}

/// A server over MPTCP, as Go programs have it, answers peers over MPTCP and TCP.
fn mptcp_server(bench: &mut Bench) -> Result<()> {
    const IPPROTO_MPTCP: i32 = 262;
    let mut agent = bench.agent()?;
    let mut outside = Remote::outside()?;
    let address = at("192.0.2.1:9007");
    let wanted = Wanted::allow("net.listen").address("tcp", address);
    bench.allowed_and_logged(&mut agent, &serving(address, IPPROTO_MPTCP), wanted)?;
    for protocol in [0, IPPROTO_MPTCP] {
        let client = Act::Sequence(vec![
            socket(libc::AF_INET, libc::SOCK_STREAM, protocol),
            connect(Arg::Step(0), internet(address)),
            call(libc::SYS_dup, [Arg::Step(0)]),
        ]);
        let client = bench.allowed(&mut outside, &client)?;
        let accepted = bench.allowed(&mut agent, &accept(3))?;
        bench.allowed(&mut agent, &send(accepted))?;
        let answer = crate::remote::calls::read(client);
        ensure!(bench.allowed(&mut outside, &answer)? == 4);
    }
    // It is no way out.
    let rule = format!("{}/default", bench.profile);
    let out = Act::Sequence(vec![
        socket(libc::AF_INET, libc::SOCK_STREAM, IPPROTO_MPTCP),
        connect(Arg::Step(0), internet(at("192.0.2.1:8081"))),
    ]);
    bench.denied(&mut agent, &out, Wanted::deny("net.connect", &rule))?;
    Ok(())
}

fn mapped_listener(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let rule = format!("{}/default", bench.profile);
    let wanted = Wanted::deny("net.listen", &rule).address("tcp", at("192.0.2.1:8999"));
    let act = serving(at("[::ffff:192.0.2.1]:8999"), 0);
    bench.denied(&mut agent, &forked(act), wanted)?;
    let wanted = Wanted::deny("net.listen", &rule).address("udp", at("192.0.2.1:8999"));
    let binding = |address| {
        Act::Sequence(vec![
            socket(libc::AF_INET6, libc::SOCK_DGRAM, 0),
            bind(Arg::Step(0), internet(address)),
        ])
    };
    bench.denied(&mut agent, &binding(at("[::ffff:192.0.2.1]:8999")), wanted)?;
    let wanted = Wanted::allow("net.listen").address("tcp", at("192.0.2.1:9008"));
    let act = serving(at("[::ffff:192.0.2.1]:9008"), 0);
    bench.allowed_and_logged(&mut agent, &forked(act), wanted)?;
    bench.allowed(&mut agent, &binding(at("[::ffff:192.0.2.1]:9008")))?;
    Ok(())
}
