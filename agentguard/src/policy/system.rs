//! What the words of `[system]` mean: which of them a profile can loosen, what is lost by it, and which
//! capabilities can be named. The kernel's side of it is `agentguard_common::system`.

use agentguard_common::system::Operation;
use caps::Capability;

/// One operation of `[system]` as a person must know it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub operation: Operation,
    /// What it covers.
    pub covers: &'static str,
    /// Whether a profile can write something else than "deny".
    pub loosenable: bool,
    /// What is lost when it is loosened, or why it can't be.
    pub lost: &'static str,
}

/// Every operation, in the order of their numbers.
pub const ENTRIES: [Entry; Operation::ALL.len()] = [
    Entry {
        operation: Operation::Capabilities,
        covers: "using a capability (root's powers, one by one) that the list doesn't name, in any user namespace",
        loosenable: true,
        lost: "what the named capabilities protect; see the list below",
    },
    Entry {
        operation: Operation::IoUring,
        covers: "io_uring_setup, and using a registered personality in a ring (refused also where rings are allowed)",
        loosenable: true,
        lost: "rings pass descriptors to each other without a hook (IORING_OP_MSG_RING), and a held action can't be held in a ring",
    },
    Entry {
        operation: Operation::Userfaultfd,
        covers: "userfaultfd, by its system call or /dev/userfaultfd",
        loosenable: true,
        lost: "the agent can stop the kernel in the middle of reading its memory; no verdict depends on that, but kernel exploits do",
    },
    Entry {
        operation: Operation::UserNamespaces,
        covers: "unshare and clone with CLONE_NEWUSER",
        loosenable: true,
        lost: "much kernel code is reachable only from there; capabilities inside it still have to be named",
    },
    Entry {
        operation: Operation::Bpf,
        covers: "bpf(), and everything in the BPF file system",
        loosenable: false,
        lost: "AgentGuard's own programs and tables are reached by it",
    },
    Entry {
        operation: Operation::Perf,
        covers: "perf_event_open",
        loosenable: true,
        lost: "timing of other processes and much kernel code",
    },
    Entry {
        operation: Operation::Keyrings,
        covers: "add_key, request_key, keyctl on any key",
        loosenable: true,
        lost: "keys that a login left in the session's keyring, and /sbin/request-key, which runs as root outside of every cgroup",
    },
    Entry {
        operation: Operation::ModuleAutoload,
        covers: "the kernel calling modprobe because of what the agent does",
        loosenable: true,
        lost: "every module that can be asked for by name, with its bugs, is within reach",
    },
    Entry {
        operation: Operation::Cgroups,
        covers: "changing cgroup files and folders, except below the agent's own cgroup; CLONE_INTO_CGROUP; moving processes into a cgroup, its own included, for an agent that is root or owns the cgroup above its own and so could move others' as well",
        loosenable: false,
        lost: "the agent's limits and the second lock on its packets are on its cgroup, and who is in it is an agent",
    },
    Entry {
        operation: Operation::KernelFiles,
        covers: "changing sysctls and other files in /proc that belong to no process, sysfs, binfmt_misc, securityfs, efivarfs, configfs and the like; debugfs and tracefs altogether",
        loosenable: false,
        lost: "core_pattern, modprobe, uevent_helper, binfmt_misc and sysrq-trigger have the kernel act outside of every cgroup",
    },
    Entry {
        operation: Operation::BlockDevices,
        covers: "opening block devices",
        loosenable: true,
        lost: "every file on the device, past every rule",
    },
    Entry {
        operation: Operation::Devices,
        covers: "opening character devices, except terminals and null, zero, full, random, urandom",
        loosenable: true,
        lost: "whatever the device does (GPUs, KVM, FUSE, input injection, TUN); file rules on /dev still hold",
    },
    Entry {
        operation: Operation::OtherProcesses,
        covers: "changing the limits, scheduling, or files in /proc of processes that aren't the agent's; having the kernel signal anybody but oneself over a descriptor (F_SETOWN, F_SETOWN_EX, FIOSETOWN, SIOCSPGRP)",
        loosenable: false,
        lost: "the daemon, or anybody else's process, could be starved or killed with its own limits",
    },
    Entry {
        operation: Operation::RawSockets,
        covers: "raw internet sockets (CAP_NET_RAW must be named as well)",
        loosenable: true,
        lost: "headers of the agent's own making; where packets go is still judged",
    },
    Entry {
        operation: Operation::PacketSockets,
        covers: "packet sockets (CAP_NET_RAW must be named as well)",
        loosenable: true,
        lost: "the network rules: packets are sent and seen below everything that judges addresses",
    },
    Entry {
        operation: Operation::OtherSockets,
        covers: "sockets of every other family or protocol, and netlink's but for reading routes and addresses; ping, SCTP and vsock sockets have rules of their own",
        loosenable: true,
        lost: "the network rules, for what those families reach; AF_ALG and others are old friends of kernel exploits",
    },
    Entry {
        operation: Operation::Tun,
        covers: "attaching to a TUN or TAP device (its file is one of `devices`)",
        loosenable: true,
        lost: "the network rules: packets that are written to the device come from no socket",
    },
    Entry {
        operation: Operation::TerminalInput,
        covers: "the ioctls TIOCSTI and TIOCLINUX, which put characters into a terminal as if they were typed",
        loosenable: true,
        lost: "the shell of whoever started the agent on a terminal of their own runs what the agent types",
    },
    Entry {
        operation: Operation::ProcessList,
        covers: "reading files in /proc of processes that aren't the agent's: what ps, pgrep and top show of them",
        loosenable: true,
        lost: "the command lines of everybody, which often hold secrets",
    },
    Entry {
        operation: Operation::Ipc,
        covers: "using System V shared memory, queues and semaphores, the agent's own included, and message queues where their file system is mounted (mq_open is refused in any case)",
        loosenable: true,
        lost: "what other processes of the same user share in that way; PostgreSQL and fakeroot need it",
    },
];

