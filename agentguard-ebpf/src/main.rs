//! AgentGuard's kernel programs: thin entry points on LSM and cgroup hooks.
//!
//! Each entry finds out who acts (`subject`), puts the object into
//! the task's workspace (`object`), asks `agentguard_common::decide` (`verdict`), and leaves through
//! one exit that yields 0, -EPERM or (`approval`) -ERESTARTNOINTR and nothing else. Kernel structures are read in `kernel` alone.
#![no_std]
#![no_main]
#![allow(internal_features, reason = "BPF's atomic add has no stable name")]
#![feature(asm_experimental_arch, core_intrinsics)]

mod approval;
mod arguments;
mod count;
mod engine;
mod hooks;
mod hosts;
mod kernel;
mod maps;
mod names;
mod object;
mod own;
mod packet;
mod record;
mod resolver;
mod seen;
mod subject;
mod system;
mod verdict;

/// Helpers such as `bpf_d_path` and task storage are for programs under a GPL-compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // VERIFIER: never reached; nothing here indexes, divides or overflows.
    loop {}
}
