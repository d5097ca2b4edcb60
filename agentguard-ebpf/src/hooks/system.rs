//! The kernel's own surface: capabilities, and calls that no file or address stands for. What a profile lets
//! through is in its `[system]`.

use agentguard_common::{
    Verdict,
    counter::{Hook, WOULD_DENY},
    label::{LOOK_BY_PERFMON, LOOK_REFUSED},
    profile::{self, Mode},
    system::{Operation, magic::MQUEUE, unnamed_capability},
};
use aya_ebpf::{cty::c_void, macros::lsm, programs::LsmContext};

use super::metadata::{attribute_ioctl, is_attribute};
use crate::{
    count,
    engine::{Arena, fresh},
    kernel::{fs, probe, task},
    subject::Subject,
    system::{self, decision, judge, report},
    verdict::{ALLOWED, DENIED, guard, mode},
};

/// `CAP_OPT_NOAUDIT` (include/linux/security.h): somebody only wants to know, and does without.
const NOAUDIT: u32 = 0x02;

/// `capable(cred, ns, cap, opts)`: every use of a capability, in every user namespace, by whoever has it: the
/// kernel's own check comes first. Not judged is what the kernel does with the rights of somebody else, such as an
/// overlay's marks on its layers, without which it would show the wrong files.
#[lsm(hook = "capable")]
pub fn capable(ctx: LsmContext) -> i32 {
    guard(Hook::Capable, |subject| {
        if task::acts_for_another() {
            return ALLOWED;
        }
        let number: u32 = ctx.arg(2);
        let options: u32 = ctx.arg(3);
        if shows_what_was_refused(subject, number) {
            count::decision(Hook::Capable, Verdict::Deny as u32);
            return DENIED;
        }
        capability(subject, number, options & NOAUDIT != 0)
    })
}

// include/uapi/linux/capability.h
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;

/// Whether the kernel asks for a capability only because a look into somebody else's task was refused, which has its
/// event. KERNEL: from 6.18 on `environ`, `maps` and `auxv` are shown to whoever has CAP_PERFMON or CAP_SYS_ADMIN,
/// whatever the security modules said (kernel/fork.c, `may_access_mm`). The two are asked for right after the refusal
/// (`perfmon_capable`); a look that was refused for good leaves the next of the task's own questions for CAP_PERFMON
/// refused, if no other capability is asked for in between.
#[inline(always)]
fn shows_what_was_refused(subject: &Subject, number: u32) -> bool {
    // SAFETY: the task's own map value.
    unsafe {
        let look = &raw mut (*subject.state).asked.look;
        match (fresh(look), number) {
            (0, _) => false,
            (LOOK_REFUSED, CAP_PERFMON) => {
                *look = LOOK_BY_PERFMON;
                true
            }
            (before, _) => {
                *look = 0;
                before == LOOK_BY_PERFMON && number == CAP_SYS_ADMIN
            }
        }
    }
}

#[inline(always)]
fn capability(subject: &Subject, number: u32, quiet: bool) -> i32 {
    let named = match profile::system(&Arena, subject.profile) {
        Some(system) => system.has_capability(number),
        // FAIL-CLOSED: where the descriptor should be is something else.
        None => false,
    };
    if named {
        // Not in the log: a root agent uses some with every other call.
        count::decision(Hook::Capable, Verdict::Allow as u32);
        return ALLOWED;
    }
    let verdict = unnamed_capability(number);
    if quiet {
        if mode(subject) == Mode::Audit as u32 && verdict as u32 != Verdict::Never as u32 {
            count::decision(Hook::Capable, WOULD_DENY);
            // FAIL-OPEN: audit mode says what it would have done, and does nothing.
            return ALLOWED;
        }
        count::decision(Hook::Capable, Verdict::Deny as u32);
        return DENIED;
    }
    let refusal = decision(Operation::Capabilities, verdict);
    report(subject, Hook::Capable, refusal, number.into())
}

/// `userns_create(cred)`.
#[lsm(hook = "userns_create")]
pub fn userns_create(_ctx: LsmContext) -> i32 {
    guard(Hook::UsernsCreate, |subject| {
        judge(subject, Hook::UsernsCreate, Operation::UserNamespaces, 0)
    })
}

/// First eight bytes and length of the names that anonymous inodes have (io_uring/io_uring.c,
/// fs/userfaultfd.c).
const IO_URING: (u64, u32) = (u64::from_le_bytes(*b"[io_urin"), 10);
const USERFAULTFD: (u64, u32) = (u64::from_le_bytes(*b"[userfau"), 13);

/// `inode_init_security_anon(inode, name, context_inode)`: an io_uring or userfaultfd is being made, whether by
/// its system call or over a device. `uring_allowed` is there from 6.15 only.
#[lsm(hook = "inode_init_security_anon")]
pub fn inode_init_security_anon(ctx: LsmContext) -> i32 {
    guard(Hook::InodeInitSecurityAnon, |subject| {
        let name: *const c_void = ctx.arg(1);
        let hook = Hook::InodeInitSecurityAnon;
        let begin = fs::name(name as u64)
            .and_then(|name| Some((probe::<u64>(name.address, 0)?, name.len_bytes)));
        match begin {
            Some(USERFAULTFD) => judge(subject, hook, Operation::Userfaultfd, 0),
            // FAIL-CLOSED: what has no name that can be read may be a ring.
            Some(IO_URING) | None => judge(subject, hook, Operation::IoUring, 0),
            Some(_) => ALLOWED,
        }
    })
}

