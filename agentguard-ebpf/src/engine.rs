//! The decision's engine on maps: tables are the arena, the object is in the task's workspace.

use agentguard_common::{
    Decision, Engine, Outcome, Question,
    automaton::{Cursor, Tables},
    decide::{Alias, look},
    event::Reason,
    label::{OBJECT_BYTES, TaskState},
    limits::ALIASES,
    moved::{Mover, ROWS, TRACKS, differs, settle_lifted, settle_own, trace},
};
use aya_ebpf::{
    cty::{c_long, c_void},
    helpers::generated::bpf_loop,
};

use crate::{kernel, maps::AUTOMATON};

/// The arena.
pub struct Arena;

impl Tables for Arena {
    #[inline(always)]
    fn cell(&self, index: u32) -> Option<u64> {
        AUTOMATON.get(index).copied()
    }
}

/// The workspace of one task.
pub struct Workspace {
    pub state: *mut TaskState,
}

impl Workspace {
    /// Feeds the object's bytes from index `from` to `stop`. `None` when the tables are broken.
    #[inline(always)]
    pub fn feed_until(&mut self, from: u32, stop: u32) -> Option<()> {
        if from > stop || stop > OBJECT_BYTES as u32 {
            return None;
        }
        // SAFETY: the task's own map value; the callback has the signature that bpf_loop calls.
        unsafe {
            let walk = &raw mut (*self.state).walk;
            (*walk).next = from;
            (*walk).stop = stop;
            let mut context = Context { state: self.state };
            bpf_loop(
                (stop - from).div_ceil(STRIDE),
                walk_step as *mut c_void,
                (&raw mut context).cast(),
                0,
            );
            (fresh(&raw const (*walk).broken) == 0).then_some(())
        }
    }
}

impl Tables for Workspace {
    #[inline(always)]
    fn cell(&self, index: u32) -> Option<u64> {
        Arena.cell(index)
    }
}

impl Engine for Workspace {
    #[inline(always)]
    fn outcome(&self, verb: u32) -> Outcome {
        // SAFETY: the task's own map value; the mask keeps the index inside.
        unsafe {
            core::ptr::read_volatile(
                (&raw const (*self.state).outcomes)
                    .cast::<Outcome>()
                    .add((verb & 7) as usize),
            )
        }
    }

    #[inline(always)]
    fn set_outcome(&mut self, verb: u32, outcome: Outcome) {
        // SAFETY: as above.
        unsafe {
            core::ptr::write_volatile(
                (&raw mut (*self.state).outcomes)
                    .cast::<Outcome>()
                    .add((verb & 7) as usize),
                outcome,
            );
        }
    }

    #[inline(always)]
    fn ask(&mut self, profile: u32, question: Question) {
        // SAFETY: the task's own map value.
        let asked = unsafe { &mut (*self.state).asked };
        asked.profile = profile;
        asked.subject = question.subject as u32;
        asked.verbs = u32::from(question.verbs);
        asked.text = question.text as u32;
    }

    #[inline(always)]
    fn profile(&self) -> u32 {
        // SAFETY: as above.
        unsafe { fresh(&raw const (*self.state).asked.profile) }
    }

    #[inline(always)]
    fn subject(&self) -> u32 {
        // SAFETY: as above.
        unsafe { fresh(&raw const (*self.state).asked.subject) }
    }

    #[inline(always)]
    fn text(&self) -> u32 {
        // SAFETY: as above.
        unsafe { fresh(&raw const (*self.state).asked.text) }
    }

    #[inline(always)]
    fn asks(&self, verb: u32) -> bool {
        // SAFETY: as above.
        unsafe { fresh(&raw const (*self.state).asked.verbs) & (1 << verb) != 0 }
    }

    #[inline(always)]
    fn decision(&self) -> Decision {
        // SAFETY: as above.
        unsafe {
            let asked = &raw const (*self.state).asked;
            Decision {
                outcome: Outcome(fresh(&raw const (*asked).outcome)),
                verb: fresh(&raw const (*asked).verb) as u8,
                reason: reason(fresh(&raw const (*asked).reason)),
            }
        }
    }

