//! Other processes: an agent signals, traces and looks into its own and no others, and others do with it what
//! they could before.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    bench::{Bench, of},
    log::Wanted,
    remote::{
        Act, Arg, Remote,
        calls::{call, forked, open},
    },
    scene::Case,
};

const AUDIT: &str = r#"
mode = "audit"
"#;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("process::signals", signals),
        Case::new("process::signals_between_agents", between_agents),
        // Yama lets a child look at its parent by this capability alone.
        Case::new("process::inspection", inspection)
            .policy("[system]\ncapabilities = \"CAP_SYS_PTRACE\"\nprocess_list = \"allow\"\n"),
        Case::new("process::asking_to_be_traced", traceme),
        Case::new("process::sleepers_in_the_cgroup", sleepers),
        Case::new("process::of_an_ordinary_user", ordinary_user)
            .policy("[system]\nprocess_list = \"allow\"\n"),
        Case::new("process::what_proc_lists", list).second("[system]\nprocess_list = \"allow\"\n"),
        Case::new("process::signals_by_a_descriptor", by_descriptor),
        Case::new("process::audit", audit).policy(AUDIT),
    ]
}

fn kill(pid: u32, signal: i32) -> Act {
    call(libc::SYS_kill, [i64::from(pid).into(), signal.into()])
}

/// By thread, and by a descriptor of the process.
fn other_ways(pid: u32, signal: i32) -> [Act; 2] {
    let id = || Arg::Int(pid.into());
    [
        call(libc::SYS_tgkill, [id(), id(), signal.into()]),
        Act::Sequence(vec![
            call(libc::SYS_pidfd_open, [id(), 0.into()]),
            call(
                libc::SYS_pidfd_send_signal,
                [Arg::Step(0), signal.into(), 0.into(), 0.into()],
            ),
        ]),
    ]
}

fn refused(action: &str, pid: u32) -> Wanted {
    Wanted::refusal(action, "other-task").with("/object/pid", pid)
}

/// A process that is alive does as it is told.
fn alive(bench: &Bench, remote: &mut Remote) -> Result<()> {
    bench.allowed(remote, &call(libc::SYS_getpid, [])).map(drop)
}

fn signals(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let mut outside = Remote::outside()?;
    let pid = outside.pid();
    for signal in [0, libc::SIGTERM, libc::SIGKILL] {
        let wanted = refused("process.signal", pid).with("/object/signal", signal);
        bench.denied(&mut agent, &kill(pid, signal), wanted.clone())?;
        for act in other_ways(pid, signal) {
            bench.denied(&mut agent, &act, wanted.clone())?;
        }
        bench.denied(&mut agent, &forked(kill(pid, signal)), wanted)?;
    }
    bench.denied(
        &mut agent,
        &kill(1, libc::SIGHUP),
        refused("process.signal", 1),
    )?;
    alive(bench, &mut outside)?;
    // Its own: itself, and its parent from a child.
    let own = agent.pid();
    bench.allowed(&mut agent, &kill(own, 0))?;
    bench.allowed(&mut agent, &forked(kill(own, 0)))?;
    for act in other_ways(own, 0) {
        bench.allowed(&mut agent, &forked(act))?;
    }
    // Who is no agent may do what it could do before.
    bench.allowed(&mut outside, &kill(own, 0))?;
    bench.allowed(&mut outside, &kill(own, libc::SIGCONT))?;
    Ok(())
}

fn between_agents(bench: &mut Bench) -> Result<()> {
    let (mut one, mut two) = (bench.agent()?, bench.agent()?);
    for (from, to) in [(&mut one, &two.pid()), (&mut two, &1)] {
        let wanted = refused("process.signal", *to);
        bench.denied(from, &kill(*to, libc::SIGKILL), wanted)?;
    }
    alive(bench, &mut two)
}

