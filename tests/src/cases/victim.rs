//! The daemon as the victim of an agent: every way that one process has to stop, starve, change or look into another.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::{
    bench::{self, Bench, move_to, of, shown},
    log::Wanted,
    remote::{
        Act, Arg, Outcome, Remote,
        calls::{call, connect, forked, on_paths, open, socket, unix, unlink},
    },
    scene::Case,
};

/// What an agent could be given and might help it.
const POLICY: &str = r#"
[system]
process_list = "allow"
capabilities = ["CAP_SYS_PTRACE", "CAP_KILL", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_DAC_OVERRIDE"]

[default]
file = "allow"
exec = "allow"
connect = "allow"
listen = "allow"
"#;

/// The same in audit mode, which lends none of that.
const AUDIT: &str = r#"
mode = "audit"

[system]
process_list = "allow"

[default]
file = "allow"
exec = "allow"
connect = "allow"
listen = "allow"
"#;

const SOCKET: &str = "/run/agentguard/agentguard.sock";

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("process::the_daemon_as_victim", victim)
            .policy(POLICY)
            .second(AUDIT),
    ]
}

/// What of a process others can change.
#[derive(Debug, PartialEq, Eq)]
struct State(Vec<String>);

impl State {
    fn of(pid: u32) -> Result<Self> {
        let read = |name: &str| {
            fs::read_to_string(format!("/proc/{pid}/{name}"))
                .with_context(|| format!("the daemon's {name}"))
        };
        let stat = read("stat")?;
        let (_, stat) = stat.rsplit_once(") ").context("no stat")?;
        let stat: Vec<&str> = stat.split(' ').collect();
        // man 5 proc, counted from the third field: nice, start time, realtime priority, policy.
        let mut kept: Vec<String> = [16, 19, 37, 38]
            .iter()
            .filter_map(|at| Some((*stat.get(*at)?).to_owned()))
            .collect();
        ensure!(
            !matches!(stat[0], "T" | "t" | "Z" | "X"),
            "state {}",
            stat[0]
        );
        let status = read("status")?;
        for field in ["TracerPid", "Cpus_allowed:", "SigIgn", "Uid"] {
            kept.extend(
                status
                    .lines()
                    .filter(|line| line.starts_with(field))
                    .map(str::to_owned),
            );
        }
        for file in ["limits", "oom_score_adj", "comm", "coredump_filter"] {
            kept.push(read(file)?);
        }
        const IOPRIO_WHO_PROCESS: i32 = 1;
        // SAFETY: no memory is involved.
        let ioprio = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, pid) };
        kept.push(ioprio.to_string());
        Ok(Self(kept))
    }
}

/// Signals of every kind.
fn signals(pid: u32) -> Vec<(Act, Wanted)> {
    let id = || Arg::Int(pid.into());
    let mut attacks = Vec::new();
    for signal in [
        0,
        libc::SIGTERM,
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGHUP,
        libc::SIGUSR1,
    ] {
        let signal = || Arg::from(signal);
        let info = || Arg::Bytes(queued(signal()));
        for act in [
            call(libc::SYS_kill, [id(), signal()]),
            call(libc::SYS_tkill, [id(), signal()]),
            call(libc::SYS_tgkill, [id(), id(), signal()]),
            call(libc::SYS_rt_sigqueueinfo, [id(), signal(), info()]),
            Act::Sequence(vec![
                call(libc::SYS_pidfd_open, [id(), 0.into()]),
                call(
                    libc::SYS_pidfd_send_signal,
                    [Arg::Step(0), signal(), 0.into(), 0.into()],
                ),
            ]),
        ] {
            attacks.push((act, other_task("process.signal", pid)));
        }
    }
    attacks
}

/// `siginfo_t` of a signal that a program queues.
fn queued(signal: Arg) -> Vec<u8> {
    const SI_QUEUE: i32 = -1;
    let Arg::Int(signal) = signal else {
        return vec![0; 128];
    };
    let mut bytes = [signal as i32, 0, SI_QUEUE].map(i32::to_ne_bytes).concat();
    bytes.resize(128, 0);
    bytes
}

fn other_task(action: &str, pid: u32) -> Wanted {
    Wanted::refusal(action, "other-task").with("/object/pid", pid)
}

