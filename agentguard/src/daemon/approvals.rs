//! The questions that wait for an answer, and the answers. The kernel holds the processes and judges their calls
//! again; `agentguard_common::approval` says who writes what.
//!
//! The order is always: the answer into the map, its event into the log, SIGCONT to the process. A daemon that is
//! killed in between leaves a question that waits, or an answer whose process the next daemon lets go on; never a
//! process that nobody knows of. What a question is about lies in a file until nobody asks it any more, because the
//! map holds a hash of it alone.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use agentguard_common::{
    Outcome,
    approval::{Grant, GrantKey, Request, RequestKey, WAITING, grant},
    event::Reason,
};
use tokio::sync::{Notify, broadcast, mpsc};

use crate::{
    api::types::{Change, GoneWhy},
    event::Processes,
    ring::Record,
};

mod always;
mod answer;
pub mod process;
mod prompt;
mod requests;
mod serve;

use self::process::Watched;
pub use self::{
    answer::Who,
    process::Process,
    prompt::{JUSTIFICATION_BYTES, Prompt, user},
    serve::{decide, serve},
};

/// How long an answer can be used: the process goes on at once, unless somebody else has stopped it as well.
const USABLE_NS: u64 = 30_000_000_000;
/// How long a request is kept whose process should have dealt with it.
const KEPT_NS: u64 = 10_000_000_000;
/// How long a request without a known object is kept after a start: its record may still be on its way.
const STRAY_NS: u64 = 5_000_000_000;
/// The deadline is over for the kernel as well.
const AFTER_NS: u64 = 1_000_000;
/// Changes that a follower may lag behind.
const FOLLOWERS: usize = 1024;

/// What the daemon is told about requests.
#[derive(Debug)]
pub enum Notice {
    /// The kernel holds a process.
    Asked(Box<Record>),
    /// A process that was held has ended.
    Ended(RequestKey),
}

/// A process that waits.
#[derive(Debug)]
struct Waiter {
    /// Its own request, and the prompt that it waits with.
    id: u64,
    prompt: u64,
    deadline_ns: u64,
    process: Process,
    _watched: Watched,
}

/// What waits, and what holds for longer.
#[derive(Debug)]
pub struct Approvals {
    prompts: BTreeMap<u64, Prompt>,
    waiters: HashMap<RequestKey, Waiter>,
    /// What is in `GRANTS`.
    grants: HashMap<GrantKey, Grant>,
    /// Requests that were answered or ran out, until when they are left to the kernel.
    left: HashMap<RequestKey, (u64, u64)>,
    /// Requests of an earlier daemon whose object isn't known yet.
    strays: HashMap<RequestKey, (u64, u64)>,
    processes: Processes,
    files: Files,
    notices: mpsc::UnboundedSender<Notice>,
    changes: broadcast::Sender<Change>,
    /// Something is due at another time than before.
    due: Arc<Notify>,
}

impl Approvals {
    /// Nothing waits yet.
    pub fn new(files: Files, notices: mpsc::UnboundedSender<Notice>) -> Self {
        Self {
            prompts: BTreeMap::new(),
            waiters: HashMap::new(),
            grants: HashMap::new(),
            left: HashMap::new(),
            strays: HashMap::new(),
            processes: Processes::default(),
            files,
            notices,
            changes: broadcast::Sender::new(FOLLOWERS),
            due: Arc::new(Notify::new()),
        }
    }

    /// What is told of the requests from now on.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// The questions that wait, oldest first.
    pub fn prompts(&self) -> impl Iterator<Item = &Prompt> {
        self.prompts.values()
    }

    /// When something is to be done next (boot clock).
    fn next_due(&self) -> Option<u64> {
        let waiters = self
            .waiters
            .values()
            .map(|waiter| waiter.deadline_ns.saturating_add(AFTER_NS));
        let grants = self.grants.values().map(|grant| grant.until_boot_ns);
        let left = self.left.values().chain(self.strays.values());
        waiters
            .chain(grants)
            .chain(left.map(|(_, until)| *until))
            .min()
            .filter(|until| *until != u64::MAX)
    }

    /// What stands that already answers a question, if anything does.
    fn standing(&self, prompt: &Prompt, now: u64) -> Option<(&GrantKey, &Grant)> {
        let of_kind = |kind| GrantKey {
            kind,
            ..prompt.object
        };
        [
            rule_key(&prompt.request, prompt.object.agent, prompt.object.action),
            of_kind(grant::OBJECT),
            of_kind(grant::REFUSAL),
        ]
        .iter()
        .find_map(|key| self.grants.get_key_value(key))
        .filter(|(_, grant)| grant.until_boot_ns > now)
    }

