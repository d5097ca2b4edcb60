//! `agentguard tail`: which events, in which form, and that following goes on over a restart.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::judged::{POLICY, files};
use crate::{
    bench::Bench,
    daemon::{Daemon, wait_until},
    log::Wanted,
    remote::calls::open,
    said::Said,
    scene::{Case, Scene},
};

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(POLICY).prepare(files);
    vec![
        case("tail::selects", tail_selects),
        case("tail::for_people_and_programs", tail_forms),
        case("tail::without_a_daemon", tail_without_daemon)
            .scene(Scene::OwnDaemon)
            .limit(300),
        case("tail::follows_over_a_restart", tail_follows)
            .scene(Scene::OwnDaemon)
            .limit(180),
    ]
}

/// An agent that was denied once and allowed once, and its name.
fn judged(bench: &mut Bench) -> Result<String> {
    let mut agent = bench.agent()?;
    let (secret, key) = (bench.path("secret/key"), bench.path("open/key"));
    let wanted = Wanted::allow("file.open").path(&key);
    bench.allowed_and_logged(&mut agent, &open(&key, libc::O_RDONLY), wanted)?;
    let wanted = Wanted::deny("file.open", "secret").path(&secret);
    bench.denied(&mut agent, &open(&secret, libc::O_RDONLY), wanted)?;
    let name = agent.agent.clone().context("the agent has no name")?;
    bench.log.skip()?;
    agent.end()?;
    bench
        .log
        .wait(&Wanted::action("agent.ended").agent(&name))?;
    Ok(name)
}

fn whole(arguments: &[&str]) -> Result<Vec<Value>> {
    let mut all = vec!["tail"];
    all.extend(arguments);
    Said::by(&all)?.ends(0)?.json_lines()
}

fn tail(arguments: &[&str]) -> Result<Vec<Value>> {
    let mut events = whole(arguments)?;
    // What was lost may have been anybody's, so everybody is told.
    events.retain(|event| event["action"] != "lost");
    Ok(events)
}

fn tail_selects(bench: &mut Bench) -> Result<()> {
    let (one, two) = (judged(bench)?, judged(bench)?);
    let all = tail(&["-n", "1000000", "--agent", &one])?;
    ensure!(all.iter().all(|event| event["agent"] == *one), "{all:?}");
    let count = |action: &str| all.iter().filter(|event| event["action"] == action).count();
    ensure!(
        count("agent.started") == 1 && count("agent.ended") == 1 && count("file.open") >= 2,
        "{all:?}"
    );
    let denials = tail(&["-n", "100", "--agent", &one, "--verdict", "deny"])?;
    let wanted = Wanted::deny("file.open", "secret").agent(&one);
    ensure!(
        denials.len() == 1 && wanted.fits(&denials[0]),
        "{denials:?}"
    );
    let both = tail(&[
        "-n",
        "100",
        "--agent",
        &one,
        "--agent",
        &two,
        "--verdict",
        "deny",
    ])?;
    ensure!(both.len() == 2, "{both:?}");
    let last = tail(&[
        "-n",
        "5",
        "--agent",
        &one,
        "--agent",
        &two,
        "--verdict=deny,allow",
    ])?;
    ensure!(
        last.last().is_some_and(|event| event["agent"] == *two),
        "{last:?}"
    );
    let ends = tail(&["-n", "9", "--agent", &one, "--action", "agent.ended"])?;
    ensure!(ends.len() == 1, "{ends:?}");
    let family = tail(&["-n", "100", "--agent", &one, "--action", "agent"])?;
    ensure!(family.len() == 2, "{family:?}");
    ensure!(tail(&["-n", "0"])?.is_empty(), "0 are some");
    ensure!(whole(&["-n", "3"])?.len() == 3, "3 are not 3");
    let plain = whole(&[])?;
    ensure!(plain.len() == 10, "without -n: {}", plain.len());
    Said::by(&["tail", "--verdict", "maybe"])?
        .ends(2)?
        .complains(&["maybe", "deny"])?;
    Said::by(&["tail", "--action", "file.eat"])?
        .ends(2)?
        .complains(&["file.eat"])?;
    Ok(())
}