/// What is asked of another process, and how it fails: some of these say EACCES for whatever reason.
fn looks(pid: u32, own: u32) -> Vec<(Act, i32, &'static str)> {
    let id = || Arg::Int(pid.into());
    let proc = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    const SEIZE: i64 = 0x4206;
    const KCMP_VM: i64 = 1;
    let link = |name| {
        call(
            libc::SYS_readlink,
            [
                proc(name).as_path().into(),
                Arg::Bytes(vec![0; 64]),
                64.into(),
            ],
        )
    };
    vec![
        (
            call(libc::SYS_ptrace, [SEIZE.into(), id(), 0.into(), 0.into()]),
            libc::EPERM,
            "attach",
        ),
        (
            call(
                libc::SYS_kcmp,
                [
                    i64::from(own).into(),
                    id(),
                    KCMP_VM.into(),
                    0.into(),
                    0.into(),
                ],
            ),
            libc::EPERM,
            "read",
        ),
        (
            Act::Sequence(vec![
                call(libc::SYS_pidfd_open, [id(), 0.into()]),
                call(libc::SYS_pidfd_getfd, [Arg::Step(0), 0.into(), 0.into()]),
            ]),
            libc::EPERM,
            "attach",
        ),
        (open(proc("mem"), libc::O_RDONLY), libc::EACCES, "attach"),
        (link("exe"), libc::EACCES, "read"),
        (link("cwd"), libc::EACCES, "read"),
        (open(proc("root/etc"), libc::O_RDONLY), libc::EACCES, "read"),
    ]
}

fn inspection(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let mut outside = Remote::outside()?;
    let (own, pid) = (agent.pid(), outside.pid());
    for (act, errno, access) in looks(pid, own) {
        bench.log.skip()?;
        bench.fails(&mut agent, &act, errno)?;
        let wanted = refused("process.ptrace", pid).with("/object/access", vec![access]);
        bench.log.wait(&wanted)?;
    }
    // A child does the same with its parent, and somebody else with the agent.
    for (act, _, _) in looks(own, own) {
        bench.allowed(&mut agent, &forked(act))?;
    }
    for (act, _, _) in looks(own, pid).into_iter().skip(1) {
        bench.allowed(&mut outside, &act)?;
    }
    Ok(())
}

fn traceme(bench: &mut Bench) -> Result<()> {
    const TRACEME: i64 = 0;
    let act = call(
        libc::SYS_ptrace,
        [TRACEME.into(), 0.into(), 0.into(), 0.into()],
    );
    // The parent of this one is no agent's.
    let (mut remote, _cgroup) = bench.tagged_after(&[])?;
    let wanted =
        refused("process.ptrace", std::process::id()).with("/object/access", vec!["traceme"]);
    bench.denied(&mut remote, &act, wanted)?;
    bench.allowed(&mut remote, &forked(act))?;
    remote.end()?;
    Ok(())
}

/// A process that was put into the agent's cgroup and has done nothing since is the agent's as well.
fn sleepers(bench: &mut Bench) -> Result<()> {
    let (mut remote, cgroup) = bench.tagged_after(&[])?;
    let sleeper = Remote::outside()?;
    let pid = sleeper.pid();
    bench.denied(&mut remote, &kill(pid, 0), refused("process.signal", pid))?;
    cgroup.add(pid)?;
    bench.allowed(&mut remote, &kill(pid, 0))?;
    bench.allowed(
        &mut remote,
        &open(format!("/proc/{pid}/maps"), libc::O_RDONLY),
    )?;
    remote.end()?;
    sleeper.end()?;
    Ok(())
}

/// Also what root may read on 6.18 whatever this hook says (`may_access_mm` in kernel/fork.c asks for
/// CAP_PERFMON or CAP_SYS_ADMIN instead).
fn ordinary_user(bench: &mut Bench) -> Result<()> {
    // Of two processes of one user, one an agent's.
    let mut agent = bench.user_agent()?;
    let mut command = std::process::Command::new("/usr/local/bin/agentguard-guest");
    std::os::unix::process::CommandExt::uid(&mut command, 1000);
    std::os::unix::process::CommandExt::gid(&mut command, 1000);
    let mut other = Remote::start(&mut command, None)?;
    let pid = other.pid();
    bench.denied(
        &mut agent,
        &kill(pid, libc::SIGKILL),
        refused("process.signal", pid),
    )?;
    bench.allowed(&mut other, &kill(agent.pid(), 0))?;
    for name in ["environ", "maps"] {
        let act = |pid| open(format!("/proc/{pid}/{name}"), libc::O_RDONLY);
        bench.log.skip()?;
        bench.fails(&mut agent, &act(pid), libc::EACCES)?;
        let wanted = refused("process.ptrace", pid).with("/object/access", vec!["read"]);
        bench.log.wait(&wanted)?;
        let own = agent.pid();
        bench.allowed(&mut agent, &forked(act(own)))?;
        bench.allowed(&mut other, &act(own))?;
    }
    Ok(())
}

