//! Tables that don't hold what they should, and memory that isn't there: what can't be decided is denied to
//! agents, told in the log, and nobody else notices.

use std::{
    fs,
    mem::offset_of,
    net::{SocketAddr, UdpSocket},
    path::Path,
};

use aya::maps::{Array, Map, MapData};

use agentguard_common::{
    label::Agent,
    profile::{HEADER_CELLS, Subject, subject_cell},
};
use anyhow::{Context as _, Result, ensure};

use crate::{
    bench::Bench,
    daemon::{Daemon, wait_until},
    log::Wanted,
    remote::{
        Act, Birth, Outcome, Remote,
        calls::{at, bind, connect, exec, forked, internet, open, receive, socket_for},
    },
    said::Said,
    scene::{Case, Scene},
};

const POLICY: &str = r#"
[default]
file = "allow"
exec = "allow"
connect = "allow"
listen = "deny"
"#;

fn files(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir.join("open"))?;
    fs::write(dir.join("open/key"), "key\n")?;
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(POLICY).prepare(files);
    vec![
        case("broken::profile_gone", profile_gone),
        case("broken::descriptor_gone", descriptor_gone),
        case("broken::automaton_beyond_the_arena", automaton_beyond),
        case("broken::agent_gone", agent_gone),
        Case::new("broken::link_of_an_agent_gone", link_gone)
            .scene(Scene::OwnDaemon)
            .limit(180),
        case("broken::no_memory_for_labels", no_memory)
            .scene(Scene::OwnDaemon)
            .limit(300),
    ]
}

/// An element of a pinned array, which gets its value back.
struct Broken<T: aya::Pod> {
    array: Array<MapData, T>,
    index: u32,
    good: T,
}

impl<T: aya::Pod> Broken<T> {
    fn new(map: &str, index: u32, bad: impl FnOnce(T) -> T) -> Result<Self> {
        let mut array = array(map)?;
        let good = array.get(&index, 0)?;
        array.set(index, bad(good), 0)?;
        Ok(Self { array, index, good })
    }
}

impl<T: aya::Pod> Drop for Broken<T> {
    fn drop(&mut self) {
        let _ = self.array.set(self.index, self.good, 0);
    }
}

fn array<T: aya::Pod>(name: &str) -> Result<Array<MapData, T>> {
    let data = MapData::from_pin(format!("/sys/fs/bpf/agentguard/maps/{name}"))?;
    Array::try_from(Map::Array(data)).with_context(|| format!("{name} is no such array"))
}

/// An element of `AGENTS`.
type Bytes = [u8; size_of::<Agent>()];

/// The agent's slot, and that of its profile.
fn slots(remote: &Remote) -> Result<(u32, u32)> {
    let name = remote.agent.as_deref().context("the agent has no name")?;
    let agents: Array<MapData, Bytes> = array("AGENTS")?;
    for slot in 0..agents.len() {
        let bytes = agents.get(&slot, 0)?;
        let at = offset_of!(Agent, name);
        if bytes[at..].starts_with(name.as_bytes()) && bytes[at + name.len()] == 0 {
            let at = offset_of!(Agent, profile);
            let profile = bytes[at..at + 4].try_into()?;
            return Ok((slot, u32::from_le_bytes(profile)));
        }
    }
    anyhow::bail!("no slot holds {name}")
}

/// Where the descriptor of the agent's profile is in the arena.
fn descriptor(remote: &Remote) -> Result<u32> {
    let (_, profile) = slots(remote)?;
    let profiles: Array<MapData, u64> = array("PROFILES")?;
    Ok(profiles.get(&profile, 0)? as u32)
}

/// A file and a program, both of which the profile allows.
fn acts(bench: &Bench) -> [Act; 2] {
    [
        open(bench.path("open/key"), libc::O_RDONLY),
        exec(Birth::Vfork, "/bin/true", &[]),
    ]
}

/// Where everything may be sent.
fn address() -> SocketAddr {
    at("192.0.2.1:8090")
}

fn all_allowed(bench: &Bench, remote: &mut Remote) -> Result<i64> {
    for act in acts(bench) {
        bench.allowed(remote, &act)?;
    }
    let fd = bench.allowed(remote, &socket_for(address(), libc::SOCK_DGRAM))?;
    bench.allowed(remote, &connect(fd, internet(address())))?;
    answer(remote, fd)?;
    bench.allowed(remote, &receive(fd))?;
    Ok(fd)
}

