//! Giving a file another name: what a rename or a link comes to. Renaming and linking never lift a
//! protection, neither of the file nor, when it is a directory, of anything below it.
//!
//! Both names are judged for every access. What the operation itself needs of each name is one part of the
//! answer; the other is that for each access the old name's verdict stands where it is the stricter one.
//!
//! Of a directory it is also asked what becomes of all that is below, without looking: the states of the
//! automata after either name and a `/` are compared. Where they are the same, or no rule that denies or
//! asks can be reached, nothing changes for what is below. That also goes for the states that identities
//! lead to, so that there is a set of states on each side.
//!
//! A symlink that gets a name may lead anywhere, and what is below the name is elsewhere then: it must not get the
//! name of a folder in which things are protected that aren't so in any other folder. Of a new symlink the old name is
//! made up: any other one in the same folder.

use crate::{
    automaton::{self, ABSENT, RESTRICTS, SINK, STATE},
    decide::{Decision, Engine, Text, look_until_end},
    event::Reason,
    limits::AUTOMATA,
    outcome::{Outcome, Verdict},
};

/// Number of the side with the old name.
pub const OLD: u32 = 0;
/// Number of the side with the new name.
pub const NEW: u32 = 1;
/// Accesses to a file.
pub const ACCESSES: u32 = 5;
/// The set of all of them.
pub const ALL_ACCESSES: u32 = (1 << ACCESSES) - 1;
/// Texts and identities that can be told apart on one side. One more is a refusal.
pub const TRACKS: u32 = 16;
/// In [`Moved::below`]: what is below either name may get other rules.
pub const BELOW: u32 = 1;
/// In [`Moved::below`]: only what is below the new name may.
pub const ONE_WAY: u32 = 2;
/// In [`Moved::below`]: the old name is made up, and nothing is asked of it.
pub const MADE_UP: u32 = 4;
/// Rows of marks: one for each automaton on each side.
pub const ROWS: u32 = 2 * AUTOMATA as u32;

/// What was found out about both names. Shared with the kernel, which keeps it in the task's workspace.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Moved {
    /// Per side, the outcome of each access.
    pub kept: [[Outcome; 8]; 2],
    /// Per side and automaton, where each text or identity leads below the name: 0, or one more than a
    /// state from which a denial or an ask can be reached.
    pub marks: [[u32; TRACKS as usize]; ROWS as usize],
    /// Marks in use, per side.
    pub tracks: [u32; 2],
    /// The names: per side the `struct vfsmount *` and the `struct dentry *`.
    pub mounts: [u64; 2],
    pub dentries: [u64; 2],
    /// Per side, the set of accesses that the operation itself needs.
    pub wanted: [u32; 2],
    /// Per side, the name's [`Text`].
    pub texts: [u32; 2],
    /// Not 0 when the file under the new name gets the old one.
    pub exchange: u32,
    /// What becomes of what is below the names: 0 when nothing is, or a set of [`BELOW`], [`ONE_WAY`] and [`MADE_UP`].
    pub below: u32,
    /// The side that is being looked at, and that decided.
    pub side: u32,
    /// Set of accesses that decided.
    pub verbs: u32,
    /// 1 when a mark has no equal on the other side.
    pub differs: u32,
    /// 1 when a name could not be looked at.
    pub failed: u32,
    /// The number with which a loop over accesses begins.
    pub first: u32,
    /// 1 when a mark has an equal on the other side.
    pub found: u32,
}

impl Moved {
    pub const EMPTY: Self = Self {
        kept: [[Outcome::NONE; 8]; 2],
        marks: [[0; TRACKS as usize]; ROWS as usize],
        tracks: [0; 2],
        mounts: [0; 2],
        dentries: [0; 2],
        wanted: [0; 2],
        texts: [0; 2],
        exchange: 0,
        below: 0,
        side: 0,
        verbs: 0,
        differs: 0,
        failed: 0,
        first: 0,
        found: 0,
    };
}

