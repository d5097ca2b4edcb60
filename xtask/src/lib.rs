//! What a developer of AgentGuard does, as a library: the `xtask` binary is its command line, and the
//! real-kernel tests boot their guests through [`guest`].

pub mod bench;
pub mod build;
pub mod checks;
pub mod demo;
pub mod guest;
pub mod paths;
pub mod process;
pub mod setup;
