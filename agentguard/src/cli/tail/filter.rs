//! Which events `agentguard tail` shows. Values of one option are alternatives; options narrow each
//! other.

use super::view::Event;
use crate::api::types::Events;

/// Actions and families of actions that a filter may name (`system.` has a name for each interface).
const ACTIONS: [&str; 37] = [
    "file",
    "file.open",
    "file.create",
    "file.delete",
    "file.rename",
    "file.link",
    "file.metadata",
    "exec",
    "net",
    "net.connect",
    "net.listen",
    "net.send",
    "net.accept",
    "net.resolve",
    "unix",
    "unix.connect",
    "process",
    "process.signal",
    "process.ptrace",
    "process.fork",
    "process.exit",
    "system",
    "approval",
    "approval.requested",
    "approval.granted",
    "approval.denied",
    "approval.expired",
    "agent",
    "agent.started",
    "agent.ended",
    "policy",
    "policy.loaded",
    "policy.refused",
    "daemon",
    "daemon.started",
    "daemon.stopped",
    "daemon.gap",
];
/// The action of a record that tells of lost ones.
const LOST: &str = "lost";

/// A verdict that a filter may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Verdict {
    /// Carried out
    Allow,
    /// Refused
    Deny,
    /// Held for a person's decision
    Ask,
    /// Let pass by audit mode, whatever the rules say
    Audit,
    /// Refused, and the process killed
    Kill,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Ask => "ask",
            Self::Audit => "audit",
            Self::Kill => "kill",
        }
    }
}

/// An action, or with its name's first part a family of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionPattern(String);

impl ActionPattern {
    /// Reads `exec`, `file.open`, or a family as `file`, `file.` or `file.*`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_suffix('*').unwrap_or(text);
        let name = name.strip_suffix('.').unwrap_or(name);
        if ACTIONS.contains(&name) || name == LOST || name.starts_with("system.") {
            return Ok(Self(name.to_owned()));
        }
        Err(format!(
            "no such action; there are {}, {LOST} and system.NAME",
            ACTIONS.join(", ")
        ))
    }

    /// The API's form, in which a family ends with a dot.
    fn query(&self) -> String {
        let family = ACTIONS.iter().any(|action| {
            action
                .strip_prefix(&self.0)
                .is_some_and(|rest| rest.starts_with('.'))
        });
        if family || self.0 == "system" {
            format!("{}.", self.0)
        } else {
            self.0.clone()
        }
    }

    fn matches(&self, action: &str) -> bool {
        action
            .strip_prefix(&self.0)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

/// The filter options of `agentguard tail`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Filter {
    /// Only events of these agents
    #[arg(long = "agent", value_name = "NAME", value_delimiter = ',')]
    pub agents: Vec<String>,

    /// Only events with these verdicts
    #[arg(long = "verdict", value_name = "VERDICT", value_delimiter = ',')]
    pub verdicts: Vec<Verdict>,

    /// Only these actions; `file` means every action that begins with `file.`
    #[arg(
        long = "action",
        value_name = "ACTION",
        value_delimiter = ',',
        value_parser = ActionPattern::parse
    )]
    pub actions: Vec<ActionPattern>,
}

impl Filter {
    /// Whether everything is shown.
    pub fn is_empty(&self) -> bool {
        self.agents.is_empty() && self.verdicts.is_empty() && self.actions.is_empty()
    }

    /// Whether the daemon can select these events itself: it takes one value per option.
    pub fn is_simple(&self) -> bool {
        self.agents.len() <= 1 && self.verdicts.len() <= 1 && self.actions.len() <= 1
    }

    /// The daemon's query for the latest `n` events and, with `follow`, those that come, as narrow as
    /// the daemon can select.
    pub fn query(&self, n: u64, follow: bool) -> Events {
        fn only<T>(values: &[T]) -> Option<&T> {
            match values {
                [one] => Some(one),
                _ => None,
            }
        }
        Events {
            n: Some(n),
            follow,
            agent: only(&self.agents).cloned(),
            verdict: only(&self.verdicts).map(|verdict| verdict.name().to_owned()),
            action: only(&self.actions).map(ActionPattern::query),
        }
    }

