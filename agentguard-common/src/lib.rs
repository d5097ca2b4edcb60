//! The contract between AgentGuard's kernel programs and its userspace.
//!
//! Everything that both sides must agree on lives here and nowhere else: the records that travel
//! through the rings, the maps' keys and values, every limit, the kernel-offset table, the layout of
//! the automaton, and `decide`, the one function that turns a question into a verdict. The crate has
//! no dependencies and no `std`; what it shares with the kernel is integers and byte arrays only.
//!
//! What is *not* here: kernel pointers (`agentguard-ebpf`), maps as objects (both sides have their
//! own), text (`agentguard`).
#![no_std]

pub mod address;
pub mod approval;
pub mod automaton;
pub mod counter;
pub mod decide;
pub mod event;
pub mod identity;
pub mod label;
pub mod limits;
pub mod moved;
pub mod name;
pub mod offsets;
pub mod outcome;
pub mod profile;
pub mod seen;
pub mod system;

pub use decide::{Decision, Engine, Question, decide};
pub use outcome::{Outcome, Verdict};
