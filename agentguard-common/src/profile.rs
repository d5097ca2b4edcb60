//! How an installed profile lies in the arena: a descriptor that names its automata and defaults.
//!
//! A slot of the `PROFILES` map holds the arena cell of the descriptor in force (0: none), and
//! switching a profile is one 8-byte store into it. Descriptors are never changed once they are
//! named by a slot, so an action that has read the slot sees one policy whole.
//!
//! | cell | low 32 bits | high 32 bits |
//! | --- | --- | --- |
//! | 0 | [`MAGIC`] | install number: which policy installation this profile belongs to |
//! | 1 | [`Mode`] | [`LogAllow`] |
//! | 2 … 4 | [`System`], 64 bits each | |
//! | 5 | milliseconds that an ask waits for an answer | milliseconds that a refusal stands |
//! | 6 | most questions of an agent that wait at once | arena cell of the rules' own times, or [`ABSENT`] |
//! | 7 + 8 s + a, a in 0–3 | base of automaton a of subject s, as an arena cell | its initial state |
//! | 7 + 8 s + 4 … 7 | default row of subject s: one [`Outcome`] per verb | |
//!
//! The rules' own times: one half cell for each rule, by its index, even ones in the low half: milliseconds that its
//! ask waits; 0 for the profile's.

use crate::{
    automaton::{ABSENT, ACCEPT_ROW, Cursor, Tables},
    limits::AUTOMATA,
    outcome::Outcome,
    system::System,
};

/// First word of every descriptor ("AGP4"). Another layout has another word, so that programs which still find
/// an older descriptor deny.
pub const MAGIC: u32 = 0x3450_4741;
/// Subjects a descriptor has room for.
pub const SUBJECTS: u32 = 8;
/// Cells per subject.
pub const SUBJECT_CELLS: u32 = AUTOMATA as u32 + ACCEPT_ROW;
/// Cells before the first subject.
pub const HEADER_CELLS: u32 = APPROVALS_CELL + 2;
/// First cell of what is said of approvals.
pub const APPROVALS_CELL: u32 = 2 + System::CELLS;
/// Cells of a descriptor.
pub const DESCRIPTOR_CELLS: u32 = HEADER_CELLS + SUBJECTS * SUBJECT_CELLS;

/// What a rule is about. Each has automata of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Subject {
    /// Paths of files; verbs are [`verb`]'s.
    File = 0,
    /// Paths of programs; verb 0, and [`verb::MAP`].
    Exec = 1,
    /// Remote internet addresses as [`crate::address`] writes them; verb 0.
    Connect = 2,
    /// Unix sockets: `/path`, or `@name` for an abstract one; verb 0.
    Unix = 3,
    /// Local internet addresses as [`crate::address`] writes them; verb 0.
    Listen = 4,
    /// Programs with their arguments after `argv[0]`, each string with its NUL; verb 0. Has automata only in
    /// profiles with a rule that looks at arguments; they then hold the rules of [`Self::Exec`] as well, so
    /// that they say all there is to say.
    Args = 5,
    /// Host names with a protocol and a port, as [`crate::name`] writes them; verb 0. Has automata only in profiles with a
    /// rule that names a host: those whose lookups go through the daemon's resolver.
    Name = 6,
}

/// Kinds of sockets that are only there for profiles with rules that name them. Such kinds lie where the default
/// row of a last subject would: an [`Outcome`] each.
pub mod named {
    /// The subject's number.
    pub const SUBJECT: u32 = super::SUBJECTS - 1;
    pub const SCTP: u8 = 0;
    /// What `ping` uses: a datagram socket whose protocol is ICMP.
    pub const ICMP: u8 = 1;
    pub const VSOCK: u8 = 2;
    /// Not a kind of socket: what the rules say of [`crate::address::OWN`], the sockets of the same agent. Its
    /// default, where none says anything.
    pub const OWN: u8 = 3;
}

/// Numbers of the accesses to a file, and of what else can be asked.
pub mod verb {
    pub const READ: u8 = 0;
    pub const WRITE: u8 = 1;
    pub const CREATE: u8 = 2;
    pub const DELETE: u8 = 3;
    pub const METADATA: u8 = 4;
    /// The only verb of [`Subject`](super::Subject)s other than files, but for [`MAP`].
    pub const ONLY: u8 = 0;
    /// Of [`Subject::Exec`](super::Subject::Exec): mapping a file as code without running it.
    pub const MAP: u8 = 1;

