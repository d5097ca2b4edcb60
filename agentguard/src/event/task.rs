//! Other tasks as objects of events.

use agentguard_common::event::{Action, Target};
use serde::Serialize;

use super::text;
use crate::tables::Shared as _;

/// `PTRACE_MODE_ATTACH` (include/linux/ptrace.h): to change it and not only to look.
const ATTACH: u32 = 0x02;

/// A task that somebody reached for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Object {
    pub pid: u32,
    pub tid: u32,
    /// Start of its process on the boot clock; with `pid`, which process it is for good.
    pub start_ns: u64,
    pub comm: String,
    /// Number of the signal that it was to get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<u32>,
    /// What was to be done to it: `read`, `attach`, or `traceme` when it was asked to trace who acted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<[&'static str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<&'static str>,
}

impl Object {
    /// Reads a [`Target`]; `None` when it isn't one.
    pub fn decode(action: Action, bytes: &[u8]) -> Option<Self> {
        let target = Target::read(bytes)?;
        let (comm, escaped) = text::decode(text::padded(&target.comm));
        let is_signal = action == Action::ProcessSignal;
        let access = match target.detail {
            0 => "traceme",
            mode if mode & ATTACH != 0 => "attach",
            _ => "read",
        };
        Some(Self {
            pid: target.pid,
            tid: target.tid,
            start_ns: target.start_ns,
            comm,
            signal: is_signal.then_some(target.detail),
            access: (!is_signal).then_some([access]),
            encoding: escaped.then_some(text::ESCAPED),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(detail: u32) -> Target {
        Target {
            start_ns: 5,
            pid: 7,
            tid: 8,
            detail,
            padding: 0,
            comm: *b"sh\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        }
    }

    fn shown(action: Action, detail: u32) -> String {
        let object = Object::decode(action, target(detail).bytes()).expect("a target");
        serde_json::to_string(&object).expect("JSON")
    }

    #[test]
    fn signals_have_a_number_and_traces_a_kind() {
        assert_eq!(
            shown(Action::ProcessSignal, 9),
            r#"{"pid":7,"tid":8,"start_ns":5,"comm":"sh","signal":9}"#
        );
        for (mode, access) in [(0, "traceme"), (0x11, "read"), (0x12, "attach")] {
            assert_eq!(
                shown(Action::ProcessPtrace, mode),
                format!(r#"{{"pid":7,"tid":8,"start_ns":5,"comm":"sh","access":["{access}"]}}"#)
            );
        }
        assert_eq!(Object::decode(Action::ProcessSignal, &[0; 39]), None);
    }
}
