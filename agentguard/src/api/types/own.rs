//! What travels over the agents' own socket: what an agent is told about itself, and what it may say for itself.
//! No behaviour.

use serde::{Deserialize, Serialize};

use super::Approval;

/// What an agent is told about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Own {
    /// Its requests that wait for a person, oldest first.
    pub waiting: Vec<Approval>,
    /// What it was refused lately, oldest first.
    pub denials: Vec<Denial>,
}

/// Which of its own denials an agent wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Why {
    /// How many of the latest. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<usize>,
}

/// Something that an agent was refused, as the agent itself is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Denial {
    /// RFC 3339, UTC: the latest time.
    pub time: String,
    pub profile: String,
    /// As in events, like the rest.
    pub action: String,
    pub verdict: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The process that wanted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How often in a row.
    pub count: u64,
}
