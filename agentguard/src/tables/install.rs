//! Brings compiled profiles into force: start-up and reload are this one path. All or nothing: until
//! the first slot is switched everything can be taken back, and after it nothing can fail.
//!
//! Regions of profiles that were switched away are given back after an RCU grace period. The programs
//! that read the arena must not be sleepable: those aren't waited for (kernel/bpf/syscall.c,
//! `maybe_wait_bpf_programs`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use agentguard_common::{
    identity::{Identity, IdentityKey},
    limits,
    profile::{LogAllow, MAGIC, Mode},
};

use super::{
    Tables,
    arena::{self, Arena, Region},
    inode::Resolver,
};
use crate::{
    bpf,
    names::{Files, InstallNames, Literal, Names, ProfileNames, RuleNames},
    policy::{CompiledProfile, Naming},
};

/// Why a policy could not be installed, or what is installed not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Tables(#[from] super::Error),
    #[error("cannot install profile {profile}: {source}")]
    Arena {
        profile: String,
        source: arena::Full,
    },
    #[error(
        "cannot install profile {profile}: all {} slots are taken",
        limits::PROFILES
    )]
    Slots { profile: String },
    #[error("cannot write the rules of installation {install}: {source}")]
    Files { install: u32, source: io::Error },
    #[error("cannot bring installation {install} into force: {problem}")]
    Refused { install: u32, problem: String },
    #[error("cannot read the mount table: {source}")]
    Mounts { source: io::Error },
    #[error(
        "the arena holds no whole profile in slot {slot}; run `agentguard unload` and start again"
    )]
    Broken { slot: u32 },
}

/// An installed profile.
#[derive(Debug)]
pub struct Installed {
    pub slot: u32,
    /// Installation that its tables belong to.
    pub install: u32,
    pub names: Arc<ProfileNames>,
    /// Not there for what an earlier daemon installed, until it is installed anew.
    pub compiled: Option<Arc<CompiledProfile>>,
    region: Region,
    identities: Identities,
}

/// A key, in an order.
type IdentityOf = (u32, u64);
/// What the kernel knows of files.
type Identities = BTreeMap<IdentityOf, Identity>;

/// What was found worth saying, and the number.
#[derive(Debug)]
pub struct Report {
    pub install: u32,
    pub warnings: Vec<String>,
}

/// The profiles in force, and the free places for others.
#[derive(Debug)]
pub struct Installer {
    arena: Arena,
    install: u32,
    profiles: BTreeMap<String, Installed>,
    /// Given back at the next grace period.
    retired: Vec<(Region, u32, u32, Identities)>,
    files: Files,
    names: Names,
}

/// A profile whose cells and identities are in place, but in no slot.
struct Prepared {
    name: String,
    descriptor: u32,
    installed: Installed,
}

impl Installer {
    /// Takes over what is in force from an earlier daemon.
    pub fn adopt(tables: &mut Tables, state: &Path, names: Names) -> Result<Self, Error> {
        let file = |source| Error::Files { install: 0, source };
        let files = Files::new(state).map_err(file)?;
        for install in files.read().map_err(file)? {
            names.add(install);
        }
        let mut installer = Self {
            arena: Arena::new(tables.arena().word_count() as u32),
            install: files.latest().map_err(file)?,
            profiles: BTreeMap::new(),
            retired: Vec::new(),
            files,
            names,
        };
        for slot in 0..limits::PROFILES {
            let descriptor = tables.profile(slot);
            if descriptor != 0 {
                installer.adopt_slot(tables, slot, descriptor)?;
            }
        }
        // What a daemon that died while it installed has left.
        let mut latest = installer.install;
        for (key, identity) in tables.identities()? {
            latest = latest.max(key.install);
            let owner = installer
                .profiles
                .values_mut()
                .find(|profile| profile.slot == key.profile && profile.install == key.install);
            match owner {
                Some(owner) => {
                    owner.identities.insert((key.device, key.inode), identity);
                }
                None => tables.remove_identity(key)?,
            }
        }
        installer.install = latest;
        Ok(installer)
    }

