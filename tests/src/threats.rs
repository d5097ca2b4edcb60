//! The threats that are known, what closes each of them, and the cases that show it: one folder per threat in
//! `tests/attacks/`. The attack, its permitted twin and the events that are expected are the cases' code.
//!
//! ```toml
//! title = "Unlinking, renaming or unmounting the pins"
//! status = "closed"
//! closes = ["path_unlink", "capable"]
//! cases = ["system::bpf"]
//! ```

use std::{fmt::Write as _, io, path::Path};

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
    /// The hooks, or what else closes it.
    pub closes: Vec<String>,
    /// Kernel tests that show it, on every kernel. None only where nothing is closed.
    #[serde(default)]
    pub cases: Vec<String>,
    /// What remains, or why it can't be closed.
    pub note: Option<String>,
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
    let folder = root.join(FOLDER);
    let failed = |path: &Path, error| Error::Read {
        path: path.display().to_string(),
        error,
    };
    let mut threats = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(|error| failed(&folder, error))? {
        let path = entry
            .map_err(|error| failed(&folder, error))?
            .path()
            .join("threat.toml");
        let text = std::fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
        let mut threat: Threat = toml::from_str(&text).map_err(|error| Error::Parse {
            path: path.display().to_string(),
            error,
        })?;
        threat.id = path
            .parent()
            .and_then(Path::file_name)
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        threats.push(threat);
    }
    threats.sort_by_key(|threat| {
        let (kind, number) = threat.id.split_at(1);
        let kind = KINDS.iter().position(|(letter, _)| *letter == kind);
        (kind, number.parse::<u32>().unwrap_or(u32::MAX))
    });
    Ok(threats)
}

/// The letters of the threats, in the order of the table.
const KINDS: [(&str, &str); 5] = [
    ("M", "The machinery of enforcement itself"),
    ("I", "Leaving the cgroup, acting through others"),
    ("F", "Files and paths"),
    ("X", "Programs"),
    ("N", "Network"),
];

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
            "\n## {title}\n\n| | threat | status | closed by | tests | what remains |\n| --- | --- | --- | --- | --- | --- |\n"
        );
        for threat in threats
            .iter()
            .filter(|threat| threat.id.starts_with(letter))
        {
            let list = |names: &[String]| {
                let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
                quoted.join(", ")
            };
            let status = match threat.status {
                Status::Closed => "closed",
                Status::Narrowed => "narrowed",
                Status::Open => "open",
            };
            let _ = writeln!(
                text,
                "| {} | {} | {status} | {} | {} | {} |",
                threat.id,
                threat.title,
                threat.closes.join(", "),
                list(&threat.cases),
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
    const KNOWN: [(&str, u32); 5] = [("M", 18), ("I", 22), ("F", 23), ("X", 14), ("N", 21)];

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
            for name in &threat.cases {
                assert!(
                    cases.iter().any(|case| case.name == *name),
                    "{}: there is no case {name}",
                    threat.id
                );
            }
            match threat.status {
                Status::Closed => assert!(!threat.cases.is_empty(), "{}", threat.id),
                Status::Narrowed | Status::Open => assert!(threat.note.is_some(), "{}", threat.id),
            }
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
        assert_eq!(
            written, table,
            "run UPDATE_DOCS=1 cargo test -p agentguard-tests"
        );
    }
}
