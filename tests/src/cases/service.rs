//! The service as systemd runs it: enabled, restarted and stopped, and the slices whose units are agents.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    bench::{self, Bench},
    daemon::wait_until,
    log::{self, Log, Wanted},
    remote::calls::open,
    said::Said,
    scene::{Case, Root, Scene},
};

const POLICY: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret/**"
"#;

/// Where the daemon's configuration is.
const CONFIGURATION: &str = "/etc/agentguard/agentguard.toml";
const UNIT: &str = "agentguard.service";

fn files(dir: &Path) -> Result<()> {
    for folder in ["secret", "open"] {
        fs::create_dir_all(dir.join(folder))?;
        fs::write(dir.join(folder).join("key"), "key\n")?;
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |name, play| {
        Case::new(name, play)
            .policy(POLICY)
            .prepare(files)
            .scene(Scene::OwnBoot {
                append: "",
                root: Root::Systemd,
            })
            .limit(180)
    };
    vec![
        case("service::enabled_restarted_and_stopped", life),
        case("service::killed_is_started_again", killed),
        case("service::a_refused_policy_shows", refused_reload),
        case("service::units_of_a_slice_are_agents", slice),
    ]
}

/// The service, until the case is done.
struct Service;

impl Service {
    fn enable() -> Result<Self> {
        let service = Self;
        systemctl(&["enable", "--now", UNIT]).with_context(journal)?;
        Ok(service)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = systemctl(&["disable", "--now", UNIT]);
    }
}

fn systemctl(arguments: &[&str]) -> Result<()> {
    Said::by_command(Command::new("systemctl").args(arguments))?
        .ends(0)
        .map(drop)
}

fn property(name: &str) -> Result<String> {
    let arguments = ["show", "--value", "-p", name, UNIT];
    let said = Said::by_command(Command::new("systemctl").args(arguments))?.ends(0)?;
    Ok(said.out.trim().to_owned())
}

/// What the service said.
fn journal() -> String {
    let arguments = ["-u", UNIT, "--no-pager", "-o", "cat"];
    match Said::by_command(Command::new("journalctl").args(arguments)) {
        Ok(said) => said.out,
        Err(error) => format!("{error:#}"),
    }
}

/// The latest that anybody said.
fn whole_journal() -> String {
    match Said::by_command(Command::new("journalctl").args(["--no-pager", "-n", "30"])) {
        Ok(said) => said.out,
        Err(error) => format!("{error:#}"),
    }
}

fn denial(bench: &Bench) -> Wanted {
    Wanted::deny("file.open", "secret").path(bench.path("secret/key"))
}

fn life(bench: &mut Bench) -> Result<()> {
    let _service = Service::enable()?;
    ensure!(property("ActiveState")? == "active" && property("Type")? == "notify");
    let said = Said::by_command(Command::new("systemctl").args(["is-enabled", UNIT]))?;
    said.ends(0)?.prints(&["enabled"])?;
    let said = journal();
    ensure!(
        said.contains("enforcing") && !said.contains("ERROR") && !said.contains("WARN"),
        "the journal: {said}"
    );
    ensure!(bench::status()?["enforcing"] == true);
    Said::by(&["doctor"])?.ends(0)?;

    let mut agent = bench.agent()?;
    let (secret, twin) = (bench.path("secret/key"), bench.path("open/key"));
    let (secret, twin) = (open(&secret, libc::O_RDONLY), open(&twin, libc::O_RDONLY));
    bench.denied(&mut agent, &secret, denial(bench))?;
    bench.allowed(&mut agent, &twin)?;

    bench.log.skip()?;
    systemctl(&["restart", UNIT])?;
    bench
        .log
        .wait(&Wanted::action("daemon.started").with("/object/adopted", true))?;
    bench.denied(&mut agent, &secret, denial(bench))?;
    bench.allowed(&mut agent, &twin)?;

    systemctl(&["reload", UNIT])?;
    bench.log.wait(&Wanted::action("policy.loaded"))?;
    bench.denied(&mut agent, &secret, denial(bench))?;

    systemctl(&["stop", UNIT])?;
    bench.log.skip()?;
    ensure!(property("Result")? == "success", "{}", journal());
    bench.fails(&mut agent, &secret, libc::EPERM)?;
    bench.allowed(&mut agent, &twin)?;
    systemctl(&["start", UNIT])?;
    bench.log.wait(&denial(bench))?;
    let said = journal();
    ensure!(
        !said.contains("ERROR") && !said.contains("WARN"),
        "the journal: {said}"
    );
    let mut whole = Log::from_start(Path::new(log::PATH));
    for (index, event) in whole.events()?.iter().enumerate() {
        ensure!(
            event["seq"] == index as u64 + 1,
            "line {}: {event}",
            index + 1
        );
    }
    agent.end()?;
    Ok(())
}

fn killed(bench: &mut Bench) -> Result<()> {
    let _service = Service::enable()?;
    let mut agent = bench.agent()?;
    let secret = open(bench.path("secret/key"), libc::O_RDONLY);
    bench.denied(&mut agent, &secret, denial(bench))?;
    bench.log.skip()?;
    systemctl(&["kill", "--signal=KILL", UNIT])?;
    bench.fails(&mut agent, &secret, libc::EPERM)?;
    bench
        .log
        .wait(&Wanted::action("daemon.started").with("/object/adopted", true))?;
    bench.log.wait(&denial(bench))?;
    wait_until("it is active again", || {
        Ok(property("ActiveState")? == "active")
    })?;
    ensure!(property("NRestarts")? == "1", "{}", journal());
    bench.denied(&mut agent, &secret, denial(bench))?;
    agent.end()?;
    Ok(())
}

fn refused_reload(bench: &mut Bench) -> Result<()> {
    let _service = Service::enable()?;
    let mut agent = bench.agent()?;
    let secret = open(bench.path("secret/key"), libc::O_RDONLY);
    let path = format!("{}/broken.toml", bench::POLICIES);
    fs::write(&path, "version = 1\n[[deny]]\nfil = \"/x\"\n")?;
    bench.log.skip()?;
    // Whatever systemctl makes of it, the event and the journal say so.
    let _ = systemctl(&["reload", UNIT]);
    let refused = bench.log.wait(&Wanted::action("policy.refused"));
    fs::remove_file(&path)?;
    refused?;
    wait_until(
        "the journal says so",
        || Ok(journal().contains("are wrong")),
    )?;
    ensure!(property("ActiveState")? == "active", "{}", journal());
    bench.denied(&mut agent, &secret, denial(bench))?;
    agent.end()?;
    Ok(())
}

/// Number of the active agent whose cgroup this slice's is.
fn agent_in(slice: &str) -> Result<Option<u64>> {
    let status = bench::status()?;
    let cgroup = format!("{}/{slice}", bench::CGROUPS);
    let agents = status["agents"].as_array().context("no list of agents")?;
    Ok(agents
        .iter()
        .find(|agent| agent["cgroup"] == *cgroup && agent["state"] == "active")
        .and_then(|agent| agent["id"].as_u64()))
}

/// A configuration, until the case is done.
struct Configuration;

impl Configuration {
    fn write(text: &str) -> Result<Self> {
        fs::write(CONFIGURATION, text)?;
        Ok(Self)
    }
}

impl Drop for Configuration {
    fn drop(&mut self) {
        let _ = fs::remove_file(CONFIGURATION);
    }
}

/// A unit of a slice, running a script of the shell, until it is dropped.
struct Unit {
    child: Child,
}

impl Unit {
    fn run(slice: &str, script: &str) -> Result<Self> {
        let slice = format!("--slice={slice}");
        let child = Command::new("systemd-run")
            .args(["--quiet", "--wait", "--pipe", "--collect", &slice])
            .args(["sh", "-c", script])
            .stdin(Stdio::null())
            .spawn()?;
        Ok(Self { child })
    }

    fn ends(mut self, code: i32) -> Result<()> {
        let status = self.child.wait()?;
        ensure!(
            status.code() == Some(code),
            "the unit ended with {status}:\n{}",
            whole_journal()
        );
        Ok(())
    }
}

fn slice(bench: &mut Bench) -> Result<()> {
    let profile = &bench.profile;
    let _configuration = Configuration::write(&format!(
        "[slices]\nagents = \"{profile}\"\nagents-deep = \"{profile}\"\n"
    ))?;
    let service = Service::enable()?;
    let (secret, twin) = (bench.path("secret/key"), bench.path("open/key"));
    let (secret, twin) = (secret.display(), twin.display());
    let script = format!("cat {twin} && ! cat {secret}");
    for slice in ["agents.slice", "agents-deep.slice"] {
        bench.log.skip()?;
        Unit::run(slice, &script)?.ends(0)?;
        bench
            .log
            .wait(&denial(bench).with("/profile", bench.profile.clone()))?;
    }
    // A unit of another slice is nobody's.
    Unit::run("others.slice", &format!("cat {twin} {secret}"))?.ends(0)?;

    // A slice that goes and comes again is an agent's again.
    let before = agent_in("agents.slice")?.context("the slice is an agent's")?;
    systemctl(&["stop", "agents.slice"])?;
    let go = bench.path("open/go");
    let waiting = format!(
        "until test -e {}; do sleep 0.1; done; {script}",
        go.display()
    );
    let unit = Unit::run("agents.slice", &waiting)?;
    wait_until("the new slice is an agent's", || {
        Ok(agent_in("agents.slice")?.is_some_and(|agent| agent != before))
    })?;
    fs::write(&go, "")?;
    unit.ends(0)?;

    // A unit file, as people write it, while no daemon runs.
    let unit = "/run/systemd/system/test-agent.service";
    fs::write(
        unit,
        format!("[Service]\nType=oneshot\nSlice=agents.slice\nExecStart=sh -c '{script}'\n"),
    )?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["start", "test-agent.service"]).context("with the daemon")?;
    systemctl(&["stop", UNIT])?;
    let alone = systemctl(&["start", "test-agent.service"]);
    fs::remove_file(unit)?;
    systemctl(&["daemon-reload"])?;
    drop(service);
    alone.context("without the daemon")
}
