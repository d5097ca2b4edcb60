//! The pinned maps, typed: what the kernel programs judge by. Nothing else writes them. What goes
//! in (compiled policies, agents) is decided elsewhere.

use std::{
    fs,
    io::{self, Read as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::atomic::Ordering,
};

use agentguard_common::{
    Outcome,
    approval::{Grant, GrantKey, Request, RequestKey, WAITING},
    automaton, counter,
    identity::{self, FILTER_WORDS, Identity, IdentityKey},
    label::{self, AGENT_ACTIVE, Agent, Control, Label, SOCKET_FOR_AGENTS, Socket, Tag, TaskState},
    limits, profile,
};
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};

use crate::{bpf, pins::Pins};

pub mod arena;
pub mod hosts;
mod in_hand;
pub mod inode;
pub mod install;
pub mod layout;
mod mapping;
mod shared;

pub use in_hand::InHand;
pub use mapping::Mapping;
pub use shared::{Plain, Shared};

/// Words of an element of `AGENTS`.
const AGENT_WORDS: usize = size_of::<Agent>() / 8;

/// A failed operation on a map.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open the pinned map {name}: {source}")]
    Open {
        name: &'static str,
        source: MapError,
    },
    #[error("cannot map {name} into memory: {source}")]
    Memory {
        name: &'static str,
        source: io::Error,
    },
    #[error("cannot {operation} in {name}: {source}")]
    Access {
        operation: &'static str,
        name: &'static str,
        source: MapError,
    },
    #[error("there is no element {index} in {name}")]
    Range { name: &'static str, index: usize },
    #[error("cannot look the label of process {pid} up: {source}")]
    Label { pid: u32, source: io::Error },
    #[error("cannot mark the socket for agents: {0}")]
    Socket(io::Error),
}

/// Every map but the rings.
pub struct Tables {
    labels: OwnedFd,
    sockets: OwnedFd,
    tags: HashMap<MapData, u64, Plain<Tag>>,
    identities: HashMap<MapData, Plain<IdentityKey>, Plain<Identity>>,
    requests: HashMap<MapData, Plain<RequestKey>, Plain<Request>>,
    grants: HashMap<MapData, Plain<GrantKey>, Plain<Grant>>,
    counters: PerCpuArray<MapData, u64>,
    agents: Mapping,
    profiles: Mapping,
    arena: Mapping,
    control: Mapping,
    filter: Mapping,
}

/// The arena, as installed profiles are read.
struct Cells<'a>(&'a Mapping);

impl automaton::Tables for Cells<'_> {
    fn cell(&self, index: u32) -> Option<u64> {
        Some(self.0.word(index as usize)?.load(Ordering::Acquire))
    }
}

/// A pinned map and what it costs.
#[derive(Clone, Debug)]
pub struct MapUse {
    pub name: &'static str,
    pub id: u32,
    pub entries: u32,
    pub memory_bytes: u64,
}

fn open(pins: &Pins, name: &'static str) -> Result<MapData, Error> {
    MapData::from_pin(pins.map(name)).map_err(|source| Error::Open { name, source })
}

fn open_mapped(pins: &Pins, name: &'static str, words: usize) -> Result<Mapping, Error> {
    let map = open(pins, name)?;
    Mapping::new(map.fd().as_fd(), words).map_err(|source| Error::Memory { name, source })
}

/// `BPF_EXIST`, include/uapi/linux/bpf.h.
const BPF_EXIST: u64 = 2;

/// What isn't there is removed.
fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        result => result,
    }
}

fn access(operation: &'static str, name: &'static str) -> impl FnOnce(MapError) -> Error {
    move |source| Error::Access {
        operation,
        name,
        source,
    }
}

