//! What happened to AgentGuard itself, to agents, and to events that were lost.

use serde::Serialize;

/// The object of an event that no agent's action caused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Lifecycle {
    /// `daemon.started`.
    Started {
        version: &'static str,
        pid: u32,
        kernel: String,
        /// The programs of an earlier daemon were kept.
        adopted: bool,
    },
    /// `daemon.stopped`.
    Stopped {
        /// Enforcement goes on without the daemon.
        enforcing: bool,
    },
    /// `daemon.gap`.
    Gap {
        /// Bytes of a torn line that were cut off the log.
        cut_bytes: u64,
        /// Number of the last whole line.
        after_seq: u64,
    },
    /// `agent.started` and `agent.ended`.
    Agent {
        id: u64,
        /// Not there when it was gone before this daemon began.
        #[serde(skip_serializing_if = "String::is_empty")]
        cgroup: String,
        /// What its processes keep open that the profile denies.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        held: Vec<String>,
    },
    /// `policy.loaded`.
    Loaded {
        install: u32,
        profiles: Vec<LoadedProfile>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
    },
    /// `policy.refused`.
    Refused {
        message: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        diagnostics: Option<String>,
    },
    /// `log.closed`, the last line of a file of the log.
    Closed {
        /// The name that the file has from now on.
        file: String,
        first_seq: u64,
        /// Lines before this one.
        lines: u64,
        /// BLAKE3 of all that is in the file before this line.
        root: String,
    },
    /// `log.removed`.
    Removed {
        file: String,
        /// Number and hash of its last line.
        last_seq: u64,
        hash: String,
    },
    /// `lost`.
    Lost(Loss),
}

/// A profile of a loaded policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoadedProfile {
    pub name: String,
    pub digest: String,
}

/// Events that are missing in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    pub stage: Stage,
    /// How many in all.
    pub count: u64,
    pub counts: Vec<LossCount>,
    /// Between these times.
    pub first: String,
    pub last: String,
}

/// Where events were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// A ring was full.
    Kernel,
    /// A record could not be understood.
    Decode,
    /// The log could not be written and its backlog was full.
    Sink,
    /// A follower was too slow. Only that follower is told.
    Follower,
}

/// A part of a loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LossCount {
    /// The action; the hook for what was lost in the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    pub verdict: String,
    pub count: u64,
}
