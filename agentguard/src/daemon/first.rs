//! `[log] allow = "first"`: which allowed actions were logged before. Bounded; what is forgotten is
//! logged once more.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use agentguard_common::Verdict;

use crate::ring::Record;

/// Actions that are remembered in each of two halves.
const REMEMBERED: usize = 32_768;

/// Remembers actions by a hash, in two halves of which the older is dropped when the newer is full.
#[derive(Debug, Default)]
pub struct First {
    newer: HashSet<u64>,
    older: HashSet<u64>,
}

impl First {
    /// Whether this allowed action of this process was seen before. Denials never were.
    pub fn seen(&mut self, record: &Record) -> bool {
        if record.verdict != Verdict::Allow || record.audit {
            return false;
        }
        let mut hasher = DefaultHasher::new();
        record.header.agent.hash(&mut hasher);
        record.process.pid.hash(&mut hasher);
        record.process.start_ns.hash(&mut hasher);
        (record.action as u8, record.header.verbs).hash(&mut hasher);
        record.object.hash(&mut hasher);
        let key = hasher.finish();
        if self.newer.contains(&key) || self.older.contains(&key) {
            return true;
        }
        if self.newer.len() >= REMEMBERED {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key);
        false
    }
}

#[cfg(test)]
mod tests {
    use agentguard_common::{
        Outcome,
        event::{Action, Reason},
    };

    use super::*;
    use crate::ring::record::tests::sample;

    fn record(path: &str, verdict: Verdict, pid: u32) -> Record {
        let outcome = Outcome::new(verdict, false, 0);
        let bytes = sample(path.as_bytes(), outcome, Reason::Rule, Action::FileOpen);
        let mut record = Record::decode(&bytes).expect("a record");
        record.process.pid = pid;
        record
    }

    #[test]
    fn once_per_process_and_object() {
        let mut first = First::default();
        assert!(!first.seen(&record("/a", Verdict::Allow, 1)));
        assert!(first.seen(&record("/a", Verdict::Allow, 1)));
        assert!(!first.seen(&record("/b", Verdict::Allow, 1)));
        assert!(!first.seen(&record("/a", Verdict::Allow, 2)));
    }

    #[test]
    fn denials_are_never_folded() {
        let mut first = First::default();
        for _ in 0..3 {
            assert!(!first.seen(&record("/a", Verdict::Deny, 1)));
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut first = First::default();
        for number in 0..3 * REMEMBERED {
            first.seen(&record("/a", Verdict::Allow, number as u32));
        }
        assert!(first.newer.len() + first.older.len() <= 2 * REMEMBERED);
    }
}
