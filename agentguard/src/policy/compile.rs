//! From rules to a compiled profile: which patterns share an automaton, the automata, their cells, the
//! descriptor. What the automata mean is `agentguard_common::decide`'s business.

pub(super) mod arguments;
mod build;
mod deputies;
mod determinise;
mod group;
mod libraries;
mod literal;
pub(super) mod overlap;
mod pack;
mod shadow;
mod tree;

use std::time::Duration;

use agentguard_common::{
    Outcome, Verdict,
    address::OWN,
    automaton::{ABSENT, ACCEPT_ROW, SINK, VERBS},
    limits::AUTOMATA,
    profile::{
        APPROVALS_CELL, Approvals, DESCRIPTOR_CELLS, HEADER_CELLS, MAGIC, SUBJECT_CELLS, SUBJECTS,
        Subject, named, verb,
    },
};

use self::{
    determinise::{Dfa, Explosion},
    overlap::overlap,
    pack::{Packed, pack},
    tree::{NO_ROW, merge},
};
use super::{
    address,
    capabilities::Capabilities,
    diagnostic::{Diagnostic, Diagnostics, Severity},
    model::{self, Access, Document, Rule, subject_key},
    profile::{CompiledProfile, List, RuleInfo, Stats, cell},
    set::BUILTIN_FILE,
};

/// Most states of all automata of a profile. A state takes at least two cells of [`MAX_CELLS`].
const MAX_STATES: usize = 1_000_000;
/// Most cells of a profile: 16 MiB.
const MAX_CELLS: usize = 2 << 20;
/// Most rules of a profile. An outcome of such a rule never looks like an edge of a state that fits into
/// [`MAX_CELLS`]: the rule's index, counted down, is far above any state in the same bits.
const MAX_RULES: usize = 1 << 20;

/// The automata of one subject, in the order of the descriptor.
struct Compiled {
    subject: Subject,
    dfas: Vec<Dfa>,
    packed: Vec<Packed>,
}

/// Compiles a profile. `rules` are the document's own and all others that act in it, in the order of
/// their indices. The warnings come with the profile, errors instead of it.
pub(super) fn compile(
    document: &Document,
    rules: &[Rule],
    capabilities: &Capabilities,
) -> Result<(CompiledProfile, Diagnostics), Diagnostics> {
    let mut diagnostics = Diagnostics::default();
    check_rules(document, rules, capabilities, &mut diagnostics);
    if diagnostics.has_errors() {
        return Err(diagnostics);
    }
    let outcomes: Vec<Outcome> = rules.iter().enumerate().map(outcome).collect();
    let lowered = arguments::lower(rules);
    let mut compiled = Vec::new();
    let mut states = 0;
    let mut exact = true;
    for subject in model::SUBJECTS {
        let dfas = match build::automata(&lowered, &outcomes, subject, MAX_STATES - states) {
            Ok(automata) => {
                exact &= automata.exact;
                automata.dfas
            }
            Err(explosion) => {
                report_explosion(document, rules, subject, &explosion, &mut diagnostics);
                return Err(diagnostics);
            }
        };
        states += dfas.iter().map(|dfa| dfa.states.len()).sum::<usize>();
        let packed = dfas.iter().map(pack).collect();
        compiled.push(Compiled {
            subject,
            dfas,
            packed,
        });
    }
    if exact {
        shadow::check(document, &lowered, &outcomes, &compiled, &mut diagnostics);
    }
    let literals = literal::find(rules, &compiled, &mut diagnostics);
    let profile = assemble(document, rules, &compiled, literals);
    deputies::check(document, &profile, rules, &mut diagnostics);
    libraries::check(&profile, rules, &mut diagnostics);
    if profile.cells.len() > MAX_CELLS {
        diagnostics.push(Diagnostic::whole_file(
            &document.source.name,
            "too-large",
            format!(
                "profile \"{}\" takes {} bytes of tables, more than the {} that are allowed",
                document.name,
                profile.len_bytes(),
                MAX_CELLS * 8
            ),
            "write fewer rules, or put what belongs together under one folder".to_owned(),
        ));
    }
    if diagnostics.has_errors() {
        return Err(diagnostics);
    }
    Ok((profile, diagnostics))
}