/// What everybody may read of everybody: command lines, states.
fn list(bench: &mut Bench) -> Result<()> {
    let look = |pid: u32, name: &str| open(format!("/proc/{pid}/{name}"), libc::O_RDONLY);
    let mut agent = bench.agent()?;
    let outside = Remote::outside()?;
    for name in ["cmdline", "status", "stat", "cgroup"] {
        let wanted = Wanted::refusal("system.process_list", "system")
            .path(format!("/proc/{}/{name}", outside.pid()));
        bench.denied(&mut agent, &look(outside.pid(), name), wanted)?;
        let own = agent.pid();
        bench.allowed(&mut agent, &look(own, name))?;
        bench.allowed(&mut agent, &forked(look(own, name)))?;
    }
    for path in ["/proc/self/status", "/proc/thread-self/stat", "/proc/stat"] {
        bench.allowed(&mut agent, &open(path, libc::O_RDONLY))?;
    }
    // One that somebody moved out of the cgroup is still its own.
    crate::bench::move_to(std::path::Path::new(crate::bench::CGROUPS), agent.pid())?;
    bench.allowed(&mut agent, &open("/proc/self/status", libc::O_RDONLY))?;
    let profile = bench.second_profile();
    let mut loose = bench.agent_under(&profile)?;
    bench.allowed(&mut loose, &look(outside.pid(), "cmdline"))?;
    Ok(())
}

/// A signal that the kernel sends when a pipe has something to read, to whomever its owner named: nobody but itself.
fn by_descriptor(bench: &mut Bench) -> Result<()> {
    let fcntl = |command: i32, argument: i64| {
        Act::Sequence(vec![
            Act::SocketPair {
                kind: libc::SOCK_STREAM,
            },
            call(
                libc::SYS_fcntl,
                [Arg::Step(0), command.into(), argument.into()],
            ),
        ])
    };
    // include/uapi/asm-generic/fcntl.h, sockios.h
    const F_SETOWN_EX: i64 = 15;
    const FIOSETOWN: i64 = 0x8901;
    const SIOCSPGRP: i64 = 0x8902;
    let by_memory = |number: i64, command: i64, pid: u32| {
        let owner = [1_u32.to_ne_bytes(), pid.to_ne_bytes()].concat();
        let plain = pid.to_ne_bytes().to_vec();
        let argument = if number == libc::SYS_fcntl {
            owner
        } else {
            plain
        };
        Act::Sequence(vec![
            Act::SocketPair {
                kind: libc::SOCK_STREAM,
            },
            call(number, [Arg::Step(0), command.into(), Arg::Bytes(argument)]),
        ])
    };
    let wanted = || Wanted::refusal("system.other_processes", "system");
    let mut outside = Remote::outside()?;
    let daemon = crate::bench::status()?["pid"].as_u64().unwrap_or(0) as u32;
    for agent in [bench.agent()?, bench.user_agent()?] {
        let mut agent = agent;
        for pid in [outside.pid(), daemon, 1] {
            let own = fcntl(libc::F_SETOWN, pid.into());
            bench.denied(&mut agent, &own, wanted())?;
            let group = fcntl(libc::F_SETOWN, -i64::from(pid));
            bench.denied(&mut agent, &group, wanted())?;
            for (number, command) in [
                (libc::SYS_fcntl, F_SETOWN_EX),
                (libc::SYS_ioctl, FIOSETOWN),
                (libc::SYS_ioctl, SIOCSPGRP),
            ] {
                bench.denied(&mut agent, &by_memory(number, command, pid), wanted())?;
            }
        }
        let own = agent.pid();
        bench.allowed(&mut agent, &fcntl(libc::F_SETOWN, own.into()))?;
        bench.allowed(&mut agent, &fcntl(libc::F_SETOWN, 0))?;
        bench.allowed(&mut agent, &fcntl(libc::F_SETFD, 1))?;
    }
    // Who is no agent may name whom it likes.
    let other = fcntl(libc::F_SETOWN, std::process::id().into());
    bench.allowed(&mut outside, &other)?;
    alive(bench, &mut outside)
}

/// Audit mode lends nobody's processes.
fn audit(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let mut outside = Remote::outside()?;
    let (own, pid) = (agent.pid(), outside.pid());
    for signal in [0, libc::SIGKILL] {
        let wanted = refused("process.signal", pid).with("/object/signal", signal);
        bench.denied(&mut agent, &kill(pid, signal), wanted)?;
    }
    let (act, errno, _) = looks(pid, own).swap_remove(1);
    bench.log.skip()?;
    bench.fails(&mut agent, &act, errno)?;
    bench
        .log
        .wait(&of(&agent, refused("process.ptrace", pid)))?;
    bench.allowed(&mut agent, &kill(own, 0))?;
    alive(bench, &mut outside)
}
