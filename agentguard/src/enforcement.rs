//! What rests on which hook: one table, by which the start knows what it can't do without, policies are refused
//! that need more than the kernel gives, and `status`, `doctor` and the documentation say what is enforced.

use std::fmt;

use agentguard_common::{counter::Hook, profile::Subject, system::Operation};
use serde::{Deserialize, Serialize};

use crate::policy::{Access, Capabilities, system};

/// Something that is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Who is an agent: the label, in children and in programs that are started.
    Label,
    File(Access),
    Exec,
    /// What programs are run with.
    Args,
    /// Internet and Unix sockets.
    Connect,
    Listen,
    /// Signals to others.
    Signal,
    /// Looking into others.
    Trace,
    System(Operation),
}

use Verb::{Args, Connect, Exec, File, Label, Listen, Signal, System, Trace};

const READ: Verb = File(Access::Read);
const WRITE: Verb = File(Access::Write);
const CREATE: Verb = File(Access::Create);
const DELETE: Verb = File(Access::Delete);
const METADATA: Verb = File(Access::Metadata);
const CGROUPS: Verb = System(Operation::Cgroups);
const KERNEL_FILES: Verb = System(Operation::KernelFiles);
const BPF: Verb = System(Operation::Bpf);
const IPC: Verb = System(Operation::Ipc);
const OTHER_PROCESSES: Verb = System(Operation::OtherProcesses);

/// What rests on a hook. Where one of several hooks sees an action first, it is the one that is meant.
pub const fn serves(hook: Hook) -> &'static [Verb] {
    match hook {
        Hook::TaskAlloc => &[Label, CGROUPS],
        Hook::FileOpen => &[
            READ,
            WRITE,
            CREATE,
            BPF,
            CGROUPS,
            KERNEL_FILES,
            System(Operation::BlockDevices),
            System(Operation::Devices),
            OTHER_PROCESSES,
            System(Operation::ProcessList),
            IPC,
        ],
        Hook::FileReceive => &[READ, WRITE],
        Hook::BprmCheckSecurity => &[Exec, Args],
        Hook::MmapFile | Hook::FileMprotect | Hook::BprmCredsForExec => &[Exec],
        Hook::BprmCommittingCreds => &[Args],
        Hook::BprmCommittedCreds => &[Label],
        Hook::PathMknod | Hook::PathSymlink => &[CREATE, BPF, KERNEL_FILES],
        Hook::PathMkdir => &[CREATE, BPF, CGROUPS, KERNEL_FILES],
        Hook::PathLink => &[READ, CREATE, BPF],
        Hook::PathRename => &[CREATE, DELETE, BPF, CGROUPS],
        Hook::PathUnlink => &[DELETE, BPF, KERNEL_FILES],
        Hook::PathRmdir => &[DELETE, BPF, CGROUPS, KERNEL_FILES],
        Hook::PathTruncate => &[WRITE, KERNEL_FILES],
        Hook::PathChmod | Hook::PathChown => &[METADATA, BPF, CGROUPS, KERNEL_FILES],
        Hook::InodeSetattr
        | Hook::InodeSetxattr
        | Hook::InodeRemovexattr
        | Hook::InodeSetAcl
        | Hook::InodeRemoveAcl
        | Hook::InodeFileSetattr => &[METADATA],
        Hook::FileIoctl | Hook::FileIoctlCompat => {
            &[METADATA, System(Operation::TerminalInput), OTHER_PROCESSES]
        }
        Hook::InodeReadlink | Hook::PathNotify => &[READ],
        Hook::SocketCreate => &[
            Connect,
            System(Operation::RawSockets),
            System(Operation::PacketSockets),
            System(Operation::OtherSockets),
        ],
        Hook::SocketSendmsg => &[
            Connect,
            System(Operation::PacketSockets),
            System(Operation::OtherSockets),
        ],
        Hook::SocketPostCreate => &[Connect, Listen],
        Hook::SocketConnect
        | Hook::SocketSetsockopt
        | Hook::SctpBindConnect
        | Hook::UnixStreamConnect
        | Hook::UnixMaySend
        | Hook::CgroupEgress
        | Hook::CgroupConnect4
        | Hook::CgroupConnect6
        | Hook::CgroupSendmsg4
        | Hook::CgroupSendmsg6
        | Hook::CgroupRecvmsg4
        | Hook::CgroupRecvmsg6
        | Hook::CgroupGetpeername4
        | Hook::CgroupGetpeername6 => &[Connect],
        Hook::SocketBind | Hook::SocketListen | Hook::SocketAccept | Hook::CgroupIngress => {
            &[Listen]
        }
        Hook::TunDevAttach => &[System(Operation::Tun)],
        Hook::TaskKill => &[Signal],
        Hook::PtraceAccessCheck | Hook::PtraceTraceme => &[Trace],
        Hook::Capable => &[System(Operation::Capabilities)],
        Hook::UsernsCreate => &[System(Operation::UserNamespaces)],
        Hook::InodeInitSecurityAnon => {
            &[System(Operation::IoUring), System(Operation::Userfaultfd)]
        }
        Hook::UringOverrideCreds => &[System(Operation::IoUring), System(Operation::Capabilities)],
        Hook::Bpf => &[BPF],
        Hook::PerfEventOpen => &[System(Operation::Perf)],
        Hook::KeyAlloc | Hook::KeyPermission => &[System(Operation::Keyrings)],
        Hook::IpcPermission
        | Hook::MsgQueueMsgctl
        | Hook::ShmShmctl
        | Hook::SemSemctl
        | Hook::InodeUnlink => &[IPC],
        Hook::KernelModuleRequest => &[System(Operation::ModuleAutoload)],
        Hook::TaskPrlimit
        | Hook::TaskSetscheduler
        | Hook::TaskSetnice
        | Hook::TaskSetioprio
        | Hook::FileFcntl => &[OTHER_PROCESSES],
    }
}

