//! The guests: which cases go together, a few guests at a time, and what becomes of the cases of one that
//! dies.

use std::{
    collections::VecDeque,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use agentguard_tests::{
    cases::{attacks, conformance, others},
    remote::PROGRAM,
    scene::{Case, Report, Root, Scene},
};
use xtask::guest::{self, Copy, Kernel, Options};

use super::{board::Board, name};

/// The program that plays the cases, of the same build as this one.
const PLAYER: &str = env!("CARGO_BIN_EXE_agentguard-guest");
/// Guests that run at a time. Each emulates two processors on as many of the host.
const AT_A_TIME: usize = 2;
/// How often the guest of a group is booted whose code was met half patched ([`guest::HalfPatched`]).
const BOOTS: u32 = 3;
/// Half of it is for files: those of all cases that share the guest, and a log that is flooded on purpose.
const MEMORY_MIB: u32 = 2048;
/// What a guest gets beyond the time of its cases.
const OVERHEAD: Duration = Duration::from_secs(120);
/// How much of what a guest said on standard error goes with the cases that it didn't get to.
const LAST_BYTES: usize = 4096;

/// What cases must have in common to be played in one guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot {
    append: &'static str,
    pub root: Root,
    /// Cases that could share a guest are played in two, so that no processor of the host is idle in the end.
    attacks: bool,
}

impl Boot {
    pub fn of(case: &Case) -> Self {
        let (append, root) = match case.scene {
            Scene::Shared | Scene::OwnDaemon => ("", Root::Memory),
            Scene::OwnBoot { append, root } => (append, root),
        };
        Self {
            append,
            root,
            attacks: case.name.starts_with("attack::"),
        }
    }
}

/// Cases that are played in one guest.
#[derive(Debug)]
pub struct Group {
    pub kernel: Kernel,
    pub boot: Boot,
    pub cases: Vec<Case>,
}

/// Starts threads that run the guests of all groups.
pub fn start(board: &Arc<Board>, groups: Vec<Group>, binary: PathBuf) {
    let groups = Arc::new(Mutex::new(VecDeque::from(groups)));
    for _ in 0..AT_A_TIME {
        let (board, groups, binary) = (Arc::clone(board), Arc::clone(&groups), binary.clone());
        thread::spawn(move || {
            let next = || {
                groups
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .pop_front()
            };
            while let Some(group) = next() {
                play(&board, &group, &binary);
            }
        });
    }
}

/// Boots the guest of a group in this thread and posts what it reports.
fn play(board: &Board, group: &Group, binary: &Path) {
    let mut cases: Vec<&Case> = group.cases.iter().collect();
    for boot in 1..=BOOTS {
        let (reported, said, ended) = boot_for(board, group, &cases, binary);
        cases.retain(|case| !reported.contains(&case.name));
        if cases.is_empty() {
            return;
        }
        let message = match ended {
            Ok(ended) => ended,
            Err(error) if boot < BOOTS && error.is::<guest::HalfPatched>() => {
                eprintln!(
                    "guest: {error:#}\nguest: {} cases are left for another",
                    cases.len()
                );
                continue;
            }
            Err(error) => format!("{error:#}"),
        };
        eprintln!("guest: {message}\n{said}");
        for case in &cases {
            let message = format!("the guest didn't report this case: {message}\n{said}");
            board.post(name(group.kernel, case), Err(message));
        }
        return;
    }
}

/// Boots a guest for these cases of the group. Returns the names of those that it reported, the last that it said on
/// standard error, and how it ended.
fn boot_for(
    board: &Board,
    group: &Group,
    cases: &[&Case],
    binary: &Path,
) -> (Vec<String>, String, anyhow::Result<String>) {
    let begun = Instant::now();
    let mut command = vec![PROGRAM.to_owned(), "play".to_owned()];
    command.extend(cases.iter().map(|case| case.name.clone()));
    let mut copies = vec![
        (PathBuf::from(PLAYER), PROGRAM),
        (conformance::FOLDER.into(), conformance::GUEST_FOLDER),
        (attacks::FOLDER.into(), attacks::GUEST_FOLDER),
    ];
    if cases.iter().any(|case| case.name == others::SELFTESTS) {
        match guest::selftests::folder() {
            Ok(folder) => copies.push((folder, others::SELFTESTS_FOLDER)),
            // Its case says that they aren't there.
            Err(error) => eprintln!("guest: {error:#}"),
        }
    }
    let limits: Duration = cases.iter().map(|case| case.limit).sum();
    let options = Options {
        root: match group.boot.root {
            Root::Memory => guest::Root::Initramfs,
            Root::Systemd => guest::Root::Systemd,
        },
        binary: Some(binary.to_owned()),
        copies: copies
            .into_iter()
            .map(|(host, guest)| Copy {
                host,
                guest: guest.into(),
            })
            .collect(),
        append: (!group.boot.append.is_empty()).then(|| group.boot.append.to_owned()),
        timeout: OVERHEAD + limits,
        memory_mib: MEMORY_MIB,
        ..Options::new(group.kernel, command)
    };
    let mut reports = Reports {
        board,
        kernel: group.kernel,
        line: Vec::new(),
        names: Vec::new(),
    };
    let mut said = Vec::new();
    let ended = guest::run(&options, &mut reports, &mut said).map(|outcome| {
        eprintln!(
            "guest: {} played {} cases in {:.1} s, {:.1} s of them its boot",
            outcome.release,
            reports.names.len(),
            begun.elapsed().as_secs_f32(),
            outcome.boot.as_secs_f32()
        );
        format!("its player ended with status {}", outcome.status)
    });
    let said = &said[said.len().saturating_sub(LAST_BYTES)..];
    let said = String::from_utf8_lossy(said).into_owned();
    (reports.names, said, ended)
}

/// Standard output of a guest.
struct Reports<'a> {
    board: &'a Board,
    kernel: Kernel,
    line: Vec<u8>,
    /// The cases that it reported.
    names: Vec<String>,
}

impl Write for Reports<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let Ok(report) = serde_json::from_slice::<Report>(&line) else {
                eprintln!("guest: {}", String::from_utf8_lossy(&line));
                continue;
            };
            let name = format!("{}::{}", self.kernel, report.name);
            self.board.took(&name, report.millis);
            self.names.push(report.name);
            let result = if report.ok {
                Ok(())
            } else {
                // What it is about at once; the whole of it comes at the very end.
                let first = report.message.lines().next().unwrap_or_default();
                eprintln!("guest: {name}: {first:.200}");
                Err(report.message)
            };
            self.board.post(name, result);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
