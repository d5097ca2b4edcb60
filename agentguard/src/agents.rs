//! The agents: their slots, cgroups and labels, from the tagging to the last labelled task. What they
//! may do is their profile's business.
//!
//! An agent comes into force in the order that fails closed: its slot, the programs on its
//! cgroup, its level, and its tag last. It goes in the opposite order, and its slot only when no task
//! carries its label any more: a label whose slot is another's is denied everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use agentguard_common::{
    counter::Hook,
    label::{AGENT_ACTIVE, AGENT_NAME_BYTES, AGENT_RELEASED, Agent, Tag},
    limits,
    profile::Mode,
};
use aya::programs::ProgramError;
use rustix::process::{Pid, PidfdFlags};
use ulid::Ulid;

use crate::{
    api::types::{self, AgentState, RefusalCode},
    cgroup::{self, Cgroup},
    event::clock,
    held::{self, Held},
    loader::CgroupPrograms,
    names::{AgentNames, Names},
    pins::{self, Pins},
    policy::CompiledProfile,
    tables::{self, Tables},
};

/// How long a cgroup that was made for an agent may stay empty, in seconds.
const UNUSED_SECONDS: u64 = 60;

/// Why an agent could not be made, or released.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "an agent's name has 1 to {AGENT_NAME_BYTES} letters, digits, \"-\", \"_\" and \".\", and begins with none of the last three; {0:?} doesn't fit"
    )]
    Name(String),
    #[error("an active agent has the name {0}")]
    NameTaken(String),
    #[error("the cgroup {} is tagged for the agent {agent}", path.display())]
    Tagged { path: PathBuf, agent: String },
    #[error("the cgroup {} is not tagged", path.display())]
    NotTagged { path: PathBuf },
    #[error(
        "the cgroup {} has processes that have open what the profile {profile} denies; end them first, tag the cgroup before they start, or say --allow-open to leave them what they have",
        path.display()
    )]
    Held {
        path: PathBuf,
        profile: String,
        held: Vec<Held>,
    },
    #[error(
        "the cgroup {} has processes in it, and the rules of profile {profile} aren't known since this daemon started: mend its policy, `agentguard reload`, and try again",
        path.display()
    )]
    NoRules { path: PathBuf, profile: String },
    #[error("every one of the {} slots for agents is taken", limits::AGENTS)]
    Full,
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    #[error(transparent)]
    Tables(#[from] tables::Error),
    #[error(transparent)]
    Pins(#[from] pins::Error),
    #[error("cannot attach {} to {}: {source}", hook.name(), path.display())]
    Attach {
        hook: Hook,
        path: PathBuf,
        source: Box<ProgramError>,
    },
    #[error("cannot pin the link of {} on {}: {source}", hook.name(), path.display())]
    Pin {
        hook: Hook,
        path: PathBuf,
        source: aya::pin::PinError,
    },
    #[error("cannot remember the next agent's number in {}: {source}", path.display())]
    Number { path: PathBuf, source: io::Error },
}

impl Error {
    /// What there is to say over several lines.
    pub fn details(&self) -> Option<String> {
        match self {
            Self::Held { held, .. } => {
                let lines: Vec<String> = held.iter().map(ToString::to_string).collect();
                Some(lines.join("\n"))
            }
            _ => None,
        }
    }

    /// What the API calls this error.
    pub fn refusal(&self) -> RefusalCode {
        match self {
            Self::Name(_) | Self::Held { .. } | Self::NoRules { .. } => RefusalCode::BadRequest,
            Self::NameTaken(_) | Self::Tagged { .. } => RefusalCode::AlreadyTagged,
            Self::Cgroup(cgroup::Error::Populated { .. }) => RefusalCode::AlreadyTagged,
            Self::NotTagged { .. } => RefusalCode::NotTagged,
            Self::Full => RefusalCode::Full,
            Self::Cgroup(cgroup::Error::Failed { .. }) => RefusalCode::Internal,
            Self::Cgroup(_) => RefusalCode::UnknownCgroup,
            Self::Tables(_)
            | Self::Pins(_)
            | Self::Attach { .. }
            | Self::Pin { .. }
            | Self::Number { .. } => RefusalCode::Internal,
        }
    }
}

/// A profile that an agent can be put under.
#[derive(Clone, Debug)]
pub struct Under {
    pub name: String,
    pub slot: u32,
}

/// A cgroup that is to be an agent's, and was there before.
#[derive(Debug)]
pub struct Existing<'a> {
    pub path: &'a Path,
    pub profile: Under,
    /// The profile's rules, if they are known.
    pub rules: Option<&'a CompiledProfile>,
    pub name: Option<String>,
    pub open: Open,
}

