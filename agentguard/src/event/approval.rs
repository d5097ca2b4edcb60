//! What events say of an approval: which request it is, and who answered it how.

use serde::Serialize;

/// The request that an event is about, or that decided about its action.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Approval {
    /// The number under which it could be answered; absent for an action that was never held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The action that was asked for, as it would be an event of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<&'static str>,
    /// Whether the process is stopped until somebody answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<bool>,
    /// When no answer becomes a no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Who answered: the user's name, or the number where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// By which way: `api`, `cli` or `notify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub how: Option<&'static str>,
    /// How far a yes goes: `once`, `for`, `rule` or `always`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<&'static str>,
    /// Of `for`: how long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// What whoever answered says about it, or why nobody had to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From the question to the answer, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// Processes that the answer was for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<usize>,
}