    /// Takes a process in, at a prompt that is there or at this one. True when it is a new question.
    fn add(
        &mut self,
        key: RequestKey,
        request: &Request,
        process: Process,
        prompt: Prompt,
    ) -> bool {
        let watched = match process.watch(key, self.notices.clone()) {
            Ok(watched) => watched,
            Err(error) => {
                tracing::error!("cannot watch a held process: {error}");
                let over = request.deadline_boot_ns.saturating_add(AFTER_NS);
                self.leave(key, request.id(), over);
                return false;
            }
        };
        let same = self
            .prompts
            .values()
            .find(|other| other.object == prompt.object && other.rule() == prompt.rule())
            .map(|other| other.id);
        let id = same.unwrap_or(prompt.id);
        let prompt = self.prompts.entry(id).or_insert(prompt);
        prompt.waiting.insert(request.id(), key);
        self.waiters.insert(
            key,
            Waiter {
                id: request.id(),
                prompt: id,
                deadline_ns: request.deadline_boot_ns,
                process,
                _watched: watched,
            },
        );
        let shown = prompt.shown();
        self.tell(Change::Asked(shown));
        self.due.notify_one();
        same.is_none()
    }

    /// Takes a process out. Answers its prompt when it was the last of it.
    fn take(&mut self, key: RequestKey) -> Option<(Waiter, Option<Prompt>)> {
        let waiter = self.waiters.remove(&key)?;
        self.files.remove(waiter.id);
        self.due.notify_one();
        let mut last = false;
        if let Some(prompt) = self.prompts.get_mut(&waiter.prompt) {
            prompt.waiting.remove(&waiter.id);
            last = prompt.waiting.is_empty();
        }
        let prompt = last.then(|| self.prompts.remove(&waiter.prompt)).flatten();
        Some((waiter, prompt))
    }

    fn tell(&self, change: Change) {
        // Nobody following is no error.
        let _ = self.changes.send(change);
    }

    fn gone(&self, prompt: &Prompt, why: GoneWhy) {
        self.tell(Change::Gone(crate::api::types::Gone { id: prompt.id, why }));
    }

    /// Leaves a request to the kernel until then.
    fn leave(&mut self, key: RequestKey, id: u64, until_ns: u64) {
        self.left.insert(key, (id, until_ns));
        self.due.notify_one();
    }
}

/// The key of a yes to everything that the rule of this request asks about.
fn rule_key(request: &Request, agent: u64, action: u8) -> GrantKey {
    let rule = Outcome(request.outcome).rule();
    let verbs = match request.asking {
        _ if rule != Outcome::DEFAULT_RULE => 0,
        asking if asking == Reason::System as u8 => request.verb,
        _ => 1 << (request.verb & 7),
    };
    GrantKey {
        agent,
        install: request.install,
        rule,
        kind: grant::RULE,
        action: if rule == Outcome::DEFAULT_RULE {
            action
        } else {
            0
        },
        verbs,
        ..GrantKey::default()
    }
}

/// The way from the records to whoever asks.
#[derive(Debug)]
pub struct Asking {
    files: Files,
    notices: mpsc::UnboundedSender<Notice>,
}

impl Asking {
    pub fn new(files: Files, notices: mpsc::UnboundedSender<Notice>) -> Self {
        Self { files, notices }
    }

    /// Keeps the record of a held action for a later daemon, before it leaves its ring.
    pub fn keep(&self, record: &Record, bytes: &[u8]) {
        let Some(note) = &record.note else { return };
        let id = note.request.id();
        if let Err(error) = self.files.write(id, bytes) {
            tracing::error!("cannot keep the request {id} for a later daemon: {error}");
        }
    }

    /// Has it asked.
    pub fn tell(&self, record: Record) {
        // Only at the very end is nobody there to take it.
        let _ = self.notices.send(Notice::Asked(Box::new(record)));
    }
}

/// The records of held actions, a file each, for as long as they wait.
#[derive(Clone, Debug)]
pub struct Files(PathBuf);

impl Files {
    /// In the state directory.
    pub fn new(state: &Path) -> io::Result<Self> {
        let directory = state.join("requests");
        fs::create_dir_all(&directory)?;
        Ok(Self(directory))
    }

    /// Keeps the record of a request.
    pub fn write(&self, id: u64, record: &[u8]) -> io::Result<()> {
        fs::write(self.path(id), record)
    }

    fn read(&self, id: u64) -> Option<Record> {
        let bytes = fs::read(self.path(id)).ok()?;
        Record::decode(&bytes)
            .inspect_err(|error| tracing::warn!("cannot read the request {id}: {error}"))
            .ok()
            .filter(|record| record.note.is_some_and(|note| note.request.id() == id))
    }

    fn remove(&self, id: u64) {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("cannot remove the request {id}: {error}");
            }
            _ => {}
        }
    }

    /// Removes all but these.
    fn retain(&self, ids: impl Fn(u64) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(&self.0)? {
            let id = entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let Some(id) = id.filter(|id| !ids(*id)) {
                self.remove(id);
            }
        }
        Ok(())
    }

    fn path(&self, id: u64) -> PathBuf {
        self.0.join(id.to_string())
    }
}

/// Whether a request still waits under this id.
fn waits(request: Option<&Request>, id: u64) -> bool {
    request.is_some_and(|request| request.word == Request::word(id, WAITING))
}

#[cfg(test)]
mod tests;