    /// Whether the event is shown. Records of loss belong to every agent and verdict: who watches
    /// denials must learn that some were lost.
    pub fn matches(&self, event: &Event) -> bool {
        let action = event.action.as_str();
        if !self.actions.is_empty() && !self.actions.iter().any(|wanted| wanted.matches(action)) {
            return false;
        }
        if action == LOST || action == "daemon.gap" {
            return true;
        }
        let agent = event.agent.as_deref().unwrap_or_default();
        let verdict = event.verdict.as_deref().unwrap_or_default();
        (self.agents.is_empty() || self.agents.iter().any(|name| name == agent))
            && (self.verdicts.is_empty() || self.verdicts.iter().any(|v| v.name() == verdict))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(agent: &str, verdict: &str, action: &str) -> Event {
        serde_json::from_value(serde_json::json!({
            "agent": agent, "verdict": verdict, "action": action
        }))
        .expect("an event")
    }

    fn filter(agents: &[&str], verdicts: &[Verdict], actions: &[&str]) -> Filter {
        Filter {
            agents: agents.iter().map(|&name| name.to_owned()).collect(),
            verdicts: verdicts.to_vec(),
            actions: actions
                .iter()
                .map(|text| ActionPattern::parse(text).expect("an action"))
                .collect(),
        }
    }

    #[test]
    fn an_empty_filter_shows_everything() {
        assert!(Filter::default().is_empty());
        assert!(Filter::default().matches(&event("a", "allow", "exec")));
        let bare: Event = serde_json::from_str("{}").expect("an event");
        assert!(Filter::default().matches(&bare));
    }

    #[test]
    fn values_are_alternatives_and_options_narrow() {
        let filter = filter(
            &["a", "b"],
            &[Verdict::Deny, Verdict::Kill],
            &["exec", "net"],
        );
        assert!(filter.matches(&event("a", "deny", "exec")));
        assert!(filter.matches(&event("b", "kill", "net.connect")));
        assert!(!filter.matches(&event("c", "deny", "exec")));
        assert!(!filter.matches(&event("a", "allow", "exec")));
        assert!(!filter.matches(&event("a", "deny", "file.open")));
    }

    #[test]
    fn a_family_is_its_name_up_to_the_dot() {
        for text in ["file", "file.", "file.*"] {
            let pattern = ActionPattern::parse(text).expect("a family");
            assert!(pattern.matches("file.open"));
            assert!(!pattern.matches("filesystem.open"));
            assert!(!pattern.matches("exec"));
        }
        let open = ActionPattern::parse("file.open").expect("an action");
        assert!(open.matches("file.open"));
        assert!(!open.matches("file.opened"));
        assert!(!open.matches("file.create"));
    }

    #[test]
    fn a_mistyped_action_is_refused_with_the_names_that_exist() {
        let message = ActionPattern::parse("file.opn").expect_err("no such action");
        assert!(message.contains("file.open"));
        assert!(ActionPattern::parse("").is_err());
        assert!(ActionPattern::parse("*").is_err());
        assert!(ActionPattern::parse("system.io_uring").is_ok());
    }

    #[test]
    fn the_query_is_as_narrow_as_the_daemon_can_select() {
        let simple = filter(&["a"], &[Verdict::Deny], &["file"]);
        assert!(simple.is_simple());
        let query = simple.query(3, true);
        assert_eq!((query.n, query.follow), (Some(3), true));
        assert_eq!(query.agent.as_deref(), Some("a"));
        assert_eq!(query.verdict.as_deref(), Some("deny"));
        assert_eq!(query.action.as_deref(), Some("file."));
        let lists = filter(&["a", "b"], &[], &["exec", "system"]);
        assert!(!lists.is_simple());
        let query = lists.query(3, false);
        assert_eq!((query.agent, query.action), (None, None));
        assert_eq!(
            filter(&[], &[], &["exec"])
                .query(1, false)
                .action
                .as_deref(),
            Some("exec")
        );
        assert_eq!(
            filter(&[], &[], &["system"])
                .query(1, false)
                .action
                .as_deref(),
            Some("system.")
        );
    }

    #[test]
    fn losses_pass_filters_of_agent_and_verdict() {
        let lost: Event = serde_json::from_str(r#"{"action":"lost"}"#).expect("an event");
        assert!(filter(&["a"], &[Verdict::Deny], &[]).matches(&lost));
        assert!(!filter(&[], &[], &["exec"]).matches(&lost));
        assert!(filter(&[], &[], &["lost"]).matches(&lost));
    }
}