    fn adopt_slot(&mut self, tables: &Tables, slot: u32, descriptor: u32) -> Result<(), Error> {
        let broken = Error::Broken { slot };
        let Some(region) = arena::region_of(tables.arena(), descriptor) else {
            return Err(broken);
        };
        let first = tables
            .arena()
            .word(descriptor as usize)
            .map_or(0, |word| word.load(std::sync::atomic::Ordering::Acquire));
        if first as u32 != MAGIC || !self.arena.claim(region) {
            return Err(broken);
        }
        let install = (first >> 32) as u32;
        self.install = self.install.max(install);
        let names = self.names.profile(install, slot).unwrap_or_else(|| {
            // Its file is gone. The name is still known where an agent uses it.
            let name = tables
                .agents()
                .find(|(_, agent)| agent.profile == slot)
                .map_or_else(
                    || format!(".slot-{slot}"),
                    |(_, agent)| {
                        let name = crate::event::text::padded(&agent.profile_name);
                        crate::event::text::decode(name).0
                    },
                );
            Arc::new(ProfileNames {
                slot,
                name,
                description: None,
                mode: "enforce".to_owned(),
                log_first: false,
                source: PathBuf::new(),
                digest: String::new(),
                rules: Vec::new(),
                literals: Vec::new(),
            })
        });
        self.profiles.insert(
            names.name.clone(),
            Installed {
                slot,
                install,
                names,
                compiled: None,
                region,
                identities: Identities::new(),
            },
        );
        Ok(())
    }

    /// What the numbers of rules stand for.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Number of the latest installation.
    pub fn install_number(&self) -> u32 {
        self.install
    }

    /// The profiles in force, by name.
    pub fn profiles(&self) -> &BTreeMap<String, Installed> {
        &self.profiles
    }

    /// Installs these profiles. With `whole`, they are the policy: others go, unless `used` says that
    /// an agent is under the profile in that slot. `prepare` is told of the installation's number and of each profile's
    /// slot, just before they come into force, and can refuse.
    pub fn install(
        &mut self,
        tables: &mut Tables,
        profiles: &[(Arc<CompiledProfile>, PathBuf)],
        whole: bool,
        used: impl Fn(u32) -> bool,
        prepare: impl FnOnce(u32, &[(u32, Arc<CompiledProfile>)]) -> Result<(), String>,
    ) -> Result<Report, Error> {
        self.settle(tables)?;
        let install = self.install + 1;
        let resolver = Resolver::new().map_err(|source| Error::Mounts { source })?;
        let mut warnings = Vec::new();
        let mut prepared = Vec::new();
        let mut taken: BTreeSet<u32> = self.profiles.values().map(|old| old.slot).collect();
        for (profile, source) in profiles {
            let done = self.slot_for(&profile.name, &mut taken).and_then(|slot| {
                self.prepare(
                    tables,
                    profile,
                    source,
                    slot,
                    install,
                    &resolver,
                    &mut warnings,
                )
            });
            match done {
                Ok(one) => prepared.push(one),
                Err(error) => {
                    self.take_back(tables, prepared);
                    return Err(error);
                }
            }
        }
        let names = InstallNames {
            install,
            profiles: prepared
                .iter()
                .map(|one| ProfileNames::clone(&one.installed.names))
                .collect(),
        };
        if let Err(source) = self.files.write(&names) {
            self.take_back(tables, prepared);
            return Err(Error::Files { install, source });
        }
        let slots: Vec<(u32, Arc<CompiledProfile>)> = prepared
            .iter()
            .filter_map(|one| Some((one.installed.slot, one.installed.compiled.clone()?)))
            .collect();
        if let Err(problem) = prepare(install, &slots) {
            self.take_back(tables, prepared);
            return Err(Error::Refused { install, problem });
        }
        // From here on nothing fails: slots are inside the map, or `prepare` would have failed.
        self.names.add(names);
        self.install = install;
        let mut fresh = BTreeSet::new();
        for one in prepared {
            tables.set_profile(one.installed.slot, one.descriptor)?;
            fresh.insert(one.name.clone());
            if let Some(old) = self.profiles.insert(one.name, one.installed) {
                self.retire(old);
            }
        }
        if whole {
            warnings.extend(self.remove_others(tables, &fresh, used)?);
        }
        self.settle(tables)?;
        let in_force: BTreeSet<u32> = self.profiles.values().map(|one| one.install).collect();
        self.names.retain(|install| in_force.contains(&install));
        if let Err(error) = self.files.retain(|install| in_force.contains(&install)) {
            tracing::warn!("cannot remove the rules of old installations: {error}");
        }
        Ok(Report { install, warnings })
    }

