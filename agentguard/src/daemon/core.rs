//! What the daemon does on request, one thing at a time: agents, policies, status. Who may ask is the
//! API's business; where events go, the sinks'.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use agentguard_common::counter::{self, Hook, Site};
use aya::programs::links::{FdLink, PinnedLink};
use tokio::sync::mpsc;

use super::{
    approvals::Approvals,
    events::{Message, Shared},
    hosts::Hosts,
    losses,
};
use crate::{
    agents::{self, Agents, Entry, Existing, Open, Under},
    api::types::{self, AgentState, Refusal, RefusalCode},
    causes,
    config::Config,
    enforcement,
    event::{Clock, Event, Lifecycle, lifecycle::LoadedProfile},
    loader::requirements,
    pins::Pins,
    policy::{self, CompiledProfile, Style},
    sink::log,
    tables::{self, Tables, install, install::Installer},
};

/// A name that no policy file can give its profile: those are internal.
fn is_internal(profile: &str) -> bool {
    profile.starts_with('.')
}

/// The daemon's state.
pub struct Core {
    pub config: Config,
    pub pins: Pins,
    pub tables: Tables,
    pub installer: Installer,
    pub agents: Agents,
    pub clock: Arc<Clock>,
    pub messages: mpsc::UnboundedSender<Message>,
    pub shared: Arc<Shared>,
    pub started: Instant,
    /// The canary was refused what it must be refused.
    pub proven: bool,
    /// Hooks that this kernel doesn't have.
    pub absent: Vec<Hook>,
    pub warnings: Vec<String>,
    pub refused: Option<types::PolicyRefusal>,
    pub approvals: Approvals,
    pub hosts: Hosts,
}

impl Core {
    /// Emits an event.
    pub fn emit(&self, event: Event) {
        // Only at the very end is nobody there to take it.
        let _ = self.messages.send(Message::Event(Box::new(event)));
    }

    /// Loads every policy and brings all of them into force, or none. What waits for an answer is judged anew
    /// where the policy is another.
    pub fn reload(&mut self) -> Result<types::Policy, Refusal> {
        let before = self.digests();
        let policy = self.bring_into_force()?;
        let after = self.digests();
        let changed = before
            .iter()
            .filter(|(name, digest)| after.get(*name) != Some(digest))
            .map(|(name, _)| name.clone())
            .collect();
        self.ask_anew(&changed);
        Ok(policy)
    }

    /// What is in force of each profile.
    fn digests(&self) -> BTreeMap<String, String> {
        let profiles = self.installer.profiles().iter();
        profiles
            .map(|(name, profile)| (name.clone(), profile.names.digest.clone()))
            .collect()
    }

    /// The same, without a look at what waits.
    pub fn bring_into_force(&mut self) -> Result<types::Policy, Refusal> {
        match self.load() {
            Ok(report) => {
                tracing::info!("policy {} is in force", report.install);
                self.refused = None;
                self.warnings = report.warnings.clone();
                self.emit(Event::lifecycle(
                    self.clock.now(),
                    "policy.loaded",
                    Lifecycle::Loaded {
                        install: report.install,
                        profiles: self
                            .policy()
                            .profiles
                            .into_iter()
                            .map(|profile| LoadedProfile {
                                name: profile.name,
                                digest: profile.digest,
                            })
                            .collect(),
                        warnings: report.warnings,
                    },
                ));
                Ok(self.policy())
            }
            Err(refusal) => {
                tracing::error!("{}", refusal.message);
                let time = self.clock.now();
                self.refused = Some(types::PolicyRefusal {
                    time: time.clone(),
                    message: refusal.message.clone(),
                    diagnostics: refusal.diagnostics.clone(),
                });
                self.emit(Event::lifecycle(
                    time,
                    "policy.refused",
                    Lifecycle::Refused {
                        message: refusal.message.clone(),
                        diagnostics: refusal.diagnostics.clone(),
                    },
                ));
                Err(refusal)
            }
        }
    }

