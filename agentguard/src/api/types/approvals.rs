//! What travels over the API about requests that wait for an answer. No behaviour.

use serde::{Deserialize, Serialize};

/// Which requests are wanted: those that wait now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approvals {
    /// One JSON object per line, a [`Change`] each: first what waits now, then what comes.
    #[serde(default)]
    pub follow: bool,
}

/// A request that waits for an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Approval {
    /// Never given twice, also not by a later daemon.
    pub id: u64,
    /// Name of the agent.
    pub agent: String,
    /// Its session.
    pub session: String,
    /// Its profile.
    pub profile: String,
    /// As in events, such as `file.open`.
    pub action: String,
    /// As in events.
    pub object: serde_json::Value,
    /// Id of the rule that asks; `<profile>/default` when no rule matched.
    pub rule: String,
    /// The rule's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// Who asks; of several, the first. Absent when it could not be told any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<AskingProcess>,
    /// Processes that wait for this answer.
    pub waiting: usize,
    /// When it was asked: RFC 3339, UTC.
    pub asked: String,
    /// When it becomes a no.
    pub expires: String,
    /// The process is stopped and its call will be made again.
    pub held: bool,
    /// What the agent says about it. Not to be trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub justification: Option<String>,
}

/// The process that asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskingProcess {
    pub pid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    #[serde(default)]
    pub args: Vec<String>,
    /// Its working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    pub uid: u32,
    /// The user's name, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The processes above it, its parent first.
    #[serde(default)]
    pub ancestors: Vec<AskingAncestor>,
}

/// A process further up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskingAncestor {
    pub pid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
}

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decide {
    pub approve: bool,
    /// How far a yes goes. A no is always to this one request.
    #[serde(default)]
    pub scope: Scope,
    /// For the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// By which way the answer came.
    #[serde(default)]
    pub how: How,
}

/// How far a yes goes: `"once"`, `{"for": SECONDS}`, `"rule"` or `"always"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// This call, once.
    #[default]
    Once,
    /// This object, for the whole agent, for so many seconds.
    For(u64),
    /// Everything that the asking rule covers, until the agent ends.
    Rule,
    /// An exception in the profile's overlay, which is a file.
    Always,
}

/// The way that an answer came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    #[default]
    Api,
    Cli,
    Notify,
}

/// What came of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    pub id: u64,
    pub approved: bool,
    pub scope: Scope,
    /// What `always` changed, as a unified diff.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

/// What an agent says about its own request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Justify {
    pub text: String,
}

/// A line of `GET /v1/approvals?follow=true`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[expect(
    clippy::large_enum_variant,
    reason = "there are few at a time, and most are the large one"
)]
pub enum Change {
    /// It waits; told again when something about it changed.
    Asked(Approval),
    Answered(Answered),
    Gone(Gone),
}

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    pub id: u64,
    pub approved: bool,
    pub scope: Scope,
    /// Who answered.
    pub by: String,
}

/// A request that nobody needs to answer any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    pub id: u64,
    pub why: GoneWhy,
}

/// Why a request waits no longer without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GoneWhy {
    /// Nobody answered in time, which is a no.
    Expired,
    /// The processes ended.
    ProcessGone,
    /// The agent ended or was released.
    AgentGone,
    /// The policy was changed; the call is judged anew.
    Reloaded,
}
