//! `cargo xtask setup`: makes a machine with rustup on it able to build and test AgentGuard. Every other
//! command begins with it, so it asks files instead of programs, and says nothing when all is there.

mod packages;
mod rust;

use anyhow::Result;

use crate::guest::kernel;

pub use self::rust::NIGHTLY;

/// Installs what is missing.
///
/// # Errors
/// When something is missing that can't be installed here; the message says what to do.
pub fn ensure() -> Result<()> {
    packages::ensure()?;
    rust::ensure()?;
    kernel::fetch_missing()
}

/// One line on standard error about what is done.
fn say(what: &str) {
    eprintln!("setup: {what}");
}
