//! The decision's engine on maps: tables are the arena, the object is in the task's workspace.

use agentguard_common::{
    Decision, Engine, Outcome, Question,
    automaton::{Cursor, Tables},
    decide::{Alias, look},
    event::Reason,
    label::{OBJECT_BYTES, TaskState},
    limits::ALIASES,
};
use aya_ebpf::{
    cty::{c_long, c_void},
    helpers::generated::bpf_loop,
};

use crate::maps::AUTOMATON;

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
        if from > OBJECT_BYTES as u32 {
            return None;
        }
        // SAFETY: the task's own map value; the callback has the signature that bpf_loop calls.
        unsafe {
            let walk = &raw mut (*self.state).walk;
            (*walk).next = from;
            let mut context = Context { state: self.state };
            bpf_loop(
                OBJECT_BYTES as u32 - from,
                walk_step as *mut c_void,
                (&raw mut context).cast(),
                0,
            );
            (fresh(&raw const (*walk).broken) == 0).then_some(())
        }
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

/// The reason with this number. Only those that `decide` gives are ever stored.
#[inline(always)]
pub fn reason(number: u32) -> Reason {
    match number {
        0 => Reason::Rule,
        1 => Reason::Default,
        4 => Reason::Detached,
        5 => Reason::NoPath,
        15 => Reason::Internal,
        _ => Reason::TablesBroken,
    }
}

/// One byte of the object. VERIFIER: see `object` for why all that changes is in the map value.
unsafe extern "C" fn walk_step(_step: u32, context: *mut c_void) -> c_long {
    // SAFETY: `feed` passes a Context with the task's own map value.
    unsafe {
        let state = (*context.cast::<Context>()).state;
        let walk = &mut (*state).walk;
        let next = core::ptr::read_volatile(&raw const walk.next);
        if next >= OBJECT_BYTES as u32 {
            return 1;
        }
        let byte = *(&raw const (*state).object).cast::<u8>().add(next as usize);
        walk.next = next + 1;
        match walk.cursor.step(&Arena, byte) {
            Some(true) => 0,
            Some(false) => 1,
            None => {
                walk.broken = 1;
                1
            }
        }
    }
}
