//! Exit codes of the `agentguard` command, all of them. Not the status of a command that
//! `agentguard run` started: that one is passed on as it is.

use std::process::{ExitCode, Termination};

/// Why the command ended. The numbers are part of the interface and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// All went well.
    Success = 0,
    /// Something failed that has no number of its own, or a check found what it looked for.
    Failure = 1,
    /// The command line could not be understood (clap's own number).
    Usage = 2,
    /// Needs root.
    NotRoot = 3,
    /// The kernel doesn't run BPF LSM programs: `bpf` is missing in `/sys/kernel/security/lsm`.
    NoBpfLsm = 4,
    /// The kernel has no BTF at `/sys/kernel/btf/vmlinux`.
    NoBtf = 5,
    /// No cgroup v2 hierarchy at `/sys/fs/cgroup`.
    NoCgroup2 = 6,
    /// The BPF file system is not mounted at `/sys/fs/bpf` and can't be.
    NoBpffs = 7,
    /// The kernel has everything but refuses root the loading of LSM programs (a container, a
    /// sandboxed virtual machine, lockdown, another LSM).
    LoadingForbidden = 8,
    /// The kernel lacks a hook, a structure member or a feature that enforcement needs.
    KernelUnsupported = 9,
    /// A kernel program was rejected, or could not be attached.
    ProgramRejected = 10,
    /// The canary was not refused what it must be refused: nothing would be enforced.
    CanaryFailed = 11,
    /// Another daemon runs, or its socket is in use.
    AlreadyRunning = 12,
    /// The log directory can't be written.
    LogUnwritable = 13,
    /// The configuration file is wrong.
    ConfigInvalid = 14,
    /// A policy is wrong, or can't be enforced.
    PolicyRefused = 15,
    /// The pinned maps belong to an incompatible version.
    PinsIncompatible = 16,
    /// No daemon answers at the socket.
    DaemonUnreachable = 17,
    /// The daemon refuses the request to this user.
    Forbidden = 18,
    /// There is no such agent, profile or cgroup, or it is already tagged.
    RequestRefused = 19,
    /// Agents are active, and the operation was not forced.
    AgentsActive = 20,
}

impl Code {
    /// Every code with what it means, for the manual page.
    pub const ALL: [(Self, &'static str); 21] = [
        (Self::Success, "success"),
        (
            Self::Failure,
            "failure, or a check found what it looked for",
        ),
        (Self::Usage, "the command line could not be understood"),
        (Self::NotRoot, "root is needed"),
        (Self::NoBpfLsm, "the kernel's LSM list lacks bpf"),
        (Self::NoBtf, "the kernel has no BTF"),
        (Self::NoCgroup2, "no cgroup v2 hierarchy at /sys/fs/cgroup"),
        (
            Self::NoBpffs,
            "the BPF file system is not mounted and can't be",
        ),
        (
            Self::LoadingForbidden,
            "the host refuses root the loading of LSM programs",
        ),
        (
            Self::KernelUnsupported,
            "the kernel lacks a hook or a structure member that enforcement needs",
        ),
        (
            Self::ProgramRejected,
            "a kernel program was rejected or could not be attached",
        ),
        (
            Self::CanaryFailed,
            "the canary was not refused: nothing would be enforced",
        ),
        (
            Self::AlreadyRunning,
            "another daemon runs, or the socket is in use",
        ),
        (Self::LogUnwritable, "the log directory can't be written"),
        (Self::ConfigInvalid, "the configuration file is wrong"),
        (
            Self::PolicyRefused,
            "a policy is wrong, or can't be enforced on this kernel",
        ),
        (
            Self::PinsIncompatible,
            "the pinned maps belong to an incompatible version",
        ),
        (Self::DaemonUnreachable, "no daemon answers at the socket"),
        (
            Self::Forbidden,
            "the daemon refuses the request to this user",
        ),
        (
            Self::RequestRefused,
            "no such agent, profile or cgroup, or already tagged",
        ),
        (
            Self::AgentsActive,
            "agents are active, and the operation was not forced",
        ),
    ];
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

impl Termination for Code {
    fn report(self) -> ExitCode {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn every_code_is_listed_at_its_number() {
        for (index, (code, _)) in Code::ALL.iter().enumerate() {
            assert_eq!(*code as usize, index);
        }
    }
}
