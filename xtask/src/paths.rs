//! Where things are in the source tree and below its target directory.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The root of the source tree.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies one level below the root of the source tree")
}

/// Cargo's target directory: `CARGO_TARGET_DIR` when that is set, `target/` in the source tree otherwise.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => root().join(dir),
        _ => root().join("target"),
    }
}

/// Kernels and images of the guests, all of it made from the archive and safe to delete.
pub fn guest_cache() -> PathBuf {
    target().join("guest")
}

/// The scripts that run inside a guest before and after the command.
pub fn guest_init() -> PathBuf {
    root().join("tests/init")
}

/// The one binary, as `cargo xtask build` leaves it.
pub fn binary(debug: bool) -> PathBuf {
    target()
        .join(if debug { "debug" } else { "release" })
        .join("agentguard")
}
