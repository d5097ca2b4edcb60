//! The command line as people and scripts meet it: what it prints, where, and how it ends. `agentguard run`
//! and `agentguard tail` have files of their own.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::judged::{POLICY, files};
use crate::{
    bench::{self, Bench},
    daemon::{Daemon, wait_until},
    remote::{Outcome, calls::open},
    said::Said,
    scene::{Case, Scene},
};

/// The profiles that are shipped.
const SHIPPED: [&str; 5] = ["baseline", "coding", "observe", "offline", "readonly"];

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(POLICY).prepare(files);
    vec![
        case("commands::tag_and_untag", tag_and_untag),
        case("commands::status", status),
        case("commands::doctor", doctor),
        case("commands::policies_that_are_shipped", shipped_policies),
        case("commands::policy_explain_and_schema", explain_and_schema),
        case("commands::completions_and_manual", completions_and_manual),
        case("commands::ordinary_users_are_told", ordinary_user),
        case("commands::unload_needs_peace", unload)
            .scene(Scene::OwnDaemon)
            .limit(300),
    ]
}

fn tag_and_untag(bench: &mut Bench) -> Result<()> {
    let cgroup = bench.cgroup()?;
    let path = cgroup.path.display().to_string();
    let (profile, name) = (bench.profile.clone(), bench.name());
    Said::by(&["tag", &path, &profile, "--name", &name])?
        .ends(0)?
        .prints(&[&name, &profile, &path])?;
    Said::by(&["agents"])?
        .ends(0)?
        .prints(&[&name, &profile, &path, "active"])?;
    let agents = Said::by(&["agents", "--json"])?.ends(0)?.json()?;
    let listed = |agents: &Value| {
        agents
            .as_array()
            .and_then(|all| all.iter().find(|agent| agent["name"] == *name))
            .cloned()
    };
    let agent = listed(&agents).with_context(|| format!("not listed: {agents}"))?;
    ensure!(
        agent["profile"] == *profile
            && agent["cgroup"] == *path
            && agent["owned"] == false
            && agent["state"] == "active",
        "{agent}"
    );
    Said::by(&["tag", &path, &profile])?
        .ends(19)?
        .complains(&[&path])?;
    let relative = path.replace("/sys/fs/cgroup/", "");
    Said::by(&["untag", &relative])?.ends(0)?.prints(&[&name])?;
    Said::by(&["untag", &path])?.ends(19)?.complains(&[&path])?;
    Said::by(&["tag", "not/there", &profile])?
        .ends(19)?
        .complains(&["not/there"])?;
    Said::by(&["tag", &path, "no-such-profile"])?
        .ends(19)?
        .complains(&["no-such-profile", "installed profiles", &profile])?;
    Said::by(&["tag", "/etc", &profile])?
        .ends(2)?
        .complains(&["/etc"])?;
    Said::by(&["tag", "/sys/fs/cgroup", &profile])?.ends(2)?;
    Ok(())
}

fn status(bench: &mut Bench) -> Result<()> {
    let agent = bench.agent()?;
    let name = agent.agent.clone().context("the agent has no name")?;
    Said::by(&["status"])?
        .ends(0)?
        .prints(&["ENFORCING", &name, &bench.profile])?;
    let status = Said::by(&["status", "--json"])?.ends(0)?.json()?;
    let expected = [
        ("/enforcing", Value::Bool(true)),
        ("/problems", Value::Array(Vec::new())),
        ("/log/writing", Value::Bool(true)),
        ("/log/path", "/var/log/agentguard/events.jsonl".into()),
        ("/counters/undecodable", 0.into()),
    ];
    for (pointer, value) in expected {
        ensure!(
            status.pointer(pointer) == Some(&value),
            "{pointer} is not {value}: {status}"
        );
    }
    let hooks = status["hooks"].as_array().context("no hooks")?;
    ensure!(hooks.len() > 20, "few hooks: {hooks:?}");
    for hook in hooks {
        ensure!(
            hook["attached"] == true && hook["program"].as_u64().is_some(),
            "{hook}"
        );
    }
    let lsms = status["kernel"]["lsm"].as_array().context("no LSMs")?;
    ensure!(lsms.iter().any(|lsm| lsm == "bpf"), "{lsms:?}");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    ensure!(status["kernel"]["release"] == release.trim(), "{status}");
    Ok(())
}

fn doctor(_: &mut Bench) -> Result<()> {
    Said::by(&["doctor"])?
        .ends(0)?
        .prints(&["this machine can enforce", "bpf in the list of LSMs"])?;
    let report = Said::by(&["doctor", "--json"])?.ends(0)?.json()?;
    ensure!(report["enforcement"] == "possible", "{report}");
    for requirement in report["requirements"].as_array().context("no list")? {
        ensure!(
            requirement["state"] == "found" || requirement["state"] == "advised",
            "{requirement}"
        );
    }
    Ok(())
}