/// Capabilities that no profile can name, and why.
const NEVER: [(Capability, &str); 9] = [
    (
        Capability::CAP_SYS_ADMIN,
        "it mounts, enters namespaces and does a hundred other things that take enforcement apart",
    ),
    (Capability::CAP_SYS_MODULE, "it puts code into the kernel"),
    (
        Capability::CAP_SYS_RAWIO,
        "it reaches the memory of the kernel and the hardware",
    ),
    (Capability::CAP_SYS_BOOT, "it boots another kernel (kexec)"),
    (Capability::CAP_SYS_CHROOT, "it changes what paths mean"),
    (Capability::CAP_BPF, "it reaches AgentGuard's own programs"),
    (
        Capability::CAP_MAC_ADMIN,
        "it changes the policies of security modules",
    ),
    (
        Capability::CAP_MAC_OVERRIDE,
        "it passes over the policies of security modules",
    ),
    (
        Capability::CAP_SYS_PACCT,
        "it has the kernel write to a file of its choice",
    ),
];

/// The entry of an operation.
pub fn entry(operation: Operation) -> &'static Entry {
    &ENTRIES[operation as usize]
}

/// Why a capability can't be named; `None` when it can.
pub fn never(capability: Capability) -> Option<&'static str> {
    NEVER
        .iter()
        .find(|(other, _)| *other == capability)
        .map(|(_, why)| *why)
}

/// The capability with this name (`CAP_CHOWN`).
pub fn capability(name: &str) -> Option<Capability> {
    name.parse().ok()
}

/// Names of the capabilities that can be named, in the kernel's order.
pub fn capability_names() -> Vec<String> {
    let mut all: Vec<_> = caps::all()
        .into_iter()
        .filter(|capability| never(*capability).is_none())
        .collect();
    all.sort_by_key(Capability::index);
    all.iter().map(ToString::to_string).collect()
}

/// The name of a capability by the kernel's number.
pub fn capability_name(number: u64) -> Option<String> {
    caps::all()
        .into_iter()
        .find(|capability| u64::from(capability.index()) == number)
        .map(|capability| capability.to_string())
}

