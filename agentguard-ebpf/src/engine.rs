//! The decision's engine on maps: tables are the arena, the object is in the task's workspace.

use agentguard_common::{
    Engine, Outcome,
    automaton::{Cursor, Tables},
    decide::Alias,
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
    fn feed(&mut self, cursor: &mut Cursor, from: u32) -> Option<()> {
        if from > OBJECT_BYTES as u32 {
            return None;
        }
        // SAFETY: the task's own map value; the callback has the signature that bpf_loop calls.
        unsafe {
            let walk = &raw mut (*self.state).walk;
            (*walk).cursor = *cursor;
            (*walk).next = from;
            (*walk).broken = 0;
            let mut context = Context { state: self.state };
            bpf_loop(
                OBJECT_BYTES as u32 - from,
                walk_step as *mut c_void,
                (&raw mut context).cast(),
                0,
            );
            if core::ptr::read_volatile(&raw const (*walk).broken) != 0 {
                return None;
            }
            *cursor = core::ptr::read_volatile(&raw const (*walk).cursor);
        }
        Some(())
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
