//! The command line against a daemon that runs: what commands print and how they end.

use std::{
    fs,
    io::Write as _,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::secret::{self, SECRET};
use crate::{
    bench::{Bench, run, run_well, status},
    daemon::signal,
    log::Wanted,
    remote::{Outcome, Remote, calls::open},
    scene::Case,
};

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(SECRET).prepare(secret::files);
    vec![
        case("cli::run_passes_on_how_it_ended", run_passes_status),
        case("cli::run_passes_on_signals", run_passes_signals),
        case("cli::run_passes_on_standard_streams", run_passes_streams),
        case("cli::run_as_a_user", run_as_user),
        case("cli::run_leaves_descriptors_behind", run_closes_descriptors),
        case("cli::run_never_runs_without_a_label", run_refuses),
        case("cli::tag_refuses", tag_refuses),
        case("cli::status", status_says),
        case("cli::agents", agents),
        case("cli::tail", tail),
        case("cli::doctor", doctor),
        case("cli::explain_and_enforce_agree", explain),
        case("cli::an_agent_can_do_nothing_with_it", from_inside),
    ]
}

/// `agentguard run` of a shell script under the case's profile.
fn shell(bench: &mut Bench, options: &[&str], script: &str) -> Command {
    let mut command = Command::new("agentguard");
    let name = bench.name();
    command
        .args(["run", "--profile", &bench.profile, "--name", &name])
        .args(options)
        .args(["--", "sh", "-c", script]);
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn run_passes_status(bench: &mut Bench) -> Result<()> {
    for status in [0, 1, 7, 125, 255] {
        let output = shell(bench, &[], &format!("exit {status}")).output()?;
        ensure!(output.status.code() == Some(status), "{output:?}");
    }
    let output = shell(bench, &[], "kill -TERM $$").output()?;
    ensure!(output.status.signal() == Some(libc::SIGTERM), "{output:?}");
    for (command, status) in [
        ("/nowhere/program", 127),
        (&*bench.path("secret/true").display().to_string(), 126),
        (&*bench.path("open/key").display().to_string(), 126),
    ] {
        let arguments = ["run", "--profile", &bench.profile, "--", command];
        let output = run("agentguard", &arguments)?;
        ensure!(
            output.status.code() == Some(status),
            "{command}: {output:?}"
        );
        ensure!(!output.stderr.is_empty(), "{command}: nothing said");
    }
    Ok(())
}

fn run_passes_signals(bench: &mut Bench) -> Result<()> {
    let script = "trap 'echo heard; exit 3' USR1; echo ready; while :; do sleep 1; done";
    let mut child = shell(bench, &[], script).stdout(Stdio::piped()).spawn()?;
    let mut said = std::io::BufReader::new(child.stdout.take().context("no output")?);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line)?;
    ensure!(line == "ready\n");
    signal(child.id(), libc::SIGUSR1)?;
    let status = child.wait()?;
    ensure!(status.code() == Some(3), "{status}");
    Ok(())
}

fn run_passes_streams(bench: &mut Bench) -> Result<()> {
    let mut child = shell(bench, &[], "cat; echo error >&2")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let mut stdin = child.stdin.take().context("no input")?;
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let output = child.wait_with_output()?;
    writer.join().expect("the writer")?;
    ensure!(
        output.stdout == bytes,
        "{} bytes came back",
        output.stdout.len()
    );
    ensure!(output.stderr == b"error\n", "{output:?}");
    Ok(())
}

fn run_as_user(bench: &mut Bench) -> Result<()> {
    let script =
        "id -u; id -g; echo $HOME; grep NoNewPrivs /proc/self/status; cat /proc/self/cgroup";
    for user in ["agent", "1000"] {
        let output = shell(bench, &["--user", user], script).output()?;
        ensure!(output.status.success(), "{output:?}");
        let said = text(&output);
        let lines: Vec<&str> = said.lines().collect();
        ensure!(lines[..3] == ["1000", "1000", "/home/agent"], "{said}");
        ensure!(lines[3].ends_with('1'), "{said}");
        ensure!(lines[4].contains("/agentguard.slice/"), "{said}");
    }
    let output = shell(bench, &["--user", "nosuchuser"], "id").output()?;
    ensure!(output.status.code() == Some(125), "{output:?}");
    ensure!(output.stdout.is_empty(), "it was run: {output:?}");
    Ok(())
}

