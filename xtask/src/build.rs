//! `cargo xtask build`: the one binary, with the kernel object inside.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{paths, process};

/// Builds `agentguard` (its build script builds the kernel object) and returns where it lies.
///
/// # Errors
/// When cargo fails; it has said why on standard error.
pub fn build(debug: bool) -> Result<PathBuf> {
    process::run(&mut cargo(debug)).context("cannot build agentguard")?;
    Ok(paths::binary(debug))
}

/// Builds the release binary for a command whose standard error belongs to somebody else: cargo is heard
/// only when it fails, and a first build, which takes minutes, is announced.
///
/// # Errors
/// When cargo fails; the message holds what it said.
pub fn build_quietly() -> Result<PathBuf> {
    let binary = paths::binary(false);
    if !binary.exists() {
        eprintln!("build: building agentguard; this takes some minutes");
    }
    process::run_quietly(&mut cargo(false)).context("cannot build agentguard")?;
    Ok(binary)
}

fn cargo(debug: bool) -> Command {
    let mut cargo = process::command("cargo");
    cargo
        .current_dir(paths::root())
        .args(["build", "--package", "agentguard"]);
    if !debug {
        cargo.arg("--release");
    }
    cargo
}