/// The bits that tables hold for a rule.
fn outcome((index, rule): (usize, &Rule)) -> Outcome {
    let verdict = match rule.list {
        List::Deny if rule.source.name == BUILTIN_FILE => Verdict::Never,
        List::Deny if rule.kill => Verdict::Kill,
        List::Deny => Verdict::Deny,
        List::Ask => Verdict::Ask,
        List::Allow => Verdict::Allow,
    };
    let outcome = Outcome::new(verdict, rule.quiet, index as u32);
    if rule.sni {
        outcome.with_sni()
    } else {
        outcome
    }
}

/// What shows without automata: the number of rules, exceptions that except nothing, and what this
/// kernel side has no hook for.
fn check_rules(
    document: &Document,
    rules: &[Rule],
    capabilities: &Capabilities,
    diagnostics: &mut Diagnostics,
) {
    if rules.len() > MAX_RULES {
        diagnostics.push(Diagnostic::whole_file(
            &document.source.name,
            "too-large",
            format!(
                "{} rules, more than the {MAX_RULES} that are allowed",
                rules.len()
            ),
            "write fewer rules, each with a list of patterns".to_owned(),
        ));
    }
    for rule in rules {
        check_excepts(rule, diagnostics);
        let (default, _) = &document.defaults.verdicts[Subject::Name as usize][0];
        if rule.sni && *default == List::Allow {
            diagnostics.push(Diagnostic::at(
                &rule.source,
                rule.id_span.clone(),
                Severity::Error,
                "idle-sni",
                format!(
                    "rule \"{}\" requires a name of what the default opens to everybody",
                    rule.id
                ),
                "write connect = \"deny\" in [default], or leave `sni` out".to_owned(),
            ));
        }
        if rule.list == List::Allow {
            continue;
        }
        for subject in model::SUBJECTS {
            if !rule
                .patterns
                .iter()
                .any(|pattern| pattern.subject == subject)
            {
                continue;
            }
            if let Some((hook, what)) = missing(capabilities, subject, rule.verbs) {
                diagnostics.push(Diagnostic::at(
                    &rule.source,
                    rule.id_span.clone(),
                    Severity::Error,
                    "no-hook",
                    format!(
                        "rule \"{}\" needs the hook {hook} for {what}, which {} doesn't give",
                        rule.id,
                        capabilities.kernel()
                    ),
                    NO_HOOK.to_owned(),
                ));
            }
        }
    }
    for subject in model::SUBJECTS {
        for verb in 0..VERBS as u8 {
            let (verdict, span) =
                &document.defaults.verdicts[subject as usize][verb.min(4) as usize];
            if *verdict == List::Allow || model::all_verbs(subject) & 1 << verb == 0 {
                continue;
            }
            if let Some((hook, what)) = missing(capabilities, subject, 1 << verb) {
                diagnostics.push(Diagnostic::at(
                    &document.source,
                    span.clone(),
                    Severity::Error,
                    "no-hook",
                    format!(
                        "the default \"{}\" needs the hook {hook} for {what}, which {} doesn't give",
                        verdict.name(),
                        capabilities.kernel()
                    ),
                    NO_HOOK.to_owned(),
                ));
            }
        }
    }
    for (operation, hook) in capabilities.missing_operations() {
        if document.system.verdict(operation) == Verdict::Allow {
            continue;
        }
        let name = operation.name();
        diagnostics.push(Diagnostic::whole_file(
            &document.source.name,
            "no-hook",
            format!(
                "`{name}` of [system] is not allowed, which needs the hook {hook}, which {} doesn't give",
                capabilities.kernel()
            ),
            format!("{NO_HOOK}, or write {name} = \"allow\""),
        ));
    }
}

/// What to do when a hook is missing.
const NO_HOOK: &str =
    "boot a kernel that has it (`agentguard doctor` says what is missing), or don't restrict it";