/// Sends something to the socket from where it is connected to.
fn answer(remote: &Remote, fd: i64) -> Result<()> {
    let to = SocketAddr::new(address().ip(), remote.port_of(fd, "udp")?);
    UdpSocket::bind(address())?.send_to(b"pong", to)?;
    Ok(())
}

/// Denied to the agent for this reason, allowed to who is none.
/// `fd` is a socket that it made before.
fn all_denied(bench: &mut Bench, agent: &mut Remote, fd: i64, reason: &str) -> Result<()> {
    let name = agent.agent.clone().context("the agent has no name")?;
    let [file, program] = acts(bench);
    bench.denied(
        agent,
        &file,
        Wanted::refusal("file.open", reason).agent(&name),
    )?;
    // The program's file is opened before it is looked at as a program.
    bench.fails(agent, &program, libc::EPERM)?;
    bench.denied(
        agent,
        &connect(fd, internet(address())),
        Wanted::refusal("net.connect", reason).agent(&name),
    )?;
    bench.log.skip()?;
    answer(agent, fd)?;
    // Whose agent is gone, nobody can say.
    if reason != "stale-label" {
        let wanted = Wanted::refusal("net.accept", reason).address("udp", address());
        bench.log.wait(&wanted.agent(&name))?;
    }
    bench.fails(agent, &receive(fd), libc::EAGAIN)?;
    let mut outside = Remote::outside()?;
    all_allowed(bench, &mut outside)?;
    outside.end()?;
    Ok(())
}

fn profile_gone(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let fd = all_allowed(bench, &mut agent)?;
    let (_, profile) = slots(&agent)?;
    let broken = Broken::new("PROFILES", profile, |_: u64| 0)?;
    all_denied(bench, &mut agent, fd, "tables-broken")?;
    drop(broken);
    all_allowed(bench, &mut agent).map(drop)
}

fn descriptor_gone(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let fd = all_allowed(bench, &mut agent)?;
    let broken = Broken::new("AUTOMATON", descriptor(&agent)?, |_: u64| 0)?;
    all_denied(bench, &mut agent, fd, "tables-broken")?;
    drop(broken);
    all_allowed(bench, &mut agent).map(drop)
}

fn automaton_beyond(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let fd = all_allowed(bench, &mut agent)?;
    let descriptor = descriptor(&agent)?;
    ensure!(subject_cell(descriptor, Subject::File as u32) >= descriptor + HEADER_CELLS);
    let broken: Vec<_> = [Subject::File, Subject::Exec, Subject::Connect]
        .map(|subject| {
            // Not absent, not in a sink, and nowhere.
            Broken::new(
                "AUTOMATON",
                subject_cell(descriptor, subject as u32),
                |_: u64| 0x7fff_ffff,
            )
        })
        .into_iter()
        .collect::<Result<_>>()?;
    // What was allowed is allowed again without a look at the tables, until anything is renamed.
    let (key, other) = (bench.path("open/key"), bench.path("open/other"));
    fs::rename(&key, &other)?;
    fs::rename(&other, &key)?;
    all_denied(bench, &mut agent, fd, "tables-broken")?;
    drop(broken);
    all_allowed(bench, &mut agent).map(drop)
}

/// A label whose agent is no more still holds its task.
fn agent_gone(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let fd = all_allowed(bench, &mut agent)?;
    let (slot, _) = slots(&agent)?;
    let broken = Broken::new("AGENTS", slot, |mut bytes: Bytes| {
        bytes[offset_of!(Agent, id) + 7] = 0x7f;
        bytes
    })?;
    all_denied(bench, &mut agent, fd, "stale-label")?;
    drop(broken);
    all_allowed(bench, &mut agent).map(drop)
}

