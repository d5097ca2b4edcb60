//! The threats that are known, what closes each of them, and the cases that show it: one folder per threat in
//! `tests/attacks/`. The attack and its permitted twin are `attack.py` beside this, which `play.py` plays, and the
//! events that must come of it are here; what takes more than one process or a kernel of its own is a case in Rust.
//!
//! ```toml
//! title = "Hard links"
//! status = "closed"
//! closes = ["identities", "path_link"]
//! cases = ["file::hard_link_made_outside"]
//!
//! [attack]
//! rules = '''
//! [[deny]]
//! id = "keys"
//! file = "{dir}/keys/**"
//! '''
//!
//! [[attack.event]]
//! action = "file.link"
//! rule = "keys"
//! ```

use std::{collections::BTreeMap, fmt::Write as _, io, path::Path};

use serde::Deserialize;

/// Where the threats are, from the root of the repository.
pub const FOLDER: &str = "tests/attacks";

/// One threat.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threat {
    /// The folder's name: a letter for the kind and a number, as in the table.
    #[serde(skip)]
    pub id: String,
    pub title: String,
    pub status: Status,
    /// Where it is another on some kernels, by their names.
    #[serde(default)]
    pub on: BTreeMap<String, Status>,
    /// The hooks, or what else closes it.
    pub closes: Vec<String>,
    /// Kernel tests that show it, on every kernel. None only where nothing is closed.
    #[serde(default)]
    pub cases: Vec<String>,
    /// What remains, or why it can't be closed.
    pub note: Option<String>,
    /// What the attack beside this needs.
    pub attack: Option<Attack>,
}

/// How `attack.py` is played.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attack {
    /// The profile, without version and name; `{dir}` stands for the attack's own folder.
    #[serde(default)]
    pub rules: String,
    /// Who tries it.
    #[serde(default = "Attack::users")]
    pub users: Vec<User>,
    /// How the attacker becomes an agent.
    #[serde(default)]
    pub way: Way,
    /// Something that is nobody's agent runs beside it.
    #[serde(default)]
    pub beside: bool,
    /// Why it isn't tried by somebody who is nobody's agent, for whom it must work otherwise.
    pub not_outside: Option<String>,
    /// What must be in the log.
    #[serde(default)]
    pub event: Vec<Event>,
}

impl Attack {
    fn users() -> Vec<User> {
        vec![User::Root, User::Agent]
    }
}

/// The users of the guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum User {
    Root,
    Agent,
}

/// How a process becomes an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// `agentguard run` starts it.
    #[default]
    Run,
    /// It is moved into a cgroup that is tagged.
    Moved,
    /// The cgroup that it is in is tagged.
    Tagged,
    /// As that, and the tag is what refuses.
    TagRefuses,
}

/// An event that must be in the log, as far as it is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    pub action: String,
    #[serde(default = "Event::verdict")]
    pub verdict: String,
    pub rule: Option<String>,
    pub reason: Option<String>,
    /// `{dir}` stands for the attack's own folder.
    pub path: Option<String>,
    /// Only of this user: what the kernel refuses to everybody but root comes to no hook of others.
    pub user: Option<User>,
}

impl Event {
    fn verdict() -> String {
        String::from("deny")
    }
}

impl Threat {
    /// What is done about it on a kernel.
    pub fn status_on(&self, kernel: &str) -> Status {
        self.on.get(kernel).copied().unwrap_or(self.status)
    }

    /// Every case that shows it.
    pub fn all_cases(&self) -> Vec<String> {
        let own = self.attack.iter().map(|_| format!("attack::{}", self.id));
        own.chain(self.cases.iter().cloned()).collect()
    }
}

/// What is done about a threat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It doesn't work.
    Closed,
    /// Some of it doesn't work; the note says what does.
    Narrowed,
    /// It works; the note says why.
    Open,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Narrowed => "narrowed",
            Self::Open => "open",
        }
    }
}

/// Why the threats can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path}: {error}")]
    Read { path: String, error: io::Error },
    #[error("{path}: {error}")]
    Parse {
        path: String,
        error: toml::de::Error,
    },
}

/// Reads every threat below the root of the repository, in the order of the table.
///
/// # Errors
/// When a folder or its file can't be read.
pub fn read_all(root: &Path) -> Result<Vec<Threat>, Error> {
    read_folder(&root.join(FOLDER))
}

/// Reads every threat of a folder.
///
/// # Errors
/// When a folder or its file can't be read.
pub fn read_folder(folder: &Path) -> Result<Vec<Threat>, Error> {
    let failed = |path: &Path, error| Error::Read {
        path: path.display().to_string(),
        error,
    };
    let mut threats = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| failed(folder, error))? {
        let entry = entry.map_err(|error| failed(folder, error))?.path();
        let name = entry.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        if !entry.is_dir() || name.starts_with('_') {
            continue;
        }
        threats.push(read(&entry)?);
    }
    threats.sort_by_key(|threat| {
        let (kind, number) = threat.id.split_at(1);
        let kind = KINDS.iter().position(|(letter, _)| *letter == kind);
        (kind, number.parse::<u32>().unwrap_or(u32::MAX))
    });
    Ok(threats)
}

