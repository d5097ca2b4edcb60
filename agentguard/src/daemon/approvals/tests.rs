use std::time::Duration;

use agentguard_common::{
    Outcome, Verdict,
    approval::{Note, cause},
    event::{Action, ObjectKind, Reason, kind},
};

use super::*;
use crate::{
    api::types::Change,
    event::{Clock, Processes, enrich},
    names::Names,
    policy::{Access, Destination, overlay::Thing},
    ring::record::tests::sample,
    tables::Shared as _,
};

/// A held action of this process, as the kernel would tell of it.
fn held(id: u64, object: [u64; 2], change: impl FnOnce(&mut Record)) -> Record {
    let outcome = Outcome::new(Verdict::Ask, false, 0);
    let bytes = sample(b"/srv/key", outcome, Reason::Held, Action::FileOpen);
    let mut record = Record::decode(&bytes).expect("a record");
    record.held = true;
    let pid = std::process::id();
    let ticks = rustix::param::clock_ticks_per_second();
    let began = process::ticks_of(pid).expect("this process is there");
    record.note = Some(Note {
        key: RequestKey {
            agent: 3,
            // Each has a process of its own.
            start_ns: began * (1_000_000_000 / ticks) + id,
            object,
            pid,
            action: Action::FileOpen as u8,
            verbs: 1,
            padding: [0; 2],
        },
        request: Request {
            word: Request::word(id, WAITING),
            leader: id,
            deadline_boot_ns: 1_000 * id,
            outcome: outcome.0,
            install: 1,
            asking: Reason::Rule as u8,
            ..Request::default()
        },
        grant: 0,
    });
    change(&mut record);
    record
}

fn prompt(record: &Record) -> Prompt {
    let event = enrich::event(
        record,
        &Names::default(),
        &Clock::new(),
        &mut Processes::default(),
    );
    Prompt::new(record, record.note.as_ref().expect("a note"), event)
}

struct Book {
    approvals: Approvals,
    told: broadcast::Receiver<Change>,
    _directory: tempfile::TempDir,
    _notices: mpsc::UnboundedReceiver<Notice>,
}

impl Book {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (notices, received) = mpsc::unbounded_channel();
        let files = Files::new(directory.path()).expect("made");
        let approvals = Approvals::new(files, notices);
        Self {
            told: approvals.changes(),
            approvals,
            _directory: directory,
            _notices: received,
        }
    }

    fn add(&mut self, record: &Record) -> (RequestKey, bool) {
        let note = record.note.expect("a note");
        let process = Process::of(note.key).expect("this process is there");
        let new = self
            .approvals
            .add(note.key, &note.request, process, prompt(record));
        (note.key, new)
    }

    fn told(&mut self) -> Vec<Change> {
        std::iter::from_fn(|| self.told.try_recv().ok()).collect()
    }
}

#[tokio::test]
async fn identical_requests_share_a_prompt_until_the_last_is_gone() {
    let mut book = Book::new();
    let (first, new) = book.add(&held(7, [1, 2], |_| {}));
    assert!(new);
    let (second, new) = book.add(&held(8, [1, 2], |_| {}));
    assert!(!new);
    let (other, new) = book.add(&held(9, [1, 3], |_| {}));
    assert!(new);
    let ids: Vec<u64> = book.approvals.prompts().map(|prompt| prompt.id).collect();
    assert_eq!(ids, [7, 9]);
    let waiting: Vec<usize> = book
        .told()
        .iter()
        .map(|change| match change {
            Change::Asked(approval) => approval.waiting,
            _ => 0,
        })
        .collect();
    assert_eq!(waiting, [1, 2, 1]);
    // The earliest deadline is what is due next.
    assert_eq!(book.approvals.next_due(), Some(7_000 + AFTER_NS));
    assert!(
        book.approvals
            .take(first)
            .is_some_and(|(_, last)| last.is_none())
    );
    let last = book.approvals.take(second).and_then(|(_, last)| last);
    assert_eq!(last.map(|prompt| prompt.id), Some(7));
    assert_eq!(book.approvals.next_due(), Some(9_000 + AFTER_NS));
    assert!(book.approvals.take(other).is_some());
    assert!(book.approvals.take(other).is_none());
    assert_eq!(book.approvals.next_due(), None);
}

#[tokio::test]
async fn what_stands_answers_and_what_is_over_does_not() {
    let mut book = Book::new();
    let record = held(7, [1, 2], |_| {});
    let asked = prompt(&record);
    assert!(book.approvals.standing(&asked, 5).is_none());
    let grant = |until_boot_ns, cause| Grant {
        until_boot_ns,
        id: 4,
        cause,
        ..Grant::default()
    };
    let note = record.note.expect("a note");
    let refusal = note.key.grant(grant::REFUSAL);
    book.approvals
        .grants
        .insert(refusal, grant(10, cause::PERSON));
    let standing = |book: &Book, now| {
        let found = book.approvals.standing(&asked, now);
        found.map(|(key, _)| key.kind)
    };
    assert_eq!(standing(&book, 9), Some(grant::REFUSAL));
    assert_eq!(standing(&book, 10), None);
    // A yes to the object, and one to the whole rule, come before.
    book.approvals
        .grants
        .insert(note.key.grant(grant::OBJECT), grant(10, 0));
    assert_eq!(standing(&book, 9), Some(grant::OBJECT));
    let rule = rule_key(&note.request, 3, note.key.action);
    book.approvals.grants.insert(rule, grant(u64::MAX, 0));
    assert_eq!(standing(&book, 9), Some(grant::RULE));
    // What ends by itself is due; what lasts isn't.
    assert_eq!(book.approvals.next_due(), Some(10));
    // Another object of the same rule, and the same of another agent.
    let other = prompt(&held(8, [9, 9], |_| {}));
    assert!(book.approvals.standing(&other, 9).is_some());
    let other = prompt(&held(8, [1, 2], |record| {
        record.note.as_mut().expect("a note").key.agent = 4;
    }));
    assert!(book.approvals.standing(&other, 9).is_none());
}

