//! Memory that never comes: pages that somebody outside watches and doesn't bring, given to the kernel as arguments of
//! calls. Whoever passes them waits for ever; nobody else does, because no program of ours waits for a page.

use std::{fs, os::unix::process::ExitStatusExt as _, path::Path};

use anyhow::{Result, ensure};

use crate::{
    bench::{Bench, Cgroup, of, shown},
    daemon::{self, Daemon, signal, wait_until},
    log::Wanted,
    remote::{
        Act, Arg, Outcome, Remote,
        calls::{call, open, socket},
    },
    said::Said,
    scene::{Case, Scene},
};

const POLICY: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret"

[[deny]]
id = "push"
exec = "{dir}/touch"
args = ["push", "**"]
"#;

fn files(dir: &Path) -> Result<()> {
    fs::write(dir.join("secret"), "")?;
    fs::copy("/bin/busybox", dir.join("touch"))?;
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(POLICY).prepare(files);
    vec![
        case("stalled::memory_that_never_comes", never_comes)
            .scene(Scene::OwnDaemon)
            .limit(180),
        case("stalled::arguments_kept_back", kept_back),
    ]
}

const PAGE: i64 = 4096;

/// Two pages that nobody brings, and the descriptor that could.
struct Watched {
    pages: i64,
    uffd: i64,
}

/// Made by somebody who is no agent yet: an agent has no userfaultfd.
fn watch(bench: &Bench, remote: &mut Remote) -> Result<Watched> {
    // include/uapi/linux/userfaultfd.h
    const UFFDIO_API: i64 = 0xc018_aa3f;
    const UFFDIO_REGISTER: i64 = 0xc020_aa00;
    const API: u64 = 0xaa;
    const MODE_MISSING: u64 = 1;
    let mmap = call(
        libc::SYS_mmap,
        [
            0.into(),
            (2 * PAGE).into(),
            (libc::PROT_READ | libc::PROT_WRITE).into(),
            (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).into(),
            (-1).into(),
            0.into(),
        ],
    );
    let pages = bench.allowed(remote, &mmap)?;
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    let uffd = bench.allowed(remote, &call(libc::SYS_userfaultfd, [flags.into()]))?;
    let words = |words: [u64; 4]| Arg::Bytes(words.map(u64::to_ne_bytes).concat());
    for (request, argument) in [
        (UFFDIO_API, words([API, 0, 0, 0])),
        (
            UFFDIO_REGISTER,
            words([pages as u64, 2 * PAGE as u64, MODE_MISSING, 0]),
        ),
    ] {
        let ioctl = call(libc::SYS_ioctl, [uffd.into(), request.into(), argument]);
        bench.allowed(remote, &ioctl)?;
    }
    Ok(Watched { pages, uffd })
}

/// An agent with such pages.
fn agent(bench: &mut Bench) -> Result<(Remote, Cgroup, Watched)> {
    let mut remote = Remote::outside()?;
    let watched = watch(bench, &mut remote)?;
    let cgroup = bench.cgroup()?;
    bench.tag(&cgroup, &mut remote)?;
    cgroup.add(remote.pid())?;
    Ok((remote, cgroup, watched))
}

/// Calls that the kernel can't go on with before it has read what is there.
fn waiting(bench: &Bench, page: i64) -> Vec<Act> {
    // include/uapi/linux/bpf.h
    const BPF_OBJ_GET: i64 = 7;
    let page = || Arg::Int(page);
    let with_socket = |number: i64, rest: Vec<Arg>| {
        let arguments = [vec![Arg::Step(0)], rest].concat();
        Act::Sequence(vec![
            socket(libc::AF_INET, libc::SOCK_DGRAM, 0),
            Act::Call { number, arguments },
        ])
    };
    vec![
        // The list of arguments, and the arguments.
        call(
            libc::SYS_execve,
            [bench.path("touch").as_path().into(), page(), 0.into()],
        ),
        call(
            libc::SYS_execve,
            [
                bench.path("touch").as_path().into(),
                Arg::Struct {
                    bytes: vec![0; 24],
                    pointers: vec![(0, "touch".into()), (8, page())],
                },
                0.into(),
            ],
        ),
        call(
            libc::SYS_openat,
            [libc::AT_FDCWD.into(), page(), 0.into(), 0.into()],
        ),
        with_socket(libc::SYS_connect, vec![page(), 16.into()]),
        with_socket(
            libc::SYS_setsockopt,
            vec![
                libc::SOL_SOCKET.into(),
                libc::SO_RCVBUF.into(),
                page(),
                4.into(),
            ],
        ),
        // The address is judged before what is sent is read.
        Act::Sequence(vec![
            Act::SocketPair {
                kind: libc::SOCK_STREAM,
            },
            call(libc::SYS_write, [Arg::Step(0), page(), 4.into()]),
        ]),
        // KERNEL: 6.1 refuses to make something before it reads what, to whoever has no right to.
        call(libc::SYS_bpf, [BPF_OBJ_GET.into(), page(), 64.into()]),
        call(libc::SYS_sched_setattr, [0.into(), page(), 0.into()]),
    ]
}

