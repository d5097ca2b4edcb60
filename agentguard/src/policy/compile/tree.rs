//! The prefix tree of glob tokens: all patterns of one automaton, equal beginnings shared. Sharing
//! *before* the subset construction keeps its sets at two or three nodes, however many rules there are.

use agentguard_common::Outcome;

use crate::policy::tokens::{ByteSet, Token};

/// Verbs that rules can be about: five for files, else one.
pub(super) const VERBS: usize = 5;

/// One outcome per verb.
pub(super) type Row = [Outcome; VERBS];

/// A row without any rule.
pub(super) const NO_ROW: Row = [Outcome::NONE; VERBS];

/// Index of the tree's root.
pub(super) const ROOT: u32 = 0;
/// No node.
pub(super) const NONE: u32 = u32::MAX;

/// Over which bytes a node stays active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loop {
    No,
    /// Every byte but `/`.
    Component,
    /// Every byte.
    All,
    /// Every byte of one component of a path that a NUL ends.
    Name,
    /// Every byte but NUL.
    Text,
    /// Every byte, as arguments with their NULs.
    Arguments,
}

impl Loop {
    /// Whether the node stays active over `byte`.
    pub const fn takes(self, byte: u8) -> bool {
        match self {
            Self::No => false,
            Self::Component => byte != b'/',
            Self::All | Self::Arguments => true,
            Self::Name => byte != b'/' && byte != 0,
            Self::Text => byte != 0,
        }
    }

    /// What ends each of the pieces that a `**` stands for.
    const fn separator(self) -> u8 {
        match self {
            Self::Arguments => 0,
            _ => b'/',
        }
    }
}

/// What a pattern that ends in a node does for its rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accept {
    pub rule: u32,
    /// The pattern is an exception of the rule.
    pub except: bool,
}

#[derive(Debug)]
pub(super) struct Node {
    /// Next nodes by byte, in the order of bytes.
    pub bytes: Vec<(u8, u32)>,
    /// Next nodes by sets of bytes.
    pub sets: Vec<(ByteSet, u32)>,
    /// The node that loops inside of a component, active together with this one.
    pub star: u32,
    /// The node that loops over everything, active together with this one.
    pub deep: u32,
    pub looping: Loop,
    pub accepts: Vec<Accept>,
    /// The first rule that passes here, to say whose doing an explosion is.
    pub owner: u32,
}

impl Node {
    fn new(looping: Loop, owner: u32) -> Self {
        Self {
            bytes: Vec::new(),
            sets: Vec::new(),
            star: NONE,
            deep: NONE,
            looping,
            accepts: Vec::new(),
            owner,
        }
    }

    /// The next node by this very byte.
    pub fn byte(&self, byte: u8) -> Option<u32> {
        let at = self.bytes.binary_search_by_key(&byte, |(byte, _)| *byte);
        at.ok().map(|at| self.bytes[at].1)
    }
}

/// What a rule says where it matches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effect {
    pub outcome: Outcome,
    /// Set of verbs, one bit each.
    pub verbs: u8,
}

/// All patterns of one automaton.
#[derive(Debug)]
pub(super) struct Tree {
    pub nodes: Vec<Node>,
}

impl Tree {
    pub fn new() -> Self {
        Self {
            nodes: vec![Node::new(Loop::No, 0)],
        }
    }

    /// Adds one alternative of a pattern.
    pub fn add(&mut self, tokens: &[Token], accept: Accept) {
        let mut node = ROOT;
        for token in tokens {
            node = match *token {
                Token::Byte(byte) => self.byte(node, byte, accept.rule),
                Token::Set(set) => self.set(node, set, accept.rule),
                Token::Star => self.star(node, Loop::Component, accept.rule),
                Token::Name => self.star(node, Loop::Name, accept.rule),
                Token::Text => self.star(node, Loop::Text, accept.rule),
                Token::Deep => self.pieces(node, Loop::All, accept.rule),
                Token::DeepName => self.pieces(node, Loop::Text, accept.rule),
                Token::Arguments => self.pieces(node, Loop::Arguments, accept.rule),
                Token::Rest => self.deep(node, Loop::All, accept.rule),
                Token::NameRest => self.deep(node, Loop::Text, accept.rule),
                Token::ArgumentsRest => self.deep(node, Loop::Arguments, accept.rule),
                Token::Below => {
                    self.accept(node, accept);
                    let slash = self.byte(node, b'/', accept.rule);
                    self.deep(slash, Loop::All, accept.rule)
                }
            };
        }
        self.accept(node, accept);
    }

