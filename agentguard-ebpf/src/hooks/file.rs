//! Opening files.

use agentguard_common::{
    counter::Hook,
    event::{Action, ObjectKind},
    profile::{Subject as Kind, verb},
};
use aya_ebpf::{cty::c_void, macros::lsm, programs::LsmContext};

use crate::{
    kernel::fs,
    object,
    record::Verb,
    verdict::{ALLOWED, guard, install, judge},
};

// include/uapi/asm-generic/fcntl.h and include/linux/fs.h, x86-64.
const O_ACCMODE: u32 = 0o3;
const O_WRONLY: u32 = 0o1;
const O_TRUNC: u32 = 0o1000;
const TMPFILE: u32 = 0o20_000_000;
/// Set by the kernel alone, for a file that is about to be run or to be a program's interpreter.
const FMODE_EXEC: u32 = 0x20;

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
        let verb = Verb {
            hook: Hook::FileOpen,
            action: Action::FileOpen,
            kind: Kind::File,
            verbs: verbs(flags),
        };
        // SAFETY: as above.
        let place = unsafe { fs::file_path(file) };
        let object = object::path(subject, install(subject), place, 0, ObjectKind::Path);
        judge(subject, verb, object)
    })
}

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
