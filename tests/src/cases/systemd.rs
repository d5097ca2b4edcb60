//! Under systemd: the service that is shipped, and units that are agents by their slice.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};

use crate::{
    bench::{Bench, POLICIES, run, run_well, status},
    log::Wanted,
    remote::{Outcome, Remote, calls::open},
    scene::{Case, Root, Scene},
};

const SYSTEMD: Scene = Scene::OwnBoot {
    append: "",
    root: Root::Systemd,
};

const SECRET: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret/**"
"#;

fn files(dir: &Path) -> Result<()> {
    for folder in ["secret", "open"] {
        fs::create_dir_all(dir.join(folder))?;
        fs::write(dir.join(folder).join("key"), "content\n")?;
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |name, play| {
        Case::new(name, play)
            .policy(SECRET)
            .prepare(files)
            .scene(SYSTEMD)
            .limit(240)
    };
    vec![
        case("systemd::service_lives", service),
        case("systemd::slice_is_under_its_profile", slice),
    ]
}

fn systemctl(arguments: &[&str]) -> Result<()> {
    run_well("systemctl", arguments).map(drop).with_context(|| {
        let shown = run("systemctl", &["status", "--no-pager", "agentguard.service"]);
        shown.map_or(String::new(), |output| {
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    })
}

fn service(bench: &mut Bench) -> Result<()> {
    systemctl(&["enable", "agentguard.service"])?;
    systemctl(&["start", "agentguard.service"])?;
    ensure!(status()?["enforcing"] == true);
    let mut agent = bench.agent()?;
    let denied = open(bench.path("secret/key"), libc::O_RDONLY);
    let twin = open(bench.path("open/key"), libc::O_RDONLY);
    let wanted = Wanted::deny("file.open", "secret");
    bench.denied(&mut agent, &denied, wanted.clone())?;

    systemctl(&["restart", "agentguard.service"])?;
    bench.denied(&mut agent, &denied, wanted.clone())?;
    systemctl(&["reload", "agentguard.service"])?;
    bench.denied(&mut agent, &denied, wanted.clone())?;

    // The service manager starts it again when it is killed; what was denied stays denied all the while.
    let pid = run_well(
        "systemctl",
        &[
            "show",
            "--property=MainPID",
            "--value",
            "agentguard.service",
        ],
    )?;
    let pid: u32 = pid.trim().parse()?;
    crate::daemon::signal(pid, libc::SIGKILL)?;
    crate::daemon::wait_until("the service is there again", || {
        ensure!(
            agent.act(&denied)? == Outcome::Failed(libc::EPERM),
            "allowed"
        );
        Ok(status().is_ok_and(|status| status["enforcing"] == true && status["pid"] != pid))
    })?;
    bench.denied(&mut agent, &denied, wanted.clone())?;

    systemctl(&["stop", "agentguard.service"])?;
    bench.fails(&mut agent, &denied, libc::EPERM)?;
    bench.allowed(&mut agent, &twin)?;
    systemctl(&["start", "agentguard.service"])?;
    bench.denied(&mut agent, &denied, wanted)?;
    agent.end()?;
    systemctl(&["stop", "agentguard.service"])
}

fn slice(bench: &mut Bench) -> Result<()> {
    let profile = &bench.profile.clone();
    let dir = bench.dir.clone();
    fs::write(
        "/etc/agentguard/agentguard.toml",
        format!("[slices]\nagents-test = \"{profile}\"\n"),
    )?;
    systemctl(&["start", "agentguard.service"])?;
    ensure!(Path::new(POLICIES).join(format!("{profile}.toml")).exists());
    let mut remote = Remote::outside()?;
    let denied = open(bench.path("secret/key"), libc::O_RDONLY);
    bench.allowed(&mut remote, &denied)?;
    let read = |folder: &str, unit: &str| {
        let path = dir.join(folder).join("key").display().to_string();
        let output = dir.join(unit).display().to_string();
        run(
            "systemd-run",
            &[
                "--wait",
                "--collect",
                "--quiet",
                "--slice=agents-test.slice",
                &format!("--property=StandardOutput=file:{output}"),
                "cat",
                &path,
            ],
        )
    };
    // A unit may be at work before the daemon has seen its slice; from then on none is.
    crate::daemon::wait_until("the slice is an agent", || {
        read("open", "first")?;
        let status = status()?;
        let agents = status["agents"].as_array().cloned().unwrap_or_default();
        Ok(agents.iter().any(|agent| {
            agent["profile"] == **profile && agent["cgroup"].to_string().contains("agents-test")
        }))
    })?;
    let output = read("secret", "second")?;
    ensure!(!output.status.success(), "{output:?}");
    let wanted = Wanted::deny("file.open", "secret").path(bench.path("secret/key"));
    bench.log.wait(&wanted)?;
    ensure!(
        fs::read_to_string(bench.path("second"))
            .unwrap_or_default()
            .is_empty()
    );
    let output = read("open", "third")?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(fs::read_to_string(bench.path("third"))? == "content\n");
    fs::remove_file("/etc/agentguard/agentguard.toml")?;
    systemctl(&["stop", "agentguard.service"])
}
