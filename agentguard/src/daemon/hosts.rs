//! Hosts' names: what becomes of the lookups of agents whose profile has rules about hosts.
//!
//! The kernel sends their lookups to a resolver that is kept here for each network namespace that one of them is in.
//! It asks the profile about the name, forwards the question, and writes down which addresses the agent may use by that
//! name before the agent has its answer. Nothing here decides a connection: that is the kernel's, by what is written
//! down. When this daemon isn't running nothing is looked up, and what was written runs out.
//!
//! All of it has one lock of its own, which is never held while anything is waited for.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use agentguard_common::{
    Verdict,
    name::{DestinationKey, NameKey, Resolver},
    profile::named,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

pub use self::known::JOURNAL;
use self::{
    address::short,
    known::{Knowledge, Of},
    namespace::Namespace,
};
use super::events::Message;
use crate::{
    agents::Entry,
    api::types::AgentState,
    causes, cgroup, config,
    event::{Clock, clock::boot_ns},
    names::Names,
    pins::Pins,
    policy::{CompiledProfile, Destination},
    resolver,
    tables::{self, hosts::HostTables},
};

mod address;
mod desk;
mod known;
mod namespace;
mod sockets;

/// Where the host's resolvers are configured.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long what isn't used any more is kept, in nanoseconds: for packets that are on their way.
const IDLE_NS: u64 = 120 * 1_000_000_000;
/// How often what is known is looked through.
const SWEEP_NS: u64 = 60 * 1_000_000_000;

/// What can't be written down, or looked up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Tables(#[from] tables::Error),
    #[error(transparent)]
    Known(#[from] known::Error),
    #[error("cannot keep what agents know of hosts in {}: {source}", path.display())]
    Journal {
        path: std::path::PathBuf,
        source: io::Error,
    },
}

/// Everything about hosts. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Hosts {
    shared: Arc<Shared>,
    resolver: resolver::Resolver<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    config: config::Hosts,
    names: Names,
    clock: Arc<Clock>,
    messages: mpsc::UnboundedSender<Message>,
    configured: resolver::Configured,
    own: Namespace,
}

struct Inner {
    tables: HostTables,
    knowledge: Knowledge,
    /// Slot of each agent's profile.
    agents: BTreeMap<u64, u32>,
    /// What is in force in each slot.
    profiles: BTreeMap<u32, InForce>,
    /// By the inode of the network namespace.
    resolvers: BTreeMap<u64, Listening>,
    /// Network namespaces in which none can be.
    without: BTreeSet<u64>,
    next: u32,
    swept_ns: u64,
}

#[derive(Clone)]
struct InForce {
    install: u32,
    profile: Arc<CompiledProfile>,
}

/// A resolver in a network namespace.
struct Listening {
    number: u32,
    cookie: u64,
    namespace: Namespace,
    task: JoinHandle<()>,
    /// It ends with this.
    _stop: oneshot::Sender<()>,
}

/// What a reload prepared: it takes effect when the slots are switched.
pub struct Prepared {
    profiles: Vec<(u32, InForce)>,
    grants: Vec<NameKey>,
    destinations: Vec<DestinationKey>,
}

