//! What rustup and cargo bring: the kernel side's compiler with the standard library's source, the linker
//! for it, and the test runner.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{packages, say};
use crate::{paths, process};

/// The kernel side's compiler. `agentguard/build.rs` names the same.
pub const NIGHTLY: &str = "nightly";

/// The core library's source, in a toolchain.
const LIBRARY: &str = "lib/rustlib/src/rust/library/core";

/// Newer ones want a newer LLVM than the distributions have.
const BPF_LINKER: &str = "0.13.0";

/// Installs what is missing.
///
/// # Errors
/// When rustup or cargo fails.
pub(super) fn ensure() -> Result<()> {
    ensure_nightly()?;
    ensure_linker()?;
    ensure_nextest()
}

fn ensure_nightly() -> Result<()> {
    let Some(toolchain) = toolchain(NIGHTLY) else {
        say("installing the nightly compiler with its library source");
        return process::run(rustup().args([
            "toolchain",
            "install",
            NIGHTLY,
            "--profile=minimal",
            "--component=rust-src,clippy",
        ]))
        .context("cannot install the kernel side's compiler");
    };
    if !toolchain.join(LIBRARY).is_dir() {
        say("adding the library source to the nightly compiler");
        process::run_quietly(
            rustup()
                .args(["component", "add", "rust-src"])
                .args(["--toolchain", NIGHTLY]),
        )
        .context("cannot install the library source that the kernel side is built from")?;
        let library = toolchain.join(LIBRARY);
        ensure!(
            library.is_dir(),
            "rustup says that rust-src is installed, but {} is not there; run\n  rustup component remove rust-src \
             --toolchain {NIGHTLY}\nand try again",
            library.display()
        );
    }
    Ok(())
}

fn ensure_linker() -> Result<()> {
    // Cargo's own record: asking the program for its version would cost every command a process.
    let record = fs::read_to_string(cargo_home().join(".crates.toml")).unwrap_or_default();
    let installed = record.contains(&format!("\"bpf-linker {BPF_LINKER} "));
    if installed && process::find("bpf-linker").is_some() {
        return Ok(());
    }
    say(&format!(
        "building bpf-linker {BPF_LINKER}; this takes a minute"
    ));
    let mut cargo = cargo_install("bpf-linker");
    if let Some(prefix) = packages::llvm_prefix() {
        cargo.env("LLVM_PREFIX", prefix);
    }
    process::run_quietly(cargo.args(["--version", BPF_LINKER, "--force"]).args([
        "--no-default-features",
        "--features",
        "llvm-22",
    ]))
    .context("cannot install the kernel side's linker")
}

fn ensure_nextest() -> Result<()> {
    if process::find("cargo-nextest").is_some() {
        return Ok(());
    }
    say("building cargo-nextest; this takes some minutes");
    process::run_quietly(&mut cargo_install("cargo-nextest"))
        .context("cannot install the test runner")
}

fn cargo_install(name: &str) -> Command {
    let mut cargo = process::command("cargo");
    // Away from the settings of this source tree.
    cargo
        .current_dir("/")
        .env_remove("CARGO_TARGET_DIR")
        .args(["install", "--locked", "--quiet", name]);
    cargo
}

fn rustup() -> Command {
    process::command("rustup")
}

/// The directory of an installed toolchain.
fn toolchain(name: &str) -> Option<PathBuf> {
    let toolchains = home("RUSTUP_HOME", ".rustup").join("toolchains");
    let matches = |path: &Path| {
        let file_name = path.file_name().and_then(|name| name.to_str());
        let rest = file_name.and_then(|file| file.strip_prefix(name));
        // `nightly-x86_64-unknown-linux-gnu`, not `nightly-2026-01-01-x86_64-unknown-linux-gnu`.
        rest.is_some_and(|rest| {
            rest.is_empty() || rest.starts_with(&format!("-{}", env::consts::ARCH))
        })
    };
    let entries = fs::read_dir(toolchains).ok()?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| matches(path))
}

fn cargo_home() -> PathBuf {
    home("CARGO_HOME", ".cargo")
}

fn home(variable: &str, default: &str) -> PathBuf {
    match env::var_os(variable) {
        Some(path) => path.into(),
        None => env::home_dir()
            .unwrap_or_else(|| paths::root().to_owned())
            .join(default),
    }
}
