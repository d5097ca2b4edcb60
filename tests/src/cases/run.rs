//! `agentguard run`: it ends as its program does, and nothing runs without a label.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::judged::{POLICY, files};
use crate::{
    bench::Bench,
    daemon::Daemon,
    log::Wanted,
    remote::calls::open,
    said::Said,
    scene::{Case, Scene},
};

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(POLICY).prepare(files);
    vec![
        case("run::ends_as_its_program", run_ends_as_its_program),
        case("run::passes_streams_and_signals_on", run_passes_streams),
        case("run::that_fails_runs_nothing", run_that_fails),
        case("run::as_a_user", run_as_user),
        case("run::leaves_descriptors_behind", run_leaves_descriptors),
        case("run::without_a_daemon", run_without_daemon)
            .scene(Scene::OwnDaemon)
            .limit(300),
    ]
}

/// `agentguard run` of the case's profile.
fn run(bench: &mut Bench, command: &[&str]) -> Result<Said> {
    let (profile, name) = (bench.profile.clone(), bench.name());
    let mut arguments = vec!["run", "--profile", &profile, "--name", &name, "--"];
    arguments.extend(command);
    Said::by(&arguments)
}

fn run_ends_as_its_program(bench: &mut Bench) -> Result<()> {
    for code in [0, 1, 7, 125, 255] {
        run(bench, &["sh", "-c", &format!("exit {code}")])?.ends(code)?;
    }
    for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGSEGV] {
        run(bench, &["sh", "-c", &format!("kill -{signal} $$")])?.ends_by(signal)?;
    }
    // As a shell tells it.
    let profile = &bench.profile;
    let script = format!("agentguard run -p {profile} -- sh -c 'kill -9 $$'; echo $?");
    Said::by_shell(&script)?.ends(0)?.prints(&["137\n"])?;

    let denied = bench.path("denied/true").display().to_string();
    run(bench, &[&denied])?.ends(126)?.complains(&[
        &denied,
        "does not allow",
        "agentguard tail",
    ])?;
    bench
        .log
        .wait(&Wanted::deny("exec", "denied").path(&denied))?;
    let text = bench.path("open/key").display().to_string();
    run(bench, &[&text])?.ends(126)?.complains(&[&text])?;
    run(bench, &["/nothing/there"])?
        .ends(127)?
        .complains(&["/nothing/there", "no such command"])?;
    Ok(())
}

fn run_passes_streams(bench: &mut Bench) -> Result<()> {
    let said = run(bench, &["sh", "-c", "printf out; printf err >&2"])?.ends(0)?;
    ensure!(said.out == "out" && said.err == "err", "{}", said.all());
    let profile = &bench.profile;
    let script = format!("printf 'a b\\0c' | agentguard run --profile {profile} -- cat | od -c");
    Said::by_shell(&script)?
        .ends(0)?
        .prints(&["a       b  \\0   c"])?;
    // A signal that is sent to the command reaches the program, which is in the same process.
    let script = format!(
        "agentguard run --profile {profile} -- sh -c 'trap \"exit 9\" USR1; echo ready; while :; do read -t 1 x; done' >{0} & \
         until grep -q ready {0}; do usleep 10000; done; kill -USR1 $!; wait $!; echo $?",
        bench.path("open/said").display()
    );
    Said::by_shell(&script)?.ends(0)?.prints(&["9\n"])?;
    Ok(())
}

/// `arguments` end with this status, say these things, and the program is not run.
fn runs_nothing(bench: &Bench, arguments: &[&str], parts: &[&str]) -> Result<()> {
    let marker = bench.path("open/marker");
    let path = marker.display().to_string();
    let mut all = vec!["run"];
    all.extend(arguments);
    all.extend(["--", "touch", &path]);
    let said = Said::by(&all)?.ends(125)?.complains(parts)?;
    ensure!(!marker.exists(), "the program was run: {}", said.all());
    Ok(())
}

