//! A profile as its author meant it: typed, checked piece by piece, every part still knowing where it
//! was written. Not yet what the kernel reads; that is `compile`'s business.

use std::{net::IpAddr, sync::Arc, time::Duration};

use agentguard_common::{
    profile::{Approvals, LogAllow, Mode, Subject, verb},
    system::System,
};
use serde::{Deserialize, Serialize};

use super::{
    host::HostPattern,
    profile::List,
    source::{Source, Span},
    tokens::Pattern,
};

/// One access to a file.
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
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Opening for reading, readdir, mapping, the source of a hard link.
    Read,
    /// Opening for writing, truncating.
    Write,
    /// Making files, directories, links; the target of a rename.
    Create,
    /// Unlinking; the source of a rename.
    Delete,
    /// Mode, owner, times, extended attributes.
    Metadata,
}

impl Access {
    /// Every access, in the order of their verbs.
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Write,
        Self::Create,
        Self::Delete,
        Self::Metadata,
    ];

    /// The access's number in tables and questions.
    pub const fn verb(self) -> u8 {
        match self {
            Self::Read => verb::READ,
            Self::Write => verb::WRITE,
            Self::Create => verb::CREATE,
            Self::Delete => verb::DELETE,
            Self::Metadata => verb::METADATA,
        }
    }

    /// The word in a policy file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Metadata => "metadata",
        }
    }
}

/// All five accesses to a file, one bit each.
pub(super) const ALL_ACCESSES: u8 = 0b1_1111;

/// The verbs that rules of a subject can be about.
pub(super) const fn all_verbs(subject: Subject) -> u8 {
    match subject {
        Subject::File => ALL_ACCESSES,
        Subject::Exec => verb::bit(verb::ONLY) | verb::bit(verb::MAP),
        Subject::Connect | Subject::Unix | Subject::Listen | Subject::Args | Subject::Name => {
            verb::bit(verb::ONLY)
        }
    }
}

/// The subjects that this language has, by their numbers.
pub(super) const SUBJECTS: [Subject; 7] = [
    Subject::File,
    Subject::Exec,
    Subject::Connect,
    Subject::Unix,
    Subject::Listen,
    Subject::Args,
    Subject::Name,
];

/// The key under which a subject's patterns are written.
pub(super) const fn subject_key(subject: Subject) -> &'static str {
    match subject {
        Subject::File => "file",
        Subject::Exec | Subject::Args => "exec",
        Subject::Connect | Subject::Unix | Subject::Name => "connect",
        Subject::Listen => "listen",
    }
}

/// One policy file.
#[derive(Clone, Debug)]
pub(super) struct Document {
    pub source: Arc<Source>,
    pub name: String,
    pub description: Option<String>,
    pub mode: Mode,
    pub log_allow: LogAllow,
    pub include: Vec<Include>,
    pub defaults: Defaults,
    pub system: System,
    pub approvals: Approvals,
    pub resolvers: Vec<IpAddr>,
    pub rules: Vec<Rule>,
    pub tests: Vec<Test>,
}

/// A profile whose rules are to be added.
#[derive(Clone, Debug)]
pub(super) struct Include {
    pub name: String,
    pub span: Span,
}

/// `[default]`: a verdict and its place for each subject (by number) and verb.
#[derive(Clone, Debug)]
pub(super) struct Defaults {
    pub verdicts: [[(List, Span); 5]; SUBJECTS.len()],
}

/// One rule.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub id: String,
    pub list: List,
    pub kill: bool,
    pub quiet: bool,
    pub because: Option<String>,
    pub timeout: Option<Duration>,
    /// TLS must name a host that rules open.
    pub sni: bool,
    /// Accesses to files, running and mapping of programs, one bit each; bit 0 for other subjects.
    pub verbs: u8,
    pub patterns: Vec<RulePattern>,
    pub except: Vec<RulePattern>,
    /// What the program's arguments must be, one pattern per argument (`**` for any number); empty when they
    /// don't matter.
    pub args: Vec<Pattern>,
    /// The rule's whole table header or, in an inline array, the table.
    pub span: Span,
    /// The id where it is written, else as `span`.
    pub id_span: Span,
    /// Line of `span`, from 1.
    pub line: u32,
    pub source: Arc<Source>,
    /// Name of the profile that it is written in.
    pub profile: Arc<str>,
}

/// A pattern of a rule, where it is written and the subject that it belongs to (`connect` has two).
#[derive(Clone, Debug)]
pub(super) struct RulePattern {
    pub pattern: Arc<Pattern>,
    pub subject: Subject,
    pub text: String,
    /// The host that it names.
    pub host: Option<HostPattern>,
    /// Of an exception of an overlay: the arguments that it is about, all of them if empty.
    pub args: Vec<Pattern>,
    pub span: Span,
}

/// What was allowed for good while somebody was asked.
#[derive(Clone, Debug)]
pub(super) struct Overlay {
    pub exceptions: Vec<Exception>,
    /// Rules that allow what is excepted, where it is not the default.
    pub rules: Vec<Rule>,
}

/// An exception to a rule that is written elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Exception {
    /// Id of the rule.
    pub rule: String,
    pub rule_span: Span,
    /// What of the rule it is about, one bit each.
    pub verbs: u8,
    pub patterns: Vec<RulePattern>,
    pub source: Arc<Source>,
}

/// One `[[test]]` table.
#[derive(Clone, Debug)]
pub(super) struct Test {
    pub ask: Ask,
    pub expect: Expect,
    /// Id of the rule that must decide; [`DEFAULT_ID`](super::profile::DEFAULT_ID) for `[default]`.
    pub rule: Option<String>,
    pub line: u32,
}

/// A question as a person writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Open {
        path: Vec<u8>,
        access: Vec<Access>,
    },
    Exec {
        path: Vec<u8>,
        /// The arguments after `argv[0]`.
        args: Vec<Vec<u8>>,
    },
    /// Mapping a file as code.
    Map {
        path: Vec<u8>,
    },
    Connect {
        address: super::address::Destination,
    },
    Listen {
        address: super::address::Destination,
    },
}

/// A verdict as a person writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    Allow,
    Ask,
    Deny,
    Kill,
}

impl Expect {
    /// The word in a policy file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
            Self::Kill => "kill",
        }
    }
}