/// The hook that sees the same on kernels that don't have this one; `None` of a hook that all of them have.
pub const fn instead(hook: Hook) -> Option<Hook> {
    match hook {
        // KERNEL: from 6.2 on ACLs don't come as extended attributes any more (mainline 72b6ff2f0b87 and
        // others of that series).
        Hook::InodeSetAcl => Some(Hook::InodeSetxattr),
        Hook::InodeRemoveAcl => Some(Hook::InodeRemovexattr),
        // KERNEL: before 6.17 there is no other call than ioctl (mainline be7efb2d20d6, 276e136bff7e).
        Hook::InodeFileSetattr => Some(Hook::FileIoctl),
        // KERNEL: before 6.14 nobody can ask without running it (mainline a5874fde3c08).
        Hook::BprmCredsForExec => Some(Hook::BprmCheckSecurity),
        _ => None,
    }
}

impl Verb {
    /// Everything that is judged.
    pub fn all() -> impl Iterator<Item = Self> {
        let files = Access::ALL.into_iter().map(File);
        let rest = [Exec, Args, Connect, Listen, Signal, Trace];
        [Label]
            .into_iter()
            .chain(files)
            .chain(rest)
            .chain(Operation::ALL.into_iter().map(System))
    }

    /// The hooks that it rests on.
    pub fn hooks(self) -> impl Iterator<Item = Hook> {
        Hook::ALL
            .into_iter()
            .filter(move |hook| serves(*hook).contains(&self))
    }

    /// Whether it is enforced whatever a profile says.
    pub fn is_always(self) -> bool {
        match self {
            Label | Signal | Trace => true,
            // Mounts and namespaces are never allowed, and nothing else stops them.
            System(Operation::Capabilities) => true,
            System(operation) => !system::entry(operation).loosenable,
            File(_) | Exec | Args | Connect | Listen => false,
        }
    }

    /// Whether a rule, a default or `[system]` can ask about it, so that it waits for an answer. Not every way to do it
    /// can wait: those that can't are refused, and their events say so.
    pub fn holds(self) -> bool {
        match self {
            File(_) | Exec | Args | Connect | Listen => true,
            System(operation) => operation != Operation::Capabilities && !self.is_always(),
            Label | Signal | Trace => false,
        }
    }

