//! AgentGuard's userspace: the daemon, its local API, and everything the command line is made of.
//!
//! Only `loader`, `tables`, `ring` and `agents` (which attaches a program to each cgroup) know of BPF
//! objects; sinks see events, never maps. `policy` knows nothing of BPF or of the running kernel.

pub mod agents;
pub mod api;
mod bpf;
mod causes;
pub mod cgroup;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod enforcement;
pub mod event;
pub mod exit;
mod held;
pub mod loader;
pub mod names;
pub mod pins;
pub mod policy;
pub mod render;
pub mod resolver;
pub mod ring;
pub mod sink;
pub mod tables;