/// An engine with a place for what it finds out about two names.
pub trait Mover: Engine {
    fn kept(&self, side: u32, verb: u32) -> Outcome;
    fn keep(&mut self, side: u32, verb: u32, outcome: Outcome);
    fn mark(&self, row: u32, track: u32) -> u32;
    fn set_mark(&mut self, row: u32, track: u32, mark: u32);
    fn tracks(&self, side: u32) -> u32;
    fn set_tracks(&mut self, side: u32, tracks: u32);
    /// Whether an equal of a mark was found.
    fn found(&self) -> u32;
    fn set_found(&mut self, found: u32);
    /// The side that is being looked at.
    fn side(&self) -> u32;
    /// Replaces the decision, and says which name and which accesses it is about.
    fn settle_on(&mut self, side: u32, verbs: u32, decision: Decision);

    /// Set of accesses to the name on one side that the operation itself needs.
    fn wanted(&self, side: u32) -> u32;
    /// The [`Text`] of the name on one side as a number.
    fn name_text(&self, side: u32) -> u32;
    /// Whether the file under the new name gets the old one.
    fn is_exchange(&self) -> bool;
    /// [`Moved::below`].
    fn below(&self) -> u32;

    /// Calls [`settle_own`] with `count` numbers from `first` on.
    fn own_all(&mut self, first: u32, count: u32)
    where
        Self: Sized,
    {
        (first..first + count).for_each(|number| settle_own(self, number));
    }

    /// Calls [`settle_lifted`] with every number below `count`.
    fn lifted_all(&mut self, count: u32)
    where
        Self: Sized,
    {
        (0..count).for_each(|number| settle_lifted(self, number));
    }

    /// Calls [`trace`] with every number from 0 to `last`. `None` as soon as it gives `None`.
    fn trace_all(&mut self, last: u32) -> Option<()>
    where
        Self: Sized,
    {
        (0..=last).try_for_each(|number| trace(self, number))
    }

    /// Whether [`differs`] for no number below [`ROWS`] times [`TRACKS`].
    fn is_same_below(&mut self) -> bool
    where
        Self: Sized,
    {
        (0..ROWS * TRACKS).all(|number| !differs(self, number))
    }
}

/// Keeps what the question that was just answered, about all accesses, says of the name that is
/// looked at.
#[inline(always)]
pub fn keep_answer<M: Mover>(mover: &mut M) {
    let mut verb = 0;
    while verb < ACCESSES {
        let side = mover.side();
        let outcome = mover.kept(side, verb).stricter(mover.outcome(verb));
        mover.keep(side, verb, outcome);
        verb += 1;
    }
}

/// Notes where the object's text (`number` 0) or one of its identities (from 1 on) leads below the object.
#[inline(always)]
pub fn trace<M: Mover>(mover: &mut M, number: u32) -> Option<()> {
    if !look_until_end(mover, number)? {
        return Some(());
    }
    let side = mover.side();
    let track = mover.tracks(side);
    if track >= TRACKS {
        return None;
    }
    mark::<0, M>(mover, side, track)?;
    mark::<1, M>(mover, side, track)?;
    mark::<2, M>(mover, side, track)?;
    mark::<3, M>(mover, side, track)?;
    mover.set_tracks(side, track + 1);
    Some(())
}

/// The mark of automaton number `I`, after a `/`.
#[inline(always)]
fn mark<const I: usize, M: Mover>(mover: &mut M, side: u32, track: u32) -> Option<()> {
    const { assert!(AUTOMATA == 4) };
    let cursor = mover.cursor();
    let (base, mut state) = (cursor.base[I], cursor.state[I]);
    let mut mark = 0;
    if base != ABSENT {
        if state & SINK == 0 {
            state = automaton::step(mover, base, state, b'/')?;
        }
        let (_, flags) = automaton::accept(mover, base, state)?;
        if flags & RESTRICTS != 0 {
            mark = (state & STATE) + 1;
        }
    }
    mover.set_mark(side * AUTOMATA as u32 + I as u32, track, mark);
    Some(())
}

