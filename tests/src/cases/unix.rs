//! Unix sockets: by path and by abstract name, streams, datagrams and packets.

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::PermissionsExt as _,
            net::{SocketAddr, UnixDatagram, UnixListener},
        },
    },
    path::Path,
};

use anyhow::{Result, ensure};

use crate::{
    bench::{Bench, run_well},
    log::Wanted,
    remote::{
        Act, Arg, Remote,
        calls::{bind, call, connect, forked, listen, read, send, send_to, socket, unix, write},
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

/// No name is literal, so that nothing is known by its identity.
const PATTERN: &str = r#"
[default]
file = "allow"
exec = "allow"
connect = "allow"
listen = "deny"

[[deny]]
id = "bus"
connect = "unix:{dir}/s*/bus*"
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
        closed("unix::connected_to_one_that_went", peer_that_went),
        Case::new("unix::under_another_name", another_name)
            .policy(OPEN)
            .prepare(secret_socket),
        Case::new("unix::renamed_by_the_agent", renamed)
            .policy(PATTERN)
            .prepare(folders),
        closed("unix::of_a_server_with_mounts_of_its_own", apart),
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

/// A rule names a socket; under another name, be it a hard link, a mount or a new one, it is still that socket.
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
    bench.denied(&mut agent, &act, wanted.clone())?;
    let mounted = bench.path("mounted");
    fs::create_dir_all(&mounted)?;
    let (from, to) = (
        bench.path("secret").display().to_string(),
        mounted.display().to_string(),
    );
    run_well("mount", &["--bind", &from, &to])?;
    let act = connecting(libc::SOCK_STREAM, mounted.join("socket"));
    let denied = bench.denied(&mut agent, &act, wanted.clone());
    run_well("umount", &["-l", &to])?;
    denied?;
    let moved = bench.path("open/moved");
    fs::rename(&path, &moved)?;
    bench.denied(&mut agent, &connecting(libc::SOCK_STREAM, &moved), wanted)?;
    let twin = connecting(libc::SOCK_STREAM, bench.path("open/other"));
    bench.allowed(&mut agent, &twin)?;
    Ok(())
}

/// A socket, or a folder above it, under another name is still what its server called it.
fn renamed(bench: &mut Bench) -> Result<()> {
    let [bus, twin] = ["secret/bus", "secret/other"].map(|name| bench.path(name));
    let (_bus, _twin) = (UnixListener::bind(&bus)?, UnixListener::bind(&twin)?);
    for path in [&bus, &twin] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    }
    fs::set_permissions(bench.path("secret"), fs::Permissions::from_mode(0o777))?;
    let mut agent = bench.user_agent()?;
    let wanted = Wanted::deny("unix.connect", "bus").path(&bus);
    let connecting = |path: &Path| connecting(libc::SOCK_STREAM, path);
    bench.denied(&mut agent, &connecting(&bus), wanted.clone())?;
    let moved = bench.path("open/moved");
    fs::rename(&bus, &moved)?;
    bench.denied(&mut agent, &connecting(&moved), wanted.clone())?;
    fs::rename(&moved, &bus)?;
    let folder = bench.path("elsewhere");
    fs::rename(bench.path("secret"), &folder)?;
    bench.denied(&mut agent, &connecting(&folder.join("bus")), wanted)?;
    bench.allowed(&mut agent, &connecting(&folder.join("other")))?;
    fs::rename(&folder, bench.path("secret"))?;
    Ok(())
}

/// A service with a sandbox binds its socket in a mount namespace of its own; what counts is how the agent sees it.
fn apart(bench: &mut Bench) -> Result<()> {
    let mut server = Remote::outside()?;
    let unshare = call(libc::SYS_unshare, [i64::from(libc::CLONE_NEWNS).into()]);
    bench.allowed(&mut server, &unshare)?;
    let (allowed, hidden) = (bench.path("open/apart"), bench.path("secret/apart"));
    for path in [&allowed, &hidden] {
        bench.allowed(&mut server, &serving(libc::SOCK_STREAM, path))?;
    }
    let mut agent = bench.agent()?;
    bench.allowed(&mut agent, &connecting(libc::SOCK_STREAM, &allowed))?;
    let wanted = Wanted::deny("unix.connect", &default_rule(bench)).path(&hidden);
    let act = connecting(libc::SOCK_STREAM, &hidden);
    bench.denied(&mut agent, &act, wanted)?;
    Ok(())
}

/// Who was allowed to talk to a socket isn't therefore to the next one under its name.
fn peer_that_went(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let (path, hidden) = (bench.path("open/first"), bench.path("secret/second"));
    let first = UnixDatagram::bind(&path)?;
    let fd = bench.allowed(&mut agent, &socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0))?;
    bench.allowed(&mut agent, &connect(fd, unix(&path)))?;
    drop(first);
    fs::remove_file(&path)?;
    // Another socket, whose own name is not the allowed one, in its place.
    let second = UnixDatagram::bind(&hidden)?;
    second.set_nonblocking(true)?;
    std::os::unix::fs::symlink(&hidden, &path)?;
    bench.fails(&mut agent, &send(fd), libc::ECONNREFUSED)?;
    let wanted = Wanted::deny("unix.connect", &default_rule(bench)).path(&hidden);
    bench.denied(&mut agent, &connect(fd, unix(&path)), wanted.clone())?;
    bench.denied(&mut agent, &send_to(fd, unix(&path), 0), wanted)?;
    ensure!(
        second.recv(&mut [0; 8]).is_err(),
        "what was denied has arrived"
    );
    Ok(())
}