/// What becomes of descriptors that processes have before their cgroup is tagged, and that the profile denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// The cgroup isn't tagged.
    Judged,
    /// They are told, and stay.
    Kept,
}

/// One agent.
#[derive(Clone, Debug)]
pub struct Entry {
    pub id: u64,
    pub slot: u32,
    pub name: String,
    pub session: Ulid,
    pub profile: Under,
    /// `None` when it is gone.
    pub cgroup: Option<PathBuf>,
    /// Where it is or was; empty when it was gone before this daemon began.
    pub place: PathBuf,
    pub cgroup_id: u64,
    pub level: u32,
    pub since_ns: u64,
    /// The daemon made the cgroup.
    pub owned: bool,
    pub state: AgentState,
    /// There were processes in it.
    seen: bool,
}

impl Entry {
    /// What its cgroup is tagged with.
    fn tag(&self) -> Tag {
        Tag {
            agent: self.id,
            slot: self.slot,
            padding: 0,
        }
    }

    /// As the API shows it.
    pub fn shown(&self) -> types::Agent {
        types::Agent {
            id: self.id,
            name: self.name.clone(),
            session: self.session.to_string(),
            profile: self.profile.name.clone(),
            state: self.state,
            cgroup: self.cgroup.clone().unwrap_or_default(),
            since: clock::render(self.since_ns.into()),
            owned: self.owned,
        }
    }
}

/// File in the state folder that names the cgroup whose processes stand still.
pub const FROZEN: &str = "frozen";

/// Every agent, and what is needed to make others.
#[derive(Debug)]
pub struct Agents {
    list: BTreeMap<u64, Entry>,
    next: u64,
    /// Keeps the next number.
    file: PathBuf,
    /// Names the cgroup whose processes stand still.
    frozen: PathBuf,
    pins: Pins,
    programs: CgroupPrograms,
    names: Names,
}

impl Agents {
    /// Takes over the agents of an earlier daemon. With `fresh` programs, each gets them; otherwise
    /// only what is missing is mended.
    pub fn adopt(
        tables: &mut Tables,
        pins: Pins,
        programs: CgroupPrograms,
        state: &Path,
        names: Names,
        fresh: bool,
    ) -> Result<Self, Error> {
        let (file, frozen) = (state.join("next-agent"), state.join(FROZEN));
        cgroup::thaw_left(&frozen);
        let next = fs::read_to_string(&file)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(1);
        let mut agents = Self {
            list: BTreeMap::new(),
            next,
            file,
            frozen,
            pins,
            programs,
            names,
        };
        let known: Vec<(u32, Agent)> = tables.agents().collect();
        let ids: Vec<u64> = known.iter().map(|(_, agent)| agent.cgroup).collect();
        let paths: BTreeMap<u64, PathBuf> = cgroup::paths(&ids).into_iter().collect();
        for (slot, agent) in known {
            agents.remember(slot, &agent, paths.get(&agent.cgroup));
        }
        // All of them, before one is let out of the earlier daemon's.
        agents.set_tagged(tables);
        agents.renew(tables, fresh)?;
        for id in agents.pins.agents()? {
            if !agents.list.contains_key(&id) {
                agents.pins.remove_agent(id)?;
            }
        }
        for (cgroup, tag) in tables.tags()? {
            if !agents.list.contains_key(&tag.agent) {
                tables.untag(cgroup)?;
            }
        }
        Ok(agents)
    }