/// The first hook that isn't there, and what it would be for.
fn missing(capabilities: &Capabilities, subject: Subject, verbs: u8) -> Option<(&str, String)> {
    (0..8)
        .filter(|verb| verbs & 1 << verb != 0)
        .find_map(|verb| {
            let hook = capabilities.missing_hook(subject, verb)?;
            let what = match (subject, Access::ALL.get(usize::from(verb))) {
                (Subject::File, Some(access)) => format!("{} of files", access.name()),
                (Subject::Unix, _) => "connect to Unix sockets".to_owned(),
                _ => subject_key(subject).to_owned(),
            };
            Some((hook, what))
        })
}

fn check_excepts(rule: &Rule, diagnostics: &mut Diagnostics) {
    for except in &rule.except {
        let meets = rule
            .patterns
            .iter()
            .filter(|pattern| pattern.subject == except.subject)
            .flat_map(|pattern| &pattern.pattern.alternatives)
            .any(|pattern| {
                except
                    .pattern
                    .alternatives
                    .iter()
                    .any(|except| overlap(pattern, except))
            });
        if !meets {
            diagnostics.push(Diagnostic::at(
                &rule.source,
                except.span.clone(),
                Severity::Error,
                "idle-except",
                format!(
                    "this exception excludes nothing: no pattern of rule \"{}\" matches what it matches",
                    rule.id
                ),
                "write an exception that lies inside of the rule's patterns, or leave it out"
                    .to_owned(),
            ));
        }
    }
}

fn report_explosion(
    document: &Document,
    rules: &[Rule],
    subject: Subject,
    explosion: &Explosion,
    diagnostics: &mut Diagnostics,
) {
    let named: Vec<&Rule> = explosion
        .rules
        .iter()
        .filter_map(|index| rules.get(*index as usize))
        // Nobody can change those; alone they are small.
        .filter(|rule| rule.source.name != BUILTIN_FILE)
        .take(5)
        .collect();
    let list: Vec<String> = named
        .iter()
        .map(|rule| format!("\"{}\" ({}:{})", rule.id, rule.source.name, rule.line))
        .collect();
    let message = format!(
        "the `{}` patterns of profile \"{}\" multiply to more than {MAX_STATES} states, or take too long to compile; most of it comes from {}",
        subject_key(subject),
        document.name,
        list.join(", ")
    );
    let help = "begin these patterns with the folder that they are about instead of `**/`, leave `?` and all but one `*` of a component out, or write the names out".to_owned();
    diagnostics.push(match named.first() {
        Some(rule) => Diagnostic::at(
            &rule.source,
            rule.span.clone(),
            Severity::Error,
            "explosion",
            message,
            help,
        ),
        None => Diagnostic::whole_file(&document.source.name, "explosion", message, help),
    });
}

