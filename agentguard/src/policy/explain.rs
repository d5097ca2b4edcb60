//! Answers "what would happen if…": a question as a person writes it, the verdict, and the rule that it
//! comes from. The verdict is the kernel's own decision function's, run on the simulator.

use std::fmt;

use agentguard_common::{
    Decision, Verdict,
    decide::Text,
    event::Reason,
    limits::{ARGUMENTS_BYTES, PATH_BYTES},
    profile::{Mode, Subject, named, verb},
};
use serde::Serialize;

use super::{
    address::{self, Destination},
    model::{Access, Ask, Expect},
    pattern::{self, PatternError},
    profile::CompiledProfile,
    simulator::{self, Object},
};

/// The socket on which the daemon tells agents about themselves. The kernel side knows it, and not its name.
const FOR_AGENTS: &[u8] = b"/run/agentguard/agent.sock";

/// The verdict on a question and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What enforce mode would do.
    pub verdict: Expect,
    /// `enforce`, or `audit`: everything is allowed and logged with the verdict above.
    pub mode: &'static str,
    /// Name of the profile that was asked.
    pub profile: String,
    /// What was asked for: `open`, `exec`, `map`, `connect` or `listen`.
    pub action: &'static str,
    /// The object: a path or an address.
    pub object: String,
    /// The arguments that the program is run with, for `exec`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// The accesses asked for together, for `open`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<Access>,
    /// The access that decided, for `open`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<Access>,
    /// Id of the rule, or [`DEFAULT_ID`](super::DEFAULT_ID).
    pub rule: String,
    /// File of the rule or of the `[default]`.
    pub file: String,
    /// Its line; absent for a default that is not written.
    pub line: Option<u32>,
    pub because: Option<String>,
    /// What else should be known, such as what an ask comes to without an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'static str>,
}

