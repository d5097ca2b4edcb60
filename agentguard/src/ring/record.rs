//! One record of a ring, decoded with checks. What the numbers mean to people is added elsewhere.

use agentguard_common::{
    Outcome, Verdict,
    approval::Note,
    counter::Hook,
    event::{
        Action, FLAG_AUDIT, FLAG_GRANTED, FLAG_HELD, FLAG_KILLED, FLAG_PARTIAL, ObjectKind,
        Process, Reason, RecordHeader, kind,
    },
};

use crate::tables::Shared as _;

/// A record whose numbers are known to mean something.
#[derive(Clone, Debug)]
pub struct Record {
    pub header: RecordHeader,
    pub action: Action,
    pub verdict: Verdict,
    pub reason: Reason,
    pub object_kind: ObjectKind,
    pub object: Vec<u8>,
    /// The verdict was not carried out.
    pub audit: bool,
    /// The object is not whole.
    pub partial: bool,
    /// The process was killed, for the action could no longer be refused.
    pub killed: bool,
    /// The process is stopped until somebody answers.
    pub held: bool,
    /// A rule asks, and an answer let the action through.
    pub granted: bool,
    pub process: Process,
    /// What an approval is about, in records of that kind.
    pub note: Option<Note>,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a record of {0} bytes is too short")]
    Short(usize),
    #[error("a record of {found} bytes says that it has {said}")]
    Length { found: usize, said: u32 },
    #[error("a record is of the unknown kind {0}")]
    Kind(u16),
    #[error("a record's object of {0} bytes is longer than its room")]
    Object(u32),
    #[error("a record has the unknown {what} {number}")]
    Number { what: &'static str, number: u32 },
}

impl Record {
    /// Decodes what the kernel put into a ring.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let short = Error::Short(bytes.len());
        let header = RecordHeader::read(bytes).ok_or(short)?;
        if header.len_bytes as usize != bytes.len() {
            return Err(Error::Length {
                found: bytes.len(),
                said: header.len_bytes,
            });
        }
        let (bytes, note) = match header.kind {
            kind::ACTION => (bytes, None),
            kind::APPROVAL => {
                let end = bytes.len().checked_sub(size_of::<Note>()).ok_or(short)?;
                let (record, note) = bytes.split_at(end);
                (record, Some(Note::read(note).ok_or(short)?))
            }
            kind => return Err(Error::Kind(kind)),
        };
        let room_end = bytes
            .len()
            .checked_sub(size_of::<Process>())
            .filter(|end| *end >= size_of::<RecordHeader>())
            .ok_or(short)?;
        let (front, process) = bytes.split_at(room_end);
        let object = front[size_of::<RecordHeader>()..]
            .get(..header.object_bytes as usize)
            .ok_or(Error::Object(header.object_bytes))?;
        let number = |what, number| Error::Number { what, number };
        Ok(Self {
            action: action(header.action).ok_or_else(|| number("action", header.action.into()))?,
            verdict: Outcome(header.outcome)
                .verdict()
                .filter(|verdict| *verdict != Verdict::None)
                .ok_or_else(|| number("outcome", header.outcome))?,
            reason: reason(header.reason).ok_or_else(|| number("reason", header.reason.into()))?,
            object_kind: object_kind(header.object_kind)
                .ok_or_else(|| number("kind of object", header.object_kind.into()))?,
            object: object.to_vec(),
            audit: header.flags & FLAG_AUDIT != 0,
            partial: header.flags & FLAG_PARTIAL != 0,
            killed: header.flags & (FLAG_KILLED | FLAG_AUDIT) == FLAG_KILLED,
            held: header.flags & FLAG_HELD != 0,
            granted: header.flags & FLAG_GRANTED != 0,
            note,
            process: Process::read(process).ok_or(short)?,
            header,
        })
    }

    /// Index of the rule, or `None` for the profile's `[default]`.
    pub fn rule(&self) -> Option<u32> {
        let rule = Outcome(self.header.outcome).rule();
        (rule != Outcome::DEFAULT_RULE).then_some(rule)
    }
}

