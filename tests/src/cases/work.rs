//! What agents do all day goes through unhindered under the profile that is meant for it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    bench::{Bench, POLICIES},
    daemon::Daemon,
    log::{self, Log},
    said::Said,
    scene::{Case, Root, Scene},
};

pub fn cases() -> Vec<Case> {
    let case = |name, play| {
        Case::new(name, play)
            .scene(Scene::OwnBoot {
                append: "",
                root: Root::Systemd,
            })
            .limit(600)
    };
    vec![
        case("work::of_a_coding_agent", alone),
        case("work::with_packages_and_servers", with_servers),
    ]
}

/// Both as an ordinary user, in its home.
const ALONE: &str = include_str!("../../work/alone.sh");
const NETWORK: &str = include_str!("../../work/network.sh");

/// Who offers packages on this machine, and is nobody's agent.
const INDEX: &str = include_str!("../../work/index.py");
const INDEX_ADDRESS: &str = "http://127.0.0.1:8400";

/// What `coding` tells a person to add: the index, and servers on every address.
const SERVERS: &str = r#"
[[allow]]
id = "index"
connect = "tcp://127.0.0.1:8400"

[[allow]]
id = "servers"
listen = ["tcp://0.0.0.0:1024-65535", "tcp://[::]:1024-65535"]
"#;

/// The home of the guest's ordinary user: where people have theirs, which profiles know.
const HOME: &str = "/home/agent";

fn alone(bench: &mut Bench) -> Result<()> {
    bench.fresh()?;
    let _daemon = Daemon::start()?;
    unhindered(bench, "coding", ALONE, "")
}

fn with_servers(bench: &mut Bench) -> Result<()> {
    bench.fresh()?;
    let coding = fs::read_to_string(Path::new(POLICIES).join("coding.toml"))?;
    let name = "name = \"coding\"";
    ensure!(coding.contains(name), "another name than {name}");
    let profile = coding.replace(name, "name = \"coding-with-servers\"") + SERVERS;
    let path = Path::new(POLICIES).join("coding-with-servers.toml");
    fs::write(&path, profile)?;
    let _daemon = Daemon::start()?;
    let mut index = Command::new("python3")
        .args(["-c", INDEX])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    let out = index.stdout.take().context("no standard output")?;
    BufReader::new(out).read_line(&mut said)?;
    ensure!(said == "listening\n", "the index said {said:?}");
    let result = unhindered(bench, "coding-with-servers", NETWORK, INDEX_ADDRESS);
    index.kill()?;
    index.wait()?;
    fs::remove_file(path)?;
    result
}

/// A script that ends well, and of which nothing was denied.
fn unhindered(bench: &mut Bench, profile: &str, script: &str, argument: &str) -> Result<()> {
    let path = bench.path("work.sh");
    fs::write(&path, script)?;
    let name = bench.name();
    let mut run = Command::new("agentguard");
    run.args([
        "run",
        "--profile",
        profile,
        "--name",
        &name,
        "--user",
        "1000",
    ]);
    run.args(["--", "bash"]).arg(&path).args([HOME, argument]);
    let said = Said::by_command(&mut run)?;
    // Not even something that a tool does without.
    let mut log = Log::from_start(Path::new(log::PATH));
    let denied: Vec<String> = log
        .events()?
        .iter()
        .filter(|event| event["verdict"] == "deny" && event["agent"] == *name)
        .map(ToString::to_string)
        .collect();
    ensure!(
        denied.is_empty(),
        "denied:\n{}\n{}",
        denied.join("\n"),
        said.all()
    );
    said.ends(0).map(drop)
}
