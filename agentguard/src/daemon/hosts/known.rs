//! What the agents know: which address is whose, by the answers that each of them got. Of it the grants in the kernel
//! are made, for one installation of a profile or another. A journal in the state directory keeps it over a restart.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
};

use agentguard_common::name::{self, NAMES, NameGrant, NameKey, NamedState};
use serde::{Deserialize, Serialize};

use super::address::{is_special, long};
use crate::policy::{CompiledProfile, HostName};

/// File in the state directory that keeps all of it.
pub const JOURNAL: &str = "hosts.jsonl";
/// Most addresses that are kept of one agent: a resolver must not be made to fill the map for all others.
const ADDRESSES: usize = 8192;
/// Lines of the journal that need not be of use.
const IDLE_LINES: usize = 4096;

/// Why an answer can't be granted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the agent knows {ADDRESSES} addresses already")]
    TooManyAddresses,
    #[error("rules tell more than {NAMES} names of one address apart")]
    TooManyNames,
}

/// One name of an address.
#[derive(Clone, Debug)]
pub struct Known {
    pub name: HostName,
    /// End of its lifetime on the boot clock, in nanoseconds.
    pub expires_ns: u64,
}

/// An agent and an address, mapped to IPv6.
pub type Of = (u64, [u8; 16]);

/// Everything that is known.
#[derive(Debug)]
pub struct Knowledge {
    entries: BTreeMap<Of, Vec<Known>>,
    journal: Journal,
}

/// A line of the journal.
#[derive(Serialize, Deserialize)]
struct Line {
    agent: u64,
    address: IpAddr,
    name: String,
    expires_ns: u64,
}

impl Knowledge {
    /// What an earlier daemon of this boot left.
    pub fn recall(state: &Path) -> io::Result<Self> {
        let mut journal = Journal::open(state.join(JOURNAL))?;
        let mut entries: BTreeMap<Of, Vec<Known>> = BTreeMap::new();
        // A torn line is the last one of a daemon that was killed.
        for line in journal.read()?.lines() {
            let Ok(line) = serde_json::from_str::<Line>(line) else {
                continue;
            };
            if let Ok(name) = HostName::parse(&line.name) {
                let known = entries.entry((line.agent, long(line.address))).or_default();
                learn(known, name, line.expires_ns);
            }
        }
        journal.write_anew(lines(&entries))?;
        Ok(Self { entries, journal })
    }

    /// Takes note of an answer. The latest one comes first.
    pub fn learn(
        &mut self,
        agent: u64,
        address: IpAddr,
        name: &HostName,
        expires_ns: u64,
    ) -> Result<(), Error> {
        let of = (agent, long(address));
        if !self.entries.contains_key(&of) && self.of_agent(agent).count() >= ADDRESSES {
            return Err(Error::TooManyAddresses);
        }
        learn(
            self.entries.entry(of).or_default(),
            name.clone(),
            expires_ns,
        );
        let line = Line {
            agent,
            address,
            name: name.to_string(),
            expires_ns,
        };
        if let Err(error) = self.journal.add(&line) {
            // What is lost is what a restart would have to know.
            tracing::warn!(
                "cannot note a name in {}: {error}",
                self.journal.path.display()
            );
        }
        Ok(())
    }

    /// The names of an address, the one that was looked up last first.
    pub fn names(&self, of: Of) -> &[Known] {
        self.entries.get(&of).map_or(&[], Vec::as_slice)
    }

    /// The addresses that an agent knows.
    pub fn of_agent(&self, agent: u64) -> impl Iterator<Item = Of> {
        self.entries
            .range((agent, [0; 16])..=(agent, [0xff; 16]))
            .map(|(of, _)| *of)
    }

    /// Every agent that knows an address.
    pub fn agents(&self) -> Vec<u64> {
        let mut agents: Vec<u64> = self.entries.keys().map(|(agent, _)| *agent).collect();
        agents.dedup();
        agents
    }

    /// Forgets an agent.
    pub fn forget(&mut self, agent: u64) {
        self.retain(|other| other != agent);
    }

    /// Forgets all other agents.
    pub fn retain(&mut self, is_one: impl Fn(u64) -> bool) {
        self.entries.retain(|(agent, _), _| is_one(*agent));
    }

    /// Forgets names whose lifetime ended before `now`, unless `keep` wants their address.
    pub fn expire(&mut self, now: u64, keep: impl Fn(Of) -> bool) {
        self.entries.retain(|of, known| {
            if !keep(*of) {
                known.retain(|known| known.expires_ns > now);
            }
            !known.is_empty()
        });
        let live: usize = self.entries.values().map(Vec::len).sum();
        if self.journal.lines > IDLE_LINES + 4 * live
            && let Err(error) = self.journal.write_anew(lines(&self.entries))
        {
            tracing::warn!("cannot write {}: {error}", self.journal.path.display());
        }
    }

    /// What the kernel is to know of an address under an installation of a profile; `None` when it is nothing.
    pub fn grant(
        &self,
        (agent, address): Of,
        profile: &CompiledProfile,
        install: u32,
    ) -> Result<Option<NameGrant>, Error> {
        let class = class_of(&address);
        let mut names: Vec<NamedState> = Vec::new();
        for known in self.names((agent, address)) {
            let states = profile.states_after(&known.name, class);
            match names.iter_mut().find(|other| other.states == states) {
                Some(same) => same.expires_ns = same.expires_ns.max(known.expires_ns),
                None => names.push(NamedState {
                    states,
                    expires_ns: known.expires_ns,
                }),
            }
        }
        if names.is_empty() {
            return Ok(None);
        }
        if names.len() > NAMES {
            return Err(Error::TooManyNames);
        }
        names.sort_by_key(|name| std::cmp::Reverse(name.expires_ns));
        let mut all = [NamedState::default(); NAMES];
        for (to, from) in all.iter_mut().zip(&names) {
            *to = *from;
        }
        Ok(Some(NameGrant {
            serial: 0,
            key: NameKey {
                agent,
                address: words(&address),
                install,
                padding: 0,
            },
            names: all,
            count: names.len() as u32,
            class: class.into(),
            serial_again: 0,
        }))
    }
}

