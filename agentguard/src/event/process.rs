//! The acting process as events show it: the kernel's own record first, `/proc` for what the record
//! doesn't hold. Nothing is decided by it.

use std::{fs, num::NonZero, os::unix::ffi::OsStrExt as _, path::PathBuf};

use agentguard_common::event::Process as Raw;
use lru::LruCache;
use serde::Serialize;

use super::text;

/// Ancestors that are shown at most.
const ANCESTORS: usize = 8;
/// Processes of which is remembered what `/proc` said.
const REMEMBERED: NonZero<usize> = NonZero::new(1024).expect("not zero");
/// Bytes of an ancestor's program that are kept at most: its end.
const EXE_BYTES: usize = 256;
/// Bytes of arguments read from `/proc` at most.
const ARGS_BYTES: usize = 4096;
/// The record holds only the end of the program's path.
const CUT_EXE: u8 = 1;
/// The record holds only the beginning of the arguments.
const CUT_ARGS: u8 = 2;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    pub pid: u32,
    pub tid: u32,
    /// Start on the boot clock; with `pid`, which process it is for good.
    pub start_ns: u64,
    pub ppid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    pub comm: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    pub uid: u32,
    pub ancestors: Vec<Ancestor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<&'static str>,
    /// Which of `exe` and `args` are not whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cut: Vec<&'static str>,
}

/// A process further up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ancestor {
    pub pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
}

/// The ancestors of processes, by number, start and parent, as `/proc` showed them at the first event:
/// asking costs more than all the rest of an event.
#[derive(Debug)]
pub struct Processes(LruCache<(u32, u64, u32), Vec<Ancestor>>);

impl Default for Processes {
    fn default() -> Self {
        Self(LruCache::new(REMEMBERED))
    }
}

impl Processes {
    fn ancestors(&mut self, raw: &Raw) -> &[Ancestor] {
        let key = (raw.pid, raw.start_ns, raw.ppid);
        self.0
            .get_or_insert(key, || ancestors(raw.ppid, ticks(raw.start_ns)))
    }
}

impl Process {
    /// The process of a record; `None` when no task made the record.
    pub fn new(raw: &Raw, processes: &mut Processes) -> Option<Self> {
        if raw.pid == 0 {
            return None;
        }
        let mut escaped = false;
        let mut decode = |bytes: &[u8]| {
            let (text, is_escaped) = text::decode(bytes);
            escaped |= is_escaped;
            text
        };
        let exe = raw
            .exe
            .get(..usize::from(raw.exe_bytes))
            .unwrap_or(&raw.exe);
        let args = raw
            .args
            .get(..usize::from(raw.args_bytes))
            .unwrap_or(&raw.args);
        let mut cut = raw.cut;
        let (exe, args) = if exe.is_empty() {
            // Started before it was labelled. `/proc` may already speak of another process with
            // this number, so its start is compared.
            cut = 0;
            match same(raw) {
                true => (exe_of(raw.pid), args_of(raw.pid)),
                false => (None, None),
            }
        } else {
            (Some(exe.to_vec()), Some(args.to_vec()))
        };
        let exe = exe.map(|exe| decode(&exe));
        let args = args.map(|args| split(&args).map(&mut decode).collect());
        let comm = decode(text::padded(&raw.comm));
        Some(Self {
            pid: raw.pid,
            tid: raw.tid,
            start_ns: raw.start_ns,
            ppid: raw.ppid,
            exe,
            comm,
            args,
            uid: raw.uid,
            ancestors: processes.ancestors(raw).to_vec(),
            encoding: escaped.then_some(text::ESCAPED),
            cut: [(CUT_EXE, "exe"), (CUT_ARGS, "args")]
                .into_iter()
                .filter(|(bit, _)| cut & bit != 0)
                .map(|(_, name)| name)
                .collect(),
        })
    }
}

/// NUL-separated arguments, one by one.
fn split(args: &[u8]) -> impl Iterator<Item = &[u8]> {
    let args = args.strip_suffix(b"\0").unwrap_or(args);
    let none = args.is_empty();
    args.split(|byte| *byte == 0).filter(move |_| !none)
}

/// The processes from `pid` upwards, as far as they still are. `born` is when its child began, in clock ticks:
/// what began later is another process that got the number since.
fn ancestors(mut pid: u32, mut born: u64) -> Vec<Ancestor> {
    let mut list = Vec::new();
    while pid != 0 && list.len() < ANCESTORS {
        let Some(stat) = Stat::of(pid).filter(|stat| stat.start_ticks <= born) else {
            break;
        };
        list.push(Ancestor {
            pid,
            exe: exe_of(pid).map(|exe| {
                let start = exe.len().saturating_sub(EXE_BYTES);
                text::decode(&exe[start..]).0
            }),
        });
        (pid, born) = (stat.ppid, stat.start_ticks);
    }
    list
}

