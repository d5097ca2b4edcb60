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
}

impl Board {
    /// Notes a result, unless there is one.
    pub fn post(&self, name: String, result: Result<(), String>) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.entry(name).or_insert(result);
        self.changed.notify_all();
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