    /// Takes an agent into the list, as the kernel knows it.
    fn remember(&mut self, slot: u32, agent: &Agent, path: Option<&PathBuf>) {
        let text = |bytes: &[u8]| crate::event::text::decode(crate::event::text::padded(bytes)).0;
        let released = agent.state == AGENT_RELEASED;
        let entry = Entry {
            id: agent.id,
            slot,
            name: text(&agent.name),
            session: Ulid::from_bytes(agent.session),
            profile: Under {
                name: text(&agent.profile_name),
                slot: agent.profile,
            },
            cgroup: path.filter(|_| !released).cloned(),
            place: path.cloned().unwrap_or_default(),
            cgroup_id: agent.cgroup,
            level: agent.level,
            since_ns: agent.since_ns,
            owned: path.is_some_and(|path| cgroup::is_own(path)),
            state: match (released, path) {
                (true, _) => AgentState::Released,
                (false, Some(_)) => AgentState::Active,
                (false, None) => AgentState::Outlived,
            },
            // Who asked for one that was never entered lost the connection with that daemon.
            seen: true,
        };
        self.next = self.next.max(agent.id + 1);
        self.names.set_agent(entry.id, names_of(&entry));
        self.list.insert(entry.id, entry);
    }

    /// Attaches and tags what an earlier daemon left undone, or with other programs.
    fn renew(&mut self, tables: &mut Tables, fresh: bool) -> Result<(), Error> {
        let active = self.list.values();
        let active: Vec<Entry> = active
            .filter(|agent| agent.state == AgentState::Active)
            .cloned()
            .collect();
        for entry in active {
            let cgroup = Cgroup::open(entry.cgroup.as_deref().unwrap_or(Path::new("")))?;
            let is_whole = Hook::OF_CGROUPS
                .iter()
                .all(|hook| self.pins.agent_link(entry.id, *hook).exists());
            if fresh || !is_whole {
                self.attach(entry.id, &cgroup)?;
            }
            tables.tag(cgroup.id(), entry.tag())?;
        }
        Ok(())
    }

