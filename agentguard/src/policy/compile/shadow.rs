//! Finds rules that can never win: whatever they match, a stricter or an earlier rule says the same or
//! more. Looks at the profile's own file only; what it includes may overlap as it likes.

use std::{collections::VecDeque, sync::Arc};

use agentguard_common::{Outcome, Verdict, profile::Subject};
use rustc_hash::FxHashSet;

use super::{
    Compiled,
    determinise::{Dfa, Ties, determinise},
    tree::{Accept, Effect, NO_ROW, Row, Tree, merge},
};
use crate::policy::{
    diagnostic::{Diagnostic, Diagnostics, Severity},
    model::{Document, Rule},
    profile::List,
    tokens::Token,
};

/// States looked at for one rule, and for all rules of a profile, before giving up. Giving up means
/// taking the rule for a sensible one.
const STEPS: usize = 20_000;
const ALL_STEPS: usize = 400_000;

/// What is known about a rule's chances.
enum Chances {
    /// There is a text for which it decides, or none was found in time.
    Wins,
    /// There is none; where it matches, this outcome decides.
    Loses(Outcome),
    /// It matches nothing at all.
    MatchesNothing,
}

/// Reports the document's own rules that can never win.
pub(super) fn check(
    document: &Document,
    rules: &[Rule],
    outcomes: &[Outcome],
    compiled: &[Compiled],
    diagnostics: &mut Diagnostics,
) {
    let mut steps = ALL_STEPS;
    for (index, rule) in rules.iter().enumerate() {
        if !Arc::ptr_eq(&rule.source, &document.source) {
            continue;
        }
        let mut best = Chances::MatchesNothing;
        for part in compiled {
            // A rule that looks at arguments decides there and not where they are unknown.
            let elsewhere = part.subject == Subject::Exec && !rule.args.is_empty();
            if elsewhere
                || !rule
                    .patterns
                    .iter()
                    .any(|pattern| pattern.subject == part.subject)
            {
                continue;
            }
            match chances(rule, outcomes[index], part, &mut steps) {
                Chances::Wins => {
                    best = Chances::Wins;
                    break;
                }
                Chances::Loses(winner) => best = Chances::Loses(winner),
                Chances::MatchesNothing => {}
            }
        }
        match best {
            Chances::Wins => {}
            Chances::Loses(winner) => {
                report(document, rules, rule, outcomes[index], winner, diagnostics);
            }
            Chances::MatchesNothing => diagnostics.push(Diagnostic::at(
                &rule.source,
                rule.id_span.clone(),
                Severity::Error,
                "shadowed",
                format!(
                    "rule \"{}\" matches nothing: its exceptions take all of it away",
                    rule.id
                ),
                "leave it out, or make the exceptions narrower".to_owned(),
            )),
        }
    }
}

fn report(
    document: &Document,
    rules: &[Rule],
    rule: &Rule,
    own: Outcome,
    winner: Outcome,
    diagnostics: &mut Diagnostics,
) {
    let Some(by) = rules.get(winner.rule() as usize) else {
        return;
    };
    let place = format!("\"{}\" ({}:{})", by.id, by.source.name, by.line);
    let pattern = rule.patterns.first().map_or("", |pattern| &pattern.text);
    // What is always there says the same as a denial.
    let same = winner.rank() == Verdict::Never as u32 && rule.list == List::Deny;
    let (severity, message, help) = if winner.rank() > own.rank() && !same {
        // A stricter rule of another file may have come with an update; that is no reason to refuse.
        let severity = if Arc::ptr_eq(&by.source, &document.source) {
            Severity::Error
        } else {
            Severity::Warning
        };
        (
            severity,
            format!(
                "rule \"{}\" is shadowed: {} beats {}, and wherever it matches a stricter rule does, such as {place}",
                rule.id,
                by.list.name(),
                rule.list.name(),
            ),
            format!(
                "leave it out, or write except = [\"{pattern}\"] on rule \"{}\"",
                by.id
            ),
        )
    } else {
        (
            Severity::Warning,
            format!(
                "rule \"{}\" is shadowed: wherever it matches, a rule that comes first says the same, such as {place}",
                rule.id
            ),
            "leave it out".to_owned(),
        )
    };
    diagnostics.push(Diagnostic::at(
        &rule.source,
        rule.id_span.clone(),
        severity,
        "shadowed",
        message,
        help,
    ));
}

