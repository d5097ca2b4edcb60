//! What a case is, where it is played, and how its result travels from the guest. No case is here.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::bench::Bench;

/// Where a case is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scene {
    /// Beside others, under one daemon that it leaves as it found it.
    Shared,
    /// In the same guest after those. No daemon runs when it begins or ends; what earlier ones loaded may be
    /// in the kernel ([`crate::daemon::unload`] takes it out).
    OwnDaemon,
    /// In a guest of its own, with nothing of AgentGuard in the kernel when it begins.
    OwnBoot {
        /// More words for the kernel's command line.
        append: &'static str,
        root: Root,
    },
}

/// What a guest runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Root {
    Memory,
    Systemd,
}

/// One thing that must be so on every kernel.
#[derive(Clone)]
pub struct Case {
    /// `subject::what_must_be_so`.
    pub name: String,
    pub scene: Scene,
    /// The case's profile without version and name; `{dir}` stands for the case's own folder.
    pub policy: String,
    /// That of a second profile, named as the first with `.2` after it.
    pub second: Option<String>,
    /// Longest it may take.
    pub limit: Duration,
    prepare: fn(&Path) -> Result<()>,
    play: Arc<Play>,
}

/// How a case is played.
type Play = dyn Fn(&mut Bench) -> Result<()> + Send + Sync;

/// What is assumed of a profile that says nothing of its `[default]`.
const DEFAULT: &str = r#"
[default]
file = "allow"
exec = "allow"
connect = "deny"
listen = "deny"
"#;

impl Case {
    /// A shared case without rules.
    pub fn new(name: &str, play: fn(&mut Bench) -> Result<()>) -> Self {
        Self::closure(name, play)
    }

    /// A shared case that is made of data.
    pub fn with(name: &str, what: &str, play: fn(&mut Bench, &str) -> Result<()>) -> Self {
        let what = what.to_owned();
        Self::closure(name, move |bench| play(bench, &what))
    }

    /// The same as [`new`](Self::new), with a play that knows more than its bench.
    pub fn closure(
        name: &str,
        play: impl Fn(&mut Bench) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.to_owned(),
            scene: Scene::Shared,
            policy: String::new(),
            second: None,
            limit: Duration::from_secs(180),
            prepare: |_| Ok(()),
            play: Arc::new(play),
        }
    }

    #[must_use]
    pub fn scene(mut self, scene: Scene) -> Self {
        self.scene = scene;
        self
    }

    /// The case's profile; what it doesn't say of `[default]` is that files and programs are allowed and
    /// the network isn't.
    #[must_use]
    pub fn policy(mut self, policy: &str) -> Self {
        self.policy = policy.to_owned();
        self
    }

    /// A second profile.
    #[must_use]
    pub fn second(mut self, policy: &str) -> Self {
        self.second = Some(policy.to_owned());
        self
    }

    /// Makes files in the case's own folder before the policy is loaded, so that rules can name them.
    #[must_use]
    pub fn prepare(mut self, prepare: fn(&Path) -> Result<()>) -> Self {
        self.prepare = prepare;
        self
    }

    #[must_use]
    pub fn limit(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// The name as profiles, agents and folders can have it: at most 64 bytes.
    pub fn slug(&self) -> String {
        let slug = self.name.replace("::", "-").replace('_', "-");
        let slug = slug.to_ascii_lowercase();
        slug[..slug.len().min(56)].to_owned()
    }

    /// The files of the case's profiles, by name.
    pub fn profiles(&self, dir: &Path) -> Vec<(String, String)> {
        let slug = self.slug();
        let mut profiles = vec![(slug.clone(), &self.policy)];
        profiles.extend(self.second.as_ref().map(|text| (format!("{slug}.2"), text)));
        let whole = |(name, text): (String, &String)| {
            let default = if text.contains("[default]") {
                ""
            } else {
                DEFAULT
            };
            let text = text.replace("{dir}", &dir.display().to_string());
            let whole = format!("version = 1\nname = \"{name}\"\n{text}{default}");
            (name, whole)
        };
        profiles.into_iter().map(whole).collect()
    }

    /// # Errors
    /// When a file of the case can't be made.
    pub fn make_files(&self, dir: &Path) -> Result<()> {
        (self.prepare)(dir)
    }

    /// # Errors
    /// What is not as it must be.
    pub fn play(&self, bench: &mut Bench) -> Result<()> {
        (self.play)(bench)
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("name", &self.name)
            .field("scene", &self.scene)
            .finish_non_exhaustive()
    }
}

/// How a case went: one line of what the guest's program says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    pub name: String,
    pub ok: bool,
    /// What was not as it must be.
    pub message: String,
    pub millis: u64,
}
