//! The few kernel modules a guest may use, with what they depend on, packed as an initramfs archive. Only
//! names are read from the modules; nothing here loads one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    cache,
    cpio::Archive,
    kernel::{self, Kernel},
};
use crate::process;

/// What guests may load. A kernel that has one of them built in is fine too.
const WANTED: [&str; 20] = [
    // KERNEL: the runner's own channel; built into 6.12 and later.
    "virtio_pci",
    "virtio_console",
    // File systems.
    "binfmt_misc",
    "erofs",
    "fuse",
    "loop",
    "overlay",
    "squashfs",
    // Devices of networks.
    "dummy",
    "tun",
    "veth",
    // Families of sockets that an agent could try.
    "af_alg",
    "algif_hash",
    "algif_skcipher",
    "sctp",
    "sctp_diag",
    "vsock",
    "vsock_loopback",
    "nfnetlink",
    "udp_diag",
];

/// Packs the modules of the kernel unpacked in `directory`.
///
/// # Errors
/// When the package has no modules, one of them can't be read, or the archive can't be written.
pub(super) fn archive(kernel: Kernel, release: &str, directory: &Path) -> Result<PathBuf> {
    let inputs = [release.as_bytes(), &WANTED.join(" ").into_bytes(), b"1"];
    let packed = cache::directory(&format!("modules-{kernel}"), &inputs, |target| {
        let modules = kernel::module_directory(directory, release)
            .with_context(|| format!("kernel {release} has no modules directory"))?;
        let index = Index::read(&modules)?;
        let path = target.join("modules.cpio");
        let file =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let mut archive = Archive::new(BufWriter::new(file));
        index
            .pack(release, &mut archive)
            .and_then(|()| Ok(archive.finish()?.into_inner()?.sync_data()?))
            .with_context(|| format!("cannot pack the modules of {release}"))
    })?;
    Ok(packed.join("modules.cpio"))
}

/// Where each module of a kernel lies, by its name with underscores.
struct Index(BTreeMap<String, PathBuf>);

impl Index {
    fn read(directory: &Path) -> Result<Self> {
        let mut index = BTreeMap::new();
        for entry in walkdir::WalkDir::new(directory) {
            let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
            let name = entry.file_name().to_str().unwrap_or_default();
            if let Some((stem, "ko" | "ko.xz")) = name.split_once('.') {
                index.insert(stem.replace('-', "_"), entry.into_path());
            }
        }
        Ok(Self(index))
    }

    /// Writes the wanted modules and the two lists that modprobe reads.
    fn pack(&self, release: &str, archive: &mut Archive<BufWriter<File>>) -> Result<()> {
        let directory = Path::new("usr/lib/modules").join(release);
        let (mut dependencies, mut aliases) = (String::new(), String::new());
        let mut seen = BTreeSet::new();
        let mut open: Vec<String> = WANTED.iter().map(|name| (*name).to_owned()).collect();
        while let Some(name) = open.pop() {
            let Some(path) = self.0.get(&name) else {
                continue; // Built in.
            };
            if !seen.insert(name.clone()) {
                continue;
            }
            let module = decompressed(path)?;
            archive.bytes(&directory.join(format!("{name}.ko")), 0o644, &module)?;
            let needed: Vec<String> = fields(&module, "depends=")
                .iter()
                .flat_map(|list| list.split(','))
                .filter(|name| !name.is_empty())
                .map(|name| name.replace('-', "_"))
                .collect();
            for alias in fields(&module, "alias=") {
                aliases.push_str(&format!("alias {alias} {name}\n"));
            }
            dependencies.push_str(&format!("{name}.ko:{}\n", self.closure(&needed)?));
            open.extend(needed);
        }
        archive.bytes(
            &directory.join("modules.dep"),
            0o644,
            dependencies.as_bytes(),
        )?;
        archive.bytes(&directory.join("modules.alias"), 0o644, aliases.as_bytes())?;
        Ok(())
    }

    /// All modules below `needed`, as modules.dep lists them: what is needed first comes last.
    fn closure(&self, needed: &[String]) -> Result<String> {
        let mut order: Vec<String> = Vec::new();
        let mut open: Vec<String> = needed.iter().rev().cloned().collect();
        while let Some(name) = open.pop() {
            let Some(path) = self.0.get(&name) else {
                continue;
            };
            order.retain(|earlier| *earlier != name);
            order.push(name);
            let module = decompressed(path)?;
            for list in fields(&module, "depends=") {
                let names = list.split(',').filter(|name| !name.is_empty());
                open.extend(names.map(|name| name.replace('-', "_")));
            }
        }
        Ok(order.iter().map(|name| format!(" {name}.ko")).collect())
    }
}

fn decompressed(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    }
    let mut xz = process::command("xz");
    let output = xz
        .args(["--decompress", "--stdout"])
        .arg(path)
        .output()
        .context("cannot run xz")?;
    anyhow::ensure!(
        output.status.success(),
        "xz can't unpack {}: {}",
        path.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

/// Values of the `name=value` strings of a module's information section, found by their text: the names
/// looked for here occur nowhere else at the start of a string.
fn fields(module: &[u8], name: &str) -> Vec<String> {
    module
        .split(|byte| *byte == 0)
        .filter_map(|text| text.strip_prefix(name.as_bytes()))
        .filter_map(|value| std::str::from_utf8(value).ok())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name() {
        let module = b"\x7fELF\0license=GPL\0depends=virtio_ring,virtio\0alias=a*\0alias=b\0";
        assert_eq!(fields(module, "depends="), ["virtio_ring,virtio"]);
        assert_eq!(fields(module, "alias="), ["a*", "b"]);
        assert_eq!(fields(module, "name="), Vec::<String>::new());
    }
}