    /// Every agent, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.list.values()
    }

    pub fn get(&self, id: u64) -> Option<&Entry> {
        self.list.get(&id)
    }

    /// Whether an agent is under the profile in this slot.
    pub fn uses(&self, profile: u32) -> bool {
        self.list
            .values()
            .any(|agent| agent.profile.slot == profile)
    }

    /// Makes a cgroup and an agent in it.
    pub fn create(
        &mut self,
        tables: &mut Tables,
        profile: Under,
        name: Option<String>,
    ) -> Result<Entry, Error> {
        let session = Ulid::generate();
        let name = match name {
            Some(name) => name,
            None => {
                // The random part of the ULID: the first part is the same for agents of one moment.
                let session = session.to_string().to_lowercase();
                format!("{}-{}", profile.name, &session[session.len() - 6..])
            }
        };
        self.check_name(&name)?;
        let cgroup = Cgroup::create(&name)?;
        let made = self.add(tables, &cgroup, profile, name, session, true);
        if made.is_err()
            && let Err(error) = cgroup::remove(cgroup.path())
        {
            tracing::warn!("{error}");
        }
        made
    }

    /// Makes an existing cgroup an agent's. Also says what its processes keep open that the profile denies.
    pub fn tag(
        &mut self,
        tables: &mut Tables,
        Existing {
            path,
            profile,
            rules,
            name,
            open,
        }: Existing<'_>,
    ) -> Result<(Entry, Vec<Held>), Error> {
        let cgroup = Cgroup::open(path)?;
        if let Some(other) = self.of_cgroup(cgroup.id()) {
            return Err(Error::Tagged {
                path: cgroup.path().to_owned(),
                agent: other.name.clone(),
            });
        }
        let name = name.unwrap_or_else(|| made_up(cgroup.path()));
        self.check_name(&name)?;
        // Audit mode tells, and lets through.
        let open = match rules {
            Some(rules) if rules.mode == Mode::Audit => Open::Kept,
            _ => open,
        };
        let mut held = Vec::new();
        let mut frozen = None;
        if cgroup.is_populated() == Some(true) {
            // Nothing can be opened or passed on between the look and the tag.
            frozen = match cgroup.freeze(&self.frozen) {
                Err(error) if open == Open::Kept => {
                    tracing::error!("{error}");
                    None
                }
                frozen => Some(frozen?),
            };
            let rules = rules.ok_or_else(|| Error::NoRules {
                path: cgroup.path().to_owned(),
                profile: profile.name.clone(),
            })?;
            held = held::of(cgroup::processes(cgroup.path())?, rules);
            if open == Open::Judged && !held.is_empty() {
                return Err(Error::Held {
                    path: cgroup.path().to_owned(),
                    profile: profile.name,
                    held,
                });
            }
        }
        let entry = self.add(tables, &cgroup, profile, name, Ulid::generate(), false)?;
        drop(frozen);
        Ok((entry, held))
    }

    fn of_cgroup(&self, id: u64) -> Option<&Entry> {
        self.list
            .values()
            .find(|agent| agent.cgroup_id == id && agent.state == AgentState::Active)
    }

    fn check_name(&self, name: &str) -> Result<(), Error> {
        if !is_name(name) {
            return Err(Error::Name(name.to_owned()));
        }
        let taken = self
            .list
            .values()
            .any(|agent| agent.name == name && agent.state != AgentState::Released);
        if taken {
            return Err(Error::NameTaken(name.to_owned()));
        }
        Ok(())
    }

    fn add(
        &mut self,
        tables: &mut Tables,
        cgroup: &Cgroup,
        profile: Under,
        name: String,
        session: Ulid,
        owned: bool,
    ) -> Result<Entry, Error> {
        let slot = (0..limits::AGENTS)
            .find(|slot| tables.agent(*slot).is_none())
            .ok_or(Error::Full)?;
        let id = self.number()?;
        let entry = Entry {
            id,
            slot,
            name,
            session,
            profile,
            cgroup: Some(cgroup.path().to_owned()),
            place: cgroup.path().to_owned(),
            cgroup_id: cgroup.id(),
            level: cgroup.level(),
            since_ns: clock::wall_ns(),
            owned,
            state: AgentState::Active,
            seen: false,
        };
        self.names.set_agent(id, names_of(&entry));
        self.list.insert(id, entry.clone());
        let put = self.put(tables, cgroup, &entry);
        if let Err(error) = put {
            self.list.remove(&id);
            self.names.end_agent(id);
            self.undo(tables, &entry);
            return Err(error);
        }
        Ok(entry)
    }

    /// The steps that bring an agent into force, in the order that fails closed.
    fn put(&mut self, tables: &mut Tables, cgroup: &Cgroup, entry: &Entry) -> Result<(), Error> {
        tables.set_agent(
            entry.slot,
            &Agent {
                id: entry.id,
                cgroup: entry.cgroup_id,
                since_ns: entry.since_ns,
                profile: entry.profile.slot,
                level: entry.level,
                state: AGENT_ACTIVE,
                padding: 0,
                session: entry.session.to_bytes(),
                name: padded(&entry.name),
                profile_name: padded(&entry.profile.name),
            },
        )?;
        self.attach(entry.id, cgroup)?;
        self.set_tagged(tables);
        Ok(tables.tag(entry.cgroup_id, entry.tag())?)
    }

    /// Takes the steps of [`Self::put`] back. No task was labelled yet.
    fn undo(&self, tables: &mut Tables, entry: &Entry) {
        let undone = tables
            .untag(entry.cgroup_id)
            .and_then(|()| tables.clear_agent(entry.slot));
        if let Err(error) = undone {
            tracing::warn!("{error}");
        }
        if let Err(error) = self.pins.remove_agent(entry.id) {
            tracing::warn!("{error}");
        }
        self.set_tagged(tables);
    }

    fn attach(&mut self, id: u64, cgroup: &Cgroup) -> Result<(), Error> {
        let path = || cgroup.path().to_owned();
        let pins = &self.pins;
        let failed = |hook, source| Error::Attach {
            hook,
            path: path(),
            source: Box::new(source),
        };
        self.programs.attach(cgroup, failed, |hook, link| {
            Pins::replace(&pins.agent_link(id, hook), |pin| {
                link.pin(pin).map(drop).map_err(|source| Error::Pin {
                    hook,
                    path: path(),
                    source,
                })
            })
        })
    }

    /// Says where tags are, before one is added and after one was removed.
    fn set_tagged(&self, tables: &Tables) {
        let active = self.list.values();
        let active = active.filter(|agent| agent.state == AgentState::Active);
        tables.set_tagged(active.map(|agent| (agent.level, agent.cgroup_id)));
    }

    /// A number that was never given, on disk before it is used.
    fn number(&mut self) -> Result<u64, Error> {
        let number = self.next;
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{}\n", number + 1))
            .and_then(|()| fs::rename(&new, &self.file))
            .map_err(|source| Error::Number {
                path: self.file.clone(),
                source,
            })?;
        self.next = number + 1;
        Ok(number)
    }

    /// Releases the agent of a tagged cgroup: its tasks are judged no longer, wherever they are.
    pub fn untag(&mut self, tables: &mut Tables, path: &Path) -> Result<Entry, Error> {
        let cgroup = Cgroup::open(path)?;
        let Some(entry) = self.of_cgroup(cgroup.id()).cloned() else {
            return Err(Error::NotTagged {
                path: cgroup.path().to_owned(),
            });
        };
        tables.set_agent_state(entry.slot, AGENT_RELEASED)?;
        self.leave(tables, entry.id, AgentState::Released)?;
        if entry.owned
            && cgroup.is_populated() == Some(false)
            && let Err(error) = cgroup::remove(cgroup.path())
        {
            tracing::warn!("{error}");
        }
        self.list.get(&entry.id).cloned().ok_or(Error::NotTagged {
            path: cgroup.path().to_owned(),
        })
    }

    /// The agent has no cgroup any more.
    fn leave(&mut self, tables: &mut Tables, id: u64, state: AgentState) -> Result<(), Error> {
        let Some(entry) = self.list.get_mut(&id) else {
            return Ok(());
        };
        entry.state = state;
        entry.cgroup = None;
        let cgroup = entry.cgroup_id;
        tables.untag(cgroup)?;
        self.pins.remove_agent(id)?;
        self.set_tagged(tables);
        Ok(())
    }

    /// Notices agents whose cgroup is empty or gone, and lets go of those that no task belongs to any
    /// more. Returns the agents that ended: released ones have ended before.
    pub fn reap(&mut self, tables: &mut Tables) -> Result<Vec<Entry>, Error> {
        let ids: Vec<u64> = self.list.keys().copied().collect();
        for id in ids {
            self.look(tables, id)?;
        }
        let waiting: Vec<Entry> = self
            .list
            .values()
            .filter(|agent| agent.state != AgentState::Active)
            .cloned()
            .collect();
        if waiting.is_empty() {
            return Ok(Vec::new());
        }
        let alive = labelled(tables);
        let mut ended = Vec::new();
        for entry in waiting
            .into_iter()
            .filter(|entry| !alive.contains(&entry.id))
        {
            tables.clear_agent(entry.slot)?;
            self.list.remove(&entry.id);
            self.names.end_agent(entry.id);
            if entry.state != AgentState::Released {
                ended.push(entry);
            }
        }
        Ok(ended)
    }

    /// Looks at one agent's cgroup.
    fn look(&mut self, tables: &mut Tables, id: u64) -> Result<(), Error> {
        let Some(entry) = self.list.get_mut(&id) else {
            return Ok(());
        };
        let (AgentState::Active, Some(path)) = (entry.state, entry.cgroup.clone()) else {
            return Ok(());
        };
        match cgroup::is_populated(&path, entry.cgroup_id) {
            Some(true) => entry.seen = true,
            Some(false) if entry.owned => {
                let age_ns = clock::wall_ns().saturating_sub(entry.since_ns);
                if entry.seen || age_ns > UNUSED_SECONDS * 1_000_000_000 {
                    // The directory goes first: from then on nobody can enter it. When somebody
                    // did in the meantime, it can't go.
                    if cgroup::remove(&path).is_ok() {
                        self.leave(tables, id, AgentState::Outlived)?;
                    }
                }
            }
            Some(false) => {}
            None => self.leave(tables, id, AgentState::Outlived)?,
        }
        Ok(())
    }

    /// Says that an agent's cgroup was seen with processes in it.
    pub fn entered(&mut self, id: u64) {
        if let Some(entry) = self.list.get_mut(&id) {
            entry.seen = true;
        }
    }

    /// The agent that a process belongs to, by its label or by its cgroup.
    pub fn of_process(
        &self,
        tables: &Tables,
        pid: u32,
        pidfd: BorrowedFd<'_>,
    ) -> Result<Option<u64>, Error> {
        if let Some(label) = label(tables, pid, pidfd)? {
            return Ok(Some(label));
        }
        let Some(path) = cgroup::of_process(pid) else {
            return Ok(None);
        };
        Ok(self
            .list
            .values()
            .filter(|agent| agent.state == AgentState::Active)
            .find(|agent| {
                agent
                    .cgroup
                    .as_ref()
                    .is_some_and(|cgroup| path.starts_with(cgroup))
            })
            .map(|agent| agent.id))
    }
}