fn tail_forms(bench: &mut Bench) -> Result<()> {
    let name = judged(bench)?;
    let secret = bench.path("secret/key").display().to_string();
    let select = ["tail", "-n", "1", "--verdict", "deny", "--agent", &name];
    // Into a pipe it is JSON unless text is asked for; colours are only for those who ask.
    let json = Said::by(&select)?.ends(0)?;
    json.json_lines()?;
    let with = |more: &[&str]| {
        let mut all = select.to_vec();
        all.extend(more);
        Said::by(&all)?.ends(0)
    };
    ensure!(with(&["--json"])?.out == json.out, "--json differs");
    let text = with(&["--text"])?.prints(&[&name, &secret, "deny", "secret", "Not for agents."])?;
    ensure!(
        text.out.lines().count() == 1 && !text.out.contains('\u{1b}'),
        "{}",
        text.all()
    );
    with(&["--text", "--color", "always"])?.prints(&["\u{1b}["])?;
    with(&["--text", "--color", "never"])?;
    // On a terminal it is coloured text without being asked.
    let python = format!(
        r#"
import os, sys
pid, fd = os.forkpty()
if pid == 0:
    os.execvp("agentguard", "agentguard tail -n 1 --verdict deny --agent {name}".split())
try:
    while said := os.read(fd, 4096):
        sys.stdout.buffer.write(said)
except OSError:
    pass  # the other end is closed
sys.stdout.flush()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#
    );
    let mut command = Command::new("python3");
    command.args(["-c", &python]).env("TERM", "xterm");
    Said::by_command(&mut command)?
        .ends(0)?
        .prints(&["\u{1b}[", &secret, "Not for agents."])?;
    Ok(())
}

fn tail_without_daemon(bench: &mut Bench) -> Result<()> {
    bench.fresh()?;
    Said::by(&["tail"])?
        .ends(1)?
        .complains(&["/var/log/agentguard/events.jsonl"])?;
    let daemon = Daemon::start()?;
    let name = judged(bench)?;
    let select = ["-n", "5", "--agent", &name, "--verdict", "deny"];
    let before = tail(&select)?;
    daemon.kill()?;
    let after = tail(&select)?;
    ensure!(
        before == after && !before.is_empty(),
        "{before:?}, then {after:?}"
    );
    Said::by(&["tail", "-n", "1"])?
        .ends(0)?
        .complains(&["no daemon answers"])?;
    Ok(())
}

fn tail_follows(bench: &mut Bench) -> Result<()> {
    let out = bench.path("open/followed");
    let daemon = Daemon::start()?;
    let mut following = Command::new("agentguard")
        .args(["tail", "-f", "-n", "0", "--verdict", "deny"])
        .stdout(fs::File::create(&out)?)
        .stderr(fs::File::create(bench.path("open/notes"))?)
        .spawn()?;
    let result = follow(bench, daemon, &out);
    following.kill()?;
    following.wait()?;
    result.with_context(|| {
        let notes = fs::read_to_string(bench.path("open/notes")).unwrap_or_default();
        format!("it noted: {notes}")
    })
}

fn follow(bench: &mut Bench, daemon: Daemon, out: &Path) -> Result<()> {
    let shown = |agent: &str| -> Result<usize> {
        let text = fs::read_to_string(out)?;
        Ok(text.matches(&format!("\"agent\":\"{agent}\"")).count())
    };
    let told = |agent: &str| wait_until("the event is shown", || Ok(shown(agent)? == 1));
    // It begins with what comes once it has begun, so the first may be missed.
    wait_until("the first event is shown", || {
        let name = judged(bench)?;
        std::thread::sleep(std::time::Duration::from_millis(200));
        Ok(shown(&name)? == 1)
    })?;
    let second = judged(bench)?;
    told(&second)?;
    daemon.kill()?;
    let daemon = Daemon::start()?;
    let third = judged(bench)?;
    told(&third)?;
    daemon.stop()?;
    let _daemon = Daemon::start()?;
    let fourth = judged(bench)?;
    told(&fourth)?;
    for name in [second, third, fourth] {
        ensure!(shown(&name)? == 1, "shown more than once: {name}");
    }
    Ok(())
}
