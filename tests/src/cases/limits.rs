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
            open, socket, unlink, write,
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

[[allow]]
connect = "udp://10.20.0.1:53"
"#;

fn files(dir: &Path) -> Result<()> {
    for folder in ["secret", "open"] {
        fs::create_dir_all(dir.join(folder))?;
        fs::write(dir.join(folder).join("key"), "content\n")?;
        fs::copy("/bin/busybox", dir.join(folder).join("true"))?;
    }
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

const AGENTS: u32 = 4;
const OPENS: u32 = 300;
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
        .map(|_| bench.agent())
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
            let now = Counted::now()?.since(&before, hook, verdict);
            anyhow::bail!("{error}\nall of it: {kinds:#?}\nand now: {now:?}");
        }
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
