//! A compiled profile: the cells that go into the arena, and what userspace must remember of it (the
//! rules behind the numbers, the literally named paths). How it comes about is `compile`'s business.

use std::{net::IpAddr, time::Duration};

use agentguard_common::{
    Decision, Outcome, Verdict,
    automaton::{ABSENT, SINK, Tables},
    decide::{self, Text},
    identity::PATH_SUBJECTS,
    limits::{ALIASES, AUTOMATA},
    name::{self, PUBLIC},
    profile::{
        APPROVALS_CELL, Approvals, HEADER_CELLS, LogAllow, MAGIC, Mode, SUBJECT_CELLS, SUBJECTS,
        Subject, default_outcome, named, verb,
    },
};
use serde::{Deserialize, Serialize};

use super::{address::Destination, host::HostName, simulator};

/// The rule id that events and `explain` give when no rule matched and `[default]` decided.
pub const DEFAULT_ID: &str = "default";

/// A profile ready to be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledProfile {
    pub name: String,
    /// Absent when the profile says nothing of itself.
    pub description: Option<String>,
    pub mode: Mode,
    pub log_allow: LogAllow,
    /// The rules, in the order of the indices that outcomes carry. [`Outcome::DEFAULT_RULE`] is not
    /// in here; ask [`Self::rule`] or [`Self::rule_id`].
    pub rules: Vec<RuleInfo>,
    /// Files and directories that deny and ask rules name literally.
    pub literals: Vec<LiteralPath>,
    pub stats: Stats,
    /// How long asks wait, and how many of them.
    pub approvals: Approvals,
    /// The resolvers that are asked instead of the host's, from the agent's network namespace.
    pub resolvers: Vec<IpAddr>,
    /// Cells of the automata, then the descriptor. Bases in the descriptor count from cell 0 here.
    pub(super) cells: Vec<u64>,
    pub(super) descriptor: u32,
    /// Where `[default]` is written, for each subject (by number) and verb.
    pub(super) default_lines: [[u32; 8]; SUBJECTS as usize],
    /// File that `[default]` is written in.
    pub(super) file: String,
}

/// What a rule index stands for: everything an event or `explain` says about a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleInfo {
    /// The rule's own id, or `<profile>/<list>/<n>` with n counted from 1.
    pub id: String,
    pub list: List,
    /// The process is killed as well (deny rules only).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kill: bool,
    /// Name of the profile that the rule is written in; not always the profile that it acts in.
    pub profile: String,
    /// File that the rule is written in, as it was opened; `builtin` for the rules that are always
    /// there.
    pub file: String,
    /// Line of the rule's table header, from 1.
    pub line: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// How long an ask waits for an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Allowed actions are left out of the log (`log = false`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quiet: bool,
}

/// The list a rule is in.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum List {
    Deny,
    Ask,
    Allow,
}

impl List {
    /// Every list, strictest first.
    pub const ALL: [Self; 3] = [Self::Deny, Self::Ask, Self::Allow];

    /// The word in a policy file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Ask => "ask",
            Self::Allow => "allow",
        }
    }
}

/// A path that a deny or ask rule names without wildcards. The daemon looks up its inode, so that the
/// rule holds under every name of it (`agentguard_common::identity`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteralPath {
    /// Absolute, clean, without a trailing `/`.
    pub path: Vec<u8>,
    pub naming: Naming,
    /// Only exec rules name it. Then a symbolic link of that name is not followed: what it leads to may
    /// be a program of many names (busybox, coreutils), and the kernel runs it under its own.
    pub program: bool,
    /// Index of the first rule that names it, for messages.
    pub rule: u32,
    /// State of each automaton after the path's bytes, by path subject (file, exec, unix). Relative to
    /// the automata's bases, so installation doesn't change them: they are
    /// `agentguard_common::identity::Identity::states` as they stand.
    pub states: [[u32; AUTOMATA]; PATH_SUBJECTS],
}

/// How a rule names a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Naming {
    /// The whole pattern is this path, or this path and everything below it (`/**`).
    Whole,
    /// The folder in front of the pattern's first wildcard (`/home` of `/home/*/.ssh/**`).
    Front,
}

/// Figures of a compilation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub automata: u32,
    pub states: u32,
    pub edges: u32,
}

impl CompiledProfile {
    /// Cells of 8 bytes that the profile takes in the arena.
    pub fn len_cells(&self) -> u32 {
        self.cells.len() as u32
    }

    /// Bytes that the profile takes in the arena.
    pub fn len_bytes(&self) -> u64 {
        self.cells.len() as u64 * 8
    }

    /// Arena cell of the descriptor when the profile is installed at arena cell `at`: what goes into
    /// the `PROFILES` slot.
    pub fn descriptor(&self, at: u32) -> u32 {
        at + self.descriptor
    }

