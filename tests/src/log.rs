//! The event log as a case reads it: what was written since the case looked last, and waiting for what
//! must come. Reads the file itself, not the daemon.

use std::{
    fmt,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Where the daemon writes.
pub const PATH: &str = "/var/log/agentguard/events.jsonl";
/// How long an event may take from the kernel to the file. Emulated machines are slow, and this is only
/// waited for when something is wrong.
const LATEST: Duration = Duration::from_secs(60);
/// How often the file is looked at.
const PAUSE: Duration = Duration::from_millis(5);

/// The log from some point on.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    offset: u64,
    /// Whole lines read so far.
    events: Vec<Value>,
    rest: Vec<u8>,
}

impl Log {
    /// From the end of what is there now.
    ///
    /// # Errors
    /// When there is a log that can't be read.
    pub fn from_now(path: &Path) -> Result<Self> {
        let mut log = Self::from_start(path);
        log.skip()?;
        Ok(log)
    }

    /// The whole log.
    pub fn from_start(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            offset: 0,
            events: Vec::new(),
            rest: Vec::new(),
        }
    }

    /// Forgets what was read, so that only what comes now is looked at.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn skip(&mut self) -> Result<()> {
        self.read()?;
        // What comes after the last line end is the beginning of a line that is still to come.
        if let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') {
            self.rest.drain(..=end);
        }
        self.events.clear();
        Ok(())
    }

    /// What was written so far.
    ///
    /// # Errors
    /// When the log can't be read or a line of it isn't JSON.
    pub fn events(&mut self) -> Result<&[Value]> {
        self.update()?;
        Ok(&self.events)
    }

    /// Waits for an event.
    ///
    /// # Errors
    /// When it doesn't come; the message shows what came instead.
    pub fn wait(&mut self, wanted: &Wanted) -> Result<Value> {
        self.wait_until(&wanted.to_string(), |events| {
            events.iter().find(|event| wanted.fits(event)).cloned()
        })
    }

    /// Waits until `found` finds what it looks for.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        mut found: impl FnMut(&[Value]) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + LATEST;
        loop {
            self.update()?;
            if let Some(found) = found(&self.events) {
                return Ok(found);
            }
            if Instant::now() > deadline {
                bail!("not in the log: {what}{}", self.latest());
            }
            thread::sleep(PAUSE);
        }
    }

    /// That an event has not come. Only meaningful after one that came later on the same way.
    ///
    /// # Errors
    /// When it has.
    pub fn lacks(&mut self, unwanted: &Wanted) -> Result<()> {
        match self.events()?.iter().find(|event| unwanted.fits(event)) {
            Some(event) => bail!("in the log, but must not be: {event}"),
            None => Ok(()),
        }
    }

    fn latest(&self) -> String {
        let shown = self.events.iter().rev().take(12).rev();
        let mut text = String::from("\nin the log instead:");
        for event in shown {
            text.push_str("\n  ");
            let mut event = event.clone();
            if let Some(event) = event.as_object_mut() {
                event.remove("process");
            }
            text.push_str(&event.to_string());
        }
        text
    }

    fn update(&mut self) -> Result<()> {
        self.read()?;
        let whole = match self.rest.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None => return Ok(()),
        };
        for line in self.rest[..whole].split_inclusive(|byte| *byte == b'\n') {
            let event = serde_json::from_slice(line)
                .with_context(|| format!("in the log: {}", String::from_utf8_lossy(line)))?;
            self.events.push(event);
        }
        self.rest.drain(..whole);
        Ok(())
    }

    /// Reads what was written since the last time.
    fn read(&mut self) -> Result<()> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            file => file.with_context(|| format!("cannot open {}", self.path.display()))?,
        };
        file.seek(SeekFrom::Start(self.offset))?;
        self.offset += file.read_to_end(&mut self.rest)? as u64;
        Ok(())
    }
}

/// What an event must say. What isn't asked for may be anything.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    fields: Vec<(String, Value)>,
}

impl Wanted {
    /// An event of this action.
    pub fn action(action: &str) -> Self {
        Self::default().with("/action", action)
    }

    /// A denial that a rule asked for.
    pub fn deny(action: &str, rule: &str) -> Self {
        Self::action(action)
            .with("/verdict", "deny")
            .with("/errno", "EPERM")
            .with("/rule", rule)
    }

    /// A denial that no rule asked for.
    pub fn refusal(action: &str, reason: &str) -> Self {
        Self::action(action)
            .with("/verdict", "deny")
            .with("/errno", "EPERM")
            .with("/reason", reason)
    }

    /// An allowed action.
    pub fn allow(action: &str) -> Self {
        Self::action(action).with("/verdict", "allow")
    }

    /// The field at this JSON pointer has this value; without one (null) it may not be there.
    #[must_use]
    pub fn with(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        self.fields.push((pointer.to_owned(), value.into()));
        self
    }

    #[must_use]
    pub fn agent(self, name: &str) -> Self {
        self.with("/agent", name)
    }

    /// The object's path, which is text.
    #[must_use]
    pub fn path(self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().display().to_string();
        self.with("/object/path", path)
    }

    #[must_use]
    pub fn access(self, access: &[&str]) -> Self {
        self.with("/object/access", access)
    }

    /// The object's address.
    #[must_use]
    pub fn address(self, protocol: &str, address: std::net::SocketAddr) -> Self {
        self.with("/object/protocol", protocol)
            .with("/object/address", address.ip().to_string())
            .with("/object/port", address.port())
    }

    /// Whether an event says all of that.
    pub fn fits(&self, event: &Value) -> bool {
        self.fields.iter().all(|(pointer, value)| {
            let said = event.pointer(pointer).unwrap_or(&Value::Null);
            said == value
        })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (pointer, value)) in self.fields.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{pointer} = {value}")?;
        }
        Ok(())
    }
}
