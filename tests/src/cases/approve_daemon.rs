//! Questions and answers across what becomes of the daemon: its start, its end, its group and its policies.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::{fd::FromRawFd as _, unix::process::CommandExt as _},
    path::Path,
    process::{Child, Command},
    ptr,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use agentguard_common::approval::HEARTBEAT_NS;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::approve::{POLICY, answer, api, comes_to, files, key, pending, question, yes};
use crate::{
    bench::{self, Bench, ORDINARY_USER},
    daemon::{Daemon, wait_until},
    desk::{Desk, boot_ns, is_stopped},
    log::Wanted,
    remote::calls::{forked, open},
    said::Said,
    scene::{Case, Scene},
};

pub fn cases() -> Vec<Case> {
    let own = |name, play| {
        Case::new(name, play)
            .policy(POLICY)
            .prepare(files)
            .scene(Scene::OwnDaemon)
            .limit(240)
    };
    vec![
        own(
            "approve::on_a_terminal_by_a_member_of_the_group",
            on_a_terminal,
        ),
        own("approve::for_good", for_good),
        own("approve::a_stopped_daemon_leaves_questions", |bench| {
            restart(bench, false)
        }),
        own("approve::a_killed_daemon_leaves_questions", |bench| {
            restart(bench, true)
        }),
        own("approve::killed_between_any_two_steps", killed),
        own("approve::another_policy_is_asked_anew", another_policy),
    ]
}

