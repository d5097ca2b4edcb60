//! AgentGuard's userspace: the daemon, its local API, and everything the command line is made of.
//!
//! Only `loader`, `tables` and `ring` know of BPF objects; sinks see events, never maps.

pub mod api;
mod bpf;
pub mod cli;
pub mod exit;
pub mod loader;
pub mod policy;
