//! Kernel surface that an agent rarely needs: `[system]` of a profile. Which operations there are, and how a
//! profile's answers lie in its descriptor. What each of them means to a person is the business of
//! `agentguard::policy`.

use crate::{automaton::Tables, outcome::Verdict};

/// One kind of operation on the kernel itself. Everything is denied unless the profile says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Operation {
    /// Using a capability that the profile doesn't name.
    Capabilities = 0,
    /// Making an io_uring.
    IoUring = 1,
    /// Making a userfaultfd.
    Userfaultfd = 2,
    /// Making a user namespace.
    UserNamespaces = 3,
    /// The system call `bpf()`, and everything in the BPF file system.
    Bpf = 4,
    /// Opening a performance event.
    Perf = 5,
    /// Making or using keys of the kernel's keyrings.
    Keyrings = 6,
    /// Having the kernel load a module because something asks for what it provides.
    ModuleAutoload = 7,
    /// Changing cgroup files that aren't below the agent's own cgroup, having a child born in another cgroup, and
    /// moving processes for whoever could move others' as well.
    Cgroups = 8,
    /// Changing the kernel's own files: sysctls, sysfs, binfmt_misc, debugfs and the like.
    KernelFiles = 9,
    /// Opening block devices.
    BlockDevices = 10,
    /// Opening character devices, except terminals and `null`, `zero`, `full`, `random`, `urandom`.
    Devices = 11,
    /// Changing processes that aren't the agent's: limits, scheduling, writable files in `/proc`, signals over a
    /// descriptor.
    OtherProcesses = 12,
    /// Making raw internet sockets.
    RawSockets = 13,
    /// Making packet sockets.
    PacketSockets = 14,
    /// Making sockets of other families, protocols and netlink protocols.
    OtherSockets = 15,
    /// Attaching to a TUN or TAP device.
    Tun = 16,
    /// Putting characters into a terminal as if they were typed.
    TerminalInput = 17,
    /// Reading files in `/proc` of processes that aren't the agent's.
    ProcessList = 18,
    /// Using System V shared memory, queues and semaphores, and POSIX message queues.
    Ipc = 19,
}

impl Operation {
    /// Every operation, in the order of their numbers.
    pub const ALL: [Self; 20] = [
        Self::Capabilities,
        Self::IoUring,
        Self::Userfaultfd,
        Self::UserNamespaces,
        Self::Bpf,
        Self::Perf,
        Self::Keyrings,
        Self::ModuleAutoload,
        Self::Cgroups,
        Self::KernelFiles,
        Self::BlockDevices,
        Self::Devices,
        Self::OtherProcesses,
        Self::RawSockets,
        Self::PacketSockets,
        Self::OtherSockets,
        Self::Tun,
        Self::TerminalInput,
        Self::ProcessList,
        Self::Ipc,
    ];

    /// The key in `[system]`, and what comes after `system.` in the action of its events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Capabilities => "capabilities",
            Self::IoUring => "io_uring",
            Self::Userfaultfd => "userfaultfd",
            Self::UserNamespaces => "user_namespaces",
            Self::Bpf => "bpf",
            Self::Perf => "perf",
            Self::Keyrings => "keyrings",
            Self::ModuleAutoload => "module_autoload",
            Self::Cgroups => "cgroups",
            Self::KernelFiles => "kernel_files",
            Self::BlockDevices => "block_devices",
            Self::Devices => "devices",
            Self::OtherProcesses => "other_processes",
            Self::RawSockets => "raw_sockets",
            Self::PacketSockets => "packet_sockets",
            Self::OtherSockets => "other_sockets",
            Self::Tun => "tun",
            Self::TerminalInput => "terminal_input",
            Self::ProcessList => "process_list",
            Self::Ipc => "ipc",
        }
    }

    /// Whether no profile and no mode lets it through: it would take apart what holds the agent, or reach others.
    #[inline(always)]
    pub const fn is_never(self) -> bool {
        const NEVER: u32 = 1 << Operation::Bpf as u8
            | 1 << Operation::Cgroups as u8
            | 1 << Operation::KernelFiles as u8
            | 1 << Operation::OtherProcesses as u8;
        NEVER & (1 << self as u8) != 0
    }

    /// The operation with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|operation| *operation as u8 == number)
    }
}

/// A profile's `[system]`: one bit per [`Operation`], by its number, and one per capability, by the
/// kernel's number of it (include/uapi/linux/capability.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct System {
    pub allow: u64,
    pub ask: u64,
    pub capabilities: u64,
}

impl System {
    /// Cells of a descriptor that it takes: one per set.
    pub const CELLS: u32 = 3;

    /// As it lies in a descriptor.
    pub const fn cells(self) -> [u64; Self::CELLS as usize] {
        [self.allow, self.ask, self.capabilities]
    }

    /// Reads it from arena cell `at`.
    #[inline(always)]
    pub fn read<T: Tables>(tables: &T, at: u32) -> Option<Self> {
        Some(Self {
            allow: tables.cell(at)?,
            ask: tables.cell(at.wrapping_add(1))?,
            capabilities: tables.cell(at.wrapping_add(2))?,
        })
    }

    /// What it says of an operation.
    #[inline(always)]
    pub fn verdict(self, operation: Operation) -> Verdict {
        let bit = 1 << operation as u8;
        if operation.is_never() {
            Verdict::Never
        } else if self.allow & bit != 0 {
            Verdict::Allow
        } else if self.ask & bit != 0 {
            Verdict::Ask
        } else {
            Verdict::Deny
        }
    }