/// Starts `agentguard watch` on a terminal of its own, as an ordinary user of this group. The terminal's other end.
fn watch_as_member(group: libc::gid_t) -> Result<(Child, fs::File)> {
    let size = libc::winsize {
        ws_row: 40,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let (mut ours, mut theirs) = (-1, -1);
    // SAFETY: the call writes two descriptors, and reads the size.
    let opened = unsafe {
        libc::openpty(
            &raw mut ours,
            &raw mut theirs,
            ptr::null_mut(),
            ptr::null(),
            &raw const size,
        )
    };
    ensure!(opened == 0, "{}", io::Error::last_os_error());
    // SAFETY: both are open, and nobody else's.
    let (ours, theirs) = unsafe { (fs::File::from_raw_fd(ours), fs::File::from_raw_fd(theirs)) };
    let mut watch = Command::new("agentguard");
    watch
        .arg("watch")
        .env("TERM", "xterm")
        .stdin(theirs.try_clone()?)
        .stdout(theirs.try_clone()?)
        .stderr(theirs);
    // SAFETY: system calls alone, of which each says whether it failed.
    unsafe {
        watch.pre_exec(move || {
            let failed = libc::setsid() < 0
                || libc::ioctl(0, libc::TIOCSCTTY, 0) != 0
                || libc::setgroups(1, &raw const group) != 0
                || libc::setgid(ORDINARY_USER) != 0
                || libc::setuid(ORDINARY_USER) != 0;
            if failed {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    Ok((watch.spawn()?, ours))
}

/// A person who is in the group `agentguard`, and presses keys.
fn on_a_terminal(bench: &mut Bench) -> Result<()> {
    const GROUP: libc::gid_t = 7100;
    bench.fresh()?;
    let groups = fs::read_to_string("/etc/group")?;
    fs::write("/etc/group", format!("{groups}agentguard:x:{GROUP}:\n"))?;
    let daemon = Daemon::start()?;
    let mut agent = bench.agent()?;
    let (mut watch, terminal) = watch_as_member(GROUP)?;
    let screen = Arc::new(Mutex::new(Vec::new()));
    let (seen, mut reader) = (Arc::clone(&screen), terminal.try_clone()?);
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        // It ends with an error when the other end is closed.
        while let Ok(count @ 1..) = reader.read(&mut bytes) {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.extend_from_slice(&bytes[..count]);
        }
    });
    let shows = |text: &str| {
        let seen = screen.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&seen).contains(text)
    };
    for (name, pressed, errno) in [
        ("asked/key", b"y", None),
        ("asked/second", b"n", Some(libc::EPERM)),
    ] {
        agent.tell(&key(bench, name))?;
        let path = bench.path(name).display().to_string();
        wait_until("the question is on the screen", || {
            Ok(shows(&path) && shows("Somebody should look."))
        })?;
        // A key that comes before the question can have been read does nothing.
        wait_until("the key is an answer", || {
            (&terminal).write_all(pressed)?;
            thread::sleep(Duration::from_millis(100));
            Ok(pending(&agent)?.is_empty())
        })?;
        comes_to(&mut agent, errno)?;
    }
    for (action, name) in [
        ("approval.granted", "asked/key"),
        ("approval.denied", "asked/second"),
    ] {
        let answered = Wanted::action(action)
            .with("/approval/uid", ORDINARY_USER)
            .with("/approval/how", "cli");
        bench.log.wait(&answered.path(bench.path(name)))?;
    }
    (&terminal).write_all(b"q")?;
    let status = watch.wait()?;
    fs::write("/etc/group", groups)?;
    ensure!(status.success(), "watch ended with {status}");
    daemon.stop()
}

fn for_good(bench: &mut Bench) -> Result<()> {
    bench.fresh()?;
    let daemon = Daemon::start()?;
    let mut agent = bench.agent()?;
    agent.tell(&key(bench, "asked/key"))?;
    let asked = question(&agent, |_| true)?;
    let said = answer(&asked, &yes(&json!("always")))?;
    let diff = said["diff"].as_str().context("no diff")?;
    let line = format!("+file = \"{}\"", bench.path("asked/key").display());
    ensure!(
        diff.contains(&line) && diff.contains("+rule = \"asked\""),
        "{diff}"
    );
    comes_to(&mut agent, None)?;
    let overlay = Path::new(bench::POLICIES)
        .join("local.d")
        .join(format!("{}.toml", bench.profile));
    let text = fs::read_to_string(&overlay)?;
    ensure!(text.contains("Allowed by root"), "{text}");
    bench.allowed(&mut agent, &forked(key(bench, "asked/key")))?;
    // Reading was asked about, and nothing else.
    for other in [
        open(bench.path("asked/key"), libc::O_WRONLY),
        key(bench, "asked/second"),
    ] {
        agent.tell(&other)?;
        let one = question(&agent, |_| true)?;
        answer(&one, &json!({ "approve": false }))?;
        comes_to(&mut agent, Some(libc::EPERM))?;
    }
    // A policy that can't be loaded takes the answer back, and the question waits.
    let bad = Path::new(bench::POLICIES).join("broken.toml");
    fs::write(&bad, "version = 2\n")?;
    agent.tell(&key(bench, "asked/third"))?;
    let one = question(&agent, |_| true)?;
    let path = format!("/v1/approvals/{}", one["id"]);
    let (status, said) = api("POST", &path, Some(&yes(&json!("always"))))?;
    fs::remove_file(&bad)?;
    ensure!(
        status == 422 && said["code"] == "policy-refused",
        "{status}: {said}"
    );
    ensure!(
        fs::read_to_string(&overlay)? == text,
        "the overlay was not put back"
    );
    answer(&one, &yes(&json!("once")))?;
    comes_to(&mut agent, None)?;
    daemon.stop()?;
    let daemon = Daemon::start()?;
    bench.allowed(&mut agent, &key(bench, "asked/key"))?;
    fs::remove_file(&overlay)?;
    daemon.stop()
}

fn restart(bench: &mut Bench, killed: bool) -> Result<()> {
    bench.fresh()?;
    let daemon = Daemon::start()?;
    let mut agent = bench.agent()?;
    agent.tell(&key(bench, "asked/key"))?;
    let asked = question(&agent, |_| true)?;
    if killed {
        daemon.kill()?;
    } else {
        daemon.stop()?;
    }
    let daemon = Daemon::start()?;
    let same = question(&agent, |_| true)?;
    // Not the times: each daemon reads both clocks for itself.
    for field in ["id", "object", "rule", "session"] {
        ensure!(same[field] == asked[field], "{field}: {same} was {asked}");
    }
    answer(&same, &yes(&json!("once")))?;
    comes_to(&mut agent, None)?;
    // One question, one event.
    let id = asked["id"].clone();
    let is_request =
        |event: &&Value| event["action"] == "approval.requested" && event["approval"]["id"] == id;
    let times = bench.log.events()?.iter().filter(is_request).count();
    ensure!(times == 1, "asked {times} times in the log");
    // A yes to the rule outlives the daemon as well.
    agent.tell(&key(bench, "other/key"))?;
    let other = question(&agent, |_| true)?;
    answer(&other, &yes(&json!("rule")))?;
    comes_to(&mut agent, None)?;
    if killed {
        daemon.kill()?;
    } else {
        daemon.stop()?;
    }
    let daemon = Daemon::start()?;
    bench.allowed(&mut agent, &key(bench, "other/second"))?;
    daemon.stop()
}

/// A daemon that is killed before it was asked, between an answer and the signal, and right after both.
fn killed(bench: &mut Bench) -> Result<()> {
    bench.fresh()?;
    let daemon = Daemon::start()?;
    let mut agent = bench.agent()?;
    let mut other = bench.agent()?;
    // Between an answer and the signal.
    let mut desk = Desk::open()?;
    agent.tell(&key(bench, "asked/key"))?;
    let waiting = desk.following()?;
    question(&agent, |_| true)?;
    daemon.kill()?;
    desk.grant_quietly(waiting)?;
    ensure!(is_stopped(agent.pid())?, "it went on by itself");
    // Before it was asked: as soon as the kernel knows that nobody is there, it is a no at once.
    let silent_ns = boot_ns() + HEARTBEAT_NS;
    wait_until("the daemon's last sign of life is old", || {
        Ok(boot_ns() > silent_ns)
    })?;
    bench.fails(&mut other, &key(bench, "asked/key"), libc::EPERM)?;
    let daemon = Daemon::start()?;
    comes_to(&mut agent, None)?;
    let unheard = Wanted::deny("file.open", "asked").with("/reason", "ask-unavailable");
    bench.log.wait(&unheard.path(bench.path("asked/key")))?;
    // Right after both.
    agent.tell(&key(bench, "asked/second"))?;
    let asked = question(&agent, |_| true)?;
    answer(&asked, &yes(&json!("once")))?;
    daemon.kill()?;
    comes_to(&mut agent, None)?;
    let daemon = Daemon::start()?;
    let second = bench.path("asked/second").display().to_string();
    let through = Wanted::allow("file.open").with("/reason", "granted");
    bench.log.wait(&through.path(&second))?;
    for action in ["approval.requested", "approval.granted", "file.open"] {
        let is_it =
            |event: &&Value| event["action"] == action && event["object"]["path"] == *second;
        let times = bench.log.events()?.iter().filter(is_it).count();
        ensure!(times == 1, "{action}: {times} times in the log");
    }
    // Nothing is left that would answer again.
    agent.tell(&key(bench, "asked/second"))?;
    let again = question(&agent, |_| true)?;
    answer(&again, &json!({ "approve": false }))?;
    comes_to(&mut agent, Some(libc::EPERM))?;
    daemon.stop()
}

fn another_policy(bench: &mut Bench) -> Result<()> {
    bench.fresh()?;
    let daemon = Daemon::start()?;
    let policy = Path::new(bench::POLICIES).join(format!("{}.toml", bench.profile));
    let asks = fs::read_to_string(&policy)?;
    let mut agent = bench.agent()?;
    for (list, errno) in [("[[deny]]", Some(libc::EPERM)), ("[[allow]]", None)] {
        agent.tell(&key(bench, "asked/key"))?;
        question(&agent, |_| true)?;
        fs::write(&policy, asks.replace("[[ask]]", list))?;
        Said::by(&["reload"])?.ends(0)?;
        comes_to(&mut agent, errno)?;
        ensure!(pending(&agent)?.is_empty(), "it still waits");
        fs::write(&policy, &asks)?;
        Said::by(&["reload"])?.ends(0)?;
    }
    // A policy that is the same leaves the question as it is.
    agent.tell(&key(bench, "asked/key"))?;
    let asked = question(&agent, |_| true)?;
    Said::by(&["reload"])?.ends(0)?;
    let same = question(&agent, |_| true)?;
    ensure!(same["id"] == asked["id"], "{same}");
    answer(&same, &yes(&json!("rule")))?;
    comes_to(&mut agent, None)?;
    // Rules have other numbers in another installation; the answer means the same one.
    fs::write(
        &policy,
        asks.replacen(
            "[[ask]]",
            "[[ask]]\nid = \"first\"\nfile = \"/first/**\"\n[[ask]]",
            1,
        ),
    )?;
    Said::by(&["reload"])?.ends(0)?;
    bench.allowed(&mut agent, &key(bench, "asked/second"))?;
    agent.tell(&key(bench, "other/key"))?;
    let other = question(&agent, |_| true)?;
    answer(&other, &json!({ "approve": false }))?;
    comes_to(&mut agent, Some(libc::EPERM))?;
    daemon.stop()
}