fn chances(rule: &Rule, own: Outcome, part: &Compiled, steps: &mut usize) -> Chances {
    let alternatives = || {
        rule.patterns
            .iter()
            .filter(|pattern| pattern.subject == part.subject)
            .flat_map(|pattern| &pattern.pattern.alternatives)
    };
    for tokens in alternatives() {
        for long in [false, true] {
            let text = example(tokens, long);
            let mut row = NO_ROW;
            for dfa in &part.dfas {
                merge(&mut row, dfa.row(dfa.walk(0, &text)));
            }
            if row.contains(&own) {
                return Chances::Wins;
            }
        }
    }
    // No example did; look everywhere.
    let mut tree = Tree::new();
    let effect = Effect {
        outcome: Outcome::new(Verdict::Deny, false, 0),
        verbs: rule.verbs,
    };
    for (patterns, except) in [(&rule.patterns, false), (&rule.except, true)] {
        for pattern in patterns {
            if pattern.subject == part.subject {
                for tokens in &pattern.pattern.alternatives {
                    tree.add(tokens, Accept { rule: 0, except });
                }
            }
        }
    }
    let budget = STEPS.min(*steps);
    let Ok(alone) = determinise(&tree, &[effect], Ties::LowestIndex, STEPS) else {
        return Chances::Wins;
    };
    search(&alone, own, part, budget, steps)
}

/// Looks for a text that the rule decides, in the product of its own automaton and its subject's.
fn search(alone: &Dfa, own: Outcome, part: &Compiled, budget: usize, steps: &mut usize) -> Chances {
    let start = vec![0; part.dfas.len() + 1];
    let mut seen = FxHashSet::from_iter([start.clone()]);
    let mut open = VecDeque::from([start]);
    let mut winner = None;
    while let Some(states) = open.pop_front() {
        if seen.len() > budget {
            *steps = steps.saturating_sub(seen.len());
            return Chances::Wins;
        }
        if *alone.row(states[0]) != NO_ROW {
            let mut row = NO_ROW;
            for (dfa, state) in part.dfas.iter().zip(&states[1..]) {
                merge(&mut row, dfa.row(*state));
            }
            if row.contains(&own) {
                return Chances::Wins;
            }
            winner = winner.or_else(|| deciding(alone.row(states[0]), &row));
        }
        let dfas = || std::iter::once(alone).chain(&part.dfas);
        let mut bytes: Vec<u8> = dfas()
            .zip(&states)
            .flat_map(|(dfa, state)| dfa.edges(&dfa.states[*state as usize]))
            .map(|(byte, _)| *byte)
            .chain([b'/'])
            .collect();
        bytes.sort_unstable();
        bytes.dedup();
        bytes.extend((1..=255).find(|byte| !bytes.contains(byte)));
        for byte in bytes {
            let next: Vec<u32> = dfas()
                .zip(&states)
                .map(|(dfa, state)| dfa.step(*state, byte))
                .collect();
            // Only where the rule itself can still match.
            if alone.states[next[0] as usize].restricts && seen.insert(next.clone()) {
                open.push_back(next);
            }
        }
    }
    *steps = steps.saturating_sub(seen.len());
    winner.map_or(Chances::MatchesNothing, Chances::Loses)
}

/// What decides instead of the rule, for the first verb that it is about.
fn deciding(alone: &Row, row: &Row) -> Option<Outcome> {
    alone
        .iter()
        .zip(row)
        .find(|(own, _)| **own != Outcome::NONE)
        .map(|(_, winner)| *winner)
}

/// A text that a pattern matches and few others do.
fn example(tokens: &[Token], long: bool) -> Vec<u8> {
    let mut text = Vec::new();
    for token in tokens {
        match token {
            Token::Byte(byte) => text.push(*byte),
            Token::Set(set) => text.extend(
                [1, b'~', b'#']
                    .into_iter()
                    .find(|byte| set.contains(*byte))
                    .or(set.iter().next()),
            ),
            Token::Star | Token::Rest | Token::Name | Token::NameRest | Token::Text => {
                text.extend(b"\x01\x02");
            }
            Token::Deep | Token::DeepName if long => text.extend(b"\x01\x02/"),
            Token::Arguments | Token::ArgumentsRest if long => text.extend(b"\x01\x02\0"),
            Token::Below if long => text.extend(b"/\x01\x02"),
            Token::Deep
            | Token::DeepName
            | Token::Below
            | Token::Arguments
            | Token::ArgumentsRest => {}
        }
    }
    text
}
