//! The agents' own socket: an agent is told about itself, and gets nothing else by it.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    bench::{Bench, run_well},
    daemon::{Daemon, wait_until},
    log::Wanted,
    remote::{
        Act, Arg, Birth, Remote,
        calls::{connect, exec, open, socket, unix},
    },
    said::Said,
    scene::{Case, Scene},
};

/// Nothing may be connected to, by rule and by default.
const POLICY: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret/**"
because = "Secrets stay with people."

[[deny]]
id = "sockets"
connect = ["unix:/**", "unix:@**"]
"#;

/// One file is asked for.
const ASKING: &str = r#"
[[ask]]
id = "keys"
file = "{dir}/secret/key"
access = "read"
because = "Keys are lent one at a time."
"#;

const SOCKET: &str = "/run/agentguard/agent.sock";

fn files(dir: &Path) -> Result<()> {
    for folder in ["secret", "open"] {
        fs::create_dir_all(dir.join(folder))?;
    }
    for file in ["secret/key", "secret/other", "open/key"] {
        fs::write(dir.join(file), "content")?;
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(POLICY).prepare(files);
    let asking = |name, play| Case::new(name, play).policy(ASKING).prepare(files);
    vec![
        case("why::tells_agents_what_they_were_denied", tells),
        case(
            "why::answers_agents_alone_about_themselves",
            about_themselves,
        ),
        case("why::is_one_socket_and_not_its_name", not_its_name),
        case("why::is_not_held_up_by_a_flood", flood).limit(120),
        case("why::after_a_restart", after_restart)
            .scene(Scene::OwnDaemon)
            .limit(180),
        asking("why::a_request_is_justified_and_answered", justified).limit(120),
        asking("why::a_program_that_is_told_may_answer", told)
            .scene(Scene::OwnDaemon)
            .limit(240),
    ]
}

/// What a shell in a new agent says.
fn agent_says(bench: &mut Bench, user: &str, script: &str) -> Result<Said> {
    let (profile, name) = (bench.profile.clone(), bench.name());
    Said::by(&[
        "run",
        "--profile",
        &profile,
        "--name",
        &name,
        "--user",
        user,
        "--",
        "sh",
        "-c",
        script,
    ])
}

fn tells(bench: &mut Bench) -> Result<()> {
    let (key, other) = (bench.path("secret/key"), bench.path("secret/other"));
    let (key, other) = (key.display().to_string(), other.display().to_string());
    for user in ["root", "1000"] {
        // The event is made by the daemon, which may be later than the denial.
        let script = format!(
            "agentguard why; cat {key}; cat {other}; cat {other}; \
             until agentguard why --last 2 --json | grep -q '\"count\": 2'; do usleep 20000; done; \
             agentguard why -n 2"
        );
        agent_says(bench, user, &script)?.ends(0)?.prints(&[
            "nothing was denied to this agent lately",
            &format!("file.open {key} (read)"),
            &format!("file.open {other} (read)"),
            "×2",
            "secret",
            "Secrets stay with people.",
            "an exception of the rule secret",
        ])?;
    }
    // Another agent of the same profile knows nothing of it.
    let said = agent_says(bench, "root", "agentguard why --last 9 --json")?.ends(0)?;
    ensure!(
        said.json()?["denials"] == serde_json::json!([]),
        "{}",
        said.all()
    );
    Ok(())
}

/// Asks the socket with curl as a process of `remote`, and returns curl's status. Its output goes to a file.
fn ask(bench: &Bench, remote: &mut Remote, more: &[&str]) -> Result<(i64, String)> {
    let out = bench.path("open/answer").display().to_string();
    let mut arguments = vec![
        "-sS",
        "--max-time",
        "20",
        "--unix-socket",
        SOCKET,
        "-o",
        &out,
    ];
    arguments.extend(more);
    let _ = fs::remove_file(&out);
    let status = bench.allowed(remote, &exec(Birth::Fork, "/usr/bin/curl", &arguments))?;
    Ok((status, fs::read_to_string(&out).unwrap_or_default()))
}

fn code(answer: &str) -> Result<Value> {
    let answer: Value =
        serde_json::from_str(answer).with_context(|| format!("not JSON: {answer}"))?;
    Ok(answer["code"].clone())
}

fn about_themselves(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let mut outside = Remote::outside()?;
    let (status, answer) = ask(bench, &mut agent, &["http://x/v1/why"])?;
    ensure!(
        status == 0 && answer.contains("denials"),
        "{status}: {answer}"
    );
    let (_, answer) = ask(bench, &mut outside, &["http://x/v1/why"])?;
    ensure!(code(&answer)? == "forbidden", "{answer}");
    Said::by(&["why"])?
        .ends(18)?
        .complains(&["processes of agents alone"])?;
    Said::by_user(&["why"])?
        .ends(18)?
        .complains(&["processes of agents alone"])?;
    // Nothing of what people may ask.
    for path in [
        "/v1/status",
        "/v1/agents",
        "/v1/policy",
        "/v1/events",
        "/v1/approvals",
        "/v1/approvals?follow=true",
    ] {
        let (_, answer) = ask(bench, &mut agent, &[&format!("http://x{path}")])?;
        ensure!(code(&answer)? == "not-found", "{path}: {answer}");
    }
    let yes = ["-d", "{\"approve\":true}", "http://x/v1/approvals/1"];
    let (_, answer) = ask(bench, &mut agent, &yes)?;
    ensure!(code(&answer)? == "not-found", "{answer}");
    let (_, answer) = ask(bench, &mut agent, &["-XPOST", "http://x/v1/reload"])?;
    ensure!(code(&answer)? == "not-found", "{answer}");
    let (_, answer) = ask(bench, &mut agent, &["http://x/v1/why?last=-1"])?;
    ensure!(code(&answer)? == "bad-request", "{answer}");
    Ok(())
}

fn connecting(path: &Path) -> Act {
    Act::Sequence(vec![
        socket(libc::AF_UNIX, libc::SOCK_STREAM, 0),
        connect(Arg::Step(0), unix(path)),
    ])
}

fn not_its_name(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    bench.allowed(&mut agent, &connecting(Path::new(SOCKET)))?;
    // The socket under another name, which a rule denies.
    let elsewhere = bench.path("open/agent.sock");
    fs::write(&elsewhere, "")?;
    let to = elsewhere.display().to_string();
    run_well("mount", &["--bind", SOCKET, &to])?;
    let outcome = bench.allowed(&mut agent, &connecting(&elsewhere));
    // Another socket under its name.
    run_well("umount", &["-l", &to])?;
    outcome?;
    let other = bench.path("open/other");
    let _listener = UnixListener::bind(&other)?;
    let from = other.display().to_string();
    run_well("mount", &["--bind", &from, SOCKET])?;
    let wanted = Wanted::action("unix.connect").with("/verdict", "deny");
    let denied = bench.denied(&mut agent, &connecting(Path::new(SOCKET)), wanted);
    run_well("umount", &["-l", SOCKET])?;
    denied?;
    // The one that decides is as closed as ever.
    let wanted = Wanted::action("unix.connect").with("/verdict", "deny");
    let decides = Path::new("/run/agentguard/agentguard.sock");
    bench.denied(&mut agent, &connecting(decides), wanted)?;
    Ok(())
}

fn flood(bench: &mut Bench) -> Result<()> {
    let mut busy = bench.agent()?;
    let mut agent = bench.agent()?;
    // Connections that say nothing.
    for _ in 0..100 {
        bench.allowed(&mut busy, &connecting(Path::new(SOCKET)))?;
    }
    let (status, answer) = ask(bench, &mut agent, &["http://x/v1/why"])?;
    ensure!(
        status == 0 && answer.contains("denials"),
        "{status}: {answer}"
    );
    // Requests without end. While they last, some more are earned: which ones are refused is not known.
    let answers = bench.path("open/answer-#1").display().to_string();
    let many = "http://x/v1/why?last=[1-100]";
    let arguments = ["-sS", "--unix-socket", SOCKET, "-o", &answers, many];
    bench.allowed(&mut agent, &exec(Birth::Fork, "/usr/bin/curl", &arguments))?;
    let mut refused = 0;
    for number in 1..=100 {
        let answer = fs::read_to_string(bench.path(&format!("open/answer-{number}")))?;
        refused += u32::from(code(&answer)? == "too-many");
    }
    ensure!(refused > 0, "all of 100 were answered");
    let mut other = bench.agent()?;
    let (status, answer) = ask(bench, &mut other, &["http://x/v1/why"])?;
    ensure!(
        status == 0 && answer.contains("denials"),
        "{status}: {answer}"
    );
    // A head without an end.
    let long = format!("http://x/v1/why?last={}", "1".repeat(20_000));
    let (_, answer) = ask(bench, &mut other, &[&long])?;
    ensure!(!answer.contains("denials"), "{answer}");
    let (status, answer) = ask(bench, &mut other, &["http://x/v1/why"])?;
    ensure!(
        status == 0 && answer.contains("denials"),
        "{status}: {answer}"
    );
    Ok(())
}

fn after_restart(bench: &mut Bench) -> Result<()> {
    let daemon = Daemon::start()?;
    let mut agent = bench.agent()?;
    let key = bench.path("secret/key");
    let wanted = Wanted::deny("file.open", "secret").path(&key);
    bench.denied(&mut agent, &open(&key, libc::O_RDONLY), wanted)?;
    daemon.stop()?;
    ensure!(
        !Path::new(SOCKET).exists(),
        "the socket outlives its daemon"
    );
    let daemon = Daemon::start()?;
    for _ in 0..2 {
        let (status, answer) = ask(bench, &mut agent, &["http://x/v1/why"])?;
        ensure!(status == 0, "{status}: {answer}");
        let own: Value = serde_json::from_str(&answer)?;
        let denial = &own["denials"][0];
        ensure!(
            denial["rule"] == "secret"
                && denial["because"] == "Secrets stay with people."
                && denial["object"]["path"] == *key.display().to_string(),
            "{own}"
        );
    }
    daemon.kill()?;
    let daemon = Daemon::start()?;
    let (status, answer) = ask(bench, &mut agent, &["http://x/v1/why"])?;
    ensure!(
        status == 0 && answer.contains("Secrets stay"),
        "{status}: {answer}"
    );
    agent.end()?;
    daemon.stop()
}

/// A new agent that runs this with the shell; its output is kept.
fn start(bench: &mut Bench, script: &str) -> Result<(Child, String)> {
    let name = bench.name();
    let mut command = Command::new("agentguard");
    command.args(["run", "--profile", &bench.profile, "--name", &name, "--"]);
    command.args(["sh", "-c", script]).stdin(Stdio::null());
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok((child, name))
}

/// How a shell ended, and what it said.
fn ended(child: Child) -> Result<(Option<i32>, String)> {
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Ok((output.status.code(), said.into_owned()))
}

/// Waits for a request of this agent that is as wanted.
fn request(agent: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut found = None;
    wait_until("a request waits", || {
        let requests = Said::by(&["pending", "--json"])?.ends(0)?.json()?;
        let requests = requests.as_array().context("no array")?;
        let mut own = requests.iter().filter(|request| request["agent"] == agent);
        found = own.find(|request| wanted(request)).cloned();
        Ok(found.is_some())
    })?;
    found.context("no request")
}

fn id(request: &Value) -> Result<String> {
    let id = request["id"].as_u64();
    Ok(id.with_context(|| format!("no id: {request}"))?.to_string())
}

/// The agent says what it needs it for; that is shown, and a person decides.
fn justified(bench: &mut Bench) -> Result<()> {
    let key = bench.path("secret/key").display().to_string();
    let script = format!(
        "cat {key} & \
         until id=$(agentguard why --json | grep -m1 -o '\"id\": [0-9]*'); do usleep 20000; done; \
         agentguard justify ${{id#*: }} \"$(printf 'for the build\\033[2J')\"; \
         agentguard justify ${{id#*: }} $(printf '%01001d' 0); agentguard why; wait $!"
    );
    for (answer, code, said) in [
        (&["approve"][..], 0, "content"),
        (&["deny", "--reason", "no need"], 1, "not permitted"),
    ] {
        let (child, name) = start(bench, &script)?;
        let request = request(&name, |request| request["justification"].is_string())?;
        ensure!(
            request["justification"] == "for the build\u{1b}[2J"
                && request["rule"] == "keys"
                && request["because"] == "Keys are lent one at a time."
                && request["object"]["path"] == *key
                && request["held"] == true,
            "{request}"
        );
        Said::by(&["pending"])?.ends(0)?.prints(&[
            &name,
            &key,
            "AGENT SAYS",
            "for the build\\u{1b}[2J",
            "Keys are lent one at a time.",
        ])?;
        // Nobody else speaks for it, and it can't say more than a person reads.
        let id = id(&request)?;
        let other = agent_says(bench, "root", &format!("agentguard justify {id} x"))?.ends(19)?;
        other.complains(&["of this agent"])?;
        Said::by(&["justify", &id, "x"])?
            .ends(18)?
            .complains(&["processes of agents alone"])?;
        let mut decide = answer.to_vec();
        decide.insert(1, &id);
        Said::by(&decide)?.ends(0)?.prints(&[&id])?;
        Said::by(&decide)?.ends(19)?.complains(&["waits"])?;
        let (status, all) = ended(child)?;
        ensure!(status == Some(code), "{status:?}: {all}");
        for part in [
            said,
            "waiting",
            "agentguard justify",
            "will see it",
            "1000 bytes at most",
        ] {
            ensure!(all.contains(part), "lacks {part:?}: {all}");
        }
    }
    Ok(())
}

/// What the configuration names is told, and answers only where the configuration says so.
fn told(bench: &mut Bench) -> Result<()> {
    let key = bench.path("secret/key").display().to_string();
    let program = bench.path("open/ask");
    let told = bench.path("open/told").display().to_string();
    fs::write(&program, format!("#!/bin/sh\ncat >{told}\nexit $1\n"))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let configuration = bench.path("open/agentguard.toml");
    let script = format!("cat {key}");
    for (status, within, answered) in [
        ("0", "answer_within = \"20s\"", Some(0)),
        ("1", "answer_within = \"20s\"", Some(1)),
        ("2", "answer_within = \"20s\"", None),
        ("0", "", None),
    ] {
        let _ = fs::remove_file(&told);
        let program = program.display();
        fs::write(
            &configuration,
            format!("[approvals]\nnotify = [\"{program}\", \"{status}\"]\n{within}\n"),
        )?;
        let arguments = [Path::new("--config"), &configuration];
        let daemon = Daemon::start_with(&arguments)?;
        let (child, name) = start(bench, &script)?;
        let result = match answered {
            Some(code) => ended(child).map(|ended| (code, ended)),
            None => {
                let request = request(&name, |_| true)?;
                wait_until("the program is told", || Ok(Path::new(&told).exists()))?;
                // It has ended long before anybody decides, and that was no answer.
                std::thread::sleep(std::time::Duration::from_secs(1));
                Said::by(&["approve", &id(&request)?])?.ends(0)?;
                ended(child).map(|ended| (0, ended))
            }
        };
        let (code, (status, said)) = result?;
        ensure!(status == Some(code), "{status:?}: {said}");
        ensure!(
            said.contains(if code == 0 {
                "content"
            } else {
                "not permitted"
            }),
            "{said}"
        );
        let request: Value = serde_json::from_str(&fs::read_to_string(&told)?)?;
        ensure!(
            request["agent"] == *name && request["object"]["path"] == *key,
            "{request}"
        );
        daemon.stop()?;
    }
    Ok(())
}
