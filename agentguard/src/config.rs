//! The daemon's configuration file, `/etc/agentguard/agentguard.toml`. Policies are not in it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use agentguard_common::limits;
use serde::Deserialize;

use crate::{api, pins};

/// Where the file is looked for; it need not exist.
pub const PATH: &str = "/etc/agentguard/agentguard.toml";

/// Fewest cells of the arena: below that not even the profiles that are shipped fit.
const MIN_ARENA_CELLS: u32 = 1 << 16;
/// Most cells of the arena: half a gibibyte.
const MAX_ARENA_CELLS: u32 = 1 << 26;

/// Why the configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot understand the configuration {}: {source}", path.display())]
    Parse {
        path: PathBuf,
        source: toml::de::Error,
    },
    #[error("wrong value in the configuration {}: {problem}", path.display())]
    Value { path: PathBuf, problem: String },
}

/// The configuration, every key with a default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder with the policies.
    pub policies: PathBuf,
    /// The API's socket.
    pub socket: PathBuf,
    /// Where the daemon keeps what it needs after a restart, but not after a reboot.
    pub state: PathBuf,
    /// The pin directory, in a BPF file system.
    pub pins: PathBuf,
    /// Members of this group may read over the API.
    pub group: String,
    /// Cells of 8 bytes in the arena that holds the compiled policies, two generations of them.
    pub arena_cells: u32,
    pub log: Log,
    /// Profile of the agents in a systemd slice, by the slice's name without `.slice`.
    pub slices: BTreeMap<String, String>,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// The folder of `events.jsonl`.
    pub dir: PathBuf,
    /// Events that are kept in memory while the log can't be written.
    pub backlog: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policies: "/etc/agentguard/policies".into(),
            socket: api::SOCKET.into(),
            state: "/run/agentguard".into(),
            pins: pins::ROOT.into(),
            group: "agentguard".to_owned(),
            arena_cells: limits::ARENA_CELLS,
            log: Log::default(),
            slices: BTreeMap::new(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            dir: "/var/log/agentguard".into(),
            backlog: 65_536,
        }
    }
}

impl Config {
    /// Reads the file. One that isn't there means the defaults, unless it was `named` by the user.
    pub fn read(path: &Path, named: bool) -> Result<Self, Error> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !named => {
                return Ok(Self::default());
            }
            result => result.map_err(|source| Error::Read {
                path: path.to_owned(),
                source,
            })?,
        };
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let config: Self = toml::from_str(text).map_err(|source| Error::Parse {
            path: path.to_owned(),
            source,
        })?;
        let wrong = |problem: String| {
            Err(Error::Value {
                path: path.to_owned(),
                problem,
            })
        };
        if !(MIN_ARENA_CELLS..=MAX_ARENA_CELLS).contains(&config.arena_cells) {
            return wrong(format!(
                "arena_cells is {}, not between {MIN_ARENA_CELLS} and {MAX_ARENA_CELLS}",
                config.arena_cells
            ));
        }
        if config.log.backlog == 0 {
            return wrong("log.backlog is 0; at least one event must be kept".to_owned());
        }
        for path in [
            &config.policies,
            &config.socket,
            &config.state,
            &config.pins,
            &config.log.dir,
        ] {
            if !path.is_absolute() {
                return wrong(format!("the path {} is not absolute", path.display()));
            }
        }
        for slice in config.slices.keys() {
            if slice.ends_with(".slice") {
                return wrong(format!(
                    "the slice {slice} is to be written without \".slice\""
                ));
            }
            if slice.is_empty() || slice.contains('/') || slice.starts_with(['-', '.']) {
                return wrong(format!("{slice:?} can't be the name of a slice"));
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Error> {
        Config::parse(Path::new("agentguard.toml"), text)
    }

    #[test]
    fn nothing_written_means_the_defaults() {
        assert_eq!(parse("").expect("parsed"), Config::default());
        let missing = Path::new("/nonexistent/agentguard.toml");
        assert_eq!(
            Config::read(missing, false).expect("defaults"),
            Config::default()
        );
        assert!(matches!(
            Config::read(missing, true),
            Err(Error::Read { .. })
        ));
    }

    #[test]
    fn every_key_can_be_written() {
        let config = parse(
            r#"
            policies = "/p"
            socket = "/s"
            state = "/t"
            pins = "/b"
            group = "g"
            arena_cells = 131072
            [log]
            dir = "/l"
            backlog = 5
            [slices]
            agents-coding = "coding"
            "#,
        )
        .expect("parsed");
        assert_eq!(config.log.dir, Path::new("/l"));
        assert_eq!(config.slices["agents-coding"], "coding");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("colour = 1", "unknown field `colour`"),
            ("[log]\nsize = 1", "unknown field `size`"),
            ("arena_cells = 12", "arena_cells is 12"),
            ("socket = \"s\"", "not absolute"),
            ("[slices]\n\"a.slice\" = \"x\"", "without \".slice\""),
            ("[slices]\n\"a/b\" = \"x\"", "can't be the name"),
            ("[log]\nbacklog = 0", "backlog"),
        ] {
            let message = parse(text).expect_err(text).to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
