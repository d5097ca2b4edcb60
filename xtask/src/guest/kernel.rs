//! The kernels AgentGuard is held to, as Debian ships them: found in the archive, kept below
//! `target/guest/kernels`.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use super::{
    archive::{Apt, Mirror},
    cache, modules,
};
use crate::paths;

/// A kernel series of the support matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Kernel {
    /// The oldest supported kernel.
    #[value(name = "6.1")]
    V6_1,
    /// The long-term kernel in between.
    #[value(name = "6.12")]
    V6_12,
    /// The newest supported kernel.
    #[value(name = "6.18")]
    V6_18,
}

/// What booting one kernel takes.
#[derive(Debug, Clone)]
pub struct Image {
    /// As `uname -r` says it.
    pub release: String,
    /// The compressed kernel.
    pub vmlinuz: PathBuf,
    /// An initramfs archive with the modules that guests may use.
    pub modules: PathBuf,
}

const FLAVOUR: &str = "-cloud-amd64";

impl Kernel {
    /// All of the matrix, oldest first.
    pub const ALL: [Self; 3] = [Self::V6_1, Self::V6_12, Self::V6_18];

    /// The series as people write it.
    pub fn series(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V6_18 => "6.18",
        }
    }

    /// The kernel that [`fetch_missing`] has left for this series.
    ///
    /// # Errors
    /// When it is not there, or its modules can't be packed.
    pub fn image(self) -> Result<Image> {
        let directory = self.directory();
        let release = fs::read_to_string(directory.join("release")).with_context(|| {
            format!("kernel {self} is not here: run `cargo xtask setup` to download it")
        })?;
        let vmlinuz = directory.join(format!("boot/vmlinuz-{release}"));
        let modules = modules::archive(self, &release, &directory)?;
        Ok(Image {
            release,
            vmlinuz,
            modules,
        })
    }

    fn directory(self) -> PathBuf {
        paths::guest_cache().join("kernels").join(self.series())
    }

    fn is_here(self) -> bool {
        self.directory().join("release").exists()
    }

    /// Downloads the newest kernel of the series.
    fn fetch(self, apt: &Apt) -> Result<()> {
        let prefix = format!("linux-image-{self}.");
        let names = apt.names(&prefix, FLAVOUR)?;
        let Some(package) = newest(&names) else {
            bail!("the archive has no package {prefix}*{FLAVOUR}");
        };
        let release = package
            .strip_prefix("linux-image-")
            .expect("the prefix was asked for");
        eprintln!("setup: downloading kernel {release}");
        let directory = self.directory();
        let partial = directory.with_file_name(format!("{self}.partial"));
        cache::remove(&partial)?;
        fs::create_dir_all(&partial)
            .with_context(|| format!("cannot create {}", partial.display()))?;
        apt.unpack(package, &partial)
            .with_context(|| format!("cannot get {package}"))?;
        fs::write(partial.join("release"), release).context("cannot note the kernel's release")?;
        cache::remove(&directory)?;
        fs::rename(&partial, &directory)
            .with_context(|| format!("cannot rename {}", partial.display()))
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.series())
    }
}

/// Downloads those kernels of the matrix that are not here yet.
///
/// # Errors
/// When the archive can't be reached or has none of a series.
pub fn fetch_missing() -> Result<()> {
    if Kernel::ALL.iter().all(|kernel| kernel.is_here()) {
        return Ok(());
    }
    let _lock = cache::lock("apt")?;
    let missing: Vec<_> = Kernel::ALL
        .into_iter()
        .filter(|kernel| !kernel.is_here())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mirror = Mirror::of_this_machine();
    eprintln!("setup: reading the package lists of {}", mirror.archive);
    let apt = Apt::updated(&mirror)?;
    missing.iter().try_for_each(|kernel| kernel.fetch(&apt))
}

/// The name whose numbers are the highest: `6.1.0-56` is newer than `6.1.0-9`.
fn newest(names: &[String]) -> Option<&String> {
    names.iter().max_by_key(|name| numbers(name))
}

fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// The directory of modules in an unpacked kernel package: older packages have no `/usr`.
pub(super) fn module_directory(unpacked: &Path, release: &str) -> Option<PathBuf> {
    ["usr/lib/modules", "lib/modules"]
        .into_iter()
        .map(|directory| unpacked.join(directory).join(release))
        .find(|directory| directory.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_compares_numbers() {
        let names =
            ["6.1.0-9", "6.1.0-56", "6.1.0-49"].map(|v| format!("linux-image-{v}{FLAVOUR}"));
        assert_eq!(newest(&names), Some(&names[1]));
        let names = ["6.18.5+deb13", "6.18.15+deb13"].map(|v| format!("linux-image-{v}{FLAVOUR}"));
        assert_eq!(newest(&names), Some(&names[1]));
    }
}