    /// The subjects of rules whose verdicts these are.
    fn subjects(self) -> &'static [Subject] {
        match self {
            File(_) => &[Subject::File],
            Exec => &[Subject::Exec],
            Args => &[Subject::Args],
            Connect => &[Subject::Connect, Subject::Unix, Subject::Name],
            Listen => &[Subject::Listen],
            Label | Signal | Trace | System(_) => &[],
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Label => f.write_str("label"),
            File(access) => write!(f, "file.{}", access.name()),
            Exec => f.write_str("exec"),
            Args => f.write_str("args"),
            Connect => f.write_str("connect"),
            Listen => f.write_str("listen"),
            Signal => f.write_str("process.signal"),
            Trace => f.write_str("process.ptrace"),
            System(operation) => write!(f, "system.{}", operation.name()),
        }
    }
}

/// Of the hooks that a kernel lacks, those for which another one sees the same are no loss.
pub fn lost(absent: &[Hook]) -> impl Iterator<Item = Hook> {
    absent
        .iter()
        .copied()
        .filter(|hook| instead(*hook).is_none_or(|instead| absent.contains(&instead)))
}

/// Of the hooks that a kernel lacks, those without which nothing can be enforced.
pub fn fatal(absent: &[Hook]) -> impl Iterator<Item = Hook> {
    lost(absent).filter(|hook| serves(*hook).iter().any(|verb| verb.is_always()))
}

/// What a kernel enforces that lacks these hooks.
pub fn capabilities(kernel: &str, absent: &[Hook]) -> Capabilities {
    let mut capabilities = Capabilities::of_kernel(kernel);
    for hook in lost(absent) {
        for verb in serves(hook) {
            match verb {
                System(operation) => {
                    capabilities = capabilities.without_operation(*operation, hook.name());
                }
                verb => {
                    let access = match verb {
                        File(access) => *access,
                        _ => Access::Read,
                    };
                    for subject in verb.subjects() {
                        capabilities = capabilities.without(*subject, access, hook.name());
                    }
                }
            }
        }
    }
    capabilities
}

/// What a verb rests on, and whether all of that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foundation {
    /// `file.read`, `connect`, `system.perf`, ...
    pub verb: String,
    /// The hooks by the kernel's names, those that this kernel has.
    pub hooks: Vec<String>,
    /// What is missing; empty when the verb is enforced.
    pub missing: Vec<String>,
    /// What this kernel lacks without loss.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<Absent>,
    /// Whether an action can wait until somebody answers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub holds: bool,
}

/// A hook that a kernel lacks without loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    pub hook: String,
    /// The hook that sees the same on such a kernel.
    pub instead: String,
}

impl Foundation {
    /// What every verb rests on. `absent` are the hooks that the kernel lacks, and `attached` says of another one
    /// whether it is in force.
    pub fn all(absent: &[Hook], attached: impl Fn(Hook) -> bool) -> Vec<Self> {
        let lost: Vec<Hook> = lost(absent).collect();
        let name = |hook: Hook| hook.name().to_owned();
        Verb::all()
            .map(|verb| Self {
                verb: verb.to_string(),
                holds: verb.holds(),
                hooks: verb
                    .hooks()
                    .filter(|hook| !absent.contains(hook))
                    .map(name)
                    .collect(),
                missing: verb
                    .hooks()
                    .filter(|hook| {
                        lost.contains(hook) || !absent.contains(hook) && !attached(*hook)
                    })
                    .map(name)
                    .collect(),
                absent: verb
                    .hooks()
                    .filter(|hook| absent.contains(hook) && !lost.contains(hook))
                    .filter_map(|hook| {
                        Some(Absent {
                            hook: name(hook),
                            instead: name(instead(hook)?),
                        })
                    })
                    .collect(),
            })
            .collect()
    }
}

