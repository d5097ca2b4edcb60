//! Agents that do everything as fast as they can, in as many cgroups as they like, under the longest names:
//! no label is lost, nothing fills up into an allow, and every decision is logged or counted.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::file_edge::long_path;
use crate::{
    bench::{self, Bench, status},
    daemon::Daemon,
    log::Wanted,
    remote::{
        Act, Arg, Birth, Outcome,
        calls::{
            at, call, chdir, close, connect, exec, forked, internet, mkdir, on_path, on_paths,
            open, send_to, socket, to_address, unix, unlink, write,
        },
    },
    scene::{Case, Root, Scene},
};

const SECRET: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret/**"

[[deny]]
id = "program"
exec = "{dir}/secret/**"

[[deny]]
id = "argument"
exec = "{dir}/open/tool"
args = ["push"]

[[deny]]
id = "code"
exec = "{dir}/code/**"

[[allow]]
connect = "udp://10.20.0.1:53"

[[allow]]
listen = "udp://127.0.0.1:5300"
"#;

fn files(dir: &Path) -> Result<()> {
    for folder in ["secret", "open", "code"] {
        fs::create_dir_all(dir.join(folder))?;
        fs::write(dir.join(folder).join("key"), "content\n")?;
        fs::copy("/bin/busybox", dir.join(folder).join("true"))?;
    }
    fs::copy("/bin/busybox", dir.join("open/tool"))?;
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(SECRET).prepare(files);
    vec![
        case("limits::all_at_once_as_fast_as_can_be", all_at_once).limit(240),
        case(
            "limits::all_at_once_on_one_fully_preemptible_cpu",
            preempted,
        )
        .scene(Scene::OwnBoot {
            append: "preempt=full maxcpus=1",
            root: Root::Memory,
        })
        .limit(240),
        case("limits::thousands_of_cgroups", thousands_of_cgroups).limit(240),
        case("limits::longest_names_in_every_verb", longest_names),
    ]
}

/// How many of the kernel's decisions, and of those it had no room for, were of each kind, since the programs
/// were loaded.
#[derive(Debug, Default)]
struct Counted(BTreeMap<(String, String), (u64, u64)>);

impl Counted {
    fn now() -> Result<Self> {
        let status = status()?;
        let mut counted = Self::default();
        for (list, of) in [("decisions", 0), ("lost_kernel", 1)] {
            let list = status["counters"][list].as_array();
            for entry in list.with_context(|| format!("no counters in {status}"))? {
                let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
                let sum = counted
                    .0
                    .entry((text("hook"), text("verdict")))
                    .or_default();
                let sum = if of == 0 { &mut sum.0 } else { &mut sum.1 };
                *sum += entry["count"].as_u64().unwrap_or(0);
            }
        }
        Ok(counted)
    }

    /// Decisions, and losses, since then.
    fn since(&self, before: &Self, hook: &str, verdict: &str) -> (u64, u64) {
        let key = (hook.to_owned(), verdict.to_owned());
        let of = |counted: &Self| counted.0.get(&key).copied().unwrap_or_default();
        let (now, then) = (of(self), of(before));
        (now.0 - then.0, now.1 - then.1)
    }
}

fn repeat(times: u32, acts: Vec<Act>) -> Act {
    Act::Repeat {
        times,
        act: Box::new(Act::Sequence(acts)),
    }
}

fn denied(act: Act) -> Act {
    Act::Denied(Box::new(act))
}

/// One task is stopped in the middle of its verdict, and others ask for theirs on the same processor.
fn preempted(bench: &mut Bench) -> Result<()> {
    let mode = fs::read_to_string("/sys/kernel/debug/sched/preempt")?;
    ensure!(mode.contains("(full)"), "preemption is {mode}");
    let processors = fs::read_to_string("/sys/devices/system/cpu/online")?;
    ensure!(processors.trim() == "0", "processors {processors}");
    bench.fresh()?;
    let _daemon = Daemon::start()?;
    // KERNEL: 6.1 doesn't always find the label of a task then, and what it doesn't find is refused.
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    race(bench, !release.starts_with("6.1."))
}

fn all_at_once(bench: &mut Bench) -> Result<()> {
    race(bench, true)
}

const ROUNDS: u32 = 10;

/// Actions, the hooks that deny them, and how often in a round of [`every_verb`].
const DENIED: [(&str, &[&str], u32); 14] = [
    ("file.open", &["file_open"], 1),
    ("file.create", &["path_mknod", "path_mkdir"], 2),
    ("file.delete", &["path_unlink"], 1),
    ("file.rename", &["path_rename"], 1),
    ("file.link", &["path_link"], 1),
    ("file.metadata", &["path_chmod"], 1),
    ("exec", &["bprm_check_security", "mmap_file"], 3),
    ("net.connect", &["socket_connect"], 1),
    ("net.send", &["socket_sendmsg"], 1),
    ("net.listen", &["socket_bind"], 1),
    ("unix.connect", &["unix_stream_connect"], 1),
    ("process.signal", &["task_kill"], 1),
    ("process.ptrace", &["ptrace_access_check"], 1),
    ("system.capabilities", &["capable"], 1),
];

/// One denied action of every verb and, with `twins`, an allowed one beside each. `own` is the agent's folder.
fn every_verb(bench: &Bench, own: &Path, pid: u32, twins: bool) -> Act {
    const KCMP_VM: i64 = 1;
    let [secret, open_, code] = ["secret", "open", "code"].map(|folder| bench.path(folder));
    let key = secret.join("key");
    let file = |path: &Path| {
        let mode = i64::from(libc::S_IFREG | 0o600);
        on_path(libc::SYS_mknod, path, [mode, 0])
    };
    let with_socket = |family: i32, kind: i32, act: Act| {
        Act::Sequence(vec![socket(family, kind, 0), act, close(Arg::Step(0))])
    };
    // Where labels aren't always found, the socket or file may be what is refused; else it stays open.
    let all = |acts: [Act; 2]| denied(Act::Sequence(acts.into()));
    let refused = |family: i32, kind: i32, act: Act| {
        if twins {
            with_socket(family, kind, denied(act))
        } else {
            all([socket(family, kind, 0), act])
        }
    };
    let to = |number: i64, address: &str| to_address(number, Arg::Step(0), internet(at(address)));
    let [udp, tcp] = [libc::SOCK_DGRAM, libc::SOCK_STREAM];
    let map = |act: fn(Act) -> Act, path: &Path| {
        let flags = libc::PROT_READ | libc::PROT_EXEC;
        let arguments = [
            0.into(),
            4096.into(),
            flags.into(),
            libc::MAP_PRIVATE.into(),
            Arg::Step(0),
            0.into(),
        ];
        let (opened, mapped) = (open(path, libc::O_RDONLY), call(libc::SYS_mmap, arguments));
        if twins {
            Act::Sequence(vec![opened, act(mapped), close(Arg::Step(0))])
        } else {
            all([opened, mapped])
        }
    };
    let kcmp = |pid: i64| {
        let arguments = [pid, 1, KCMP_VM, 0, 0].map(Arg::Int);
        call(libc::SYS_kcmp, arguments)
    };
    let signal = |pid: i64| call(libc::SYS_kill, [pid, 0].map(Arg::Int));
    let chmod = |path: &Path| on_path(libc::SYS_chmod, path, [0o600]);
    let time = [0_u64.to_ne_bytes(), 50_000_u64.to_ne_bytes()].concat();
    let nap = call(libc::SYS_nanosleep, [Arg::Bytes(time), 0.into()]);
    let mut acts = vec![
        nap,
        denied(open(&key, libc::O_RDONLY)),
        denied(file(&secret.join("new"))),
        denied(mkdir(secret.join("folder"))),
        denied(unlink(&key)),
        denied(on_paths(libc::SYS_rename, &key, own.join("moved"))),
        denied(on_paths(libc::SYS_link, &key, own.join("linked"))),
        denied(chmod(&key)),
        denied(exec(Birth::Fork, secret.join("true"), &[])),
        denied(exec(Birth::Vfork, open_.join("tool"), &["push"])),
        map(denied, &code.join("true")),
        refused(libc::AF_INET, tcp, to(libc::SYS_connect, "10.20.0.1:54")),
        refused(
            libc::AF_INET,
            udp,
            send_to(Arg::Step(0), internet(at("10.20.0.1:54")), 0),
        ),
        refused(libc::AF_INET, udp, to(libc::SYS_bind, "127.0.0.1:5301")),
        refused(
            libc::AF_UNIX,
            tcp,
            connect(Arg::Step(0), unix(bench.path("socket"))),
        ),
        denied(signal(1)),
        denied(kcmp(1)),
        denied(on_path(libc::SYS_chown, own, [1, 1])),
    ];
    if twins {
        let (one, two, three) = (own.join("one"), own.join("two"), own.join("three"));
        let pair = Act::SocketPair { kind: tcp };
        acts.extend([
            file(&one),
            chmod(&one),
            on_paths(libc::SYS_link, &one, &two),
            on_paths(libc::SYS_rename, &two, &three),
            unlink(&three),
            unlink(&one),
            exec(Birth::Vfork, open_.join("tool"), &["true"]),
            map(|act| act, &open_.join("true")),
            with_socket(
                libc::AF_INET,
                udp,
                send_to(Arg::Step(0), internet(at("10.20.0.1:53")), 0),
            ),
            Act::Sequence(vec![
                pair,
                write(Arg::Step(0), "x"),
                call(libc::SYS_close_range, [Arg::Step(0), 1000.into(), 0.into()]),
            ]),
            signal(pid.into()),
        ]);
    }
    repeat(ROUNDS, acts)
}

/// An agent. Where labels aren't always found, `run` may be refused what it is to run.
fn started(bench: &mut Bench, twins: bool) -> Result<crate::remote::Remote> {
    const TRIES: u32 = 5;
    let tries = if twins { 1 } else { TRIES };
    (1..tries)
        .find_map(|_| bench.agent().ok())
        .map_or_else(|| bench.agent(), Ok)
}

/// The same of every verb there is.
fn race_every_verb(bench: &mut Bench, twins: bool) -> Result<()> {
    let _listens = std::os::unix::net::UnixListener::bind(bench.path("socket"))?;
    let mut agents = Vec::new();
    for number in 0..AGENTS {
        let own = bench.path(&format!("own-{number}"));
        fs::create_dir_all(&own)?;
        let agent = started(bench, twins)?;
        let act = every_verb(bench, &own, agent.pid(), twins);
        agents.push((agent, act));
    }
    let secret = bench.path("secret");
    for (agent, _) in &mut agents {
        let last = open(secret.join("first"), libc::O_RDONLY | libc::O_CREAT);
        bench.denied(agent, &last, Wanted::deny("file.create", "secret"))?;
    }
    bench.log.skip()?;
    let before = Counted::now()?;
    for (agent, act) in &mut agents {
        agent.tell(act)?;
    }
    for (agent, _) in &mut agents {
        let outcome = agent.hear()?;
        ensure!(
            matches!(outcome, Outcome::Done(_)),
            "something was denied that must be allowed, or the other way round: {}",
            bench::shown(outcome)
        );
    }
    if !twins {
        // What finds no label is told under the name that its hook has then.
        return Ok(());
    }
    let after = Counted::now()?;
    for (action, hooks, least) in DENIED {
        let expected = u64::from(AGENTS * ROUNDS * least);
        let (mut made, mut lost) = (0, 0);
        for hook in hooks {
            let (decided, without) = after.since(&before, hook, "deny");
            (made, lost) = (made + decided, lost + without);
        }
        if hooks == ["capable"] {
            // The kernel also asks for some without wanting to tell anybody.
            ensure!(made >= expected, "{made} times {action} denied");
            made = expected;
        }
        ensure!(
            made == expected,
            "{made} times {action} denied, not {expected}"
        );
        wait_for(bench, action, "deny", made, lost)?;
    }
    Ok(())
}

const AGENTS: u32 = 4;
const OPENS: u32 = 150;
const EXECS: u32 = 10;
const FORKS: u32 = 40;

/// What one agent does: what is denied, and between it what is allowed. Ends with the first surprise.
fn flood(bench: &Bench, twins: bool) -> Act {
    let [secret, open_] = ["secret", "open"].map(|folder| bench.path(folder));
    let udp = |address: &str| {
        let address = internet(at(address));
        Act::Sequence(vec![
            socket(libc::AF_INET, libc::SOCK_DGRAM, 0),
            connect(Arg::Step(0), address),
        ])
    };
    let close_last = |act: Act| Act::Sequence(vec![act, close(3)]);
    let time = [0_u64.to_ne_bytes(), 50_000_u64.to_ne_bytes()].concat();
    // Who wakes up takes the processor from whoever has it.
    let nap = call(libc::SYS_nanosleep, [Arg::Bytes(time), 0.into()]);
    let read = denied(open(secret.join("key"), libc::O_RDONLY));
    // Leaves its socket behind.
    let send = denied(udp("10.20.0.1:54"));
    let [fork, vfork] =
        [Birth::Fork, Birth::Vfork].map(|birth| denied(exec(birth, secret.join("true"), &[])));
    if !twins {
        return Act::Sequence(vec![
            repeat(OPENS, vec![nap, read, send]),
            repeat(EXECS, vec![fork, vfork]),
        ]);
    }
    Act::Sequence(vec![
        repeat(
            OPENS,
            vec![
                nap,
                read.clone(),
                close_last(open(open_.join("key"), libc::O_RDONLY)),
                send,
                close(3),
                close_last(udp("10.20.0.1:53")),
            ],
        ),
        repeat(
            EXECS,
            vec![
                fork,
                exec(Birth::Vfork, open_.join("true"), &["true"]),
                vfork,
            ],
        ),
        repeat(FORKS, vec![forked(Act::Thread(Box::new(forked(read))))]),
    ])
}

/// Has agents do that beside each other, and adds up what the kernel decided, what is in the log and what is
/// counted as lost.
fn race(bench: &mut Bench, twins: bool) -> Result<()> {
    let flood = flood(bench, twins);
    let secret = bench.path("secret");
    let mut agents = (0..AGENTS)
        .map(|_| started(bench, twins))
        .collect::<Result<Vec<_>>>()?;
    // What starting them gave rise to is in the log when this is.
    for agent in &mut agents {
        let last = open(secret.join("first"), libc::O_RDONLY | libc::O_CREAT);
        bench.denied(agent, &last, Wanted::deny("file.create", "secret"))?;
    }
    bench.log.skip()?;
    let before = Counted::now()?;
    for agent in &mut agents {
        agent.tell(&flood)?;
    }
    for agent in &mut agents {
        let outcome = agent.hear()?;
        ensure!(
            matches!(outcome, Outcome::Done(_)),
            "something was denied that must be allowed, or the other way round: {}",
            bench::shown(outcome)
        );
    }
    let after = Counted::now()?;
    for (hook, action, verdict, least) in [
        (
            "file_open",
            "file.open",
            "deny",
            OPENS + if twins { FORKS } else { 0 },
        ),
        ("file_open", "file.open", "allow", OPENS),
        ("socket_connect", "net.connect", "deny", OPENS),
        ("socket_connect", "net.connect", "allow", OPENS),
        ("bprm_check_security", "exec", "deny", 2 * EXECS),
        ("bprm_check_security", "exec", "allow", EXECS),
    ] {
        let (made, lost) = after.since(&before, hook, verdict);
        // Where labels aren't always found, a fork or a socket may be what was refused.
        ensure!(
            !twins || made == u64::from(AGENTS * least),
            "{made} times {action} {verdict}, not {}",
            AGENTS * least
        );
        wait_for(bench, action, verdict, made, lost)?;
    }
    race_every_verb(bench, twins)
}

/// Waits until the log has what was decided so often, but for what was lost.
fn wait_for(bench: &mut Bench, action: &str, verdict: &str, made: u64, lost: u64) -> Result<()> {
    let wanted = Wanted::action(action).with("/verdict", verdict);
    let what = format!("{made} times {action} {verdict}, less {lost} that were lost");
    let count = |events: &[Value]| {
        let fitting = events.iter().filter(|event| wanted.fits(event));
        fitting
            .map(|event| event["count"].as_u64().unwrap_or(1))
            .sum::<u64>()
    };
    let waited = bench
        .log
        .wait_until(&what, |events| (count(events) + lost == made).then_some(()));
    if let Err(error) = waited {
        let mut kinds = BTreeMap::new();
        for event in bench.log.events()? {
            let kind = ["/action", "/verdict", "/rule", "/reason", "/agent"];
            let kind = kind.map(|field| event.pointer(field).map(ToString::to_string));
            *kinds
                .entry(kind.map(Option::unwrap_or_default))
                .or_insert(0) += 1;
        }
        anyhow::bail!("{error}\nall of it: {kinds:#?}");
    }
    Ok(())
}

fn thousands_of_cgroups(bench: &mut Bench) -> Result<()> {
    const CGROUPS: u32 = 2000;
    /// Further down nobody looks who owns what is above: there, an agent moves nothing.
    const DEPTH: usize = 31;
    let (mut agent, cgroup, _above) = bench.delegated()?;
    let secret = bench.path("secret/key");
    let open_ = bench.path("open/key");
    // A child goes through the new cgroup `path`, and does in it what it may and what it may not.
    let through = |path: &Path| {
        Act::Sequence(vec![
            mkdir(path),
            forked(Act::Sequence(vec![
                open(path.join("cgroup.procs"), libc::O_WRONLY),
                write(Arg::Step(0), "0"),
                denied(open(&secret, libc::O_RDONLY)),
                forked(denied(open(&secret, libc::O_RDONLY))),
                open(&open_, libc::O_RDONLY),
            ])),
        ])
    };
    bench.log.skip()?;
    for some in (0..CGROUPS).collect::<Vec<_>>().chunks(100) {
        let acts = some
            .iter()
            .map(|number| through(&cgroup.path.join(format!("c{number}"))));
        bench.allowed(&mut agent, &Act::Sequence(acts.collect()))?;
    }
    // One below the other.
    let deep: Vec<_> = (1..=DEPTH)
        .map(|depth| cgroup.path.join(vec!["d"; depth].join("/")))
        .collect();
    let acts = deep.iter().map(|path| through(path)).collect();
    bench.allowed(&mut agent, &Act::Sequence(acts))?;
    let wanted =
        Wanted::deny("file.open", "secret").agent(agent.agent.as_deref().unwrap_or_default());
    let all = 2 * (CGROUPS as usize + DEPTH);
    bench
        .log
        .wait_until("a denial from every cgroup", |events| {
            let fitting = events.iter().filter(|event| wanted.fits(event));
            (fitting.count() == all).then_some(())
        })?;
    // Nobody else's cgroup became an agent's, and another agent is one as before.
    let mut other = bench.agent()?;
    let wanted = Wanted::deny("file.open", "secret");
    bench.denied(&mut other, &open(&secret, libc::O_RDONLY), wanted)?;
    let elsewhere = bench.cgroup()?;
    let mut outside = crate::remote::Remote::outside()?;
    elsewhere.add(outside.pid())?;
    bench.allowed(&mut outside, &open(&secret, libc::O_RDONLY))?;
    // All of them go again, and the agent is still one.
    let rmdir = |path: &Path| on_path(libc::SYS_rmdir, path, []);
    let mut acts: Vec<_> = (0..CGROUPS)
        .map(|number| rmdir(&cgroup.path.join(format!("c{number}"))))
        .collect();
    acts.extend(deep.iter().rev().map(|path| rmdir(path)));
    bench.allowed(&mut agent, &Act::Sequence(acts))?;
    let wanted = Wanted::deny("file.open", "secret");
    bench.denied(&mut agent, &open(&secret, libc::O_RDONLY), wanted)?;
    Ok(())
}

fn longest_names(bench: &mut Bench) -> Result<()> {
    const BYTES: usize = 4095;
    const COMPONENTS: usize = 200;
    let mut agent = bench.agent()?;
    let [secret, open_] = ["secret", "open"].map(|folder| {
        let path = long_path(&bench.path(folder), BYTES, COMPONENTS);
        let parent = path.parent().expect("it has a parent").to_owned();
        fs::create_dir_all(&parent).map(|()| (path, parent))
    });
    let ((secret, _), (open_, parent)) = (secret?, open_?);
    fs::copy("/bin/busybox", &secret)?;
    let create = |path: &Path| open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL);
    let chmod = |path: &Path| on_path(libc::SYS_chmod, path, [0o755]);
    let truncate = |path: &Path| on_path(libc::SYS_truncate, path, [0]);
    let link = |from: &Path, to: &Path| on_paths(libc::SYS_link, from, to);
    let rename = |from: &Path, to: &Path| on_paths(libc::SYS_rename, from, to);
    // As long a name, and short ones for what is linked or moved to or from there.
    let aside = bench.path("aside");
    for (action, act) in [
        ("file.open", open(&secret, libc::O_RDONLY)),
        ("file.metadata", chmod(&secret)),
        ("file.open", truncate(&secret)),
        ("file.link", link(&secret, &aside)),
        ("file.rename", rename(&secret, &aside)),
        ("exec", exec(Birth::Fork, &secret, &["true"])),
        ("file.delete", unlink(&secret)),
    ] {
        let rule = if action == "exec" {
            "program"
        } else {
            "secret"
        };
        let wanted = Wanted::deny(action, rule);
        bench.denied(&mut agent, &act, wanted)?;
        ensure!(secret.exists() && !aside.exists(), "after {act:?}");
    }
    bench.allowed(
        &mut agent,
        &Act::Sequence(vec![create(&open_), close(Arg::Step(0))]),
    )?;
    fs::copy("/bin/busybox", &open_)?;
    for act in [
        open(&open_, libc::O_RDONLY),
        chmod(&open_),
        exec(Birth::Fork, &open_, &["true"]),
        link(&open_, &aside),
        unlink(&open_),
        rename(&aside, &open_),
        truncate(&open_),
        unlink(&open_),
    ] {
        bench.allowed(&mut agent, &act)?;
    }
    // Nothing of that name is there any more, and it is still nobody's to make.
    fs::remove_file(&secret)?;
    for (action, act) in [
        ("file.create", create(&secret)),
        ("file.create", mkdir(&secret)),
        ("file.create", on_paths(libc::SYS_symlink, "x", &secret)),
        ("file.rename", rename(&bench.path("open/true"), &secret)),
    ] {
        bench.denied(&mut agent, &act, Wanted::deny(action, "secret"))?;
        ensure!(!secret.exists(), "after {act:?}");
    }
    for act in [mkdir(&open_), on_path(libc::SYS_rmdir, &open_, [])] {
        bench.allowed(&mut agent, &act)?;
    }
    // One byte more than a path can have is nobody's to judge: the kernel has no such path. From inside the
    // folder there is one, and it is refused.
    bench.allowed(&mut agent, &chdir(&parent))?;
    let longer = "n".repeat(64);
    let refused = Wanted::refusal("file.create", "path-too-long");
    bench.denied(&mut agent, &create(Path::new(&longer)), refused)?;
    bench.allowed(&mut agent, &call(libc::SYS_getpid, []))?;
    Ok(())
}