impl Hosts {
    /// Takes over what an earlier daemon left.
    pub fn recall(
        pins: &Pins,
        state: &Path,
        config: config::Hosts,
        names: Names,
        clock: Arc<Clock>,
        messages: mpsc::UnboundedSender<Message>,
    ) -> Result<Self, Error> {
        let knowledge = Knowledge::recall(state).map_err(|source| Error::Journal {
            path: state.to_owned(),
            source,
        })?;
        for agent in knowledge.agents() {
            for of in knowledge.of_agent(agent) {
                if let Some(known) = knowledge.names(of).first() {
                    names.set_host(agent, short(&of.1), known.name.to_string());
                }
            }
        }
        let own = Namespace::own().map_err(|source| Error::Journal {
            path: "/proc/self/ns/net".into(),
            source,
        })?;
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner {
                tables: HostTables::open(pins)?,
                knowledge,
                agents: BTreeMap::new(),
                profiles: BTreeMap::new(),
                resolvers: BTreeMap::new(),
                without: BTreeSet::new(),
                // Numbers aren't used again, so that nobody's question is taken for somebody else's.
                next: (boot_ns() / 1_000_000) as u32,
                swept_ns: boot_ns(),
            }),
            configured: resolver::Configured::new(RESOLV_CONF),
            config,
            names,
            clock,
            messages,
            own,
        });
        Ok(Self {
            resolver: resolver::Resolver::new(Arc::clone(&shared)),
            shared,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down beside what is in force what will be under these profiles, by slot, before any slot is switched.
    /// Nothing is left of it on an error.
    pub fn prepare(
        &self,
        install: u32,
        profiles: &[(u32, Arc<CompiledProfile>)],
    ) -> Result<Prepared, Error> {
        let mut prepared = Prepared {
            profiles: profiles
                .iter()
                .map(|(slot, profile)| {
                    let profile = Arc::clone(profile);
                    (*slot, InForce { install, profile })
                })
                .collect(),
            grants: Vec::new(),
            destinations: Vec::new(),
        };
        let mut inner = self.lock();
        match inner.prepare(&mut prepared) {
            Ok(()) => Ok(prepared),
            Err(error) => {
                inner.remove(&prepared.grants, &prepared.destinations);
                Err(error)
            }
        }
    }

    /// Takes back what was prepared for a policy that doesn't come into force.
    pub fn take_back(&self, prepared: &Prepared) {
        self.lock().remove(&prepared.grants, &prepared.destinations);
    }

    /// The slots were switched. Ends the connections that are allowed no more.
    pub fn switched<'a>(&self, prepared: Prepared, agents: impl Iterator<Item = &'a Entry>) {
        let mut before = BTreeMap::new();
        {
            let mut inner = self.lock();
            for (slot, new) in prepared.profiles {
                if let Some(old) = inner.profiles.insert(slot, new) {
                    before.insert(slot, old);
                }
            }
            let Inner {
                knowledge, agents, ..
            } = &mut *inner;
            knowledge.retain(|agent| agents.contains_key(&agent));
            inner.remove_old();
        }
        for entry in agents {
            if !self.shared.config.keep_connections {
                self.end_connections(entry, before.get(&entry.profile.slot));
            }
        }
    }

    /// Ends the connections of an agent that its profile allows no more. `before` is what was in force.
    fn end_connections(&self, entry: &Entry, before: Option<&InForce>) {
        let Some(path) = &entry.cgroup else {
            return;
        };
        let processes = match cgroup::processes(path) {
            Ok(processes) => processes,
            Err(error) => {
                tracing::error!("{}", causes::text(&error));
                return;
            }
        };
        for socket in sockets::connected(processes) {
            let ended = {
                let inner = self.lock();
                inner.is_taken_away(entry, before, &socket)
            };
            if ended {
                match socket.end() {
                    Ok(()) => tracing::info!(
                        "ended a connection of agent {} to {}, which the new policy doesn't allow",
                        entry.name,
                        socket.to
                    ),
                    Err(error) => tracing::warn!(
                        "cannot end a connection of agent {} to {}: {error}; no packet of it leaves",
                        entry.name,
                        socket.to
                    ),
                }
            }
        }
    }

    /// Looks after the resolvers: one in each network namespace that such an agent has a process in.
    pub fn attend<'a>(&self, agents: impl Iterator<Item = &'a Entry>) {
        let mut wanted: BTreeMap<u64, u32> = BTreeMap::new();
        let mut known = BTreeMap::new();
        for entry in agents.filter(|entry| entry.state == AgentState::Active) {
            known.insert(entry.id, entry.profile.slot);
            if !self.names_hosts(entry.profile.slot) {
                continue;
            }
            let Some(path) = &entry.cgroup else {
                continue;
            };
            for pid in cgroup::processes(path).unwrap_or_default() {
                // A process that is gone needs none.
                if let Ok(inode) = Namespace::inode_of(pid) {
                    wanted.entry(inode).or_insert(pid);
                }
            }
            // Whoever comes in next does so from here more often than not.
            wanted
                .entry(self.shared.own.inode)
                .or_insert_with(std::process::id);
        }
        // One that failed is made anew.
        self.lock()
            .resolvers
            .retain(|_, listening| !listening.task.is_finished());
        for (inode, pid) in &wanted {
            self.listen_for(*pid, Some(*inode));
        }
        let mut inner = self.lock();
        inner.agents = known;
        inner.retain_resolvers(|inode| wanted.contains_key(&inode));
        inner.sweep();
    }

    /// A process of an agent is about to begin: its lookups must find a resolver.
    pub fn admit(&self, entry: &Entry, pid: u32) {
        self.lock().agents.insert(entry.id, entry.profile.slot);
        if self.names_hosts(entry.profile.slot) {
            self.listen_for(pid, None);
        }
    }

    /// Forgets an agent that has ended.
    pub fn forget(&self, agent: u64) {
        let mut inner = self.lock();
        inner.agents.remove(&agent);
        inner.knowledge.forget(agent);
        inner.remove_where(|other, _| other == agent);
    }

    fn names_hosts(&self, slot: u32) -> bool {
        self.lock()
            .profiles
            .get(&slot)
            .is_some_and(|in_force| in_force.profile.names_hosts())
    }

    /// Makes sure that there is a resolver in the process's network namespace.
    fn listen_for(&self, pid: u32, inode: Option<u64>) {
        if inode.is_some_and(|inode| self.lock().resolvers.contains_key(&inode)) {
            return;
        }
        let Ok(namespace) = Namespace::of(pid) else {
            // The process is gone.
            return;
        };
        let inode = namespace.inode;
        match self.listen(namespace) {
            Ok(()) => {
                self.lock().without.remove(&inode);
            }
            // Told once, and tried again each time.
            Err(error) => {
                if self.lock().without.insert(inode) {
                    tracing::warn!(
                        "cannot resolve names in the network namespace of process {pid}: {error}; lookups in it are refused until its loopback device is up"
                    );
                }
            }
        }
    }

    fn listen(&self, namespace: Namespace) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.resolvers.contains_key(&namespace.inode) {
            return Ok(());
        }
        let cookie = namespace.run(namespace::cookie)?;
        // Programs that are connected to the last daemon's resolver go on with this one.
        let before = inner
            .tables
            .resolver(cookie)
            .map_err(io::Error::other)?
            .map_or(0, |resolver| u16::from_be(resolver.port_v4));
        let sockets = namespace.run(|| resolver::bind_pair(before))?;
        let number = inner.next;
        inner.next = inner.next.wrapping_add(1);
        let entry = Resolver {
            listener: number,
            port_v4: sockets.v4.port().to_be(),
            port_v6: sockets.v6.as_ref().map_or(0, resolver::Ends::port).to_be(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let resolver = self.resolver.clone();
        let task = tokio::spawn(async move {
            // Dropped, and never sent.
            let stopped = async { drop(stopped.await) };
            if let Err(error) = resolver.serve(number, sockets, stopped).await {
                tracing::error!("{error}; another one takes its place");
            }
        });
        inner
            .tables
            .insert_resolver(cookie, entry)
            .map_err(io::Error::other)?;
        inner.resolvers.insert(
            namespace.inode,
            Listening {
                number,
                cookie,
                namespace,
                task,
                _stop: stop,
            },
        );
        Ok(())
    }
}