fn run_that_fails(bench: &mut Bench) -> Result<()> {
    let profile = &bench.profile;
    runs_nothing(
        bench,
        &["--profile", "no-such-profile"],
        &["no-such-profile", "installed profiles", profile, "coding"],
    )?;
    // The daemon's own are nobody's.
    runs_nothing(bench, &["--profile", ".canary"], &[".canary"])?;
    runs_nothing(
        bench,
        &["--profile", profile, "--user", "nobody-of-this-name"],
        &["nobody-of-this-name"],
    )?;
    runs_nothing(bench, &["--profile", profile, "--name", "a/b"], &["a/b"])?;
    runs_nothing(
        bench,
        &["--socket", "/run/no-such.sock", "--profile", profile],
        &["/run/no-such.sock", "agentguard.service"],
    )?;
    // What the command line can't mean is not a failure to run.
    Said::by(&["run", "--", "true"])?
        .ends(2)?
        .complains(&["--profile"])?;
    Said::by(&["run", "--profile", profile])?.ends(2)?;
    // An active agent's name is taken.
    let agent = bench.agent()?;
    let name = agent.agent.clone().context("the agent has no name")?;
    let profile = bench.profile.clone();
    runs_nothing(bench, &["--profile", &profile, "--name", &name], &[&name])?;
    Ok(())
}

fn run_as_user(bench: &mut Bench) -> Result<()> {
    let profile = bench.profile.clone();
    for user in ["agent", "1000"] {
        let script =
            "id -u; id -g; id -G; echo $HOME $USER $LOGNAME; grep NoNewPrivs /proc/self/status";
        let arguments = ["run", "-p", &profile, "-u", user, "--", "sh", "-c", script];
        Said::by(&arguments)?.ends(0)?.prints(&[
            "1000\n1000\n1000\n",
            "/home/agent agent agent\n",
            "NoNewPrivs:\t1\n",
        ])?;
    }
    // Who called sudo, where sudo says so.
    let mut command = Command::new("agentguard");
    command.args(["run", "--profile", &profile, "--", "id", "-u"]);
    let said = Said::by_command(command.env("SUDO_UID", "1000").env("SUDO_GID", "1000"))?;
    ensure!(
        said.ends(0)?.out == "1000\n",
        "it doesn't run as who called sudo"
    );
    let said = run(bench, &["id", "-u"])?.ends(0)?;
    ensure!(said.out == "0\n", "{}", said.all());
    // Being another user changes nothing of the profile.
    let key = bench.path("open/key");
    let mut agent = bench.user_agent()?;
    let secret = bench.path("secret/key");
    std::os::unix::fs::chown(&secret, Some(1000), Some(1000))?;
    std::os::unix::fs::chown(&key, Some(1000), Some(1000))?;
    let wanted = Wanted::deny("file.open", "secret")
        .path(&secret)
        .with("/process/uid", 1000);
    bench.denied(&mut agent, &open(&secret, libc::O_RDONLY), wanted)?;
    bench.allowed(&mut agent, &open(&key, libc::O_RDWR))?;
    Ok(())
}

fn run_leaves_descriptors(bench: &mut Bench) -> Result<()> {
    let (profile, secret) = (&bench.profile, bench.path("secret/key"));
    let script = format!(
        "exec 7<{}; agentguard run --profile {profile} -- sh -c 'cat <&7'",
        secret.display()
    );
    let said = Said::by_shell(&script)?;
    ensure!(
        !said.status.success() && said.out.is_empty(),
        "the program read from an inherited descriptor: {}",
        said.all()
    );
    Ok(())
}

fn run_without_daemon(bench: &mut Bench) -> Result<()> {
    bench.unloaded()?;
    let profile = bench.profile.clone();
    let arguments = ["--profile", profile.as_str()];
    let parts = ["cannot reach the daemon", "agentguard.service"];
    runs_nothing(bench, &arguments, &parts)?;
    Said::by(&["status"])?
        .ends(17)?
        .prints(&["NOT ENFORCING"])?;
    let daemon = Daemon::start()?;
    run(bench, &["true"])?.ends(0)?;
    daemon.kill()?;
    runs_nothing(bench, &arguments, &parts)?;
    Said::by(&["status"])?
        .ends(17)?
        .prints(&["THE KERNEL ENFORCES"])?;
    for arguments in [
        &["agents"][..],
        &["reload"],
        &["tag", "nothing", &profile],
        &["untag", "nothing"],
    ] {
        Said::by(arguments)?.ends(17)?.complains(&parts)?;
    }
    Ok(())
}
