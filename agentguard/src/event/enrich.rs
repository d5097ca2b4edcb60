//! From a record to an event: names for numbers. What the record doesn't say stays out; nothing is
//! guessed.

use agentguard_common::{
    Verdict,
    event::{Action, ObjectKind, Reason},
    profile::verb,
    system::Operation,
};

use super::{
    Clock, Event, Object, Process, Processes, approval::Approval, file, net, system, task,
};
use crate::{
    names::Names,
    ring::{
        Record,
        record::{action_name, reason_name, verdict_name},
    },
};

/// The event that a record stands for.
pub fn event(record: &Record, names: &Names, clock: &Clock, processes: &mut Processes) -> Event {
    let header = &record.header;
    let agent = names.agent(header.agent);
    let profile = agent.as_ref().map(|agent| agent.profile.clone());
    let verdict = carried_out(record);
    let (rule, because, reason) = why(record, names, agent.as_ref().map(|agent| agent.slot));
    let (verdict, would) = if record.audit {
        ("audit", Some(verdict))
    } else {
        (verdict, None)
    };
    let refused = !record.audit && !matches!(verdict, "allow" | "ask");
    Event {
        time: clock.at(header.boot_ns),
        session: agent.as_ref().map(|agent| agent.session.clone()),
        agent: agent.map(|agent| agent.name),
        action: if record.held {
            REQUESTED
        } else {
            action(record)
        },
        verdict: Some(verdict),
        would,
        errno: (refused && !record.killed).then_some("EPERM"),
        killed: record.killed,
        rule: rule.map(|rule| match (rule, &profile) {
            (Rule::Id(id), _) => id,
            (Rule::Number(number), Some(profile)) => format!("{profile}/#{number}"),
            (Rule::Number(number), None) => format!("#{number}"),
            (Rule::Default, Some(profile)) => format!("{profile}/default"),
            (Rule::Default, None) => "default".to_owned(),
        }),
        because,
        reason,
        approval: approval(record, clock).map(Box::new),
        object: named(object(record), names, header.agent),
        process: Process::new(&record.process, processes),
        profile,
    }
}

/// The action of an event about a question that waits for its answer.
pub const REQUESTED: &str = "approval.requested";

/// What a record says of an approval.
fn approval(record: &Record, clock: &Clock) -> Option<Approval> {
    let note = record.note.as_ref()?;
    if record.held {
        return Some(Approval {
            id: Some(note.request.leader),
            action: Some(action(record)),
            held: Some(true),
            expires: Some(clock.at(note.request.deadline_boot_ns)),
            ..Approval::default()
        });
    }
    let id = match (note.grant, note.request.word) {
        (0, 0) => None,
        (0, _) => Some(note.request.leader),
        (grant, _) => Some(grant),
    };
    Some(Approval {
        id,
        held: id.is_none().then_some(false),
        ..Approval::default()
    })
}

/// The action's name; operations of `[system]` have one each.
fn action(record: &Record) -> &'static str {
    match operation(record) {
        Some(operation) => system::action(operation),
        None => action_name(record.action),
    }
}

fn operation(record: &Record) -> Option<Operation> {
    (record.action == Action::System)
        .then(|| Operation::from_number(record.header.verb))
        .flatten()
}

/// Which rule decided.
enum Rule {
    Id(String),
    /// The table of its installation is lost.
    Number(u32),
    Default,
}

/// What became of the action. An ask that was not answered with yes is a denial.
fn carried_out(record: &Record) -> &'static str {
    match record.verdict {
        Verdict::Ask if record.granted => verdict_name(Verdict::Allow),
        Verdict::Ask if record.held || record.audit => verdict_name(Verdict::Ask),
        Verdict::Ask => verdict_name(Verdict::Deny),
        verdict => verdict_name(verdict),
    }
}

