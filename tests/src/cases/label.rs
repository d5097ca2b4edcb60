//! Who is an agent: every process and thread below a tagged cgroup, however it got there, and every child,
//! wherever it goes.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    bench::{self, Bench, CGROUPS, move_to, run_well},
    daemon::{signal, wait_until},
    log::Wanted,
    remote::{
        Act, Arg, Birth, Outcome, Remote,
        calls::{child, exec, forked, on_path, open, write},
    },
    scene::Case,
};

const SECRET: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret/**"
"#;

fn files(dir: &Path) -> Result<()> {
    for folder in ["secret", "open"] {
        fs::create_dir_all(dir.join(folder))?;
        fs::write(dir.join(folder).join("key"), "content\n")?;
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(SECRET).prepare(files);
    vec![
        case("label::every_kind_of_child", every_child),
        case("label::children_of_children", children_of_children),
        case("label::after_an_exec", after_an_exec),
        case("label::in_the_cgroup_before_it_was_tagged", before_the_tag),
        case("label::threads_from_before_the_tag", threads_before_the_tag),
        case("label::moved_into_a_tagged_cgroup", moved_in),
        case("label::born_into_a_tagged_cgroup", born_into),
        case("label::below_a_tagged_cgroup", below),
        case("label::may_not_leave_its_cgroup", may_not_leave),
        case("label::below_a_delegated_cgroup", delegated),
        case("label::put_there_twice_by_its_launcher", put_there_twice),
        case("label::stays_when_moved_out", stays_when_moved_out),
        case("label::children_born_elsewhere", born_elsewhere),
        case("label::goes_when_untagged", untagged),
        case("label::outlives_its_cgroup", outlives),
        case("label::cgroup_made_anew", made_anew),
        case("label::of_an_ordinary_user", ordinary_user),
    ]
}

/// What is denied and what isn't, as acts that a case can wrap.
fn pair(bench: &Bench) -> (Act, Act) {
    let act = |folder: &str| open(bench.path(folder).join("key"), libc::O_RDONLY);
    (act("secret"), act("open"))
}

fn denial() -> Wanted {
    Wanted::deny("file.open", "secret")
}

/// Denied and allowed, as whoever does what `wrap` makes of it.
fn covered(bench: &mut Bench, remote: &mut Remote, wrap: impl Fn(Act) -> Act) -> Result<Value> {
    let (denied, twin) = pair(bench);
    let event = bench.denied(remote, &wrap(denied), denial())?;
    bench.allowed(remote, &wrap(twin))?;
    Ok(event)
}

/// Neither is denied. Nothing stays open: whoever has it open can't be tagged.
fn free(bench: &Bench, remote: &mut Remote) -> Result<()> {
    let (denied, twin) = pair(bench);
    bench.allowed(remote, &forked(denied))?;
    bench.allowed(remote, &forked(twin))?;
    Ok(())
}

fn pid_of(event: &Value) -> Result<u64> {
    event
        .pointer("/process/pid")
        .and_then(Value::as_u64)
        .with_context(|| format!("without a pid: {event}"))
}

fn every_child(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for birth in [Birth::Fork, Birth::Vfork, Birth::Clone3] {
        let event = covered(bench, &mut agent, |act| child(birth, act))?;
        ensure!(
            pid_of(&event)? != u64::from(agent.pid()),
            "{birth:?}: the child's event is its parent's: {event}"
        );
        let parent = event.pointer("/process/ppid").and_then(Value::as_u64);
        ensure!(parent == Some(agent.pid().into()), "{birth:?}: {event}");
    }
    let event = covered(bench, &mut agent, |act| Act::Thread(Box::new(act)))?;
    ensure!(pid_of(&event)? == u64::from(agent.pid()), "{event}");
    let tid = event.pointer("/process/tid").and_then(Value::as_u64);
    ensure!(tid != Some(agent.pid().into()), "not the thread's: {event}");
    Ok(())
}

fn children_of_children(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let in_thread = |act: Act| Act::Thread(Box::new(act));
    covered(bench, &mut agent, |act| forked(forked(forked(act))))?;
    covered(bench, &mut agent, |act| forked(in_thread(act)))?;
    covered(bench, &mut agent, |act| {
        child(Birth::Clone3, child(Birth::Vfork, act))
    })?;
    Ok(())
}

fn after_an_exec(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for birth in [Birth::Fork, Birth::Vfork, Birth::Spawn] {
        let read = |folder: &str| {
            let path = bench.path(folder).join("key").display().to_string();
            exec(birth, "/usr/bin/cmp", &[&path, &path])
        };
        let (denied, twin) = (read("secret"), read("open"));
        bench.log.skip()?;
        let outcome = agent.act(&denied)?;
        ensure!(
            matches!(outcome, Outcome::Done(status) if status != 0),
            "{birth:?}: {outcome:?}"
        );
        let name = agent.agent.clone().unwrap_or_default();
        let wanted = denial()
            .agent(&name)
            .with("/process/comm", "cmp")
            .with("/process/uid", 0);
        let event = bench.log.wait(&wanted)?;
        let arguments = event.pointer("/process/args").and_then(Value::as_array);
        let key = bench.path("secret/key").display().to_string();
        ensure!(
            arguments.is_some_and(|list| list.len() == 3 && list[1] == key.as_str()),
            "not the program's arguments: {event}"
        );
        ensure!(bench.allowed(&mut agent, &twin)? == 0);
    }
    Ok(())
}

fn before_the_tag(bench: &mut Bench) -> Result<()> {
    let mut remote = Remote::outside()?;
    let cgroup = bench.cgroup()?;
    cgroup.add(remote.pid())?;
    free(bench, &mut remote)?;
    bench.tag(&cgroup, &mut remote)?;
    covered(bench, &mut remote, |act| act)?;
    covered(bench, &mut remote, forked)?;
    Ok(())
}

/// Threads that wait for a line each, then open a file and say what came of it.
const THREADS: &str = r#"
import os, sys, threading
def play(path, ask, done):
    ask.acquire()
    try:
        os.close(os.open(path, os.O_RDONLY))
        print("done", flush=True)
    except OSError as error:
        print(error.errno, flush=True)
    done.release()
threads = []
for path in sys.argv[1:]:
    ask, done = threading.Semaphore(0), threading.Semaphore(0)
    threading.Thread(target=play, args=(path, ask, done), daemon=True).start()
    threads.append((ask, done))
print("ready", flush=True)
for (ask, done), line in zip(threads, sys.stdin):
    ask.release()
    done.acquire()
"#;

fn threads_before_the_tag(bench: &mut Bench) -> Result<()> {
    let mut python = Command::new("python3")
        .args(["-c", THREADS])
        .args(["secret", "open", "secret", "secret"].map(|name| bench.path(name).join("key")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut told = python.stdin.take().context("no standard input")?;
    let mut said = BufReader::new(python.stdout.take().context("no standard output")?).lines();
    let mut next = || said.next().context("python ended")?.context("cannot read");
    ensure!(next()? == "ready");
    let cgroup = bench.cgroup()?;
    cgroup.add(python.id())?;
    told.write_all(b"\n")?;
    ensure!(next()? == "done", "before the tag everything is allowed");
    let name = bench.name();
    cgroup.tag(&bench.profile, &name)?;
    for wanted in ["done", "1", "1"] {
        told.write_all(b"\n")?;
        let answer = next()?;
        ensure!(answer == wanted, "a thread was told {answer}, not {wanted}");
    }
    bench.log.wait(&denial().agent(&name))?;
    drop(told);
    python.wait()?;
    Ok(())
}

fn moved_in(bench: &mut Bench) -> Result<()> {
    let cgroup = bench.cgroup()?;
    let mut remote = Remote::outside()?;
    bench.tag(&cgroup, &mut remote)?;
    free(bench, &mut remote)?;
    cgroup.add(remote.pid())?;
    covered(bench, &mut remote, |act| act)?;
    Ok(())
}

/// A cgroup's folder as a descriptor that `CLONE_INTO_CGROUP` takes.
fn folder_descriptor(bench: &Bench, remote: &mut Remote, path: &Path) -> Result<i32> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    Ok(bench.allowed(remote, &open(path, flags))? as i32)
}

fn born_into(bench: &mut Bench) -> Result<()> {
    let cgroup = bench.cgroup()?;
    let mut outside = Remote::outside()?;
    let name = bench.name();
    cgroup.tag(&bench.profile, &name)?;
    let fd = folder_descriptor(bench, &mut outside, &cgroup.path)?;
    let into = |act: Act| child(Birth::IntoCgroup(fd), act);
    let (denied, twin) = pair(bench);
    bench.denied(&mut outside, &into(denied), denial().agent(&name))?;
    bench.allowed(&mut outside, &into(twin))?;
    // A child of that child, and the parent itself, which is nobody's agent.
    let (denied, _) = pair(bench);
    bench.denied(&mut outside, &into(forked(denied)), denial().agent(&name))?;
    free(bench, &mut outside)
}

fn below(bench: &mut Bench) -> Result<()> {
    let cgroup = bench.cgroup()?;
    let inner = cgroup.path.join("a");
    let innermost = inner.join("b");
    fs::create_dir_all(&innermost)?;
    let mut remote = Remote::outside()?;
    move_to(&innermost, remote.pid())?;
    free(bench, &mut remote)?;
    bench.tag(&cgroup, &mut remote)?;
    covered(bench, &mut remote, |act| act)?;
    move_to(&inner, remote.pid())?;
    covered(bench, &mut remote, |act| act)?;
    // A folder made after the tag.
    let later = cgroup.path.join("later");
    fs::create_dir(&later)?;
    let mut second = Remote::outside()?;
    second.agent.clone_from(&remote.agent);
    move_to(&later, second.pid())?;
    covered(bench, &mut second, |act| act)?;
    for remote in [remote, second] {
        remote.end()?;
    }
    for path in [later, innermost, inner] {
        fs::remove_dir(path)?;
    }
    Ok(())
}

fn may_not_leave(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let root = Path::new(CGROUPS).join("cgroup.procs");
    let leave = Act::Sequence(vec![open(&root, libc::O_WRONLY), write(Arg::Step(0), "0")]);
    let wanted = Wanted::refusal("system.cgroups", "system").path(&root);
    bench.denied(&mut agent, &leave, wanted)?;
    let new = Path::new(CGROUPS).join("agents-own");
    let wanted = Wanted::refusal("system.cgroups", "system").path(&new);
    bench.denied(&mut agent, &crate::remote::calls::mkdir(&new), wanted)?;
    let reading = open(&root, libc::O_RDONLY);
    bench.allowed(&mut agent, &reading)?;
    covered(bench, &mut agent, |act| act)?;

    // Its own cgroup: what all of it may use is not its business.
    let (mut agent, cgroup) = bench.tagged_after(&[])?;
    for limit in ["pids.max", "cgroup.freeze", "cgroup.kill"] {
        let file = cgroup.path.join(limit);
        if file.exists() {
            let wanted = Wanted::refusal("system.cgroups", "system").path(&file);
            bench.denied(&mut agent, &open(&file, libc::O_WRONLY), wanted)?;
        }
    }
    let inner = cgroup.path.join("inner");
    bench.allowed(&mut agent, &crate::remote::calls::mkdir(&inner))?;
    // Who could move others' processes as well, and so make them its own, moves none.
    for procs in ["inner/cgroup.procs", "inner/cgroup.threads", "cgroup.procs"] {
        let file = cgroup.path.join(procs);
        let wanted = Wanted::refusal("system.cgroups", "system").path(&file);
        bench.denied(&mut agent, &open(&file, libc::O_WRONLY), wanted)?;
    }
    let freeze = inner.join("cgroup.freeze");
    bench.allowed(&mut agent, &open(&freeze, libc::O_WRONLY))?;
    bench.allowed(&mut agent, &on_path(libc::SYS_rmdir, &inner, []))?;
    let whole = on_path(libc::SYS_rmdir, &cgroup.path, []);
    let wanted = Wanted::refusal("system.cgroups", "system").path(&cgroup.path);
    bench.denied(&mut agent, &whole, wanted)?;
    agent.end()?;
    Ok(())
}

/// Below a cgroup that was handed to an ordinary user: who is where is the agent's business, as long as the cgroup above
/// its own is somebody else's.
fn delegated(bench: &mut Bench) -> Result<()> {
    let (mut agent, cgroup, above) = bench.delegated()?;
    let path = &cgroup.path;
    let inner = path.join("inner");
    bench.allowed(&mut agent, &crate::remote::calls::mkdir(&inner))?;
    let go =
        |procs: &Path| Act::Sequence(vec![open(procs, libc::O_WRONLY), write(Arg::Step(0), "0")]);
    for procs in [inner.join("cgroup.procs"), path.join("cgroup.procs")] {
        bench.allowed(&mut agent, &go(&procs))?;
        covered(bench, &mut agent, |act| act)?;
    }
    above.give_away()?;
    let procs = inner.join("cgroup.procs");
    let wanted = Wanted::refusal("system.cgroups", "system").path(&procs);
    bench.denied(&mut agent, &go(&procs), wanted)?;
    agent.end()?;
    fs::remove_dir(inner)?;
    Ok(())
}

/// A service manager moves the child that it forked, and has the child move itself before it runs its program
/// (src/core/execute.c of systemd 252, `exec_spawn`): who comes second finds it an agent's already.
fn put_there_twice(bench: &mut Bench) -> Result<()> {
    let cgroup = bench.cgroup()?;
    let inner = cgroup.path.join("inner");
    fs::create_dir(&inner)?;
    let mut outside = Remote::outside()?;
    let name = bench.name();
    cgroup.tag(&bench.profile, &name)?;
    let fd = folder_descriptor(bench, &mut outside, &inner)?;
    let into = |act: Act| child(Birth::IntoCgroup(fd), act);
    let go = |folder: &Path| {
        let procs = folder.join("cgroup.procs");
        Act::Sequence(vec![open(&procs, libc::O_WRONLY), write(Arg::Step(0), "0")])
    };
    bench.allowed(&mut outside, &into(go(&inner)))?;
    // Nowhere else, and neither do its children nor the program that it runs.
    let wanted = |folder: &Path| {
        Wanted::refusal("system.cgroups", "system")
            .path(folder.join("cgroup.procs"))
            .agent(&name)
    };
    bench.denied(&mut outside, &into(go(&cgroup.path)), wanted(&cgroup.path))?;
    bench.denied(&mut outside, &into(forked(go(&inner))), wanted(&inner))?;
    let script = format!("echo 0 >{}/cgroup.procs", inner.display());
    let run = exec(Birth::IntoCgroup(fd), "/bin/sh", &["-c", &script]);
    bench.log.skip()?;
    ensure!(bench.allowed(&mut outside, &run)? != 0);
    bench.log.wait(&wanted(&inner))?;
    outside.end()?;
    fs::remove_dir(inner)?;
    Ok(())
}

/// Whoever moves it out, even if it managed to do so itself: the label goes with the task.
fn stays_when_moved_out(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    covered(bench, &mut agent, |act| act)?;
    move_to(Path::new(CGROUPS), agent.pid())?;
    covered(bench, &mut agent, |act| act)?;
    covered(bench, &mut agent, forked)?;
    covered(bench, &mut agent, |act| Act::Thread(Box::new(act)))?;
    let other = bench.cgroup()?;
    other.add(agent.pid())?;
    covered(bench, &mut agent, |act| forked(forked(act)))?;
    agent.end()?;
    Ok(())
}

/// An agent has no children outside of its cgroup.
fn born_elsewhere(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let elsewhere = bench.cgroup()?;
    let fd = folder_descriptor(bench, &mut agent, &elsewhere.path)?;
    let (_, twin) = pair(bench);
    let wanted = Wanted::refusal("system.cgroups", "system");
    bench.denied(&mut agent, &child(Birth::IntoCgroup(fd), twin), wanted)?;
    covered(bench, &mut agent, |act| act)?;
    Ok(())
}

fn untagged(bench: &mut Bench) -> Result<()> {
    let cgroup = bench.cgroup()?;
    let mut remote = Remote::outside()?;
    bench.tag(&cgroup, &mut remote)?;
    cgroup.add(remote.pid())?;
    covered(bench, &mut remote, |act| act)?;
    run_well("agentguard", &["untag", &cgroup.path.display().to_string()])?;
    free(bench, &mut remote)?;
    let name = remote.agent.clone().unwrap_or_default();
    bench
        .log
        .wait(&Wanted::action("agent.ended").agent(&name))?;
    // And again, as another agent.
    bench.tag(&cgroup, &mut remote)?;
    covered(bench, &mut remote, |act| act)?;
    Ok(())
}

/// The cgroup is empty and gone; the task that was moved out of it is still the agent's.
fn outlives(bench: &mut Bench) -> Result<()> {
    let cgroup = bench.cgroup()?;
    let mut remote = Remote::outside()?;
    bench.tag(&cgroup, &mut remote)?;
    cgroup.add(remote.pid())?;
    covered(bench, &mut remote, |act| act)?;
    move_to(Path::new(CGROUPS), remote.pid())?;
    fs::remove_dir(&cgroup.path)?;
    seen_as_gone(&remote)?;
    covered(bench, &mut remote, |act| act)?;
    covered(bench, &mut remote, forked)?;
    Ok(())
}

fn seen_as_gone(remote: &Remote) -> Result<()> {
    let name = remote.agent.clone().unwrap_or_default();
    wait_until("the daemon sees that the cgroup is gone", || {
        let status = crate::bench::status()?;
        let agents = status.pointer("/agents").and_then(Value::as_array);
        let agent = agents.and_then(|list| list.iter().find(|agent| agent["name"] == *name));
        Ok(agent.is_none_or(|agent| agent["state"] != "active"))
    })
}

/// Another cgroup of the same name is there before the daemon looks, as when systemd stops a slice and
/// starts it again at once.
fn made_anew(bench: &mut Bench) -> Result<()> {
    let cgroup = bench.cgroup()?;
    let mut remote = Remote::outside()?;
    bench.tag(&cgroup, &mut remote)?;
    let pid = bench::status()?["pid"]
        .as_u64()
        .context("the daemon's pid")? as u32;
    signal(pid, libc::SIGSTOP)?;
    let anew = fs::remove_dir(&cgroup.path).and_then(|()| fs::create_dir(&cgroup.path));
    signal(pid, libc::SIGCONT)?;
    anew?;
    seen_as_gone(&remote)?;

    cgroup.add(remote.pid())?;
    free(bench, &mut remote)?;
    bench.tag(&cgroup, &mut remote)?;
    covered(bench, &mut remote, |act| act)?;
    Ok(())
}

fn ordinary_user(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.user_agent()?;
    let (denied, _) = pair(bench);
    // Mode and rule both; only the rule is AgentGuard's.
    fs::set_permissions(
        bench.path("open/key"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )?;
    fs::set_permissions(
        bench.path("secret/key"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )?;
    let wanted = denial().with("/process/uid", 1000);
    bench.denied(&mut agent, &denied, wanted.clone())?;
    bench.denied(&mut agent, &forked(denied), wanted)?;
    let twin = open(bench.path("open/key"), libc::O_RDONLY);
    bench.allowed(&mut agent, &twin)?;
    let writing = open(bench.path("open/key"), libc::O_WRONLY);
    bench.fails(&mut agent, &writing, libc::EACCES)?;
    Ok(())
}
