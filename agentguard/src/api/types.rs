//! What travels over the API: every request and response body. No behaviour.
//!
//! | method and path | request | response |
//! | --- | --- | --- |
//! | `GET /v1/status` | | [`Status`] |
//! | `GET /v1/agents` | | list of [`Agent`] |
//! | `POST /v1/agents` | [`CreateAgent`] | [`Agent`] |
//! | `POST /v1/agents/{id}/verify` | | [`Verified`] |
//! | `POST /v1/tags` | [`Tag`] | [`Agent`] |
//! | `DELETE /v1/tags?cgroup=PATH` | [`Untag`] as query | [`Agent`] |
//! | `POST /v1/reload` | | [`Policy`], or [`Refusal`] with status 422 |
//! | `GET /v1/policy` | | [`Policy`] |
//! | `GET /v1/events` | [`Events`] as query | events, one JSON object per line |
//! | `GET /v1/approvals` | [`Approvals`] as query | list of [`Approval`], or a [`Change`] per line |
//! | `POST /v1/approvals/{id}` | [`Decide`] | [`Decided`] |
//!
//! On the agents' own socket, where a process is told about its own agent and nothing else:
//!
//! | method and path | request | response |
//! | --- | --- | --- |
//! | `GET /v1/why` | [`Why`] as query | [`Own`] |
//! | `POST /v1/approvals/{id}/justification` | [`Justify`] | [`Approval`] |
//!
//! Every other status than 200 comes with a [`Refusal`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::enforcement::Foundation;

mod approvals;
mod own;

pub use approvals::{
    Answered, Approval, Approvals, AskingAncestor, AskingProcess, Change, Decide, Decided, Gone,
    GoneWhy, How, Justify, Scope,
};
pub use own::{Denial, Own, Why};

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people: one line, lower case, what was wrong with which object.
    pub message: String,
    /// Diagnostics with source excerpts, of a refused policy; what is open, of a refused tag. Several lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnostics: Option<String>,
}

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// 403: the peer may not do this.
    Forbidden,
    /// 400: the request can't be understood.
    BadRequest,
    /// 404: no profile has this name.
    UnknownProfile,
    /// 404: no agent has this number.
    UnknownAgent,
    /// 404: there is no such cgroup, or it isn't one that can be tagged.
    UnknownCgroup,
    /// 409: the cgroup is tagged, or an active agent has this name.
    AlreadyTagged,
    /// 404: no request with this number waits.
    UnknownRequest,
    /// 409: the cgroup is not tagged.
    NotTagged,
    /// 409: the peer doesn't carry the agent's label.
    NotLabelled,
    /// 422: the policy is wrong; the old one stays in force.
    PolicyRefused,
    /// 503: every slot for agents, tags or profiles is taken.
    Full,
    /// 429: an agent asks too often.
    TooMany,
    /// 404: no such path.
    NotFound,
    /// 500: an operation failed; the message says which.
    Internal,
}

/// Asks for a new agent in a cgroup of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateAgent {
    /// Name of an installed profile.
    pub profile: String,
    /// Name of the agent: letters, digits, `-`, `_` and `.`, at most 64 bytes, not beginning with a
    /// `.`. Without one it is made up of the profile's name and the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Asks that an existing cgroup becomes an agent's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tag {
    /// Path of the cgroup's directory, absolute or below `/sys/fs/cgroup`.
    pub cgroup: PathBuf,
    /// Name of an installed profile.
    pub profile: String,
    /// As in [`CreateAgent`]; without one it is made up of the cgroup's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Processes that are in it already keep what they have open, even if the profile denies it.
    #[serde(default)]
    pub allow_open: bool,
}

/// A cgroup was tagged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tagged {
    #[serde(flatten)]
    pub agent: Agent,
    /// What its processes keep open that the profile denies, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<String>,
}

/// Asks that a tagged cgroup be an ordinary one again: its agent is released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Untag {
    /// Path of the cgroup's directory, absolute or below `/sys/fs/cgroup`.
    pub cgroup: PathBuf,
}

