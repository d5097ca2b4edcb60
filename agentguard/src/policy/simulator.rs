//! Runs the kernel's decision function on vectors: the engine behind `explain`, `test` and the
//! conformance cases. Knows no more of rules than the kernel does.

use agentguard_common::{
    Decision, Engine, Outcome, Question,
    automaton::{Cursor, Tables, VERBS},
    decide::{Alias, Text},
    event::Reason,
    identity::PATH_SUBJECTS,
    limits::{ALIASES, AUTOMATA},
    profile::Subject,
};

use super::profile::CompiledProfile;

/// An object as the kernel would meet it.
#[derive(Clone, Debug)]
pub struct Object<'o> {
    pub bytes: &'o [u8],
    pub text: Text,
    /// Known files and folders met on the way from the object to its root. At most [`ALIASES`] count.
    pub aliases: Vec<Met>,
}

/// A known file or folder that was met.
#[derive(Clone, Copy, Debug)]
pub struct Met {
    /// As [`LiteralPath::states`](super::LiteralPath::states).
    pub states: [[u32; AUTOMATA]; PATH_SUBJECTS],
    /// Length of the object's bytes up to the end of the name under which it was met.
    pub from: usize,
}

impl<'o> Object<'o> {
    /// An object that is just what its text says.
    pub fn new(bytes: &'o [u8]) -> Self {
        Self {
            bytes,
            text: Text::Attached,
            aliases: Vec::new(),
        }
    }
}

/// Asks a profile about one action. `verbs` is a set of verbs, one bit each; the strictest decides.
pub fn ask(profile: &CompiledProfile, subject: Subject, verbs: u8, object: &Object) -> Decision {
    let question = Question {
        subject,
        verbs,
        text: object.text,
    };
    let mut simulator = Simulator {
        cells: &profile.cells,
        profile: profile.descriptor,
        question,
        object,
        outcomes: [Outcome::NONE; VERBS as usize],
        decision: Decision::refuse(Reason::TablesBroken),
        cursor: Cursor::EMPTY,
    };
    agentguard_common::decide(&mut simulator, profile.descriptor, question)
}

struct Simulator<'s> {
    cells: &'s [u64],
    profile: u32,
    question: Question,
    object: &'s Object<'s>,
    outcomes: [Outcome; VERBS as usize],
    decision: Decision,
    cursor: Cursor,
}

impl Tables for Simulator<'_> {
    fn cell(&self, index: u32) -> Option<u64> {
        self.cells.get(index as usize).copied()
    }
}

impl Engine for Simulator<'_> {
    fn ask(&mut self, profile: u32, question: Question) {
        self.profile = profile;
        self.question = question;
    }

    fn profile(&self) -> u32 {
        self.profile
    }

    fn subject(&self) -> u32 {
        self.question.subject as u32
    }

    fn text(&self) -> u32 {
        self.question.text as u32
    }

    fn asks(&self, verb: u32) -> bool {
        self.question.verbs & (1 << verb) != 0
    }

    fn decision(&self) -> Decision {
        self.decision
    }

    fn set_decision(&mut self, decision: Decision) {
        self.decision = decision;
    }

    fn outcome(&self, verb: u32) -> Outcome {
        self.outcomes[verb as usize]
    }

    fn set_outcome(&mut self, verb: u32, outcome: Outcome) {
        self.outcomes[verb as usize] = outcome;
    }

    fn cursor(&mut self) -> &mut Cursor {
        &mut self.cursor
    }

    fn feed(&mut self, from: u32) -> Option<()> {
        let mut cursor = self.cursor;
        for byte in self.object.bytes.get(from as usize..)? {
            if !cursor.step(self, *byte)? {
                break;
            }
        }
        self.cursor = cursor;
        Some(())
    }

    fn start(&self) -> u32 {
        0
    }

    fn aliases(&self) -> u32 {
        self.object.aliases.len().min(ALIASES) as u32
    }

    fn alias(&self, number: u32) -> Option<Alias> {
        let met = self.object.aliases.get(number as usize)?;
        let paths = match self.question.subject {
            Subject::File => 0,
            Subject::Exec => 1,
            Subject::Unix => 2,
            Subject::Connect | Subject::Listen => return None,
        };
        Some(Alias {
            states: met.states[paths],
            from: met.from as u32,
            padding: 0,
        })
    }
}
