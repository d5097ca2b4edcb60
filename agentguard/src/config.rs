//! The daemon's configuration file, `/etc/agentguard/agentguard.toml`. Policies are not in it.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    net::IpAddr,
    num::NonZero,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use agentguard_common::limits;
use serde::Deserialize;

use crate::{api, pins, sink::Rotation};

/// Where the file is looked for; it need not exist.
pub const PATH: &str = "/etc/agentguard/agentguard.toml";

/// Fewest cells of the arena: below that not even the profiles that are shipped fit.
const MIN_ARENA_CELLS: u32 = 1 << 16;
/// Most cells of the arena: half a gibibyte.
const MAX_ARENA_CELLS: u32 = 1 << 26;

/// How long whoever is told of a request can be given to answer.
const ANSWER_MIN: Duration = Duration::from_secs(1);
const ANSWER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How old a file of the log can be made to grow, and how seldom the journal can be told where the log ends.
const AGE_MIN: Duration = Duration::from_secs(60);
const AGE_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);
const HEADS_MIN: Duration = Duration::from_secs(1);
const HEADS_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an answer of a resolver can be made to count.
const LIFETIME_MIN: Duration = Duration::from_secs(1);
const LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

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
    pub approvals: Approvals,
    pub hosts: Hosts,
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
    /// The file is closed and the next one begun when it has so many MiB, or when its first event is so old.
    pub rotate_mib: NonZero<u32>,
    #[serde(deserialize_with = "age")]
    pub rotate_after: Duration,
    /// Closed files that are kept; the oldest beyond them are removed, and the log says so. All are kept if it isn't
    /// said.
    pub keep: Option<usize>,
    /// How often the journal is told where the log ends.
    #[serde(deserialize_with = "heads")]
    pub heads_every: Duration,
}

impl Log {
    /// The same for the sinks.
    pub fn rotation(&self) -> Rotation {
        Rotation {
            max_bytes: u64::from(self.rotate_mib.get()) << 20,
            max_age: self.rotate_after,
            keep: self.keep,
            heads_every: self.heads_every,
        }
    }
}

/// `[approvals]`: who is told of an action that waits, beside those who look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Approvals {
    /// A program with its arguments. It is run as root for each request, which it reads as JSON from its standard
    /// input. Its exit status is an answer only with `answer_within`: 0 is a yes, 1 a no.
    pub notify: Vec<String>,
    /// Where each request is sent as JSON: `unix:PATH` (HTTP over that socket) or `http://HOST[:PORT]/PATH`. What
    /// comes back is an answer only with `answer_within`, and only over a socket.
    pub webhook: Option<Webhook>,
    /// Takes what comes in this time for an answer. Without it, who is told can't answer.
    #[serde(deserialize_with = "answer")]
    pub answer_within: Option<Duration>,
}

/// `[hosts]`: how names are looked up for agents whose profile has rules about hosts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hosts {
    /// The resolvers that are asked, on port 53. Those of `/etc/resolv.conf` where there are none.
    pub resolvers: Vec<IpAddr>,
    /// An answer counts for at least this long, and at most: programs keep what they were answered for longer than
    /// they should, and who answers must not choose for how long.
    #[serde(deserialize_with = "lifetime")]
    pub min_lifetime: Duration,
    #[serde(deserialize_with = "lifetime")]
    pub max_lifetime: Duration,
    /// Leaves connections open that a new policy doesn't allow any more; no packet of them leaves. Without it they
    /// are ended at once.
    pub keep_connections: bool,
}

impl Default for Hosts {
    fn default() -> Self {
        Self {
            resolvers: Vec::new(),
            min_lifetime: Duration::from_secs(60),
            max_lifetime: Duration::from_secs(60 * 60),
            keep_connections: false,
        }
    }
}

/// Where requests are sent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Webhook {
    Unix(PathBuf),
    /// Host with its port, and path. Whoever sits between could answer, so nothing that comes back is believed.
    Http {
        authority: String,
        path: String,
    },
}

impl TryFrom<String> for Webhook {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        if text.starts_with("https:") {
            return Err(
                "https isn't spoken here; name a program in approvals.notify that sends it"
                    .to_owned(),
            );
        }
        let Some(rest) = text.strip_prefix("http://") else {
            return Err(format!(
                "{text:?} is neither unix:PATH nor http://HOST/PATH"
            ));
        };
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let whole = !host.is_empty() && !host.contains('@');
        let path = if path.is_empty() { "/" } else { path };
        match path.parse::<axum::http::Uri>() {
            Ok(_) if whole => {
                let has_port = host.rfind(':') > host.rfind(']');
                Ok(Self::Http {
                    authority: if has_port {
                        host.to_owned()
                    } else {
                        format!("{host}:80")
                    },
                    path: path.to_owned(),
                })
            }
            _ => Err(format!(
                "{text:?} is no address that a request can be sent to"
            )),
        }
    }
}

impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Http { authority, path } => write!(f, "http://{authority}{path}"),
        }
    }
}