    /// Whether it names a capability.
    #[inline(always)]
    pub fn has_capability(self, number: u32) -> bool {
        // FAIL-CLOSED: a capability that no word can name.
        number < 64 && self.capabilities & (1 << number) != 0
    }
}

/// Capabilities that audit mode doesn't lend either (include/uapi/linux/capability.h): `CAP_SYS_MODULE`,
/// `CAP_SYS_RAWIO`, `CAP_SYS_PACCT`, `CAP_SYS_BOOT`, `CAP_MAC_OVERRIDE`, `CAP_MAC_ADMIN`, `CAP_BPF`. With each, an agent
/// could end enforcement. What mounts and changes roots is only told: programs that do so are what audit mode is for.
const NEVER_LENT: u64 = 1 << 16 | 1 << 17 | 1 << 20 | 1 << 22 | 1 << 32 | 1 << 33 | 1 << 39;

/// The verdict on using a capability that the profile doesn't name.
#[inline(always)]
pub const fn unnamed_capability(number: u32) -> Verdict {
    if number < 64 && NEVER_LENT & (1 << number) != 0 {
        Verdict::Never
    } else {
        Verdict::Deny
    }
}

/// Magic numbers of file systems whose files are more than files (include/uapi/linux/magic.h).
pub mod magic {
    pub const PROC: u64 = 0x9fa0;
    pub const CGROUP: u64 = 0x0027_e0eb;
    pub const CGROUP2: u64 = 0x6367_7270;
    pub const BPF_FS: u64 = 0xcafe_4a11;
    pub const DEBUGFS: u64 = 0x6462_6720;
    pub const TRACEFS: u64 = 0x7472_6163;
    /// ipc/mqueue.c
    pub const MQUEUE: u64 = 0x1980_0202;
    /// File systems whose files are the kernel's own controls. Not all of them have their number in a header of
    /// the API: configfs (fs/configfs/mount.c), fuse control (fs/fuse/control.c), apparmorfs
    /// (security/apparmor/apparmorfs.c), resctrl, nfsd (fs/nfsd/nfsctl.c), rpc_pipefs (net/sunrpc/rpc_pipe.c), functionfs
    /// (drivers/usb/gadget/function/f_fs.c).
    pub const CONTROLS: [u64; 16] = [
        0x6265_6572, // sysfs
        0x4249_4e4d, // binfmt_misc
        0x7363_6673, // securityfs
        0xde5e_81e4, // efivarfs
        0x6165_676c, // pstore
        0xf97c_ff8c, // selinuxfs
        0x4341_5d53, // smackfs
        0x6265_6570, // configfs
        0x6573_5543, // fusectl
        0x5a3c_69f0, // apparmorfs
        0x0765_5821, // resctrl
        0xabba_1974, // xenfs
        0x6e66_7364, // nfsd
        0x6759_6969, // rpc_pipefs
        0xa647_361d, // functionfs
        0x6c6f_6f70, // binder
    ];
}

/// Devices without which programs don't work (Documentation/admin-guide/devices.txt): null, zero, full,
/// random, urandom; terminals.
#[inline(always)]
pub const fn is_harmless_device(major: u32, minor: u32) -> bool {
    match major {
        1 => matches!(minor, 3 | 5 | 7 | 8 | 9),
        // Virtual consoles and serial lines; /dev/tty, console, ptmx; pseudo-terminals.
        4 | 5 | 136..=143 => true,
        _ => false,
    }
}

/// The object of `system.*` events that have no path and no task: a number whose meaning depends on the
/// operation (the capability's; the `bpf()` command; the socket's family; else 0).
pub const DETAIL_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_one_to_one() {
        for (index, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, index);
            assert_eq!(Operation::from_number(index as u8), Some(operation));
            assert!(
                Operation::ALL[..index]
                    .iter()
                    .all(|other| other.name() != operation.name())
            );
        }
        assert_eq!(Operation::from_number(64), None);
    }

    #[test]
    fn nothing_loosens_what_is_never_allowed() {
        let open = System {
            allow: u64::MAX,
            ask: u64::MAX,
            capabilities: u64::MAX,
        };
        for operation in Operation::ALL {
            let never = open.verdict(operation) == Verdict::Never;
            assert_eq!(never, operation.is_never(), "{}", operation.name());
        }
        assert!(Operation::Bpf.is_never() && !Operation::Perf.is_never());
        // CAP_CHOWN, CAP_SYS_MODULE, CAP_SYS_ADMIN, CAP_BPF, and what isn't one.
        let verdicts = [0, 16, 21, 39, 64].map(unnamed_capability);
        let [chown, module, admin, bpf, none] = verdicts;
        assert_eq!([module, bpf], [Verdict::Never; 2]);
        assert_eq!([chown, admin, none], [Verdict::Deny; 3]);
    }

    #[test]
    fn what_is_not_written_is_denied() {
        let system = System {
            allow: 1 << Operation::Perf as u8,
            ask: 1 << Operation::IoUring as u8,
            capabilities: 1 << 21,
        };
        assert_eq!(system.verdict(Operation::Perf), Verdict::Allow);
        assert_eq!(system.verdict(Operation::IoUring), Verdict::Ask);
        assert_eq!(system.verdict(Operation::Keyrings), Verdict::Deny);
        assert!(system.has_capability(21));
        assert!(!system.has_capability(20) && !system.has_capability(64 + 21));
    }
}
