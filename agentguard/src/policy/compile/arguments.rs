//! Rules that look at arguments: their patterns over `PATH NUL ARGUMENT NUL …`, for the subject
//! `Subject::Args`. The text is one string like any other, so that the automata need to know nothing of it.

use std::{borrow::Cow, sync::Arc};

use agentguard_common::profile::Subject;

use crate::policy::{
    model::{Rule, RulePattern},
    profile::List,
    tokens::{Pattern, Token},
};

/// The rules with what they say of programs with their arguments. Where no rule looks at arguments, the rules as
/// they are: nobody then asks about the subject. Where one does, every rule about programs is there too, with
/// any arguments; one that looks at arguments and allows says nothing of the program alone.
pub(super) fn lower(rules: &[Rule]) -> Cow<'_, [Rule]> {
    let looks = |rule: &Rule| {
        !rule.args.is_empty() || rule.except.iter().any(|except| !except.args.is_empty())
    };
    if !rules.iter().any(looks) {
        return Cow::Borrowed(rules);
    }
    let mut rules = rules.to_vec();
    for rule in &mut rules {
        let is_program = |pattern: &&RulePattern| pattern.subject == Subject::Exec;
        let programs = rule.patterns.iter().filter(is_program);
        let patterns: Vec<RulePattern> = programs
            .map(|pattern| with_arguments(pattern, &rule.args))
            .collect();
        let programs = rule.except.iter().filter(is_program);
        let except: Vec<RulePattern> = programs
            .map(|pattern| with_arguments(pattern, &pattern.args))
            .collect();
        // Where the arguments are unknown, an exception for some of them is none.
        rule.except.retain(|pattern| pattern.args.is_empty());
        // What is mapped as code gets no arguments: it is refused with any, and allowed with none.
        if !rule.args.is_empty() && rule.list == List::Allow {
            rule.patterns.clear();
            rule.except.clear();
        }
        rule.patterns.extend(patterns);
        rule.except.extend(except);
    }
    Cow::Owned(rules)
}

/// How many alternatives a program's pattern has together with its arguments.
pub(in crate::policy) fn alternatives(programs: &[RulePattern], args: &[Pattern]) -> usize {
    let programs: usize = programs
        .iter()
        .map(|pattern| pattern.pattern.alternatives.len() * 2)
        .sum();
    args.iter().fold(programs, |product, pattern| {
        product.saturating_mul(pattern.alternatives.len())
    })
}

fn with_arguments(program: &RulePattern, args: &[Pattern]) -> RulePattern {
    let mut alternatives: Vec<Vec<Token>> = program
        .pattern
        .alternatives
        .iter()
        .flat_map(|tokens| path(tokens))
        .collect();
    for pattern in args {
        alternatives = alternatives
            .iter()
            .flat_map(|front| {
                pattern.alternatives.iter().map(|argument| {
                    let mut tokens = front.clone();
                    tokens.extend_from_slice(argument);
                    if *argument != [Token::Arguments] {
                        tokens.push(Token::Byte(0));
                    }
                    tokens
                })
            })
            .collect();
    }
    for tokens in &mut alternatives {
        if args.is_empty() {
            tokens.push(Token::ArgumentsRest);
        } else if tokens.last() == Some(&Token::Arguments) {
            // Whatever follows, it is arguments.
            tokens.pop();
            tokens.push(Token::ArgumentsRest);
        }
    }
    RulePattern {
        pattern: Arc::new(Pattern { alternatives }),
        subject: Subject::Args,
        ..program.clone()
    }
}

/// A path pattern with the NUL that ends the path: of `/**` there are two, the folder itself and what is below.
fn path(tokens: &[Token]) -> Vec<Vec<Token>> {
    let mut found = Vec::with_capacity(tokens.len() + 2);
    let mut folder = None;
    for token in tokens {
        match *token {
            Token::Set(mut set) => {
                set.remove(0);
                found.push(set.token());
            }
            Token::Star => found.push(Token::Name),
            Token::Deep => found.push(Token::DeepName),
            Token::Rest => found.push(Token::NameRest),
            Token::Below => {
                folder = Some(found.clone());
                found.extend([Token::Byte(b'/'), Token::NameRest]);
            }
            token => found.push(token),
        }
    }
    let mut both: Vec<Vec<Token>> = folder.into_iter().chain([found]).collect();
    both.iter_mut()
        .for_each(|tokens| tokens.push(Token::Byte(0)));
    both
}
