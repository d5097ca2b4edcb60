//! Connections by name: how long they last, what a reload does to them, and what becomes of them without a daemon.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail, ensure};
use serde_json::json;

use super::{Dns, OTHER, POLICY, WEB, WEB_V6, fetches, greet, in_both, runs};
use crate::{
    bench::Bench,
    cases::approve::api,
    daemon::{Daemon, Started, wait_until},
    log::Wanted,
    remote::{
        Act, Arg, Outcome,
        calls::{at, call, close, connect, internet, send_to, socket_for},
    },
    said::Said,
    scene::{Case, Scene},
};

const ASKED: &str = r#"
[[ask]]
id = "asked"
connect = "tcp://www.example.test:80"
"#;

pub fn cases() -> Vec<Case> {
    let shared = |name, play| in_both(name, play).map(|case| case.policy(POLICY).limit(240));
    let own = |name, play| shared(name, play).map(|case| case.scene(Scene::OwnDaemon).limit(600));
    [
        shared("hosts::one_family_after_the_other", families),
        shared("hosts::datagrams_by_name", datagrams),
        shared("hosts::asked_about", asked).map(|case| case.policy(ASKED)),
        own("hosts::a_connection_outlives_its_answer", outlives),
        own("hosts::a_reload_ends_what_it_takes_away", reload),
        own("hosts::a_reload_can_leave_connections", reload_leaves),
        own("hosts::without_a_daemon_nothing_new_opens", without_daemon),
    ]
    .concat()
}

fn families(bench: &mut Bench, _: &Dns) -> Result<()> {
    greet(&format!("{WEB}:80"))?;
    // Nobody listens on the IPv6 address, and then somebody does.
    for _ in 0..2 {
        let (agent, said) = fetches(bench, "http://both.cdn.test/")?;
        said.ends(0)?.prints(&["hello"])?;
        for (kind, address) in [("A", WEB), ("AAAA", WEB_V6)] {
            let event = bench.log.wait(
                &Wanted::allow("net.resolve")
                    .with("/object/name", "both.cdn.test")
                    .with("/object/type", kind)
                    .agent(&agent),
            )?;
            ensure!(event["object"]["addresses"] == json!([address]), "{event}");
        }
        greet(&format!("[{WEB_V6}]:80"))?;
    }
    let (agent, said) = runs(bench, &["curl", "-sS", "-6", "http://both.cdn.test/"])?;
    said.ends(0)?.prints(&["hello"])?;
    bench.log.wait(
        &Wanted::allow("net.connect")
            .with("/object/name", "both.cdn.test")
            .address("tcp", at(&format!("[{WEB_V6}]:80")))
            .agent(&agent),
    )?;
    Ok(())
}

/// As QUIC has it: one socket that isn't connected, and answers from where it sent to.
fn datagrams(bench: &mut Bench, _: &Dns) -> Result<()> {
    let server = std::net::UdpSocket::bind(at(&format!("{WEB}:5000")))?;
    let answering = server.try_clone()?;
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((len, from)) = answering.recv_from(&mut buffer) {
            if answering.send_to(&buffer[..len], from).is_err() {
                break;
            }
        }
    });
    let script = format!(
        "
import socket
def tried(act):
    try: return act()
    except OSError as e: return e.errno
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(15)
print(tried(lambda: s.sendto(b'one', ('{WEB}', 5000))))
host = socket.gethostbyname('www.example.test')
print(tried(lambda: s.sendto(b'two', (host, 5000))), s.recvfrom(100)[0])
print(tried(lambda: s.sendto(b'three', (host, 5001))))
c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); c.settimeout(15)
print(tried(lambda: c.connect((host, 5000))), c.send(b'four'), c.recv(100))
"
    );
    let (_, said) = runs(bench, &["python3", "-c", &script])?;
    let said = said.ends(0)?;
    ensure!(
        said.out == "1\n3 b'two'\n1\nNone 4 b'four'\n",
        "{}",
        said.out
    );
    Ok(())
}

fn asked(bench: &mut Bench, _: &Dns) -> Result<()> {
    greet(&format!("{WEB}:80"))?;
    for (approve, code) in [(true, 0), (false, 7)] {
        let name = bench.name();
        let mut child = std::process::Command::new("agentguard")
            .args(["run", "--profile", &bench.profile, "--name", &name, "--"])
            .args([
                "curl",
                "-sS",
                "--max-time",
                "60",
                "http://www.example.test/",
            ])
            .stdout(fs::File::create(bench.path("out"))?)
            .spawn()?;
        wait_until("it is asked about", || {
            let (_, pending) = api("GET", "/v1/approvals", None)?;
            let all = pending.as_array().cloned().unwrap_or_default();
            let Some(one) = all.iter().find(|one| one["agent"] == *name) else {
                return Ok(false);
            };
            ensure!(one["object"]["name"] == "www.example.test", "{one}");
            let path = format!("/v1/approvals/{}", one["id"]);
            let (status, said) = api("POST", &path, Some(&json!({ "approve": approve })))?;
            ensure!(status == 200, "{status}: {said}");
            Ok(true)
        })?;
        let status = child.wait()?;
        ensure!(status.code() == Some(code), "{approve}: {status}");
    }
    Ok(())
}

