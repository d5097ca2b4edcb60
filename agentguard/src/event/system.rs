//! Operations on the kernel itself as objects of events.

use agentguard_common::system::Operation;
use serde::Serialize;

use crate::policy::system::capability_name;

/// What is known of an operation that has neither a path nor a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Object {
    /// The capability that was to be used; its number where it has no name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
    /// The command of `bpf()` (include/uapi/linux/bpf.h, `enum bpf_cmd`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<u64>,
    /// The family of a socket (include/linux/socket.h, `AF_*`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<u64>,
}

impl Object {
    /// Reads a detail; `None` when it isn't one, or says nothing of this operation.
    pub fn decode(operation: Operation, bytes: &[u8]) -> Option<Self> {
        let number = u64::from_ne_bytes(bytes.try_into().ok()?);
        let nothing = Self {
            capability: None,
            command: None,
            family: None,
        };
        Some(match operation {
            Operation::Capabilities => Self {
                capability: Some(capability_name(number).unwrap_or_else(|| number.to_string())),
                ..nothing
            },
            Operation::Bpf => Self {
                command: Some(number),
                ..nothing
            },
            Operation::RawSockets | Operation::PacketSockets | Operation::OtherSockets => Self {
                family: Some(number),
                ..nothing
            },
            _ => return None,
        })
    }
}

/// The action of an operation's events.
pub const fn action(operation: Operation) -> &'static str {
    match operation {
        Operation::Capabilities => "system.capabilities",
        Operation::IoUring => "system.io_uring",
        Operation::Userfaultfd => "system.userfaultfd",
        Operation::UserNamespaces => "system.user_namespaces",
        Operation::Bpf => "system.bpf",
        Operation::Perf => "system.perf",
        Operation::Keyrings => "system.keyrings",
        Operation::ModuleAutoload => "system.module_autoload",
        Operation::Cgroups => "system.cgroups",
        Operation::KernelFiles => "system.kernel_files",
        Operation::BlockDevices => "system.block_devices",
        Operation::Devices => "system.devices",
        Operation::OtherProcesses => "system.other_processes",
        Operation::RawSockets => "system.raw_sockets",
        Operation::PacketSockets => "system.packet_sockets",
        Operation::OtherSockets => "system.other_sockets",
        Operation::Tun => "system.tun",
        Operation::TerminalInput => "system.terminal_input",
        Operation::ProcessList => "system.process_list",
        Operation::Ipc => "system.ipc",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_the_words_of_policies() {
        for operation in Operation::ALL {
            assert_eq!(action(operation), format!("system.{}", operation.name()));
        }
    }

    #[test]
    fn numbers_get_names_where_there_are_some() {
        let decode = |operation, number: u64| {
            Object::decode(operation, &number.to_ne_bytes())
                .map(|object| serde_json::to_string(&object).expect("JSON"))
        };
        assert_eq!(
            decode(Operation::Capabilities, 21).as_deref(),
            Some(r#"{"capability":"CAP_SYS_ADMIN"}"#)
        );
        assert_eq!(
            decode(Operation::Capabilities, 63).as_deref(),
            Some(r#"{"capability":"63"}"#)
        );
        assert_eq!(
            decode(Operation::Bpf, 7).as_deref(),
            Some(r#"{"command":7}"#)
        );
        assert_eq!(
            decode(Operation::OtherSockets, 38).as_deref(),
            Some(r#"{"family":38}"#)
        );
        assert_eq!(decode(Operation::Perf, 0), None);
        assert_eq!(Object::decode(Operation::Bpf, &[0; 7]), None);
    }
}