fn action(number: u8) -> Option<Action> {
    [
        Action::FileOpen,
        Action::FileCreate,
        Action::FileDelete,
        Action::FileRename,
        Action::FileLink,
        Action::FileMetadata,
        Action::Exec,
        Action::NetConnect,
        Action::NetSend,
        Action::NetListen,
        Action::NetAccept,
        Action::UnixConnect,
        Action::FileTruncate,
        Action::ProcessSignal,
        Action::ProcessPtrace,
        Action::System,
    ]
    .into_iter()
    .find(|action| *action as u8 == number)
}

/// The action's name in events.
pub const fn action_name(action: Action) -> &'static str {
    match action {
        Action::FileOpen | Action::FileTruncate => "file.open",
        Action::FileCreate => "file.create",
        Action::FileDelete => "file.delete",
        Action::FileRename => "file.rename",
        Action::FileLink => "file.link",
        Action::FileMetadata => "file.metadata",
        Action::Exec => "exec",
        Action::NetConnect => "net.connect",
        Action::NetSend => "net.send",
        Action::NetListen => "net.listen",
        Action::NetAccept => "net.accept",
        Action::UnixConnect => "unix.connect",
        Action::ProcessSignal => "process.signal",
        Action::ProcessPtrace => "process.ptrace",
        // Its operation says which.
        Action::System => "system",
    }
}

const REASONS: [(Reason, &str); 32] = [
    (Reason::Rule, "rule"),
    (Reason::Default, "default"),
    (Reason::PathTooLong, "path-too-long"),
    (Reason::PathUnreadable, "path-unreadable"),
    (Reason::Detached, "detached"),
    (Reason::NoPath, "no-path"),
    (Reason::TooManyAliases, "too-many-aliases"),
    (Reason::TablesBroken, "tables-broken"),
    (Reason::StaleLabel, "stale-label"),
    (Reason::NoMemory, "no-memory"),
    (Reason::ForeignSocket, "foreign-socket"),
    (Reason::SourceRouted, "source-routed"),
    (Reason::PacketUnreadable, "packet-unreadable"),
    (Reason::AddressUnreadable, "address-unreadable"),
    (Reason::AskUnavailable, "ask-unavailable"),
    (Reason::Internal, "internal"),
    (Reason::SameAgent, "same-agent"),
    (Reason::OtherTask, "other-task"),
    (Reason::System, "system"),
    (Reason::SocketKind, "socket-kind"),
    (Reason::WouldLift, "would-lift-protection"),
    (Reason::ArgumentsTooLong, "arguments-too-long"),
    (Reason::ArgumentsUnreadable, "arguments-unreadable"),
    (Reason::Granted, "granted"),
    (Reason::Held, "held"),
    (Reason::Refused, "refused"),
    (Reason::TimedOut, "timed-out"),
    (Reason::TooManyPending, "too-many-pending"),
    (Reason::NoRoom, "no-room"),
    (Reason::CantHold, "cant-be-held"),
    (Reason::NoResolver, "no-resolver"),
    (Reason::ServerName, "server-name"),
];

fn reason(number: u8) -> Option<Reason> {
    REASONS
        .iter()
        .map(|(reason, _)| *reason)
        .find(|reason| *reason as u8 == number)
}

/// The reason's name in events.
pub fn reason_name(reason: Reason) -> &'static str {
    REASONS
        .iter()
        .find(|(other, _)| *other == reason)
        .map_or("unknown", |(_, name)| name)
}

fn object_kind(number: u8) -> Option<ObjectKind> {
    [
        ObjectKind::Path,
        ObjectKind::Address,
        ObjectKind::Unix,
        ObjectKind::Task,
        ObjectKind::Detail,
        ObjectKind::Program,
        ObjectKind::Names,
    ]
    .into_iter()
    .find(|kind| *kind as u8 == number)
}

/// The verdict's name in events.
pub const fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::None => "none",
        Verdict::Allow => "allow",
        Verdict::Ask => "ask",
        Verdict::Deny | Verdict::Never => "deny",
        Verdict::Kill => "kill",
    }
}

/// When a record was made (boot clock, in nanoseconds), before anything else of it is looked at; 0 when
/// it is too short to say, which makes it the oldest.
pub fn time(bytes: &[u8]) -> u64 {
    RecordHeader::read(bytes).map_or(0, |header| header.boot_ns)
}

