//! The subset construction: from the prefix tree to a deterministic automaton whose states already know
//! the winning rule of each verb.
//!
//! A set of nodes is thinned out before it becomes a state: once a rule matches whatever follows
//! (`/x/**` below `/x`), every node that could only lead to rules that lose against it is dropped. Two
//! such rules would otherwise multiply the automaton by each other.

use agentguard_common::Outcome;
use indexmap::IndexSet;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::tree::{Effect, Loop, NO_ROW, ROOT, Row, Tree, VERBS, merge, merge_effect};
use crate::policy::tokens::ByteSet;

/// Which of several rules of the same strictness is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ties {
    /// The one with the lowest index.
    LowestIndex,
    /// Any: the one that matched nearest to the root. The verdict is the same, and many rules of the
    /// kind `**/x/**` become a sum instead of a product.
    Outermost,
}

/// A deterministic automaton.
#[derive(Debug)]
pub(super) struct Dfa {
    /// The first one is the start.
    pub states: Vec<State>,
    pub edges: Vec<(u8, u32)>,
    /// The rows that states refer to; the first one is the empty row.
    pub rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    /// Index of the first edge.
    first: u32,
    count: u32,
    /// Next state for a byte without an edge.
    pub other: u32,
    /// Next state for `/`, which never has an edge.
    pub slash: u32,
    /// Index of the accepting row; 0 is none.
    pub row: u32,
    /// Every byte leads back here.
    pub sink: bool,
    /// A row that denies or asks can be reached, or is this one.
    pub restricts: bool,
}

/// More states or more work than allowed; the rules that are to blame, worst first.
#[derive(Debug)]
pub(super) struct Explosion {
    pub rules: Vec<u32>,
}

/// Most work for one automaton, in nodes that are looked at: some seconds. Ten thousand ordinary rules take a twentieth of
/// it. States alone are no bound, because a state of many nodes takes long to find, and the same states come up again and
/// again. Not a time, so that a policy that loads on one machine loads on every other.
const MAX_WORK: u64 = 60_000_000;

impl Dfa {
    pub fn edges(&self, state: &State) -> &[(u8, u32)] {
        &self.edges[state.first as usize..(state.first + state.count) as usize]
    }

    pub fn step(&self, state: u32, byte: u8) -> u32 {
        let state = &self.states[state as usize];
        if byte == b'/' {
            return state.slash;
        }
        let edges = self.edges(state);
        edges
            .binary_search_by_key(&byte, |(byte, _)| *byte)
            .map_or(state.other, |at| edges[at].1)
    }

    pub fn walk(&self, from: u32, text: &[u8]) -> u32 {
        text.iter()
            .fold(from, |state, byte| self.step(state, *byte))
    }

    pub fn row(&self, state: u32) -> &Row {
        &self.rows[self.states[state as usize].row as usize]
    }

    /// Marks the states from which a denial or an ask can be reached, backwards from those that are one.
    fn mark_restricting(&mut self) {
        let mut before: Vec<Vec<u32>> = vec![Vec::new(); self.states.len()];
        for (index, state) in self.states.iter().enumerate() {
            let next = self.edges(state).iter().map(|(_, next)| *next);
            for next in next.chain([state.other, state.slash]) {
                let before = &mut before[next as usize];
                if before.last() != Some(&(index as u32)) {
                    before.push(index as u32);
                }
            }
        }
        let restricts = |row: &Row| row.iter().any(|outcome| outcome.rank() > 1);
        let mut open: Vec<u32> = (0..self.states.len() as u32)
            .filter(|state| restricts(self.row(*state)))
            .collect();
        while let Some(state) = open.pop() {
            if !self.states[state as usize].restricts {
                self.states[state as usize].restricts = true;
                open.extend_from_slice(&before[state as usize]);
            }
        }
    }
}

/// Builds the automaton of a tree. `effects` says what each rule of the tree does, by its number.
pub(super) fn determinise(
    tree: &Tree,
    effects: &[Effect],
    ties: Ties,
    max_states: usize,
) -> Result<Dfa, Explosion> {
    Builder::new(tree, effects, ties).run(max_states)
}

