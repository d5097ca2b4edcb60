//! The per-CPU counters: which number counts what. Summed over CPUs by userspace.

/// Every place in the kernel programs that gives verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Hook {
    TaskAlloc = 0,
    FileOpen = 1,
    BprmCheckSecurity = 2,
    BprmCommittedCreds = 3,
    PathMknod = 4,
    PathMkdir = 5,
    PathSymlink = 6,
    PathLink = 7,
    PathRename = 8,
    PathUnlink = 9,
    PathRmdir = 10,
    PathTruncate = 11,
    PathChmod = 12,
    PathChown = 13,
    SocketPostCreate = 14,
    SocketConnect = 15,
    SocketSendmsg = 16,
    SocketBind = 17,
    SocketListen = 18,
    UnixStreamConnect = 19,
    UnixMaySend = 20,
    CgroupEgress = 21,
    TaskKill = 22,
    PtraceAccessCheck = 23,
    PtraceTraceme = 24,
    Capable = 25,
    UsernsCreate = 26,
    InodeInitSecurityAnon = 27,
    Bpf = 28,
    PerfEventOpen = 29,
    KeyAlloc = 30,
    KeyPermission = 31,
    KernelModuleRequest = 32,
    TaskPrlimit = 33,
    TaskSetscheduler = 34,
    TaskSetnice = 35,
    TaskSetioprio = 36,
    SocketCreate = 37,
    SocketSetsockopt = 38,
    SocketAccept = 39,
    SctpBindConnect = 40,
    TunDevAttach = 41,
    FileReceive = 42,
    BprmCommittingCreds = 43,
    FileIoctl = 44,
    FileIoctlCompat = 45,
    MmapFile = 46,
    FileMprotect = 47,
    CgroupConnect4 = 48,
    CgroupConnect6 = 49,
    CgroupSendmsg4 = 50,
    CgroupSendmsg6 = 51,
    InodeSetattr = 52,
    InodeSetxattr = 53,
    InodeRemovexattr = 54,
    InodeSetAcl = 55,
    InodeRemoveAcl = 56,
    InodeFileSetattr = 57,
    UringOverrideCreds = 58,
    FileFcntl = 59,
    InodeReadlink = 60,
    PathNotify = 61,
    CgroupIngress = 62,
    IpcPermission = 63,
    BprmCredsForExec = 64,
    MsgQueueMsgctl = 65,
    ShmShmctl = 66,
    SemSemctl = 67,
    InodeUnlink = 68,
    CgroupRecvmsg4 = 69,
    CgroupRecvmsg6 = 70,
    CgroupGetpeername4 = 71,
    CgroupGetpeername6 = 72,
}

impl Hook {
    /// Every hook, in the order of their numbers.
    pub const ALL: [Self; 73] = [
        Self::TaskAlloc,
        Self::FileOpen,
        Self::BprmCheckSecurity,
        Self::BprmCommittedCreds,
        Self::PathMknod,
        Self::PathMkdir,
        Self::PathSymlink,
        Self::PathLink,
        Self::PathRename,
        Self::PathUnlink,
        Self::PathRmdir,
        Self::PathTruncate,
        Self::PathChmod,
        Self::PathChown,
        Self::SocketPostCreate,
        Self::SocketConnect,
        Self::SocketSendmsg,
        Self::SocketBind,
        Self::SocketListen,
        Self::UnixStreamConnect,
        Self::UnixMaySend,
        Self::CgroupEgress,
        Self::TaskKill,
        Self::PtraceAccessCheck,
        Self::PtraceTraceme,
        Self::Capable,
        Self::UsernsCreate,
        Self::InodeInitSecurityAnon,
        Self::Bpf,
        Self::PerfEventOpen,
        Self::KeyAlloc,
        Self::KeyPermission,
        Self::KernelModuleRequest,
        Self::TaskPrlimit,
        Self::TaskSetscheduler,
        Self::TaskSetnice,
        Self::TaskSetioprio,
        Self::SocketCreate,
        Self::SocketSetsockopt,
        Self::SocketAccept,
        Self::SctpBindConnect,
        Self::TunDevAttach,
        Self::FileReceive,
        Self::BprmCommittingCreds,
        Self::FileIoctl,
        Self::FileIoctlCompat,
        Self::MmapFile,
        Self::FileMprotect,
        Self::CgroupConnect4,
        Self::CgroupConnect6,
        Self::CgroupSendmsg4,
        Self::CgroupSendmsg6,
        Self::InodeSetattr,
        Self::InodeSetxattr,
        Self::InodeRemovexattr,
        Self::InodeSetAcl,
        Self::InodeRemoveAcl,
        Self::InodeFileSetattr,
        Self::UringOverrideCreds,
        Self::FileFcntl,
        Self::InodeReadlink,
        Self::PathNotify,
        Self::CgroupIngress,
        Self::IpcPermission,
        Self::BprmCredsForExec,
        Self::MsgQueueMsgctl,
        Self::ShmShmctl,
        Self::SemSemctl,
        Self::InodeUnlink,
        Self::CgroupRecvmsg4,
        Self::CgroupRecvmsg6,
        Self::CgroupGetpeername4,
        Self::CgroupGetpeername6,
    ];