/// A daemon with this configuration beside the usual.
fn start(bench: &Bench, hosts: &str) -> Result<Daemon> {
    let path = bench.path("agentguard.toml");
    fs::create_dir_all(&bench.dir)?;
    fs::write(&path, hosts)?;
    let folder = policies(bench);
    match Daemon::try_start(&[
        Path::new("--config"),
        &path,
        Path::new("--policies"),
        &folder,
    ])? {
        Started::Ready(daemon) => Ok(daemon),
        Started::Refused(status, said) => bail!("the daemon ended ({status}):\n{said}"),
    }
}

fn policies(bench: &Bench) -> PathBuf {
    bench.path("policies")
}

/// Writes the case's profile.
fn write(bench: &Bench, rules: &str) -> Result<()> {
    let folder = policies(bench);
    fs::create_dir_all(&folder)?;
    let profile = &bench.profile;
    Ok(fs::write(
        folder.join(format!("{profile}.toml")),
        format!(
            "version = 1\nname = \"{profile}\"\n[default]\nfile = \"allow\"\nexec = \"allow\"\n{rules}"
        ),
    )?)
}

/// Looks a name up as the agent does: by a datagram to the host's resolver. How many bytes the answer has.
pub fn look_up(bench: &Bench, agent: &mut crate::remote::Remote, name: &str) -> Result<i64> {
    let mut question = vec![0x47, 0x11, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(label.len() as u8);
        question.extend(label.bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let there = at(&format!("{}:53", super::RESOLVER));
    let socket = bench.allowed(agent, &socket_for(there, libc::SOCK_DGRAM))?;
    bench.allowed(agent, &connect(socket, internet(there)))?;
    let len = question.len();
    let act = call(
        libc::SYS_write,
        [socket.into(), Arg::Bytes(question), len.into()],
    );
    bench.allowed(agent, &act)?;
    let act = call(
        libc::SYS_recvfrom,
        [
            socket.into(),
            Arg::Bytes(vec![0; 1024]),
            1024.into(),
            0.into(),
            0.into(),
            0.into(),
        ],
    );
    let len = bench.allowed(agent, &act)?;
    bench.allowed(agent, &close(socket))?;
    Ok(len)
}

fn connecting(address: &str) -> Act {
    let there = at(address);
    Act::Sequence(vec![
        socket_for(there, libc::SOCK_STREAM),
        connect(Arg::Step(0), internet(there)),
    ])
}

/// A connection that is there.
fn connected(bench: &Bench, agent: &mut crate::remote::Remote, address: &str) -> Result<i64> {
    let there = at(address);
    let socket = bench.allowed(agent, &socket_for(there, libc::SOCK_STREAM))?;
    bench.allowed(agent, &connect(socket, internet(there)))?;
    speaks(bench, agent, socket)?;
    Ok(socket)
}

/// Says something over a connection, and hears something.
fn speaks(bench: &Bench, agent: &mut crate::remote::Remote, socket: i64) -> Result<()> {
    bench.allowed(agent, &say(socket))?;
    bench.allowed(agent, &hear(socket))?;
    Ok(())
}

fn say(socket: i64) -> Act {
    call(
        libc::SYS_write,
        [socket.into(), Arg::Bytes(b"hi".to_vec()), 2.into()],
    )
}

fn hear(socket: i64) -> Act {
    call(
        libc::SYS_read,
        [socket.into(), Arg::Bytes(vec![0; 256]), 256.into()],
    )
}

fn outlives(bench: &mut Bench, _: &Dns) -> Result<()> {
    bench.fresh()?;
    greet(&format!("{WEB}:80"))?;
    write(bench, POLICY)?;
    let daemon = start(
        bench,
        "[hosts]\nmin_lifetime = \"1s\"\nmax_lifetime = \"1s\"\n",
    )?;
    let mut agent = bench.agent()?;
    look_up(bench, &mut agent, "www.example.test")?;
    let web = format!("{WEB}:80");
    let socket = connected(bench, &mut agent, &web)?;
    wait_until("the answer's lifetime ends", || {
        Ok(agent.act(&connecting(&web))? == Outcome::Failed(libc::EPERM))
    })?;
    speaks(bench, &mut agent, socket)?;
    // A reload leaves it as well: the name is what it was let go by, and not the lifetime.
    Said::by(&["reload"])?.ends(0)?;
    speaks(bench, &mut agent, socket)?;
    look_up(bench, &mut agent, "www.example.test")?;
    bench.allowed(&mut agent, &connecting(&web))?;
    daemon.stop()
}

/// Without the rule for the web.
const LESS: &str = r#"
[[allow]]
id = "other"
connect = ["tcp://other.cdn.test:80", "tcp://203.0.113.81:81"]
"#;
const MORE: &str = r#"
[[allow]]
id = "both"
connect = ["tcp://www.example.test:80", "tcp://other.cdn.test:80", "tcp://203.0.113.81:81", "tcp://203.0.113.80:81"]
"#;

/// Connections by name and by address, of which the first of each pair is taken away.
fn before_reload(bench: &mut Bench) -> Result<(crate::remote::Remote, [i64; 4])> {
    let mut agent = bench.agent()?;
    let hosts = [
        format!("{WEB}:80"),
        format!("{OTHER}:80"),
        format!("{WEB}:81"),
        format!("{OTHER}:81"),
    ];
    for address in &hosts {
        greet(address)?;
    }
    for name in ["www.example.test", "other.cdn.test"] {
        look_up(bench, &mut agent, name)?;
    }
    let mut sockets = [0; 4];
    for (socket, address) in sockets.iter_mut().zip(&hosts) {
        *socket = connected(bench, &mut agent, address)?;
    }
    Ok((agent, sockets))
}

fn reload(bench: &mut Bench, _: &Dns) -> Result<()> {
    bench.fresh()?;
    write(bench, MORE)?;
    let daemon = start(bench, "")?;
    let (mut agent, [web, other, web_81, other_81]) = before_reload(bench)?;
    write(bench, LESS)?;
    Said::by(&["reload"])?.ends(0)?;
    for socket in [web, web_81] {
        let outcome = agent.act(&hear(socket))?;
        ensure!(
            outcome == Outcome::Failed(libc::ECONNRESET),
            "it is not ended: {outcome:?}"
        );
    }
    for socket in [other, other_81] {
        speaks(bench, &mut agent, socket)?;
    }
    bench.fails(&mut agent, &connecting(&format!("{WEB}:80")), libc::EPERM)?;
    bench.allowed(&mut agent, &connecting(&format!("{OTHER}:80")))?;
    daemon.stop()
}

fn reload_leaves(bench: &mut Bench, _: &Dns) -> Result<()> {
    bench.fresh()?;
    write(bench, MORE)?;
    let daemon = start(bench, "[hosts]\nkeep_connections = true\n")?;
    let (mut agent, [web, other, ..]) = before_reload(bench)?;
    write(bench, LESS)?;
    bench.log.skip()?;
    Said::by(&["reload"])?.ends(0)?;
    // It is open, and nothing leaves.
    bench.allowed(&mut agent, &say(web))?;
    let default = format!("{}/default", bench.profile);
    bench
        .log
        .wait(&Wanted::deny("net.send", &default).address("tcp", at(&format!("{WEB}:80"))))?;
    speaks(bench, &mut agent, other)?;
    daemon.stop()
}

fn without_daemon(bench: &mut Bench, _: &Dns) -> Result<()> {
    bench.fresh()?;
    greet(&format!("{WEB}:80"))?;
    greet(&format!("{OTHER}:80"))?;
    write(bench, POLICY)?;
    let daemon = start(bench, "")?;
    let mut agent = bench.agent()?;
    look_up(bench, &mut agent, "www.example.test")?;
    let (web, other) = (format!("{WEB}:80"), format!("{OTHER}:80"));
    let socket = connected(bench, &mut agent, &web)?;
    daemon.kill()?;
    // What was answered counts, and nothing is answered.
    speaks(bench, &mut agent, socket)?;
    bench.allowed(&mut agent, &connecting(&web))?;
    let resolver = at(&format!("{}:53", super::RESOLVER));
    let act = Act::Sequence(vec![
        socket_for(resolver, libc::SOCK_STREAM),
        connect(Arg::Step(0), internet(resolver)),
    ]);
    bench.fails(&mut agent, &act, libc::ECONNREFUSED)?;
    let act = Act::Sequence(vec![
        socket_for(resolver, libc::SOCK_DGRAM),
        send_to(Arg::Step(0), internet(resolver), 0),
    ]);
    bench.allowed(&mut agent, &act)?;
    bench.fails(&mut agent, &connecting(&other), libc::EPERM)?;
    // The next daemon knows what the last one did.
    let daemon = start(bench, "")?;
    speaks(bench, &mut agent, socket)?;
    bench.log.skip()?;
    bench.allowed(&mut agent, &connecting(&web))?;
    bench.log.wait(
        &Wanted::allow("net.connect")
            .with("/object/name", "www.example.test")
            .address("tcp", at(&web)),
    )?;
    look_up(bench, &mut agent, "other.cdn.test")?;
    bench.allowed(&mut agent, &connecting(&other))?;
    daemon.stop()
}
