//! What the numbers in records stand for: agents, and the rules of each installation. Written by the
//! daemon's core, read where events are made. Nothing is decided by it.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    net::IpAddr,
    num::NonZero,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use lru::LruCache;
use serde::{Deserialize, Serialize};

/// Agents that are remembered after their end, for records that are still on their way.
const ENDED: usize = 1024;
/// Hosts' names that are remembered, over all agents; those that were answered the longest ago go first.
const HOSTS: NonZero<usize> = NonZero::new(65_536).expect("not zero");
/// Installations whose rules are kept in files beyond those in force.
const KEPT: usize = 8;

/// What events say of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentNames {
    pub name: String,
    pub session: String,
    pub profile: String,
    /// Slot of the profile.
    pub slot: u32,
}

/// What events say of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleNames {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// A literal path of a profile, with what its identity leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Literal {
    pub path: Vec<u8>,
    /// The rule names the path itself, not just a folder above what it is about.
    pub whole: bool,
    /// Only exec rules name it: a symbolic link of that name is not followed.
    #[serde(default)]
    pub program: bool,
    /// Index of the first rule that names it.
    #[serde(default)]
    pub rule: u32,
    pub states:
        [[u32; agentguard_common::limits::AUTOMATA]; agentguard_common::identity::PATH_SUBJECTS],
}

/// An installed profile as it must be known after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileNames {
    pub slot: u32,
    pub name: String,
    #[serde(default)]
    pub description: Option<String>,
    pub mode: String,
    /// Allowed actions are logged once per process and object.
    #[serde(default)]
    pub log_first: bool,
    pub source: PathBuf,
    pub digest: String,
    /// By the rules' indices.
    pub rules: Vec<RuleNames>,
    pub literals: Vec<Literal>,
}

/// One installation, as it lies in its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallNames {
    pub install: u32,
    pub profiles: Vec<ProfileNames>,
}

/// The registry. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Names {
    inner: Arc<RwLock<Inner>>,
}

#[derive(Debug)]
struct Inner {
    agents: BTreeMap<u64, AgentNames>,
    ended: std::collections::VecDeque<u64>,
    profiles: HashMap<(u32, u32), Arc<ProfileNames>>,
    hosts: LruCache<(u64, IpAddr), String>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            agents: BTreeMap::new(),
            ended: std::collections::VecDeque::new(),
            profiles: HashMap::new(),
            hosts: LruCache::new(HOSTS),
        }
    }
}

impl Names {
    pub fn agent(&self, id: u64) -> Option<AgentNames> {
        self.read(|inner| inner.agents.get(&id).cloned())
    }

    pub fn set_agent(&self, id: u64, names: AgentNames) {
        self.write(|inner| {
            inner.agents.insert(id, names);
        });
    }

    /// The agent is gone; its name is kept for a while.
    pub fn end_agent(&self, id: u64) {
        self.write(|inner| {
            inner.ended.push_back(id);
            if inner.ended.len() > ENDED
                && let Some(oldest) = inner.ended.pop_front()
            {
                inner.agents.remove(&oldest);
            }
        });
    }

    /// The name that the agent looked up last of those that were answered with this address.
    pub fn host(&self, agent: u64, address: IpAddr) -> Option<String> {
        self.read(|inner| inner.hosts.peek(&(agent, address)).cloned())
    }

    pub fn set_host(&self, agent: u64, address: IpAddr, name: String) {
        self.write(|inner| {
            inner.hosts.put((agent, address), name);
        });
    }

    /// The profile in a slot, as an installation had it.
    pub fn profile(&self, install: u32, slot: u32) -> Option<Arc<ProfileNames>> {
        self.read(|inner| inner.profiles.get(&(install, slot)).cloned())
    }

    /// Adds an installation.
    pub fn add(&self, install: InstallNames) {
        self.write(|inner| {
            for profile in install.profiles {
                inner
                    .profiles
                    .insert((install.install, profile.slot), Arc::new(profile));
            }
        });
    }

    /// Forgets installations, but for the latest and those that `used` takes.
    pub fn retain(&self, used: impl Fn(u32) -> bool) {
        self.write(|inner| {
            let mut installs: Vec<u32> =
                inner.profiles.keys().map(|(install, _)| *install).collect();
            installs.sort_unstable();
            installs.dedup();
            let oldest = installs.iter().rev().nth(KEPT - 1).copied().unwrap_or(0);
            inner
                .profiles
                .retain(|(install, _), _| *install >= oldest || used(*install));
        });
    }