    fn load(&mut self) -> Result<install::Report, Refusal> {
        let folder = &self.config.policies;
        let capabilities = enforcement::capabilities(&requirements::kernel_release(), &self.absent);
        let set = policy::load_dir(folder, &capabilities).map_err(|diagnostics| Refusal {
            code: RefusalCode::PolicyRefused,
            message: format!(
                "the policies in {} are wrong ({} errors)",
                folder.display(),
                diagnostics.errors()
            ),
            diagnostics: Some(diagnostics.render(Style::Plain)),
        })?;
        let profiles: Vec<(Arc<CompiledProfile>, PathBuf)> = set
            .iter()
            .map(|profile| (Arc::clone(profile), source(profile, folder)))
            .collect();
        let agents = &self.agents;
        let hosts = &self.hosts;
        // Which agents there are, before anything is prepared for them.
        hosts.attend(agents.iter());
        let mut prepared = None;
        let installed = self.installer.install(
            &mut self.tables,
            &profiles,
            true,
            |slot| agents.uses(slot),
            |install, slots| {
                let new = hosts.prepare(install, slots);
                prepared = Some(new.map_err(|error| causes::text(&error))?);
                Ok(())
            },
        );
        let mut report = installed.map_err(|error| {
            if let Some(prepared) = &prepared {
                hosts.take_back(prepared);
            }
            Refusal {
                code: RefusalCode::PolicyRefused,
                message: causes::text(&error),
                diagnostics: None,
            }
        })?;
        if let Some(prepared) = prepared {
            hosts.switched(prepared, agents.iter());
        }
        // Some name hosts that didn't before.
        hosts.attend(agents.iter());
        if !set.warnings.is_empty() {
            report.warnings.extend(
                set.warnings.iter().map(|warning| {
                    format!("{}:{}: {}", warning.file, warning.line, warning.message)
                }),
            );
        }
        Ok(report)
    }

    /// The profile with this name, if an agent can be put under it.
    fn under(&self, name: &str) -> Result<Under, Refusal> {
        match self.installer.profiles().get(name) {
            Some(profile) if !is_internal(name) => Ok(Under {
                name: name.to_owned(),
                slot: profile.slot,
            }),
            _ => Err(Refusal {
                code: RefusalCode::UnknownProfile,
                message: format!("no profile has the name {name:?}"),
                diagnostics: None,
            }),
        }
    }

    /// Makes an agent in a cgroup of its own.
    pub fn create_agent(&mut self, request: types::CreateAgent) -> Result<types::Agent, Refusal> {
        let profile = self.under(&request.profile)?;
        let entry = self
            .agents
            .create(&mut self.tables, profile, request.name)
            .map_err(refusal)?;
        self.hosts.attend(self.agents.iter());
        self.emit(lifecycle(
            &entry,
            self.clock.now(),
            "agent.started",
            Vec::new(),
        ));
        Ok(entry.shown())
    }

    /// Makes an existing cgroup an agent's.
    pub fn tag(&mut self, request: types::Tag) -> Result<types::Tagged, Refusal> {
        let profile = self.under(&request.profile)?;
        let rules = self
            .installer
            .profiles()
            .get(&request.profile)
            .and_then(|installed| installed.compiled.as_deref());
        let existing = Existing {
            path: &request.cgroup,
            profile,
            rules,
            name: request.name,
            open: if request.allow_open {
                Open::Kept
            } else {
                Open::Judged
            },
        };
        let (entry, held) = self
            .agents
            .tag(&mut self.tables, existing)
            .map_err(refusal)?;
        self.hosts.attend(self.agents.iter());
        let held: Vec<String> = held.iter().map(ToString::to_string).collect();
        self.emit(lifecycle(
            &entry,
            self.clock.now(),
            "agent.started",
            held.clone(),
        ));
        Ok(types::Tagged {
            agent: entry.shown(),
            held,
        })
    }

    /// Releases an agent.
    pub fn untag(&mut self, request: &types::Untag) -> Result<types::Agent, Refusal> {
        let entry = self
            .agents
            .untag(&mut self.tables, &request.cgroup)
            .map_err(refusal)?;
        self.agent_over(entry.id);
        self.hosts.forget(entry.id);
        self.emit(lifecycle(
            &entry,
            self.clock.now(),
            "agent.ended",
            Vec::new(),
        ));
        Ok(entry.shown())
    }

    /// Whether the process carries the label of this agent.
    pub fn verify(
        &mut self,
        agent: u64,
        pid: u32,
        pidfd: &OwnedFd,
    ) -> Result<types::Verified, Refusal> {
        if self.agents.get(agent).is_none() {
            return Err(Refusal {
                code: RefusalCode::UnknownAgent,
                message: format!("no agent has the number {agent}"),
                diagnostics: None,
            });
        }
        match agents::label(&self.tables, pid, pidfd.as_fd()).map_err(refusal)? {
            Some(label) if label == agent => {
                self.agents.entered(agent);
                if let Some(entry) = self.agents.get(agent) {
                    self.hosts.admit(entry, pid);
                }
                Ok(types::Verified { agent, pid })
            }
            other => Err(Refusal {
                code: RefusalCode::NotLabelled,
                message: match other {
                    Some(other) => {
                        format!("process {pid} carries the label of agent {other}, not of {agent}")
                    }
                    None => format!("process {pid} carries no label"),
                },
                diagnostics: None,
            }),
        }
    }

