//! Opening files, getting files that others opened, and what shows of a file without opening it.

use agentguard_common::{
    Decision, Verdict,
    counter::Hook,
    event::{Action, ObjectKind},
    profile::{Subject as Kind, verb},
};
use aya_ebpf::{cty::c_void, macros::lsm, programs::LsmContext};

use crate::{
    count,
    kernel::fs,
    names::decide_entry,
    object,
    record::Verb,
    seen::{self, Before},
    verdict::{
        ALLOWED, carry_out, carry_out_unlogged, decide, guard, install, judge, judge_object,
    },
};

// include/uapi/asm-generic/fcntl.h and include/linux/fs.h, x86-64.
const O_ACCMODE: u32 = 0o3;
const O_WRONLY: u32 = 0o1;
const O_TRUNC: u32 = 0o1000;
const TMPFILE: u32 = 0o20_000_000;
// include/linux/fs.h
const FMODE_READ: u32 = 1;
const FMODE_WRITE: u32 = 2;
/// The call at hand has just made the file.
const FMODE_CREATED: u32 = 0x10_0000;
/// Set by the kernel alone, for a file that is about to be run or to be a program's interpreter.
pub const FMODE_EXEC: u32 = 0x20;

/// `file_open(file)`. Sees the file as the kernel resolved it, before `O_TRUNC` takes effect and after
/// `O_CREAT` did: creation is judged by `path_mknod`, which comes before it. An open with `O_PATH`
/// doesn't come here, but whoever turns it into a real one does.
#[lsm(hook = "file_open")]
pub fn file_open(ctx: LsmContext) -> i32 {
    guard(Hook::FileOpen, |subject| {
        let file: *const c_void = ctx.arg(0);
        // SAFETY: the hook's own argument.
        let flags = unsafe { fs::file_flags(file) };
        if flags & FMODE_EXEC != 0 {
            // Judged as a program, by bprm_check_security.
            return ALLOWED;
        }
        let verbs = verbs(flags);
        let verb = Verb {
            hook: Hook::FileOpen,
            action: Action::FileOpen,
            kind: Kind::File,
            verbs,
        };
        match seen::before(subject, file, verbs.into()) {
            Before::Nothing => {}
            Before::Silent => {
                count::decision(Hook::FileOpen, Verdict::Allow as u32);
                return ALLOWED;
            }
            Before::Told(decision) => {
                return carry_out(subject, verb, ObjectKind::Path, decision);
            }
        }
        // SAFETY: as above.
        let ((mount, dentry), inode) =
            unsafe { (fs::file_path(file), fs::file_inode(file) as u64) };
        // FAIL-CLOSED: 0 can't be read.
        let entry = fs::entry_of(inode, dentry).unwrap_or(0);
        let mount = if entry == dentry {
            mount
        } else {
            object::NO_MOUNT
        };
        let object = object::path(
            subject,
            install(subject),
            (mount, entry),
            0,
            ObjectKind::Path,
        );
        let (verb, decision) = decide(subject, verb, object);
        // SAFETY: as above.
        if unsafe { fs::file_mode(file) } & FMODE_CREATED == 0 {
            // Most of what is made is not opened again.
            seen::keep(subject, file, verbs.into(), decision);
        }
        if decision.outcome.rank() == Verdict::Ask as u32 {
            // SAFETY: as above, and the task's own map value.
            unsafe {
                (*subject.state).hold.made = fs::file_mode(file) & FMODE_CREATED;
            }
        }
        carry_out(subject, verb, ObjectKind::Path, decision)
    })
}

/// `file_receive(file)`: a descriptor arrives over a Unix socket or from another process. Judged as if it were
/// opened now for what it is open for; one that only stands for a place (`O_PATH`) is open for nothing.
#[lsm(hook = "file_receive")]
pub fn file_receive(ctx: LsmContext) -> i32 {
    guard(Hook::FileReceive, |subject| {
        let file: *const c_void = ctx.arg(0);
        // SAFETY: the hook's own argument.
        let mode = unsafe { fs::file_mode(file) };
        // FMODE_READ and FMODE_WRITE are the verbs' own bits.
        let verbs = (mode & (FMODE_READ | FMODE_WRITE)) as u8;
        if verbs == 0 {
            return ALLOWED;
        }
        let verb = Verb {
            hook: Hook::FileReceive,
            action: Action::FileOpen,
            kind: Kind::File,
            verbs,
        };
        // SAFETY: as above.
        let place = unsafe { fs::file_path(file) };
        let object = object::path(subject, install(subject), place, 0, ObjectKind::Path);
        judge(subject, verb, object)
    })
}

/// `inode_readlink(dentry)`: reading where a link leads, which is not following it. Allowed ones aren't logged: programs
/// read links by the hundred to find out where they are.
#[lsm(hook = "inode_readlink")]
pub fn inode_readlink(ctx: LsmContext) -> i32 {
    guard(Hook::InodeReadlink, |subject| {
        let verb = reading(Hook::InodeReadlink);
        let decision = decide_entry(subject, verb, ctx.arg(0), object::FILE);
        carry_out_unlogged(subject, verb, decision)
    })
}

/// `path_notify(path, mask, obj_type)`: being told of what happens to a file, and in a folder, of the names in it.
/// Allowed ones aren't logged: editors and servers that build watch thousands.
#[lsm(hook = "path_notify")]
pub fn path_notify(ctx: LsmContext) -> i32 {
    guard(Hook::PathNotify, |subject| {
        let verb = reading(Hook::PathNotify);
        // SAFETY: the hook's own argument.
        let place = unsafe { fs::path(ctx.arg(0)) };
        let object = object::path(subject, install(subject), place, 0, ObjectKind::Path);
        let decision = match object {
            Ok(object) => judge_object(subject, verb, object),
            // FAIL-CLOSED: what can't be named can't be allowed.
            Err(reason) => Decision::refuse(reason),
        };
        carry_out_unlogged(subject, verb, decision)
    })
}

const fn reading(hook: Hook) -> Verb {
    Verb {
        hook,
        action: Action::FileOpen,
        kind: Kind::File,
        verbs: verb::bit(verb::READ),
    }
}

const _: () = {
    assert!(FMODE_READ == verb::bit(verb::READ) as u32);
    assert!(FMODE_WRITE == verb::bit(verb::WRITE) as u32);
};

/// The accesses that open flags ask for.
#[inline(always)]
fn verbs(flags: u32) -> u8 {
    let mut verbs = match flags & O_ACCMODE {
        0 => verb::bit(verb::READ),
        O_WRONLY => verb::bit(verb::WRITE),
        // 2 is both; 3 gives neither, but checks for both.
        _ => verb::bit(verb::READ) | verb::bit(verb::WRITE),
    };
    if flags & O_TRUNC != 0 {
        verbs |= verb::bit(verb::WRITE);
    }
    if flags & TMPFILE != 0 {
        verbs |= verb::bit(verb::CREATE);
    }
    verbs
}