    fn read<T>(&self, look: impl FnOnce(&Inner) -> T) -> T {
        look(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The files of the installations, in the daemon's state directory.
#[derive(Clone, Debug)]
pub struct Files {
    directory: PathBuf,
}

impl Files {
    /// Makes the directory when it isn't there.
    pub fn new(state: &Path) -> io::Result<Self> {
        let directory = state.join("rules");
        fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    /// Every installation that can be read, oldest first. Those that can't be are left out: their
    /// rules will be shown by number.
    pub fn read(&self) -> io::Result<Vec<InstallNames>> {
        let mut installs = Vec::new();
        for number in self.numbers()? {
            let path = self.path(number);
            match fs::read(&path).map(|bytes| serde_json::from_slice::<InstallNames>(&bytes)) {
                Ok(Ok(install)) if install.install == number => installs.push(install),
                Ok(Ok(_)) => tracing::warn!("{} is another installation's", path.display()),
                Ok(Err(error)) => tracing::warn!("cannot read {}: {error}", path.display()),
                Err(error) => tracing::warn!("cannot read {}: {error}", path.display()),
            }
        }
        Ok(installs)
    }

    /// The greatest number that has a file, readable or not.
    pub fn latest(&self) -> io::Result<u32> {
        Ok(self.numbers()?.last().copied().unwrap_or(0))
    }

    /// Writes one whole or not at all.
    pub fn write(&self, install: &InstallNames) -> io::Result<()> {
        let path = self.path(install.install);
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(install)?)?;
        fs::rename(&new, &path)
    }

    pub fn remove(&self, install: u32) -> io::Result<()> {
        fs::remove_file(self.path(install))
    }

    /// Removes the files that are neither among the latest nor `used`.
    pub fn retain(&self, used: impl Fn(u32) -> bool) -> io::Result<()> {
        let numbers = self.numbers()?;
        let old = numbers.len().saturating_sub(KEPT);
        for number in numbers
            .into_iter()
            .take(old)
            .filter(|number| !used(*number))
        {
            self.remove(number)?;
        }
        Ok(())
    }

    fn numbers(&self) -> io::Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            if let Some(number) = name
                .to_str()
                .and_then(|name| name.strip_suffix(".json")?.parse().ok())
            {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn path(&self, install: u32) -> PathBuf {
        self.directory.join(format!("{install}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install(number: u32) -> InstallNames {
        InstallNames {
            install: number,
            profiles: vec![ProfileNames {
                slot: 3,
                name: "coding".to_owned(),
                description: None,
                mode: "enforce".to_owned(),
                log_first: false,
                source: "/p/coding.toml".into(),
                digest: "d".to_owned(),
                rules: vec![RuleNames {
                    id: "private-keys".to_owned(),
                    because: Some("No.".to_owned()),
                }],
                literals: vec![Literal {
                    path: b"/etc/\xff".to_vec(),
                    whole: true,
                    program: false,
                    rule: 0,
                    states: [[7; 4]; 4],
                }],
            }],
        }
    }

    #[test]
    fn installations_survive_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = Files::new(directory.path()).expect("made");
        for number in 1..=12 {
            files.write(&install(number)).expect("written");
        }
        fs::write(directory.path().join("rules/13.json"), "torn").expect("written");
        files.retain(|number| number == 2).expect("removed");
        let read = files.read().expect("read");
        let numbers: Vec<u32> = read.iter().map(|install| install.install).collect();
        assert_eq!(numbers, [2, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(read[0], install(2));
        assert_eq!(files.latest().expect("read"), 13);
    }

    #[test]
    fn old_rules_are_forgotten_unless_used() {
        let names = Names::default();
        for number in 1..=20 {
            names.add(install(number));
        }
        names.retain(|number| number == 1);
        assert!(names.profile(1, 3).is_some());
        assert!(names.profile(2, 3).is_none());
        assert!(names.profile(13, 3).is_some());
        assert!(names.profile(20, 4).is_none());
    }

    #[test]
    fn agents_are_remembered_for_a_while() {
        let names = Names::default();
        for id in 0..=ENDED as u64 {
            names.set_agent(
                id,
                AgentNames {
                    name: "a".to_owned(),
                    session: "s".to_owned(),
                    profile: "p".to_owned(),
                    slot: 0,
                },
            );
            names.end_agent(id);
        }
        assert!(names.agent(0).is_none());
        assert!(names.agent(1).is_some());
    }
}
