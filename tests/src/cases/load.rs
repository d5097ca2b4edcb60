//! Many processes and many events: no child slips out, no denial is lost, what is lost is counted, and who
//! is nobody's agent notices nothing.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    bench::{Bench, run, status},
    log::{self, Log, Wanted},
    remote::{
        Act, Arg, Birth, Remote,
        calls::{child, close, forked, open},
    },
    scene::Case,
};

const SECRET: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret/**"
"#;

/// Denies everything that a profile can deny.
const NOTHING: &str = r#"
[default]
file = "deny"
exec = "deny"
connect = "deny"
listen = "deny"

[[deny]]
file = ["/tmp/**", "/etc/**", "/home/**"]

[[deny]]
connect = ["127.0.0.0/8", "[::1]"]

[[allow]]
file = ["/usr/**", "/lib/**", "/lib64/**", "/bin/**"]
access = "read"

[[allow]]
exec = "/usr/local/bin/agentguard-guest"
"#;

fn files(dir: &Path) -> Result<()> {
    for folder in ["secret", "open"] {
        fs::create_dir_all(dir.join(folder))?;
        fs::write(dir.join(folder).join("key"), "content\n")?;
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("load::fork_flood", fork_flood)
            .policy(SECRET)
            .prepare(files),
        Case::new("load::event_flood", event_flood)
            .policy(SECRET)
            .prepare(files)
            .limit(180),
        Case::new("load::nobodys_agent_is_never_denied", unlabelled)
            .policy(NOTHING)
            .prepare(files)
            .limit(180),
    ]
}

fn fork_flood(bench: &mut Bench) -> Result<()> {
    const CHILDREN: u32 = 300;
    let mut agent = bench.agent()?;
    let name = agent.agent.clone().unwrap_or_default();
    bench.log.skip()?;
    let denied = Act::Denied(Box::new(open(bench.path("secret/key"), libc::O_RDONLY)));
    let flood = |birth, act: &Act| Act::Repeat {
        times: CHILDREN / 2,
        act: Box::new(child(birth, act.clone())),
    };
    bench.allowed(&mut agent, &flood(Birth::Fork, &denied))?;
    bench.allowed(&mut agent, &flood(Birth::Clone3, &denied))?;
    // Each child's denial is in the log, and no two are one process's.
    let wanted = Wanted::deny("file.open", "secret").agent(&name);
    bench.log.wait_until("a denial of every child", |events| {
        let pids: std::collections::BTreeSet<_> = events
            .iter()
            .filter(|event| wanted.fits(event))
            .filter_map(|event| event.pointer("/process/pid")?.as_u64())
            .collect();
        (pids.len() == CHILDREN as usize).then_some(())
    })?;
    bench.allowed(&mut agent, &open(bench.path("open/key"), libc::O_RDONLY))?;
    Ok(())
}

/// What the kernel counted of `file_open` with the verdict `allow`, since the programs were loaded: decisions,
/// and those of them that found no room in a ring.
fn counted() -> Result<(u64, u64)> {
    let status = status()?;
    let of = |pointer: &str| -> Result<u64> {
        let list = status.pointer(pointer).and_then(Value::as_array);
        let list = list.with_context(|| format!("no {pointer} in {status}"))?;
        let count = list
            .iter()
            .find(|count| count["hook"] == "file_open" && count["verdict"] == "allow")
            .and_then(|count| count["count"].as_u64());
        Ok(count.unwrap_or(0))
    };
    Ok((of("/counters/decisions")?, of("/counters/lost_kernel")?))
}

fn event_flood(bench: &mut Bench) -> Result<()> {
    const ROUNDS: u32 = 60;
    const OPENS: u32 = 250;
    let mut agent = bench.agent()?;
    let name = agent.agent.clone().unwrap_or_default();
    // What came before this is in the log: its order is the kernel's.
    let wanted = Wanted::deny("file.open", "secret").agent(&name);
    let act = open(bench.path("secret/key"), libc::O_RDONLY);
    bench.denied(&mut agent, &act, wanted.clone())?;
    bench.log.skip()?;
    let before = counted()?;
    // Flooding processes beside the one that is denied now and then.
    let opens = Act::Repeat {
        times: OPENS,
        act: Box::new(Act::Sequence(vec![
            open(bench.path("open/key"), libc::O_RDONLY),
            close(Arg::Step(0)),
        ])),
    };
    let denied = Act::Denied(Box::new(open(bench.path("secret/key"), libc::O_RDONLY)));
    let round = Act::Sequence(vec![opens, denied]);
    let act = Act::Repeat {
        times: ROUNDS,
        act: Box::new(round),
    };
    bench.allowed(&mut agent, &act)?;
    bench.log.wait_until("every denial", |events| {
        let count = events.iter().filter(|event| wanted.fits(event)).count();
        (count == ROUNDS as usize).then_some(())
    })?;
    // Every allowed one is in the log, or counted where it was lost.
    let after = counted()?;
    let (made, lost) = (after.0 - before.0, after.1 - before.1);
    ensure!(made >= u64::from(ROUNDS * OPENS), "{made} decisions");
    let allowed = Wanted::allow("file.open");
    let count = |events: &[Value]| events.iter().filter(|event| allowed.fits(event)).count() as u64;
    let waited = bench.log.wait_until("every allowed open", |events| {
        (count(events) + lost == made).then_some(())
    });
    if let Err(error) = waited {
        let logged = count(bench.log.events()?);
        bail!("of {made} opens {logged} were logged and {lost} counted as lost: {error}");
    }
    // And the log itself says how many were lost.
    Log::from_start(Path::new(log::PATH)).wait_until("every loss", |events| {
        let told: u64 = events.iter().map(lost_opens).sum();
        (told == after.1).then_some(())
    })
}

/// Allowed opens that an event says the kernel lost.
fn lost_opens(event: &Value) -> u64 {
    if event["action"] != "lost" {
        return 0;
    }
    let counts = event.pointer("/object/counts").and_then(Value::as_array);
    counts
        .into_iter()
        .flatten()
        .filter(|count| count["verdict"] == "allow" && count["hook"] == "file_open")
        .filter_map(|count| count["count"].as_u64())
        .sum()
}

/// Ordinary work of every kind. Ends with the first thing that doesn't work.
const WORK: &str = r#"
set -e
cd "$1"
mkdir -p work/a/b
echo one >work/one
cat work/one >work/two
echo more >>work/two
ln work/one work/a/hard
ln -s ../one work/a/soft
cat work/a/soft >/dev/null
mv work/two work/a/b/three
chmod 600 work/a/b/three
chown 1000:1000 work/a/b/three
mkfifo work/fifo
truncate -s 0 work/one
cp /bin/busybox work/true
./work/true
printf '#!/bin/sh\nexit 0\n' >work/script
chmod 755 work/script
./work/script
cat /etc/passwd /proc/self/status >/dev/null
cat secret/key open/key >/dev/null
rm -r work
/usr/local/bin/agentguard-guest 2>/dev/null || test $? = 1
python3 - <<'END'
import os, socket
for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    server = socket.socket(family, socket.SOCK_STREAM)
    server.bind((host, 0))
    server.listen()
    client = socket.socket(family, socket.SOCK_STREAM)
    client.connect(server.getsockname())
    accepted, _ = server.accept()
    accepted.send(b"hello")
    assert client.recv(5) == b"hello"
    receiver = socket.socket(family, socket.SOCK_DGRAM)
    receiver.bind((host, 0))
    socket.socket(family, socket.SOCK_DGRAM).sendto(b"hello", receiver.getsockname())
    assert receiver.recv(5) == b"hello"
path = "sock-%d" % os.getpid()
server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
server.bind(path)
server.listen()
socket.socket(socket.AF_UNIX).connect(path)
os.unlink(path)
memfd = os.memfd_create("x")
os.write(memfd, b"x")
open("/proc/self/fd/%d" % memfd).close()
END
"#;

fn unlabelled(bench: &mut Bench) -> Result<()> {
    // An agent that is denied nearly everything is at it when each round begins.
    let mut agent = bench.agent()?;
    let denied = Act::Denied(Box::new(open(bench.path("open/key"), libc::O_RDONLY)));
    let busy = Act::Repeat {
        times: 2000,
        act: Box::new(denied.clone()),
    };
    bench.allowed(&mut agent, &denied)?;
    fs::set_permissions(&bench.dir, fs::Permissions::from_mode(0o755))?;
    for _ in 0..5 {
        agent.tell(&forked(busy.clone()))?;
        let output = run(
            "sh",
            &["-c", WORK, "work", &bench.dir.display().to_string()],
        )?;
        ensure!(
            output.status.success(),
            "ordinary work failed: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let outcome = agent.hear()?;
        ensure!(outcome == crate::remote::Outcome::Done(0), "{outcome:?}");
    }
    // As an ordinary user, in a cgroup of its own that is not tagged.
    let cgroup = bench.cgroup()?;
    let mut outside = Remote::outside()?;
    cgroup.add(outside.pid())?;
    for folder in ["secret", "open"] {
        let act = open(bench.path(folder).join("key"), libc::O_RDWR);
        bench.allowed(&mut outside, &act)?;
    }
    outside.end()?;
    // No decision was made about anybody without a name.
    let events = bench.log.events()?;
    let nameless = |event: &&Value| event.get("process").is_some() && event.get("agent").is_none();
    if let Some(event) = events.iter().find(nameless) {
        anyhow::bail!("an event about nobody's agent: {event}");
    }
    Ok(())
}