/// Tracing, looking, taking descriptors.
fn looks(pid: u32, own: u32) -> Vec<(Act, Wanted)> {
    const ATTACH: i64 = 16;
    const SEIZE: i64 = 0x4206;
    let id = || Arg::Int(pid.into());
    let wanted = || other_task("process.ptrace", pid);
    let proc = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    let memory = |number: i64| {
        let part = |at: Arg| Arg::Struct {
            bytes: [0_u64.to_ne_bytes(), 8_u64.to_ne_bytes()].concat(),
            pointers: vec![(0, at)],
        };
        call(
            number,
            [
                id(),
                part(Arg::Bytes(vec![0; 8])),
                1.into(),
                part(Arg::Int(0x40_0000)),
                1.into(),
                0.into(),
            ],
        )
    };
    let mut acts = vec![
        call(libc::SYS_ptrace, [ATTACH.into(), id(), 0.into(), 0.into()]),
        call(libc::SYS_ptrace, [SEIZE.into(), id(), 0.into(), 0.into()]),
        memory(libc::SYS_process_vm_readv),
        memory(libc::SYS_process_vm_writev),
        call(
            libc::SYS_kcmp,
            [i64::from(own).into(), id(), 1.into(), 0.into(), 0.into()],
        ),
        Act::Sequence(vec![
            call(libc::SYS_pidfd_open, [id(), 0.into()]),
            call(libc::SYS_pidfd_getfd, [Arg::Step(0), 3.into(), 0.into()]),
        ]),
    ];
    for name in [
        "mem", "environ", "maps", "auxv", "fd/0", "root/etc", "cwd/etc", "exe", "ns/mnt",
    ] {
        acts.push(open(proc(name), libc::O_RDONLY));
    }
    acts.push(on_link(proc("exe")));
    acts.push(on_link(proc("fd/0")));
    acts.into_iter().map(|act| (act, wanted())).collect()
}

fn on_link(path: PathBuf) -> Act {
    call(
        libc::SYS_readlink,
        [path.as_path().into(), Arg::Bytes(vec![0; 64]), 64.into()],
    )
}

/// Changing what it may use and when it runs.
fn changes(pid: u32) -> Vec<(Act, Wanted)> {
    const IOPRIO_WHO_PROCESS: i64 = 1;
    const IDLE: i64 = 3 << 13;
    let id = || Arg::Int(pid.into());
    let none = Arg::Bytes(vec![0; 16]);
    let system = || Wanted::refusal("system.other_processes", "system");
    let task = || other_task("system.other_processes", pid);
    // struct sched_attr: size, policy (idle).
    let attributes = [56_u32, libc::SCHED_IDLE as u32]
        .map(u32::to_ne_bytes)
        .concat();
    let attributes = [attributes, vec![0; 48]].concat();
    let mut attacks: Vec<(Act, Wanted)> = [libc::RLIMIT_CPU, libc::RLIMIT_NOFILE, libc::RLIMIT_AS]
        .into_iter()
        .map(|limit| {
            let act = call(
                libc::SYS_prlimit64,
                [id(), i64::from(limit).into(), none.clone(), 0.into()],
            );
            (act, system())
        })
        .collect();
    attacks.extend([
        (
            call(
                libc::SYS_sched_setscheduler,
                [id(), libc::SCHED_IDLE.into(), Arg::Bytes(vec![0; 4])],
            ),
            task(),
        ),
        (
            call(
                libc::SYS_sched_setattr,
                [id(), Arg::Bytes(attributes), 0.into()],
            ),
            task(),
        ),
        (
            call(
                libc::SYS_sched_setaffinity,
                [id(), 8.into(), Arg::Bytes(vec![1, 0, 0, 0, 0, 0, 0, 0])],
            ),
            task(),
        ),
        (
            call(libc::SYS_setpriority, [0.into(), id(), 19.into()]),
            task(),
        ),
        (
            call(
                libc::SYS_ioprio_set,
                [IOPRIO_WHO_PROCESS.into(), id(), IDLE.into()],
            ),
            task(),
        ),
    ]);
    for name in [
        "oom_score_adj",
        "comm",
        "coredump_filter",
        "clear_refs",
        "mem",
    ] {
        let path = format!("/proc/{pid}/{name}");
        let wanted = system().path(&path);
        attacks.push((open(path, libc::O_WRONLY), wanted));
    }
    attacks
}