/// What an earlier daemon knew nothing of, a new one attaches to the agents that are there.
fn link_gone(bench: &mut Bench) -> Result<()> {
    const LINKS: &str = "/sys/fs/bpf/agentguard/links";
    bench.fresh()?;
    let daemon = Daemon::start()?;
    let mut agent = bench.agent()?;
    let name = agent.agent.clone().context("the agent has no name")?;
    let any = at("0.0.0.0:0");
    let fd = bench.allowed(&mut agent, &socket_for(any, libc::SOCK_DGRAM))?;
    bench.allowed(&mut agent, &bind(fd, internet(any)))?;
    let to = SocketAddr::new(at("127.0.0.1:0").ip(), agent.port_of(fd, "udp")?);
    let stranger = UdpSocket::bind(address())?;
    let dropped = |bench: &mut Bench, agent: &mut Remote| {
        bench.log.skip()?;
        stranger.send_to(b"unasked", to)?;
        let wanted = Wanted::deny("net.accept", &format!("{}/default", bench.profile));
        bench
            .log
            .wait(&wanted.address("udp", address()).agent(&name))?;
        bench.fails(agent, &receive(fd), libc::EAGAIN)
    };
    dropped(bench, &mut agent)?;
    daemon.kill()?;
    for link in fs::read_dir(LINKS)? {
        let link = link?.path();
        if link.to_string_lossy().ends_with("-cgroup_ingress") {
            fs::remove_file(link)?;
        }
    }
    // KERNEL: it is let go of a moment later.
    wait_until("nothing is attached", || {
        stranger.send_to(b"unasked", to)?;
        Ok(agent.act(&receive(fd))? == Outcome::Done(7))
    })?;
    let _daemon = Daemon::start()?;
    dropped(bench, &mut agent)
}

/// A cgroup whose memory can be taken away: that of a daemon that is dead, which the kernel's labels are
/// charged to.
const MEMORY: &str = "/sys/fs/cgroup/test-memory";

fn no_memory(bench: &mut Bench) -> Result<()> {
    bench.unloaded()?;
    Said::by_shell(&format!(
        "echo +memory >/sys/fs/cgroup/cgroup.subtree_control && mkdir -p {MEMORY}"
    ))?
    .ends(0)?;
    let result = short_of_memory(bench);
    fs::write(format!("{MEMORY}/memory.max"), "max")?;
    result
}

fn short_of_memory(bench: &mut Bench) -> Result<()> {
    let script = format!("echo $$ >{MEMORY}/cgroup.procs && exec agentguard daemon");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script]);
    let daemon = match Daemon::try_start_command(&mut command)? {
        crate::daemon::Started::Ready(daemon) => daemon,
        crate::daemon::Started::Refused(status, said) => anyhow::bail!("{status}: {said}"),
    };
    let started = Wanted::action("daemon.started").with("/object/adopted", false);
    bench.log.wait(&started)?;
    let mut agent = bench.agent()?;
    let child = forked(open(bench.path("open/key"), libc::O_RDONLY));
    bench.allowed(&mut agent, &child)?;
    daemon.kill()?;
    fs::write(format!("{MEMORY}/memory.max"), "0")?;
    // The kernel keeps some memory at hand, and what a child had it gets back when that has ended. Of so many that are
    // there at once one can't be given its label.
    let generations = (0..24).fold(child.clone(), |act, _| forked(act));
    let mut refused = false;
    let mut children = Vec::new();
    for _ in 0..200 {
        let outcome = agent.act(&generations)?;
        children.push(outcome);
        if outcome == Outcome::Failed(libc::EPERM) {
            refused = true;
            break;
        }
    }
    // KERNEL: 6.1 may let what can't wait past the limit (mm/memcontrol.c, `try_charge_memcg`): then it gets a label.
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    ensure!(
        refused || release.starts_with("6.1."),
        "every child got its label: {children:?}"
    );
    // What no agent may do, and root could.
    let leave = open("/sys/fs/cgroup/cgroup.procs", libc::O_WRONLY);
    let leave = (0..24).fold(leave, |act, _| forked(act));
    bench.fails(&mut agent, &leave, libc::EPERM)?;
    // Who is no agent needs none.
    let mut outside = Remote::outside()?;
    bench.allowed(&mut outside, &child)?;
    outside.end()?;
    fs::write(format!("{MEMORY}/memory.max"), "max")?;
    bench.allowed(&mut agent, &child)?;
    let _daemon = Daemon::start()?;
    let status = crate::bench::status()?;
    let failures = status["counters"]["failures"].as_array().cloned();
    let counted = failures
        .into_iter()
        .flatten()
        .any(|failure| failure["site"] == "label_create");
    ensure!(counted || !refused, "{status}");
    Ok(())
}
