//! What profiles can say beside yes and no: asking, auditing, killing, keeping quiet. And what events say.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    bench::Bench,
    log::Wanted,
    remote::{
        Act, Arg, Birth, Outcome, Remote,
        calls::{at, connect, exec, forked, internet, open, socket_for},
    },
    scene::Case,
};

fn files(dir: &Path) -> Result<()> {
    for folder in ["secret", "open", "quiet"] {
        fs::create_dir_all(dir.join(folder))?;
        for file in ["key", "other"] {
            fs::write(dir.join(folder).join(file), "content\n")?;
        }
    }
    fs::copy("/bin/busybox", dir.join("secret/true"))?;
    Ok(())
}

const SECRET: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret/**"
"#;

const ASK: &str = r#"
[approvals]
timeout = "20ms"

[[ask]]
id = "ask-file"
file = "{dir}/secret/**"
because = "A person decides."

[[ask]]
id = "ask-exec"
exec = "{dir}/secret/true"

[[ask]]
id = "ask-connect"
connect = "192.0.2.1"
"#;

const AUDIT: &str = r#"
mode = "audit"

[[deny]]
id = "secret"
file = "{dir}/secret/**"

[[deny]]
id = "secret-program"
exec = "{dir}/secret/true"

[[deny]]
id = "deadly"
file = "{dir}/quiet/**"
kill = true

[[allow]]
connect = "192.0.2.1:8080"
"#;

const KILL: &str = r#"
[[deny]]
id = "deadly"
file = "{dir}/secret/**"
kill = true

[[deny]]
id = "deadly-program"
exec = "{dir}/secret/true"
kill = true
"#;

const QUIET: &str = r#"
[[allow]]
id = "quiet"
file = "{dir}/quiet/**"
log = false

[[deny]]
id = "secret"
file = "{dir}/secret/**"
"#;

const LOG_NONE: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret/**"

[log]
allow = "none"
"#;

const LOG_FIRST: &str = r#"
[log]
allow = "first"
"#;

const OTHER: &str = r#"
[[deny]]
id = "open"
file = "{dir}/open/**"
"#;

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).prepare(files);
    vec![
        case("policy::asks_that_nobody_answers_are_denied", ask).policy(ASK),
        case("policy::audit_allows_and_says_what_would_be", audit).policy(AUDIT),
        case("policy::kill_kills_the_process", kill).policy(KILL),
        case("policy::quiet_rules_are_not_logged", quiet).policy(QUIET),
        case("policy::log_none_logs_denials_only", log_none).policy(LOG_NONE),
        case("policy::log_first_logs_once", log_first).policy(LOG_FIRST),
        case("policy::each_agent_has_its_own", two_agents)
            .policy(SECRET)
            .second(OTHER),
        case("event::says_who_did_it", who_did_it).policy(SECRET),
        case("event::numbers_have_no_gaps", numbers)
            .policy(SECRET)
            .limit(240),
        case("event::agents_begin_and_end", agents).policy(SECRET),
    ]
}

fn reading(bench: &Bench, name: &str) -> Act {
    open(bench.path(name), libc::O_RDONLY)
}

fn connecting(address: &str) -> Act {
    Act::Sequence(vec![
        socket_for(at(address), libc::SOCK_STREAM),
        connect(Arg::Step(0), internet(at(address))),
    ])
}

fn ask(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let asked = |action, rule| Wanted::deny(action, rule).with("/reason", "timed-out");
    let wanted = asked("file.open", "ask-file").with("/because", "A person decides.");
    bench.denied(&mut agent, &reading(bench, "secret/key"), wanted)?;
    let program = exec(Birth::Fork, bench.path("secret/true"), &[]);
    bench.denied(&mut agent, &program, asked("exec", "ask-exec"))?;
    let act = connecting("192.0.2.1:80");
    bench.denied(&mut agent, &act, asked("net.connect", "ask-connect"))?;
    bench.allowed(&mut agent, &reading(bench, "open/key"))?;
    Ok(())
}

fn audit(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let audited = |action, rule: &str, would| {
        Wanted::action(action)
            .with("/verdict", "audit")
            .with("/would", would)
            .with("/rule", rule)
            .with("/errno", Value::Null)
    };
    let wanted = audited("file.open", "secret", "deny");
    bench.allowed_and_logged(&mut agent, &reading(bench, "secret/key"), wanted)?;
    let wanted = audited("file.open", "deadly", "kill");
    bench.allowed_and_logged(&mut agent, &forked(reading(bench, "quiet/key")), wanted)?;
    let wanted = audited("exec", "secret-program", "deny");
    let program = exec(Birth::Fork, bench.path("secret/true"), &[]);
    ensure!(bench.allowed_and_logged(&mut agent, &program, wanted)? == 0);
    let default = format!("{}/default", bench.profile);
    let wanted = audited("net.connect", &default, "deny");
    let listener = TcpListener::bind("192.0.2.1:8081")?;
    bench.allowed_and_logged(&mut agent, &connecting("192.0.2.1:8081"), wanted)?;
    listener.accept()?;
    let listener = TcpListener::bind("192.0.2.1:8080")?;
    let wanted = Wanted::allow("net.connect").with("/would", Value::Null);
    bench.allowed_and_logged(&mut agent, &connecting("192.0.2.1:8080"), wanted)?;
    listener.accept()?;
    Ok(())
}

fn kill(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let name = agent.agent.clone().unwrap_or_default();
    for (act, rule, action) in [
        (forked(reading(bench, "secret/key")), "deadly", "file.open"),
        (
            forked(open(
                bench.path("secret/new"),
                libc::O_WRONLY | libc::O_CREAT,
            )),
            "deadly",
            "file.create",
        ),
        (
            exec(Birth::Fork, bench.path("secret/true"), &[]),
            "deadly-program",
            "exec",
        ),
    ] {
        bench.log.skip()?;
        let outcome = agent.act(&act)?;
        ensure!(
            outcome == Outcome::Killed(libc::SIGKILL),
            "{outcome:?}: {act:?}"
        );
        let wanted = Wanted::action(action)
            .with("/verdict", "kill")
            .with("/rule", rule)
            .agent(&name);
        bench.log.wait(&wanted)?;
    }
    ensure!(!bench.path("secret/new").exists());
    bench.allowed(&mut agent, &reading(bench, "open/key"))?;
    Ok(())
}

fn quiet(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    bench.log.skip()?;
    bench.allowed(&mut agent, &reading(bench, "quiet/key"))?;
    // What comes after it on the same ring has come.
    let wanted = Wanted::allow("file.open").path(bench.path("open/key"));
    bench.allowed(&mut agent, &reading(bench, "open/key"))?;
    bench.log.wait(&wanted)?;
    let unwanted = Wanted::action("file.open").path(bench.path("quiet/key"));
    bench.log.lacks(&unwanted)
}

fn log_none(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    bench.log.skip()?;
    bench.allowed(&mut agent, &reading(bench, "open/key"))?;
    let twin = exec(Birth::Fork, "/usr/bin/true", &[]);
    bench.allowed(&mut agent, &twin)?;
    // Another agent's allowed action, later on the same ring.
    let mut other = Remote::agent("observe", &bench.name(), None)?;
    let name = other.agent.clone().unwrap_or_default();
    bench.allowed(&mut other, &reading(bench, "open/other"))?;
    let wanted = Wanted::action("file.open")
        .path(bench.path("open/other"))
        .agent(&name);
    bench.log.wait(&wanted)?;
    let unwanted = Wanted::allow("file.open").path(bench.path("open/key"));
    bench.log.lacks(&unwanted)?;
    let name = agent.agent.clone().unwrap_or_default();
    bench.log.lacks(&Wanted::allow("exec").agent(&name))?;
    bench.denied(
        &mut agent,
        &reading(bench, "secret/key"),
        Wanted::deny("file.open", "secret"),
    )?;
    Ok(())
}

/// Once per process and object.
fn log_first(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    bench.log.skip()?;
    for _ in 0..5 {
        bench.allowed(&mut agent, &reading(bench, "open/key"))?;
    }
    bench.allowed(&mut agent, &forked(reading(bench, "open/key")))?;
    bench.allowed(&mut agent, &reading(bench, "open/other"))?;
    bench
        .log
        .wait(&Wanted::allow("file.open").path(bench.path("open/other")))?;
    let wanted = Wanted::allow("file.open").path(bench.path("open/key"));
    let pids: Vec<_> = bench
        .log
        .events()?
        .iter()
        .filter(|event| wanted.fits(event))
        .map(|event| event.pointer("/process/pid").and_then(Value::as_u64))
        .collect();
    ensure!(
        pids.len() == 2 && pids[0] != pids[1],
        "must be logged once for each of two processes: {pids:?}"
    );
    Ok(())
}

fn two_agents(bench: &mut Bench) -> Result<()> {
    let mut first = bench.agent()?;
    let mut second = bench.agent_under(&bench.second_profile())?;
    for _ in 0..3 {
        let wanted = Wanted::deny("file.open", "secret").with("/profile", bench.profile.clone());
        bench.denied(&mut first, &reading(bench, "secret/key"), wanted)?;
        bench.allowed(&mut first, &reading(bench, "open/key"))?;
        let wanted = Wanted::deny("file.open", "open").with("/profile", bench.second_profile());
        bench.denied(&mut second, &reading(bench, "open/key"), wanted)?;
        bench.allowed(&mut second, &reading(bench, "secret/key"))?;
    }
    Ok(())
}

fn who_did_it(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.user_agent()?;
    let wanted = Wanted::deny("file.open", "secret")
        .with("/v", 1)
        .with("/profile", bench.profile.clone())
        .with("/process/pid", agent.pid())
        .with("/process/tid", agent.pid())
        .with("/process/ppid", std::process::id())
        .with("/process/uid", 1000)
        .with("/process/exe", crate::remote::PROGRAM)
        .with("/process/args", vec![crate::remote::PROGRAM, "remote"])
        .with("/process/comm", "agentguard-gues")
        .with("/object/access", vec!["read"]);
    let event = bench.denied(&mut agent, &reading(bench, "secret/key"), wanted)?;
    let session = event.pointer("/session").and_then(Value::as_str);
    ensure!(session.is_some_and(|text| text.len() == 26), "{event}");
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid()))?;
    let ticks: u64 = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().nth(19)?.parse().ok())
        .with_context(|| format!("no start in {stat}"))?;
    let start = event.pointer("/process/start_ns").and_then(Value::as_u64);
    ensure!(
        start.map(|start| start / 10_000_000) == Some(ticks),
        "started at {ticks} ticks, the event says {start:?} ns"
    );
    // A child's event names its parent, and what that runs.
    let wanted = Wanted::deny("file.open", "secret")
        .with("/process/ppid", agent.pid())
        .with("/process/ancestors/0/pid", agent.pid())
        .with("/process/ancestors/0/exe", crate::remote::PROGRAM);
    let act = forked(reading(bench, "secret/key"));
    bench.denied(&mut agent, &act, wanted)?;
    Ok(())
}

fn numbers(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for _ in 0..10 {
        bench.allowed(&mut agent, &reading(bench, "open/key"))?;
    }
    let wanted = Wanted::deny("file.open", "secret");
    bench.denied(&mut agent, &reading(bench, "secret/key"), wanted)?;
    // One at a time: the cases before this one, which share the daemon, can have left a log that doesn't fit
    // into the guest's memory once it is taken apart.
    let mut log = BufReader::new(File::open(crate::log::PATH)?);
    let mut line = Vec::new();
    let mut last = None;
    // What has no line end yet is still being written.
    while log.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
        let Numbered { seq } = serde_json::from_slice(&line)?;
        line.clear();
        ensure!(
            last.is_none_or(|last| last + 1 == seq),
            "a gap between {last:?} and {seq}"
        );
        last = Some(seq);
    }
    ensure!(last.is_some(), "the log is empty");
    Ok(())
}

/// An event, of which its number alone is looked at.
#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

fn agents(bench: &mut Bench) -> Result<()> {
    bench.log.skip()?;
    let agent = bench.agent()?;
    let name = agent.agent.clone().unwrap_or_default();
    let started = Wanted::action("agent.started")
        .agent(&name)
        .with("/profile", bench.profile.clone());
    let started = bench.log.wait(&started)?;
    agent.end()?;
    let ended = bench
        .log
        .wait(&Wanted::action("agent.ended").agent(&name))?;
    ensure!(started.pointer("/session") == ended.pointer("/session"));
    Ok(())
}