/// What lies in the file system: its cgroup's controls, its socket.
fn files(daemons: &bench::Cgroup, own: u32) -> Result<Vec<(Act, Wanted)>> {
    let mut attacks = Vec::new();
    let text = fs::read_to_string(format!("/proc/{own}/cgroup"))?;
    let at = text.trim().rsplit_once(':').context("no cgroup")?.1;
    let agents = PathBuf::from(format!("{}{at}", bench::CGROUPS));
    let controls = [
        "cgroup.freeze",
        "cgroup.kill",
        "cgroup.procs",
        "cgroup.max.descendants",
    ]
    .map(|name| daemons.path.join(name));
    // The last one would pull the daemon in.
    for path in controls.into_iter().chain([agents.join("cgroup.procs")]) {
        let wanted = Wanted::refusal("system.cgroups", "system").path(&path);
        attacks.push((open(&path, libc::O_WRONLY), wanted));
    }
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        let act = Act::Sequence(vec![
            socket(libc::AF_UNIX, kind, 0),
            connect(Arg::Step(0), unix(SOCKET)),
        ]);
        // Only the kind that listens there gets as far as the hook.
        if kind == libc::SOCK_STREAM {
            attacks.push((act, Wanted::deny("unix.connect", "agentguard/socket")));
        }
    }
    attacks.push((
        unlink(SOCKET),
        Wanted::deny("file.delete", "agentguard/self"),
    ));
    attacks.push((
        on_paths(libc::SYS_rename, SOCKET, "/run/other.sock"),
        Wanted::deny("file.rename", "agentguard/self"),
    ));
    Ok(attacks)
}

/// It is refused, whoever says so first.
fn fails(remote: &mut Remote, act: &Act) -> Result<()> {
    let outcome = remote.act(act)?;
    ensure!(
        matches!(outcome, Outcome::Failed(libc::EPERM | libc::EACCES)),
        "must be refused, but {}: {act:?}",
        shown(outcome)
    );
    Ok(())
}

fn victim(bench: &mut Bench) -> Result<()> {
    let status = bench::status()?;
    let daemon = status["pid"].as_u64().context("no daemon")? as u32;
    let before = fs::read_to_string(format!("/proc/{daemon}/cgroup"))?;
    let before = before
        .trim()
        .rsplit_once(':')
        .context("no cgroup")?
        .1
        .to_owned();
    let cgroup = bench.cgroup()?;
    cgroup.add(daemon)?;
    let result = attacked(bench, daemon, &cgroup);
    move_to(
        &PathBuf::from(format!("{}{before}", bench::CGROUPS)),
        daemon,
    )?;
    result
}

fn attacked(bench: &mut Bench, daemon: u32, cgroup: &bench::Cgroup) -> Result<()> {
    let state = State::of(daemon)?;
    let audit = bench.second_profile();
    for (mut agent, is_root) in [
        (bench.agent()?, true),
        (bench.user_agent()?, false),
        (bench.agent_under(&audit)?, true),
    ] {
        let own = agent.pid();
        let attacks = [
            signals(daemon),
            looks(daemon, own),
            changes(daemon),
            files(cgroup, own)?,
        ]
        .concat();
        for (act, wanted) in attacks {
            bench.log.skip()?;
            fails(&mut agent, &act)?;
            // What an ordinary user has no right to is refused before AgentGuard is asked.
            if is_root {
                bench
                    .log
                    .wait(&of(&agent, wanted))
                    .with_context(|| format!("refused, as it must be: {act:?}"))?;
            }
            ensure!(State::of(daemon)? == state, "after {act:?}");
        }
        // Everybody at once: whether it says so is the kernel's business; nothing happens to the daemon.
        bench.log.skip()?;
        agent.act(&forked(call(
            libc::SYS_kill,
            [(-1).into(), libc::SIGCONT.into()],
        )))?;
        if is_root {
            bench
                .log
                .wait(&of(&agent, other_task("process.signal", daemon)))?;
        }
    }
    ensure!(State::of(daemon)? == state, "the daemon was changed");
    let after = bench::status()?;
    ensure!(after["pid"].as_u64() == Some(daemon.into()), "{after}");
    let frozen = fs::read_to_string(cgroup.path.join("cgroup.events"))?;
    ensure!(frozen.contains("frozen 0"), "{frozen}");
    Ok(())
}
