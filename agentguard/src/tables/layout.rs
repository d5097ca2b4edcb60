//! The maps by name, and the layout this build expects of each: what makes a pinned map usable, or a
//! refusal.

use agentguard_common::{
    approval::{self, Grant, GrantKey, Request, RequestKey},
    counter,
    identity::{FILTER_WORDS, Identity, IdentityKey},
    label::{Agent, Control, Socket, Tag, TaskState},
    limits,
    name::{DestinationKey, NameGrant, NameKey, QuestionFrom, QuestionKey, Resolver},
    seen::Seen,
};
use aya::maps::{MapInfo, MapType};

pub const LABELS: &str = "LABELS";
pub const SOCKETS: &str = "SOCKETS";
pub const TAGS: &str = "TAGS";
pub const SEEN: &str = "SEEN";
pub const AGENTS: &str = "AGENTS";
pub const PROFILES: &str = "PROFILES";
pub const AUTOMATON: &str = "AUTOMATON";
pub const CONTROL: &str = "CONTROL";
pub const IDENTITIES: &str = "IDENTITIES";
pub const IDENTITY_FILTER: &str = "IDENTITY_FILTER";
pub const REQUESTS: &str = "REQUESTS";
pub const GRANTS: &str = "GRANTS";
pub const NAME_GRANTS: &str = "NAME_GRANTS";
pub const DESTINATIONS: &str = "DESTINATIONS";
pub const RESOLVERS: &str = "RESOLVERS";
pub const QUESTIONS: &str = "QUESTIONS";
pub const COUNTERS: &str = "COUNTERS";
pub const DENIALS: &str = "DENIALS";
pub const EVENTS: &str = "EVENTS";

/// `BPF_F_MMAPABLE`, include/uapi/linux/bpf.h.
const MMAPABLE: u32 = 1 << 10;

/// What is expected of one map.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub name: &'static str,
    kind: MapType,
    key_bytes: u32,
    value_bytes: u32,
    /// `None` where the configuration decides, or the kernel doesn't count.
    entries: Option<u32>,
    mapped: bool,
}

const fn layout(
    name: &'static str,
    kind: MapType,
    key_bytes: usize,
    value_bytes: usize,
    entries: Option<u32>,
    mapped: bool,
) -> Layout {
    Layout {
        name,
        kind,
        key_bytes: key_bytes as u32,
        value_bytes: value_bytes as u32,
        entries,
        mapped,
    }
}

/// Every pinned map.
pub const MAPS: [Layout; 19] = [
    layout(
        LABELS,
        MapType::TaskStorage,
        4,
        size_of::<TaskState>(),
        None,
        false,
    ),
    layout(
        SOCKETS,
        MapType::SkStorage,
        4,
        size_of::<Socket>(),
        None,
        false,
    ),
    layout(
        SEEN,
        MapType::InodeStorage,
        4,
        size_of::<Seen>(),
        None,
        false,
    ),
    layout(
        TAGS,
        MapType::Hash,
        8,
        size_of::<Tag>(),
        Some(limits::TAGS),
        false,
    ),
    layout(
        AGENTS,
        MapType::Array,
        4,
        size_of::<Agent>(),
        Some(limits::AGENTS),
        true,
    ),
    layout(PROFILES, MapType::Array, 4, 8, Some(limits::PROFILES), true),
    layout(AUTOMATON, MapType::Array, 4, 8, None, true),
    layout(
        CONTROL,
        MapType::Array,
        4,
        size_of::<Control>(),
        Some(1),
        true,
    ),
    layout(
        IDENTITIES,
        MapType::Hash,
        size_of::<IdentityKey>(),
        size_of::<Identity>(),
        Some(limits::IDENTITIES),
        false,
    ),
    layout(
        IDENTITY_FILTER,
        MapType::Array,
        4,
        8,
        Some(FILTER_WORDS),
        true,
    ),
    layout(
        REQUESTS,
        MapType::Hash,
        size_of::<RequestKey>(),
        size_of::<Request>(),
        Some(approval::REQUESTS),
        false,
    ),
    layout(
        GRANTS,
        MapType::Hash,
        size_of::<GrantKey>(),
        size_of::<Grant>(),
        Some(approval::GRANTS),
        false,
    ),
    layout(
        NAME_GRANTS,
        MapType::Hash,
        size_of::<NameKey>(),
        size_of::<NameGrant>(),
        Some(limits::NAME_GRANTS),
        false,
    ),
    layout(
        DESTINATIONS,
        MapType::LruHash,
        size_of::<DestinationKey>(),
        8,
        Some(limits::DESTINATIONS),
        false,
    ),
    layout(
        RESOLVERS,
        MapType::Hash,
        8,
        size_of::<Resolver>(),
        Some(limits::RESOLVERS),
        false,
    ),
    layout(
        QUESTIONS,
        MapType::LruHash,
        size_of::<QuestionKey>(),
        size_of::<QuestionFrom>(),
        Some(limits::QUESTIONS),
        false,
    ),
    layout(
        COUNTERS,
        MapType::PerCpuArray,
        4,
        8,
        Some(counter::COUNTERS),
        false,
    ),
    layout(
        DENIALS,
        MapType::RingBuf,
        0,
        0,
        Some(limits::DENIALS_BYTES),
        false,
    ),
    layout(
        EVENTS,
        MapType::RingBuf,
        0,
        0,
        Some(limits::EVENTS_BYTES),
        false,
    ),
];

impl Layout {
    /// Whether a map in the kernel is what is expected; else what differs.
    pub fn check(&self, info: &MapInfo) -> Result<(), String> {
        let kind = info.map_type().map_err(|error| error.to_string())?;
        if kind != self.kind {
            return Err(format!("it is a {kind:?}, not a {:?}", self.kind));
        }
        let numbers = [
            ("keys", info.key_size(), Some(self.key_bytes)),
            ("values", info.value_size(), Some(self.value_bytes)),
            ("entries", info.max_entries(), self.entries),
        ];
        for (what, found, expected) in numbers {
            if let Some(expected) = expected
                && found != expected
            {
                return Err(match what {
                    "entries" => format!("it has room for {found} entries, not {expected}"),
                    _ => format!("its {what} have {found} bytes, not {expected}"),
                });
            }
        }
        if self.mapped && info.map_flags() & MMAPABLE == 0 {
            return Err("it can't be mapped into memory".to_owned());
        }
        Ok(())
    }
}
