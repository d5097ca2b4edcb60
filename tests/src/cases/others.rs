//! What AgentGuard leaves alone: another security module's verdicts, and loads of every kind, are the same
//! without AgentGuard, beside it, and under a profile in whose way nothing stands.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{
    bench::Bench,
    daemon::Daemon,
    said::Said,
    scene::{Case, Root, Scene},
};

/// Audit mode: what no profile can allow (mounts, new namespaces) is judged like everything else and not denied.
const OPEN: &str = r#"
mode = "audit"

[default]
file = "allow"
exec = "allow"
connect = "allow"
listen = "allow"

[log]
allow = "none"
"#;

const LANDLOCK: &str = include_str!("../../others/landlock.sh");
const STRESS: &str = include_str!("../../others/stress.sh");

/// The name of the case that needs what `xtask` builds in `guest::selftests`.
pub const SELFTESTS: &str = "others::landlock_selftests";

/// Where the guest has them.
pub const SELFTESTS_FOLDER: &str = "/usr/lib/landlock-selftests";

pub fn cases() -> Vec<Case> {
    let case = |name, play| {
        Case::new(name, play)
            .policy(OPEN)
            .scene(Scene::OwnBoot {
                append: "",
                root: Root::Systemd,
            })
            .limit(300)
    };
    vec![case(SELFTESTS, landlock), case("others::stress_ng", stress)]
}

/// Of 6.12, whichever kernel they are played on: what is new to an older one fails there, the same way each time.
fn landlock(bench: &mut Bench) -> Result<()> {
    let passed = same_results(bench, LANDLOCK, "ok ", &OF_OWNERS)?;
    // KERNEL: 383 on 6.12. On 6.1 most of what came after the first two of Landlock's interfaces fails.
    ensure!(passed > 80, "only {passed} tests passed");
    Ok(())
}

fn stress(bench: &mut Bench) -> Result<()> {
    let ended_well = same_results(bench, STRESS, "", &[])?;
    ensure!(ended_well > 25, "only {ended_well} stressors were played");
    Ok(())
}

/// Of lines of tests that name others to be signalled by the kernel (F_SETOWN), which no profile allows, and of the
/// line that counts.
const OF_OWNERS: [&str; 3] = ["sigio_to_pgid_", "sigurg_socket", "# Totals:"];

/// What the script prints is the same in all three ways, but for what is `refused` to agents. Returns how many lines
/// begin with `good`.
fn same_results(bench: &mut Bench, script: &str, good: &str, refused: &[&str]) -> Result<usize> {
    bench.fresh()?;
    let path = bench.path("script.sh");
    fs::write(&path, script)?;
    let alone = Said::by_command(Command::new("sh").arg(&path))?.ends(0)?;
    let _daemon = Daemon::start()?;
    let beside = Said::by_command(Command::new("sh").arg(&path))?.ends(0)?;
    same(&alone, &beside, &[]).context("beside AgentGuard")?;
    // Not by `agentguard run`, whose no_new_privs would change what the tests may do.
    let cgroup = bench.cgroup()?;
    let name = bench.name();
    cgroup.tag(&bench.profile, &name)?;
    let procs = cgroup.path.join("cgroup.procs");
    let mut run = Command::new("sh");
    run.args(["-c", "echo 0 >$0 && exec sh $1"])
        .args([&procs, &path]);
    let labelled = Said::by_command(&mut run)?.ends(0)?;
    same(&alone, &labelled, refused).context("as an agent")?;
    Ok(alone
        .out
        .lines()
        .filter(|line| line.starts_with(good))
        .count())
}

fn same(one: &Said, other: &Said, but: &[&str]) -> Result<()> {
    let lines = |said: &Said| -> Vec<String> {
        let lines = said.out.lines().map(str::to_owned);
        lines
            .filter(|line| !but.iter().any(|part| line.contains(part)))
            .collect()
    };
    let (lines, others) = (lines(one), lines(other));
    let differing: Vec<String> = lines
        .iter()
        .zip(&others)
        .filter(|(one, other)| one != other)
        .map(|(one, other)| format!("{one:?}, now {other:?}"))
        .collect();
    ensure!(
        differing.is_empty() && lines.len() == others.len(),
        "{} differ:\n{}\n{}",
        differing.len(),
        differing.join("\n"),
        other.err
    );
    Ok(())
}
