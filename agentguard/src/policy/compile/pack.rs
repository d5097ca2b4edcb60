//! Lays an automaton into cells by row displacement: the rows of its states lie across each other
//! wherever their edges leave room. The layout is `agentguard_common::automaton`'s.

use agentguard_common::automaton::{
    ACCEPT, ACCEPT_ROW, DEFAULTS, EDGE, IDLE, RESTRICTS, ROW, SINK,
};
use rustc_hash::FxHashMap;

use super::determinise::Dfa;
use crate::policy::profile::cell;

/// An automaton in cells.
#[derive(Debug)]
pub(super) struct Packed {
    pub cells: Vec<u64>,
    /// Number of each state, with its `SINK` or `IDLE` flag.
    pub states: Vec<u32>,
}

/// Packs an automaton. The same automaton always gives the same cells.
pub(super) fn pack(dfa: &Dfa) -> Packed {
    let mut order: Vec<u32> = (0..dfa.states.len() as u32).collect();
    // Rows with many edges are hard to place, those with one fill the gaps.
    order.sort_by_key(|state| std::cmp::Reverse(dfa.edges(&dfa.states[*state as usize]).len()));

    let mut space = Space::default();
    let mut bases = vec![0; dfa.states.len()];
    let mut hints: FxHashMap<Vec<u8>, usize> = FxHashMap::default();
    let mut bytes = Vec::new();
    for state in order {
        bytes.clear();
        let edges = dfa.edges(&dfa.states[state as usize]);
        bytes.extend(edges.iter().map(|(byte, _)| *byte));
        // The same bytes were placed before: what was full then still is.
        let hint = hints.get(&bytes).copied().unwrap_or(0);
        let base = space.place(&bytes, hint);
        if bytes.len() <= 2 {
            hints.insert(bytes.clone(), base as usize / 64);
        }
        bases[state as usize] = base;
    }
    // Cell 0 as a row would be "no row".
    let mut rows = vec![0; dfa.rows.len()];
    for row in rows.iter_mut().skip(1) {
        *row = space.place_row();
    }
    let states: Vec<u32> = dfa
        .states
        .iter()
        .zip(&bases)
        .enumerate()
        .map(|(index, (state, base))| {
            let is_idle = state.other == index as u32 && dfa.edges(state).is_empty();
            base | match (state.sink, is_idle) {
                (true, _) => SINK,
                (false, true) => IDLE,
                (false, false) => 0,
            }
        })
        .collect();
    let last = bases.iter().copied().max().unwrap_or(0) + ROW;
    let mut cells = vec![0; last.max(space.end) as usize];
    for (state, base) in dfa.states.iter().zip(&bases) {
        for (byte, next) in dfa.edges(state) {
            cells[(base + u32::from(*byte)) as usize] = cell(EDGE | base, states[*next as usize]);
        }
        cells[(base + DEFAULTS) as usize] =
            cell(states[state.other as usize], states[state.slash as usize]);
        let flags = if state.restricts { RESTRICTS } else { 0 };
        cells[(base + ACCEPT) as usize] = cell(rows[state.row as usize], flags);
    }
    for (row, at) in dfa.rows.iter().zip(&rows).skip(1) {
        for (pair, at) in row.chunks(2).zip(*at as usize..) {
            cells[at] = cell(pair[0].0, pair.get(1).map_or(0, |outcome| outcome.0));
        }
    }
    Packed { cells, states }
}

/// Which cells are taken.
#[derive(Default)]
struct Space {
    /// One bit per cell.
    taken: Vec<u64>,
    /// All blocks of 64 cells before this one have no base left.
    floor: usize,
    /// Block at which the last row of outcomes was placed.
    row_block: usize,
    /// One past the last cell taken.
    end: u32,
}

impl Space {
    /// The taken bits of the 64 cells from `cell` on.
    fn window(&self, cell: usize) -> u64 {
        let (word, shift) = (cell / 64, cell % 64);
        let at = |word: usize| self.taken.get(word).copied().unwrap_or(0);
        if shift == 0 {
            at(word)
        } else {
            at(word) >> shift | at(word + 1) << (64 - shift)
        }
    }

    fn take(&mut self, cell: u32) {
        let word = cell as usize / 64;
        if word >= self.taken.len() {
            self.taken.resize(word + 64, 0);
        }
        self.taken[word] |= 1 << (cell % 64);
        self.end = self.end.max(cell + 1);
    }

    /// Finds a base for a state with edges for these bytes and takes its cells.
    fn place(&mut self, bytes: &[u8], hint: usize) -> u32 {
        let mut block = self.floor.max(hint);
        loop {
            let base = block * 64;
            let ends = self.window(base + DEFAULTS as usize) | self.window(base + ACCEPT as usize);
            if ends == u64::MAX {
                if block == self.floor {
                    self.floor += 1;
                }
                block += 1;
                continue;
            }
            let mut conflicts = ends;
            for byte in bytes {
                conflicts |= self.window(base + usize::from(*byte));
                if conflicts == u64::MAX {
                    break;
                }
            }
            if conflicts != u64::MAX {
                let base = base as u32 + (!conflicts).trailing_zeros();
                for byte in bytes {
                    self.take(base + u32::from(*byte));
                }
                self.take(base + DEFAULTS);
                self.take(base + ACCEPT);
                return base;
            }
            block += 1;
        }
    }

    /// Finds room for a row of outcomes and takes it.
    fn place_row(&mut self) -> u32 {
        loop {
            let base = self.row_block * 64;
            let mut conflicts = if self.row_block == 0 { 1 } else { 0 };
            for offset in 0..ACCEPT_ROW as usize {
                conflicts |= self.window(base + offset);
            }
            if conflicts != u64::MAX {
                let base = base as u32 + (!conflicts).trailing_zeros();
                (0..ACCEPT_ROW).for_each(|offset| self.take(base + offset));
                return base;
            }
            self.row_block += 1;
        }
    }
}