/// The name of a hook by its number.
pub fn hook_name(number: u32) -> Option<&'static str> {
    Hook::ALL
        .into_iter()
        .find(|hook| *hook as u32 == number)
        .map(Hook::name)
}

#[cfg(test)]
pub(crate) mod tests {
    use agentguard_common::{
        event::SHORT_OBJECT,
        limits::{ARGS_BYTES, EXE_BYTES},
    };
    use proptest::prelude::*;

    use super::*;

    /// A record as the kernel would write it.
    pub(crate) fn sample(
        object: &[u8],
        outcome: Outcome,
        reason: Reason,
        action: Action,
    ) -> Vec<u8> {
        let header = RecordHeader {
            kind: kind::ACTION,
            reserved: 0,
            len_bytes: (size_of::<RecordHeader>() + SHORT_OBJECT + size_of::<Process>()) as u32,
            boot_ns: 1_000,
            agent: 3,
            inode: 0,
            device: 0,
            install: 1,
            outcome: outcome.0,
            slot: 0,
            object_bytes: object.len() as u32,
            verbs: 1,
            verb: 0,
            action: action as u8,
            reason: reason as u8,
            object_kind: ObjectKind::Path as u8,
            flags: 0,
            hook: 1,
            padding: [0; 5],
        };
        let process = Process {
            start_ns: 5,
            pid: 0,
            tid: 0,
            ppid: 0,
            uid: 0,
            gid: 0,
            exe_bytes: 0,
            args_bytes: 0,
            cut: 0,
            padding: [0; 7],
            comm: [0; 16],
            exe: [0; EXE_BYTES],
            args: [0; ARGS_BYTES],
        };
        let mut bytes = header.bytes().to_vec();
        bytes.extend_from_slice(object);
        bytes.resize(size_of::<RecordHeader>() + SHORT_OBJECT, 0);
        bytes.extend_from_slice(process.bytes());
        bytes
    }

    fn denial() -> Vec<u8> {
        sample(
            b"/etc/shadow",
            Outcome::new(Verdict::Deny, false, 4),
            Reason::Rule,
            Action::FileOpen,
        )
    }

    #[test]
    fn a_record_is_read() {
        let record = Record::decode(&denial()).expect("a record");
        assert_eq!(record.object, b"/etc/shadow");
        assert_eq!(record.verdict, Verdict::Deny);
        assert_eq!(record.rule(), Some(4));
        assert_eq!(action_name(record.action), "file.open");
        assert_eq!(time(&denial()), record.header.boot_ns);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let good = denial();
        let change = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            Record::decode(&bytes).map(|_| ())
        };
        let offset = |field| match field {
            "kind" => std::mem::offset_of!(RecordHeader, kind),
            "len" => std::mem::offset_of!(RecordHeader, len_bytes),
            "object" => std::mem::offset_of!(RecordHeader, object_bytes) + 2,
            "action" => std::mem::offset_of!(RecordHeader, action),
            "reason" => std::mem::offset_of!(RecordHeader, reason),
            "object_kind" => std::mem::offset_of!(RecordHeader, object_kind),
            // The verdict is in its last bits.
            _ => std::mem::offset_of!(RecordHeader, outcome) + 3,
        };
        assert_eq!(change(offset("kind"), 9), Err(Error::Kind(9)));
        assert!(matches!(
            change(offset("len"), 1),
            Err(Error::Length { .. })
        ));
        assert!(matches!(change(offset("object"), 1), Err(Error::Object(_))));
        for field in ["action", "reason", "object_kind", "outcome"] {
            assert!(
                matches!(change(offset(field), 0xff), Err(Error::Number { .. })),
                "{field}"
            );
        }
        assert_eq!(
            Record::decode(&good[..20]).map(|_| ()),
            Err(Error::Short(20))
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            let _ = Record::decode(&bytes);
            let _ = time(&bytes);
        }

        /// With the length right, so that the checks behind it are reached.
        #[test]
        fn nothing_panics_behind_the_length(mut bytes in prop::collection::vec(any::<u8>(), 888..5100)) {
            let len = bytes.len() as u32;
            bytes[..2].copy_from_slice(&kind::ACTION.to_le_bytes());
            bytes[4..8].copy_from_slice(&len.to_le_bytes());
            let _ = Record::decode(&bytes);
        }
    }
}
