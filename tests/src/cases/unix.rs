//! Unix sockets: by path and by abstract name, streams, datagrams and packets.

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram, UnixListener},
    },
    path::Path,
};

use anyhow::{Result, ensure};

use crate::{
    bench::Bench,
    log::Wanted,
    remote::{
        Act, Arg, Remote,
        calls::{bind, connect, forked, listen, read, send, send_to, socket, unix, write},
    },
    scene::Case,
};

const CLOSED: &str = r#"
[[allow]]
id = "service"
connect = ["unix:{dir}/open/**", "unix:@agentguard-test/open/*"]
"#;

const OPEN: &str = r#"
[default]
file = "allow"
exec = "allow"
connect = "allow"
listen = "deny"

[[deny]]
id = "manager"
connect = ["unix:{dir}/secret/socket", "unix:@agentguard-test/secret"]
"#;

fn folders(dir: &Path) -> Result<()> {
    for folder in ["secret", "open"] {
        fs::create_dir_all(dir.join(folder))?;
    }
    Ok(())
}

/// What rules name must be there when they are loaded, to be known by more than its name.
fn secret_socket(dir: &Path) -> Result<()> {
    folders(dir)?;
    drop(UnixListener::bind(dir.join("secret/socket"))?);
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let closed = |name, play| Case::new(name, play).policy(CLOSED).prepare(folders);
    vec![
        closed("unix::stream_by_path", stream_by_path),
        closed("unix::datagram_by_path", datagram_by_path),
        closed("unix::by_abstract_name", by_abstract_name),
        closed("unix::within_an_agent", within_an_agent),
        closed("unix::between_agents", between_agents),
        closed("unix::from_outside", from_outside),
        closed("unix::agentguards_own_socket", own_socket),
        Case::new("unix::under_another_name", another_name)
            .policy(OPEN)
            .prepare(secret_socket),
    ]
}

fn default_rule(bench: &Bench) -> String {
    format!("{}/default", bench.profile)
}

fn connecting(kind: i32, name: impl AsRef<Path>) -> Act {
    Act::Sequence(vec![
        socket(libc::AF_UNIX, kind, 0),
        connect(Arg::Step(0), unix(name)),
    ])
}

fn sending(name: impl AsRef<Path>) -> Act {
    Act::Sequence(vec![
        socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0),
        send_to(Arg::Step(0), unix(name), 0),
    ])
}

/// A server as part of a remote: a socket of this kind that is bound, and listens if it can.
fn serving(kind: i32, name: impl AsRef<Path>) -> Act {
    let mut acts = vec![
        socket(libc::AF_UNIX, kind, 0),
        bind(Arg::Step(0), unix(name)),
    ];
    if kind != libc::SOCK_DGRAM {
        acts.push(listen(Arg::Step(0)));
    }
    Act::Sequence(acts)
}

fn stream_by_path(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let mut outside = Remote::outside()?;
    for (kind, name) in [
        (libc::SOCK_STREAM, "stream"),
        (libc::SOCK_SEQPACKET, "packets"),
    ] {
        let (denied, twin) = (
            bench.path("secret").join(name),
            bench.path("open").join(name),
        );
        for path in [&denied, &twin] {
            bench.allowed(&mut outside, &serving(kind, path))?;
        }
        let wanted = Wanted::deny("unix.connect", &default_rule(bench)).path(&denied);
        bench.denied(&mut agent, &connecting(kind, &denied), wanted.clone())?;
        // The same by way of the working directory, and of a link.
        let relative = Act::Sequence(vec![
            socket(libc::AF_UNIX, kind, 0),
            crate::remote::calls::chdir(bench.path("secret")),
            connect(Arg::Step(0), unix(name)),
        ]);
        bench.denied(&mut agent, &forked(relative), wanted.clone())?;
        let link = bench.path("open").join(format!("{name}-link"));
        std::os::unix::fs::symlink(&denied, &link)?;
        bench.denied(&mut agent, &connecting(kind, &link), wanted)?;
        let wanted = Wanted::allow("unix.connect")
            .path(&twin)
            .with("/rule", "service");
        bench.allowed_and_logged(&mut agent, &connecting(kind, &twin), wanted)?;
    }
    Ok(())
}

fn datagram_by_path(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let (denied, twin) = (bench.path("secret/datagrams"), bench.path("open/datagrams"));
    let bad = UnixDatagram::bind(&denied)?;
    let good = UnixDatagram::bind(&twin)?;
    for socket in [&bad, &good] {
        socket.set_nonblocking(true)?;
    }
    let wanted = Wanted::deny("unix.connect", &default_rule(bench)).path(&denied);
    let act = connecting(libc::SOCK_DGRAM, &denied);
    bench.denied(&mut agent, &act, wanted.clone())?;
    bench.denied(&mut agent, &sending(&denied), wanted.clone())?;
    ensure!(
        bad.recv(&mut [0; 8]).is_err(),
        "what was denied has arrived"
    );
    let allowed = Wanted::allow("unix.connect").path(&twin);
    bench.allowed_and_logged(&mut agent, &sending(&twin), allowed.clone())?;
    ensure!(good.recv(&mut [0; 8])? == 4);
    // A connected socket still sends elsewhere when it is told to.
    let fd = bench.allowed(&mut agent, &socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0))?;
    bench.allowed_and_logged(&mut agent, &connect(fd, unix(&twin)), allowed)?;
    bench.allowed(&mut agent, &send(fd))?;
    ensure!(good.recv(&mut [0; 8])? == 4);
    bench.denied(&mut agent, &send_to(fd, unix(&denied), 0), wanted)?;
    ensure!(
        bad.recv(&mut [0; 8]).is_err(),
        "what was denied has arrived"
    );
    Ok(())
}