/// The rule, its words, and the reason where there was no rule to ask.
fn why(
    record: &Record,
    names: &Names,
    slot: Option<u32>,
) -> (Option<Rule>, Option<String>, Option<&'static str>) {
    let reason = match record.reason {
        Reason::Rule | Reason::Default | Reason::Held => None,
        reason => Some(reason_name(reason)),
    };
    let asks = is_about_an_ask(record.reason);
    let asking = record.note.as_ref().map(|note| note.request.asking);
    let is_system = record.action == Action::System || asking == Some(Reason::System as u8);
    match record.reason {
        Reason::Default => (Some(Rule::Default), None, reason),
        _ if asks && is_system => (None, None, reason.or(Some(reason_name(Reason::System)))),
        Reason::Rule | Reason::AskUnavailable => of_rule(record, names, slot, reason),
        _ if asks => of_rule(record, names, slot, reason),
        _ => (None, None, reason),
    }
}

/// Whether a reason says what became of a question.
fn is_about_an_ask(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::AskUnavailable
            | Reason::Granted
            | Reason::Held
            | Reason::Refused
            | Reason::TimedOut
            | Reason::TooManyPending
            | Reason::NoRoom
            | Reason::CantHold
    )
}

fn of_rule(
    record: &Record,
    names: &Names,
    slot: Option<u32>,
    reason: Option<&'static str>,
) -> (Option<Rule>, Option<String>, Option<&'static str>) {
    let Some(number) = record.rule() else {
        return (Some(Rule::Default), None, reason);
    };
    let rule = slot
        .and_then(|slot| names.profile(record.header.install, slot))
        .and_then(|profile| profile.rules.get(number as usize).cloned());
    match rule {
        Some(rule) => (Some(Rule::Id(rule.id)), rule.because, reason),
        None => (Some(Rule::Number(number)), None, reason),
    }
}

/// An address with the name that the agent knows it by.
pub fn named(mut object: Option<Object>, names: &Names, agent: u64) -> Option<Object> {
    if let Some(Object::Net(net)) = &mut object {
        let address = net.address.parse().ok();
        net.name = address.and_then(|address| names.host(agent, address));
    }
    object
}

/// What a record's action is about.
fn object(record: &Record) -> Option<Object> {
    if record.object.is_empty() {
        return None;
    }
    Some(match record.object_kind {
        ObjectKind::Address => Object::Net(net::Object::decode(&record.object)?),
        ObjectKind::Unix => Object::Unix(net::Unix::decode(&record.object)),
        ObjectKind::Task => Object::Task(task::Object::decode(record.action, &record.object)?),
        ObjectKind::Detail => {
            Object::System(system::Object::decode(operation(record)?, &record.object)?)
        }
        ObjectKind::Program => {
            let mut strings = record.object.split(|byte| *byte == 0);
            let mut file = file::Object::program(strings.next().unwrap_or_default());
            file.set_args(strings);
            file.partial = record.partial;
            Object::File(file)
        }
        ObjectKind::Names => {
            let access = file::accesses(record.header.verbs);
            let mut file = file::Object::names(&record.object, &access);
            file.partial = record.partial;
            Object::File(file)
        }
        ObjectKind::Path => {
            let verbs = record.header.verbs;
            let mut file = if record.action == Action::Exec {
                let mut file = file::Object::program(&record.object);
                file.mapped = verbs & verb::bit(verb::MAP) != 0;
                file
            } else {
                file::Object::new(&record.object, &file::accesses(verbs))
            };
            file.partial = record.partial;
            Object::File(file)
        }
    })
}

#[cfg(test)]
mod tests {
    use agentguard_common::Outcome;

    use super::*;
    use crate::{
        names::{AgentNames, InstallNames, ProfileNames, RuleNames},
        ring::record::tests::sample,
    };

    fn names() -> Names {
        let names = Names::default();
        names.set_agent(
            3,
            AgentNames {
                name: "alice".to_owned(),
                session: "01JC".to_owned(),
                profile: "coding".to_owned(),
                slot: 2,
            },
        );
        names.add(InstallNames {
            install: 1,
            profiles: vec![ProfileNames {
                slot: 2,
                name: "coding".to_owned(),
                description: None,
                mode: "enforce".to_owned(),
                log_first: false,
                source: "/p".into(),
                digest: String::new(),
                rules: vec![RuleNames {
                    id: "keys".to_owned(),
                    because: Some("No.".to_owned()),
                }],
                literals: Vec::new(),
            }],
        });
        names
    }

