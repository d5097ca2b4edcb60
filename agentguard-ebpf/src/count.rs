//! Counting decisions, losses and failures. Never decides anything.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use agentguard_common::counter::{self, Hook, Site};
use aya_log_ebpf::warn;

use crate::maps::COUNTERS;

#[inline(always)]
fn add(index: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the element is this CPU's. The add is atomic because a program can be preempted by
        // another on the same CPU, and a loss that isn't counted would be a lie.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, 1) };
    }
}

/// A decision of `hook`; `verdict` is a [`Verdict`](agentguard_common::Verdict)'s number or
/// [`counter::WOULD_DENY`].
#[inline(always)]
pub fn decision(hook: Hook, verdict: u32) {
    add(counter::decisions(hook as u8, verdict));
}

/// A record that found no room in its ring.
#[inline(always)]
pub fn lost(hook: Hook, verdict: u32) {
    add(counter::lost(hook as u8, verdict));
}

/// A helper that failed.
#[inline(never)]
pub fn failure(site: Site) {
    add(counter::failures(site as u8));
    // The verifier cuts this out unless the loader sets the level.
    warn!((), "failure at site {}", site as u32);
}