/// The documentation of `[system]`, in Markdown. `docs/system.md` is this text; a test compares them.
pub fn document() -> String {
    use std::fmt::Write as _;

    let mut text = String::from(
        "# `[system]`: what an agent may do to the kernel itself\n\n\
         Everything here is denied unless the profile writes `\"allow\"` (or `\"ask\"`). An event of it has the action\n\
         `system.` and the word. `[system]` is the profile's own: `include` does not bring it. What can't be loosened\n\
         is refused in audit mode as well.\n\n\
         ```toml\n[system]\nio_uring = \"allow\"\ncapabilities = [\"CAP_CHOWN\", \"CAP_NET_BIND_SERVICE\"]\n```\n\n\
         | word | covers | can be loosened | lost by it, or why not |\n| --- | --- | --- | --- |\n",
    );
    for entry in &ENTRIES {
        let word = entry.operation.name();
        let loosenable = if entry.loosenable { "yes" } else { "no" };
        let _ = writeln!(
            text,
            "| `{word}` | {} | {loosenable} | {} |",
            entry.covers, entry.lost
        );
    }
    text.push_str(
        "\n## Capabilities\n\n\
         A root agent is left with what `capabilities` names and nothing else; an ordinary user's has none to begin\n\
         with. Uses of a named one are counted and not logged. systemd drops root's identity inside the unit's\n\
         cgroup: a unit of a tagged slice with `User=` needs `CAP_SETUID` and `CAP_SETGID`. `agentguard run` drops it\n\
         before. These can be named:\n\n",
    );
    let names: Vec<String> = capability_names()
        .iter()
        .map(|name| format!("`{name}`"))
        .collect();
    for line in names.chunks(4) {
        let _ = writeln!(text, "{},", line.join(", "));
    }
    // The list's last comma.
    text.truncate(text.trim_end().len() - 1);
    text.push_str(
        ".\n\nThese never, whatever a profile says, and in audit mode only the first and `CAP_SYS_CHROOT`:\n\n| capability | why |\n| --- | --- |\n",
    );
    for (capability, why) in NEVER {
        let _ = writeln!(text, "| `{capability}` | {why} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use agentguard_common::{Verdict, system::unnamed_capability};

    use super::*;

    #[test]
    fn every_operation_has_its_entry() {
        for (operation, entry) in Operation::ALL.into_iter().zip(&ENTRIES) {
            assert_eq!(operation, entry.operation);
            assert!(!entry.lost.is_empty() && !entry.covers.is_empty());
            assert_eq!(operation.is_never(), !entry.loosenable);
        }
    }

    /// What mounts and changes roots is told and let pass by audit mode; no other capability that can't be named is.
    #[test]
    fn audit_mode_lends_what_can_be_named_and_two_more() {
        for capability in caps::all() {
            let held = unnamed_capability(capability.index().into()) == Verdict::Never;
            let told = matches!(
                capability,
                Capability::CAP_SYS_ADMIN | Capability::CAP_SYS_CHROOT
            );
            assert_eq!(held, never(capability).is_some() && !told, "{capability}");
        }
    }

    #[test]
    fn capabilities_have_their_names() {
        assert_eq!(capability_name(21).as_deref(), Some("CAP_SYS_ADMIN"));
        assert_eq!(capability_name(63), None);
        assert!(capability("CAP_CHOWN").is_some_and(|capability| never(capability).is_none()));
        assert!(never(Capability::CAP_SYS_ADMIN).is_some());
        assert!(capability("chown").is_none());
        assert!(!capability_names().contains(&"CAP_BPF".to_owned()));
    }

    /// `UPDATE_DOCS=1 cargo test` writes it anew.
    #[test]
    fn the_documentation_is_what_the_program_does() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/system.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, document()).expect("written");
        }
        let written = std::fs::read_to_string(path).expect("docs/system.md");
        assert_eq!(
            written,
            document(),
            "run UPDATE_DOCS=1 cargo test -p agentguard"
        );
    }
}
