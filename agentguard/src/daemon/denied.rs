//! What each agent was refused lately, for agents that ask why. In memory only, and only as much as somebody
//! reads: the log has everything, but it is everybody's, and may be long.

use std::{
    collections::VecDeque,
    io,
    num::NonZero,
    path::Path,
    sync::{Mutex, PoisonError},
};

use lru::LruCache;
use serde::Deserialize;
use serde_json::Value;

use crate::{api::types::Denial, event::Event, sink::log::lines::Latest};

/// Denials that are kept of one agent.
pub const KEPT: usize = 32;
/// Agents of which any are kept; the one that was refused something the longest ago goes first.
const AGENTS: NonZero<usize> = NonZero::new(128).expect("not zero");
/// Bytes at the end of the log that a new daemon looks through for what its predecessor knew.
const RECALLED_BYTES: usize = 4 << 20;

/// The latest denials by session: an agent's name may be another agent's tomorrow.
#[derive(Debug)]
pub struct Denied(Mutex<LruCache<String, VecDeque<Denial>>>);

impl Default for Denied {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(AGENTS)))
    }
}

/// A line of the log, as far as it is of use here.
#[derive(Deserialize)]
struct Line {
    time: String,
    session: String,
    #[serde(default)]
    profile: String,
    action: String,
    verdict: String,
    errno: Option<String>,
    #[serde(default)]
    killed: bool,
    rule: Option<String>,
    because: Option<String>,
    reason: Option<String>,
    object: Option<Value>,
    process: Option<Process>,
}

#[derive(Deserialize)]
struct Process {
    pid: u32,
}

impl Denied {
    /// Remembers the event if it is a denial.
    pub fn note(&self, event: &Event) {
        // The errno is what the program was told; what was killed was told nothing.
        if event.errno.is_none() && !event.killed {
            return;
        }
        let (Some(session), Some(verdict)) = (&event.session, event.verdict) else {
            return;
        };
        let denial = Denial {
            time: event.time.clone(),
            profile: event.profile.clone().unwrap_or_default(),
            action: event.action.to_owned(),
            verdict: verdict.to_owned(),
            object: event
                .object
                .as_ref()
                .and_then(|object| serde_json::to_value(object).ok()),
            rule: event.rule.clone(),
            because: event.because.clone(),
            reason: event.reason.map(str::to_owned),
            pid: event.process.as_ref().map(|process| process.pid),
            count: 1,
        };
        self.add(session, denial);
    }

    /// Remembers what the end of the log says of the time before this daemon.
    pub fn recall(&self, log: &Path) -> io::Result<()> {
        let mut lines = Latest::of(log)?;
        let mut denials = Vec::new();
        let mut read_bytes = 0;
        while read_bytes < RECALLED_BYTES
            && let Some(line) = lines.next_line()?
        {
            read_bytes += line.len();
            if let Ok(line) = serde_json::from_slice::<Line>(&line)
                && (line.errno.is_some() || line.killed)
            {
                denials.push(line);
            }
        }
        for line in denials.into_iter().rev() {
            let denial = Denial {
                time: line.time,
                profile: line.profile,
                action: line.action,
                verdict: line.verdict,
                object: line.object,
                rule: line.rule,
                because: line.because,
                reason: line.reason,
                pid: line.process.map(|process| process.pid),
                count: 1,
            };
            self.add(&line.session, denial);
        }
        Ok(())
    }

    fn add(&self, session: &str, denial: Denial) {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let denials = sessions.get_or_insert_mut_ref(session, VecDeque::new);
        if let Some(last) = denials.back_mut()
            && is_again(last, &denial)
        {
            last.time = denial.time;
            last.pid = denial.pid;
            last.count += 1;
            return;
        }
        if denials.len() == KEPT {
            denials.pop_front();
        }
        denials.push_back(denial);
    }

    /// The last so many denials of a session, oldest first.
    pub fn of(&self, session: &str, last: usize) -> Vec<Denial> {
        let sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(denials) = sessions.peek(session) else {
            return Vec::new();
        };
        let skipped = denials.len().saturating_sub(last);
        denials.iter().skip(skipped).cloned().collect()
    }
}

/// Whether the second is the first once more, by whatever process.
fn is_again(first: &Denial, second: &Denial) -> bool {
    let same = |denial: &Denial| Denial {
        time: String::new(),
        pid: None,
        count: 0,
        ..denial.clone()
    };
    same(first) == same(second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Object, file};

    fn event(session: &str, path: &str, errno: Option<&'static str>) -> Event {
        let lifecycle = crate::event::Lifecycle::Stopped { enforcing: true };
        let mut event = Event::lifecycle(format!("time of {path}"), "file.open", lifecycle);
        event.session = Some(session.to_owned());
        event.verdict = Some("deny");
        event.errno = errno;
        event.rule = Some("secret".to_owned());
        event.object = Some(Object::File(file::Object::new(path.as_bytes(), &["read"])));
        event
    }

    fn paths(denied: &Denied, session: &str, last: usize) -> Vec<(String, u64)> {
        denied
            .of(session, last)
            .into_iter()
            .map(|denial| {
                let path = denial.object.expect("an object")["path"].clone();
                (path.as_str().expect("a path").to_owned(), denial.count)
            })
            .collect()
    }

    #[test]
    fn each_sees_its_own_denials_and_no_more_than_are_kept() {
        let denied = Denied::default();
        for number in 0..KEPT + 2 {
            denied.note(&event("a", &format!("/{number}"), Some("EPERM")));
        }
        denied.note(&event("b", "/b", Some("EPERM")));
        denied.note(&event("b", "/b", Some("EPERM")));
        denied.note(&event("b", "/allowed", None));
        assert_eq!(paths(&denied, "b", 9), [("/b".to_owned(), 2)]);
        assert_eq!(paths(&denied, "a", 1), [("/33".to_owned(), 1)]);
        let all = paths(&denied, "a", usize::MAX);
        assert_eq!((all.len(), all[0].0.as_str()), (KEPT, "/2"));
        assert!(denied.of("c", 9).is_empty());
    }

    #[test]
    fn the_log_of_an_earlier_daemon_is_recalled() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("events.jsonl");
        let denied = Denied::default();
        denied.recall(&log).expect("nothing to recall");
        let mut text = String::from("\"torn\":1}\n");
        for (number, errno) in [(1, Some("EPERM")), (2, None), (3, Some("EPERM"))] {
            text.push_str(&event("a", &format!("/{number}"), errno).line(number));
            text.push('\n');
        }
        std::fs::write(&log, text).expect("written");
        denied.recall(&log).expect("recalled");
        let live = Denied::default();
        live.note(&event("a", "/1", Some("EPERM")));
        live.note(&event("a", "/3", Some("EPERM")));
        assert_eq!(denied.of("a", 9), live.of("a", 9));
        assert_eq!(live.of("a", 9).len(), 2);
    }
}
