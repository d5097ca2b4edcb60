//! The one decision function. The kernel runs it on maps, `agentguard policy explain|test` on
//! vectors, and the conformance cases on both, so that the simulator can't drift from the kernel.
//!
//! It knows nothing of tasks, grants or logging: a question goes in, the strictest answer comes out.

use crate::{
    automaton::{self, ABSENT, AUTOMATA_RANGE, Cursor, Tables, VERBS},
    event::Reason,
    limits::{ALIASES, AUTOMATA},
    outcome::{Outcome, Verdict},
    profile::{self, Subject},
};

/// What kind of text the object has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Text {
    /// A path below the root of the acting task's mount namespace, or an address: it may be believed.
    Attached = 0,
    /// A path on a mount that isn't in the acting task's mount namespace: anybody may have forged
    /// it, so it can only deny.
    Detached = 1,
    /// A pseudo-path (`memfd:`, `deleted:`) of a file that has none. Denied unless a rule allows it.
    Pseudo = 2,
    /// A file on a kernel-internal mount (pipes, sockets, the lower layer of an overlay), whose text
    /// means nothing: only identities are looked at.
    Internal = 3,
}

/// What is asked of a profile.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub subject: Subject,
    /// Set of verbs asked for at once, one bit each; the strictest verb decides.
    pub verbs: u8,
    pub text: Text,
}

/// The answer, and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub outcome: Outcome,
    /// The verb that decided.
    pub verb: u8,
    pub reason: Reason,
}

impl Decision {
    /// A denial that no rule asked for.
    #[inline(always)]
    pub const fn refuse(reason: Reason) -> Self {
        Self {
            outcome: Outcome::new(Verdict::Deny, false, Outcome::DEFAULT_RULE),
            verb: 0,
            reason,
        }
    }
}

/// An identity met on the way from the object to its root.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Alias {
    /// Where the automata stand after the identity's canonical path.
    pub states: [u32; AUTOMATA],
    /// Index of the object's byte that comes after the name under which the identity was met.
    pub from: u32,
    pub padding: u32,
}

/// The object, the tables it is judged by, and a place for what was found so far (the kernel keeps it
/// in a map, whose contents the verifier doesn't follow; on the stack it would follow every way that
/// every outcome can come about).
pub trait Engine: Tables {
    /// The strictest outcome so far for `verb` (0 to 7).
    fn outcome(&self, verb: u32) -> Outcome;
    /// Replaces it.
    fn set_outcome(&mut self, verb: u32, outcome: Outcome);
    /// Feeds the object's bytes from index `from` to the end. `None` when the tables are broken.
    fn feed(&mut self, cursor: &mut Cursor, from: u32) -> Option<()>;
    /// Index of the object's first byte.
    fn start(&self) -> u32;
    /// How many identities were met.
    fn aliases(&self) -> u32;
    /// The identity with this number, states already those of the asked subject.
    fn alias(&self, number: u32) -> Option<Alias>;
}

/// Judges one action by the profile whose descriptor is at arena cell `profile`.
#[inline(always)]
pub fn decide<E: Engine>(engine: &mut E, profile: u32, question: Question) -> Decision {
    if judge(engine, profile, question).is_none() {
        // FAIL-CLOSED: the arena doesn't hold what the descriptor says.
        return Decision::refuse(Reason::TablesBroken);
    }
    let mut best = Decision {
        outcome: Outcome::NONE,
        verb: 0,
        reason: Reason::Rule,
    };
    let mut verb = 0;
    while verb < VERBS {
        if question.verbs & (1 << verb) != 0 {
            let ruled = engine.outcome(verb);
            let Some(decision) = settle(engine, profile, question, verb, ruled) else {
                // FAIL-CLOSED: as above.
                return Decision::refuse(Reason::TablesBroken);
            };
            if decision.outcome.rank() > best.outcome.rank() {
                best = decision;
            }
        }
        verb += 1;
    }
    if best.outcome.rank() == Verdict::None as u32 {
        // FAIL-CLOSED: a question without a verb, or a default row with a hole.
        return Decision::refuse(Reason::TablesBroken);
    }
    best
}

/// Collects what text and identities say.
#[inline(always)]
fn judge<E: Engine>(engine: &mut E, profile: u32, question: Question) -> Option<()> {
    let mut verb = 0;
    while verb < VERBS {
        engine.set_outcome(verb, Outcome::NONE);
        verb += 1;
    }
    let initial = profile::cursor(engine, profile, question.subject)?;
    if question.text as u8 != Text::Internal as u8 {
        let mut cursor = initial;
        let start = engine.start();
        engine.feed(&mut cursor, start)?;
        collect(engine, &cursor, question.verbs)?;
    }
    let aliases = engine.aliases();
    let mut number = 0;
    while number < ALIASES as u32 && number < aliases {
        let alias = engine.alias(number)?;
        let mut cursor = initial;
        cursor.state = alias.states;
        engine.feed(&mut cursor, alias.from)?;
        collect(engine, &cursor, question.verbs)?;
        number += 1;
    }
    Some(())
}

/// Adds the accepting rows that the cursor stands on to the engine's outcomes.
#[inline(always)]
fn collect<E: Engine>(engine: &mut E, cursor: &Cursor, verbs: u8) -> Option<()> {
    for i in AUTOMATA_RANGE {
        if cursor.base[i] == ABSENT {
            break;
        }
        let (row, _) = automaton::accept(engine, cursor.base[i], cursor.state[i])?;
        if row == 0 {
            continue;
        }
        let mut verb = 0;
        while verb < VERBS {
            if verbs & (1 << verb) != 0 {
                let outcome = automaton::row_outcome(engine, row, verb)?;
                let stricter = engine.outcome(verb).stricter(outcome);
                engine.set_outcome(verb, stricter);
            }
            verb += 1;
        }
    }
    Some(())
}

/// What one verb comes to: its rule, else what its kind of text deserves, else the default.
#[inline(always)]
fn settle<T: Tables>(
    tables: &T,
    profile: u32,
    question: Question,
    verb: u32,
    ruled: Outcome,
) -> Option<Decision> {
    let decision = |outcome, reason| {
        Some(Decision {
            outcome,
            verb: verb as u8,
            reason,
        })
    };
    let refuse = |reason| {
        decision(
            Outcome::new(Verdict::Deny, false, Outcome::DEFAULT_RULE),
            reason,
        )
    };
    if ruled.rank() > Verdict::Allow as u32 {
        return decision(ruled, Reason::Rule);
    }
    match question.text {
        // FAIL-CLOSED: text that may be forged can't allow, whatever it says.
        Text::Detached => refuse(Reason::Detached),
        Text::Internal => decision(
            Outcome::new(Verdict::Allow, true, Outcome::DEFAULT_RULE),
            Reason::Internal,
        ),
        Text::Attached | Text::Pseudo if ruled.rank() == Verdict::Allow as u32 => {
            decision(ruled, Reason::Rule)
        }
        // FAIL-CLOSED: a program without a name is denied unless a rule names its kind.
        Text::Pseudo => refuse(Reason::NoPath),
        Text::Attached => decision(
            profile::default_outcome(tables, profile, question.subject, verb)?,
            Reason::Default,
        ),
    }
}