/// A time on the boot clock in the unit of `/proc/PID/stat`.
pub fn ticks(boot_ns: u64) -> u64 {
    let ticks = rustix::param::clock_ticks_per_second();
    boot_ns / (1_000_000_000 / ticks.max(1))
}

/// When the process with this number began, in that unit; `None` when there is none.
pub fn began(pid: u32) -> Option<u64> {
    Some(Stat::of(pid)?.start_ticks)
}

fn exe_of(pid: u32) -> Option<Vec<u8>> {
    let path = fs::read_link(proc(pid, "exe")).ok()?;
    Some(path.as_os_str().as_bytes().to_vec())
}

fn args_of(pid: u32) -> Option<Vec<u8>> {
    let mut args = fs::read(proc(pid, "cmdline")).ok()?;
    args.truncate(ARGS_BYTES);
    Some(args)
}

fn proc(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

/// Whether the process with the record's number is still the record's.
fn same(raw: &Raw) -> bool {
    Stat::of(raw.pid).is_some_and(|stat| stat.start_ticks == ticks(raw.start_ns))
}

/// What is wanted of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    ppid: u32,
    start_ticks: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read(proc(pid, "stat")).ok()?)
    }

    /// The name in the second field may hold anything, even `)`; the last one ends it.
    fn parse(stat: &[u8]) -> Option<Self> {
        let end = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        Some(Self {
            ppid: fields.nth(1)?.parse().ok()?,
            start_ticks: fields.nth(17)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use agentguard_common::limits;

    use super::*;

    fn raw(pid: u32, exe: &[u8], args: &[u8]) -> Raw {
        let mut raw = Raw {
            start_ns: 99_120_001,
            pid,
            tid: pid,
            ppid: 0,
            uid: 1000,
            gid: 1000,
            exe_bytes: exe.len() as u16,
            args_bytes: args.len() as u16,
            cut: 0,
            padding: [0; 7],
            comm: *b"cat\0\0\0\0\0\0\0\0\0\0\0\0\0",
            exe: [0; limits::EXE_BYTES],
            args: [0; limits::ARGS_BYTES],
        };
        raw.exe[..exe.len()].copy_from_slice(exe);
        raw.args[..args.len()].copy_from_slice(args);
        raw
    }

    #[test]
    fn the_record_is_believed() {
        let process = Process::new(
            &raw(812, b"/usr/bin/cat", b"cat\0\0b c\0"),
            &mut Processes::default(),
        )
        .expect("a process");
        assert_eq!(process.exe.as_deref(), Some("/usr/bin/cat"));
        assert_eq!(
            process.args,
            Some(vec!["cat".to_owned(), String::new(), "b c".to_owned()])
        );
        assert_eq!(process.comm, "cat");
        assert_eq!(process.encoding, None);
    }

    #[test]
    fn a_packet_has_no_process() {
        assert_eq!(
            Process::new(&raw(0, b"", b""), &mut Processes::default()),
            None
        );
    }

    #[test]
    fn lengths_that_lie_are_no_panic() {
        let mut raw = raw(812, b"/x", b"\xff");
        raw.exe_bytes = u16::MAX;
        raw.args_bytes = u16::MAX;
        raw.cut = CUT_ARGS;
        let process = Process::new(&raw, &mut Processes::default()).expect("a process");
        assert_eq!(process.encoding, Some("escaped"));
        assert_eq!(process.cut, ["args"]);
    }

    #[test]
    fn a_process_of_another_start_is_not_looked_at() {
        let mut raw = raw(std::process::id(), b"", b"");
        raw.start_ns = 1;
        let process = Process::new(&raw, &mut Processes::default()).expect("a process");
        assert_eq!(process.exe, None);
        let ticks = rustix::param::clock_ticks_per_second();
        let own = Stat::of(std::process::id()).expect("this process is there");
        raw.start_ns = own.start_ticks * (1_000_000_000 / ticks);
        let process = Process::new(&raw, &mut Processes::default()).expect("a process");
        assert!(process.exe.is_some());
        assert!(!ancestors(std::process::id(), own.start_ticks).is_empty());
        assert!(ancestors(std::process::id(), own.start_ticks - 1).is_empty());
    }

    #[test]
    fn names_with_brackets_are_read() {
        let line = b"7 (a) b) S 3 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 1 1";
        assert_eq!(
            Stat::parse(line),
            Some(Stat {
                ppid: 3,
                start_ticks: 4242
            })
        );
        assert_eq!(Stat::parse(b"7 (a"), None);
    }
}