fn assemble(
    document: &Document,
    rules: &[Rule],
    compiled: &[Compiled],
    literals: Vec<super::profile::LiteralPath>,
) -> CompiledProfile {
    let mut cells: Vec<u64> = Vec::new();
    let mut stats = Stats::default();
    let mut descriptor = vec![0; DESCRIPTOR_CELLS as usize];
    descriptor[0] = cell(MAGIC, 0);
    descriptor[1] = cell(document.mode as u32, document.log_allow as u32);
    descriptor[2..APPROVALS_CELL as usize].copy_from_slice(&document.system.cells());
    let approvals = APPROVALS_CELL as usize;
    descriptor[approvals] = cell(
        document.approvals.timeout_ms,
        document.approvals.cooldown_ms,
    );
    let times = own_times(rules);
    descriptor[approvals + 1] = cell(
        document.approvals.max_pending,
        if times.is_empty() {
            ABSENT
        } else {
            cells.len() as u32
        },
    );
    cells.extend(times);
    let mut default_lines = [[0; 8]; SUBJECTS as usize];
    for subject in 0..SUBJECTS {
        let first = (HEADER_CELLS + subject * SUBJECT_CELLS) as usize;
        let part = compiled
            .iter()
            .find(|compiled| compiled.subject as u32 == subject);
        for automaton in 0..AUTOMATA {
            let packed = part.and_then(|part| part.packed.get(automaton));
            descriptor[first + automaton] = match packed {
                None => cell(ABSENT, SINK),
                Some(packed) => {
                    let base = cells.len() as u32;
                    cells.extend_from_slice(&packed.cells);
                    cell(base, packed.states[0])
                }
            };
        }
        // What the language has no word for is denied.
        let mut row = [Outcome::new(Verdict::Deny, false, Outcome::DEFAULT_RULE); VERBS as usize];
        if subject == named::SUBJECT {
            for kind in address::named_kinds(rules) {
                row[kind as usize] = Outcome::new(Verdict::Allow, false, Outcome::DEFAULT_RULE);
            }
            row[named::OWN as usize] = of_own_sockets(compiled);
        }
        if let Some(verdicts) = document.defaults.verdicts.get(subject as usize) {
            for (verb, (verdict, span)) in verdicts.iter().enumerate() {
                let verdict = match verdict {
                    List::Deny => Verdict::Deny,
                    List::Ask => Verdict::Ask,
                    List::Allow => Verdict::Allow,
                };
                row[verb] = Outcome::new(verdict, false, Outcome::DEFAULT_RULE);
                if !span.is_empty() {
                    default_lines[subject as usize][verb] = document.source.position(span.start).0;
                }
            }
        }
        for pair in 0..ACCEPT_ROW as usize {
            descriptor[first + AUTOMATA + pair] = cell(row[pair * 2].0, row[pair * 2 + 1].0);
        }
    }
    for dfa in compiled.iter().flat_map(|compiled| &compiled.dfas) {
        stats.automata += 1;
        stats.states += dfa.states.len() as u32;
        stats.edges += dfa.edges.len() as u32;
    }
    let position = cells.len() as u32;
    cells.extend(descriptor);
    CompiledProfile {
        name: document.name.clone(),
        description: document.description.clone(),
        mode: document.mode,
        log_allow: document.log_allow,
        rules: rules
            .iter()
            .map(|rule| rule_info(rule, document.approvals))
            .collect(),
        literals,
        stats,
        approvals: document.approvals,
        resolvers: document.resolvers.clone(),
        cells,
        descriptor: position,
        default_lines,
        file: document.source.name.clone(),
    }
}

/// The times that the rules wait for an answer, as a descriptor has them; nothing when no rule has one of its own.
fn own_times(rules: &[Rule]) -> Vec<u64> {
    if rules.iter().all(|rule| rule.timeout.is_none()) {
        return Vec::new();
    }
    let own_ms = |rule: Option<&Rule>| {
        let timeout = rule.and_then(|rule| rule.timeout).unwrap_or_default();
        // At most a day, and never rounded to "none".
        u32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
    };
    rules
        .chunks(2)
        .map(|pair| cell(own_ms(pair.first()), own_ms(pair.get(1))))
        .collect()
}

/// What the rules say of the agent's own sockets; that nothing does is a denial.
fn of_own_sockets(compiled: &[Compiled]) -> Outcome {
    let part = compiled
        .iter()
        .find(|part| part.subject == Subject::Connect);
    let mut row = NO_ROW;
    for dfa in part.iter().flat_map(|part| &part.dfas) {
        merge(&mut row, dfa.row(dfa.walk(0, &OWN)));
    }
    match row[usize::from(verb::ONLY)] {
        Outcome::NONE => Outcome::new(Verdict::Deny, false, Outcome::DEFAULT_RULE),
        outcome => outcome,
    }
}

fn rule_info(rule: &Rule, approvals: Approvals) -> RuleInfo {
    let usual = Duration::from_millis(approvals.timeout_ms.into());
    RuleInfo {
        id: rule.id.clone(),
        list: rule.list,
        kill: rule.kill,
        profile: rule.profile.to_string(),
        file: rule.source.name.clone(),
        line: rule.line,
        because: rule.because.clone(),
        timeout: (rule.list == List::Ask).then(|| rule.timeout.unwrap_or(usual)),
        quiet: rule.quiet,
    }
}