struct Builder<'t> {
    tree: &'t Tree,
    effects: &'t [Effect],
    ties: Ties,
    best: Vec<Row>,
    /// What a node settles for all that follows, if it does.
    settled: FxHashMap<u32, Row>,
    sets: IndexSet<Box<[u32]>, FxBuildHasher>,
    rows: IndexSet<Row, FxBuildHasher>,
    states: Vec<State>,
    edges: Vec<(u8, u32)>,
    /// In the units of [`MAX_WORK`].
    work: u64,
}

impl<'t> Builder<'t> {
    fn new(tree: &'t Tree, effects: &'t [Effect], ties: Ties) -> Self {
        let mut has_except = vec![false; effects.len()];
        for accept in tree.nodes.iter().flat_map(|node| &node.accepts) {
            has_except[accept.rule as usize] |= accept.except;
        }
        let mut settled = FxHashMap::default();
        for (index, node) in tree.nodes.iter().enumerate() {
            let mut row = NO_ROW;
            let endless = matches!(node.looping, Loop::All | Loop::Arguments);
            let forever = node
                .accepts
                .iter()
                .filter(|accept| endless && !has_except[accept.rule as usize]);
            forever.for_each(|accept| merge_effect(&mut row, effects[accept.rule as usize]));
            if row != NO_ROW {
                settled.insert(index as u32, row);
            }
        }
        let mut rows = IndexSet::default();
        rows.insert(NO_ROW);
        Self {
            best: tree.best(effects),
            tree,
            effects,
            ties,
            settled,
            sets: IndexSet::default(),
            rows,
            states: Vec::new(),
            edges: Vec::new(),
            work: 0,
        }
    }

    fn run(mut self, max_states: usize) -> Result<Dfa, Explosion> {
        self.state(vec![ROOT]);
        let mut index = 0;
        while index < self.sets.len() {
            if self.sets.len() > max_states || self.work > MAX_WORK {
                return Err(self.explosion());
            }
            let set = self.sets[index].clone();
            self.expand(&set, index as u32);
            index += 1;
        }
        let mut dfa = Dfa {
            states: self.states,
            edges: self.edges,
            rows: self.rows.into_iter().collect(),
        };
        dfa.mark_restricting();
        Ok(dfa)
    }

    /// The state of a set of nodes.
    fn state(&mut self, mut set: Vec<u32>) -> u32 {
        self.tree.close(&mut set);
        // Closing looks at each node once per node before it.
        let nodes = set.len() as u64;
        self.work += nodes + nodes * nodes / 16;
        self.thin_out(&mut set);
        let (index, _) = self.sets.insert_full(set.into_boxed_slice());
        index as u32
    }

    /// Drops the nodes that can change nothing any more.
    fn thin_out(&self, set: &mut Vec<u32>) {
        let mut settled = NO_ROW;
        for node in set.iter() {
            if let Some(row) = self.settled.get(node) {
                merge(&mut settled, row);
            }
        }
        if settled == NO_ROW {
            return;
        }
        // One node is kept for each verb that is settled, and with it what settles it.
        let mut claimed = [false; VERBS];
        set.retain(|node| {
            let mut wins = false;
            if let Some(row) = self.settled.get(node) {
                for ((row, settled), claimed) in row.iter().zip(&settled).zip(&mut claimed) {
                    if *row != Outcome::NONE && *row == *settled && !*claimed {
                        *claimed = true;
                        wins = true;
                    }
                }
            }
            if wins {
                return true;
            }
            let best = &self.best[*node as usize];
            let loses = |(best, settled): (&Outcome, &Outcome)| match self.ties {
                Ties::LowestIndex => settled.stricter(*best) == *settled,
                Ties::Outermost => settled.rank() >= best.rank(),
            };
            !best.iter().zip(&settled).all(loses)
        });
    }