    /// Takes one profile out of force. Nobody may be under it.
    pub fn remove(&mut self, tables: &mut Tables, name: &str) -> Result<(), Error> {
        if let Some(old) = self.profiles.remove(name) {
            tables.set_profile(old.slot, 0)?;
            self.retire(old);
            self.settle(tables)?;
        }
        Ok(())
    }

    fn slot_for(&self, name: &str, taken: &mut BTreeSet<u32>) -> Result<u32, Error> {
        if let Some(old) = self.profiles.get(name) {
            return Ok(old.slot);
        }
        let slot = (0..limits::PROFILES)
            .find(|slot| !taken.contains(slot))
            .ok_or_else(|| Error::Slots {
                profile: name.to_owned(),
            })?;
        taken.insert(slot);
        Ok(slot)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one step of `install`, with all of its state"
    )]
    fn prepare(
        &mut self,
        tables: &mut Tables,
        profile: &Arc<CompiledProfile>,
        source: &Path,
        slot: u32,
        install: u32,
        resolver: &Resolver,
        warnings: &mut Vec<String>,
    ) -> Result<Prepared, Error> {
        let region = self
            .arena
            .allocate(profile.len_cells())
            .map_err(|source| Error::Arena {
                profile: profile.name.clone(),
                source,
            })?;
        let cells = profile
            .install(region.at, install)
            .into_iter()
            .chain([arena::trailer(region)]);
        let written = tables.arena().write(region.at as usize, cells);
        let literals = literals(profile);
        let wanted = identities(&profile.name, &literals, resolver, warnings);
        let mut inserted = Identities::new();
        let result = match written {
            None => Err(Error::Broken { slot }),
            Some(()) => insert(tables, &wanted, slot, install, &mut inserted),
        };
        let names = ProfileNames {
            slot,
            name: profile.name.clone(),
            description: profile.description.clone(),
            mode: match profile.mode {
                Mode::Enforce => "enforce",
                Mode::Audit => "audit",
            }
            .to_owned(),
            log_first: profile.log_allow == LogAllow::First,
            source: source.to_owned(),
            digest: digest(profile),
            rules: profile
                .rules
                .iter()
                .map(|rule| RuleNames {
                    id: rule.id.clone(),
                    because: rule.because.clone(),
                })
                .collect(),
            literals,
        };
        let prepared = Prepared {
            name: profile.name.clone(),
            descriptor: profile.descriptor(region.at),
            installed: Installed {
                slot,
                install,
                names: Arc::new(names),
                compiled: Some(Arc::clone(profile)),
                region,
                identities: inserted,
            },
        };
        match result {
            Ok(()) => Ok(prepared),
            Err(error) => {
                self.take_back(tables, vec![prepared]);
                Err(error)
            }
        }
    }

    /// Undoes preparations that no slot names.
    fn take_back(&mut self, tables: &mut Tables, prepared: Vec<Prepared>) {
        for one in prepared {
            let installed = one.installed;
            for key in keys(&installed.identities, installed.slot, installed.install) {
                if let Err(error) = tables.remove_identity(key) {
                    tracing::warn!("{error}");
                }
            }
            self.arena.release(installed.region);
        }
    }

    fn remove_others(
        &mut self,
        tables: &Tables,
        fresh: &BTreeSet<String>,
        used: impl Fn(u32) -> bool,
    ) -> Result<Vec<String>, Error> {
        let mut warnings = Vec::new();
        let others: Vec<String> = self
            .profiles
            .keys()
            .filter(|name| !fresh.contains(*name))
            .cloned()
            .collect();
        for name in others {
            let Some(slot) = self.profiles.get(&name).map(|old| old.slot) else {
                continue;
            };
            if used(slot) {
                warnings.push(format!(
                    "profile {name} was removed, but agents are under it: its old rules stay in force for them"
                ));
            } else if let Some(old) = self.profiles.remove(&name) {
                tables.set_profile(slot, 0)?;
                self.retire(old);
            }
        }
        Ok(warnings)
    }

    fn retire(&mut self, old: Installed) {
        self.retired
            .push((old.region, old.slot, old.install, old.identities));
    }

    /// Gives back what was switched away, once no program can still be reading it. Where the kernel
    /// can't tell, it is kept until it can be told.
    fn settle(&mut self, tables: &mut Tables) -> Result<(), Error> {
        if self.retired.is_empty() {
            return Ok(());
        }
        if let Err(error) = bpf::wait_for_grace_period() {
            tracing::warn!(
                "cannot wait for a grace period ({error}); old tables stay in memory until the next reload"
            );
            return Ok(());
        }
        for (region, slot, install, identities) in std::mem::take(&mut self.retired) {
            for key in keys(&identities, slot, install) {
                tables.remove_identity(key)?;
            }
            self.arena.release(region);
        }
        Ok(())
    }

    /// Looks every literal path up again: files are replaced, and appear.
    pub fn refresh(&mut self, tables: &mut Tables) -> Result<(), Error> {
        let resolver = Resolver::new().map_err(|source| Error::Mounts { source })?;
        for (name, profile) in &mut self.profiles {
            let mut ignored = Vec::new();
            let wanted = identities(name, &profile.names.literals, &resolver, &mut ignored);
            insert(
                tables,
                &wanted,
                profile.slot,
                profile.install,
                &mut profile.identities,
            )?;
            let gone: Vec<IdentityOf> = profile
                .identities
                .keys()
                .filter(|of| !wanted.contains_key(of))
                .copied()
                .collect();
            for of in gone {
                tables.remove_identity(key(of, profile.slot, profile.install))?;
                profile.identities.remove(&of);
            }
        }
        Ok(())
    }

    /// The paths whose files have identities.
    pub fn literal_paths(&self) -> impl Iterator<Item = &[u8]> {
        self.profiles
            .values()
            .flat_map(|profile| profile.names.literals.iter())
            .map(|literal| literal.path.as_slice())
    }
}

