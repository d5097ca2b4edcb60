//! The place of whoever answers what agents ask, as far as the kernel knows of it: the maps of requests and grants. A
//! case answers here what the daemon would, and in the daemon's order.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use agentguard_common::approval::{
    GRANTED, Grant, GrantKey, REFUSED, REQUESTS, Request, RequestKey, WAITING,
};
use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData};

use crate::daemon::signal;

/// Longest that a request takes to be there.
const LATEST: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(2);
/// How long an answer for once can be used.
const USABLE_NS: u64 = 30_000_000_000;
/// `BPF_EXIST`, include/uapi/linux/bpf.h.
const EXIST: u64 = 2;

/// A struct of the contract as it lies in a map.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct Plain<T>(T);

// SAFETY: `repr(C)`, integers and byte arrays, every padding explicit.
unsafe impl aya::Pod for Plain<RequestKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Request> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<GrantKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Grant> {}

/// The maps.
#[derive(Debug)]
pub struct Desk {
    requests: HashMap<MapData, Plain<RequestKey>, Plain<Request>>,
    grants: HashMap<MapData, Plain<GrantKey>, Plain<Grant>>,
    /// The greatest id that was there when the case began or that it has seen.
    last: u64,
}

/// A request that waits.
pub type Waiting = (RequestKey, Request);

fn map(name: &str) -> Result<Map> {
    let data = MapData::from_pin(format!("/sys/fs/bpf/agentguard/maps/{name}"))?;
    Ok(Map::HashMap(data))
}

impl Desk {
    /// # Errors
    /// When there are no such maps.
    pub fn open() -> Result<Self> {
        let mut desk = Self {
            requests: HashMap::try_from(map("REQUESTS")?).context("REQUESTS")?,
            grants: HashMap::try_from(map("GRANTS")?).context("GRANTS")?,
            last: 0,
        };
        desk.last = desk
            .all()?
            .iter()
            .map(|(_, request)| request.id())
            .max()
            .unwrap_or(0);
        Ok(desk)
    }

    /// Everything that is in `REQUESTS`.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn all(&self) -> Result<Vec<Waiting>> {
        let mut all = Vec::new();
        for entry in self.requests.iter() {
            let (key, request) = entry?;
            all.push((key.0, request.0));
        }
        all.sort_by_key(|(_, request)| request.id());
        Ok(all)
    }

    /// Waits for a request that this desk hasn't seen, whose process is stopped.
    ///
    /// # Errors
    /// When none comes.
    pub fn following(&mut self) -> Result<Waiting> {
        let deadline = Instant::now() + LATEST;
        loop {
            let last = self.last;
            let new = self
                .all()?
                .into_iter()
                .find(|(_, request)| request.id() > last && request.state() == WAITING);
            if let Some((key, request)) = new {
                wait_for_stop(key.pid)?;
                self.last = request.id();
                return Ok((key, request));
            }
            if Instant::now() > deadline {
                let log = fs::read_to_string(crate::log::PATH)?;
                let latest: Vec<&str> = log.lines().rev().take(2).collect();
                bail!("nothing new is held: {:?}\n{latest:#?}", self.all()?);
            }
            thread::sleep(PAUSE);
        }
    }

    /// What waits, whoever has seen it.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn waiting(&self) -> Result<Vec<Waiting>> {
        let mut all = self.all()?;
        all.retain(|(_, request)| request.state() == WAITING);
        Ok(all)
    }

    /// What is there under a key.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn at(&self, key: &RequestKey) -> Result<Option<Request>> {
        let all = self.all()?;
        Ok(all
            .into_iter()
            .find(|(other, _)| other == key)
            .map(|(_, request)| request))
    }

    /// Says yes, once, and continues the process.
    ///
    /// # Errors
    /// When nothing waits under this key.
    pub fn grant(&mut self, (key, request): Waiting) -> Result<()> {
        self.grant_until((key, request), boot_ns() + USABLE_NS)
    }

    /// As [`Desk::grant`], for as long as until then (boot clock).
    ///
    /// # Errors
    /// As it.
    pub fn grant_until(&mut self, (key, request): Waiting, until_boot_ns: u64) -> Result<()> {
        self.write(key, request, GRANTED, 0, until_boot_ns)?;
        signal(key.pid, libc::SIGCONT)
    }

    /// As [`Desk::grant`], but continues nobody.
    ///
    /// # Errors
    /// As it.
    pub fn grant_quietly(&mut self, (key, request): Waiting) -> Result<()> {
        self.write(key, request, GRANTED, 0, boot_ns() + USABLE_NS)
    }

    /// Leaves a yes to a request that is not there any more.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn leave_grant(&mut self, (key, request): Waiting) -> Result<()> {
        let grant = Request {
            word: Request::word(request.id(), GRANTED),
            until_boot_ns: u64::MAX,
            ..request
        };
        Ok(self.requests.insert(Plain(key), Plain(grant), 0)?)
    }

    /// Takes all room for requests, in the name of nobody.
    ///
    /// # Errors
    /// When there is still room for more than there should be.
    pub fn fill(&mut self) -> Result<Vec<RequestKey>> {
        let mut filled = Vec::new();
        for pid in 1..=REQUESTS {
            let key = RequestKey {
                agent: u64::MAX,
                pid,
                ..RequestKey::default()
            };
            if self
                .requests
                .insert(Plain(key), Plain(Request::default()), 0)
                .is_err()
            {
                return Ok(filled);
            }
            filled.push(key);
        }
        ensure!(filled.len() == REQUESTS as usize, "{}", filled.len());
        Ok(filled)
    }

    /// Takes away what is there under a key.
    ///
    /// # Errors
    /// When nothing is.
    pub fn clear(&mut self, key: &RequestKey) -> Result<()> {
        Ok(self.requests.remove(&Plain(*key))?)
    }

    /// Says no, and continues the process.
    ///
    /// # Errors
    /// When nothing waits under this key.
    pub fn refuse(&mut self, (key, request): Waiting, cause: u8) -> Result<()> {
        self.write(key, request, REFUSED, cause, boot_ns() + USABLE_NS)?;
        signal(key.pid, libc::SIGCONT)
    }

    fn write(
        &mut self,
        key: RequestKey,
        request: Request,
        state: u64,
        cause: u8,
        until_boot_ns: u64,
    ) -> Result<()> {
        let found = self.at(&key)?.context("nothing waits")?;
        ensure!(
            found.word == request.word,
            "another request waits: {found:?}"
        );
        let answer = Request {
            word: Request::word(request.id(), state),
            until_boot_ns,
            cause,
            ..found
        };
        Ok(self.requests.insert(Plain(key), Plain(answer), EXIST)?)
    }

    /// Writes a grant or a refusal.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn give(&mut self, key: GrantKey, grant: Grant) -> Result<()> {
        Ok(self.grants.insert(Plain(key), Plain(grant), 0)?)
    }

    /// Takes it back.
    ///
    /// # Errors
    /// When it isn't there.
    pub fn take_back(&mut self, key: GrantKey) -> Result<()> {
        Ok(self.grants.remove(&Plain(key))?)
    }
}

/// The boot clock.
pub fn boot_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes to what it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Whether a process is stopped.
///
/// # Errors
/// When it isn't there.
pub fn is_stopped(pid: u32) -> Result<bool> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after) = stat.rsplit_once(") ").context("no state")?;
    Ok(after.starts_with('T'))
}

/// Waits until a process is stopped.
///
/// # Errors
/// When it isn't in time.
pub fn wait_for_stop(pid: u32) -> Result<()> {
    crate::daemon::wait_until("a process that stops", || is_stopped(pid))
}