    fn made(outcome: Outcome, reason: Reason, change: impl FnOnce(&mut Record)) -> Event {
        let bytes = sample(b"/etc/shadow", outcome, reason, Action::FileOpen);
        let mut record = Record::decode(&bytes).expect("a record");
        change(&mut record);
        event(&record, &names(), &Clock::new(), &mut Processes::default())
    }

    #[test]
    fn a_rule_speaks_for_itself() {
        let outcome = Outcome::new(Verdict::Deny, false, 0);
        let event = made(outcome, Reason::Rule, |_| {});
        assert_eq!(event.agent.as_deref(), Some("alice"));
        assert_eq!(event.verdict, Some("deny"));
        assert_eq!(event.errno, Some("EPERM"));
        assert_eq!(event.rule.as_deref(), Some("keys"));
        assert_eq!(event.because.as_deref(), Some("No."));
        assert_eq!(event.reason, None);
    }

    #[test]
    fn the_default_has_a_name_and_other_reasons_have_none() {
        let outcome = Outcome::new(Verdict::Deny, false, Outcome::DEFAULT_RULE);
        let event = made(outcome, Reason::Default, |_| {});
        assert_eq!(event.rule.as_deref(), Some("coding/default"));
        assert_eq!(event.reason, None);
        let event = made(outcome, Reason::PathTooLong, |record| record.partial = true);
        assert_eq!(event.rule, None);
        assert_eq!(event.reason, Some("path-too-long"));
        let Some(Object::File(file)) = event.object else {
            panic!("not a file");
        };
        assert!(file.partial);
    }

    #[test]
    fn audit_says_what_would_have_been() {
        let outcome = Outcome::new(Verdict::Deny, false, 0);
        let event = made(outcome, Reason::Rule, |record| record.audit = true);
        assert_eq!((event.verdict, event.would), (Some("audit"), Some("deny")));
        assert_eq!(event.errno, None);
    }

    #[test]
    fn an_ask_is_a_denial_that_says_so() {
        for verdict in [Verdict::Ask, Verdict::Deny] {
            let outcome = Outcome::new(verdict, false, 0);
            let event = made(outcome, Reason::AskUnavailable, |_| {});
            assert_eq!(event.verdict, Some("deny"));
            assert_eq!(event.reason, Some("ask-unavailable"));
            assert_eq!(event.rule.as_deref(), Some("keys"));
        }
    }

    #[test]
    fn a_program_has_its_arguments() {
        let mut outcome = Outcome::new(Verdict::Deny, false, 0);
        for (object, path, args) in [
            (
                &b"/usr/bin/git\0push\0\0"[..],
                "/usr/bin/git",
                vec!["push", ""],
            ),
            (b"/usr/bin/git\0", "/usr/bin/git", vec![]),
        ] {
            let event = made(outcome, Reason::Rule, |record| {
                record.object_kind = ObjectKind::Program;
                record.object = object.to_vec();
                record.killed = true;
            });
            assert_eq!((event.errno, event.killed), (None, true));
            let Some(Object::File(file)) = event.object else {
                panic!("not a program");
            };
            assert_eq!(file.path, path);
            assert_eq!(
                file.args,
                Some(args.into_iter().map(str::to_owned).collect())
            );
        }
        outcome = Outcome::new(Verdict::Allow, false, 0);
        assert!(!made(outcome, Reason::Rule, |_| {}).killed);
    }

    #[test]
    fn lost_rules_are_shown_by_number() {
        let outcome = Outcome::new(Verdict::Deny, false, 9);
        let event = made(outcome, Reason::Rule, |_| {});
        assert_eq!(event.rule.as_deref(), Some("coding/#9"));
        let event = made(outcome, Reason::Rule, |record| record.header.agent = 99);
        assert_eq!((event.agent, event.rule.as_deref()), (None, Some("#9")));
    }
}
