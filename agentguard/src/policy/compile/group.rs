//! Decides which patterns go into one automaton. Patterns whose product would multiply are kept apart;
//! the verdicts of a subject's automata are combined by strictness when a decision is made.
//!
//! What multiplies is memory: `**` in the middle of a pattern remembers for good that its front has been
//! seen, so patterns whose first `**` comes after a different number of components are different kinds,
//! and so are those that end in `**`. An exception must be seen by the automaton that sees its rule.

use std::collections::BTreeMap;

use agentguard_common::limits::AUTOMATA;

use super::{overlap::overlap, tree::Effect};
use crate::policy::tokens::Token;

/// What multiplies with what: patterns of one kind don't.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// No `**`, or only at the end.
    Anchored,
    /// Just one `**`, in front.
    Floating,
    /// `**` in front and once more. In the fine grain, by strictness and verbs of the rule: equal ones
    /// make a sum, different ones a product.
    FloatingDeep(u32, u8),
    /// The first `**` after this many components.
    Inside(usize),
    /// A rule with exceptions of another kind.
    Mixed,
}

impl Kind {
    fn of(tokens: &[Token], effect: Effect, grain: Grain) -> Self {
        let deep =
            |token: &Token| matches!(token, Token::Deep | Token::DeepName | Token::Arguments);
        let Some(at) = tokens.iter().position(deep) else {
            return Self::Anchored;
        };
        let again = |token: &Token| {
            deep(token) || matches!(token, Token::Rest | Token::Below | Token::NameRest)
        };
        if at > 1 {
            let slashes = |token: &&Token| **token == Token::Byte(b'/');
            Self::Inside(tokens[..at].iter().filter(slashes).count())
        } else if tokens[at + 1..].iter().any(again) {
            match grain {
                Grain::Coarse => Self::FloatingDeep(0, 0),
                Grain::Fine => Self::FloatingDeep(effect.outcome.rank(), effect.verbs),
            }
        } else {
            Self::Floating
        }
    }
}

/// How finely kinds are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grain {
    Coarse,
    /// For rules that multiply in the coarse grain.
    Fine,
}

/// One alternative of a rule's pattern, to be added to an automaton.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'r> {
    pub rule: u32,
    pub tokens: &'r [Token],
    pub except: bool,
}

/// A rule's alternatives in one subject.
pub(super) struct Alternatives<'r> {
    pub rule: u32,
    pub patterns: Vec<&'r [Token]>,
    pub except: Vec<&'r [Token]>,
}

/// Spreads rules over at most [`AUTOMATA`] groups.
pub(super) fn group<'r>(
    rules: &[Alternatives<'r>],
    effects: &[Effect],
    grain: Grain,
) -> Vec<Vec<Part<'r>>> {
    let mut kinds: BTreeMap<Kind, Vec<Part<'r>>> = BTreeMap::new();
    for rule in rules {
        let kind_of = |tokens: &[Token]| Kind::of(tokens, effects[rule.rule as usize], grain);
        for pattern in &rule.patterns {
            let except = || rule.except.iter().filter(|except| overlap(pattern, except));
            let kind = kind_of(pattern);
            let kind = if except().all(|except| kind_of(except) == kind) {
                kind
            } else {
                Kind::Mixed
            };
            let parts = kinds.entry(kind).or_default();
            let part = |tokens, except| Part {
                rule: rule.rule,
                tokens,
                except,
            };
            parts.push(part(*pattern, false));
            parts.extend(except().map(|except| part(*except, true)));
        }
    }
    let mut groups: Vec<Vec<Part>> = kinds.into_values().collect();
    while groups.len() > AUTOMATA {
        // The two smallest have the smallest product.
        groups.sort_by_key(|parts| std::cmp::Reverse(parts.len()));
        let smallest = groups.pop().unwrap_or_default();
        if let Some(last) = groups.last_mut() {
            last.extend(smallest);
        }
    }
    groups
}
