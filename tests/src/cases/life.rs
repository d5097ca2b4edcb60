//! The daemon's life: killed, stopped and started again without a hole in what is enforced or logged, and
//! what it tells of itself. Loading policies anew is `reload.rs`.

use std::{fs, net::TcpListener, os::unix::net::UnixListener, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    bench::{self, Bench},
    daemon::{self, Daemon, Started, wait_until},
    log::{self, Log, Wanted},
    remote::{
        Act, Arg, Birth, Outcome, Remote,
        calls::{at, connect, exec, forked, internet, open, socket_for},
    },
    said::Said,
    scene::{Case, Scene},
};

/// Something of each kind that may not be done, and something that may.
const POLICY: &str = r#"
[default]
file = "allow"
exec = "allow"
connect = "deny"
listen = "deny"

[[deny]]
id = "secret"
file = "{dir}/secret/**"

[[deny]]
id = "denied"
exec = "{dir}/denied/**"

[[allow]]
id = "service"
connect = "tcp://192.0.2.1:8080"
"#;

/// Where the daemon listens.
const SOCKET: &str = "/run/agentguard/agentguard.sock";

fn files(dir: &Path) -> Result<()> {
    for folder in ["secret", "open"] {
        fs::create_dir_all(dir.join(folder))?;
        for name in ["key", "dead", "after"] {
            fs::write(dir.join(folder).join(name), "key\n")?;
        }
    }
    for folder in ["denied", "open"] {
        fs::create_dir_all(dir.join(folder))?;
        fs::copy("/bin/busybox", dir.join(folder).join("true"))?;
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let own = |name, play| {
        Case::new(name, play)
            .policy(POLICY)
            .prepare(files)
            .scene(Scene::OwnDaemon)
            .limit(300)
    };
    let ends = |name, how| {
        Case::with(name, how, goes_on_after)
            .policy(POLICY)
            .prepare(files)
            .scene(Scene::OwnDaemon)
            .limit(180)
    };
    vec![
        ends("life::killed_leaves_all_in_force", "kill"),
        ends("life::stopped_leaves_all_in_force", "stop"),
        own("life::killed_in_the_middle_of_a_flood", killed_in_a_flood),
        own("life::an_agent_ends_while_none_runs", ended_meanwhile),
        own("life::the_second_is_refused", second),
        own("life::a_socket_in_use_is_refused", socket_in_use),
        own("life::log_of_the_kernel_side", kernel_log),
        Case::new("life::agents_start_and_end", starts_and_ends)
            .policy(POLICY)
            .prepare(files),
        Case::new("life::untag_releases", untag_releases)
            .policy(POLICY)
            .prepare(files),
    ]
}

/// An open socket on the address that agents may connect to.
fn service() -> Result<TcpListener> {
    TcpListener::bind(at("192.0.2.1:8080")).context("cannot listen on 192.0.2.1:8080")
}

fn connecting(address: &str) -> Act {
    let address = at(address);
    Act::Sequence(vec![
        socket_for(address, libc::SOCK_STREAM),
        connect(Arg::Step(0), internet(address)),
    ])
}

/// What may not be done, and what the log says of it. `name` is that of a file that nobody else opens.
fn forbidden(bench: &Bench, name: &str) -> [(Act, Wanted); 3] {
    let (file, program) = (
        bench.path("secret").join(name),
        bench.path("denied").join("true"),
    );
    let default = format!("{}/default", bench.profile);
    [
        (
            forked(open(&file, libc::O_RDONLY)),
            Wanted::deny("file.open", "secret").path(file),
        ),
        (
            exec(Birth::Vfork, &program, &[]),
            Wanted::deny("exec", "denied").path(program),
        ),
        (
            connecting("198.51.100.1:8080"),
            Wanted::deny("net.connect", &default).address("tcp", at("198.51.100.1:8080")),
        ),
    ]
}

fn permitted(bench: &Bench, name: &str) -> [Act; 3] {
    [
        open(bench.path("open").join(name), libc::O_RDONLY),
        exec(Birth::Fork, bench.path("open/true"), &[]),
        connecting("192.0.2.1:8080"),
    ]
}

/// The agent is held to its profile, and the log says so.
fn held(bench: &mut Bench, agent: &mut Remote, name: &str) -> Result<()> {
    for (act, wanted) in forbidden(bench, name) {
        bench.denied(agent, &act, wanted)?;
    }
    for act in permitted(bench, name) {
        bench.allowed(agent, &act)?;
    }
    Ok(())
}

/// Every number from the first on is in the log once.
fn numbered_without_gaps() -> Result<Vec<Value>> {
    let mut log = Log::from_start(Path::new(log::PATH));
    let events = log.events()?.to_vec();
    for (index, event) in events.iter().enumerate() {
        let number = event.pointer("/seq").and_then(Value::as_u64);
        ensure!(
            number == Some(index as u64 + 1),
            "line {} of the log has number {number:?}: {event}",
            index + 1
        );
    }
    Ok(events)
}

/// What `agentguard agents` says of the one with this name.
fn listed(name: &str) -> Result<Value> {
    let all = Said::by(&["agents", "--json"])?.ends(0)?.json()?;
    let all = all.as_array().context("not a list")?;
    let found = all.iter().find(|agent| agent["name"] == name);
    found
        .cloned()
        .with_context(|| format!("there is no {name} among {all:?}"))
}

fn goes_on_after(bench: &mut Bench, how: &str) -> Result<()> {
    bench.fresh()?;
    let _service = service()?;
    let daemon = Daemon::start()?;
    let mut agent = bench.agent()?;
    held(bench, &mut agent, "key")?;
    let name = agent.agent.clone().context("the agent has no name")?;
    let before = listed(&name)?;
    match how {
        "kill" => daemon.kill()?,
        _ => {
            daemon.stop()?;
            bench
                .log
                .wait(&Wanted::action("daemon.stopped").with("/object/enforcing", true))?;
            ensure!(!Path::new(SOCKET).exists(), "its socket is still there");
        }
    }

    bench.log.skip()?;
    for (act, _) in forbidden(bench, "dead") {
        bench.fails(&mut agent, &act, libc::EPERM)?;
    }
    for act in permitted(bench, "dead") {
        bench.allowed(&mut agent, &act)?;
    }
    let mut outside = Remote::outside()?;
    bench.allowed(&mut outside, &open(bench.path("secret/dead"), libc::O_RDWR))?;
    let status = Said::by(&["status", "--json"])?.ends(17)?.json()?;
    ensure!(
        status["enforcing"] == false && status["kernel_enforces"] == true,
        "the status without a daemon: {status}"
    );

    let _daemon = Daemon::start()?;
    bench
        .log
        .wait(&Wanted::action("daemon.started").with("/object/adopted", true))?;
    for (_, wanted) in forbidden(bench, "dead") {
        bench.log.wait(&wanted.agent(&name))?;
    }
    let twin = Wanted::allow("file.open").path(bench.path("open/dead"));
    bench.log.wait(&twin.agent(&name))?;
    let after = listed(&name)?;
    ensure!(before == after, "the agent was {before} and is {after}");
    held(bench, &mut agent, "after")?;
    let mut newcomer = bench.agent()?;
    held(bench, &mut newcomer, "after")?;
    let newcomer = listed(newcomer.agent.as_deref().unwrap_or_default())?;
    ensure!(
        newcomer["id"].as_u64() > after["id"].as_u64(),
        "{newcomer} after {after}"
    );

    let events = numbered_without_gaps()?;
    let wanted = Wanted::deny("file.open", "secret").path(bench.path("secret/dead"));
    let times = events.iter().filter(|event| wanted.fits(event)).count();
    ensure!(
        times == 1,
        "what was denied once is in the log {times} times"
    );
    let status = bench::status()?;
    ensure!(status["enforcing"] == true, "the status: {status}");
    Ok(())
}

/// Each of many denials is in the log once or told as lost, although the daemon was killed between them.
fn killed_in_a_flood(bench: &mut Bench) -> Result<()> {
    bench.fresh()?;
    const EACH: u32 = 400;
    let key = bench.path("secret/key");
    let flood = Act::Repeat {
        times: EACH,
        act: Box::new(Act::Denied(Box::new(open(&key, libc::O_RDONLY)))),
    };
    let daemon = Daemon::start()?;
    let mut agent = bench.agent()?;
    bench.allowed(&mut agent, &flood)?;
    agent.tell(&flood)?;
    daemon.kill()?;
    let outcome = agent.hear()?;
    ensure!(
        outcome == Outcome::Done(0),
        "not everything was denied: {}",
        bench::shown(outcome)
    );
    bench.allowed(&mut agent, &flood)?;
    let _daemon = Daemon::start()?;
    let last = bench.path("secret/after");
    let wanted = Wanted::deny("file.open", "secret").path(&last);
    bench.denied(&mut agent, &open(&last, libc::O_RDONLY), wanted)?;
    let wanted = Wanted::deny("file.open", "secret").path(&key);
    let events = numbered_without_gaps()?;
    let logged = events.iter().filter(|event| wanted.fits(event)).count() as u64;
    let lost: u64 = events
        .iter()
        .filter(|event| event["action"] == "lost")
        .flat_map(|event| event["object"]["counts"].as_array().cloned())
        .flatten()
        .filter(|count| count["verdict"] == "deny")
        .filter_map(|count| count["count"].as_u64())
        .sum();
    ensure!(
        logged + lost == u64::from(3 * EACH),
        "of {} denials {logged} are in the log and {lost} are told as lost",
        3 * EACH
    );
    Ok(())
}

/// An agent whose last process ended while no daemon ran is an agent no more.
fn ended_meanwhile(bench: &mut Bench) -> Result<()> {
    bench.fresh()?;
    let daemon = Daemon::start()?;
    let agent = bench.agent()?;
    let name = agent.agent.clone().context("the agent has no name")?;
    daemon.kill()?;
    agent.end()?;
    let _daemon = Daemon::start()?;
    bench
        .log
        .wait(&Wanted::action("agent.ended").agent(&name))?;
    wait_until("the agent is no longer listed", || {
        Ok(listed(&name).is_err())
    })
}

fn refused<A: AsRef<std::ffi::OsStr>>(arguments: &[A], code: i32) -> Result<String> {
    match Daemon::try_start(arguments)? {
        Started::Ready(_) => bail!("the daemon must refuse to start, but is ready"),
        Started::Refused(status, said) => {
            ensure!(
                status.code() == Some(code),
                "must end with {code}: {status}:\n{said}"
            );
            Ok(said)
        }
    }
}

fn second(bench: &mut Bench) -> Result<()> {
    let mut daemon = Daemon::start()?;
    let mut agent = bench.agent()?;
    let said = refused::<&str>(&[], 12)?;
    ensure!(said.contains("another daemon runs"), "it says: {said}");
    ensure!(daemon.ended()?.is_none(), "the first daemon ended");
    let status = bench::status()?;
    ensure!(status["pid"] == daemon.pid(), "the status: {status}");
    let (act, wanted) = &forbidden(bench, "key")[0];
    bench.denied(&mut agent, act, wanted.clone())?;
    Ok(())
}

fn socket_in_use(_: &mut Bench) -> Result<()> {
    let path = "/run/test-in-use.sock";
    let _ = fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    let said = refused(&["--socket", path], 12)?;
    ensure!(
        said.contains("in use") && said.contains(path),
        "it says: {said}"
    );
    ensure!(Path::new(path).exists(), "it took the socket away");
    drop(listener);
    // One that nobody listens on is in nobody's use.
    match Daemon::try_start(&["--socket", path])? {
        Started::Ready(daemon) => {
            Said::by(&["--socket", path, "status"])?.ends(0)?;
            daemon.stop()
        }
        Started::Refused(status, said) => bail!("the daemon ended ({status}):\n{said}"),
    }
}

fn kernel_log(bench: &mut Bench) -> Result<()> {
    bench.fresh()?;
    let said = |from: usize| -> Result<String> {
        Ok(fs::read_to_string(daemon::OUTPUT)?[from..].to_owned())
    };
    // Not there before the first daemon.
    let begin = fs::read_to_string(daemon::OUTPUT).map_or(0, |said| said.len());
    let daemon = Daemon::start_with(&["--kernel-log", "debug"])?;
    let mut agent = bench.agent()?;
    let (act, wanted) = &forbidden(bench, "key")[0];
    bench.denied(&mut agent, act, wanted.clone())?;
    let id = listed(agent.agent.as_deref().unwrap_or_default())?["id"].clone();
    let line = format!("agent {id} hook ");
    let heard = wait_until("a line of the kernel side's log", || {
        Ok(said(begin)?.contains(&line))
    });
    heard.with_context(|| said(begin).unwrap_or_default())?;
    daemon.stop()?;
    // Silent again when it isn't asked for.
    let begin = said(0)?.len();
    let daemon = Daemon::start()?;
    bench.denied(&mut agent, act, wanted.clone())?;
    daemon.stop()?;
    let said = said(begin)?;
    ensure!(!said.contains(&line), "still told: {said}");
    Ok(())
}

fn starts_and_ends(bench: &mut Bench) -> Result<()> {
    bench.log.skip()?;
    let agent = bench.agent()?;
    let name = agent.agent.clone().context("the agent has no name")?;
    let listed = listed(&name)?;
    ensure!(
        listed["state"] == "active" && listed["owned"] == true,
        "it is {listed}"
    );
    let of_agent = |action: &str| {
        Wanted::action(action)
            .agent(&name)
            .with("/profile", listed["profile"].clone())
            .with("/session", listed["session"].clone())
            .with("/object/id", listed["id"].clone())
            .with("/object/cgroup", listed["cgroup"].clone())
    };
    bench.log.wait(&of_agent("agent.started"))?;
    bench.log.lacks(&of_agent("agent.ended"))?;
    agent.end()?;
    bench.log.wait(&of_agent("agent.ended"))?;
    let cgroup = listed["cgroup"].as_str().context("no cgroup")?;
    wait_until("its cgroup is removed", || Ok(!Path::new(cgroup).exists()))
}

fn untag_releases(bench: &mut Bench) -> Result<()> {
    let key = bench.path("secret/key");
    let (mut remote, cgroup) = bench.tagged_after(&[open(&key, libc::O_RDONLY)])?;
    let name = remote.agent.clone().context("the agent has no name")?;
    let wanted = Wanted::deny("file.open", "secret").path(&key);
    bench.denied(&mut remote, &open(&key, libc::O_RDONLY), wanted)?;
    let path = cgroup.path.display().to_string();
    Said::by(&["untag", &path])?.ends(0)?.prints(&[&name])?;
    bench
        .log
        .wait(&Wanted::action("agent.ended").agent(&name))?;
    bench.allowed(&mut remote, &open(&key, libc::O_RDONLY))?;
    bench.allowed(&mut remote, &forked(open(&key, libc::O_RDWR)))?;
    remote.end()?;
    Ok(())
}