/// The agent whose label the process carries; `None` for none, and for a process that is gone.
pub fn label(tables: &Tables, pid: u32, pidfd: BorrowedFd<'_>) -> Result<Option<u64>, Error> {
    match tables.label(pid, pidfd) {
        Ok(label) => Ok(label.map(|label| label.agent)),
        Err(tables::Error::Label { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The agents that some process carries the label of.
fn labelled(tables: &Tables) -> BTreeSet<u64> {
    let mut agents = BTreeSet::new();
    let Ok(entries) = fs::read_dir("/proc") else {
        return agents;
    };
    for pid in entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
    {
        let Some(number) = Pid::from_raw(pid) else {
            continue;
        };
        // A process that is gone belongs to nobody.
        let Ok(pidfd) = rustix::process::pidfd_open(number, PidfdFlags::empty()) else {
            continue;
        };
        if let Ok(Some(agent)) = label(tables, pid as u32, pidfd.as_fd()) {
            agents.insert(agent);
        }
    }
    agents
}

fn names_of(entry: &Entry) -> AgentNames {
    AgentNames {
        name: entry.name.clone(),
        session: entry.session.to_string(),
        profile: entry.profile.name.clone(),
        slot: entry.profile.slot,
    }
}

/// Whether a name can be an agent's.
fn is_name(name: &str) -> bool {
    (1..=AGENT_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && !name.starts_with(['-', '_', '.'])
}

/// A name out of a cgroup's own, without systemd's ending.
fn made_up(path: &Path) -> String {
    let own = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let stem = [".slice", ".scope", ".service"]
        .iter()
        .find_map(|ending| own.strip_suffix(ending))
        .unwrap_or(&own);
    let name: String = stem
        .chars()
        .map(|character| match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => character,
            _ => '-',
        })
        .take(AGENT_NAME_BYTES)
        .collect();
    let name = name.trim_start_matches(['-', '_', '.']);
    if name.is_empty() {
        "agent".to_owned()
    } else {
        name.to_owned()
    }
}

fn padded(name: &str) -> [u8; AGENT_NAME_BYTES] {
    let mut out = [0; AGENT_NAME_BYTES];
    for (to, from) in out.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    out
}

#[cfg(test)]
mod tests;
