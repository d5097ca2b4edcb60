//! The local API: it answers people and programs, and no agent.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    bench::{self, Bench},
    log::Wanted,
    remote::{
        Act, Arg, Birth, Outcome, Remote,
        calls::{connect, exec, read, socket, unix, write},
    },
    said::Said,
    scene::Case,
};

/// Everything may be connected to.
const CONNECTED: &str = r#"
[default]
file = "allow"
exec = "allow"
connect = "allow"
listen = "deny"
"#;

/// Where the daemon listens.
const SOCKET: &str = "/run/agentguard/agentguard.sock";

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("api::answers_curl", answers_curl),
        Case::new("api::is_closed_to_agents", closed_to_agents).policy(CONNECTED),
        Case::new("api::commands_are_of_no_use_to_agents", of_no_use).policy(CONNECTED),
    ]
}

fn answers_curl(_: &mut Bench) -> Result<()> {
    let ask = |path: &str, more: &[&str]| {
        let url = format!("http://x{path}");
        let mut command = std::process::Command::new("curl");
        command.args(["-sS", "--max-time", "20", "--unix-socket", SOCKET]);
        command.args(["-w", "\n%{http_code}", &url]).args(more);
        let said = Said::by_command(&mut command)?.ends(0)?;
        let (body, code) = said.out.rsplit_once('\n').context("no status")?;
        let body: Value =
            serde_json::from_str(body).with_context(|| format!("not JSON: {body}"))?;
        Ok::<_, anyhow::Error>((code.to_owned(), body))
    };
    let (code, status) = ask("/v1/status", &[])?;
    ensure!(code == "200" && status["enforcing"] == true, "{status}");
    for verb in status["verbs"].as_array().context("no verbs")? {
        let rests = verb["hooks"]
            .as_array()
            .is_some_and(|hooks| !hooks.is_empty());
        ensure!(rests && verb["missing"] == serde_json::json!([]), "{verb}");
        // Where this kernel lacks a hook, another one sees the same, and that one is there.
        for absent in verb["absent"].as_array().into_iter().flatten() {
            let hooks = verb["hooks"].as_array().is_some_and(|hooks| {
                hooks.contains(&absent["instead"]) && !hooks.contains(&absent["hook"])
            });
            ensure!(hooks, "{verb}");
        }
    }
    for hook in status["hooks"].as_array().context("no hooks")? {
        ensure!(hook["attached"] == true, "{hook}");
    }
    let (code, agents) = ask("/v1/agents", &[])?;
    ensure!(code == "200" && agents.is_array(), "{agents}");
    let (code, policy) = ask("/v1/policy", &[])?;
    ensure!(code == "200" && policy["profiles"].is_array(), "{policy}");
    let (code, answer) = ask("/v1/nothing", &[])?;
    ensure!(code == "404" && answer["code"] == "not-found", "{answer}");
    let (code, answer) = ask("/v1/status", &["-X", "DELETE"])?;
    ensure!(code == "400" && answer["code"] == "bad-request", "{answer}");
    Ok(())
}

/// The number of the policy in force.
fn install() -> Result<u64> {
    let status = bench::status()?;
    status["policy"]["install"]
        .as_u64()
        .with_context(|| format!("no install: {status}"))
}

fn closed_to_agents(bench: &mut Bench) -> Result<()> {
    let connecting = || {
        Act::Sequence(vec![
            socket(libc::AF_UNIX, libc::SOCK_STREAM, 0),
            connect(Arg::Step(0), unix(SOCKET)),
        ])
    };
    let mut agent = bench.agent()?;
    let wanted = || Wanted::deny("unix.connect", "agentguard/socket").path(SOCKET);
    bench.denied(&mut agent, &connecting(), wanted())?;
    let arguments = ["-sS", "--unix-socket", SOCKET, "http://x/v1/status"];
    bench.log.skip()?;
    let status = bench.allowed(&mut agent, &exec(Birth::Fork, "/usr/bin/curl", &arguments))?;
    ensure!(
        status == 7,
        "curl must fail to connect (7), and ended with {status}"
    );
    bench.log.wait(&wanted())?;

    // A connection from before it was an agent's is of no use either: the daemon looks at who asks now.
    let request =
        "POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let mut remote = Remote::outside()?;
    let connected = Act::Sequence(vec![
        socket(libc::AF_UNIX, libc::SOCK_STREAM, 0),
        connect(Arg::Step(0), unix(SOCKET)),
        // The number of the socket.
        crate::remote::calls::call(libc::SYS_dup, [Arg::Step(0)]),
    ]);
    let before = install()?;
    let fd = bench.allowed(&mut remote, &connected)?;
    bench.allowed(&mut remote, &write(fd, request))?;
    ensure!(bench.allowed(&mut remote, &read(fd))? > 0, "no answer");
    let reloaded = install()?;
    ensure!(
        reloaded > before,
        "an ordinary process of root can't reload"
    );

    let fd = bench.allowed(&mut remote, &connected)?;
    let cgroup = bench.cgroup()?;
    bench.tag(&cgroup, &mut remote)?;
    cgroup.add(remote.pid())?;
    if let Outcome::Done(_) = remote.act(&write(fd, request))? {
        remote.act(&read(fd))?;
    }
    ensure!(install()? == reloaded, "an agent made the daemon reload");
    remote.end()?;
    Ok(())
}

/// Not even as root.
fn of_no_use(bench: &mut Bench) -> Result<()> {
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
        let said = Said::by(&[
            "run",
            "--profile",
            &bench.profile,
            "--",
            "sh",
            "-c",
            command,
        ])?;
        ensure!(
            !said.status.success() && said.out.is_empty(),
            "`{command}` worked: {}",
            said.all()
        );
        if command == "agentguard status" {
            said.ends(18)?.complains(&["belongs to an agent"])?;
        }
    }
    // Everything is as it was.
    let status = bench::status()?;
    ensure!(
        status["enforcing"] == true && Path::new("/usr/bin/agentguard").exists(),
        "{status}"
    );
    Ok(())
}