    /// The agent that a process belongs to.
    pub fn agent_of(&self, pid: u32, pidfd: &OwnedFd) -> Result<Option<u64>, Refusal> {
        self.agents
            .of_process(&self.tables, pid, pidfd.as_fd())
            .map_err(refusal)
    }

    /// The agent of a process that asks about itself, if it is one's, and its session.
    ///
    /// # Errors
    ///
    /// When that can't be told.
    pub fn own(&self, pid: u32, pidfd: &OwnedFd) -> Result<Option<(u64, String)>, Refusal> {
        let Some(agent) = self.agent_of(pid, pidfd)? else {
            return Ok(None);
        };
        // The number may have been another process's by then, if the one that connected has ended.
        if !is_alive(pidfd) {
            return Ok(None);
        }
        let entry = self.agents.get(agent);
        Ok(entry
            .filter(|entry| entry.state != AgentState::Released)
            .map(|entry| (agent, entry.session.to_string())))
    }

    /// Every agent.
    pub fn agents(&self) -> Vec<types::Agent> {
        self.agents
            .iter()
            .filter(|agent| !is_internal(&agent.profile.name))
            .map(Entry::shown)
            .collect()
    }

    /// Looks after agents that may have ended.
    pub fn reap(&mut self) {
        match self.agents.reap(&mut self.tables) {
            Ok(ended) => {
                for entry in ended {
                    self.agent_over(entry.id);
                    self.hosts.forget(entry.id);
                    if !is_internal(&entry.profile.name) {
                        self.emit(lifecycle(
                            &entry,
                            self.clock.now(),
                            "agent.ended",
                            Vec::new(),
                        ));
                    }
                }
            }
            Err(error) => {
                tracing::error!("cannot look after the agents: {}", causes::text(&error));
            }
        }
    }

    /// Looks up literally named files again.
    pub fn refresh(&mut self) {
        if let Err(error) = self.installer.refresh(&mut self.tables) {
            tracing::error!(
                "cannot refresh the identities of files: {}",
                causes::text(&error)
            );
        }
    }

    /// Keeps the clock right, and tells the log what the kernel lost.
    pub fn beat(&self) {
        self.clock.adjust();
        match self.tables.counters() {
            Ok(counters) => {
                let _ = self.messages.send(Message::Counters(counters));
            }
            Err(error) => tracing::error!("{}", causes::text(&error)),
        }
    }

    /// The policy in force.
    pub fn policy(&self) -> types::Policy {
        types::Policy {
            install: self.installer.install_number(),
            profiles: self
                .installer
                .profiles()
                .values()
                .filter(|profile| !is_internal(&profile.names.name))
                .map(|profile| types::Profile {
                    name: profile.names.name.clone(),
                    description: profile.names.description.clone(),
                    mode: profile.names.mode.clone(),
                    source: profile.names.source.clone(),
                    digest: profile.names.digest.clone(),
                    rules: profile.names.rules.len(),
                    install: profile.install,
                    agents: self
                        .agents
                        .iter()
                        .filter(|agent| {
                            agent.profile.slot == profile.slot
                                && agent.state != AgentState::Released
                        })
                        .count(),
                })
                .collect(),
            warnings: self.warnings.clone(),
            refused: self.refused.clone(),
        }
    }

    /// How it is.
    pub fn status(&self) -> Result<types::Status, Refusal> {
        let hooks = self.hooks();
        let mut problems: Vec<String> = hooks
            .iter()
            .filter(|hook| !hook.attached)
            .map(|hook| format!("{} is not attached", hook.name))
            .collect();
        if !self.proven {
            problems.push("the canary was not refused yet".to_owned());
        }
        let mut warnings = Vec::new();
        if let Some(refused) = &self.refused {
            warnings.push(refused.message.clone());
        }
        let log = self.log();
        if let Some(error) = &log.error {
            warnings.push(format!("the log can't be written: {error}"));
        }
        let counters = self.tables.counters().map_err(|error| internal(&error))?;
        let maps = tables::usage(&self.pins).map_err(|error| internal(&error))?;
        Ok(types::Status {
            enforcing: problems.is_empty(),
            problems,
            warnings,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            kernel: types::Kernel {
                release: requirements::kernel_release(),
                lsm: requirements::active_lsms(),
            },
            verbs: enforcement::Foundation::all(&self.absent, |hook| {
                hooks
                    .iter()
                    .any(|other| other.name == hook.name() && other.attached)
            }),
            hooks,
            policy: self.policy(),
            agents: self.agents(),
            pending: self.approvals.prompts().count(),
            counters: self.counters(&counters),
            log,
            maps: maps
                .into_iter()
                .map(|map| types::Map {
                    name: map.name.to_owned(),
                    id: map.id,
                    entries: map.entries,
                    memory_bytes: map.memory_bytes,
                })
                .collect(),
        })
    }

