//! `cargo xtask test` and `cargo xtask ci`: every check in order, each named and timed. The first that fails
//! ends it.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{paths, process, setup::NIGHTLY};

/// One check: what it is called, and the cargo command it consists of.
struct Step {
    name: &'static str,
    toolchain: Option<&'static str>,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

const fn step(name: &'static str, arguments: &'static [&'static str]) -> Step {
    Step {
        name,
        toolchain: None,
        arguments,
        environment: &[],
    }
}

/// Quick ones first, the guests last. Tests are built as the binary that goes into the guests is: they share what it is
/// made of, and what plays the cases is emulated.
const STEPS: [Step; 7] = [
    step("format", &["fmt", "--all", "--check"]),
    step(
        "clippy, userspace",
        &[
            "clippy",
            "--workspace",
            "--exclude=agentguard-ebpf",
            "--all-targets",
            "--",
            "-Dwarnings",
        ],
    ),
    Step {
        name: "clippy, kernel side",
        toolchain: Some(NIGHTLY),
        arguments: &[
            "clippy",
            "--package=agentguard-ebpf",
            "--target=bpfel-unknown-none",
            "-Zbuild-std=core",
            "--release",
            "--target-dir=target/clippy-ebpf",
            "--",
            "-Dwarnings",
        ],
        environment: &[],
    },
    step(
        "tests, userspace",
        &[
            "nextest",
            "run",
            "--release",
            "--workspace",
            "--exclude=agentguard-ebpf",
            "-E",
            "not binary(kernel)",
        ],
    ),
    Step {
        name: "documentation",
        toolchain: None,
        arguments: &[
            "doc",
            "--workspace",
            "--exclude=agentguard-ebpf",
            "--no-deps",
            "--quiet",
        ],
        environment: &[("RUSTDOCFLAGS", "-Dwarnings")],
    },
    step(
        "figures, real kernels",
        &[
            "run",
            "--quiet",
            "--package=xtask",
            "--",
            "bench",
            "--check",
        ],
    ),
    step(
        "tests, real kernels",
        &[
            "test",
            "--release",
            "--package=agentguard-tests",
            "--test=kernel",
        ],
    ),
];

/// Plays the cases of one threat, or of all when `name` is empty.
///
/// # Errors
/// When a case fails, or there is no such threat.
pub fn attack(name: &str) -> Result<()> {
    let mut command = process::command("cargo");
    command
        .args([
            "test",
            "--release",
            "--package=agentguard-tests",
            "--test=kernel",
        ])
        .env("AGENTGUARD_TEST_THREAT", name)
        .current_dir(paths::root());
    process::run(&mut command)
}

/// Runs every check.
///
/// # Errors
/// When a check fails; its name is in the message, its output on the terminal.
pub fn run() -> Result<()> {
    let begin = Instant::now();
    let mut times: Vec<(&str, Duration)> = Vec::new();
    for step in &STEPS {
        eprintln!("── {}", step.name);
        let started = Instant::now();
        process::run(&mut step.command()).with_context(|| format!("{} failed", step.name))?;
        times.push((step.name, started.elapsed()));
    }
    eprintln!("── all passed");
    for (name, time) in times {
        eprintln!("{:>7.1} s  {name}", time.as_secs_f32());
    }
    eprintln!("{:>7.1} s  in all", begin.elapsed().as_secs_f32());
    Ok(())
}

impl Step {
    fn command(&self) -> Command {
        let mut cargo = process::command("cargo");
        cargo.current_dir(paths::root());
        if let Some(toolchain) = self.toolchain {
            cargo.arg(format!("+{toolchain}"));
        }
        cargo
            .args(self.arguments)
            .envs(self.environment.iter().copied());
        cargo
    }
}
