//! Changing the tree of names and what belongs to them: create, delete, truncate, owner and mode (rename,
//! link and symlink are in `moved`). The `path_*` hooks come before the kernel's own permission check, so attempts are seen.

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
    subject::Subject,
    verdict::{guard, install, judge},
};

/// Judges the entry `dentry` of the directory `dir`.
///
/// # Safety
/// `dir` is a `struct path` that the verifier knows.
#[inline(always)]
unsafe fn entry(
    subject: &Subject,
    (hook, action, verbs): (Hook, Action, u8),
    dir: *const c_void,
    dentry: *const c_void,
) -> i32 {
    // SAFETY: the caller's.
    let (mount, _) = unsafe { fs::path(dir) };
    let verb = Verb {
        hook,
        action,
        kind: Kind::File,
        verbs,
    };
    let place = (mount, dentry as u64);
    let object = object::path(subject, install(subject), place, 0, ObjectKind::Path);
    judge(subject, verb, object)
}

/// Judges the object of a `struct path`.
///
/// # Safety
/// `path` is a `struct path` that the verifier knows.
#[inline(always)]
unsafe fn whole(
    subject: &Subject,
    (hook, action, verbs): (Hook, Action, u8),
    path: *const c_void,
) -> i32 {
    // SAFETY: the caller's.
    let place = unsafe { fs::path(path) };
    let verb = Verb {
        hook,
        action,
        kind: Kind::File,
        verbs,
    };
    let object = object::path(subject, install(subject), place, 0, ObjectKind::Path);
    judge(subject, verb, object)
}

const CREATE: u8 = verb::bit(verb::CREATE);
const DELETE: u8 = verb::bit(verb::DELETE);
const METADATA: u8 = verb::bit(verb::METADATA);

/// `path_mknod(dir, dentry, mode, dev)`: also what `O_CREAT` creates, and Unix sockets that are bound.
#[lsm(hook = "path_mknod")]
pub fn path_mknod(ctx: LsmContext) -> i32 {
    let what = (Hook::PathMknod, Action::FileCreate, CREATE);
    // SAFETY: the hook's own arguments, and the task's own map value.
    guard(Hook::PathMknod, |subject| unsafe {
        // What was approved of an earlier call.
        (*subject.state).hold.approved_made = 0;
        entry(subject, what, ctx.arg(0), ctx.arg(1))
    })
}

/// `path_mkdir(dir, dentry, mode)`.
#[lsm(hook = "path_mkdir")]
pub fn path_mkdir(ctx: LsmContext) -> i32 {
    let what = (Hook::PathMkdir, Action::FileCreate, CREATE);
    // SAFETY: the hook's own arguments.
    guard(Hook::PathMkdir, |subject| unsafe {
        entry(subject, what, ctx.arg(0), ctx.arg(1))
    })
}

/// `path_unlink(dir, dentry)`.
#[lsm(hook = "path_unlink")]
pub fn path_unlink(ctx: LsmContext) -> i32 {
    let what = (Hook::PathUnlink, Action::FileDelete, DELETE);
    // SAFETY: the hook's own arguments.
    guard(Hook::PathUnlink, |subject| unsafe {
        entry(subject, what, ctx.arg(0), ctx.arg(1))
    })
}

/// `path_rmdir(dir, dentry)`.
#[lsm(hook = "path_rmdir")]
pub fn path_rmdir(ctx: LsmContext) -> i32 {
    let what = (Hook::PathRmdir, Action::FileDelete, DELETE);
    // SAFETY: the hook's own arguments.
    guard(Hook::PathRmdir, |subject| unsafe {
        entry(subject, what, ctx.arg(0), ctx.arg(1))
    })
}

/// `path_truncate(path)`.
#[lsm(hook = "path_truncate")]
pub fn path_truncate(ctx: LsmContext) -> i32 {
    let write = verb::bit(verb::WRITE);
    let what = (Hook::PathTruncate, Action::FileTruncate, write);
    // SAFETY: the hook's own argument.
    guard(Hook::PathTruncate, |subject| unsafe {
        whole(subject, what, ctx.arg(0))
    })
}

/// `path_chmod(path, mode)`.
#[lsm(hook = "path_chmod")]
pub fn path_chmod(ctx: LsmContext) -> i32 {
    let what = (Hook::PathChmod, Action::FileMetadata, METADATA);
    // SAFETY: the hook's own argument.
    guard(Hook::PathChmod, |subject| unsafe {
        whole(subject, what, ctx.arg(0))
    })
}

/// `path_chown(path, uid, gid)`.
#[lsm(hook = "path_chown")]
pub fn path_chown(ctx: LsmContext) -> i32 {
    let what = (Hook::PathChown, Action::FileMetadata, METADATA);
    // SAFETY: the hook's own argument.
    guard(Hook::PathChown, |subject| unsafe {
        whole(subject, what, ctx.arg(0))
    })
}