/// A duration as policies write it, which is no longer and no shorter than can be meant.
fn within<'de, D: serde::Deserializer<'de>>(
    from: D,
    range: RangeInclusive<Duration>,
    wanted: &str,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| range.contains(duration))
        .ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no {wanted}")))
}

/// How long an answer of a resolver counts.
fn lifetime<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let wanted = "lifetime of an answer; write one such as \"60s\", from \"1s\" to \"168h\"";
    within(from, LIFETIME_MIN..=LIFETIME_MAX, wanted)
}

/// How long whoever is told of a request may take.
fn answer<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let wanted = "time to answer in; write one such as \"30s\", from \"1s\" to \"24h\"";
    within(from, ANSWER_MIN..=ANSWER_MAX, wanted).map(Some)
}

/// How old a file of the log grows.
fn age<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let wanted = "age of a file; write one such as \"24h\", from \"1m\" to \"8784h\"";
    within(from, AGE_MIN..=AGE_MAX, wanted)
}

/// How often the journal is told.
fn heads<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let wanted = "time between two heads; write one such as \"1m\", from \"1s\" to \"24h\"";
    within(from, HEADS_MIN..=HEADS_MAX, wanted)
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
            approvals: Approvals::default(),
            hosts: Hosts::default(),
            slices: BTreeMap::new(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            dir: "/var/log/agentguard".into(),
            backlog: 65_536,
            rotate_mib: NonZero::new(128).expect("not zero"),
            rotate_after: Duration::from_secs(24 * 60 * 60),
            keep: None,
            heads_every: Duration::from_secs(60),
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
        let hosts = &config.hosts;
        if hosts.min_lifetime > hosts.max_lifetime {
            return wrong("hosts.min_lifetime is longer than hosts.max_lifetime".to_owned());
        }
        let approvals = &config.approvals;
        let can_answer =
            !approvals.notify.is_empty() || matches!(approvals.webhook, Some(Webhook::Unix(_)));
        if approvals.answer_within.is_some() && !can_answer {
            return wrong(
                "approvals.answer_within without anything that may answer: a program in approvals.notify, or an \
                 approvals.webhook that is unix:PATH (over http:// anybody on the way could)"
                    .to_owned(),
            );
        }
        let program = approvals.notify.first().map(PathBuf::from);
        let socket = match &approvals.webhook {
            Some(Webhook::Unix(path)) => Some(path),
            _ => None,
        };
        for path in program.iter().chain(socket).chain([
            &config.policies,
            &config.socket,
            &config.state,
            &config.pins,
            &config.log.dir,
        ]) {
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
            rotate_mib = 7
            rotate_after = "1h"
            keep = 3
            heads_every = "10s"
            [approvals]
            notify = ["/bin/ask", "-x"]
            webhook = "http://127.0.0.1:8080/ask?x=1"
            answer_within = "1m 30s"
            [slices]
            agents-coding = "coding"
            "#,
        )
        .expect("parsed");
        assert_eq!(config.log.dir, Path::new("/l"));
        assert_eq!(
            config.log.rotation(),
            Rotation {
                max_bytes: 7 << 20,
                max_age: Duration::from_secs(3600),
                keep: Some(3),
                heads_every: Duration::from_secs(10),
            }
        );
        assert_eq!(config.slices["agents-coding"], "coding");
        assert_eq!(config.approvals.notify, ["/bin/ask", "-x"]);
        assert_eq!(
            config.approvals.answer_within,
            Some(Duration::from_secs(90))
        );
        let webhook = config.approvals.webhook.expect("a webhook");
        assert_eq!(webhook.to_string(), "http://127.0.0.1:8080/ask?x=1");
    }

    #[test]
    fn webhooks_have_a_port_and_a_path() {
        for (text, meant) in [
            ("http://a", "http://a:80/"),
            ("http://[::1]/x", "http://[::1]:80/x"),
            ("http://[::1]:7/x", "http://[::1]:7/x"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
        ] {
            let webhook = Webhook::try_from(text.to_owned()).expect(text);
            assert_eq!(webhook.to_string(), meant);
        }
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
            ("[log]\nrotate_mib = 0", "nonzero"),
            ("[log]\nrotate_after = \"1s\"", "no age of a file"),
            ("[log]\nheads_every = \"0s\"", "no time between"),
            ("[approvals]\nnotify = [\"ask\"]", "not absolute"),
            ("[approvals]\nwebhook = \"unix:a\"", "not absolute"),
            (
                "[approvals]\nwebhook = \"https://a/\"",
                "https isn't spoken",
            ),
            ("[approvals]\nwebhook = \"ftp://a/\"", "neither"),
            ("[approvals]\nwebhook = \"http:///x\"", "no address"),
            ("[approvals]\nwebhook = \"http://a/ b\"", "no address"),
            (
                "[approvals]\nanswer_within = \"30s\"",
                "anything that may answer",
            ),
            (
                "[approvals]\nwebhook = \"http://a/\"\nanswer_within = \"30s\"",
                "anybody on the way",
            ),
            (
                "[approvals]\nnotify = [\"/a\"]\nanswer_within = \"0s\"",
                "no time to answer",
            ),
        ] {
            let message = parse(text).expect_err(text).to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