/// One agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Never given twice.
    pub id: u64,
    pub name: String,
    /// ULID of this run.
    pub session: String,
    pub profile: String,
    pub state: AgentState,
    /// Absolute path of its cgroup's directory, empty when the cgroup is gone.
    pub cgroup: PathBuf,
    /// When it was tagged: RFC 3339, UTC.
    pub since: String,
    /// Whether the daemon made the cgroup and will remove it.
    pub owned: bool,
}

/// Where an agent is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentState {
    /// Its tasks are judged.
    Active,
    /// Its cgroup is empty or gone, but tasks that left it still carry the label and are judged.
    Outlived,
    /// It was untagged: its tasks are judged no longer.
    Released,
}

/// The peer does carry the label of the agent it asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    pub agent: u64,
    /// The process that was looked at.
    pub pid: u32,
}

/// Which events are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Events {
    /// How many of the latest events to begin with. Default 0 with `follow`, else 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// Goes on with what happens from now on; otherwise the response ends after the `n`.
    #[serde(default)]
    pub follow: bool,
    /// Only events of the agents with these names, separated by commas. What was lost is always told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Only events with one of these verdicts, separated by commas. What was lost is always told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Only these actions, separated by commas; `file` is every action that is `file` or begins with
    /// `file.`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
}

/// What the daemon does, and what the kernel really enforces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Every hook is attached and the canary was refused.
    pub enforcing: bool,
    /// Why not, one sentence each; empty when enforcing.
    pub problems: Vec<String>,
    /// What doesn't end enforcement but should be known.
    pub warnings: Vec<String>,
    /// Version of the daemon.
    pub version: String,
    pub pid: u32,
    pub uptime_seconds: u64,
    pub kernel: Kernel,
    /// What the programs are attached to, as the kernel says.
    pub hooks: Vec<Hook>,
    /// What is judged, and the hooks that it rests on.
    pub verbs: Vec<Foundation>,
    pub policy: Policy,
    pub agents: Vec<Agent>,
    /// Questions that wait for an answer.
    #[serde(default)]
    pub pending: usize,
    pub counters: Counters,
    pub log: Log,
    pub maps: Vec<Map>,
}

/// The kernel that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// The active LSMs, in order.
    pub lsm: Vec<String>,
}

/// A hook and what is attached to it, as the kernel says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    pub name: String,
    pub attached: bool,
    /// Id of the link (of one of them, for a hook attached to each cgroup).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<u32>,
    /// Id of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<u32>,
}

/// The policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Number of the installation, 0 before the first.
    pub install: u32,
    pub profiles: Vec<Profile>,
    /// What the compiler warned of, and profiles kept for the agents that use them.
    pub warnings: Vec<String>,
    /// The latest attempt to load, if it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<PolicyRefusal>,
}

/// A policy that was not installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRefusal {
    /// RFC 3339, UTC.
    pub time: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnostics: Option<String>,
}

/// An installed profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `enforce` or `audit`.
    pub mode: String,
    /// The file it was read from.
    pub source: PathBuf,
    /// BLAKE3 digest of the compiled tables, hex: the same for the same rules, wherever they are written.
    pub digest: String,
    /// How many rules it has.
    pub rules: usize,
    /// Installation that its tables belong to: older than the policy's when it was removed and is
    /// kept for its agents.
    pub install: u32,
    /// Agents under it.
    pub agents: usize,
}

/// What the kernel programs counted since they were first loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Decisions by hook and verdict; only those that are not zero.
    pub decisions: Vec<Count>,
    /// Records that found no room in a ring.
    pub lost_kernel: Vec<Count>,
    /// Events that a full or broken log could not take.
    pub lost_sink: u64,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// Failures of helpers in the kernel, by site; only those that are not zero.
    pub failures: Vec<Failure>,
}

/// A number of decisions or of records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub hook: String,
    /// As in events; `would-deny` for what audit mode let pass.
    pub verdict: String,
    pub count: u64,
}

/// Failures of a helper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub site: String,
    pub count: u64,
}

/// The event log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    pub path: PathBuf,
    /// The latest write succeeded.
    pub writing: bool,
    /// Why the latest write failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Number of the latest event.
    pub seq: u64,
    /// Its hash. None before the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Events waiting to be written.
    pub backlog: usize,
}

/// A pinned map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    pub name: String,
    pub id: u32,
    pub entries: u32,
    /// Kernel memory it holds, in bytes.
    pub memory_bytes: u64,
}
