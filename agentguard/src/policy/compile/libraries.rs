//! Warns of rules about programs that take libraries in with them: no program that needs one would start.

use agentguard_common::{
    Verdict,
    profile::{Subject, verb},
};

use crate::policy::{
    diagnostic::{Diagnostic, Diagnostics, Severity},
    model::Rule,
    profile::CompiledProfile,
    simulator::{Object, ask},
};

/// The library that every program needs, where Debian and Fedora keep it.
const LIBC: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib64/libc.so.6",
];

/// Warns of the rule that refuses it.
pub(super) fn check(profile: &CompiledProfile, rules: &[Rule], diagnostics: &mut Diagnostics) {
    let refusing = LIBC.iter().find_map(|path| {
        let object = Object::new(path.as_bytes());
        let outcome = ask(profile, Subject::Exec, verb::bit(verb::MAP), &object).outcome;
        let rule = rules.get(outcome.rule() as usize)?;
        (outcome.rank() > Verdict::Allow as u32).then_some((path, rule))
    });
    let Some((path, rule)) = refusing else {
        return;
    };
    diagnostics.push(Diagnostic::at(
        &rule.source,
        rule.patterns.first().map_or_else(|| rule.span.clone(), |pattern| pattern.span.clone()),
        Severity::Warning,
        "libraries",
        format!(
            "rule \"{}\" refuses libraries too, such as {path}: programs that need them won't start",
            rule.id
        ),
        "write except = [\"**/*.so{,.*}\"], or name programs alone".to_owned(),
    ));
}
