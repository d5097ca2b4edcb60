//! The compressed automaton: how it lies in the arena, and one step of it. How it is built is the
//! business of `agentguard::policy`; who walks whole strings, of [`mod@crate::decide`].
//!
//! The arena is an array of 8-byte cells. An automaton is a run of cells from its *base*. A state is
//! the number of the cell, counted from the base, at which its row begins:
//!
//! | cell | low 32 bits | high 32 bits |
//! | --- | --- | --- |
//! | state + byte (0–255), when the state has an edge for that byte | `EDGE` with the state | next state |
//! | state + 256 | next state for any other byte | next state for `/` without an edge of its own |
//! | state + 257 | cell of the accepting row, from the base (0: none) | flags, [`RESTRICTS`] |
//!
//! Rows of different states lie across each other (row displacement: Tarjan and Yao, "Storing a
//! sparse table", CACM 1979), which is safe because an edge names its owner and nothing but an edge
//! has the `EDGE` bit and a state's number beside it: default and accepting cells never have the bit, and
//! a row's outcome that has it (a kill, a never) has bits above every state's number as well, which the compiler's
//! limits on rules and cells see to. An accepting row is four cells with one [`Outcome`] per verb, two to a cell.
//! Every cell a state can ask for (state to state + 257) lies inside the automaton's run.

use crate::{limits::AUTOMATA, outcome::Outcome};

/// Set in the low half of a cell that holds an edge.
pub const EDGE: u32 = 1 << 31;
/// Set in a next state that every byte leads back to: nothing that follows can change the answer.
pub const SINK: u32 = 1 << 30;
/// Set in a next state that every byte but `/` leads back to: nothing in the rest of a path's component matters to it.
pub const IDLE: u32 = 1 << 29;
/// What remains of a next state: the cell of its row, from the base.
pub const STATE: u32 = IDLE - 1;
/// Cell, from a state, with its two defaults.
pub const DEFAULTS: u32 = 256;
/// Cell, from a state, with its accepting row and flags.
pub const ACCEPT: u32 = 257;
/// Cells that the row of a state reaches over.
pub const ROW: u32 = 258;
/// Flag beside an accepting row: a rule that denies or asks is reachable from this state.
pub const RESTRICTS: u32 = 1;
/// Verbs, and so outcomes, in an accepting row.
pub const VERBS: u32 = 8;
/// Cells of an accepting row.
pub const ACCEPT_ROW: u32 = VERBS / 2;
/// The base of an automaton that is not there. Its state is [`SINK`], so that it is never stepped.
pub const ABSENT: u32 = u32::MAX;

/// Read access to the arena, by whole cells. The kernel reads a map, userspace a vector.
pub trait Tables {
    /// The cell with this index, or `None` past the end. A `None` on the way to a verdict denies.
    fn cell(&self, index: u32) -> Option<u64>;
}

/// The state after `byte`. `None` when the tables are broken.
#[inline(always)]
pub fn step<T: Tables>(tables: &T, base: u32, state: u32, byte: u8) -> Option<u32> {
    let state = state & STATE;
    let row = base.wrapping_add(state);
    let edge = tables.cell(row.wrapping_add(byte as u32))?;
    if edge as u32 == EDGE | state {
        return Some((edge >> 32) as u32);
    }
    let defaults = tables.cell(row.wrapping_add(DEFAULTS))?;
    Some(if byte == b'/' {
        (defaults >> 32) as u32
    } else {
        defaults as u32
    })
}

/// The accepting row of `state` as an arena cell (0: none) and its flags.
#[inline(always)]
pub fn accept<T: Tables>(tables: &T, base: u32, state: u32) -> Option<(u32, u32)> {
    let cell = tables.cell(base.wrapping_add(state & STATE).wrapping_add(ACCEPT))?;
    let row = cell as u32;
    let row = if row == 0 { 0 } else { base.wrapping_add(row) };
    Some((row, (cell >> 32) as u32))
}

/// The outcome for `verb` (0 to 7) in the row at arena cell `row`.
#[inline(always)]
pub fn row_outcome<T: Tables>(tables: &T, row: u32, verb: u32) -> Option<Outcome> {
    let cell = tables.cell(row.wrapping_add(verb >> 1))?;
    Some(Outcome(if verb & 1 == 0 {
        cell as u32
    } else {
        (cell >> 32) as u32
    }))
}

/// The automata of one subject and where each of them stands.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Cursor {
    /// Arena cell of each automaton, [`ABSENT`] where there is none. Present ones come first.
    pub base: [u32; AUTOMATA],
    pub state: [u32; AUTOMATA],
}

impl Cursor {
    pub const EMPTY: Self = Self {
        base: [ABSENT; AUTOMATA],
        state: [SINK; AUTOMATA],
    };

    /// Feeds one byte to every automaton. `None` when the tables are broken, else whether a further
    /// byte can still change the answer.
    #[inline(always)]
    pub fn step<T: Tables>(&mut self, tables: &T, byte: u8) -> Option<bool> {
        const { assert!(AUTOMATA == 4) };
        // Without a branch, of which the verifier would look at both sides for every byte: what isn't 0 has all its
        // upper bits set when it is taken from 0.
        let settled = SINK | (u32::from(byte ^ b'/').wrapping_neg() >> 2) & IDLE;
        self.step_one::<0, T>(tables, byte, settled)?;
        self.step_one::<1, T>(tables, byte, settled)?;
        self.step_one::<2, T>(tables, byte, settled)?;
        self.step_one::<3, T>(tables, byte, settled)?;
        Some(self.state[0] & self.state[1] & self.state[2] & self.state[3] & SINK == 0)
    }

    /// Feeds one byte to automaton number `I`, unless its state has one of the flags in `settled`: then the byte leads
    /// back to it. VERIFIER: see [`decide`](crate::decide#unrolled) for why the index is a constant.
    #[inline(always)]
    fn step_one<const I: usize, T: Tables>(
        &mut self,
        tables: &T,
        byte: u8,
        settled: u32,
    ) -> Option<()> {
        if self.state[I] & settled == 0 {
            self.state[I] = step(tables, self.base[I], self.state[I], byte)?;
        }
        Some(())
    }
}