    /// Whether a rule looks at the arguments of programs.
    pub fn looks_at_arguments(&self) -> bool {
        let first = HEADER_CELLS + Subject::Args as u32 * SUBJECT_CELLS;
        self.cells[(self.descriptor + first) as usize] as u32 != ABSENT
    }

    /// Whether a rule names a host, so that lookups go through the daemon's resolver.
    pub fn names_hosts(&self) -> bool {
        let first = HEADER_CELLS + Subject::Name as u32 * SUBJECT_CELLS;
        self.cells[(self.descriptor + first) as usize] as u32 != ABSENT
    }

    /// Whether a name may be looked up: whether a rule opens or asks about anything there, or else the `[default]`.
    pub fn lookup(&self, name: &HostName) -> Decision {
        let object = name.object(PUBLIC);
        simulator::ask(
            self,
            Subject::Name,
            verb::bit(verb::ONLY),
            &simulator::Object::new(&object),
        )
    }

    /// Where the automata stand after a name ([`agentguard_common::name`]), relative to their bases. `class` is
    /// [`PUBLIC`] or [`PRIVATE`](agentguard_common::name::PRIVATE).
    pub fn states_after(&self, name: &HostName, class: u8) -> [u32; AUTOMATA] {
        let object = name.object(class);
        // FAIL-CLOSED: where the tables are broken the kernel finds that as well.
        simulator::states_after(self, Subject::Name, &object).unwrap_or([SINK; AUTOMATA])
    }

    /// What the rules say of a connection to an address that is known by these names, each with its class.
    pub fn connect(&self, to: &Destination, names: &[(HostName, u8)]) -> Decision {
        let only = verb::bit(verb::ONLY);
        let ask = |subject, object: &simulator::Object| simulator::ask(self, subject, only, object);
        let bytes = to.encode();
        let subject = match to {
            Destination::Unix(_) => Subject::Unix,
            Destination::Host { .. } => Subject::Name,
            Destination::Inet { .. } | Destination::Vsock { .. } => Subject::Connect,
        };
        let address = ask(subject, &simulator::Object::new(&bytes));
        let Destination::Inet { protocol, port, .. } = to else {
            return address;
        };
        let service = name::service(*protocol, *port);
        let aliases: Vec<simulator::Met> = names
            .iter()
            .map(|(name, class)| simulator::Met {
                states: [self.states_after(name, *class); PATH_SUBJECTS],
                from: 0,
            })
            .collect();
        // More than the kernel takes at once: the strictest of all.
        aliases.chunks(ALIASES).fold(address, |decision, aliases| {
            let mut object = simulator::Object::new(&service);
            object.text = Text::Named;
            object.aliases = aliases.to_vec();
            decide::with_names(decision, ask(Subject::Name, &object))
        })
    }

    /// The cells to be written from arena cell `at` on, as part of installation `install`.
    pub fn install(&self, at: u32, install: u32) -> Vec<u64> {
        let mut cells = self.cells.clone();
        let descriptor = self.descriptor as usize;
        cells[descriptor] = cell(MAGIC, install);
        let pending = &mut cells[descriptor + APPROVALS_CELL as usize + 1];
        let times = (*pending >> 32) as u32;
        if times != ABSENT {
            *pending = cell(*pending as u32, at + times);
        }
        for subject in 0..SUBJECTS {
            for automaton in 0..AUTOMATA as u32 {
                let index =
                    descriptor + (HEADER_CELLS + subject * SUBJECT_CELLS + automaton) as usize;
                let base = cells[index] as u32;
                if base != ABSENT {
                    cells[index] = cell(at + base, (cells[index] >> 32) as u32);
                }
            }
        }
        cells
    }

    /// Whether a rule names this kind of socket ([`named`]), so that there can be one.
    pub fn names(&self, kind: u8) -> bool {
        default_outcome(self, self.descriptor, named::SUBJECT, kind.into())
            .and_then(Outcome::verdict)
            == Some(Verdict::Allow)
    }

    /// Its `[system]`; `None` when its tables are broken.
    pub fn system(&self) -> Option<agentguard_common::system::System> {
        agentguard_common::profile::system(self, self.descriptor)
    }

    /// What is known of the rule behind an outcome; `None` for `[default]` and for numbers that are
    /// none of this profile's.
    pub fn rule(&self, outcome: Outcome) -> Option<&RuleInfo> {
        self.rules.get(outcome.rule() as usize)
    }

    /// The id to be shown for an outcome: the rule's, or [`DEFAULT_ID`].
    pub fn rule_id(&self, outcome: Outcome) -> &str {
        match self.rule(outcome) {
            Some(rule) => &rule.id,
            None => DEFAULT_ID,
        }
    }
}

impl Tables for CompiledProfile {
    fn cell(&self, index: u32) -> Option<u64> {
        self.cells.get(index as usize).copied()
    }
}

/// A cell of two halves.
pub(super) const fn cell(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}