#[test]
fn a_default_is_known_by_its_action_and_verb() {
    let request = Request {
        outcome: Outcome::new(Verdict::Ask, false, Outcome::DEFAULT_RULE).0,
        install: 5,
        verb: 2,
        asking: Reason::Default as u8,
        ..Request::default()
    };
    let key = rule_key(&request, 3, 9);
    assert_eq!(
        (key.rule, key.action, key.verbs),
        (Outcome::DEFAULT_RULE, 9, 4)
    );
    let system = Request {
        verb: 10,
        asking: Reason::System as u8,
        ..request
    };
    assert_eq!(rule_key(&system, 3, 9).verbs, 10);
    let rule = Request {
        outcome: Outcome::new(Verdict::Ask, false, 6).0,
        asking: Reason::Rule as u8,
        ..request
    };
    let key = rule_key(&rule, 3, 9);
    assert_eq!((key.rule, key.action, key.verbs, key.install), (6, 0, 0, 5));
}

#[test]
fn records_are_kept_for_a_later_daemon() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = Files::new(directory.path()).expect("made");
    let record = held(7, [1, 2], |_| {});
    let note = record.note.expect("a note");
    let outcome = Outcome::new(Verdict::Ask, false, 0);
    let mut bytes = sample(b"/srv/key", outcome, Reason::Held, Action::FileOpen);
    bytes.extend_from_slice(note.bytes());
    let length = bytes.len() as u32;
    bytes[..2].copy_from_slice(&kind::APPROVAL.to_le_bytes());
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    for id in [7, 8, 9] {
        files.write(id, &bytes).expect("written");
    }
    assert_eq!(files.read(7).and_then(|record| record.note), Some(note));
    // Another request's record, and a torn one.
    assert!(files.read(8).is_none());
    files.write(9, &bytes[..100]).expect("written");
    assert!(files.read(9).is_none());
    files.retain(|id| id == 7).expect("removed");
    assert_eq!(
        fs::read_dir(directory.path().join("requests"))
            .expect("read")
            .count(),
        1
    );
    files.remove(7);
    files.remove(7);
    assert!(files.read(7).is_none());
}

#[test]
fn what_can_be_allowed_for_good_is_what_was_asked() {
    let thing = |change: &dyn Fn(&mut Record)| prompt(&held(7, [1, 2], change)).thing;
    assert_eq!(
        thing(&|_| {}),
        Ok(Thing::File {
            path: b"/srv/key".to_vec(),
            access: vec![Access::Read],
        })
    );
    assert_eq!(
        thing(&|record| {
            record.action = Action::Exec;
            record.object_kind = ObjectKind::Program;
            record.object = b"/usr/bin/git\0push\0\0".to_vec();
        }),
        Ok(Thing::Exec {
            path: b"/usr/bin/git".to_vec(),
            args: Some(vec![b"push".to_vec(), Vec::new()]),
        })
    );
    assert_eq!(
        thing(&|record| {
            record.action = Action::NetConnect;
            record.object_kind = ObjectKind::Address;
            let mut bytes = [0; agentguard_common::address::ENCODED_BYTES];
            let len = agentguard_common::address::encode_v4(&mut bytes, 6, [192, 0, 2, 1], 443);
            record.object = bytes[..len].to_vec();
        }),
        Ok(Thing::Connect(Destination::Inet {
            protocol: 6,
            address: "192.0.2.1".parse().expect("an address"),
            port: 443,
        }))
    );
    assert!(thing(&|record| record.partial = true).is_err());
    assert!(
        thing(&|record| {
            record.note.as_mut().expect("a note").request.asking = Reason::System as u8;
        })
        .is_err()
    );
}

#[tokio::test]
async fn the_end_of_a_process_is_told() {
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .expect("started");
    let ticks = rustix::param::clock_ticks_per_second();
    let key = RequestKey {
        pid: child.id(),
        start_ns: process::ticks_of(child.id()).expect("there") * (1_000_000_000 / ticks),
        ..RequestKey::default()
    };
    let process = Process::of(key).expect("there");
    // Another process that had this number before is not it.
    assert!(
        Process::of(RequestKey {
            start_ns: key.start_ns - 1_000_000_000,
            ..key
        })
        .is_none()
    );
    let (sender, mut notices) = mpsc::unbounded_channel();
    let _watched = process.watch(key, sender).expect("watched");
    let early = tokio::time::timeout(Duration::from_millis(50), notices.recv()).await;
    assert!(early.is_err());
    child.kill().expect("killed");
    child.wait().expect("ended");
    let told = tokio::time::timeout(Duration::from_secs(20), notices.recv()).await;
    assert!(matches!(told, Ok(Some(Notice::Ended(ended))) if ended == key));
    // Nothing happens to anybody.
    process.resume();
    assert!(Process::of(key).is_none());
}
