//! What one run brings into its guest, as the last archive of the initramfs: AgentGuard, its profiles and
//! units, the scripts of `tests/init`, the files of `--copy` and the command.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, BufWriter, Seek as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use super::{Copy, Options, Root, cpio::Archive, kernel, root};
use crate::paths;

/// Where the runner's own files are in a guest.
const OWN: &str = "usr/lib/agentguard-guest";

/// The whole initramfs of one run, in a file that has no name and so can't be left behind.
///
/// # Errors
/// When a file of the run can't be read, or the initramfs can't be written.
pub fn initramfs(options: &Options, kernel: &kernel::Image, root: &root::Image) -> Result<File> {
    let mut file = tempfile::tempfile_in(paths::guest_cache())
        .context("cannot create a file for the initramfs")?;
    for part in [&root.initramfs, &kernel.modules] {
        File::open(part)
            .and_then(|mut part| io::copy(&mut part, &mut file))
            .with_context(|| format!("cannot copy {}", part.display()))?;
    }
    let archive = Archive::new(BufWriter::with_capacity(1 << 20, file));
    let mut file = payload(options, archive)?;
    file.rewind().context("cannot rewind the initramfs")?;
    Ok(file)
}

fn payload(options: &Options, mut archive: Archive<BufWriter<File>>) -> Result<File> {
    // The systemd root is not mounted yet when this is unpacked; its stage copies all of `payload` there.
    let base = match options.root {
        Root::Initramfs => Path::new(""),
        Root::Systemd => Path::new("payload"),
    };
    let scripts = paths::guest_init();
    let init = match options.root {
        Root::Initramfs => "init.sh",
        Root::Systemd => "stage.sh",
    };
    add(&mut archive, Path::new("init"), &scripts.join(init))?;

    let own = base.join(OWN);
    for script in ["prepare.sh", "run.sh"] {
        add(&mut archive, &own.join(script), &scripts.join(script))?;
    }
    let command = command_script(&options.command);
    archive
        .bytes(&own.join("command.sh"), 0o755, &command)
        .context("cannot pack the command")?;

    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => paths::binary(false),
    };
    ensure!(
        binary.is_file(),
        "{} is not here: run `cargo xtask build` first",
        binary.display()
    );
    add(&mut archive, &base.join("usr/bin/agentguard"), &binary)?;
    add_all(
        &mut archive,
        &base.join("etc/agentguard/policies"),
        &paths::root().join("policies"),
        &["toml"],
    )?;
    if options.root == Root::Systemd {
        let units = base.join("usr/lib/systemd/system");
        add_all(
            &mut archive,
            &units,
            &paths::root().join("agentguard/systemd"),
            &["service", "slice", "socket", "target", "timer"],
        )?;
        let unit = Path::new("agentguard-guest.service");
        add(&mut archive, &units.join(unit), &scripts.join(unit))?;
        archive
            .symlink(
                &units.join("multi-user.target.wants").join(unit),
                &Path::new("..").join(unit),
            )
            .context("cannot pack the unit of the command")?;
    }
    copies(&mut archive, &base.join(OWN), &options.copies)?;
    archive
        .finish()
        .and_then(|out| Ok(out.into_inner()?))
        .context("cannot write the initramfs")
}

/// Packs the files of `--copy`, and a script that puts them in their places once everything is mounted.
fn copies(archive: &mut Archive<BufWriter<File>>, own: &Path, copies: &[Copy]) -> Result<()> {
    let mut script = b"# Puts the files of this run in their places.\n".to_vec();
    for (number, copy) in copies.iter().enumerate() {
        ensure!(
            copy.guest.is_absolute(),
            "cannot copy to {} in the guest: the path must be absolute",
            copy.guest.display()
        );
        ensure!(
            copy.host.exists(),
            "cannot copy {} into the guest: it does not exist",
            copy.host.display()
        );
        let packed = PathBuf::from(format!("copies/{number}"));
        add(archive, &own.join(&packed), &copy.host)?;
        let source = quoted(Path::new("/").join(OWN).join(&packed).as_os_str());
        let target = quoted(copy.guest.as_os_str());
        for part in [&b"put "[..], &source, b" ", &target, b"\n"] {
            script.extend_from_slice(part);
        }
    }
    archive
        .bytes(&own.join("copies.sh"), 0o644, &script)
        .context("cannot pack the list of copies")
}

/// Adds the files of `directory` that end in one of `extensions`. A directory that is not there has none.
fn add_all(
    archive: &mut Archive<BufWriter<File>>,
    guest: &Path,
    directory: &Path,
    extensions: &[&str],
) -> Result<()> {
    archive
        .directory(guest, 0o755)
        .with_context(|| format!("cannot pack {}", guest.display()))?;
    let mut files: Vec<_> = match fs::read_dir(directory) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot list {}", directory.display()));
        }
    };
    files.sort();
    for file in files {
        let extension = file.extension().and_then(OsStr::to_str);
        if let (Some(name), Some(extension)) = (file.file_name(), extension)
            && extensions.contains(&extension)
        {
            add(archive, &guest.join(name), &file)?;
        }
    }
    Ok(())
}

fn add(archive: &mut Archive<BufWriter<File>>, guest: &Path, host: &Path) -> Result<()> {
    archive
        .tree(guest, host)
        .with_context(|| format!("cannot pack {} into the guest", host.display()))
}

/// A script that becomes the command, every byte of its arguments as given.
fn command_script(command: &[OsString]) -> Vec<u8> {
    let mut script = b"exec".to_vec();
    for word in command {
        script.push(b' ');
        script.extend(quoted(word));
    }
    script.push(b'\n');
    script
}

/// A word that the shell takes literally.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for &byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(br"'\''"),
            _ => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn words_reach_the_shell_literally() {
        let words = ["printf", "%s|", "a b", "it's", "$HOME", "", "\\n", "*"];
        let mut words: Vec<OsString> = words.iter().map(OsString::from).collect();
        words.push(OsString::from_vec(b"\xff\x81\n'".to_vec()));
        let output = std::process::Command::new("sh")
            .arg("-c")
            .arg(OsString::from_vec(command_script(&words)))
            .output()
            .expect("a shell");
        assert_eq!(output.stdout, b"a b|it's|$HOME||\\n|*|\xff\x81\n'|");
    }
}