/// `uring_override_creds(new)`: something in a ring is to be done with rights that were put aside earlier. Never
/// allowed, also where rings are: what is done with other rights than the task's own is taken for the kernel's doing.
#[lsm(hook = "uring_override_creds")]
pub fn uring_override_creds(_ctx: LsmContext) -> i32 {
    guard(Hook::UringOverrideCreds, |subject| {
        let refusal = decision(Operation::IoUring, Verdict::Never);
        report(subject, Hook::UringOverrideCreds, refusal, 0)
    })
}

/// `bpf(cmd, attr, size)`.
#[lsm(hook = "bpf")]
pub fn bpf(ctx: LsmContext) -> i32 {
    guard(Hook::Bpf, |subject| {
        let command: u32 = ctx.arg(0);
        judge(subject, Hook::Bpf, Operation::Bpf, command.into())
    })
}

/// `perf_event_open`: KERNEL: its arguments differ between 6.1 and 6.12; none is read.
#[lsm(hook = "perf_event_open")]
pub fn perf_event_open(_ctx: LsmContext) -> i32 {
    guard(Hook::PerfEventOpen, |subject| {
        judge(subject, Hook::PerfEventOpen, Operation::Perf, 0)
    })
}

/// `key_alloc(key, cred, flags)`: before the kernel would call `/sbin/request-key`, which runs as root outside
/// of every cgroup.
#[lsm(hook = "key_alloc")]
pub fn key_alloc(_ctx: LsmContext) -> i32 {
    guard(Hook::KeyAlloc, |subject| key(subject, Hook::KeyAlloc))
}

/// `key_permission(key_ref, cred, need_perm)`: a session's keys are inherited.
#[lsm(hook = "key_permission")]
pub fn key_permission(_ctx: LsmContext) -> i32 {
    guard(Hook::KeyPermission, |subject| {
        key(subject, Hook::KeyPermission)
    })
}

/// File systems look names and tickets up in keyrings of their own, with rights of their own, for whoever uses them
/// (fs/nfs/nfs4idmap.c, net/dns_resolver/dns_query.c).
#[inline(always)]
fn key(subject: &Subject, hook: Hook) -> i32 {
    if task::acts_for_another() {
        return ALLOWED;
    }
    judge(subject, hook, Operation::Keyrings, 0)
}

/// `kernel_module_request(kmod_name)`: before the kernel calls `modprobe`.
#[lsm(hook = "kernel_module_request")]
pub fn kernel_module_request(_ctx: LsmContext) -> i32 {
    guard(Hook::KernelModuleRequest, |subject| {
        judge(
            subject,
            Hook::KernelModuleRequest,
            Operation::ModuleAutoload,
            0,
        )
    })
}

// include/uapi/asm-generic/ioctls.h; the second one types as well, by a sub-command (drivers/tty/vt/vt.c).
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541C;

// include/uapi/asm-generic/sockios.h
const FIOSETOWN: u32 = 0x8901;
const SIOCSPGRP: u32 = 0x8902;

/// Whether an ioctl is anybody's business here: everybody's ioctls come by.
#[inline(always)]
fn is_judged(command: u32) -> bool {
    is_attribute(command) || matches!(command, TIOCSTI | TIOCLINUX | FIOSETOWN | SIOCSPGRP)
}

/// `file_ioctl(file, cmd, arg)`.
#[lsm(hook = "file_ioctl")]
pub fn file_ioctl(ctx: LsmContext) -> i32 {
    if !is_judged(ctx.arg(1)) {
        return ALLOWED;
    }
    guard(Hook::FileIoctl, |subject| {
        // SAFETY: the hook's own argument.
        unsafe { ioctl(subject, Hook::FileIoctl, ctx.arg(0), ctx.arg(1)) }
    })
}

/// `file_ioctl_compat(file, cmd, arg)`: the same from 32-bit programs.
#[lsm(hook = "file_ioctl_compat")]
pub fn file_ioctl_compat(ctx: LsmContext) -> i32 {
    if !is_judged(ctx.arg(1)) {
        return ALLOWED;
    }
    guard(Hook::FileIoctlCompat, |subject| {
        // SAFETY: the hook's own argument.
        unsafe { ioctl(subject, Hook::FileIoctlCompat, ctx.arg(0), ctx.arg(1)) }
    })
}

/// # Safety
/// `file` is a `struct file` that the verifier knows.
#[inline(always)]
unsafe fn ioctl(subject: &Subject, hook: Hook, file: *const c_void, command: u32) -> i32 {
    if is_attribute(command) {
        // SAFETY: the caller's.
        unsafe { attribute_ioctl(subject, hook, file) }
    } else if command == TIOCSTI || command == TIOCLINUX {
        judge(subject, hook, Operation::TerminalInput, 0)
    } else if command == FIOSETOWN || command == SIOCSPGRP {
        // Whom it names is in the caller's memory, where it may change after the look.
        judge(subject, hook, Operation::OtherProcesses, 0)
    } else {
        ALLOWED
    }
}