impl Inner {
    /// Agents under the profile in a slot.
    fn agents_under(&self, slot: u32) -> Vec<u64> {
        self.agents
            .iter()
            .filter(|(_, other)| **other == slot)
            .map(|(agent, _)| *agent)
            .collect()
    }

    fn prepare(&mut self, prepared: &mut Prepared) -> Result<(), Error> {
        let destinations = self.tables.destinations()?;
        for (slot, new) in prepared.profiles.clone() {
            let agents: BTreeSet<u64> = self.agents_under(slot).into_iter().collect();
            for agent in &agents {
                let all: Vec<Of> = self.knowledge.of_agent(*agent).collect();
                for of in all {
                    if let Some(grant) = self.knowledge.grant(of, &new.profile, new.install)? {
                        self.tables.insert_grant(grant)?;
                        prepared.grants.push(grant.key);
                    }
                }
            }
            let old = self.profiles.get(&slot).map(|old| old.install);
            for (key, boot_ns) in &destinations {
                if !agents.contains(&key.agent) || old.is_some_and(|old| old != key.install) {
                    continue;
                }
                let Some(to) = crate::event::net::destination(key.address) else {
                    continue;
                };
                if self.verdict(key.agent, &new.profile, &to) <= Verdict::Ask as u32 {
                    let key = DestinationKey {
                        install: new.install,
                        ..*key
                    };
                    self.tables.insert_destination(key, *boot_ns)?;
                    prepared.destinations.push(key);
                }
            }
        }
        Ok(())
    }

    /// What a profile says of a connection that is there: by its address, and by every name that the agent ever had for
    /// it. The verdict's number.
    fn verdict(&self, agent: u64, profile: &CompiledProfile, to: &Destination) -> u32 {
        let names: Vec<_> = match to {
            Destination::Inet { address, .. } => {
                let of = (agent, address::long(*address));
                let class = known::class_of(&of.1);
                let known = self.knowledge.names(of).iter();
                known.map(|known| (known.name.clone(), class)).collect()
            }
            _ => Vec::new(),
        };
        profile.connect(to, &names).outcome.rank()
    }