impl Tables {
    /// Opens the pinned maps, whose layouts the loader has checked.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        let typed = |name| {
            open(pins, name).and_then(|map| {
                Map::from_map_data(map).map_err(|source| Error::Open { name, source })
            })
        };
        let cells = open(pins, layout::AUTOMATON)?
            .info()
            .map_err(access("count the cells", layout::AUTOMATON))?
            .max_entries();
        let tables = Self {
            labels: bpf::open_pin(&pins.map(layout::LABELS)).map_err(|source| Error::Memory {
                name: layout::LABELS,
                source,
            })?,
            sockets: bpf::open_pin(&pins.map(layout::SOCKETS)).map_err(|source| Error::Memory {
                name: layout::SOCKETS,
                source,
            })?,
            tags: HashMap::try_from(typed(layout::TAGS)?).map_err(access("begin", layout::TAGS))?,
            identities: HashMap::try_from(typed(layout::IDENTITIES)?)
                .map_err(access("begin", layout::IDENTITIES))?,
            requests: HashMap::try_from(typed(layout::REQUESTS)?)
                .map_err(access("begin", layout::REQUESTS))?,
            grants: HashMap::try_from(typed(layout::GRANTS)?)
                .map_err(access("begin", layout::GRANTS))?,
            counters: PerCpuArray::try_from(typed(layout::COUNTERS)?)
                .map_err(access("begin", layout::COUNTERS))?,
            agents: open_mapped(pins, layout::AGENTS, AGENT_WORDS * limits::AGENTS as usize)?,
            profiles: open_mapped(pins, layout::PROFILES, limits::PROFILES as usize)?,
            arena: open_mapped(pins, layout::AUTOMATON, cells as usize)?,
            control: open_mapped(pins, layout::CONTROL, size_of::<Control>() / 8)?,
            filter: open_mapped(pins, layout::IDENTITY_FILTER, FILTER_WORDS as usize)?,
        };
        tables.choose_hash_key().map_err(|source| Error::Memory {
            name: layout::CONTROL,
            source,
        })?;
        Ok(tables)
    }

    /// Writes the key of the hashes of objects, unless there is one: requests and grants that wait are known by it.
    fn choose_hash_key(&self) -> io::Result<()> {
        const OFFSET: usize = std::mem::offset_of!(Control, hash_key);
        let words = [0, 1].map(|half| self.control.word(OFFSET / 8 + half));
        if words
            .iter()
            .flatten()
            .any(|word| word.load(Ordering::SeqCst) != 0)
        {
            return Ok(());
        }
        let mut random = [0; 16];
        fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
        for (word, bytes) in words.into_iter().flatten().zip(random.chunks_exact(8)) {
            // Never zero, which would be no key.
            let number = bytes
                .iter()
                .fold(0, |number, byte| number << 8 | u64::from(*byte));
            word.store(number | 1, Ordering::SeqCst);
        }
        Ok(())
    }

    /// What is held, or was answered and not used yet.
    pub fn requests(&self) -> Result<Vec<(RequestKey, Request)>, Error> {
        self.requests
            .iter()
            .map(|entry| entry.map(|(key, request)| (key.0, request.0)))
            .collect::<Result<_, _>>()
            .map_err(access("list", layout::REQUESTS))
    }

    /// One of them.
    pub fn request(&self, key: RequestKey) -> Result<Option<Request>, Error> {
        match self.requests.get(&Plain(key), 0) {
            Ok(request) => Ok(Some(request.0)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(access("look up", layout::REQUESTS)(error)),
        }
    }

    /// Answers what waits under the id of `answer`. False when nothing does any more.
    pub fn answer(&mut self, key: RequestKey, answer: Request) -> Result<bool, Error> {
        match self.request(key)? {
            Some(request) if request.word == Request::word(answer.id(), WAITING) => {}
            _ => return Ok(false),
        }
        match self.requests.insert(Plain(key), Plain(answer), BPF_EXIST) {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
            {
                Ok(false)
            }
            Err(error) => Err(access("insert", layout::REQUESTS)(error)),
        }
    }

    /// Forgets what nobody waits for any more.
    pub fn remove_request(&mut self, key: RequestKey) -> Result<(), Error> {
        gone(self.requests.remove(&Plain(key))).map_err(access("remove", layout::REQUESTS))
    }

    /// Every grant and refusal.
    pub fn grants(&self) -> Result<Vec<(GrantKey, Grant)>, Error> {
        self.grants
            .iter()
            .map(|entry| entry.map(|(key, grant)| (key.0, grant.0)))
            .collect::<Result<_, _>>()
            .map_err(access("list", layout::GRANTS))
    }

    /// Adds or replaces one.
    pub fn insert_grant(&mut self, key: GrantKey, grant: Grant) -> Result<(), Error> {
        self.grants
            .insert(Plain(key), Plain(grant), 0)
            .map_err(access("insert", layout::GRANTS))
    }

    pub fn remove_grant(&mut self, key: GrantKey) -> Result<(), Error> {
        gone(self.grants.remove(&Plain(key))).map_err(access("remove", layout::GRANTS))
    }

    /// The arena, for reading and for writing cells that nobody reads yet.
    pub fn arena(&self) -> &Mapping {
        &self.arena
    }

    /// Arena cell of the descriptor in force in a slot of `PROFILES` (0: none).
    pub fn profile(&self, slot: u32) -> u32 {
        self.profiles
            .word(slot as usize)
            .map_or(0, |word| word.load(Ordering::Acquire) as u32)
    }

    /// `[approvals]` of the profile in a slot; `None` when there is none.
    pub fn approvals(&self, slot: u32) -> Option<profile::Approvals> {
        profile::approvals(
            &Cells(&self.arena),
            self.profile(slot),
            Outcome::DEFAULT_RULE,
        )
    }

    /// Switches a slot of `PROFILES` with one store.
    pub fn set_profile(&self, slot: u32, descriptor: u32) -> Result<(), Error> {
        self.profiles
            .word(slot as usize)
            .ok_or(Error::Range {
                name: layout::PROFILES,
                index: slot as usize,
            })?
            .store(u64::from(descriptor), Ordering::Release);
        self.changed();
        Ok(())
    }

    /// What was decided before is decided anew.
    fn changed(&self) {
        const OFFSET: usize = std::mem::offset_of!(Control, generation);
        if let Some(word) = self.control.word(OFFSET / 8) {
            word.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The agent in a slot; `None` when it is free.
    pub fn agent(&self, slot: u32) -> Option<Agent> {
        let bytes = self.agents.read(slot as usize * AGENT_WORDS, AGENT_WORDS)?;
        Agent::read(&bytes).filter(|agent| agent.id != 0)
    }

    /// Fills a free slot. The number comes last: until then a label for it is stale and denied.
    pub fn set_agent(&self, slot: u32, agent: &Agent) -> Result<(), Error> {
        let at = slot as usize * AGENT_WORDS;
        let range = || Error::Range {
            name: layout::AGENTS,
            index: slot as usize,
        };
        let mut words = mapping::words(agent.bytes());
        let id = words.next().unwrap_or_default();
        self.agents.write(at + 1, words).ok_or_else(range)?;
        self.agents.write(at, [id]).ok_or_else(range)
    }

    /// Changes the state of the agent in a slot with one store.
    pub fn set_agent_state(&self, slot: u32, state: u32) -> Result<(), Error> {
        const OFFSET: usize = std::mem::offset_of!(Agent, state);
        self.agents
            .half(slot as usize * AGENT_WORDS + OFFSET / 8, OFFSET % 8 / 4)
            .ok_or(Error::Range {
                name: layout::AGENTS,
                index: slot as usize,
            })?
            .store(state, Ordering::Release);
        Ok(())
    }

    /// Frees a slot. Only when no task carries its label any more.
    pub fn clear_agent(&self, slot: u32) -> Result<(), Error> {
        self.agents
            .write(slot as usize * AGENT_WORDS, [0])
            .ok_or(Error::Range {
                name: layout::AGENTS,
                index: slot as usize,
            })
    }

    /// Every agent with its slot.
    pub fn agents(&self) -> impl Iterator<Item = (u32, Agent)> {
        (0..limits::AGENTS).filter_map(|slot| Some((slot, self.agent(slot)?)))
    }

    /// How many agents are judged at this moment.
    pub fn active_agents(&self) -> usize {
        self.agents()
            .filter(|(_, agent)| agent.state == AGENT_ACTIVE)
            .count()
    }

    /// Tags a cgroup: from here on every task in it is its agent's.
    pub fn tag(&mut self, cgroup: u64, tag: Tag) -> Result<(), Error> {
        self.tags
            .insert(cgroup, Plain(tag), 0)
            .map_err(access("insert", layout::TAGS))
    }

    pub fn untag(&mut self, cgroup: u64) -> Result<(), Error> {
        gone(self.tags.remove(&cgroup)).map_err(access("remove", layout::TAGS))
    }

    /// Every tag, by cgroup id.
    pub fn tags(&self) -> Result<Vec<(u64, Tag)>, Error> {
        self.tags
            .iter()
            .map(|entry| entry.map(|(cgroup, tag)| (cgroup, tag.0)))
            .collect::<Result<_, _>>()
            .map_err(access("list", layout::TAGS))
    }

    /// Says at which levels which cgroups are tagged.
    pub fn set_tagged(&self, cgroups: impl Iterator<Item = (u32, u64)>) {
        const LEVELS: usize = std::mem::offset_of!(Control, levels);
        const NEAR: usize = std::mem::offset_of!(Control, level_list);
        const FILTER: usize = std::mem::offset_of!(Control, tagged);
        let (mut levels, mut filter) = (0, 0);
        for (level, id) in cgroups {
            levels |= 1 << (level % limits::TAG_LEVELS);
            filter |= label::tag_bit(id);
        }
        let Some(((half, list), tagged)) = self
            .control
            .half(LEVELS / 8, LEVELS % 8 / 4)
            .zip(self.control.word(NEAR / 8))
            .zip(self.control.word(FILTER / 8))
        else {
            return;
        };
        // What is looked at first says "perhaps" while the rest changes.
        list.store(label::ANY_LEVEL, Ordering::SeqCst);
        half.store(levels, Ordering::SeqCst);
        tagged.store(filter, Ordering::SeqCst);
        list.store(label::level_list(levels), Ordering::SeqCst);
    }

    /// The daemon's sign of life.
    pub fn set_heartbeat(&self, boot_ns: u64) {
        const OFFSET: usize = std::mem::offset_of!(Control, heartbeat_ns);
        if let Some(word) = self.control.word(OFFSET / 8) {
            word.store(boot_ns, Ordering::Release);
        }
    }

    /// Adds an identity. Its bit in the filter comes first, so that it is never overlooked.
    pub fn insert_identity(&mut self, key: IdentityKey, identity: Identity) -> Result<(), Error> {
        let bit = identity::filter_bit(key.inode, key.device);
        if let Some(word) = self.filter.word(bit as usize / 64) {
            word.fetch_or(1 << (bit % 64), Ordering::SeqCst);
        }
        self.identities
            .insert(Plain(key), Plain(identity), 0)
            .map_err(access("insert", layout::IDENTITIES))?;
        self.changed();
        Ok(())
    }

    pub fn remove_identity(&mut self, key: IdentityKey) -> Result<(), Error> {
        gone(self.identities.remove(&Plain(key))).map_err(access("remove", layout::IDENTITIES))?;
        self.changed();
        Ok(())
    }

    /// Every identity.
    pub fn identities(&self) -> Result<Vec<(IdentityKey, Identity)>, Error> {
        self.identities
            .iter()
            .map(|entry| entry.map(|(key, identity)| (key.0, identity.0)))
            .collect::<Result<_, _>>()
            .map_err(access("list", layout::IDENTITIES))
    }

    /// Every counter, summed over the CPUs.
    pub fn counters(&self) -> Result<Vec<u64>, Error> {
        (0..counter::COUNTERS)
            .map(|index| {
                let values = self
                    .counters
                    .get(&index, 0)
                    .map_err(access("read", layout::COUNTERS))?;
                Ok(values.iter().sum())
            })
            .collect()
    }

    /// Lets every agent connect to this listening Unix socket, whatever its profile says.
    pub fn open_to_agents(&self, socket: BorrowedFd<'_>) -> Result<(), Error> {
        let note = Socket {
            flags: SOCKET_FOR_AGENTS,
            ..Socket::EMPTY
        };
        bpf::set_socket_storage(self.sockets.as_fd(), socket, note.bytes()).map_err(Error::Socket)
    }

    /// The label of a process's leading thread; `None` when it carries none.
    ///
    /// # Errors
    ///
    /// [`Error::Label`] with `ESRCH` when the process has ended.
    pub fn label(&self, pid: u32, pidfd: BorrowedFd<'_>) -> Result<Option<Label>, Error> {
        let mut value = vec![0; size_of::<TaskState>()];
        let found = bpf::task_storage(self.labels.as_fd(), pidfd, &mut value)
            .map_err(|source| Error::Label { pid, source })?;
        Ok(found
            .then(|| Label::read(&value))
            .flatten()
            .filter(|label| label.agent != 0))
    }
}

/// The two rings, denials first.
pub fn rings(pins: &Pins) -> Result<[RingBuf<MapData>; 2], Error> {
    let ring = |name| {
        let map = open(pins, name)?;
        let map = Map::from_map_data(map).map_err(|source| Error::Open { name, source })?;
        RingBuf::try_from(map).map_err(access("begin", name))
    };
    Ok([ring(layout::DENIALS)?, ring(layout::EVENTS)?])
}

/// What each pinned map costs, as the kernel says (`memlock` of its fdinfo).
pub fn usage(pins: &Pins) -> Result<Vec<MapUse>, Error> {
    layout::MAPS
        .iter()
        .map(|layout| {
            let name = layout.name;
            let map = open(pins, name)?;
            let info = map.info().map_err(access("look", name))?;
            Ok(MapUse {
                name,
                id: info.id(),
                entries: info.max_entries(),
                memory_bytes: memory_bytes(map.fd().as_fd()),
            })
        })
        .collect()
}

fn memory_bytes(map: BorrowedFd<'_>) -> u64 {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    std::fs::read_to_string(path)
        .ok()
        .and_then(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
        })
        .unwrap_or(0)
}