    #[inline(always)]
    fn set_decision(&mut self, decision: Decision) {
        // SAFETY: as above.
        let asked = unsafe { &mut (*self.state).asked };
        asked.outcome = decision.outcome.0;
        asked.verb = u32::from(decision.verb);
        asked.reason = decision.reason as u32;
    }

    #[inline(always)]
    fn look_at_all(&mut self, last: u32) -> Option<()> {
        let mut context = Context { state: self.state };
        // SAFETY: the task's own map value; the callback has the signature that bpf_loop calls.
        unsafe {
            (*self.state).walk.broken = 0;
            bpf_loop(
                last + 1,
                look_step as *mut c_void,
                (&raw mut context).cast(),
                0,
            );
            (fresh(&raw const (*self.state).walk.broken) == 0).then_some(())
        }
    }

    #[inline(always)]
    fn cursor(&mut self) -> &mut Cursor {
        // SAFETY: the task's own map value.
        unsafe { &mut (*self.state).walk.cursor }
    }

    #[inline(always)]
    fn feed(&mut self, from: u32) -> Option<()> {
        self.feed_until(from, OBJECT_BYTES as u32)
    }

    #[inline(always)]
    fn start(&self) -> u32 {
        // SAFETY: the task's own map value.
        unsafe { core::ptr::read_volatile(&raw const (*self.state).climb.start) }
    }

    #[inline(always)]
    fn aliases(&self) -> u32 {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const (*self.state).climb.aliases) }
    }

    #[inline(always)]
    fn alias(&self, number: u32) -> Option<Alias> {
        if number >= ALIASES as u32 {
            return None;
        }
        // SAFETY: as above, and the number was just bounded.
        Some(unsafe {
            core::ptr::read_volatile(
                (&raw const (*self.state).aliases)
                    .cast::<Alias>()
                    .add(number as usize),
            )
        })
    }
}

impl Mover for Workspace {
    #[inline(always)]
    fn kept(&self, side: u32, verb: u32) -> Outcome {
        // SAFETY: the task's own map value; the masks keep the index inside.
        unsafe {
            core::ptr::read_volatile(
                (&raw const (*self.state).moved.kept)
                    .cast::<Outcome>()
                    .add(kernel::bounded::<8>(side * 8 + verb) as usize),
            )
        }
    }

    #[inline(always)]
    fn keep(&mut self, side: u32, verb: u32, outcome: Outcome) {
        // SAFETY: as above.
        unsafe {
            core::ptr::write_volatile(
                (&raw mut (*self.state).moved.kept)
                    .cast::<Outcome>()
                    .add(kernel::bounded::<8>(side * 8 + verb) as usize),
                outcome,
            );
        }
    }

    #[inline(always)]
    fn mark(&self, row: u32, track: u32) -> u32 {
        // SAFETY: as above.
        unsafe {
            core::ptr::read_volatile(
                (&raw const (*self.state).moved.marks)
                    .cast::<u32>()
                    .add(mark_index(row, track)),
            )
        }
    }

    #[inline(always)]
    fn set_mark(&mut self, row: u32, track: u32, mark: u32) {
        // SAFETY: as above.
        unsafe {
            core::ptr::write_volatile(
                (&raw mut (*self.state).moved.marks)
                    .cast::<u32>()
                    .add(mark_index(row, track)),
                mark,
            );
        }
    }

    #[inline(always)]
    fn tracks(&self, side: u32) -> u32 {
        // SAFETY: as above.
        unsafe {
            fresh(
                (&raw const (*self.state).moved.tracks)
                    .cast::<u32>()
                    .add((side & 1) as usize),
            )
        }
    }

    #[inline(always)]
    fn set_tracks(&mut self, side: u32, tracks: u32) {
        // SAFETY: as above.
        unsafe {
            core::ptr::write_volatile(
                (&raw mut (*self.state).moved.tracks)
                    .cast::<u32>()
                    .add((side & 1) as usize),
                tracks,
            );
        }
    }