    /// Finds the edges of a state.
    fn expand(&mut self, set: &[u32], index: u32) {
        let nodes = || set.iter().map(|node| &self.tree.nodes[*node as usize]);
        let mut mentioned = ByteSet::NONE;
        for node in nodes() {
            node.bytes
                .iter()
                .for_each(|(byte, _)| mentioned.insert(*byte));
            if matches!(node.looping, Loop::Name | Loop::Text) {
                mentioned.insert(0);
            }
            for (bytes, _) in &node.sets {
                let few = if bytes.len() > 128 {
                    bytes.complement()
                } else {
                    *bytes
                };
                mentioned.extend(&few);
            }
        }
        mentioned.remove(b'/');
        let slash = self.next(set, b'/');
        let mut rest = mentioned.complement();
        rest.remove(b'/');
        let mut edges: Vec<(u8, u32)> = Vec::with_capacity(mentioned.len() as usize);
        for byte in mentioned.iter() {
            edges.push((byte, self.next(set, byte)));
        }
        let other = match rest.iter().next() {
            Some(byte) if rest.len() >= 128 => self.next(set, byte),
            byte => {
                // Most bytes are spoken of, so the most frequent target is the default.
                if let Some(byte) = byte {
                    let next = self.next(set, byte);
                    edges.extend(rest.iter().map(|byte| (byte, next)));
                    edges.sort_unstable();
                }
                most_frequent(&edges)
            }
        };
        edges.retain(|(_, next)| *next != other);
        let row = self.accept(set);
        self.states.push(State {
            first: self.edges.len() as u32,
            count: edges.len() as u32,
            other,
            slash,
            row,
            sink: edges.is_empty() && other == index && slash == index,
            restricts: false,
        });
        self.edges.extend(edges);
    }

    /// The state after one byte.
    fn next(&mut self, set: &[u32], byte: u8) -> u32 {
        let mut next = Vec::with_capacity(set.len() + 2);
        for index in set {
            let node = &self.tree.nodes[*index as usize];
            self.work += 1 + node.sets.len() as u64;
            if node.looping.takes(byte) {
                next.push(*index);
            }
            next.extend(node.byte(byte));
            for (bytes, to) in &node.sets {
                if bytes.contains(byte) {
                    next.push(*to);
                }
            }
        }
        self.state(next)
    }

    /// The accepting row of a set of nodes.
    fn accept(&mut self, set: &[u32]) -> u32 {
        let accepts = || {
            set.iter()
                .flat_map(|node| &self.tree.nodes[*node as usize].accepts)
        };
        let mut row = NO_ROW;
        for accept in accepts().filter(|accept| !accept.except) {
            let excepted = accepts().any(|other| other.except && other.rule == accept.rule);
            if !excepted {
                merge_effect(&mut row, self.effects[accept.rule as usize]);
            }
        }
        self.rows.insert_full(row).0 as u32
    }

    /// Finds the rules whose nodes are in most of the last states.
    fn explosion(&self) -> Explosion {
        let mut counts: FxHashMap<u32, u32> = FxHashMap::default();
        let last = self.sets.len().saturating_sub(100_000);
        for node in self.sets.iter().skip(last).flatten() {
            let owner = self.tree.nodes[*node as usize].owner;
            *counts.entry(owner).or_default() += 1;
        }
        let mut rules: Vec<(u32, u32)> = counts.into_iter().collect();
        rules.sort_unstable_by_key(|(rule, count)| (std::cmp::Reverse(*count), *rule));
        Explosion {
            rules: rules.into_iter().map(|(rule, _)| rule).collect(),
        }
    }
}

fn most_frequent(edges: &[(u8, u32)]) -> u32 {
    let mut targets: Vec<u32> = edges.iter().map(|(_, next)| *next).collect();
    targets.sort_unstable();
    targets
        .chunk_by(|a, b| a == b)
        .max_by_key(|chunk| (chunk.len(), std::cmp::Reverse(chunk[0])))
        .map_or(0, |chunk| chunk[0])
}
