//! What the daemon and the command line refuse to do, with a clear message and the documented exit code.

use std::{
    fs,
    os::unix::{net::UnixListener, process::CommandExt as _},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    bench::{Bench, CGROUPS, POLICIES, run, run_well},
    daemon::{Daemon, Started},
    scene::{Case, Scene},
};

pub fn cases() -> Vec<Case> {
    let own = |name, play| Case::new(name, play).scene(Scene::OwnDaemon).limit(150);
    vec![
        own("refusal::second_daemon", second_daemon),
        own("refusal::socket_in_use", socket_in_use),
        own("refusal::ordinary_user", ordinary_user),
        own("refusal::log_directory_not_writable", read_only_log),
        own("refusal::no_cgroup2", no_cgroup2),
        own("refusal::no_btf", no_btf),
        own("refusal::wrong_configuration", wrong_configuration),
        own("refusal::wrong_policy", wrong_policy),
        own("refusal::including_itself", including_itself),
        own("refusal::unknown_option", unknown_option),
    ]
}

/// The daemon refuses to start with this exit code, and what it says has these words in it.
fn refuses(command: &mut Command, code: i32, words: &[&str]) -> Result<()> {
    match Daemon::try_start_command(command)? {
        Started::Ready(_) => bail!("the daemon started"),
        Started::Refused(status, said) => {
            ensure!(status.code() == Some(code), "{status}, not {code}: {said}");
            for word in words {
                ensure!(said.contains(word), "doesn't say `{word}`: {said}");
            }
            Ok(())
        }
    }
}

fn daemon_with(arguments: &[&str]) -> Command {
    let mut command = Command::new("agentguard");
    command.arg("daemon").args(arguments);
    command
}

/// What `agentguard doctor` must find wrong.
fn doctor_finds(word: &str) -> Result<()> {
    let output = run("agentguard", &["doctor"])?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(said.contains(word), "doesn't say `{word}`: {said}");
    let output = run("agentguard", &["doctor", "--json"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    serde_json::from_slice::<serde_json::Value>(&output.stdout).context("doctor --json")?;
    Ok(())
}

fn second_daemon(_: &mut Bench) -> Result<()> {
    let first = Daemon::start()?;
    refuses(&mut daemon_with(&[]), 12, &["another daemon"])?;
    // The first is none the worse for it.
    run_well("agentguard", &["status"])?;
    run_well("agentguard", &["doctor"])?;
    first.stop()
}

fn socket_in_use(_: &mut Bench) -> Result<()> {
    let path = "/run/test-in-use.sock";
    let _listener = UnixListener::bind(path)?;
    let result = refuses(&mut daemon_with(&["--socket", path]), 12, &[path, "in use"]);
    fs::remove_file(path)?;
    result
}

fn ordinary_user(_: &mut Bench) -> Result<()> {
    refuses(daemon_with(&[]).uid(1000).gid(1000), 3, &["root"])?;
    for (arguments, code) in [
        (&["run", "--profile", "observe", "--", "true"][..], 125),
        (&["unload"], 3),
    ] {
        let output = Command::new("agentguard")
            .args(arguments)
            .uid(1000)
            .gid(1000)
            .output()?;
        ensure!(
            output.status.code() == Some(code),
            "{arguments:?}: {output:?}"
        );
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains("root"), "{arguments:?}: {said}");
    }
    Ok(())
}

/// A mount that goes with its guard.
struct Mounted(&'static str);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run_well("umount", &["-l", self.0]);
    }
}

fn read_only_log(_: &mut Bench) -> Result<()> {
    let place = "/run/test-read-only";
    fs::create_dir_all(place)?;
    run_well("mount", &["-t", "tmpfs", "-o", "ro", "none", place])?;
    let _mounted = Mounted(place);
    let mut command = daemon_with(&["--log-dir", place]);
    refuses(&mut command, 13, &[place])?;
    // A folder that is a file.
    let file = "/run/test-file";
    fs::write(file, "")?;
    refuses(&mut daemon_with(&["--log-dir", file]), 13, &[file])
}

fn no_cgroup2(_: &mut Bench) -> Result<()> {
    crate::daemon::unload()?;
    run_well("umount", &["-l", CGROUPS])?;
    let result =
        refuses(&mut daemon_with(&[]), 6, &["cgroup"]).and_then(|()| doctor_finds("cgroup"));
    run_well(
        "mount",
        &["-t", "cgroup2", "-o", "nsdelegate", "cgroup2", CGROUPS],
    )?;
    result?;
    run_well("agentguard", &["doctor"]).map(drop)
}

fn no_btf(_: &mut Bench) -> Result<()> {
    crate::daemon::unload()?;
    run_well("mount", &["-t", "tmpfs", "none", "/sys/kernel/btf"])?;
    let _mounted = Mounted("/sys/kernel/btf");
    refuses(&mut daemon_with(&[]), 5, &["BTF"])?;
    doctor_finds("BTF")
}

fn wrong_configuration(_: &mut Bench) -> Result<()> {
    let file = "/run/test-config.toml";
    for (text, word) in [
        ("colour = 1\n", "colour"),
        ("socket = \"relative\"\n", "relative"),
        ("this is not TOML", "test-config"),
    ] {
        fs::write(file, text)?;
        refuses(&mut daemon_with(&["--config", file]), 14, &[file, word])?;
    }
    fs::remove_file(file)?;
    refuses(&mut daemon_with(&["--config", file]), 14, &[file])
}

/// A folder with one policy.
fn policies(name: &str, text: &str) -> Result<String> {
    let folder = format!("/run/test-policies-{name}");
    fs::create_dir_all(&folder)?;
    fs::write(Path::new(&folder).join(format!("{name}.toml")), text)?;
    Ok(folder)
}

fn wrong_policy(_: &mut Bench) -> Result<()> {
    crate::daemon::unload()?;
    let text = "version = 1\n[default]\nfile = \"allow\"\n\n[[deny]]\nfile = \"relative\"\n";
    let folder = policies("wrong", text)?;
    let mut command = daemon_with(&["--policies", &folder]);
    refuses(&mut command, 15, &["wrong.toml", "relative"])?;
    let output = run(
        "agentguard",
        &["policy", "check", &format!("{folder}/wrong.toml")],
    )?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        said.contains("wrong.toml:6:8"),
        "no file, line and column: {said}"
    );
    // Nothing is left behind that would hold anybody.
    crate::daemon::unload()
}

fn including_itself(_: &mut Bench) -> Result<()> {
    let text = "version = 1\ninclude = [\"self\"]\n[default]\nfile = \"allow\"\n";
    let folder = policies("self", text)?;
    let output = run(
        "agentguard",
        &["policy", "check", &format!("{folder}/self.toml")],
    )?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("include"), "{said}");
    for shipped in ["baseline", "coding", "readonly", "offline", "observe"] {
        let file = format!("{POLICIES}/{shipped}.toml");
        run_well("agentguard", &["policy", "check", &file])?;
        run_well("agentguard", &["policy", "test", &file])?;
    }
    Ok(())
}

fn unknown_option(_: &mut Bench) -> Result<()> {
    refuses(&mut daemon_with(&["--colour"]), 2, &["--colour"])
}