    /// Those that are attached to each agent's cgroup, and not once for all.
    pub const OF_CGROUPS: [Self; 10] = [
        Self::CgroupEgress,
        Self::CgroupIngress,
        Self::CgroupConnect4,
        Self::CgroupConnect6,
        Self::CgroupSendmsg4,
        Self::CgroupSendmsg6,
        Self::CgroupRecvmsg4,
        Self::CgroupRecvmsg6,
        Self::CgroupGetpeername4,
        Self::CgroupGetpeername6,
    ];

    /// Whether it is one of [`Self::OF_CGROUPS`].
    pub fn is_of_cgroups(self) -> bool {
        Self::OF_CGROUPS.contains(&self)
    }

    /// The kernel's name of the hook, which is the program's name as well.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TaskAlloc => "task_alloc",
            Self::FileOpen => "file_open",
            Self::BprmCheckSecurity => "bprm_check_security",
            Self::BprmCommittedCreds => "bprm_committed_creds",
            Self::PathMknod => "path_mknod",
            Self::PathMkdir => "path_mkdir",
            Self::PathSymlink => "path_symlink",
            Self::PathLink => "path_link",
            Self::PathRename => "path_rename",
            Self::PathUnlink => "path_unlink",
            Self::PathRmdir => "path_rmdir",
            Self::PathTruncate => "path_truncate",
            Self::PathChmod => "path_chmod",
            Self::PathChown => "path_chown",
            Self::SocketPostCreate => "socket_post_create",
            Self::SocketConnect => "socket_connect",
            Self::SocketSendmsg => "socket_sendmsg",
            Self::SocketBind => "socket_bind",
            Self::SocketListen => "socket_listen",
            Self::UnixStreamConnect => "unix_stream_connect",
            Self::UnixMaySend => "unix_may_send",
            Self::CgroupEgress => "cgroup_egress",
            Self::TaskKill => "task_kill",
            Self::PtraceAccessCheck => "ptrace_access_check",
            Self::PtraceTraceme => "ptrace_traceme",
            Self::Capable => "capable",
            Self::UsernsCreate => "userns_create",
            Self::InodeInitSecurityAnon => "inode_init_security_anon",
            Self::Bpf => "bpf",
            Self::PerfEventOpen => "perf_event_open",
            Self::KeyAlloc => "key_alloc",
            Self::KeyPermission => "key_permission",
            Self::KernelModuleRequest => "kernel_module_request",
            Self::TaskPrlimit => "task_prlimit",
            Self::TaskSetscheduler => "task_setscheduler",
            Self::TaskSetnice => "task_setnice",
            Self::TaskSetioprio => "task_setioprio",
            Self::SocketCreate => "socket_create",
            Self::SocketSetsockopt => "socket_setsockopt",
            Self::SocketAccept => "socket_accept",
            Self::SctpBindConnect => "sctp_bind_connect",
            Self::TunDevAttach => "tun_dev_attach",
            Self::FileReceive => "file_receive",
            Self::BprmCommittingCreds => "bprm_committing_creds",
            Self::FileIoctl => "file_ioctl",
            Self::FileIoctlCompat => "file_ioctl_compat",
            Self::MmapFile => "mmap_file",
            Self::FileMprotect => "file_mprotect",
            Self::CgroupConnect4 => "cgroup_connect4",
            Self::CgroupConnect6 => "cgroup_connect6",
            Self::CgroupSendmsg4 => "cgroup_sendmsg4",
            Self::CgroupSendmsg6 => "cgroup_sendmsg6",
            Self::InodeSetattr => "inode_setattr",
            Self::InodeSetxattr => "inode_setxattr",
            Self::InodeRemovexattr => "inode_removexattr",
            Self::InodeSetAcl => "inode_set_acl",
            Self::InodeRemoveAcl => "inode_remove_acl",
            Self::InodeFileSetattr => "inode_file_setattr",
            Self::UringOverrideCreds => "uring_override_creds",
            Self::FileFcntl => "file_fcntl",
            Self::InodeReadlink => "inode_readlink",
            Self::PathNotify => "path_notify",
            Self::CgroupIngress => "cgroup_ingress",
            Self::IpcPermission => "ipc_permission",
            Self::BprmCredsForExec => "bprm_creds_for_exec",
            Self::MsgQueueMsgctl => "msg_queue_msgctl",
            Self::ShmShmctl => "shm_shmctl",
            Self::SemSemctl => "sem_semctl",
            Self::InodeUnlink => "inode_unlink",
            Self::CgroupRecvmsg4 => "cgroup_recvmsg4",
            Self::CgroupRecvmsg6 => "cgroup_recvmsg6",
            Self::CgroupGetpeername4 => "cgroup_getpeername4",
            Self::CgroupGetpeername6 => "cgroup_getpeername6",
        }
    }
}

