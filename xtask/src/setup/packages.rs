//! Packages of the distribution: which are needed, how to see that they are there, what they are called.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::say;
use crate::{
    guest::{archive, root},
    process,
};

/// Where the LLVM that bpf-linker is built with lies, by distribution.
const LLVM_PREFIXES: [&str; 3] = ["/usr/lib/llvm-22", "/usr/lib64/llvm22", "/usr/lib/llvm22"];

/// What shows that a package is installed.
enum Proof {
    Program(&'static str),
    File(&'static str),
    /// A file below LLVM's prefix.
    Llvm(&'static str),
}

struct Package {
    proof: Proof,
    debian: &'static str,
    fedora: &'static str,
    arch: &'static str,
}

use Proof::{File, Llvm, Program};

const NEEDED: [Package; 12] = [
    package(Program("cc"), "gcc", "gcc", "gcc"),
    package(Program("c++"), "g++", "gcc-c++", "gcc"),
    // For bpf-linker.
    package(
        Llvm("include/llvm-c/Core.h"),
        "llvm-22-dev",
        "llvm22-devel",
        "llvm22",
    ),
    package(
        Llvm("lib/libPolly.a"),
        "libpolly-22-dev",
        "polly22-devel",
        "polly22",
    ),
    package(
        File("/usr/include/zstd.h"),
        "libzstd-dev",
        "libzstd-devel",
        "zstd",
    ),
    // For the guests.
    package(
        Program("qemu-system-x86_64"),
        "qemu-system-x86",
        "qemu-system-x86-core",
        "qemu-system-x86",
    ),
    package(
        Program("mmdebstrap"),
        "mmdebstrap",
        "mmdebstrap",
        "mmdebstrap",
    ),
    package(
        File(archive::KEYRING),
        "debian-archive-keyring",
        "debian-keyring",
        "debian-archive-keyring",
    ),
    package(Program("apt-get"), "apt", "apt", "apt"),
    package(Program("mkfs.ext4"), "e2fsprogs", "e2fsprogs", "e2fsprogs"),
    package(Program("xz"), "xz-utils", "xz", "xz"),
    package(Program("setpriv"), "util-linux", "util-linux", "util-linux"),
];

const fn package(
    proof: Proof,
    debian: &'static str,
    fedora: &'static str,
    arch: &'static str,
) -> Package {
    Package {
        proof,
        debian,
        fedora,
        arch,
    }
}

impl Package {
    fn is_installed(&self) -> bool {
        match self.proof {
            Program(name) => process::find(name).is_some(),
            File(path) => Path::new(path).exists(),
            Llvm(path) => llvm_prefix().is_some_and(|prefix| prefix.join(path).exists()),
        }
    }
}

/// Where LLVM's development files are.
pub(super) fn llvm_prefix() -> Option<PathBuf> {
    LLVM_PREFIXES
        .into_iter()
        .map(PathBuf::from)
        .find(|prefix| prefix.is_dir())
}

/// Installs the packages that are missing.
///
/// # Errors
/// When packages are missing and this is not a Debian or Ubuntu, or not run by root, or apt fails.
pub(super) fn ensure() -> Result<()> {
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|package| !package.is_installed())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !is_debian_like(&os) || !root::is_root() {
        bail!(instructions(&missing));
    }
    let names: Vec<_> = missing.iter().map(|package| package.debian).collect();
    say(&format!("installing {}", names.join(" ")));
    // A machine's lists may be absent or old. One broken source among many is no reason to give up.
    if let Err(error) = process::run_quietly(apt_get().arg("update")) {
        say(&format!("going on without fresh package lists: {error:#}"));
    }
    let install = || process::run_quietly(apt_get().arg("install").args(&names));
    if let Err(error) = install() {
        say(&format!("trying once more: {error:#}"));
        install().context(
            "cannot install the packages that building and testing need; LLVM 22 is in Debian's security suite \
             (debian-security bookworm-security main), in Debian 14, or at https://apt.llvm.org",
        )?;
    }
    match missing.iter().find(|package| !package.is_installed()) {
        Some(package) => bail!(
            "{} is installed, but what it was installed for is not where it is looked for",
            package.debian
        ),
        None => Ok(()),
    }
}

fn apt_get() -> Command {
    let mut command = process::command("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args([
        "--quiet",
        "--yes",
        "--no-install-recommends",
    ]);
    command
}

fn is_debian_like(os_release: &str) -> bool {
    ["ID", "ID_LIKE"]
        .into_iter()
        .filter_map(|field| archive::os_field(os_release, field))
        .flat_map(str::split_whitespace)
        .any(|name| matches!(name, "debian" | "ubuntu"))
}

fn instructions(missing: &[&Package]) -> String {
    let list = |name: fn(&Package) -> &'static str| {
        let mut names: Vec<_> = missing.iter().map(|package| name(package)).collect();
        names.dedup();
        names.join(" ")
    };
    format!(
        "packages are missing that only root can install, and only Debian and Ubuntu are done here; run\n  \
         on Debian or Ubuntu: sudo apt-get install {}\n  \
         on Fedora:           sudo dnf install {}\n  \
         on Arch:             sudo pacman -S {} (what it lacks is in the AUR)",
        list(|package| package.debian),
        list(|package| package.fedora),
        list(|package| package.arch),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_are_debian_like() {
        assert!(is_debian_like("ID=debian\n"));
        assert!(is_debian_like("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!is_debian_like("ID=fedora\n"));
        assert!(!is_debian_like(""));
    }

    #[test]
    fn instructions_name_packages_of_each_distribution() {
        let text = instructions(&[&NEEDED[0], &NEEDED[1], &NEEDED[2]]);
        for line in [
            "apt-get install gcc g++ llvm-22-dev",
            "dnf install gcc gcc-c++ llvm22-devel",
            "pacman -S gcc llvm22 ",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
