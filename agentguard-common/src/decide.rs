//! The one decision function. The kernel runs it on maps, `agentguard policy explain|test` on
//! vectors, and the conformance cases on both, so that the simulator can't drift from the kernel.
//!
//! It knows nothing of tasks, grants or logging: a question goes in, the strictest answer comes out.
//!
//! # Unrolled
//!
//! Steps over the automata are written out, with constant indexes, so that an engine without a map (that
//! of packets) keeps its cursor in registers. KERNEL: before 6.8 the verifier doesn't follow numbers
//! that are read from the stack through another register than the frame pointer (mainline 41f6f64e6999
//! does); it takes two states that differ in them alone for the same, looks at one of them, and may cut
//! out a branch that only the other one takes.

use crate::{
    automaton::{self, ABSENT, Cursor, Tables, VERBS},
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
    /// The rest of a host's name (its protocol and its port), known to the automata by where they stand after the
    /// name: only those states are looked at, as identities' are.
    Named = 4,
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

/// The object, the tables it is judged by, and a place for what was found so far.
///
/// The kernel keeps that in a map, whose contents the verifier doesn't follow; in registers and on the
/// stack it would follow every way that every answer can come about. For the same reason the question
/// is asked back in parts.
pub trait Engine: Tables {
    /// Takes the question, for the profile whose descriptor is at arena cell `profile`.
    fn ask(&mut self, profile: u32, question: Question);
    /// Arena cell of the profile's descriptor.
    fn profile(&self) -> u32;
    /// The question's [`Subject`] as a number.
    fn subject(&self) -> u32;
    /// The question's [`Text`] as a number.
    fn text(&self) -> u32;
    /// Whether the question asks for `verb` (0 to 7).
    fn asks(&self, verb: u32) -> bool;

    /// The strictest outcome so far for `verb` (0 to 7).
    fn outcome(&self, verb: u32) -> Outcome;
    /// Replaces it.
    fn set_outcome(&mut self, verb: u32, outcome: Outcome);
    /// The strictest decision so far.
    fn decision(&self) -> Decision;
    /// Replaces it.
    fn set_decision(&mut self, decision: Decision);

    /// Index of the object's first byte.
    fn start(&self) -> u32;
    /// How many identities were met, at most [`ALIASES`].
    fn aliases(&self) -> u32;
    /// The identity with this number, states already those of the asked subject.
    fn alias(&self, number: u32) -> Option<Alias>;
    /// Where the automata stand.
    fn cursor(&mut self) -> &mut Cursor;
    /// Feeds the object's bytes from index `from` to the end. `None` when the tables are broken.
    fn feed(&mut self, from: u32) -> Option<()>;

    /// Calls [`look`] with every number from 0 to `last`. `None` as soon as it gives `None`.
    fn look_at_all(&mut self, last: u32) -> Option<()>
    where
        Self: Sized,
    {
        (0..=last).try_for_each(|number| look(self, number))
    }
}

/// Judges one action by the profile whose descriptor is at arena cell `profile`.
#[inline(always)]
pub fn decide<E: Engine>(engine: &mut E, profile: u32, question: Question) -> Decision {
    engine.ask(profile, question);
    answer(engine)
}

/// Judges the question that the engine was asked.
#[inline(always)]
pub fn answer<E: Engine>(engine: &mut E) -> Decision {
    begin(engine);
    let aliases = engine.aliases();
    if aliases > ALIASES as u32 || engine.look_at_all(aliases).is_none() {
        // FAIL-CLOSED: the arena doesn't hold what the descriptor says.
        return Decision::refuse(Reason::TablesBroken);
    }
    conclude(engine)
}

/// Forgets what was found for an earlier question.
#[inline(always)]
pub fn begin<E: Engine>(engine: &mut E) {
    engine.set_decision(Decision {
        outcome: Outcome::NONE,
        verb: 0,
        reason: Reason::TablesBroken,
    });
    let mut verb = 0;
    while verb < VERBS {
        engine.set_outcome(verb, Outcome::NONE);
        verb += 1;
    }
}

/// What the rules about an address and those about the names that it was looked up by come to: a rule beats the
/// `[default]`, and of two rules the stricter one counts.
#[inline(always)]
pub fn with_names(address: Decision, names: Decision) -> Decision {
    if names.reason as u8 != Reason::Rule as u8 {
        return address;
    }
    let is_default = address.reason as u8 == Reason::Default as u8;
    if is_default
        || names.outcome.0 > address.outcome.0 && address.reason as u8 == Reason::Rule as u8
    {
        names
    } else {
        address
    }
}

/// The answer, from what was collected.
#[inline(always)]
pub fn conclude<E: Engine>(engine: &mut E) -> Decision {
    let mut verb = 0;
    while verb < VERBS {
        if engine.asks(verb) && settle(engine, verb).is_none() {
            // FAIL-CLOSED: as above.
            return Decision::refuse(Reason::TablesBroken);
        }
        verb += 1;
    }
    let decision = engine.decision();
    if decision.outcome.rank() == Verdict::None as u32 {
        // FAIL-CLOSED: a question without a verb, or a default row with a hole.
        return Decision::refuse(Reason::TablesBroken);
    }
    decision
}

/// Collects what the object's text says (`number` 0) or one of its identities (from 1 on).
#[inline(always)]
pub fn look<E: Engine>(engine: &mut E, number: u32) -> Option<()> {
    if look_until_end(engine, number)? {
        collect(engine)?;
    }
    Some(())
}

/// Brings the cursor to where the object's text (`number` 0) or one of its identities (from 1 on) leads.
/// False when it means nothing.
#[inline(always)]
pub fn look_until_end<E: Engine>(engine: &mut E, number: u32) -> Option<bool> {
    *engine.cursor() = profile::cursor(engine, engine.profile(), engine.subject())?;
    let mut from = engine.start();
    if number == 0 {
        if engine.text() == Text::Internal as u32 || engine.text() == Text::Named as u32 {
            return Some(false);
        }
    } else {
        let alias = engine.alias(number - 1)?;
        engine.cursor().state = alias.states;
        from = alias.from;
    }
    engine.feed(from)?;
    Some(true)
}

/// Adds the accepting rows that the cursor stands on to the engine's outcomes: all verbs, because
/// asking which are wanted costs the verifier more than reading the others costs the kernel.
#[inline(always)]
pub fn collect<E: Engine>(engine: &mut E) -> Option<()> {
    const { assert!(AUTOMATA == 4) };
    let _ = collect_one::<0, E>(engine)?
        && collect_one::<1, E>(engine)?
        && collect_one::<2, E>(engine)?
        && collect_one::<3, E>(engine)?;
    Some(())
}

/// Adds what automaton number `I` accepts. False when there is none.
#[inline(always)]
fn collect_one<const I: usize, E: Engine>(engine: &mut E) -> Option<bool> {
    let cursor = engine.cursor();
    let (base, state) = (cursor.base[I], cursor.state[I]);
    if base == ABSENT {
        return Some(false);
    }
    let (row, _) = automaton::accept(engine, base, state)?;
    if row == 0 {
        return Some(true);
    }
    let mut verb = 0;
    while verb < VERBS {
        let cell = engine.cell(row.wrapping_add(verb >> 1))?;
        let first = engine.outcome(verb).stricter(Outcome(cell as u32));
        engine.set_outcome(verb, first);
        let second = engine
            .outcome(verb + 1)
            .stricter(Outcome((cell >> 32) as u32));
        engine.set_outcome(verb + 1, second);
        verb += 2;
    }
    Some(true)
}

/// What one verb comes to: its rule, else what its kind of text deserves, else the default. Kept when
/// it is stricter than what other verbs came to.
#[inline(always)]
fn settle<E: Engine>(engine: &mut E, verb: u32) -> Option<()> {
    const REFUSED: Outcome = Outcome::new(Verdict::Deny, false, Outcome::DEFAULT_RULE);
    const FREE: Outcome = Outcome::new(Verdict::Allow, true, Outcome::DEFAULT_RULE);
    let ruled = engine.outcome(verb);
    let allowed = ruled.rank() == Verdict::Allow as u32;
    let text = engine.text();
    let (outcome, reason) = if ruled.rank() > Verdict::Allow as u32 {
        (ruled, Reason::Rule)
    } else if text == Text::Detached as u32 {
        // FAIL-CLOSED: text that may be forged can't allow, whatever it says.
        (REFUSED, Reason::Detached)
    } else if text == Text::Internal as u32 {
        (FREE, Reason::Internal)
    } else if allowed {
        (ruled, Reason::Rule)
    } else if text == Text::Pseudo as u32 {
        // FAIL-CLOSED: a program without a name is denied unless a rule names its kind.
        (REFUSED, Reason::NoPath)
    } else {
        let default = profile::default_outcome(engine, engine.profile(), engine.subject(), verb)?;
        (default, Reason::Default)
    };
    engine.set_outcome(verb, outcome);
    if outcome.rank() > engine.decision().outcome.rank() {
        engine.set_decision(Decision {
            outcome,
            verb: verb as u8,
            reason,
        });
    }
    Some(())
}
