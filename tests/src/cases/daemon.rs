//! The daemon's own life: killed, restarted, second, told to load another policy. Enforcement doesn't
//! depend on it.

use std::{fs, net::TcpListener, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::secret::{self, SECRET};
use crate::{
    bench::{Bench, POLICIES, run, run_well, status},
    daemon::{self, Daemon, Started},
    log::Wanted,
    remote::{
        Act, Arg, Birth, Remote,
        calls::{at, connect, exec, forked, internet, open, socket_for},
    },
    scene::{Case, Scene},
};

pub fn cases() -> Vec<Case> {
    let own = |name, play| {
        Case::new(name, play)
            .policy(SECRET)
            .prepare(secret::files)
            .scene(Scene::OwnDaemon)
            .limit(240)
    };
    vec![
        own("daemon::killed_nothing_denied_becomes_allowed", killed),
        own("daemon::killed_again_and_again", killed_again),
        own("daemon::stopped_and_started", stopped),
        own("daemon::reload", reload),
        own("daemon::reload_under_load", reload_under_load),
        own("daemon::profile_removed", profile_removed),
        own("daemon::full_disk", full_disk),
        own("daemon::torn_log", torn_log),
        own("daemon::unload", unload),
    ]
}

fn connecting(address: &str) -> Act {
    Act::Sequence(vec![
        socket_for(at(address), libc::SOCK_STREAM),
        connect(Arg::Step(0), internet(at(address))),
    ])
}

/// A file, a program and a connection, each denied and its twin allowed. Looks at no event.
fn enforced(bench: &Bench, agent: &mut Remote) -> Result<()> {
    let _listener = TcpListener::bind("192.0.2.1:8080")?;
    for (denied, twin) in [
        (
            open(bench.path("secret/key"), libc::O_RDONLY),
            open(bench.path("open/key"), libc::O_RDONLY),
        ),
        (
            exec(Birth::Fork, bench.path("secret/true"), &[]),
            exec(Birth::Fork, bench.path("open/true"), &[]),
        ),
        (connecting("192.0.2.1:8081"), connecting("192.0.2.1:8080")),
    ] {
        bench.fails(agent, &denied, libc::EPERM)?;
        bench.fails(agent, &forked(denied), libc::EPERM)?;
        bench.allowed(agent, &twin)?;
    }
    Ok(())
}

fn seq(event: &Value) -> Result<u64> {
    event["seq"]
        .as_u64()
        .with_context(|| format!("no number: {event}"))
}

/// The numbers of the whole log have no gap.
fn whole_log_is_contiguous() -> Result<()> {
    let mut log = crate::log::Log::from_start(Path::new(crate::log::PATH));
    let events = log.events()?;
    for pair in events.windows(2) {
        ensure!(
            seq(&pair[0])? + 1 == seq(&pair[1])?,
            "a gap between {} and {}",
            pair[0],
            pair[1]
        );
    }
    Ok(())
}

fn killed(bench: &mut Bench) -> Result<()> {
    let daemon = Daemon::start()?;
    let mut agent = bench.agent()?;
    let name = agent.agent.clone().unwrap_or_default();
    enforced(bench, &mut agent)?;
    let wanted = Wanted::deny("file.open", "secret").agent(&name);
    let before = bench.log.wait(&wanted)?;
    daemon.kill()?;
    enforced(bench, &mut agent)?;
    // Nobody is there to start an agent, and nothing is started without one.
    let marker = bench.path("marker");
    let output = run(
        "agentguard",
        &[
            "run",
            "--profile",
            &bench.profile,
            "--",
            "touch",
            &marker.display().to_string(),
        ],
    )?;
    ensure!(output.status.code() == Some(125), "{output:?}");
    ensure!(!marker.exists(), "the command was run without a label");
    let output = run("agentguard", &["status"])?;
    ensure!(output.status.code() == Some(17), "{output:?}");

    bench.log.skip()?;
    let daemon = Daemon::start()?;
    let started = Wanted::action("daemon.started").with("/object/adopted", true);
    let started = bench.log.wait(&started)?;
    ensure!(seq(&started)? > seq(&before)?);
    // What was denied while nobody listened is told now.
    bench.log.wait(&wanted)?;
    enforced(bench, &mut agent)?;
    let act = open(bench.path("secret/key"), libc::O_RDONLY);
    let after = bench.denied(&mut agent, &act, wanted)?;
    ensure!(before["session"] == after["session"], "{before} {after}");
    let status = status()?;
    ensure!(status["enforcing"] == true, "{status}");
    let agents = status["agents"].as_array().context("no agents")?;
    ensure!(
        agents.iter().any(|agent| agent["name"] == *name),
        "{status}"
    );
    whole_log_is_contiguous()?;
    daemon.stop()
}

fn killed_again(bench: &mut Bench) -> Result<()> {
    let mut agent: Option<Remote> = None;
    for _ in 0..3 {
        let daemon = Daemon::start()?;
        if agent.is_none() {
            agent = Some(bench.agent()?);
        }
        let agent = agent.as_mut().context("no agent")?;
        enforced(bench, agent)?;
        daemon.kill()?;
        enforced(bench, agent)?;
    }
    let daemon = Daemon::start()?;
    // Numbers of agents are never given twice.
    let mut second = bench.agent()?;
    enforced(bench, &mut second)?;
    let act = open(bench.path("secret/key"), libc::O_RDONLY);
    bench.denied(&mut second, &act, Wanted::deny("file.open", "secret"))?;
    let first = agent.as_mut().context("no agent")?;
    bench.denied(first, &act, Wanted::deny("file.open", "secret"))?;
    whole_log_is_contiguous()?;
    daemon.stop()
}

fn stopped(bench: &mut Bench) -> Result<()> {
    let daemon = Daemon::start()?;
    let mut agent = bench.agent()?;
    bench.log.skip()?;
    daemon.stop()?;
    let stopped = Wanted::action("daemon.stopped").with("/object/enforcing", true);
    bench.log.wait(&stopped)?;
    enforced(bench, &mut agent)?;
    let daemon = Daemon::start()?;
    enforced(bench, &mut agent)?;
    whole_log_is_contiguous()?;
    daemon.stop()
}

/// The file of the case's own profile.
fn profile_file(bench: &Bench) -> String {
    format!("{POLICIES}/{}.toml", bench.profile)
}

fn reload(bench: &mut Bench) -> Result<()> {
    let daemon = Daemon::start()?;
    let mut agent = bench.agent()?;
    enforced(bench, &mut agent)?;
    let file = profile_file(bench);
    let good = fs::read_to_string(&file)?;

    // What can't be understood changes nothing.
    fs::write(
        &file,
        format!("{good}\n[[deny]]\nfile = \"/x\"\nwhat = 1\n"),
    )?;
    let install = status()?["policy"]["install"].clone();
    bench.log.skip()?;
    let output = run("agentguard", &["reload"])?;
    ensure!(output.status.code() == Some(15), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in [file.as_str(), "what"] {
        ensure!(said.contains(part), "doesn't say `{part}`: {said}");
    }
    bench.log.wait(&Wanted::action("policy.refused"))?;
    ensure!(status()?["policy"]["install"] == install);
    enforced(bench, &mut agent)?;

    // What can takes effect on agents that run.
    let swapped = good
        .replace("secret/", "\u{1}/")
        .replace("open/", "secret/")
        .replace("\u{1}/", "open/");
    fs::write(
        &file,
        format!(
            "{swapped}\n[[deny]]\nid = \"other\"\nfile = \"{}\"\n",
            bench.path("open/key").display()
        ),
    )?;
    run_well("agentguard", &["reload"])?;
    bench.log.wait(&Wanted::action("policy.loaded"))?;
    let act = open(bench.path("open/key"), libc::O_RDONLY);
    bench.denied(&mut agent, &act, Wanted::deny("file.open", "other"))?;
    fs::write(&file, good)?;
    run_well("agentguard", &["reload"])?;
    enforced(bench, &mut agent)?;
    // The signal does the same.
    bench.log.skip()?;
    daemon::signal(daemon.pid(), libc::SIGHUP)?;
    bench.log.wait(&Wanted::action("policy.loaded"))?;
    enforced(bench, &mut agent)?;
    daemon.stop()
}

/// What both policies deny is denied at every moment, and what both allow is allowed.
fn reload_under_load(bench: &mut Bench) -> Result<()> {
    let daemon = Daemon::start()?;
    let mut agent = bench.agent()?;
    let file = profile_file(bench);
    let good = fs::read_to_string(&file)?;
    let round = Act::Sequence(vec![
        Act::Denied(Box::new(open(bench.path("secret/key"), libc::O_RDONLY))),
        open(bench.path("open/key"), libc::O_RDONLY),
        crate::remote::calls::close(Arg::Step(1)),
    ]);
    agent.tell(&Act::Repeat {
        times: 3000,
        act: Box::new(round),
    })?;
    for number in 0..4 {
        let more = format!("{good}\n[[deny]]\nid = \"more\"\nfile = \"/nowhere/{number}/**\"\n");
        fs::write(&file, more)?;
        run_well("agentguard", &["reload"])?;
    }
    let outcome = agent.hear()?;
    ensure!(
        matches!(outcome, crate::remote::Outcome::Done(_)),
        "some action saw another policy: {outcome:?}"
    );
    fs::write(&file, good)?;
    run_well("agentguard", &["reload"])?;
    daemon.stop()
}

/// A profile whose file is gone stays in force for the agents that are under it.
fn profile_removed(bench: &mut Bench) -> Result<()> {
    let daemon = Daemon::start()?;
    let mut agent = bench.agent()?;
    let file = profile_file(bench);
    let good = fs::read_to_string(&file)?;
    fs::remove_file(&file)?;
    run_well("agentguard", &["reload"])?;
    enforced(bench, &mut agent)?;
    let act = open(bench.path("secret/key"), libc::O_RDONLY);
    bench.denied(&mut agent, &act, Wanted::deny("file.open", "secret"))?;
    let output = run(
        "agentguard",
        &["run", "--profile", &bench.profile, "--", "true"],
    )?;
    ensure!(output.status.code() == Some(125), "{output:?}");
    fs::write(&file, good)?;
    run_well("agentguard", &["reload"])?;
    enforced(bench, &mut agent)?;
    daemon.stop()
}

/// A small file system at the log's place.
struct SmallLog;

impl SmallLog {
    fn mount(options: &str) -> Result<Self> {
        let place = "/var/log/agentguard";
        fs::create_dir_all(place)?;
        run_well("mount", &["-t", "tmpfs", "-o", options, "log", place])?;
        Ok(Self)
    }
}

impl Drop for SmallLog {
    fn drop(&mut self) {
        let _ = run_well("umount", &["-l", "/var/log/agentguard"]);
    }
}

fn full_disk(bench: &mut Bench) -> Result<()> {
    let _disk = SmallLog::mount("size=256k")?;
    let daemon = Daemon::start()?;
    let mut agent = bench.agent()?;
    let name = agent.agent.clone().unwrap_or_default();
    let wanted = Wanted::deny("file.open", "secret").agent(&name);
    let act = open(bench.path("secret/key"), libc::O_RDONLY);
    let mut log = crate::log::Log::from_start(Path::new(crate::log::PATH));
    agent.act(&act)?;
    log.wait(&wanted)?;
    // Somebody fills the disk.
    let filler = "/var/log/agentguard/filler";
    let filled = run("dd", &["if=/dev/zero", &format!("of={filler}"), "bs=4096"])?;
    ensure!(!filled.status.success(), "the disk isn't full");
    for _ in 0..200 {
        bench.fails(&mut agent, &act, libc::EPERM)?;
    }
    daemon::wait_until("the daemon notices that it can't write", || {
        Ok(status()?["log"]["writing"] == false)
    })?;
    let output = run("agentguard", &["status"])?;
    ensure!(output.status.code() == Some(1), "nothing wrong? {output:?}");
    enforced(bench, &mut agent)?;
    // And takes it away again.
    fs::remove_file(filler)?;
    agent.act(&act)?;
    daemon::wait_until("the daemon writes again", || {
        Ok(status()?["log"]["writing"] == true)
    })?;
    // What was kept is written; what could not be kept is counted.
    log.wait_until("201 denials or their loss", |events| {
        let logged = events.iter().filter(|event| wanted.fits(event)).count() as u64;
        let lost: u64 = events
            .iter()
            .filter(|event| event["action"] == "lost")
            .filter_map(|event| event.pointer("/object/count")?.as_u64())
            .sum();
        (logged + lost >= 201).then_some(())
    })?;
    let events = log.events()?;
    for pair in events.windows(2) {
        ensure!(
            seq(&pair[0])? + 1 == seq(&pair[1])?,
            "{} {}",
            pair[0],
            pair[1]
        );
    }
    daemon.stop()
}

/// The last line was cut by a power loss.
fn torn_log(bench: &mut Bench) -> Result<()> {
    let daemon = Daemon::start()?;
    bench.log.skip()?;
    daemon.kill()?;
    let whole = fs::read(crate::log::PATH)?;
    let mut torn = whole.clone();
    torn.extend_from_slice(b"{\"v\":1,\"seq\":99999,\"ti");
    fs::write(crate::log::PATH, &torn)?;
    let daemon = Daemon::start()?;
    let mut log = crate::log::Log::from_start(Path::new(crate::log::PATH));
    let wanted = Wanted::action("daemon.gap").with("/object/cut_bytes", torn.len() - whole.len());
    log.wait(&wanted)?;
    whole_log_is_contiguous()?;
    daemon.stop()
}

fn unload(bench: &mut Bench) -> Result<()> {
    let daemon = Daemon::start()?;
    let mut agent = bench.agent()?;
    let output = run("agentguard", &["unload"])?;
    ensure!(
        output.status.code() == Some(12),
        "the daemon runs: {output:?}"
    );
    daemon.stop()?;
    let output = run("agentguard", &["unload"])?;
    ensure!(
        output.status.code() == Some(20),
        "an agent is active: {output:?}"
    );
    enforced(bench, &mut agent)?;
    run_well("agentguard", &["unload", "--force"])?;
    let act = open(bench.path("secret/key"), libc::O_RDONLY);
    bench.allowed(&mut agent, &act)?;
    ensure!(!Path::new("/sys/fs/bpf/agentguard").exists());
    agent.end()?;
    // From nothing to everything again.
    match Daemon::try_start::<&str>(&[])? {
        Started::Ready(daemon) => {
            let mut agent = bench.agent()?;
            enforced(bench, &mut agent)?;
            daemon.stop()
        }
        Started::Refused(status, said) => bail!("{status}: {said}"),
    }
}
