//! What happened, as the log says it: one value per line of `events.jsonl`. The names are the
//! interface (`v` is its version). Where events come from and go to is not known here.

use serde::Serialize;

pub mod approval;
pub mod clock;
pub mod enrich;
pub mod file;
pub mod lifecycle;
pub mod net;
pub mod process;
pub mod system;
pub mod task;
pub mod text;

pub use clock::Clock;
pub use lifecycle::{Lifecycle, Loss, Stage};
pub use process::{Process, Processes};

/// Version of the format.
pub const VERSION: u32 = 1;

/// One event, without its number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// RFC 3339, UTC, nanoseconds.
    pub time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    pub action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<&'static str>,
    /// In audit mode: the verdict that enforce mode would have given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would: Option<&'static str>,
    /// What the program was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<&'static str>,
    /// The process was killed before it could go on: the action was past the point where it could be refused.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub killed: bool,
    /// Id of the rule; `<profile>/default` when none matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The rule's own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// Why there was no rule to ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The request for an approval that this is about, or that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<Box<approval::Approval>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<Object>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
}

/// What was acted upon.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Object {
    File(file::Object),
    Net(net::Object),
    Lookup(net::Lookup),
    Unix(net::Unix),
    Task(task::Object),
    System(system::Object),
    Lifecycle(Lifecycle),
}

/// An event with its number, as it is written.
#[derive(Serialize)]
struct Line<'a> {
    v: u32,
    seq: u64,
    #[serde(flatten)]
    event: &'a Event,
}

impl Event {
    /// An event of AgentGuard itself.
    pub fn lifecycle(time: String, action: &'static str, object: Lifecycle) -> Self {
        Self {
            time,
            agent: None,
            session: None,
            profile: None,
            action,
            verdict: None,
            would: None,
            errno: None,
            killed: false,
            rule: None,
            because: None,
            reason: None,
            approval: None,
            object: Some(Object::Lifecycle(object)),
            process: None,
        }
    }

    /// The line of the log, without its end.
    pub fn line(&self, seq: u64) -> String {
        let line = Line {
            v: VERSION,
            seq,
            event: self,
        };
        // Every key is a string and no map has others, so this can't fail; an empty line would be
        // seen by whoever reads the log.
        serde_json::to_string(&line).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_is_written_with_the_names_of_the_format() {
        let event = Event {
            time: "2026-11-20T10:15:42.123456789Z".to_owned(),
            agent: Some("alice".to_owned()),
            session: Some("01JC".to_owned()),
            profile: Some("coding".to_owned()),
            action: "file.open",
            verdict: Some("deny"),
            would: None,
            errno: Some("EPERM"),
            killed: false,
            rule: Some("private-keys".to_owned()),
            because: Some("Private keys stay with people.".to_owned()),
            reason: None,
            approval: None,
            object: Some(Object::File(file::Object::new(
                b"/home/u/.ssh/id",
                &["read"],
            ))),
            process: None,
        };
        assert_eq!(
            event.line(4711),
            r#"{"v":1,"seq":4711,"time":"2026-11-20T10:15:42.123456789Z","agent":"alice","session":"01JC","profile":"coding","action":"file.open","verdict":"deny","errno":"EPERM","rule":"private-keys","because":"Private keys stay with people.","object":{"path":"/home/u/.ssh/id","access":["read"]}}"#
        );
    }
}