/// Reads the threat that a folder is of.
///
/// # Errors
/// When its file can't be read.
pub fn read(folder: &Path) -> Result<Threat, Error> {
    let path = folder.join("threat.toml");
    let text = std::fs::read_to_string(&path).map_err(|error| Error::Read {
        path: path.display().to_string(),
        error,
    })?;
    let mut threat: Threat = toml::from_str(&text).map_err(|error| Error::Parse {
        path: path.display().to_string(),
        error,
    })?;
    let name = folder.file_name().unwrap_or_default();
    threat.id = name.to_string_lossy().into_owned();
    Ok(threat)
}

/// The letters of the threats, in the order of the table.
const KINDS: [(&str, &str); 7] = [
    ("M", "The machinery of enforcement itself"),
    ("I", "Leaving the cgroup, acting through others"),
    ("F", "Files and paths"),
    ("X", "Programs"),
    ("N", "Network"),
    ("B", "Ways out of other sandboxes for agents"),
    ("P", "What other enforcers got wrong"),
];

/// The kernels of the matrix.
const KERNELS: [&str; 3] = ["6.1", "6.12", "6.18"];

/// The table, in Markdown. `docs/threats.md` is this text; a test compares them.
pub fn document(threats: &[Threat]) -> String {
    let mut text = String::from(
        "# Threats: every way out that is known\n\n\
         Each is a folder of `tests/attacks/` and is tried by `cargo xtask attack ID` on Linux 6.1, 6.12 and 6.18, with\n\
         an ordinary action beside it that must go through, and the event that must be in the log. *closed*: it doesn't\n\
         work; *narrowed*: the last column says what still does; *open*: it works, and the last column says why.\n\n\
         Nothing here stops an exploit of the kernel itself, content that is sent over a connection that a rule\n\
         allows, or a permitted change to a file that turns out to be a bad one.\n",
    );
    for (letter, title) in KINDS {
        let _ = write!(
            text,
            "\n## {title}\n\n| | threat | {} | closed by | tests | what remains |\n|{}\n",
            KERNELS.join(" | "),
            " --- |".repeat(KERNELS.len() + 5)
        );
        for threat in threats
            .iter()
            .filter(|threat| threat.id.starts_with(letter))
        {
            let list = |names: &[String]| {
                let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
                quoted.join(", ")
            };
            let status = KERNELS
                .map(|kernel| threat.status_on(kernel).word())
                .join(" | ");
            let _ = writeln!(
                text,
                "| {} | {} | {status} | {} | {} | {} |",
                threat.id,
                threat.title,
                threat.closes.join(", "),
                list(&threat.all_cases()),
                threat.note.as_deref().unwrap_or_default()
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many there are of each kind.
    const KNOWN: [(&str, u32); 7] = [
        ("M", 19),
        ("I", 23),
        ("F", 23),
        ("X", 15),
        ("N", 21),
        ("B", 23),
        ("P", 12),
    ];

    fn root() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
    }

    #[test]
    fn every_threat_is_there_and_what_is_said_of_it_is_tested() {
        let threats = read_all(root()).expect("the threats can be read");
        let cases = crate::cases::all();
        for (kind, count) in KNOWN {
            for number in 1..=count {
                let id = format!("{kind}{number}");
                assert!(threats.iter().any(|threat| threat.id == id), "{id}");
            }
        }
        for threat in &threats {
            for name in &threat.all_cases() {
                assert!(
                    cases.iter().any(|case| case.name == *name),
                    "{}: there is no case {name}",
                    threat.id
                );
            }
            for kernel in KERNELS {
                match threat.status_on(kernel) {
                    Status::Closed => assert!(!threat.all_cases().is_empty(), "{}", threat.id),
                    Status::Narrowed | Status::Open => {
                        assert!(threat.note.is_some(), "{}", threat.id);
                    }
                }
            }
            for kernel in threat.on.keys() {
                assert!(KERNELS.contains(&&**kernel), "{}: {kernel}", threat.id);
            }
            let script = root().join(FOLDER).join(&threat.id).join("attack.py");
            assert_eq!(threat.attack.is_some(), script.exists(), "{}", threat.id);
        }
    }

    /// `UPDATE_DOCS=1 cargo test` writes it anew.
    #[test]
    fn the_table_is_what_the_folders_say() {
        let path = root().join("docs/threats.md");
        let table = document(&read_all(root()).expect("the threats can be read"));
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &table).expect("written");
        }
        let written = std::fs::read_to_string(&path).expect("docs/threats.md");
        assert!(
            written == table,
            "run UPDATE_DOCS=1 cargo test -p agentguard-tests"
        );
    }
}
