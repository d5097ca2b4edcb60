//! Files that become code of a process without being run: libraries, and programs that somebody else than the
//! kernel loads (`ld.so PROGRAM`). Memory without a file is left alone: it is how JITs work.

use agentguard_common::{
    Decision, Verdict,
    counter::Hook,
    event::Action,
    profile::{Subject as Kind, verb},
    seen::MAPPED,
};
use aya_ebpf::{cty::c_void, macros::lsm, programs::LsmContext};

use super::{
    exec::{PROGRAM, program},
    file::FMODE_EXEC,
};
use crate::{
    count,
    kernel::{fs, task},
    object,
    record::Verb,
    seen::{self, Before},
    subject::Subject,
    verdict::{ALLOWED, carry_out_unlogged, guard, judge_object},
};

/// include/uapi/asm-generic/mman-common.h
const PROT_EXEC: u64 = 4;

/// `mmap_file(file, reqprot, prot, flags)`. `prot` is what the mapping gets, with what `READ_IMPLIES_EXEC` adds.
/// KERNEL: the kernel's own loader comes here as well, for the program and for its `PT_INTERP`.
#[lsm(hook = "mmap_file")]
pub fn mmap_file(ctx: LsmContext) -> i32 {
    let file: *const c_void = ctx.arg(0);
    if file.is_null() || ctx.arg::<u64>(2) & PROT_EXEC == 0 {
        return ALLOWED;
    }
    // SAFETY: the hook's own argument, and not null.
    guard(Hook::MmapFile, |subject| unsafe {
        if is_the_program(file) {
            return ALLOWED;
        }
        // What has no name any more is another object, though nothing was renamed.
        let has_name = fs::has_links(fs::file_inode(file));
        if has_name && matches!(seen::before(subject, file, MAPPED), Before::Silent) {
            count::decision(Hook::MmapFile, Verdict::Allow as u32);
            return ALLOWED;
        }
        let (verb, decision) = decide(subject, Hook::MmapFile, fs::file_path(file));
        if has_name {
            seen::keep(subject, file, MAPPED, decision);
        }
        carry_out_unlogged(subject, verb, decision)
    })
}

/// `file_mprotect(vma, reqprot, prot)`: what was mapped otherwise becomes code.
#[lsm(hook = "file_mprotect")]
pub fn file_mprotect(ctx: LsmContext) -> i32 {
    if ctx.arg::<u64>(2) & PROT_EXEC == 0 {
        return ALLOWED;
    }
    // SAFETY: the hook's own argument.
    let file = unsafe { fs::mapped_file(ctx.arg(0)) };
    if file.is_null() {
        return ALLOWED;
    }
    // SAFETY: just read from the hook's argument, and not null.
    guard(Hook::FileMprotect, |subject| unsafe {
        if is_the_program(file) || fs::is_shared_memory(fs::file_path(file).1) {
            return ALLOWED;
        }
        let place = fs::file_path(file);
        judge(subject, Hook::FileMprotect, as_opened(file, place))
    })
}

/// Whether it is what `bprm_check_security` judged, opened by the kernel. `PR_SET_MM_EXE_FILE` can put another file
/// into its place, but none that the kernel opened to run it.
///
/// # Safety
/// `file` is a `struct file` the verifier knows.
#[inline(always)]
unsafe fn is_the_program(file: *const c_void) -> bool {
    // SAFETY: the caller's.
    unsafe { fs::file_flags(file) & FMODE_EXEC != 0 && task::exe_file() == file as u64 }
}

/// KERNEL: from 6.6 on a mapping on an overlay holds the file below, on a mount that nobody sees, and only
/// `backing_file.user_path` says where it was opened. Other files on such mounts (memfds) have no folder.
#[inline(always)]
fn as_opened(file: *const c_void, place: (u64, u64)) -> (u64, u64) {
    let is_internal = object::is_internal(place.0);
    let is_in_a_folder = fs::dentry_parent(place.1).is_some_and(|above| above != place.1);
    if is_internal
        && is_in_a_folder
        && let Some(opened) = fs::user_path(file as u64)
    {
        return opened;
    }
    // FAIL-CLOSED: a file below an overlay whose user can't be had stays internal, which rules don't allow.
    place
}

#[inline(always)]
fn judge(subject: &Subject, hook: Hook, place: (u64, u64)) -> i32 {
    let (verb, decision) = decide(subject, hook, place);
    carry_out_unlogged(subject, verb, decision)
}

/// As a program without arguments.
#[inline(always)]
fn decide(subject: &Subject, hook: Hook, place: (u64, u64)) -> (Verb, Decision) {
    let verb = Verb {
        hook,
        action: Action::Exec,
        kind: Kind::Exec,
        verbs: verb::bit(verb::MAP),
    };
    let decision = match program(subject, place, PROGRAM) {
        Ok(object) => judge_object(subject, verb, object),
        // FAIL-CLOSED: what can't be named can't be allowed.
        Err(reason) => Decision::refuse(reason),
    };
    (verb, decision)
}