/// Digest of what the kernel gets of a profile, hex.
fn digest(profile: &CompiledProfile) -> String {
    let mut hasher = blake3::Hasher::new();
    for cell in profile.install(0, 0) {
        hasher.update(&cell.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

fn literals(profile: &CompiledProfile) -> Vec<Literal> {
    profile
        .literals
        .iter()
        .map(|literal| Literal {
            path: literal.path.clone(),
            whole: literal.naming == Naming::Whole,
            rule: literal.rule,
            program: literal.program,
            states: literal.states,
        })
        .collect()
}

/// What each file's identity leads to.
///
/// A file that several literals lead to has room for one of them. Where they belong to the same rule,
/// any will do. Otherwise one that is no canonical path goes first, because the canonical one holds by
/// its name already, and what is left out is said.
fn identities(
    profile: &str,
    literals: &[Literal],
    resolver: &Resolver,
    warnings: &mut Vec<String>,
) -> Identities {
    let mut found: HashMap<IdentityOf, (Identity, &Literal, bool)> = HashMap::new();
    for literal in literals {
        let shown = |literal: &Literal| crate::event::text::decode(&literal.path).0;
        let file = match resolver.resolve(&literal.path, !literal.program) {
            Ok(None) => continue,
            Ok(Some(file)) => file,
            Err(error) => {
                warnings.push(format!(
                    "profile {profile}: {} can't be identified ({error}); it is known by its name alone",
                    shown(literal)
                ));
                continue;
            }
        };
        let identity = Identity {
            states: literal.states,
        };
        match found.entry((file.inode.device, file.inode.number)) {
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert((identity, literal, file.canonical));
            }
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                let (other_identity, other, other_canonical) = *entry.get();
                if identity == other_identity {
                    continue;
                }
                let (kept, left) = match (literal.whole, other.whole) {
                    (true, false) => (literal, other),
                    (false, true) => (other, literal),
                    _ if other_canonical && !file.canonical => (literal, other),
                    _ => (other, literal),
                };
                if left.whole && left.rule != kept.rule {
                    warnings.push(format!(
                        "profile {profile}: {} and {} are the same file under different rules; under a third name only the latter's holds",
                        shown(left),
                        shown(kept)
                    ));
                }
                if std::ptr::eq(kept, literal) {
                    entry.insert((identity, literal, file.canonical));
                }
            }
        }
    }
    found
        .into_iter()
        .map(|(key, (identity, ..))| (key, identity))
        .collect()
}

/// Inserts those that aren't `inserted` yet.
fn insert(
    tables: &mut Tables,
    wanted: &Identities,
    slot: u32,
    install: u32,
    inserted: &mut Identities,
) -> Result<(), Error> {
    for (of, identity) in wanted {
        if inserted.get(of) != Some(identity) {
            tables.insert_identity(key(*of, slot, install), *identity)?;
            inserted.insert(*of, *identity);
        }
    }
    Ok(())
}

fn key((device, inode): IdentityOf, slot: u32, install: u32) -> IdentityKey {
    IdentityKey {
        inode,
        device,
        install,
        profile: slot,
        padding: 0,
    }
}

fn keys(identities: &Identities, slot: u32, install: u32) -> impl Iterator<Item = IdentityKey> {
    identities.keys().map(move |of| key(*of, slot, install))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn literal(path: &Path, whole: bool, rule: u32, state: u32) -> Literal {
        Literal {
            path: path.as_os_str().as_bytes().to_vec(),
            whole,
            rule,
            program: false,
            states: [[state; 4]; 4],
        }
    }

    /// The state that the only file's identity leads to, and how much was warned of.
    fn only(literals: &[Literal]) -> (u32, usize) {
        let resolver = Resolver::new().expect("read");
        let mut warnings = Vec::new();
        let found = identities("p", literals, &resolver, &mut warnings);
        assert_eq!(found.len(), 1);
        let state = found.values().next().map_or(0, |one| one.states[0][0]);
        (state, warnings.len())
    }

    #[test]
    fn a_file_with_two_names_keeps_the_one_that_its_name_does_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("file");
        let link = directory.path().join("link");
        std::fs::write(&file, "").expect("written");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        let none = directory.path().join("none");
        // A folder in front of a pattern gives way to a path that is meant itself.
        let literals = [
            literal(&link, false, 0, 1),
            literal(&file, true, 1, 2),
            literal(&none, true, 2, 3),
        ];
        assert_eq!(only(&literals), (2, 0));
        // Two rules: the canonical name holds as a name.
        let literals = [literal(&file, true, 1, 2), literal(&link, true, 0, 1)];
        assert_eq!(only(&literals), (1, 1));
        // One rule: nothing is lost.
        let literals = [literal(&file, true, 1, 2), literal(&link, true, 1, 1)];
        assert_eq!(only(&literals), (1, 0));
    }

    /// On busybox a program's name leads to all of the others.
    #[test]
    fn a_link_that_only_exec_rules_name_is_not_followed() {
        let directory = tempfile::tempdir().expect("a directory");
        let busybox = directory.path().join("busybox");
        let applet = directory.path().join("nc");
        std::fs::write(&busybox, "").expect("written");
        std::os::unix::fs::symlink(&busybox, &applet).expect("linked");
        let program = |path: &Path, state| Literal {
            program: true,
            ..literal(path, true, 0, state)
        };
        assert_eq!(only(&[program(&applet, 1), program(&busybox, 2)]), (2, 0));
    }
}