    #[inline(always)]
    fn side(&self) -> u32 {
        // SAFETY: as above.
        unsafe { fresh(&raw const (*self.state).moved.side) }
    }

    #[inline(always)]
    fn settle_on(&mut self, side: u32, verbs: u32, decision: Decision) {
        // SAFETY: as above.
        let moved = unsafe { &mut (*self.state).moved };
        moved.side = side;
        moved.verbs = verbs;
        self.set_decision(decision);
    }

    #[inline(always)]
    fn found(&self) -> u32 {
        // SAFETY: as above.
        unsafe { fresh(&raw const (*self.state).moved.found) }
    }

    #[inline(always)]
    fn set_found(&mut self, found: u32) {
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(&raw mut (*self.state).moved.found, found) };
    }

    #[inline(always)]
    fn wanted(&self, side: u32) -> u32 {
        // SAFETY: as above.
        unsafe {
            fresh(
                (&raw const (*self.state).moved.wanted)
                    .cast::<u32>()
                    .add((side & 1) as usize),
            )
        }
    }

    #[inline(always)]
    fn name_text(&self, side: u32) -> u32 {
        // SAFETY: as above.
        unsafe {
            fresh(
                (&raw const (*self.state).moved.texts)
                    .cast::<u32>()
                    .add((side & 1) as usize),
            )
        }
    }

    #[inline(always)]
    fn is_exchange(&self) -> bool {
        // SAFETY: as above.
        unsafe { fresh(&raw const (*self.state).moved.exchange) != 0 }
    }

    #[inline(always)]
    fn below(&self) -> u32 {
        // SAFETY: as above.
        unsafe { fresh(&raw const (*self.state).moved.below) }
    }

    #[inline(always)]
    fn own_all(&mut self, first: u32, count: u32) {
        let mut context = Context { state: self.state };
        // SAFETY: the task's own map value; the callback has the signature that bpf_loop calls.
        unsafe {
            (*self.state).moved.first = first;
            bpf_loop(count, own_step as *mut c_void, (&raw mut context).cast(), 0);
        }
    }

    #[inline(always)]
    fn lifted_all(&mut self, count: u32) {
        let mut context = Context { state: self.state };
        // SAFETY: as above.
        unsafe {
            bpf_loop(
                count,
                lifted_step as *mut c_void,
                (&raw mut context).cast(),
                0,
            );
        }
    }

    #[inline(always)]
    fn trace_all(&mut self, last: u32) -> Option<()> {
        let mut context = Context { state: self.state };
        // SAFETY: the task's own map value; the callback has the signature that bpf_loop calls.
        unsafe {
            (*self.state).walk.broken = 0;
            bpf_loop(
                last + 1,
                trace_step as *mut c_void,
                (&raw mut context).cast(),
                0,
            );
            (fresh(&raw const (*self.state).walk.broken) == 0).then_some(())
        }
    }

    #[inline(always)]
    fn is_same_below(&mut self) -> bool {
        let mut context = Context { state: self.state };
        // SAFETY: as above.
        unsafe {
            (*self.state).moved.differs = 0;
            bpf_loop(
                ROWS * TRACKS,
                compare_step as *mut c_void,
                (&raw mut context).cast(),
                0,
            );
            fresh(&raw const (*self.state).moved.differs) == 0
        }
    }
}

/// VERIFIER: masked as one number that the compiler knows nothing of, so that the bounds are those of what is
/// added to the pointer.
#[inline(always)]
fn mark_index(row: u32, track: u32) -> usize {
    kernel::bounded::<{ (ROWS * TRACKS / 2) as usize }>(row * TRACKS + track) as usize
}

/// What the callback is given. VERIFIER: it must be a pointer to the stack.
#[repr(C)]
struct Context {
    state: *mut TaskState,
}

/// One text or identity.
unsafe extern "C" fn look_step(number: u32, context: *mut c_void) -> c_long {
    // SAFETY: `look_at_all` passes a Context with the task's own map value.
    let state = unsafe { (*context.cast::<Context>()).state };
    if look(&mut Workspace { state }, number).is_none() {
        // SAFETY: as above.
        unsafe { (*state).walk.broken = 1 };
        return 1;
    }
    0
}