/// Helpers that can fail and are counted when they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Site {
    /// Task storage for a label could not be made.
    LabelCreate = 0,
    /// Socket storage could not be made.
    SocketCreate = 1,
    /// A kernel structure could not be read.
    KernelRead = 2,
    /// A label's agent is gone.
    StaleLabel = 3,
    /// The tables are broken.
    Tables = 4,
    /// A program's arguments could not be copied.
    ArgumentsRead = 5,
    /// A packet could not be read.
    PacketRead = 6,
    /// Killing the process, as a rule asked, failed.
    Kill = 7,
    /// A process could not be stopped to wait for an answer.
    Hold = 8,
}

impl Site {
    /// Every site with its name, in the order of their numbers.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::LabelCreate, "label_create"),
        (Self::SocketCreate, "socket_create"),
        (Self::KernelRead, "kernel_read"),
        (Self::StaleLabel, "stale_label"),
        (Self::Tables, "tables"),
        (Self::ArgumentsRead, "arguments_read"),
        (Self::PacketRead, "packet_read"),
        (Self::Kill, "kill"),
        (Self::Hold, "hold"),
    ];
}

/// Hooks that have room in the tables below.
pub const HOOKS: u32 = 128;
/// Verdicts counted per hook: the number is [`Verdict`](crate::Verdict)'s, 5 is "would deny" (audit).
pub const VERDICTS: u32 = 8;
/// The verdict number under which audit mode counts what it would have denied.
pub const WOULD_DENY: u32 = 5;
/// Counters in all.
pub const COUNTERS: u32 = HOOKS * VERDICTS * 2 + 64;

/// Decisions of a hook with a verdict.
#[inline(always)]
pub const fn decisions(hook: u8, verdict: u32) -> u32 {
    (hook as u32 % HOOKS) * VERDICTS + verdict % VERDICTS
}

/// Records of a hook with a verdict that found no room in their ring.
#[inline(always)]
pub const fn lost(hook: u8, verdict: u32) -> u32 {
    HOOKS * VERDICTS + decisions(hook, verdict)
}

/// Failures at a site.
#[inline(always)]
pub const fn failures(site: u8) -> u32 {
    HOOKS * VERDICTS * 2 + site as u32 % 64
}
