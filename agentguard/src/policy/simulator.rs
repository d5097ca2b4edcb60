//! Runs the kernel's decision function on vectors: the engine behind `explain`, `test` and the
//! conformance cases. Knows no more of rules than the kernel does.

use agentguard_common::{
    Decision, Engine, Outcome, Question,
    automaton::{Cursor, Tables, VERBS},
    decide::{Alias, Text},
    event::Reason,
    identity::PATH_SUBJECTS,
    limits::{ALIASES, AUTOMATA},
    moved::{self, Moved, Mover, NEW, OLD},
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
    let mut simulator = Simulator::new(profile, question, object);
    agentguard_common::decide(&mut simulator, profile.descriptor, question)
}

/// What is asked about a rename or a link.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// Sets of accesses that the operation itself needs of the old and of the new name.
    pub wanted: [u32; 2],
    /// The file under the new name gets the old one.
    pub exchange: bool,
    /// Either file is a directory.
    pub below: bool,
}

/// Asks a profile about a rename or a link. The decision, and whether it is about the new name.
pub fn ask_move(
    profile: &CompiledProfile,
    old: &Object,
    new: &Object,
    asked: Move,
) -> (Decision, bool) {
    let refused = (Decision::refuse(Reason::TablesBroken), false);
    let question = |object: &Object| Question {
        subject: Subject::File,
        verbs: moved::ALL_ACCESSES as u8,
        text: object.text,
    };
    let mut simulator = Simulator::new(profile, question(old), old);
    simulator.moved.wanted = asked.wanted;
    simulator.moved.exchange = asked.exchange.into();
    simulator.moved.below = asked.below.into();
    simulator.moved.texts = [old.text as u32, new.text as u32];
    for (side, object) in [(OLD, old), (NEW, new)] {
        simulator.object = object;
        simulator.moved.side = side;
        let question = question(object);
        let decision = agentguard_common::decide(&mut simulator, profile.descriptor, question);
        if decision.reason == Reason::TablesBroken {
            return refused;
        }
        moved::keep_answer(&mut simulator);
        let last = simulator.aliases();
        if asked.below && simulator.trace_all(last).is_none() {
            return refused;
        }
    }
    moved::settle(&mut simulator);
    (simulator.decision, simulator.moved.side == NEW)
}

/// Where the automata of a subject stand after these bytes, as the kernel would go on from there. `None` when the tables
/// are broken.
pub fn states_after(
    profile: &CompiledProfile,
    subject: Subject,
    bytes: &[u8],
) -> Option<[u32; AUTOMATA]> {
    let tables = Cells(&profile.cells);
    let mut cursor =
        agentguard_common::profile::cursor(&tables, profile.descriptor, subject as u32)?;
    for byte in bytes {
        if !cursor.step(&tables, *byte)? {
            break;
        }
    }
    Some(cursor.state)
}

/// Whether nothing that follows these bytes of an object can change the answer.
pub fn is_settled(profile: &CompiledProfile, subject: Subject, bytes: &[u8]) -> bool {
    let tables = Cells(&profile.cells);
    let cursor = agentguard_common::profile::cursor(&tables, profile.descriptor, subject as u32);
    let Some(mut cursor) = cursor else {
        return false;
    };
    bytes
        .iter()
        .any(|byte| cursor.step(&tables, *byte) == Some(false))
}

struct Cells<'c>(&'c [u64]);

impl Tables for Cells<'_> {
    fn cell(&self, index: u32) -> Option<u64> {
        self.0.get(index as usize).copied()
    }
}

struct Simulator<'s> {
    tables: &'s CompiledProfile,
    profile: u32,
    question: Question,
    object: &'s Object<'s>,
    outcomes: [Outcome; VERBS as usize],
    decision: Decision,
    cursor: Cursor,
    moved: Moved,
}

impl<'s> Simulator<'s> {
    fn new(profile: &'s CompiledProfile, question: Question, object: &'s Object<'s>) -> Self {
        Self {
            tables: profile,
            profile: profile.descriptor,
            question,
            object,
            outcomes: [Outcome::NONE; VERBS as usize],
            decision: Decision::refuse(Reason::TablesBroken),
            cursor: Cursor::EMPTY,
            moved: Moved::EMPTY,
        }
    }
}

impl Tables for Simulator<'_> {
    fn cell(&self, index: u32) -> Option<u64> {
        self.tables.cell(index)
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
            Subject::Args => 3,
            // A name has no others.
            Subject::Name => 0,
            Subject::Connect | Subject::Listen => return None,
        };
        Some(Alias {
            states: met.states[paths],
            from: met.from as u32,
            padding: 0,
        })
    }
}

impl Mover for Simulator<'_> {
    fn kept(&self, side: u32, verb: u32) -> Outcome {
        self.moved.kept[side as usize][verb as usize]
    }

    fn keep(&mut self, side: u32, verb: u32, outcome: Outcome) {
        self.moved.kept[side as usize][verb as usize] = outcome;
    }

    fn mark(&self, row: u32, track: u32) -> u32 {
        self.moved.marks[row as usize][track as usize]
    }

    fn set_mark(&mut self, row: u32, track: u32, mark: u32) {
        self.moved.marks[row as usize][track as usize] = mark;
    }

    fn tracks(&self, side: u32) -> u32 {
        self.moved.tracks[side as usize]
    }

    fn set_tracks(&mut self, side: u32, tracks: u32) {
        self.moved.tracks[side as usize] = tracks;
    }

    fn side(&self) -> u32 {
        self.moved.side
    }

    fn found(&self) -> u32 {
        self.moved.found
    }

    fn set_found(&mut self, found: u32) {
        self.moved.found = found;
    }

    fn wanted(&self, side: u32) -> u32 {
        self.moved.wanted[side as usize]
    }

    fn name_text(&self, side: u32) -> u32 {
        self.moved.texts[side as usize]
    }

    fn is_exchange(&self) -> bool {
        self.moved.exchange != 0
    }

    fn below(&self) -> u32 {
        self.moved.below
    }

    fn settle_on(&mut self, side: u32, verbs: u32, decision: Decision) {
        self.moved.side = side;
        self.moved.verbs = verbs;
        self.decision = decision;
    }
}
