//! The decision's engine on one packet: there is no task, so everything is in registers and on the stack.

use agentguard_common::{
    Decision, Engine, Outcome, Question,
    automaton::{self, Cursor, SINK, Tables},
    decide,
    decide::{Alias, Text, look},
    event::Reason,
    limits::AUTOMATA,
    profile::{Subject as Kind, verb},
};

use super::Packet;
use crate::engine::Arena;

/// What the rules about connecting say of the far end.
#[inline(always)]
pub fn far_end(packet: &Packet, profile: u32) -> Decision {
    judge::<{ Kind::Connect as u32 }>(packet, profile, Kind::Connect)
}

/// What the rules about listening say of the near end.
#[inline(always)]
pub fn near_end(packet: &Packet, profile: u32) -> Decision {
    judge::<{ Kind::Listen as u32 }>(packet, profile, Kind::Listen)
}

#[inline(always)]
fn judge<const SUBJECT: u32>(packet: &Packet, profile: u32, subject: Kind) -> Decision {
    let question = Question {
        subject,
        verbs: verb::bit(verb::ONLY),
        text: Text::Attached,
    };
    decide(&mut Judge::<SUBJECT>::new(packet), profile, question)
}

pub struct Judge<const SUBJECT: u32> {
    /// The encoded address, first byte lowest.
    object: [u64; 3],
    len_bytes: usize,
    profile: u32,
    cursor: Cursor,
    outcome: Outcome,
    decision: Decision,
}

impl<const SUBJECT: u32> Judge<SUBJECT> {
    #[inline(always)]
    fn new(packet: &Packet) -> Self {
        Self {
            object: packet.words(),
            len_bytes: packet.len_bytes,
            profile: 0,
            cursor: Cursor::EMPTY,
            outcome: Outcome::NONE,
            decision: Decision::refuse(Reason::TablesBroken),
        }
    }

    /// Where the automata stand already.
    #[inline(always)]
    pub fn at(cursor: Cursor) -> Self {
        Self {
            object: [0; 3],
            len_bytes: 0,
            profile: 0,
            cursor,
            outcome: Outcome::NONE,
            decision: Decision::refuse(Reason::TablesBroken),
        }
    }

    /// What the rules say, so far.
    #[inline(always)]
    pub fn ruled(&self) -> Outcome {
        self.outcome
    }

    /// Feeds the object to automaton number `I`: at most 20 steps of a plain loop.
    #[inline(always)]
    fn walk<const I: usize>(&mut self) -> Option<()> {
        let base = self.cursor.base[I];
        let mut state = self.cursor.state[I];
        let [mut word, second, third] = self.object;
        let mut i = 0;
        while i < self.len_bytes && state & SINK == 0 {
            state = automaton::step(&Arena, base, state, word as u8)?;
            word >>= 8;
            i += 1;
            if i == 8 {
                word = second;
            }
            if i == 16 {
                word = third;
            }
        }
        self.cursor.state[I] = state;
        Some(())
    }
}

impl<const SUBJECT: u32> Tables for Judge<SUBJECT> {
    #[inline(always)]
    fn cell(&self, index: u32) -> Option<u64> {
        Arena.cell(index)
    }
}

impl<const SUBJECT: u32> Engine for Judge<SUBJECT> {
    #[inline(always)]
    fn ask(&mut self, profile: u32, _question: Question) {
        self.profile = profile;
    }

    #[inline(always)]
    fn profile(&self) -> u32 {
        self.profile
    }

    #[inline(always)]
    fn subject(&self) -> u32 {
        SUBJECT
    }

    #[inline(always)]
    fn text(&self) -> u32 {
        Text::Attached as u32
    }

    #[inline(always)]
    fn asks(&self, verb: u32) -> bool {
        verb == 0
    }

    #[inline(always)]
    fn decision(&self) -> Decision {
        self.decision
    }

    #[inline(always)]
    fn set_decision(&mut self, decision: Decision) {
        self.decision = decision;
    }

    #[inline(always)]
    fn look_at_all(&mut self, _last: u32) -> Option<()> {
        look(self, 0)
    }

    #[inline(always)]
    fn outcome(&self, verb: u32) -> Outcome {
        if verb == 0 {
            self.outcome
        } else {
            Outcome::NONE
        }
    }

    #[inline(always)]
    fn set_outcome(&mut self, verb: u32, outcome: Outcome) {
        if verb == 0 {
            self.outcome = outcome;
        }
    }

    #[inline(always)]
    fn cursor(&mut self) -> &mut Cursor {
        &mut self.cursor
    }

    #[inline(always)]
    fn feed(&mut self, _from: u32) -> Option<()> {
        const { assert!(AUTOMATA == 4) };
        self.walk::<0>()?;
        self.walk::<1>()?;
        self.walk::<2>()?;
        self.walk::<3>()
    }

    #[inline(always)]
    fn start(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn aliases(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn alias(&self, _number: u32) -> Option<Alias> {
        None
    }
}
