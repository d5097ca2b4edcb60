//! The pin directory: what lies where in the BPF file system, and replacing a pin without a moment in
//! which nothing is pinned. It knows nothing of what the programs do. The directory is never emptied
//! at start: what is pinned there enforces.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use agentguard_common::counter::Hook;

/// Where everything is pinned.
pub const ROOT: &str = "/sys/fs/bpf/agentguard";

/// Suffix of a pin that is about to take another's place. (bpffs reserves names with a dot.)
const NEW: &str = "-new";
/// Prefix of the links of one agent's cgroup.
const AGENT: &str = "agent-";

/// The layout below a root directory.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

/// A failed operation on the pin directory.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub struct Error {
    pub operation: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl Error {
    fn new(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self {
            operation,
            path,
            source,
        }
    }
}

impl Pins {
    /// The layout below `root`, usually [`ROOT`].
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Makes the directories that aren't there yet, for root alone.
    pub fn create(&self) -> Result<(), Error> {
        for path in [
            self.root.clone(),
            self.root.join("maps"),
            self.root.join("progs"),
            self.root.join("links"),
            self.root.join("object"),
        ] {
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => result.map_err(Error::new("make the pin directory", &path))?,
            }
        }
        Ok(())
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.root.join("progs").join(name)
    }

    /// The link of a hook.
    pub fn link(&self, name: &str) -> PathBuf {
        self.root.join("links").join(name)
    }

    /// The link of the hook's program on one agent's cgroup.
    pub fn agent_link(&self, agent: u64, hook: Hook) -> PathBuf {
        let name = format!("{AGENT}{agent}-{}", hook.name());
        self.root.join("links").join(name)
    }

    /// The agents that have links, by number.
    pub fn agents(&self) -> Result<BTreeSet<u64>, Error> {
        let names = names(&self.root.join("links"))?;
        Ok(names
            .iter()
            .filter_map(|name| name.strip_prefix(AGENT)?.split('-').next()?.parse().ok())
            .collect())
    }

    /// Lets go of the links on one agent's cgroup.
    pub fn remove_agent(&self, agent: u64) -> Result<(), Error> {
        Hook::OF_CGROUPS
            .iter()
            .try_for_each(|hook| Self::remove(&self.agent_link(agent, *hook)))
    }

    /// Every pinned link, by name, without those that were about to replace another.
    pub fn links(&self) -> Result<Vec<String>, Error> {
        let mut names = names(&self.root.join("links"))?;
        names.retain(|name| !name.ends_with(NEW));
        Ok(names)
    }

    /// The digest of the object that all links run, if they all run the same.
    pub fn object(&self) -> Result<Option<String>, Error> {
        Ok(names(&self.root.join("object"))?.pop())
    }

    /// Says that the links no longer all run the same object. Comes before the first is replaced.
    pub fn forget_object(&self) -> Result<(), Error> {
        let directory = self.root.join("object");
        for name in names(&directory)? {
            let path = directory.join(name);
            fs::remove_dir(&path).map_err(Error::new("remove the mark", &path))?;
        }
        Ok(())
    }

    /// Says that all links run the object with this digest. Comes after the last was replaced.
    pub fn remember_object(&self, digest: &str) -> Result<(), Error> {
        let path = self.root.join("object").join(digest);
        fs::create_dir(&path).map_err(Error::new("make the mark", &path))
    }

    /// Whether nothing was ever pinned here.
    pub fn is_empty(&self) -> Result<bool, Error> {
        Ok(names(&self.root.join("maps"))?.is_empty())
    }

    /// Pins with `pin` next to `path`, then lets the new pin take the old one's place in one step.
    /// Of two pins of links, both enforce in between, and the stricter verdict wins.
    pub fn replace<E: From<Error>>(
        path: &Path,
        pin: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut name = path.as_os_str().to_owned();
        name.push(NEW);
        let new = PathBuf::from(name);
        // What a crash may have left; the pin it was to replace is still there.
        match fs::remove_file(&new) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(Error::new("remove the unfinished pin", &new))?,
        }
        pin(&new)?;
        fs::rename(&new, path).map_err(Error::new("replace the pin", path))?;
        Ok(())
    }

    /// Removes one pin; it is fine when there is none.
    pub fn remove(path: &Path) -> Result<(), Error> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(Error::new("remove the pin", path)),
        }
    }

    /// Removes everything, links first: enforcement ends here.
    pub fn remove_all(&self) -> Result<(), Error> {
        self.forget_object()?;
        for directory in ["links", "progs", "maps"] {
            let directory = self.root.join(directory);
            for name in names(&directory)? {
                Self::remove(&directory.join(name))?;
            }
        }
        for directory in ["links", "progs", "maps", "object", ""] {
            let path = self.root.join(directory);
            match fs::remove_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.map_err(Error::new("remove the pin directory", &path))?,
            }
        }
        Ok(())
    }
}

/// The names in a directory; none when it isn't there.
fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(Error::new("list", directory))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::new("list", directory))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(text: &'static str) -> impl FnOnce(&Path) -> Result<(), Error> {
        move |path| fs::write(path, text).map_err(Error::new("write", path))
    }

    #[test]
    fn a_pin_is_replaced_even_after_a_crash_in_between() {
        let directory = tempfile::tempdir().expect("a directory");
        let pins = Pins::new(directory.path().join("agentguard"));
        pins.create().expect("created");
        let path = pins.link("file_open");
        Pins::replace(&path, pin("first")).expect("pinned");
        fs::write(pins.link("file_open-new"), "left over").expect("written");
        assert_eq!(pins.links().expect("listed"), ["file_open"]);
        Pins::replace(&path, pin("second")).expect("replaced");
        assert_eq!(fs::read_to_string(&path).expect("read"), "second");
        assert!(!pins.link("file_open-new").exists());
    }

    #[test]
    fn the_mark_goes_before_and_comes_after() {
        let directory = tempfile::tempdir().expect("a directory");
        let pins = Pins::new(directory.path().join("agentguard"));
        pins.create().expect("created");
        pins.create().expect("a second time is fine");
        assert_eq!(pins.object().expect("read"), None);
        pins.remember_object("abc").expect("marked");
        assert_eq!(pins.object().expect("read").as_deref(), Some("abc"));
        pins.forget_object().expect("unmarked");
        assert_eq!(pins.object().expect("read"), None);
    }

    #[test]
    fn removing_everything_leaves_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().join("agentguard");
        let pins = Pins::new(&root);
        pins.create().expect("created");
        for hook in Hook::OF_CGROUPS {
            fs::write(pins.agent_link(7, hook), "").expect("written");
        }
        fs::write(pins.map("TAGS"), "").expect("written");
        assert_eq!(pins.agents().expect("listed"), BTreeSet::from([7]));
        pins.remove_agent(7).expect("removed");
        assert!(pins.agents().expect("listed").is_empty());
        assert!(!pins.is_empty().expect("listed"));
        pins.remove_all().expect("removed");
        assert!(!root.exists());
    }
}
