//! How long it takes from a record of the kernel to its line in the log, and how long to verify the lines. Neither the
//! ring nor what the daemon keeps of events for itself is in it.

use std::{path::Path, sync::Arc};

use agentguard::{
    config::Config,
    event::{Clock, Processes, clock::boot_ns, enrich},
    names::{AgentNames, InstallNames, Names, ProfileNames, RuleNames},
    ring::Record,
    sink::{Log, Sinks, verify::verify},
    tables::Shared as _,
};
use agentguard_common::{
    Outcome, Verdict,
    address::{ENCODED_BYTES, encode_v4},
    event::{Action, ObjectKind, Process, Reason, RecordHeader, SHORT_OBJECT, kind},
    limits::{ARGS_BYTES, EXE_BYTES},
};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

/// Events in a log before the next one is begun.
const EVENTS: usize = 1_000;
/// The number of the agent, the slot of its profile and the number of the installation.
const AGENT: u64 = 3;
const SLOT: u32 = 2;
const INSTALL: u32 = 1;

fn records(criterion: &mut Criterion) {
    let names = names();
    let clock = Arc::new(Clock::new());
    let mut address = [0; ENCODED_BYTES];
    let len = encode_v4(
        &mut address,
        libc::IPPROTO_TCP as u8,
        [203, 0, 113, 81],
        443,
    );
    let mut group = criterion.benchmark_group("records");
    for (name, record) in [
        (
            "open, allowed",
            record(
                Action::FileOpen,
                Outcome::new(Verdict::Allow, false, 0),
                (ObjectKind::Path, b"/home/alice/work/project/src/main.rs"),
            ),
        ),
        (
            "connect, denied",
            record(
                Action::NetConnect,
                Outcome::new(Verdict::Deny, false, 1),
                (ObjectKind::Address, &address[..len]),
            ),
        ),
    ] {
        let mut processes = Processes::default();
        let mut event = || {
            let record = Record::decode(&record).expect("a record");
            enrich::event(&record, &names, &clock, &mut processes)
        };
        println!("{name}: {}", event().line(1));
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("{name}: a line in memory"), |bencher| {
            bencher.iter(|| event().line(1));
        });
        group.throughput(Throughput::Elements(EVENTS as u64));
        group.bench_function(format!("{name}: a line in a file"), |bencher| {
            let log = || {
                let directory = tempfile::tempdir().expect("a folder");
                (sinks(directory.path(), &clock), directory)
            };
            bencher.iter_batched_ref(
                log,
                |(sinks, _)| {
                    for _ in 0..EVENTS {
                        sinks.emit(&event());
                    }
                },
                BatchSize::PerIteration,
            );
        });
        let directory = tempfile::tempdir().expect("a folder");
        let mut sinks = sinks(directory.path(), &clock);
        for _ in 0..EVENTS {
            sinks.emit(&event());
        }
        group.bench_function(format!("{name}: verified"), |bencher| {
            bencher.iter(|| verify(directory.path(), &[]).expect("as it was written"));
        });
    }
    group.finish();
}

/// A log in the folder, as the daemon writes it.
fn sinks(directory: &Path, clock: &Arc<Clock>) -> Sinks {
    let (log, _) = Log::open(directory, EVENTS).expect("a log");
    let rotation = Config::default().log.rotation();
    Sinks::new(log, Arc::clone(clock), rotation)
}

/// What the numbers of the records stand for.
fn names() -> Names {
    let names = Names::default();
    names.set_agent(
        AGENT,
        AgentNames {
            name: "alice".to_owned(),
            session: "01JCXH5B0Q8N6T3V9W2Y4Z7A1C".to_owned(),
            profile: "coding".to_owned(),
            slot: SLOT,
        },
    );
    let rule = |id: &str, because: Option<&str>| RuleNames {
        id: id.to_owned(),
        because: because.map(str::to_owned),
    };
    names.add(InstallNames {
        install: INSTALL,
        profiles: vec![ProfileNames {
            slot: SLOT,
            name: "coding".to_owned(),
            description: None,
            mode: "enforce".to_owned(),
            log_first: false,
            source: "/etc/agentguard/policies/coding.toml".into(),
            digest: String::new(),
            rules: vec![
                rule("work", None),
                rule("internet", Some("Only hosts that are named.")),
            ],
            literals: Vec::new(),
        }],
    });
    names
}

/// A record as the kernel writes it, of a process below this one.
fn record(action: Action, outcome: Outcome, (object_kind, object): (ObjectKind, &[u8])) -> Vec<u8> {
    let header = RecordHeader {
        kind: kind::ACTION,
        reserved: 0,
        len_bytes: (size_of::<RecordHeader>() + SHORT_OBJECT + size_of::<Process>()) as u32,
        boot_ns: boot_ns(),
        agent: AGENT,
        inode: 0,
        device: 0,
        install: INSTALL,
        outcome: outcome.0,
        slot: SLOT,
        object_bytes: object.len() as u32,
        // Reading; of a connection, the only verb there is.
        verbs: 1,
        verb: 0,
        action: action as u8,
        reason: Reason::Rule as u8,
        object_kind: object_kind as u8,
        flags: 0,
        hook: 1,
        padding: [0; 5],
    };
    let exe = b"/usr/bin/node";
    let args = b"node\0--run\0build\0";
    let mut process = Process {
        start_ns: boot_ns(),
        pid: 4_000_812,
        tid: 4_000_812,
        ppid: std::process::id(),
        uid: 1000,
        gid: 1000,
        exe_bytes: exe.len() as u16,
        args_bytes: args.len() as u16,
        cut: 0,
        padding: [0; 7],
        comm: *b"node\0\0\0\0\0\0\0\0\0\0\0\0",
        exe: [0; EXE_BYTES],
        args: [0; ARGS_BYTES],
    };
    process.exe[..exe.len()].copy_from_slice(exe);
    process.args[..args.len()].copy_from_slice(args);
    let mut bytes = header.bytes().to_vec();
    bytes.extend_from_slice(object);
    bytes.resize(size_of::<RecordHeader>() + SHORT_OBJECT, 0);
    bytes.extend_from_slice(process.bytes());
    bytes
}

criterion_group!(benches, records);
criterion_main!(benches);