    /// What is attached, asked of the kernel.
    fn hooks(&self) -> Vec<types::Hook> {
        let look = |path: &Path| {
            PinnedLink::from_pin(path)
                .and_then(|link| FdLink::from(link).info())
                .ok()
        };
        Hook::ALL
            .iter()
            .filter(|hook| !self.absent.contains(hook))
            .map(|hook| {
                let name = hook.name().to_owned();
                if !hook.is_of_cgroups() {
                    let link = look(&self.pins.link(&name));
                    return types::Hook {
                        name,
                        attached: link.is_some(),
                        link: link.as_ref().map(|link| link.id()),
                        program: link.as_ref().map(|link| link.program_id()),
                    };
                }
                // Attached to each agent's cgroup; without agents there is nothing to attach it to.
                let links: Vec<_> = self
                    .agents
                    .iter()
                    .filter(|agent| agent.state == AgentState::Active)
                    .map(|agent| look(&self.pins.agent_link(agent.id, *hook)))
                    .collect();
                let one = links.iter().flatten().next();
                types::Hook {
                    name,
                    attached: links.iter().all(Option::is_some),
                    link: one.map(|link| link.id()),
                    program: one.map(|link| link.program_id()),
                }
            })
            .collect()
    }

    fn counters(&self, counters: &[u64]) -> types::Counters {
        let count = |(hook, verdict, count): (u32, u32, u64)| types::Count {
            hook: crate::ring::record::hook_name(hook)
                .unwrap_or("unknown")
                .to_owned(),
            verdict: losses::name(verdict).to_owned(),
            count,
        };
        types::Counters {
            decisions: losses::decided(counters)
                .filter(|(_, _, count)| *count > 0)
                .map(count)
                .collect(),
            lost_kernel: losses::losses(counters).map(count).collect(),
            lost_sink: self.shared.log().lost,
            undecodable: self.shared.undecodable.load(Ordering::Relaxed),
            failures: Site::ALL
                .iter()
                .filter_map(|(site, name)| {
                    let index = counter::failures(*site as u8) as usize;
                    let count = counters.get(index).copied().unwrap_or(0);
                    (count > 0).then(|| types::Failure {
                        site: (*name).to_owned(),
                        count,
                    })
                })
                .collect(),
        }
    }

    fn log(&self) -> types::Log {
        let state = self.shared.log();
        types::Log {
            path: self.config.log.dir.join(log::FILE),
            writing: state.writing,
            error: state.error,
            seq: state.seq,
            hash: state.hash,
            backlog: state.backlog,
        }
    }
}

/// Whether the process has not ended: its descriptor becomes readable when it does.
fn is_alive(pidfd: &OwnedFd) -> bool {
    let mut fds = [rustix::event::PollFd::new(
        pidfd,
        rustix::event::PollFlags::IN,
    )];
    let now = rustix::event::Timespec::default();
    matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(0))
}

/// The file that a profile was read from: that of its own rules, else the one named like it.
fn source(profile: &CompiledProfile, folder: &Path) -> PathBuf {
    profile
        .rules
        .iter()
        .find(|rule| rule.profile == profile.name)
        .map_or_else(
            || folder.join(format!("{}.toml", profile.name)),
            |rule| PathBuf::from(&rule.file),
        )
}

fn lifecycle(entry: &Entry, time: String, action: &'static str, held: Vec<String>) -> Event {
    let mut event = Event::lifecycle(
        time,
        action,
        Lifecycle::Agent {
            id: entry.id,
            cgroup: crate::event::text::decode(entry.place.as_os_str().as_encoded_bytes()).0,
            held,
        },
    );
    event.agent = Some(entry.name.clone());
    event.session = Some(entry.session.to_string());
    event.profile = Some(entry.profile.name.clone());
    event
}

fn refusal(error: agents::Error) -> Refusal {
    Refusal {
        code: error.refusal(),
        message: causes::text(&error),
        diagnostics: error.details(),
    }
}

fn internal(error: &(dyn std::error::Error + 'static)) -> Refusal {
    Refusal {
        code: RefusalCode::Internal,
        message: causes::text(error),
        diagnostics: None,
    }
}
