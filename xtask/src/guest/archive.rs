//! Where Debian packages for guests come from: the mirror this machine uses, read through an apt state of
//! our own below `target/guest`, so that the machine's own package sources are never changed.

use std::{fs, path::Path, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use super::cache;
use crate::{paths, process};

/// Keys of Debian's archive, in a place that Debian and Ubuntu agree on.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The release that guests take when the host is not a Debian. Its C library is recent enough for programs
/// built on any distribution of today.
const DEFAULT_SUITE: &str = "trixie";

/// Debian's archive as this machine reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The release that guests are made of: that of the host when it is a Debian, so that programs built
    /// on the host find their C library.
    pub suite: String,
    /// Address of the archive.
    pub archive: String,
    /// Address of the archive of security updates.
    pub security: String,
}

impl Mirror {
    /// The mirror of a Debian host; Debian's own for other hosts.
    pub fn of_this_machine() -> Self {
        let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
        Self::from_files(&os, &source_files())
    }

    fn from_files(os_release: &str, sources: &[String]) -> Self {
        let mut mirror = Self {
            suite: DEFAULT_SUITE.to_owned(),
            archive: "http://deb.debian.org/debian".to_owned(),
            security: "http://deb.debian.org/debian-security".to_owned(),
        };
        let codename = os_field(os_release, "VERSION_CODENAME");
        if let (Some("debian"), Some(codename)) = (os_field(os_release, "ID"), codename) {
            mirror.suite = codename.to_owned();
            let known: Vec<_> = sources.iter().flat_map(|file| addresses(file)).collect();
            let find = |wanted: &str| {
                let found = known.iter().find(|(_, suite)| suite == wanted);
                found.map(|(address, _)| address.clone())
            };
            if let Some(address) = find(codename) {
                mirror.archive = address;
            }
            if let Some(address) = find(&format!("{codename}-security")) {
                mirror.security = address;
            }
        }
        mirror
    }
}

/// One field of os-release, without its quotes.
pub fn os_field<'a>(os_release: &'a str, name: &str) -> Option<&'a str> {
    os_release.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix('=')?;
        Some(value.trim_matches('"'))
    })
}

/// An apt whose state is below `target/guest/apt` and that knows the archives guests are made from.
pub struct Apt {
    directory: PathBuf,
}