fn shipped_policies(_: &mut Bench) -> Result<()> {
    for name in SHIPPED {
        let path = format!("{}/{name}.toml", bench::POLICIES);
        Said::by(&["policy", "check", &path])?.ends(0)?;
        let found = Said::by(&["policy", "check", "--json", &path])?
            .ends(0)?
            .json()?;
        ensure!(found.is_object(), "{found}");
        Said::by(&["policy", "test", &path])?.ends(0)?;
    }
    // Each of them can hold an agent, and none keeps it from working.
    for name in SHIPPED {
        let said = Said::by(&["run", "--profile", name, "--", "sh", "-c", "echo works"])?;
        said.ends(0)?.prints(&["works\n"])?;
    }
    Ok(())
}

fn explain_and_schema(bench: &mut Bench) -> Result<()> {
    let secret = bench.path("secret/key").display().to_string();
    let twin = bench.path("open/key").display().to_string();
    let profile = bench.profile.clone();
    let ask = |question: &[&str]| {
        let mut all = vec!["policy", "explain", "--profile", &profile, "--json"];
        all.extend(question);
        Said::by(&all)?.ends(0)?.json()
    };
    let answer = ask(&["open", &secret])?;
    ensure!(
        answer["verdict"] == "deny" && answer["rule"].to_string().contains("secret"),
        "{answer}"
    );
    ensure!(ask(&["open", &twin])?["verdict"] == "allow");
    let program = bench.path("denied/true").display().to_string();
    ensure!(ask(&["exec", &program])?["verdict"] == "deny");
    ensure!(ask(&["connect", "192.0.2.1:443"])?["verdict"] == "deny");
    Said::by(&["policy", "explain", "-p", &profile, "open", &secret])?
        .ends(0)?
        .prints(&["deny", "secret", "Not for agents."])?;
    let schema = Said::by(&["policy", "schema"])?.ends(0)?.json()?;
    ensure!(schema["properties"]["deny"].is_object(), "{schema}");
    Ok(())
}

fn completions_and_manual(bench: &mut Bench) -> Result<()> {
    for (shell, option) in [
        ("bash", "--profile"),
        ("zsh", "--profile"),
        ("fish", "-l profile"),
    ] {
        Said::by(&["completions", shell])?
            .ends(0)?
            .prints(&["agentguard", "doctor", option])?;
    }
    Said::by(&["man"])?.ends(0)?.prints(&[
        ".TH agentguard 8",
        "EXIT STATUS",
        "\\fB125\\fR",
        "/var/log/agentguard/events.jsonl",
    ])?;
    let folder = bench.path("open/man");
    let path = folder.display().to_string();
    Said::by(&["man", &path])?.ends(0)?;
    ensure!(folder.join("agentguard.8").exists() && folder.join("agentguard-run.8").exists());
    Said::by(&["--version"])?
        .ends(0)?
        .prints(&["agentguard "])?;
    Said::by(&["--help"])?
        .ends(0)?
        .prints(&["doctor", "daemon", "Usage"])?;
    Said::by(&[])?.ends(2)?;
    Ok(())
}

fn ordinary_user(bench: &mut Bench) -> Result<()> {
    let profile = bench.profile.clone();
    let marker = bench.path("open/marker").display().to_string();
    Said::by_user(&["run", "--profile", &profile, "--", "touch", &marker])?
        .ends(125)?
        .complains(&["only root", "sudo"])?;
    ensure!(!Path::new(&marker).exists(), "the program was run");
    Said::by_user(&["daemon"])?.ends(3)?.complains(&["root"])?;
    Said::by_user(&["doctor"])?.ends(3)?.prints(&["root"])?;
    Said::by_user(&["unload"])?.ends(3)?.complains(&["root"])?;
    for arguments in [
        &["status"][..],
        &["agents"],
        &["reload"],
        &["tag", "nothing", &profile],
        &["untag", "nothing"],
        &["tail"],
    ] {
        Said::by_user(arguments)?
            .ends(18)?
            .complains(&["/run/agentguard/agentguard.sock", "group agentguard"])?;
    }
    // What needs no rights needs none.
    let file = format!("{}/coding.toml", bench::POLICIES);
    Said::by_user(&["policy", "check", &file])?.ends(0)?;
    let report = Said::by_user(&["doctor", "--json"])?.ends(3)?.json()?;
    ensure!(report["enforcement"] == "unknown", "{report}");
    Ok(())
}

fn unload(bench: &mut Bench) -> Result<()> {
    bench.fresh()?;
    let daemon = Daemon::start()?;
    Said::by(&["unload"])?.ends(12)?;
    let secret = bench.path("secret/key");
    let mut agent = bench.agent()?;
    daemon.stop()?;
    Said::by(&["unload"])?.ends(20)?.complains(&["1 agent"])?;
    bench.fails(&mut agent, &open(&secret, libc::O_RDONLY), libc::EPERM)?;
    Said::by(&["unload", "--force"])?.ends(0)?;
    // The kernel lets go of the programs a moment after their pins are gone.
    wait_until("what was denied is allowed", || {
        let outcome = agent.act(&open(&secret, libc::O_RDONLY))?;
        Ok(matches!(outcome, Outcome::Done(_)))
    })?;
    Said::by(&["status"])?
        .ends(17)?
        .prints(&["NOT ENFORCING"])?;
    Said::by(&["unload"])?.ends(0)?;
    Ok(())
}