fn by_abstract_name(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for (name, is_allowed) in [
        ("agentguard-test/open/a", true),
        ("agentguard-test/open/b/c", false),
        ("agentguard-test/else", false),
    ] {
        let address = SocketAddr::from_abstract_name(name)?;
        let _listener = UnixListener::bind_addr(&address)?;
        let act = connecting(libc::SOCK_STREAM, format!("@{name}"));
        if is_allowed {
            let wanted = Wanted::allow("unix.connect").with("/object/abstract", name);
            bench.allowed_and_logged(&mut agent, &act, wanted)?;
        } else {
            let wanted =
                Wanted::deny("unix.connect", &default_rule(bench)).with("/object/abstract", name);
            bench.denied(&mut agent, &act, wanted)?;
        }
    }
    let address = SocketAddr::from_abstract_name("agentguard-test/datagrams")?;
    let socket = UnixDatagram::bind_addr(&address)?;
    socket.set_nonblocking(true)?;
    let wanted = Wanted::deny("unix.connect", &default_rule(bench))
        .with("/object/abstract", "agentguard-test/datagrams");
    let act = sending("@agentguard-test/datagrams");
    bench.denied(&mut agent, &act, wanted)?;
    ensure!(socket.recv(&mut [0; 8]).is_err());
    Ok(())
}

fn within_an_agent(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for (kind, name) in [
        (libc::SOCK_STREAM, "stream"),
        (libc::SOCK_DGRAM, "datagrams"),
        (libc::SOCK_SEQPACKET, "packets"),
    ] {
        // Under names that no rule allows.
        for path in [
            bench.path("secret").join(name),
            format!("@agentguard-test/{name}").into(),
        ] {
            bench.allowed(&mut agent, &serving(kind, &path))?;
            bench.allowed(&mut agent, &connecting(kind, &path))?;
            bench.allowed(&mut agent, &forked(connecting(kind, &path)))?;
        }
        let pair = bench.allowed(&mut agent, &Act::SocketPair { kind })?;
        bench.allowed(&mut agent, &write(pair, "content"))?;
        ensure!(bench.allowed(&mut agent, &read(pair + 1))? == 7);
    }
    Ok(())
}

fn between_agents(bench: &mut Bench) -> Result<()> {
    let mut server = bench.agent()?;
    let mut client = bench.agent()?;
    let (denied, twin) = (bench.path("secret/other"), bench.path("open/other"));
    for path in [&denied, &twin] {
        bench.allowed(&mut server, &serving(libc::SOCK_STREAM, path))?;
    }
    let wanted = Wanted::deny("unix.connect", &default_rule(bench)).path(&denied);
    let act = connecting(libc::SOCK_STREAM, &denied);
    bench.denied(&mut client, &act, wanted)?;
    bench.allowed(&mut client, &connecting(libc::SOCK_STREAM, &twin))?;
    Ok(())
}

/// Who is nobody's agent may talk to an agent's server, which answers.
fn from_outside(bench: &mut Bench) -> Result<()> {
    use std::io::Read as _;
    let mut agent = bench.agent()?;
    let path = bench.path("secret/server");
    let server = serving(libc::SOCK_STREAM, &path);
    bench.allowed(&mut agent, &server)?;
    // The sequence was done with what listen returned; the socket is the first free descriptor.
    let mut client = std::os::unix::net::UnixStream::connect(&path)?;
    let answer = Act::Sequence(vec![crate::remote::calls::accept(3), send(Arg::Step(0))]);
    bench.allowed(&mut agent, &answer)?;
    let mut said = [0; 4];
    client.read_exact(&mut said)?;
    ensure!(&said == b"ping");
    Ok(())
}

fn own_socket(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let path = "/run/agentguard/agentguard.sock";
    let wanted = Wanted::deny("unix.connect", "agentguard/socket").path(path);
    let act = connecting(libc::SOCK_STREAM, path);
    bench.denied(&mut agent, &act, wanted)?;
    bench.allowed(&mut Remote::outside()?, &act)?;
    Ok(())
}

/// A rule names a socket; a hard link to it, or its folder moved, is still that socket.
fn another_name(bench: &mut Bench) -> Result<()> {
    let path = bench.path("secret/socket");
    let alias = bench.path("open/alias");
    fs::remove_file(&path)?;
    let _listener = UnixListener::bind(&path)?;
    fs::hard_link(&path, &alias)?;
    let _other = UnixListener::bind(bench.path("open/other"))?;
    let mut agent = bench.agent()?;
    let wanted = Wanted::deny("unix.connect", "manager");
    let act = connecting(libc::SOCK_STREAM, &path);
    bench.denied(&mut agent, &act, wanted.clone())?;
    let act = connecting(libc::SOCK_STREAM, &alias);
    crate::daemon::wait_until("the new socket is known by its identity", || {
        Ok(agent.act(&act)? == crate::remote::Outcome::Failed(libc::EPERM))
    })?;
    bench.denied(&mut agent, &act, wanted)?;
    let twin = connecting(libc::SOCK_STREAM, bench.path("open/other"));
    bench.allowed(&mut agent, &twin)?;
    Ok(())
}