    /// A set of verbs with just this one.
    pub const fn bit(verb: u8) -> u8 {
        1 << verb
    }
}

/// What a profile does with its verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    Enforce = 0,
    /// Everything is allowed; events say what would have been done.
    Audit = 1,
}

/// Which allowed actions are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum LogAllow {
    All = 0,
    /// Once per process and object.
    First = 1,
    None = 2,
}

/// Install number, mode and log setting of the descriptor at `profile`. `None` when the cell holds
/// no descriptor.
#[inline(always)]
pub fn header<T: Tables>(tables: &T, profile: u32) -> Option<(u32, u32, u32)> {
    let first = tables.cell(profile)?;
    if first as u32 != MAGIC {
        return None;
    }
    let second = tables.cell(profile.wrapping_add(1))?;
    Some(((first >> 32) as u32, second as u32, (second >> 32) as u32))
}

/// The `[system]` of the descriptor at `profile`. `None` when the cell holds no descriptor.
#[inline(always)]
pub fn system<T: Tables>(tables: &T, profile: u32) -> Option<System> {
    header(tables, profile)?;
    System::read(tables, profile.wrapping_add(2))
}

/// `[approvals]` of a profile. The kernel reads the first and the last; how long a refusal stands is for the daemon,
/// which writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Approvals {
    /// How long an ask waits for an answer, in milliseconds.
    pub timeout_ms: u32,
    /// How long a refused action is refused without asking, in milliseconds.
    pub cooldown_ms: u32,
    /// How many questions of one agent may wait at once.
    pub max_pending: u32,
}

impl Approvals {
    /// What holds where a profile says nothing.
    pub const DEFAULT: Self = Self {
        timeout_ms: 60_000,
        cooldown_ms: 30_000,
        max_pending: 8,
    };
}

/// `[approvals]` of the descriptor at `profile`, with the time that rule `rule` has of its own, if it has. `None` when
/// the cells hold no descriptor.
#[inline(always)]
pub fn approvals<T: Tables>(tables: &T, profile: u32, rule: u32) -> Option<Approvals> {
    header(tables, profile)?;
    let times = tables.cell(profile.wrapping_add(APPROVALS_CELL))?;
    let rest = tables.cell(profile.wrapping_add(APPROVALS_CELL + 1))?;
    let mut approvals = Approvals {
        timeout_ms: times as u32,
        cooldown_ms: (times >> 32) as u32,
        max_pending: rest as u32,
    };
    let own = (rest >> 32) as u32;
    if own != ABSENT && rule != Outcome::DEFAULT_RULE {
        let cell = tables.cell(own.wrapping_add(rule / 2))?;
        let own_ms = (cell >> (32 * (rule % 2))) as u32;
        if own_ms != 0 {
            approvals.timeout_ms = own_ms;
        }
    }
    Some(approvals)
}

/// First cell of the part of subject number `subject` in the descriptor at `profile`.
#[inline(always)]
pub const fn subject_cell(profile: u32, subject: u32) -> u32 {
    profile
        .wrapping_add(HEADER_CELLS)
        .wrapping_add((subject % SUBJECTS) * SUBJECT_CELLS)
}

/// The subject's automata, each in its initial state.
#[inline(always)]
pub fn cursor<T: Tables>(tables: &T, profile: u32, subject: u32) -> Option<Cursor> {
    let cell = subject_cell(profile, subject);
    let mut cursor = Cursor::EMPTY;
    let mut i = 0;
    while i < AUTOMATA {
        let automaton = tables.cell(cell.wrapping_add(i as u32))?;
        cursor.base[i] = automaton as u32;
        cursor.state[i] = (automaton >> 32) as u32;
        i += 1;
    }
    Some(cursor)
}

/// The profile's `[default]` for one verb of the subject.
#[inline(always)]
pub fn default_outcome<T: Tables>(
    tables: &T,
    profile: u32,
    subject: u32,
    verb: u32,
) -> Option<Outcome> {
    let row = subject_cell(profile, subject).wrapping_add(AUTOMATA as u32);
    crate::automaton::row_outcome(tables, row, verb)
}