// include/uapi/asm-generic/fcntl.h
const F_SETOWN: u32 = 8;
const F_SETOWN_EX: u32 = 15;

/// `file_fcntl(file, cmd, arg)`: who gets a signal, of whatever number, when something happens to the file. It is sent
/// past `task_kill` (fs/fcntl.c, `send_sigio_to_task`), by whoever makes it happen, so that only naming oneself can be
/// allowed. `F_SETOWN_EX` has the name in the caller's memory.
#[lsm(hook = "file_fcntl")]
pub fn file_fcntl(ctx: LsmContext) -> i32 {
    let command: u32 = ctx.arg(1);
    if command != F_SETOWN && command != F_SETOWN_EX {
        return ALLOWED;
    }
    guard(Hook::FileFcntl, |subject| {
        let named: u32 = ctx.arg(2);
        if command == F_SETOWN && (named == 0 || task::own_id() == Some(named)) {
            return ALLOWED;
        }
        judge(subject, Hook::FileFcntl, Operation::OtherProcesses, 0)
    })
}

/// `LSM_PRLIMIT_WRITE` (include/linux/security.h).
const PRLIMIT_WRITE: u32 = 2;

/// `task_prlimit(cred, tcred, flags)`: never of the calling task itself (kernel/sys.c,
/// check_prlimit_permission). It doesn't say of which, so that changing another's limits is refused even
/// within the agent.
#[lsm(hook = "task_prlimit")]
pub fn task_prlimit(ctx: LsmContext) -> i32 {
    guard(Hook::TaskPrlimit, |subject| {
        let flags: u32 = ctx.arg(2);
        if flags & PRLIMIT_WRITE == 0 {
            return ALLOWED;
        }
        judge(subject, Hook::TaskPrlimit, Operation::OtherProcesses, 0)
    })
}

/// `ipc_permission(ipcp, flag)`: every use of shared memory, a queue or semaphores of System V that are there. Making
/// them comes by no hook that says enough, and leads to nothing without a use. Who made them nothing says, so that the
/// agent's own are refused as well.
#[lsm(hook = "ipc_permission")]
pub fn ipc_permission(_ctx: LsmContext) -> i32 {
    guard(Hook::IpcPermission, |subject| {
        judge(subject, Hook::IpcPermission, Operation::Ipc, 0)
    })
}

/// `msg_queue_msgctl(perm, cmd)`: removing a queue or changing whose it is takes its owner, and `ipc_permission` isn't
/// asked.
#[lsm(hook = "msg_queue_msgctl")]
pub fn msg_queue_msgctl(ctx: LsmContext) -> i32 {
    if !gives_away(ctx.arg(1)) {
        return ALLOWED;
    }
    guard(Hook::MsgQueueMsgctl, |subject| {
        judge(subject, Hook::MsgQueueMsgctl, Operation::Ipc, 0)
    })
}

/// `shm_shmctl(perm, cmd)`: as above.
#[lsm(hook = "shm_shmctl")]
pub fn shm_shmctl(ctx: LsmContext) -> i32 {
    if !gives_away(ctx.arg(1)) {
        return ALLOWED;
    }
    guard(Hook::ShmShmctl, |subject| {
        judge(subject, Hook::ShmShmctl, Operation::Ipc, 0)
    })
}

/// `sem_semctl(perm, cmd)`: as above.
#[lsm(hook = "sem_semctl")]
pub fn sem_semctl(ctx: LsmContext) -> i32 {
    if !gives_away(ctx.arg(1)) {
        return ALLOWED;
    }
    guard(Hook::SemSemctl, |subject| {
        judge(subject, Hook::SemSemctl, Operation::Ipc, 0)
    })
}

/// Whether a command removes an object of System V or changes whose it is (include/uapi/linux/ipc.h).
#[inline(always)]
fn gives_away(command: u32) -> bool {
    const IPC_RMID: u32 = 0;
    const IPC_SET: u32 = 1;
    command == IPC_RMID || command == IPC_SET
}

/// `inode_unlink(dir, dentry)`: the call `mq_unlink` has no path, and comes by here alone.
#[lsm(hook = "inode_unlink")]
pub fn inode_unlink(ctx: LsmContext) -> i32 {
    // SAFETY: the hook's own argument.
    if unsafe { fs::magic_of(ctx.arg(0)) } != MQUEUE {
        return ALLOWED;
    }
    guard(Hook::InodeUnlink, |subject| {
        judge(subject, Hook::InodeUnlink, Operation::Ipc, 0)
    })
}

/// Judges having a child born in another cgroup: no other hook but that of every path lookup sees it.
#[inline(always)]
pub fn born_elsewhere(subject: &Subject) -> i32 {
    system::judge(subject, Hook::TaskAlloc, Operation::Cgroups, 0)
}