    fn accept(&mut self, node: u32, accept: Accept) {
        let accepts = &mut self.nodes[node as usize].accepts;
        if !accepts.contains(&accept) {
            accepts.push(accept);
        }
    }

    fn push(&mut self, looping: Loop, owner: u32) -> u32 {
        self.nodes.push(Node::new(looping, owner));
        self.nodes.len() as u32 - 1
    }

    fn byte(&mut self, from: u32, byte: u8, owner: u32) -> u32 {
        let at = match self.nodes[from as usize]
            .bytes
            .binary_search_by_key(&byte, |(byte, _)| *byte)
        {
            Ok(at) => return self.nodes[from as usize].bytes[at].1,
            Err(at) => at,
        };
        let node = self.push(Loop::No, owner);
        self.nodes[from as usize].bytes.insert(at, (byte, node));
        node
    }

    fn set(&mut self, from: u32, set: ByteSet, owner: u32) -> u32 {
        let known = self.nodes[from as usize]
            .sets
            .iter()
            .find(|(known, _)| *known == set);
        if let Some((_, node)) = known {
            return *node;
        }
        let node = self.push(Loop::No, owner);
        self.nodes[from as usize].sets.push((set, node));
        node
    }

    // What precedes a node says whether it is in a path that a NUL ends, in arguments or in neither, and so how
    // all stars after it loop, and all `**`.

    fn star(&mut self, from: u32, looping: Loop, owner: u32) -> u32 {
        // `**`-free by grammar, so two stars never follow each other; the first one's loop is enough.
        if self.nodes[from as usize].star == NONE {
            self.nodes[from as usize].star = self.push(looping, owner);
        }
        self.nodes[from as usize].star
    }

    fn deep(&mut self, from: u32, looping: Loop, owner: u32) -> u32 {
        if self.nodes[from as usize].deep == NONE {
            self.nodes[from as usize].deep = self.push(looping, owner);
        }
        self.nodes[from as usize].deep
    }

    /// Where the pieces that a `**` stands for end; the node before is active there too, see `close`.
    fn pieces(&mut self, from: u32, looping: Loop, owner: u32) -> u32 {
        let deep = self.deep(from, looping, owner);
        self.byte(deep, looping.separator(), owner)
    }

    /// Adds the nodes that are active whenever those in `set` are, then sorts it.
    pub fn close(&self, set: &mut Vec<u32>) {
        let mut at = 0;
        while at < set.len() {
            let node = &self.nodes[set[at] as usize];
            at += 1;
            if node.star != NONE && !set.contains(&node.star) {
                set.push(node.star);
            }
            if node.deep != NONE {
                if !set.contains(&node.deep) {
                    set.push(node.deep);
                }
                // No piece at all.
                let deep = &self.nodes[node.deep as usize];
                if let Some(next) = deep.byte(deep.looping.separator())
                    && !set.contains(&next)
                {
                    set.push(next);
                }
            }
        }
        set.sort_unstable();
        set.dedup();
    }

    /// For each node the strictest that can still come of it, per verb. An exception counts as its
    /// rule: it matters as long as the rule does.
    pub fn best(&self, effects: &[Effect]) -> Vec<Row> {
        let mut best = vec![NO_ROW; self.nodes.len()];
        // Next nodes are always made after the node itself.
        for index in (0..self.nodes.len()).rev() {
            let node = &self.nodes[index];
            let mut row = NO_ROW;
            for accept in &node.accepts {
                merge_effect(&mut row, effects[accept.rule as usize]);
            }
            let next = node
                .bytes
                .iter()
                .map(|(_, next)| *next)
                .chain(node.sets.iter().map(|(_, next)| *next))
                .chain([node.star, node.deep]);
            for next in next.filter(|next| *next != NONE) {
                merge(&mut row, &best[next as usize]);
            }
            best[index] = row;
        }
        best
    }
}

/// Adds a rule's outcome to a row.
pub(super) fn merge_effect(row: &mut Row, effect: Effect) {
    for (verb, outcome) in row.iter_mut().enumerate() {
        if effect.verbs & 1 << verb != 0 {
            *outcome = outcome.stricter(effect.outcome);
        }
    }
}

/// Adds a row to a row.
pub(super) fn merge(row: &mut Row, other: &Row) {
    for (outcome, other) in row.iter_mut().zip(other) {
        *outcome = outcome.stricter(*other);
    }
}