/// Whether mark `number % TRACKS` of row `number / TRACKS` has no equal in the other side's row.
#[inline(always)]
pub fn differs<M: Mover>(mover: &mut M, number: u32) -> bool {
    let (row, track) = (number / TRACKS, number % TRACKS);
    let mark = mover.mark(row, track);
    if mark == 0 || row < AUTOMATA as u32 && mover.below() & ONE_WAY != 0 {
        return false;
    }
    let other = row ^ AUTOMATA as u32;
    // VERIFIER: what was found is with the engine; in a register it would be followed for every mark.
    mover.set_found(0);
    let mut track = 0;
    while track < TRACKS {
        if mover.mark(other, track) == mark {
            mover.set_found(1);
        }
        track += 1;
    }
    mover.found() == 0
}

/// Settles on access `number % 8` to the name on side `number / 8`, when the operation itself needs it and it
/// is stricter than the decision so far.
#[inline(always)]
pub fn settle_own<M: Mover>(mover: &mut M, number: u32) {
    let (side, verb) = (number >> 3, number & 7);
    if verb >= ACCESSES || mover.wanted(side) & (1 << verb) == 0 {
        return;
    }
    if mover.kept(side, verb).0 > mover.decision().outcome.0 {
        let decision = because(mover, side, verb);
        let wanted = mover.wanted(side);
        mover.settle_on(side, wanted, decision);
    }
}

/// Settles on access `number % 8` when the name on side `number / 8` is stricter about it than the other one,
/// and than the decision so far.
#[inline(always)]
pub fn settle_lifted<M: Mover>(mover: &mut M, number: u32) {
    let (side, verb) = (number >> 3, number & 7);
    let rank = mover.kept(side, verb).rank();
    if verb < ACCESSES
        && rank > mover.kept(side ^ 1, verb).rank()
        && rank > mover.decision().outcome.rank()
    {
        let decision = because(mover, side, verb);
        mover.settle_on(side, 1 << verb, decision);
    }
}

/// An outcome that was kept, with its reason.
#[inline(always)]
fn because<M: Mover>(mover: &M, side: u32, verb: u32) -> Decision {
    let outcome = mover.kept(side, verb);
    let reason = if outcome.rule() != Outcome::DEFAULT_RULE {
        Reason::Rule
    } else if mover.name_text(side) == Text::Detached as u32 {
        Reason::Detached
    } else if mover.name_text(side) == Text::Internal as u32 {
        Reason::Internal
    } else {
        Reason::Default
    };
    Decision {
        outcome,
        verb: verb as u8,
        reason,
    }
}

/// What a rename or a link comes to, after both names were looked at. Which name it is about is left with the
/// engine.
#[inline(always)]
pub fn settle<M: Mover>(mover: &mut M) {
    mover.settle_on(OLD, 0, NOTHING);
    mover.own_all(0, NUMBERS);
    let sides = if mover.is_exchange() { 2 } else { 1 };
    mover.lifted_all(sides * SIDE);
    if mover.decision().outcome.rank() == Verdict::Allow as u32
        && mover.below() != 0
        && !mover.is_same_below()
    {
        let side = if mover.below() & ONE_WAY != 0 {
            NEW
        } else {
            OLD
        };
        let wanted = mover.wanted(side);
        mover.settle_on(side, wanted, Decision::refuse(Reason::WouldLift));
    }
}

/// What is allowed of the name on one side by itself.
#[inline(always)]
pub fn settle_side<M: Mover>(mover: &mut M, side: u32) {
    mover.settle_on(side, 0, NOTHING);
    mover.own_all(side * SIDE, SIDE);
}

/// Numbers of one side's accesses, with a few to spare.
pub const SIDE: u32 = 8;
/// Numbers of both sides' accesses.
pub const NUMBERS: u32 = 2 * SIDE;

/// Stands where no decision was made. FAIL-CLOSED: what stays so is refused.
pub const NOTHING: Decision = Decision {
    outcome: Outcome::NONE,
    verb: 0,
    reason: Reason::TablesBroken,
};

const _: () = {
    assert!(size_of::<Moved>() == 64 + 512 + 88);
    assert!(TRACKS.is_power_of_two());
};