impl Apt {
    /// Fetches the package lists. The caller holds the lock `apt`.
    ///
    /// # Errors
    /// When the state can't be written or the archive can't be reached.
    pub fn updated(mirror: &Mirror) -> Result<Self> {
        let directory = paths::guest_cache().join("apt");
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(part))
                .with_context(|| format!("cannot create {part} in {}", directory.display()))?;
        }
        fs::write(directory.join("status"), "").context("cannot write apt's status file")?;
        // KERNEL: bookworm has 6.1 and 6.12, the backports to trixie have 6.18.
        let Mirror {
            archive, security, ..
        } = mirror;
        let sources = format!(
            "deb [signed-by={KEYRING}] {archive} bookworm main\n\
             deb [signed-by={KEYRING}] {security} bookworm-security main\n\
             deb [signed-by={KEYRING}] {archive} trixie-backports main\n"
        );
        fs::write(directory.join("sources.list"), sources)
            .context("cannot write apt's list of sources")?;
        let apt = Self { directory };
        process::run_quietly(apt.command("apt-get").args(["--quiet", "update"]))
            .with_context(|| format!("cannot read the package lists of {archive}"))?;
        Ok(apt)
    }

    /// Names of all packages that start with `prefix` and end with `suffix`.
    ///
    /// # Errors
    /// When apt-cache fails.
    pub fn names(&self, prefix: &str, suffix: &str) -> Result<Vec<String>> {
        let all = process::output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        let wanted = |name: &&str| name.starts_with(prefix) && name.ends_with(suffix);
        Ok(all.lines().filter(wanted).map(str::to_owned).collect())
    }

    /// Downloads `package` and unpacks it, without its scripts, into `target`.
    ///
    /// # Errors
    /// When the package can't be downloaded or unpacked.
    pub fn unpack(&self, package: &str, target: &Path) -> Result<()> {
        let downloads = self.directory.join("download");
        cache::remove(&downloads)?;
        fs::create_dir_all(&downloads)
            .with_context(|| format!("cannot create {}", downloads.display()))?;
        process::run_quietly(
            self.command("apt-get")
                .current_dir(&downloads)
                .args(["--quiet", "download", package]),
        )?;
        let deb = fs::read_dir(&downloads)
            .ok()
            .and_then(|mut files| files.find_map(Result::ok));
        let Some(deb) = deb else {
            bail!("apt-get download {package} left no file");
        };
        process::run_quietly(
            process::command("dpkg-deb")
                .arg("--extract")
                .args([&deb.path(), target]),
        )?;
        cache::remove(&downloads)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = process::command(program);
        let path = |name: &str| self.directory.join(name).display().to_string();
        for option in [
            format!("Dir::Etc::sourcelist={}", path("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={}", path("lists")),
            format!("Dir::State::status={}", path("status")),
            format!("Dir::Cache={}", path("cache")),
            "Acquire::Languages=none".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            // A build tree is often closed to the user that apt would take for downloads.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }
}

/// The machine's lists of package sources, as text.
fn source_files() -> Vec<String> {
    let parts = fs::read_dir("/etc/apt/sources.list.d");
    let mut files: Vec<_> = parts
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files.insert(0, PathBuf::from("/etc/apt/sources.list"));
    files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .collect()
}

/// The (address, suite) pairs of binary packages in a list of sources, in either of apt's two formats.
fn addresses(sources: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for stanza in sources.split("\n\n") {
        let (mut uris, mut suites) = (Vec::new(), Vec::new());
        for line in stanza.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("deb ") {
                let rest = match rest.trim_start().strip_prefix('[') {
                    Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
                    None => rest,
                };
                let mut words = rest.split_whitespace();
                if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
                    found.push((uri.to_owned(), suite.to_owned()));
                }
            } else if let Some(value) = line.strip_prefix("URIs:") {
                uris.extend(value.split_whitespace());
            } else if let Some(value) = line.strip_prefix("Suites:") {
                suites.extend(value.split_whitespace());
            }
        }
        for uri in uris {
            found.extend(
                suites
                    .iter()
                    .map(|suite| (uri.to_owned(), (*suite).to_owned())),
            );
        }
    }
    found.retain(|(uri, _)| !uri.starts_with("cdrom:"));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOKWORM: &str = "ID=debian\nVERSION_CODENAME=bookworm\n";

    #[test]
    fn reads_the_field_format() {
        let sources = "Types: deb\n# a remark\nURIs: http://mirror.example/debian\n\
                       Suites: bookworm bookworm-updates\nComponents: main\n\n\
                       Types: deb\nURIs: http://mirror.example/sec\nSuites: bookworm-security\n";
        let mirror = Mirror::from_files(BOOKWORM, &[sources.to_owned()]);
        assert_eq!(mirror.suite, "bookworm");
        assert_eq!(mirror.archive, "http://mirror.example/debian");
        assert_eq!(mirror.security, "http://mirror.example/sec");
    }

    #[test]
    fn reads_the_line_format() {
        let sources = "# deb http://old.example/debian bookworm main\n\
                       deb cdrom:[Debian] bookworm main\n\
                       deb [arch=amd64 signed-by=/k] http://mirror.example/debian bookworm main\n";
        let mirror = Mirror::from_files(BOOKWORM, &[sources.to_owned()]);
        assert_eq!(mirror.archive, "http://mirror.example/debian");
        assert_eq!(mirror.security, "http://deb.debian.org/debian-security");
    }

    #[test]
    fn other_distributions_use_the_archive_itself() {
        let sources = "deb http://mirror.example/ubuntu noble main\n".to_owned();
        let mirror = Mirror::from_files("ID=ubuntu\nVERSION_CODENAME=noble\n", &[sources]);
        assert_eq!(mirror.suite, DEFAULT_SUITE);
        assert_eq!(mirror.archive, "http://deb.debian.org/debian");
    }
}