/// One text or identity, for what is below a directory.
unsafe extern "C" fn trace_step(number: u32, context: *mut c_void) -> c_long {
    // SAFETY: `trace_all` passes a Context with the task's own map value.
    let state = unsafe { (*context.cast::<Context>()).state };
    if trace(&mut Workspace { state }, number).is_none() {
        // SAFETY: as above.
        unsafe { (*state).walk.broken = 1 };
        return 1;
    }
    0
}

/// One access that the operation itself needs.
unsafe extern "C" fn own_step(number: u32, context: *mut c_void) -> c_long {
    // SAFETY: `own_all` passes a Context with the task's own map value.
    unsafe {
        let state = (*context.cast::<Context>()).state;
        let first = fresh(&raw const (*state).moved.first);
        settle_own(&mut Workspace { state }, first + number);
    }
    0
}

/// One access that may be lifted.
unsafe extern "C" fn lifted_step(number: u32, context: *mut c_void) -> c_long {
    // SAFETY: `lifted_all` passes a Context with the task's own map value.
    let state = unsafe { (*context.cast::<Context>()).state };
    settle_lifted(&mut Workspace { state }, number);
    0
}

/// One mark.
unsafe extern "C" fn compare_step(number: u32, context: *mut c_void) -> c_long {
    // SAFETY: `is_same_below` passes a Context with the task's own map value.
    let state = unsafe { (*context.cast::<Context>()).state };
    if differs(&mut Workspace { state }, number) {
        // SAFETY: as above.
        unsafe { (*state).moved.differs = 1 };
        return 1;
    }
    0
}

/// A number from the workspace, read anew each time. VERIFIER: of one number that it has in a register
/// it would follow every set of values that the branches leave.
///
/// # Safety
/// `number` lies in the task's own map value.
#[inline(always)]
pub unsafe fn fresh(number: *const u32) -> u32 {
    // SAFETY: the caller's.
    unsafe { core::ptr::read_volatile(number) }
}

/// The reason with this number. Only those that `decide` and `moved` give are told apart: each costs the verifier a
/// way of its own.
#[inline(always)]
pub fn reason(number: u32) -> Reason {
    match number {
        0 => Reason::Rule,
        1 => Reason::Default,
        2 => Reason::PathTooLong,
        3 => Reason::PathUnreadable,
        4 => Reason::Detached,
        5 => Reason::NoPath,
        6 => Reason::TooManyAliases,
        15 => Reason::Internal,
        20 => Reason::WouldLift,
        _ => Reason::TablesBroken,
    }
}

/// Bytes that are fed by one call of [`walk_step`].
const STRIDE: u32 = 4;

/// The next bytes of the object. VERIFIER: see `object` for why all that changes is in the map value.
unsafe extern "C" fn walk_step(_step: u32, context: *mut c_void) -> c_long {
    // SAFETY: `feed` passes a Context with the task's own map value.
    let state = unsafe { (*context.cast::<Context>()).state };
    const { assert!(STRIDE == 4) };
    // SAFETY: as above.
    unsafe {
        if walk_one(state) && walk_one(state) && walk_one(state) && walk_one(state) {
            0
        } else {
            1
        }
    }
}

/// Feeds one byte. False when it was the last, or no other can change the answer.
///
/// # Safety
/// `state` is the task's own map value.
#[inline(always)]
unsafe fn walk_one(state: *mut TaskState) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let walk = &mut (*state).walk;
        let next = fresh(&raw const walk.next);
        if next >= OBJECT_BYTES as u32 || next >= fresh(&raw const walk.stop) {
            return false;
        }
        let byte = *(&raw const (*state).object).cast::<u8>().add(next as usize);
        walk.next = next + 1;
        let Some(open) = walk.cursor.step(&Arena, byte) else {
            walk.broken = 1;
            return false;
        };
        open
    }
}