/// An address as maps have it.
pub fn words(address: &[u8; 16]) -> [u64; 2] {
    let number = u128::from_ne_bytes(*address);
    // The machine is little-endian (`agentguard-ebpf` asserts that).
    [number as u64, (number >> 64) as u64]
}

/// The same back.
pub fn bytes(words: [u64; 2]) -> [u8; 16] {
    (u128::from(words[0]) | u128::from(words[1]) << 64).to_ne_bytes()
}

/// The class of names under which an address is judged.
pub fn class_of(address: &[u8; 16]) -> u8 {
    if is_special(address) {
        name::PRIVATE
    } else {
        name::PUBLIC
    }
}

fn learn(known: &mut Vec<Known>, name: HostName, expires_ns: u64) {
    let before = known.iter().position(|other| other.name == name);
    // A shorter answer doesn't take back what a longer one gave.
    let expires_ns = match before {
        Some(at) => known.remove(at).expires_ns.max(expires_ns),
        None => expires_ns,
    };
    known.insert(0, Known { name, expires_ns });
}

fn lines(entries: &BTreeMap<Of, Vec<Known>>) -> impl Iterator<Item = Line> {
    entries.iter().flat_map(|((agent, address), known)| {
        known.iter().rev().map(|known| Line {
            agent: *agent,
            address: super::address::short(address),
            name: known.name.to_string(),
            expires_ns: known.expires_ns,
        })
    })
}

/// The file, appended to line by line. It need not be on disk: what is in it ends with the boot.
#[derive(Debug)]
struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
}

impl Journal {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = File::options().append(true).create(true).open(&path)?;
        Ok(Self {
            path,
            file,
            lines: 0,
        })
    }

    fn read(&self) -> io::Result<String> {
        let bytes = fs::read(&self.path)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn add(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.file.write_all(text.as_bytes())?;
        self.lines += 1;
        Ok(())
    }

    /// Puts these lines in the place of all others, at once.
    fn write_anew(&mut self, lines: impl Iterator<Item = Line>) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut text = String::new();
        let mut count = 0;
        for line in lines {
            text.push_str(&serde_json::to_string(&line)?);
            text.push('\n');
            count += 1;
        }
        fs::write(&new, text)?;
        fs::rename(&new, &self.path)?;
        self.file = File::options().append(true).open(&self.path)?;
        self.lines = count;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HostName {
        HostName::parse(text).expect("a name")
    }

    #[test]
    fn what_was_learnt_survives_a_restart_and_a_torn_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let address: IpAddr = "203.0.113.7".parse().expect("an address");
        let mut knowledge = Knowledge::recall(directory.path()).expect("opened");
        for (host, expires_ns) in [("a.example", 5), ("b.example", 9), ("a.example", 7)] {
            knowledge
                .learn(3, address, &name(host), expires_ns)
                .expect("learnt");
        }
        knowledge
            .journal
            .file
            .write_all(b"{\"agent\":3,\"addr")
            .expect("torn");
        let knowledge = Knowledge::recall(directory.path()).expect("recalled");
        let known = knowledge.names((3, long(address)));
        let shown: Vec<(String, u64)> = known
            .iter()
            .map(|known| (known.name.to_string(), known.expires_ns))
            .collect();
        assert_eq!(
            shown,
            [("a.example".to_owned(), 7), ("b.example".to_owned(), 9)]
        );
        assert!(knowledge.names((4, long(address))).is_empty());
    }

    #[test]
    fn names_expire_unless_their_address_is_in_use() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut knowledge = Knowledge::recall(directory.path()).expect("opened");
        let [used, idle]: [IpAddr; 2] =
            ["203.0.113.7", "2001:db8::7"].map(|text| text.parse().expect("an address"));
        for address in [used, idle] {
            knowledge
                .learn(1, address, &name("a.example"), 5)
                .expect("learnt");
        }
        knowledge.expire(6, |(_, address)| address == long(used));
        assert_eq!(knowledge.names((1, long(used))).len(), 1);
        assert!(knowledge.names((1, long(idle))).is_empty());
        knowledge.forget(1);
        assert!(knowledge.agents().is_empty());
    }

    #[test]
    fn one_agent_does_not_take_all_the_room() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut knowledge = Knowledge::recall(directory.path()).expect("opened");
        let address = |number: usize| IpAddr::from((number as u32 + (11 << 24)).to_be_bytes());
        for number in 0..ADDRESSES {
            knowledge
                .learn(1, address(number), &name("a.example"), 5)
                .expect("learnt");
        }
        let one_more = address(ADDRESSES);
        assert!(knowledge.learn(1, one_more, &name("a.example"), 5).is_err());
        assert!(
            knowledge
                .learn(1, address(0), &name("b.example"), 5)
                .is_ok()
        );
        assert!(knowledge.learn(2, one_more, &name("a.example"), 5).is_ok());
    }
}
