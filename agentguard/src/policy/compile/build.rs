//! Builds the automata of one subject: few of them if that is cheap, as many as there may be if it isn't,
//! and exact as to which of several rules is named whenever that can be afforded.

use agentguard_common::{Outcome, profile::Subject};

use super::{
    determinise::{Dfa, Explosion, Ties, determinise},
    group::{Alternatives, Grain, Part, group},
    tree::{Accept, Effect, Tree},
};
use crate::policy::{
    model::{Rule, RulePattern},
    tokens::Token,
};

/// States up to which ties are settled exactly, whatever the size of the rules.
const EXACT_STATES: usize = 100_000;
/// States up to which the coarse grouping is tried, so that trying the fine one still takes no time.
const COARSE_STATES: usize = 400_000;
/// Patterns up to which automata are joined.
const JOINED_PARTS: usize = 2_000;
/// States up to which automata are joined however small they were. Each automaton is a step per byte of
/// every object, and a table of this size is no burden.
const JOINED_STATES: usize = 16_384;

/// The automata of one subject.
pub(super) struct Automata {
    pub dfas: Vec<Dfa>,
    /// Of several rules of the same strictness, the first is named.
    pub exact: bool,
}

/// Patterns and the automaton that they make.
struct Built<'r> {
    parts: Vec<Part<'r>>,
    dfa: Dfa,
    ties: Ties,
}

/// Builds the automata of a subject.
pub(super) fn automata(
    rules: &[Rule],
    outcomes: &[Outcome],
    subject: Subject,
    max_states: usize,
) -> Result<Automata, Explosion> {
    let effects: Vec<Effect> = rules
        .iter()
        .zip(outcomes)
        .map(|(rule, outcome)| Effect {
            outcome: *outcome,
            verbs: rule.verbs,
        })
        .collect();
    let alternatives = alternatives(rules, subject);
    let all = |grain, max_states| {
        let mut left: usize = max_states;
        let mut built = Vec::new();
        for parts in group(&alternatives, &effects, grain) {
            let part = build(parts, &effects, left)?;
            left = left.saturating_sub(part.dfa.states.len());
            built.push(part);
        }
        Ok(built)
    };
    let built = match all(Grain::Coarse, COARSE_STATES.min(max_states)) {
        Ok(built) => built,
        Err(_) => all(Grain::Fine, max_states)?,
    };
    let built = join(built, &effects);
    Ok(Automata {
        exact: built.iter().all(|built| built.ties == Ties::LowestIndex),
        dfas: built.into_iter().map(|built| built.dfa).collect(),
    })
}

/// What each rule says about a subject.
fn alternatives(rules: &[Rule], subject: Subject) -> Vec<Alternatives<'_>> {
    rules
        .iter()
        .enumerate()
        .map(|(index, rule)| Alternatives {
            rule: index as u32,
            patterns: tokens_of(&rule.patterns, subject),
            except: tokens_of(&rule.except, subject),
        })
        .filter(|rule| !rule.patterns.is_empty())
        .collect()
}

fn tokens_of(patterns: &[RulePattern], subject: Subject) -> Vec<&[Token]> {
    patterns
        .iter()
        .filter(|pattern| pattern.subject == subject)
        .flat_map(|pattern| pattern.pattern.alternatives.iter().map(Vec::as_slice))
        .collect()
}

/// Builds one automaton: exactly if that is affordable, else with any of the rules that tie.
fn build<'r>(
    parts: Vec<Part<'r>>,
    effects: &[Effect],
    max_states: usize,
) -> Result<Built<'r>, Explosion> {
    let tree = tree(&parts);
    let affordable = EXACT_STATES.max(tree.nodes.len() * 4).min(max_states);
    let (dfa, ties) = match determinise(&tree, effects, Ties::LowestIndex, affordable) {
        Ok(dfa) => (dfa, Ties::LowestIndex),
        Err(_) => (
            determinise(&tree, effects, Ties::Outermost, max_states)?,
            Ties::Outermost,
        ),
    };
    Ok(Built { parts, dfa, ties })
}

fn tree(parts: &[Part]) -> Tree {
    let mut tree = Tree::new();
    for part in parts {
        let accept = Accept {
            rule: part.rule,
            except: part.except,
        };
        tree.add(part.tokens, accept);
    }
    tree
}

/// Joins automata, the smallest first, as long as what comes out is small.
fn join<'r>(mut built: Vec<Built<'r>>, effects: &[Effect]) -> Vec<Built<'r>> {
    if built.iter().map(|built| built.parts.len()).sum::<usize>() > JOINED_PARTS {
        return built;
    }
    'again: loop {
        built.sort_by_key(|built| built.dfa.states.len());
        for first in 0..built.len() {
            for second in first + 1..built.len() {
                let mut parts = built[first].parts.clone();
                parts.extend(&built[second].parts);
                // The tree's shape, and so the tables, must not depend on the order of joining.
                parts.sort_by_key(|part| part.rule);
                let joined = determinise(&tree(&parts), effects, Ties::LowestIndex, JOINED_STATES);
                if let Ok(dfa) = joined {
                    built.remove(second);
                    built[first] = Built {
                        parts,
                        dfa,
                        ties: Ties::LowestIndex,
                    };
                    continue 'again;
                }
            }
        }
        return built;
    }
}
