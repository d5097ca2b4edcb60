//! Conformance cases as data: questions to a profile and the verdicts that must come out, in the
//! simulator and on every kernel. Who asks them is each runner's business; nothing here knows of
//! AgentGuard's code.
//!
//! A case file (`tests/cases/*.toml`) holds one profile and its cases:
//!
//! ```toml
//! profile = '''
//! version = 1
//! [default]
//! file = "allow"
//! [[deny]]
//! id = "secret"
//! file = "/srv/cases/secret/**"
//! '''
//!
//! [[case]]
//! name = "a file below a denied folder can't be read"
//! setup = [{ file = "/srv/cases/secret/key" }]
//! op = "open"
//! path = "/srv/cases/secret/key"
//! access = ["read"]
//! expect = "deny"
//! rule = "secret"
//! ```

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// Where the case files are, from the root of the repository.
pub const FOLDER: &str = "tests/cases";

/// A file of cases.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseFile {
    /// The profile's policy file. It includes nothing.
    pub profile: String,
    pub case: Vec<Case>,
    /// The file's name without its ending; it is also the profile's name.
    #[serde(skip)]
    pub name: String,
}

/// One question and its answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// A sentence; unique in its file.
    pub name: String,
    /// What must be there before, on a real kernel. Made by an unlabelled process, parents included.
    #[serde(default)]
    pub setup: Vec<Setup>,
    pub op: Op,
    /// The object's path, as the kernel resolves it (`open` and `exec`).
    pub path: Option<String>,
    /// What the agent writes instead of `path`: a link to it, a way with `..`. The simulator, which
    /// resolves nothing, asks for `path`.
    pub via: Option<String>,
    /// What `exec` runs it with.
    #[serde(default)]
    pub args: Vec<String>,
    /// The address, as in `agentguard policy explain` (`connect` and `listen`).
    pub address: Option<String>,
    /// What `open` is for. More than one are asked for together where one call does that.
    #[serde(default)]
    pub access: Vec<Access>,
    pub expect: Verdict,
    /// Id of the rule that decides, or `default`.
    pub rule: Option<String>,
    /// Which runners the case is for.
    #[serde(default)]
    pub replay: Replay,
}

/// What the agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// read: open for reading; write: open for writing; read and write: both; create: make a new file;
    /// delete: unlink; metadata: chmod.
    Open,
    Exec,
    Connect,
    Listen,
}

/// An access to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    Read,
    Write,
    Create,
    Delete,
    Metadata,
}

impl Access {
    /// The access's word in a policy file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Metadata => "metadata",
        }
    }
}

/// The verdict that must come out. On a kernel `ask` and `deny` are EPERM, `kill` is SIGKILL, and after
/// `allow` anything else may go wrong (nobody listens, the file isn't a program).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Allow,
    Ask,
    Deny,
    Kill,
}

impl Verdict {
    /// The verdict's word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
            Self::Kill => "kill",
        }
    }
}

/// One thing that must be there before.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Setup {
    /// A regular file that its agent's user may read and write.
    File { file: PathBuf },
    /// A folder.
    Folder { folder: PathBuf },
    /// A symbolic link.
    Link { link: PathBuf, to: PathBuf },
    /// A hard link to a file that is there.
    HardLink { hard_link: PathBuf, to: PathBuf },
    /// A program that ends at once with status 0.
    Program { program: PathBuf },
    /// A script with this interpreter in its first line.
    Script {
        script: PathBuf,
        interpreter: PathBuf,
    },
    /// Something unlabelled that listens (`unix:/path`, `unix:@name`, `tcp://address:port`).
    Listener { listener: String },
}

/// Which runners a case is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Replay {
    /// The simulator and every kernel.
    #[default]
    Both,
    /// The simulator only: a kernel can't be brought into the situation, or only with much effort.
    Simulator,
    /// Kernels only: the text of the question doesn't say it all.
    Kernel,
}

/// Why a case file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    #[error("cannot read {path}: {error}")]
    Read { path: PathBuf, error: io::Error },
    #[error("{path}: {error}")]
    Parse {
        path: PathBuf,
        error: toml::de::Error,
    },
    #[error("{path}: case \"{case}\": {what}")]
    Case {
        path: PathBuf,
        case: String,
        what: &'static str,
    },
}

impl CaseFile {
    /// Reads all files of a folder whose names end in `.toml`, in the order of their names.
    pub fn read_all(folder: &Path) -> Result<Vec<Self>, CaseError> {
        let read = |error| CaseError::Read {
            path: folder.to_owned(),
            error,
        };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if path.extension().is_some_and(|ending| ending == "toml") {
                paths.push(path);
            }
        }
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    /// Reads a case file and checks that its cases are whole.
    pub fn read(path: &Path) -> Result<Self, CaseError> {
        let text = std::fs::read_to_string(path).map_err(|error| CaseError::Read {
            path: path.to_owned(),
            error,
        })?;
        let mut file: Self = toml::from_str(&text).map_err(|error| CaseError::Parse {
            path: path.to_owned(),
            error,
        })?;
        file.name = path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default();
        for (index, case) in file.case.iter().enumerate() {
            let wrong = |what| CaseError::Case {
                path: path.to_owned(),
                case: case.name.clone(),
                what,
            };
            if file.case[..index]
                .iter()
                .any(|other| other.name == case.name)
            {
                return Err(wrong("another case has the same name"));
            }
            let needs_path = matches!(case.op, Op::Open | Op::Exec);
            if case.path.is_some() != needs_path || case.address.is_some() == needs_path {
                return Err(wrong("open and exec need `path`, the others `address`"));
            }
            if case.access.is_empty() == (case.op == Op::Open) {
                return Err(wrong("`access` goes with open, and open needs it"));
            }
        }
        Ok(file)
    }
}
