//! One question as people see it: what is asked, by which processes, and what a yes for good would allow. Made
//! from the kernel's record of it. Nothing is decided here.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use agentguard_common::{
    approval::{GrantKey, Note, Request, RequestKey, grant},
    event::{Action, ObjectKind, Reason},
};

use crate::{
    api::types::{self, AskingAncestor, AskingProcess},
    event::{Event, Process, net},
    policy::{Access, Destination, overlay::Thing},
    ring::{Record, record::action_name},
};

/// Longest text that an agent can put beside its question, in bytes.
pub const JUSTIFICATION_BYTES: usize = 1000;

/// A question that waits for one answer.
#[derive(Debug)]
pub struct Prompt {
    /// That of the first process that asked.
    pub id: u64,
    /// What every process that waits here has in common.
    pub object: GrantKey,
    pub request: Request,
    /// The event of the first request.
    pub event: Event,
    /// What would be allowed for good; else why nothing can be.
    pub thing: Result<Thing, &'static str>,
    pub shown: types::Approval,
    /// Who waits, and until when.
    pub waiting: BTreeMap<u64, RequestKey>,
}

impl Prompt {
    /// The question of a record about a held action.
    pub fn new(record: &Record, note: &Note, event: Event) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let id = note.request.id();
        let approval = event.approval.as_deref();
        let shown = types::Approval {
            id,
            agent: text(&event.agent),
            session: text(&event.session),
            profile: text(&event.profile),
            action: approval
                .and_then(|approval| approval.action)
                .unwrap_or(action_name(record.action))
                .to_owned(),
            object: event
                .object
                .as_ref()
                .and_then(|object| serde_json::to_value(object).ok())
                .unwrap_or_default(),
            rule: event
                .rule
                .clone()
                .unwrap_or_else(|| event.reason.unwrap_or("unknown").to_owned()),
            because: event.because.clone(),
            process: event
                .process
                .as_ref()
                .map(|process| asking(process, note.key.start_ns)),
            waiting: 0,
            asked: event.time.clone(),
            expires: approval
                .and_then(|approval| approval.expires.clone())
                .unwrap_or_default(),
            held: true,
            justification: None,
        };
        Self {
            id,
            object: note.key.grant(grant::OBJECT),
            request: note.request,
            thing: thing(record, note),
            event,
            shown,
            waiting: BTreeMap::new(),
        }
    }

    /// As the API shows it now.
    pub fn shown(&self) -> types::Approval {
        types::Approval {
            waiting: self.waiting.len(),
            ..self.shown.clone()
        }
    }

    /// The rule that asks; `None` where a `[default]` or `[system]` does.
    pub fn rule(&self) -> Option<&str> {
        (self.request.asking == Reason::Rule as u8)
            .then_some(self.event.rule.as_deref())
            .flatten()
    }
}

/// The process as people see it. It is stopped, so that what `/proc` says holds.
fn asking(process: &Process, start_ns: u64) -> AskingProcess {
    let proc = |name: &str| PathBuf::from(format!("/proc/{}/{name}", process.pid));
    let cwd = super::process::is(process.pid, start_ns)
        .then(|| fs::read_link(proc("cwd")).ok())
        .flatten();
    AskingProcess {
        pid: process.pid,
        exe: process.exe.clone(),
        args: process.args.clone().unwrap_or_default(),
        cwd: cwd.map(|path| crate::event::text::decode(path.as_os_str().as_encoded_bytes()).0),
        uid: process.uid,
        user: user(process.uid),
        ancestors: process
            .ancestors
            .iter()
            .map(|ancestor| AskingAncestor {
                pid: ancestor.pid,
                exe: ancestor.exe.clone(),
            })
            .collect(),
    }
}

/// A user's name. Read where it is written: what else may know names may take its time.
pub fn user(uid: u32) -> Option<String> {
    let text = fs::read(Path::new("/etc/passwd")).ok()?;
    String::from_utf8_lossy(&text).lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// What a rule would have to name for this to be allowed for good.
fn thing(record: &Record, note: &Note) -> Result<Thing, &'static str> {
    if note.request.asking == Reason::System as u8 || record.action == Action::System {
        return Err("[system] asks, and an overlay has rules alone; allow it there");
    }
    if record.partial {
        return Err("its name is longer than what is known of it");
    }
    let object = &record.object;
    match (record.object_kind, record.action) {
        (ObjectKind::Program, _) => {
            let mut strings = object.split(|byte| *byte == 0);
            let path = strings.next().unwrap_or_default().to_vec();
            let mut args: Vec<Vec<u8>> = strings.map(<[u8]>::to_vec).collect();
            // Each has its NUL, so that the piece after the last is none.
            args.pop();
            Ok(Thing::Exec {
                path,
                args: Some(args),
            })
        }
        (ObjectKind::Path, Action::Exec) => Ok(Thing::Exec {
            path: object.clone(),
            args: None,
        }),
        (ObjectKind::Path, _) => {
            let verbs = record.header.verbs;
            let access: Vec<Access> = Access::ALL
                .into_iter()
                .filter(|access| verbs & 1 << access.verb() != 0)
                .collect();
            if access.is_empty() {
                return Err("it is no access that rules are about");
            }
            Ok(Thing::File {
                path: object.clone(),
                access,
            })
        }
        (ObjectKind::Address, Action::NetConnect | Action::NetSend) => {
            destination(object).map(Thing::Connect)
        }
        (ObjectKind::Address, Action::NetListen) => destination(object).map(Thing::Listen),
        (ObjectKind::Unix, _) => Ok(Thing::Connect(Destination::Unix(object.clone()))),
        (ObjectKind::Names, _) => Err("it has two names, and an exception is for one"),
        _ => Err("no rule can name it"),
    }
}

fn destination(bytes: &[u8]) -> Result<Destination, &'static str> {
    let unknown = "no rule can name its address";
    let protocol = *bytes.first().ok_or(unknown)?;
    let object = net::Object::decode(bytes).ok_or(unknown)?;
    if object.protocol == "vsock" {
        return Ok(Destination::Vsock {
            cid: object.address.parse().map_err(|_| unknown)?,
            port: object.port,
        });
    }
    Ok(Destination::Inet {
        protocol,
        address: object.address.parse::<IpAddr>().map_err(|_| unknown)?,
        port: u16::try_from(object.port).map_err(|_| unknown)?,
    })
}