/// The table, in Markdown. `docs/enforcement.md` is this text; a test compares them.
pub fn document() -> String {
    use std::fmt::Write as _;

    let mut text = String::from(
        "# What is enforced, and what it rests on\n\n\
         Each verb, and the kernel's hooks that see what it is about. `agentguard status` says whether all of them are\n\
         attached; `agentguard doctor` says what a kernel lacks. Without the hooks of verbs that are *always* enforced the\n\
         daemon doesn't start; without others, profiles that restrict the verb are refused, by rule and hook.\n\n\
         | verb | always | rests on |\n| --- | --- | --- |\n",
    );
    for verb in Verb::all() {
        let always = if verb.is_always() { "yes" } else { "" };
        let hooks: Vec<String> = verb
            .hooks()
            .map(|hook| format!("`{}`", hook.name()))
            .collect();
        let _ = writeln!(text, "| `{verb}` | {always} | {} |", hooks.join(", "));
    }
    text.push_str(
        "\nNot every kernel has these; on those without them another one sees the same:\n\n\
         | hook | without it |\n| --- | --- |\n",
    );
    for hook in Hook::ALL {
        if let Some(instead) = instead(hook) {
            let _ = writeln!(text, "| `{}` | `{}` |", hook.name(), instead.name());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE_DOCS=1 cargo test` writes it anew.
    #[test]
    fn the_documentation_is_what_the_program_does() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/enforcement.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, document()).expect("written");
        }
        let written = std::fs::read_to_string(path).expect("docs/enforcement.md");
        assert_eq!(
            written,
            document(),
            "run UPDATE_DOCS=1 cargo test -p agentguard"
        );
    }

    #[test]
    fn every_hook_serves_and_every_verb_rests_on_one() {
        for hook in Hook::ALL {
            assert!(!serves(hook).is_empty(), "{}", hook.name());
        }
        for verb in Verb::all() {
            assert!(verb.hooks().next().is_some(), "{verb}");
        }
    }

    #[test]
    fn what_stands_in_for_a_hook_serves_the_same_and_is_everywhere() {
        for hook in Hook::ALL {
            let Some(other) = instead(hook) else { continue };
            assert_eq!(instead(other), None, "{}", hook.name());
            for verb in serves(hook) {
                assert!(serves(other).contains(verb), "{}", hook.name());
            }
        }
    }

    #[test]
    fn a_hook_with_a_stand_in_is_no_loss_unless_that_is_missing_too() {
        let optional = [Hook::InodeSetAcl, Hook::InodeFileSetattr];
        assert_eq!(lost(&optional).count(), 0);
        assert_eq!(fatal(&optional).count(), 0);
        let both = [Hook::InodeSetAcl, Hook::InodeSetxattr];
        assert_eq!(lost(&both).collect::<Vec<_>>(), both);
    }

    #[test]
    fn nothing_starts_without_what_no_profile_can_do_without() {
        let absent = [
            Hook::TaskAlloc,
            Hook::InodeSetattr,
            Hook::Capable,
            Hook::KeyAlloc,
        ];
        let fatal: Vec<Hook> = fatal(&absent).collect();
        assert_eq!(fatal, [Hook::TaskAlloc, Hook::Capable]);
    }

    #[test]
    fn a_verb_without_one_of_its_hooks_is_not_enforced() {
        let absent = [Hook::InodeSetAcl, Hook::PerfEventOpen];
        let all = Foundation::all(&absent, |hook| hook != Hook::PathUnlink);
        let find = |name: &str| {
            all.iter()
                .find(|foundation| foundation.verb == name)
                .expect("a verb")
        };
        assert_eq!(find("file.delete").missing, ["path_unlink"]);
        assert_eq!(find("system.perf").missing, ["perf_event_open"]);
        assert!(find("file.metadata").missing.is_empty());
        assert_eq!(find("file.metadata").absent[0].hook, "inode_set_acl");
        assert_eq!(find("file.metadata").absent[0].instead, "inode_setxattr");
        assert!(
            !find("file.metadata")
                .hooks
                .contains(&"inode_set_acl".to_owned())
        );
        assert!(find("connect").hooks.contains(&"cgroup_egress".to_owned()));
    }
}
