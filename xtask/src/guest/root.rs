//! The root file systems of guests, made of Debian packages once and cached: a small one that lives in
//! memory, and one with systemd on a disk. Nothing of AgentGuard is in them; each run brings that along.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{BufReader, BufWriter, Read},
    path::{Component, Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use super::{
    archive::{KEYRING, Mirror},
    cache,
    cpio::Archive,
};
use crate::process;

/// What a guest runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, ValueEnum)]
pub enum Root {
    /// Busybox, Python, curl, dnsmasq and AppArmor's parser in memory: up in two or three seconds.
    #[default]
    Initramfs,
    /// Debian with systemd as process 1, on a disk whose changes are thrown away.
    Systemd,
}

/// What a root consists of.
#[derive(Debug, Clone)]
pub struct Image {
    /// The archive that every initramfs begins with.
    pub initramfs: PathBuf,
    /// The disk that holds the root, where there is one.
    pub disk: Option<PathBuf>,
}

/// `libgcc-s1` because programs written in Rust want it; all of Python's library, because attacks are written in it and
/// make system calls that it has no function for; AppArmor's parser, here and below, for what AgentGuard is
/// compared with.
const SMALL: &str = "libc6,libgcc-s1,busybox-static,python3,curl,dnsmasq-base,apparmor";
/// The third line is for what agents do all day, and for a load that is nobody's idea of ordinary.
const SYSTEMD: &str = "systemd,systemd-sysv,dbus,busybox-static,python3-minimal,curl,git,iproute2,procps,\
                       sudo,libgcc-s1,ca-certificates,systemd-resolved,libnss-resolve,dnsmasq-base,\
                       python3-pip,npm,cargo,make,stress-ng,apparmor";

/// Parts of the packages that no test has a use for. Every byte is copied at every boot.
const PRUNED: [&str; 20] = [
    "etc/apparmor.d",
    "etc/apt",
    "etc/cron.daily",
    "etc/logrotate.d",
    "usr/bin/dpkg",
    "usr/bin/openssl",
    "usr/bin/perl",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/libdb-5.3.so",
    "usr/lib/x86_64-linux-gnu/libsqlite3",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "usr/lib/python3.11/idlelib",
    "usr/lib/python3.11/lib2to3",
    "usr/lib/python3.11/pydoc_data",
    "usr/lib/python3.11/unittest",
    "usr/sbin/dpkg-fsys-usrunmess",
    "usr/share",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg",
];

/// Directories that Debian has moved below `/usr`.
const MERGED: [&str; 5] = ["bin", "lib", "lib32", "lib64", "sbin"];

/// Changes what the systemd root does at start-up: no login prompts or timers beside the tests, the same
/// machine in every run, and the user that tests run agents as.
const PREPARE_SYSTEMD: &str = r#"set -eu
root=$1
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer getty@tty1.service motd-news.timer serial-getty@ttyS0.service \
    systemd-firstboot.service tmp.mount; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
echo guest >"$root/etc/hostname"
printf '127.0.0.1 localhost guest\n::1 localhost guest\n' >"$root/etc/hosts"
echo '/dev/nvme0n1 / ext4 defaults 0 0' >"$root/etc/fstab"
chroot "$root" useradd --uid 1000 --create-home --shell /bin/bash agent
rm -rf "$root/var/cache/apt" "$root/usr/share/doc" "$root/usr/share/locale" "$root/usr/share/man"
mkdir -p "$root/var/cache/apt/archives/partial"
"#;

impl Root {
    /// The images of this root, made now when they are not cached.
    ///
    /// # Errors
    /// When a package can't be had or an image can't be written.
    pub fn image(self) -> Result<Image> {
        match self {
            Self::Initramfs => Ok(Image {
                initramfs: small()?.join("root.cpio"),
                disk: None,
            }),
            Self::Systemd => Ok(Image {
                initramfs: small()?.join("stage.cpio"),
                disk: Some(systemd()?.join("root.ext4")),
            }),
        }
    }
}

/// The small root, and the even smaller archive from which the systemd root is mounted.
fn small() -> Result<PathBuf> {
    let mirror = Mirror::of_this_machine();
    let pruned = PRUNED.join(" ");
    let inputs = [
        mirror.suite.as_bytes(),
        SMALL.as_bytes(),
        pruned.as_bytes(),
        b"2",
    ];
    cache::directory("root-initramfs", &inputs, |target| {
        eprintln!(
            "guest: making the in-memory root from Debian {}",
            mirror.suite
        );
        let tar = target.join("root.tar");
        process::run_quietly(&mut debootstrap(&mirror, "extract", SMALL, &tar)?)?;
        let mut root = create(&target.join("root.cpio"))?;
        let mut stage = create(&target.join("stage.cpio"))?;
        pack(&tar, &mut root, &mut stage).context("cannot pack the in-memory root")?;
        for archive in [root, stage] {
            archive
                .finish()
                .and_then(|out| out.into_inner()?.sync_data())
                .context("cannot write the in-memory root")?;
        }
        fs::remove_file(&tar).with_context(|| format!("cannot remove {}", tar.display()))
    })
}

/// Copies the packages' files into the archive of the root, and those that mount another root into the
/// archive of the stage.
fn pack(
    tar: &Path,
    root: &mut Archive<BufWriter<File>>,
    stage: &mut Archive<BufWriter<File>>,
) -> Result<()> {
    for name in MERGED {
        for archive in [&mut *root, &mut *stage] {
            archive.symlink(Path::new(name), &Path::new("usr").join(name))?;
            archive.directory(&Path::new("usr").join(name), 0o755)?;
        }
    }
    let mut packages = tar::Archive::new(BufReader::new(File::open(tar)?));
    for entry in packages.entries()? {
        let mut entry = entry?;
        let path = merged(&entry.path()?);
        let name = path.to_str().unwrap_or_default();
        if path.as_os_str().is_empty() || PRUNED.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let header = entry.header();
        let (mode, size) = (header.mode()? & 0o7777, header.size()?);
        let kind = header.entry_type();
        let link = entry.link_name()?.map(|link| link.into_owned());
        match (kind, link) {
            (tar::EntryType::Directory, _) => root.directory(&path, mode)?,
            (tar::EntryType::Symlink, Some(link)) => root.symlink(&path, &link)?,
            // A name of a file that is in the archive already; a link says the same to its readers.
            (tar::EntryType::Link, Some(link)) => {
                root.symlink(&path, &Path::new("/").join(merged(&link)))?;
            }
            (tar::EntryType::Regular, _) if name == "usr/bin/busybox" => {
                let mut busybox = Vec::new();
                entry.read_to_end(&mut busybox)?;
                root.bytes(&path, mode, &busybox)?;
                stage.bytes(&path, mode, &busybox)?;
            }
            (tar::EntryType::Regular, _) => root.file(&path, mode, size, &mut entry)?,
            _ => {} // Device nodes: devtmpfs has them.
        }
    }
    Ok(())
}

/// The path in a root whose `/bin` and the like are links into `/usr`.
fn merged(path: &Path) -> PathBuf {
    let path: PathBuf = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    match path.components().next() {
        Some(Component::Normal(first)) if MERGED.iter().any(|name| first == OsStr::new(name)) => {
            Path::new("usr").join(path)
        }
        _ => path,
    }
}

/// The disk with systemd on it.
fn systemd() -> Result<PathBuf> {
    let mirror = Mirror::of_this_machine();
    let inputs = [
        mirror.suite.as_bytes(),
        SYSTEMD.as_bytes(),
        PREPARE_SYSTEMD.as_bytes(),
        PACK_DISK.as_bytes(),
    ];
    cache::directory("root-systemd", &inputs, |target| {
        eprintln!(
            "guest: making the systemd root from Debian {}; this takes a few minutes",
            mirror.suite
        );
        let hook = target.join("prepare.sh");
        fs::write(&hook, PREPARE_SYSTEMD)
            .with_context(|| format!("cannot write {}", hook.display()))?;
        let tar = target.join("root.tar");
        process::run_quietly(
            debootstrap(&mirror, "minbase", SYSTEMD, &tar)?
                .arg(format!("--customize-hook=sh '{}' \"$1\"", utf8(&hook)?)),
        )?;
        let disk = target.join("root.ext4");
        let tree = target.join("tree");
        process::run_quietly(
            as_root()
                .args(["sh", "-euc", PACK_DISK, "pack"])
                .args([&tar, &tree, &disk]),
        )?;
        for path in [&hook, &tar] {
            fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    })
}

/// The disk is sparse, so its size only bounds what a test may write.
const PACK_DISK: &str = r#"
mkdir "$2"
tar --extract --preserve-permissions --numeric-owner --exclude=./dev/* --file "$1" --directory "$2"
PATH=$PATH:/usr/sbin:/sbin mkfs.ext4 -q -F -m 0 -O ^has_journal -d "$2" "$3" 3G
rm -rf "$2"
"#;

/// A command that sees itself as root, so that it can set owners of files.
fn as_root() -> Command {
    if is_root() {
        return process::command("env");
    }
    let mut command = process::command("unshare");
    command.args(["--map-auto", "--map-root-user", "--"]);
    command
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    process::output(process::command("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

/// The command that writes a Debian of `packages` to the tar file `target`.
fn debootstrap(mirror: &Mirror, variant: &str, packages: &str, target: &Path) -> Result<Command> {
    let Mirror {
        suite,
        archive,
        security,
    } = mirror;
    let mut command = process::command("mmdebstrap");
    command
        .args(["--quiet", "--architectures=amd64"])
        .arg(format!("--variant={variant}"))
        .arg(format!("--include={packages}"))
        .args([suite, utf8(target)?])
        .arg(format!("deb [signed-by={KEYRING}] {archive} {suite} main"))
        .arg(format!(
            "deb [signed-by={KEYRING}] {security} {suite}-security main"
        ));
    Ok(command)
}

fn create(path: &Path) -> Result<Archive<BufWriter<File>>> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(Archive::new(BufWriter::with_capacity(1 << 20, file)))
}

fn utf8(path: &Path) -> Result<&str> {
    match path.to_str() {
        Some(path) => Ok(path),
        None => bail!(
            "{} is not UTF-8: build in another directory",
            path.display()
        ),
    }
}
