//! Builds the kernel object with the nightly compiler, for embedding into the binary.

use std::path::Path;

use anyhow::Context as _;
use aya_build::{Package, Toolchain};

/// The kernel side's compiler: its LLVM must not be newer than bpf-linker's.
const TOOLCHAIN: &str = "nightly";

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agentguard-ebpf");
    let root = root
        .to_str()
        .context("the path of agentguard-ebpf is not UTF-8")?;
    println!("cargo:rerun-if-changed=../agentguard-common/src");
    aya_build::build_ebpf(
        [Package {
            name: "agentguard-ebpf",
            root_dir: root,
            ..Package::default()
        }],
        Toolchain::Custom(TOOLCHAIN),
    )
    .context("cannot build the kernel programs; `cargo xtask setup` installs what that needs")
}