/// Calls that are refused without a look at what they point to.
fn refused(page: i64) -> Vec<(Act, Wanted)> {
    const F_SETOWN_EX: i64 = 15;
    const FIOSETOWN: i64 = 0x8901;
    let page = || Arg::Int(page);
    let wanted = |action: &str| Wanted::refusal(action, "system");
    let pair = |number: i64, command: i64| {
        Act::Sequence(vec![
            Act::SocketPair {
                kind: libc::SOCK_STREAM,
            },
            call(number, [Arg::Step(0), command.into(), page()]),
        ])
    };
    vec![
        (
            Act::Sequence(vec![
                socket(libc::AF_INET, libc::SOCK_DGRAM, 0),
                call(
                    libc::SYS_setsockopt,
                    [
                        Arg::Step(0),
                        libc::IPPROTO_IP.into(),
                        libc::IP_OPTIONS.into(),
                        page(),
                        8.into(),
                    ],
                ),
            ]),
            Wanted::refusal("net.send", "source-routed"),
        ),
        (
            pair(libc::SYS_fcntl, F_SETOWN_EX),
            wanted("system.other_processes"),
        ),
        (
            pair(libc::SYS_ioctl, FIOSETOWN),
            wanted("system.other_processes"),
        ),
    ]
}

/// Whether the process waits for a page.
fn waits(pid: u32) -> Result<bool> {
    let mut waits = false;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stack = fs::read_to_string(task?.path().join("stack")).unwrap_or_default();
        waits |= stack.contains("handle_userfault");
    }
    Ok(waits)
}

fn never_comes(bench: &mut Bench) -> Result<()> {
    bench.fresh()?;
    let daemon = Daemon::start()?;
    let mut stuck = Vec::new();
    let many = waiting(bench, 0).len();
    for number in 0..many {
        let (mut remote, cgroup, watched) = agent(bench)?;
        for (act, wanted) in refused(watched.pages) {
            if number == 0 {
                bench.denied(&mut remote, &act, wanted)?;
            }
        }
        let act = waiting(bench, watched.pages).swap_remove(number);
        remote.tell(&act)?;
        let pid = remote.pid();
        wait_until(&format!("{act:?} must wait for its page"), || waits(pid))?;
        stuck.push((remote, cgroup));
    }
    // Everybody else goes on: the log moves, agents are made, policies are loaded.
    let path = bench.path("secret");
    let secret = || open(&path, libc::O_RDONLY);
    let wanted = || Wanted::deny("file.open", "secret");
    let mut other = bench.agent()?;
    bench.denied(&mut other, &secret(), wanted())?;
    Said::by(&["reload"])?.ends(0)?;
    let mut later = bench.agent()?;
    bench.denied(&mut later, &secret(), wanted())?;
    bench.denied(&mut other, &secret(), wanted())?;
    // What waits can be killed.
    let half = stuck.split_off(stuck.len() / 2);
    for (remote, _cgroup) in stuck {
        ends_when_killed(remote)?;
    }
    bench.denied(&mut other, &secret(), wanted())?;
    // And all of AgentGuard can go while something waits.
    other.end()?;
    later.end()?;
    daemon.stop()?;
    daemon::unload()?;
    ensure!(
        !Path::new("/sys/fs/bpf/agentguard").exists(),
        "something stayed in the kernel"
    );
    for (remote, _cgroup) in half {
        ensure!(waits(remote.pid())?, "it must still wait");
        ends_when_killed(remote)?;
    }
    Ok(())
}

fn ends_when_killed(mut remote: Remote) -> Result<()> {
    signal(remote.pid(), libc::SIGKILL)?;
    let status = remote.wait()?;
    ensure!(status.signal() == Some(libc::SIGKILL), "it ended: {status}");
    Ok(())
}

/// The arguments are there when the kernel copies them, and gone when they are looked at before the program starts. The
/// look doesn't wait; what the program would get is judged then.
fn kept_back(bench: &mut Bench) -> Result<()> {
    let good = bench.path("good");
    let program = bench.path("touch").display().to_string().into_bytes();
    let act = |watched: &Watched, argument: &[u8]| Act::KeptBackExec {
        uffd: watched.uffd as i32,
        pages: watched.pages,
        program: program.clone(),
        argument: argument.to_vec(),
    };
    let (mut remote, _cgroup, watched) = agent(bench)?;
    let allowed = act(&watched, good.display().to_string().as_bytes());
    let status = bench.allowed(&mut remote, &allowed)?;
    ensure!(status == 0 && good.exists(), "it ended with {status}");
    let (mut remote, _cgroup2, watched) = agent(bench)?;
    bench.log.skip()?;
    let outcome = remote.act(&act(&watched, b"push"))?;
    ensure!(
        outcome == Outcome::Killed(libc::SIGKILL),
        "must be killed, but {}",
        shown(outcome)
    );
    let wanted = Wanted::action("exec")
        .with("/verdict", "deny")
        .with("/rule", "push")
        .with("/killed", true);
    bench.log.wait(&of(&remote, wanted))?;
    Ok(())
}
