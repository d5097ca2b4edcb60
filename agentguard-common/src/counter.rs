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
}

impl Hook {
    /// Every hook, in the order of their numbers.
    pub const ALL: [Self; 25] = [
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
    ];

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
}

impl Site {
    /// Every site with its name, in the order of their numbers.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::LabelCreate, "label_create"),
        (Self::SocketCreate, "socket_create"),
        (Self::KernelRead, "kernel_read"),
        (Self::StaleLabel, "stale_label"),
        (Self::Tables, "tables"),
        (Self::ArgumentsRead, "arguments_read"),
        (Self::PacketRead, "packet_read"),
        (Self::Kill, "kill"),
    ];
}

/// Hooks that have room in the tables below.
pub const HOOKS: u32 = 64;
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