fn run_closes_descriptors(bench: &mut Bench) -> Result<()> {
    let mut command = shell(bench, &[], "ls /proc/self/fd | wc -l; cat <&9");
    let secret = fs::File::open(bench.path("secret/key"))?;
    // SAFETY: dup2 is safe between fork and exec.
    unsafe {
        command.pre_exec(move || {
            let fd = std::os::fd::AsRawFd::as_raw_fd(&secret);
            match libc::dup2(fd, 9) {
                9 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let output = command.output()?;
    ensure!(!text(&output).contains("content"), "{output:?}");
    ensure!(
        !output.status.success(),
        "descriptor 9 is there: {output:?}"
    );
    Ok(())
}

fn run_refuses(bench: &mut Bench) -> Result<()> {
    let marker = bench.path("marker").display().to_string();
    let profile = bench.profile.clone();
    let secret = bench.agent()?;
    let taken = secret.agent.clone().unwrap_or_default();
    for (options, word) in [
        (&["--profile", "nosuchprofile"][..], "nosuchprofile"),
        (&["--profile", &profile, "--name", "a/b"], "a/b"),
        (&["--profile", &profile, "--name", &taken], &taken),
        (
            &["--profile", &profile, "--socket", "/run/nothing.sock"],
            "/run/nothing.sock",
        ),
    ] {
        let mut command = Command::new("agentguard");
        let output = command
            .arg("run")
            .args(options)
            .args(["--", "touch", &marker])
            .output()?;
        ensure!(output.status.code() == Some(125), "{options:?}: {output:?}");
        ensure!(!Path::new(&marker).exists(), "{options:?}: it was run");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(said.contains(word), "doesn't say `{word}`: {said}");
    }
    Ok(())
}

fn tag_refuses(bench: &mut Bench) -> Result<()> {
    let cgroup = bench.cgroup()?;
    let path = cgroup.path.display().to_string();
    let profile = bench.profile.clone();
    for (arguments, code) in [
        (&["tag", &path, "nosuchprofile"][..], 19),
        (&["tag", "/sys/fs/cgroup/nosuchgroup", &profile], 19),
        (&["tag", "/sys/fs/cgroup", &profile], 19),
        (&["untag", &path], 19),
        (&["tag", &path, &profile], 0),
        (&["tag", &path, &profile], 19),
        (&["untag", &path], 0),
        (&["untag", &path], 19),
    ] {
        let output = run("agentguard", arguments)?;
        ensure!(
            output.status.code() == Some(code),
            "{arguments:?}: {output:?}"
        );
    }
    Ok(())
}

fn status_says(_: &mut Bench) -> Result<()> {
    let status = status()?;
    ensure!(status["enforcing"] == true, "{status}");
    ensure!(
        status["problems"].as_array().is_some_and(Vec::is_empty),
        "{status}"
    );
    let hooks = status["hooks"].as_array().context("no hooks")?;
    for hook in agentguard_common::counter::Hook::ALL {
        let said = hooks.iter().find(|said| said["name"] == hook.name());
        let said = said.with_context(|| format!("{} isn't there: {status}", hook.name()))?;
        ensure!(said["attached"] == true, "{said}");
    }
    let failures = status["counters"]["failures"].as_array();
    let failed = failures.into_iter().flatten().find(|failure| {
        // Packets without an owner are dropped as they must be.
        failure["site"] != "packet_read" && failure["site"] != "stale_label"
    });
    ensure!(failed.is_none(), "helpers failed: {status}");
    let text = run_well("agentguard", &["status"])?;
    ensure!(text.contains("enforc"), "{text}");
    Ok(())
}

fn agents(bench: &mut Bench) -> Result<()> {
    let agent = bench.agent()?;
    let name = agent.agent.clone().unwrap_or_default();
    let listed = || -> Result<bool> {
        let text = run_well("agentguard", &["agents", "--json"])?;
        let list: Value = serde_json::from_str(&text)?;
        let list = list.as_array().context("not a list")?;
        let found = list.iter().find(|agent| agent["name"] == *name);
        Ok(found
            .is_some_and(|agent| agent["profile"] == *bench.profile && agent["state"] == "active"))
    };
    ensure!(listed()?, "{name} isn't there");
    ensure!(run_well("agentguard", &["agents"])?.contains(&name));
    agent.end()?;
    crate::daemon::wait_until("the agent is gone", || Ok(!listed()?))
}

fn tail(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let name = agent.agent.clone().unwrap_or_default();
    let key = bench.path("secret/key");
    for _ in 0..3 {
        let wanted = Wanted::deny("file.open", "secret");
        bench.denied(&mut agent, &open(&key, libc::O_RDONLY), wanted)?;
    }
    let arguments = ["tail", "-n", "2", "--json", "--agent", &name];
    let lines = |more: &[&str]| -> Result<Vec<Value>> {
        let all: Vec<&str> = arguments.iter().chain(more).copied().collect();
        let text = run_well("agentguard", &all)?;
        text.lines()
            .map(|line| serde_json::from_str(line).context("not JSON"))
            .collect()
    };
    let denials = lines(&["--verdict", "deny"])?;
    ensure!(denials.len() == 2, "{denials:?}");
    let wanted = Wanted::deny("file.open", "secret").path(&key).agent(&name);
    ensure!(
        denials.iter().all(|event| wanted.fits(event)),
        "{denials:?}"
    );
    let starts = lines(&["--action", "agent.started"])?;
    ensure!(starts.len() == 1, "{starts:?}");
    let text = run_well(
        "agentguard",
        &["tail", "-n", "1", "--text", "--agent", &name],
    )?;
    ensure!(
        text.contains("secret/key") && text.lines().count() == 1,
        "{text}"
    );

    // Followed, it says what comes.
    let mut follower = Command::new("agentguard")
        .args(["tail", "-f", "-n", "0", "--json", "--agent", &name])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = std::io::BufReader::new(follower.stdout.take().context("no output")?);
    let denied = open(&key, libc::O_WRONLY);
    // It may take a moment until it follows: what happened before isn't told.
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = std::io::BufRead::read_line(&mut said, &mut line);
        let _ = sender.send(line);
    });
    let mut line = None;
    crate::daemon::wait_until("the follower tells of a denial", || {
        ensure!(agent.act(&denied)? == Outcome::Failed(libc::EPERM));
        line = receiver.try_recv().ok();
        Ok(line.is_some())
    })?;
    follower.kill()?;
    follower.wait()?;
    let event: Value = serde_json::from_str(&line.unwrap_or_default())?;
    ensure!(wanted.fits(&event), "{event}");
    Ok(())
}

fn doctor(_: &mut Bench) -> Result<()> {
    let text = run_well("agentguard", &["doctor"])?;
    ensure!(text.lines().count() > 3, "{text}");
    let json = run_well("agentguard", &["doctor", "--json"])?;
    serde_json::from_str::<Value>(&json)?;
    Ok(())
}

/// What the tool says of the profile is what happens.
fn explain(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for (name, verdict) in [("secret/key", "deny"), ("open/key", "allow")] {
        let path = bench.path(name);
        let shown = path.display().to_string();
        let profile = bench.profile.clone();
        let arguments = ["policy", "explain", "--profile", &profile, "open", &shown];
        let output = run("agentguard", &arguments)?;
        ensure!(text(&output).contains(verdict), "{output:?}");
        let outcome = agent.act(&open(&path, libc::O_RDONLY))?;
        let is_denied = outcome == Outcome::Failed(libc::EPERM);
        ensure!(is_denied == (verdict == "deny"), "{name}: {outcome:?}");
    }
    Ok(())
}

/// Not even as root.
fn from_inside(bench: &mut Bench) -> Result<()> {
    let cgroup = bench.cgroup()?;
    let path = cgroup.path.display().to_string();
    for command in [
        "agentguard status",
        "agentguard agents",
        "agentguard reload",
        "agentguard run --profile observe -- true",
        &format!("agentguard tag {path} observe"),
        "agentguard unload --force",
        "cat /var/log/agentguard/events.jsonl",
        "cat /etc/agentguard/policies/coding.toml",
        "ls /sys/fs/bpf/agentguard",
        "rm -r /sys/fs/bpf/agentguard",
        "echo x >>/var/log/agentguard/events.jsonl",
        "rm /usr/bin/agentguard",
    ] {
        let output = shell(bench, &[], command).output()?;
        ensure!(!output.status.success(), "`{command}` worked: {output:?}");
        ensure!(
            output.stdout.is_empty(),
            "`{command}` said something: {output:?}"
        );
    }
    // Everything is as it was.
    status_says(bench)?;
    let mut agent = bench.agent()?;
    let act = open(bench.path("secret/key"), libc::O_RDONLY);
    bench.denied(&mut agent, &act, Wanted::deny("file.open", "secret"))?;
    let mut outside = Remote::outside()?;
    bench.allowed(&mut outside, &act)?;
    Ok(())
}
