//! Kernels that were booted in a way that nothing can be enforced on: the daemon says so and doesn't start.

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    bench::{Bench, run, run_well},
    daemon::{Daemon, Started},
    scene::{Case, Root, Scene},
};

/// The kernel runs no BPF programs for its LSM hooks.
const WITHOUT_BPF: Scene = Scene::OwnBoot {
    append: "lsm=landlock",
    root: Root::Memory,
};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("boot::without_bpf_in_the_lsm_list", without_bpf).scene(WITHOUT_BPF),
        Case::new("boot::with_a_list_that_lies", with_a_lie)
            .scene(WITHOUT_BPF)
            .limit(120),
    ]
}

fn refused() -> Result<(Option<i32>, String)> {
    match Daemon::try_start::<&str>(&[])? {
        Started::Ready(_) => bail!("the daemon says that it enforces"),
        Started::Refused(status, said) => Ok((status.code(), said)),
    }
}

fn without_bpf(_: &mut Bench) -> Result<()> {
    let (code, said) = refused()?;
    ensure!(code == Some(4), "{code:?}: {said}");
    ensure!(said.contains("lsm"), "{said}");
    let output = run("agentguard", &["doctor"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains("lsm=") && said.contains("bpf"), "{said}");
    Ok(())
}

/// The list says that BPF is there, programs load and attach, and none of them ever runs. Only somebody who
/// tries what must be denied finds out.
fn with_a_lie(_: &mut Bench) -> Result<()> {
    let list = "/sys/kernel/security/lsm";
    let lie = "/run/test-lsm";
    let truth = fs::read_to_string(list).context("the kernel's list")?;
    ensure!(!truth.contains("bpf"), "{truth}");
    fs::write(lie, format!("{},bpf\n", truth.trim_end()))?;
    run_well("mount", &["--bind", lie, list])?;
    let result = refused();
    run_well("umount", &[list])?;
    let (code, said) = result?;
    ensure!(code == Some(11), "{code:?}: {said}");
    ensure!(said.contains("canary"), "{said}");
    Ok(())
}