/// Asks a profile.
pub fn explain(profile: &CompiledProfile, ask: &Ask) -> Explanation {
    let mut decided_by = None;
    let mut accesses = Vec::new();
    let (subject, verbs, bytes, action) = match ask {
        Ask::Open { path, access } => {
            accesses.clone_from(access);
            let verbs = access
                .iter()
                .fold(0, |verbs, access| verbs | verb::bit(access.verb()));
            (Subject::File, verbs, path.clone(), "open")
        }
        Ask::Exec { path, args } => {
            let (subject, bytes) = program(profile, path, args);
            (subject, verb::bit(verb::ONLY), bytes, "exec")
        }
        Ask::Map { path } => (Subject::Exec, verb::bit(verb::MAP), path.clone(), "map"),
        Ask::Connect { address } => {
            let subject = match address {
                Destination::Inet { .. } | Destination::Vsock { .. } => Subject::Connect,
                Destination::Host { .. } => Subject::Name,
                Destination::Unix(_) => Subject::Unix,
            };
            (subject, verb::bit(verb::ONLY), address.encode(), "connect")
        }
        Ask::Listen { address } => (
            Subject::Listen,
            verb::bit(verb::ONLY),
            address.encode(),
            "listen",
        ),
    };
    let mut object = Object::new(&bytes);
    if matches!(ask, Ask::Exec { path, .. } | Ask::Map { path } if !path.starts_with(b"/")) {
        object.text = Text::Pseudo;
    }
    let mut decision = simulator::ask(profile, subject, verbs, &object);
    let mut lookup = None;
    if let Ask::Connect {
        address: Destination::Host { name, .. },
    } = ask
        && profile.names_hosts()
    {
        let looked_up = profile.lookup(name);
        if looked_up.outcome.rank() > Verdict::Ask as u32 {
            // There is nothing to connect to.
            decision = looked_up;
        }
        lookup = Some(looked_up.outcome.rank() <= Verdict::Ask as u32);
    }
    if let Ask::Connect { address } | Ask::Listen { address } = ask
        && let Some(kind) = address.named_kind()
        && !profile.names(kind)
        && decision.outcome.rank() < Verdict::Deny as u32
    {
        decision = Decision::refuse(Reason::SocketKind);
    }
    let own = own_rule(profile, ask, decision);
    if let Ask::Exec { path, .. } = ask {
        // The kernel side sees `argv[0]` too, which is the path more often than not.
        let seen = bytes.get(..path.len() + 1 + ARGUMENTS_BYTES.saturating_sub(path.len() + 1));
        if let Some(seen) = seen
            && seen.len() < bytes.len()
            && !simulator::is_settled(profile, subject, seen)
        {
            // FAIL-CLOSED: as the kernel side does.
            decision = Decision::refuse(Reason::ArgumentsTooLong);
        }
    }
    if subject == Subject::File {
        decided_by = Access::ALL.get(usize::from(decision.verb)).copied();
    }
    let rule = profile.rule(decision.outcome);
    let verdict = match decision.outcome.verdict() {
        Some(Verdict::Allow) => Expect::Allow,
        Some(Verdict::Ask) => Expect::Ask,
        Some(Verdict::Kill) => Expect::Kill,
        // FAIL-CLOSED: what is no verdict is a denial, as in the kernel.
        Some(Verdict::Deny | Verdict::Never | Verdict::None) | None => Expect::Deny,
    };
    let default_line = profile.default_lines[subject as usize][usize::from(decision.verb)];
    Explanation {
        verdict,
        mode: match profile.mode {
            // What nothing lifts is refused in audit mode as well.
            Mode::Audit if decision.outcome.verdict() != Some(Verdict::Never) => "audit",
            _ => "enforce",
        },
        profile: profile.name.clone(),
        action,
        object: match ask {
            Ask::Open { path, .. } | Ask::Exec { path, .. } | Ask::Map { path } => text(path),
            Ask::Connect { address } | Ask::Listen { address } => address.to_string(),
        },
        access: accesses,
        args: match ask {
            Ask::Exec { args, .. } => args.iter().map(|argument| text(argument)).collect(),
            _ => Vec::new(),
        },
        decided_by,
        rule: profile.rule_id(decision.outcome).to_owned(),
        file: rule.map_or_else(|| profile.file.clone(), |rule| rule.file.clone()),
        line: rule
            .map(|rule| rule.line)
            .or((default_line != 0).then_some(default_line)),
        because: rule.and_then(|rule| rule.because.clone()),
        note: match (decision.reason, verdict) {
            (Reason::NoPath, _) => {
                Some("a program without a path is denied unless a rule allows it")
            }
            (Reason::SocketKind, _) => {
                Some("no rule names its scheme, so the agent can't have such a socket")
            }
            (Reason::ArgumentsTooLong, _) => {
                Some("a rule looks at the arguments, and they are longer than can be judged")
            }
            (Reason::TablesBroken, _) => Some("the tables are broken; please report this"),
            _ if matches!(ask, Ask::Connect { address: Destination::Unix(name) } if name.as_slice() == FOR_AGENTS) => {
                Some(
                    "the daemon's own socket of this name is open to every agent, and tells it about itself alone; \
                     this is about any other socket there",
                )
            }
            _ if lookup == Some(false) => {
                Some("the name can't be looked up: the answer is REFUSED")
            }
            (_, Expect::Allow | Expect::Ask) if lookup == Some(true) => Some(
                "holds for the addresses that the agent's own lookup of the name is answered with, as long as the answer \
                 lives; those on private networks need a rule with `private = true`",
            ),
            _ if matches!(
                ask,
                Ask::Connect {
                    address: Destination::Host { .. }
                }
            ) && lookup.is_none() =>
            {
                Some(
                    "the profile names no hosts: what counts is the address that a lookup leads to",
                )
            }
            _ if own => Some(
                "allowed by the rule on `self` while the agent itself waits there, or nobody does",
            ),
            (_, Expect::Ask) => {
                Some("a person is asked; no answer in time, or nobody there to ask, is a denial")
            }
            _ => None,
        },
    }
}

/// Whether `self` may open what nothing but the default is against.
fn own_rule(profile: &CompiledProfile, ask: &Ask, decision: Decision) -> bool {
    let Ask::Connect {
        address: Destination::Inet {
            protocol, address, ..
        },
    } = ask
    else {
        return false;
    };
    decision.reason == Reason::Default
        && decision.outcome.rank() > Verdict::Allow as u32
        && matches!(*protocol, address::TCP | address::UDP)
        && (address.is_loopback() || address.is_unspecified())
        && profile.names(named::OWN)
}

