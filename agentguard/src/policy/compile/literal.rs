//! Finds the paths that deny and ask rules name without wildcards. Who looks up their inodes, and when,
//! is the daemon's business.

use std::collections::BTreeMap;

use agentguard_common::{
    automaton::SINK,
    identity::PATH_SUBJECTS,
    limits::{ALIASES, AUTOMATA},
    profile::Subject,
};

use super::Compiled;
use crate::policy::{
    diagnostic::{Diagnostic, Diagnostics, Severity},
    model::Rule,
    profile::{List, LiteralPath, Naming},
    tokens::Token,
};

/// The subjects whose objects are paths, as `agentguard_common::identity` orders them.
const PATHS: [Subject; PATH_SUBJECTS] =
    [Subject::File, Subject::Exec, Subject::Unix, Subject::Args];

/// Finds every literally named path and where the automata stand after it.
pub(super) fn find(
    rules: &[Rule],
    compiled: &[Compiled],
    diagnostics: &mut Diagnostics,
) -> Vec<LiteralPath> {
    let mut named: BTreeMap<Vec<u8>, (Naming, u32, bool)> = BTreeMap::new();
    for (index, rule) in rules.iter().enumerate() {
        if rule.list == List::Allow {
            continue;
        }
        let paths = rule
            .patterns
            .iter()
            .filter(|pattern| PATHS.contains(&pattern.subject))
            .flat_map(|pattern| &pattern.pattern.alternatives)
            .filter_map(|tokens| literal(tokens));
        let program = rule
            .patterns
            .iter()
            .all(|pattern| pattern.subject == Subject::Exec);
        for (path, naming) in paths {
            let program = program && naming == Naming::Whole;
            let entry = named.entry(path).or_insert((naming, index as u32, program));
            entry.0 = entry.0.min(naming);
            entry.2 &= program;
        }
    }
    // One action may meet every named folder above it, and the kernel has room for a few.
    for (path, (_, rule, _)) in &named {
        let above = (1..path.len())
            .filter(|at| path[*at] == b'/' && named.contains_key(&path[..*at]))
            .count();
        if above >= ALIASES {
            let rule = &rules[*rule as usize];
            diagnostics.push(Diagnostic::at(
                &rule.source,
                rule.span.clone(),
                Severity::Error,
                "too-nested",
                format!(
                    "rule \"{}\" names {}, the {}th named folder or file inside of another; {ALIASES} can be told apart",
                    rule.id,
                    path.escape_ascii(),
                    above + 1
                ),
                "deny one of the outer folders as a whole".to_owned(),
            ));
        }
    }
    named
        .into_iter()
        .map(|(path, (naming, rule, program))| LiteralPath {
            states: PATHS.map(|subject| states(compiled, subject, &path)),
            path,
            naming,
            program,
            rule,
        })
        .collect()
}

fn states(compiled: &[Compiled], subject: Subject, path: &[u8]) -> [u32; AUTOMATA] {
    let mut states = [SINK; AUTOMATA];
    if let Some(part) = compiled.iter().find(|part| part.subject == subject) {
        for ((dfa, packed), state) in part.dfas.iter().zip(&part.packed).zip(&mut states) {
            *state = packed.states[dfa.walk(0, path) as usize];
        }
    }
    states
}

/// The path that a pattern names, or the folder in front of its first wildcard.
fn literal(tokens: &[Token]) -> Option<(Vec<u8>, Naming)> {
    let bytes: Vec<u8> = tokens
        .iter()
        .map_while(|token| match token {
            Token::Byte(byte) => Some(*byte),
            _ => None,
        })
        .collect();
    let rest = &tokens[bytes.len()..];
    // Neither an abstract socket nor a pseudo-path is a file.
    if bytes.first() != Some(&b'/') {
        return None;
    }
    let (path, naming) = match rest {
        [] | [Token::Below] => (bytes, Naming::Whole),
        _ => {
            let end = bytes.iter().rposition(|byte| *byte == b'/')?;
            (bytes[..end].to_vec(), Naming::Front)
        }
    };
    // Everything is below the root, so to meet it says nothing.
    (path.len() > 1).then_some((path, naming))
}
