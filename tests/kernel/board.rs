//! Where guests leave how their cases went and tests wait for it.

use std::{
    collections::HashMap,
    sync::{Condvar, Mutex, PoisonError},
};

/// Results by the name of the test; an error is the message.
#[derive(Debug, Default)]
pub struct Board {
    results: Mutex<HashMap<String, Result<(), String>>>,
    changed: Condvar,
    /// Names, and how long the guest took for them in milliseconds.
    took: Mutex<Vec<(u64, String)>>,
}

impl Board {
    /// Notes a result, unless there is one.
    pub fn post(&self, name: String, result: Result<(), String>) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.entry(name).or_insert(result);
        self.changed.notify_all();
    }

    /// Notes how long a case took in its guest, in milliseconds.
    pub fn took(&self, name: &str, millis: u64) {
        let mut took = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        took.push((millis, name.to_owned()));
    }

    /// The cases that took longest, one per line.
    pub fn slowest(&self, count: usize) -> String {
        let mut took = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        took.sort_unstable_by(|one, other| other.cmp(one));
        let lines = took.iter().take(count);
        lines
            .map(|(millis, name)| format!("{:>7.1} s {name}\n", *millis as f64 / 1000.0))
            .collect()
    }

    /// Waits for a result.
    pub fn wait(&self, name: &str) -> Result<(), String> {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(result) = results.get(name) {
                return result.clone();
            }
            results = self
                .changed
                .wait(results)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}