/// The subject that knows most of a program run with these arguments, and the object that it is asked about.
fn program(profile: &CompiledProfile, path: &[u8], args: &[Vec<u8>]) -> (Subject, Vec<u8>) {
    if !profile.looks_at_arguments() {
        return (Subject::Exec, path.to_vec());
    }
    let mut object = path.to_vec();
    for argument in args {
        object.push(0);
        object.extend_from_slice(argument);
    }
    object.push(0);
    (Subject::Args, object)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap_or_else(|_| bytes.escape_ascii().to_string())
}

impl Explanation {
    /// What was asked, in one line.
    pub fn question(&self) -> String {
        let mut question = format!("{} {}", self.action, self.object.escape_debug());
        if !self.access.is_empty() {
            let names: Vec<&str> = self.access.iter().map(|access| access.name()).collect();
            question.push_str(&format!(" ({})", names.join(", ")));
        }
        if !self.args.is_empty() {
            question.push_str(" --");
        }
        for argument in &self.args {
            let shown = argument.escape_debug().to_string();
            let plain = |c: char| !c.is_whitespace() && !matches!(c, '\'' | '"' | '\\');
            if !argument.is_empty() && argument.chars().all(plain) {
                question.push_str(&format!(" {shown}"));
            } else {
                question.push_str(&format!(" \"{shown}\""));
            }
        }
        question
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}  {}", self.verdict.name(), self.question())?;
        write!(f, "  rule     {}", self.rule)?;
        match self.decided_by {
            Some(access) if self.access.len() > 1 => writeln!(f, " (for {})", access.name())?,
            _ => writeln!(f)?,
        }
        match self.line {
            Some(line) => writeln!(f, "  written  {}:{line}", self.file)?,
            None => writeln!(f, "  written  {}, which has no [default] for it", self.file)?,
        }
        if let Some(because) = &self.because {
            writeln!(f, "  because  {}", crate::render::safe(because))?;
        }
        if self.mode == "audit" {
            writeln!(
                f,
                "  mode     audit: the action is allowed, and logged with this verdict"
            )?;
        }
        if let Some(note) = self.note {
            writeln!(f, "  note     {note}")?;
        }
        Ok(())
    }
}

/// Reads the path of a question: absolute, and as the kernel would resolve it.
pub fn parse_path(path: &[u8]) -> Result<Vec<u8>, PatternError> {
    let whole = 0..path.len();
    if path.len() > PATH_BYTES {
        return Err(PatternError::new(
            whole,
            format!(
                "path is {} bytes long, more than the {PATH_BYTES} that can be judged",
                path.len()
            ),
            "the kernel side denies it whatever the profile says",
        ));
    }
    let Some(rest) = path.strip_prefix(b"/") else {
        return Err(PatternError::new(
            whole,
            "relative path: a question is about an absolute one",
            "write the path from `/` on, with links already followed",
        ));
    };
    let bad = |component: &[u8]| matches!(component, b"" | b"." | b"..");
    if path.contains(&0) || (!rest.is_empty() && rest.split(|byte| *byte == b'/').any(bad)) {
        return Err(PatternError::new(
            whole,
            "path with `//`, `.`, `..`, a `/` at the end or a NUL byte",
            "write it as the kernel resolves it, such as /etc/shadow",
        ));
    }
    Ok(path.to_vec())
}

/// Reads the path of a program, or the pseudo-path of one that has none.
pub fn parse_program(path: &[u8]) -> Result<Vec<u8>, PatternError> {
    if pattern::is_pseudo_path(path) {
        return Ok(path.to_vec());
    }
    parse_path(path)
}

/// Reads the local address of a question.
pub fn parse_listen(text: &str) -> Result<Destination, PatternError> {
    match address::parse_destination(text)? {
        Destination::Unix(_) => Err(PatternError::new(
            0..text.len(),
            "listening on a Unix socket is creating a file",
            "ask for `open PATH --access create`",
        )),
        Destination::Host { .. } => Err(PatternError::new(
            0..text.len(),
            "a name is the other end of a connection",
            "write the address that is listened on, such as tcp://127.0.0.1:3000",
        )),
        inet => Ok(inet),
    }
}