    /// Whether a connection was allowed and is so no more.
    fn is_taken_away(
        &self,
        entry: &Entry,
        before: Option<&InForce>,
        socket: &sockets::Connected,
    ) -> bool {
        let Some(now) = self.profiles.get(&entry.profile.slot) else {
            return false;
        };
        if now.profile.mode != agentguard_common::profile::Mode::Enforce || socket.from_peer {
            return false;
        }
        if let Destination::Inet { address, port, .. } = &socket.to
            && address.is_loopback()
            && (now.profile.names(named::OWN) || self.is_resolver(*port))
        {
            return false;
        }
        let verdict = self.verdict(entry.id, &now.profile, &socket.to);
        let was = before.map(|before| self.verdict(entry.id, &before.profile, &socket.to));
        match was {
            Some(was) => was <= Verdict::Ask as u32 && verdict > was,
            // What was in force isn't known to a daemon that has just begun.
            None => verdict > Verdict::Ask as u32,
        }
    }

    fn is_resolver(&self, port: u16) -> bool {
        self.resolvers.values().any(|listening| {
            let resolver = self.tables.resolver(listening.cookie).ok().flatten();
            resolver.is_some_and(|resolver| {
                port.to_be() == resolver.port_v4 || port.to_be() == resolver.port_v6
            })
        })
    }

    fn remove(&mut self, grants: &[NameKey], destinations: &[DestinationKey]) {
        let removed = grants
            .iter()
            .try_for_each(|key| self.tables.remove_grant(*key))
            .and_then(|()| {
                destinations
                    .iter()
                    .try_for_each(|key| self.tables.remove_destination(*key))
            });
        if let Err(error) = removed {
            tracing::warn!("{}", causes::text(&error));
        }
    }

    /// Removes what belongs to agents and installations that are no more. Only when it is known which there are.
    fn remove_old(&mut self) {
        let current = self.current();
        self.remove_where(|agent, install| current.get(&agent) != Some(&install));
    }

    /// The installation that is in force for each agent.
    fn current(&self) -> BTreeMap<u64, u32> {
        self.agents
            .iter()
            .filter_map(|(agent, slot)| Some((*agent, self.profiles.get(slot)?.install)))
            .collect()
    }

    /// Removes what is of an agent and an installation like these.
    fn remove_where(&mut self, is_gone: impl Fn(u64, u32) -> bool) {
        let (Ok(mut grants), Ok(destinations)) = (self.tables.grants(), self.tables.destinations())
        else {
            return;
        };
        grants.retain(|key| is_gone(key.agent, key.install));
        let destinations: Vec<DestinationKey> = destinations
            .into_iter()
            .map(|(key, _)| key)
            .filter(|key| is_gone(key.agent, key.install))
            .collect();
        self.remove(&grants, &destinations);
    }

    fn retain_resolvers(&mut self, wanted: impl Fn(u64) -> bool) {
        // Their sockets would keep the namespace alive.
        self.resolvers.retain(|inode, _| wanted(*inode));
        self.without.retain(|inode| wanted(*inode));
        let cookies: BTreeSet<u64> = self
            .resolvers
            .values()
            .map(|listening| listening.cookie)
            .collect();
        for cookie in self.tables.resolvers().unwrap_or_default() {
            if !cookies.contains(&cookie)
                && let Err(error) = self.tables.remove_resolver(cookie)
            {
                tracing::warn!("{}", causes::text(&error));
            }
        }
    }

    /// Now and then forgets what has run out and what nobody uses.
    fn sweep(&mut self) {
        let now = boot_ns();
        if now.saturating_sub(self.swept_ns) < SWEEP_NS {
            return;
        }
        self.swept_ns = now;
        self.remove_old();
        let Ok(destinations) = self.tables.destinations() else {
            return;
        };
        let used: BTreeSet<Of> = destinations
            .iter()
            .filter_map(
                |(key, _)| match crate::event::net::destination(key.address)? {
                    Destination::Inet { address, .. } => Some((key.agent, address::long(address))),
                    _ => None,
                },
            )
            .collect();
        self.knowledge
            .expire(now.saturating_sub(IDLE_NS), |of| used.contains(&of));
        let granted: Vec<NameKey> = self.tables.grants().unwrap_or_default();
        let idle: Vec<NameKey> = granted
            .into_iter()
            .filter(|key| {
                self.knowledge
                    .names((key.agent, known::bytes(key.address)))
                    .is_empty()
            })
            .collect();
        self.remove(&idle, &[]);
    }
}

impl Shared {
    /// The host's resolvers, or those that the configuration names instead.
    fn servers(&self) -> Result<Arc<[SocketAddr]>, resolver::ConfiguredError> {
        if self.config.resolvers.is_empty() {
            self.configured.servers()
        } else {
            Ok(servers(&self.config.resolvers))
        }
    }
}

/// Where the resolvers are that names are looked up at.
fn servers(addresses: &[IpAddr]) -> Arc<[SocketAddr]> {
    addresses
        .iter()
        .map(|address| SocketAddr::new(*address, agentguard_common::name::DNS_PORT))
        .collect()
}
