//! What the kernel lost: the growth of its counters since it was last told. What was told is kept in
//! a file, so that a loss while no daemon ran is told once.

use std::{fs, path::PathBuf};

use agentguard_common::{
    Verdict,
    counter::{self, HOOKS, VERDICTS, WOULD_DENY},
};

use crate::{
    event::lifecycle::LossCount,
    ring::record::{hook_name, verdict_name},
};

/// What was told already.
#[derive(Debug)]
pub struct Losses {
    file: PathBuf,
    told: Vec<u64>,
}

impl Losses {
    /// Reads what was told; nothing when the file is gone.
    pub fn new(file: PathBuf) -> Self {
        let told = fs::read(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Self { file, told }
    }

    /// The losses that these counters show and that were not told yet.
    pub fn news(&self, counters: &[u64]) -> Vec<LossCount> {
        let mut news = Vec::new();
        for (index, (hook, verdict, count)) in lost(counters).enumerate() {
            let told = self.told.get(index).copied().unwrap_or(0);
            // Smaller than what was told: these are other maps.
            let fresh = if count < told { count } else { count - told };
            if fresh > 0 {
                news.push(LossCount {
                    action: None,
                    hook: Some(hook_name(hook).unwrap_or("unknown").to_owned()),
                    verdict: name(verdict).to_owned(),
                    count: fresh,
                });
            }
        }
        news
    }

    /// They are told now.
    pub fn told(&mut self, counters: &[u64]) {
        let now: Vec<u64> = lost(counters).map(|(_, _, count)| count).collect();
        if now != self.told {
            self.told = now;
            let written = serde_json::to_vec(&self.told)
                .map_err(std::io::Error::other)
                .and_then(|bytes| fs::write(&self.file, bytes));
            if let Err(error) = written {
                tracing::warn!("cannot write {}: {error}", self.file.display());
            }
        }
    }
}

/// Every counter of losses, with its hook and verdict.
fn lost(counters: &[u64]) -> impl Iterator<Item = (u32, u32, u64)> {
    each(counter::lost, counters)
}

/// Every counter of decisions, with its hook and verdict.
pub fn decided(counters: &[u64]) -> impl Iterator<Item = (u32, u32, u64)> {
    each(counter::decisions, counters)
}

/// The counters of losses that aren't zero.
pub fn losses(counters: &[u64]) -> impl Iterator<Item = (u32, u32, u64)> {
    lost(counters).filter(|(_, _, count)| *count > 0)
}

fn each(index: impl Fn(u8, u32) -> u32, counters: &[u64]) -> impl Iterator<Item = (u32, u32, u64)> {
    (0..HOOKS)
        .flat_map(|hook| (0..VERDICTS).map(move |verdict| (hook, verdict)))
        .map(move |(hook, verdict)| {
            let index = index(hook as u8, verdict) as usize;
            (hook, verdict, counters.get(index).copied().unwrap_or(0))
        })
}

/// The name of a counted verdict.
pub fn name(verdict: u32) -> &'static str {
    match Verdict::from_bits(verdict) {
        Some(verdict) => verdict_name(verdict),
        None if verdict == WOULD_DENY => "would-deny",
        None => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use agentguard_common::counter::{COUNTERS, Hook};

    use super::*;

    #[test]
    fn a_loss_is_told_once_also_after_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("told");
        let mut counters = vec![0; COUNTERS as usize];
        let index = counter::lost(Hook::FileOpen as u8, Verdict::Deny as u32) as usize;
        counters[index] = 3;
        let mut losses = Losses::new(file.clone());
        assert_eq!(
            losses.news(&counters),
            [LossCount {
                action: None,
                hook: Some("file_open".to_owned()),
                verdict: "deny".to_owned(),
                count: 3,
            }]
        );
        losses.told(&counters);
        assert!(losses.news(&counters).is_empty());
        let mut losses = Losses::new(file);
        assert!(losses.news(&counters).is_empty());
        counters[index] = 5;
        assert_eq!(losses.news(&counters)[0].count, 2);
        losses.told(&counters);
        // Other maps, after a reboot or an unload.
        counters[index] = 1;
        assert_eq!(losses.news(&counters)[0].count, 1);
    }
}
