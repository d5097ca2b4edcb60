//! Changing what belongs to a file besides its content, its owner and its mode (those are in `tree`): times,
//! extended attributes, ACLs, and the attributes of file systems. But for the ioctls, none of these hooks
//! says on which mount the file is; `names` is about that.

use agentguard_common::{
    counter::Hook,
    event::{Action, ObjectKind},
    profile::{Subject as Kind, verb},
};
use aya_ebpf::{cty::c_void, macros::lsm, programs::LsmContext};

use crate::{
    kernel::{self, fs},
    names::judge_entry,
    object,
    record::Verb,
    subject::Subject,
    verdict::{ALLOWED, guard, install, judge},
};

// include/linux/fs.h.
const ATTR_ATIME_SET: u32 = 1 << 7;
const ATTR_MTIME_SET: u32 = 1 << 8;
const ATTR_TIMES_SET: u32 = 1 << 16;
const ATTR_TOUCH: u32 = 1 << 17;

/// `inode_setattr`: times. Owner, mode and length have been judged by the time they come here, by `path_chown`,
/// `path_chmod`, and `path_truncate` or an open for writing.
#[lsm(hook = "inode_setattr")]
pub fn inode_setattr(ctx: LsmContext) -> i32 {
    guard(Hook::InodeSetattr, |subject| {
        let (dentry, attributes): (u64, u64) = if fs::setattr_says_entry_first() {
            // `(dentry, attr)`
            (ctx.arg(0), ctx.arg(1))
        } else {
            // `(idmap, dentry, attr)`. VERIFIER: where the entry is must be a constant, so the compiler must not
            // make one read of the two.
            (kernel::opaque(ctx.arg(1)), kernel::opaque(ctx.arg(2)))
        };
        const TIMES: u32 = ATTR_ATIME_SET | ATTR_MTIME_SET | ATTR_TIMES_SET | ATTR_TOUCH;
        match fs::changes(attributes) {
            Some(changes) if changes & TIMES == 0 => ALLOWED,
            // FAIL-CLOSED: what is changed and can't be read may be the times.
            _ => judge_entry(subject, metadata(Hook::InodeSetattr), dentry),
        }
    })
}

const fn metadata(hook: Hook) -> Verb {
    Verb {
        hook,
        action: Action::FileMetadata,
        kind: Kind::File,
        verbs: verb::bit(verb::METADATA),
    }
}

/// `inode_setxattr(idmap, dentry, name, value, size, flags)`. KERNEL: before 6.2 ACLs come here too.
#[lsm(hook = "inode_setxattr")]
pub fn inode_setxattr(ctx: LsmContext) -> i32 {
    guard(Hook::InodeSetxattr, |subject| {
        judge_entry(subject, metadata(Hook::InodeSetxattr), ctx.arg(1))
    })
}

/// `inode_removexattr(idmap, dentry, name)`. KERNEL: before 6.2 ACLs come here too.
#[lsm(hook = "inode_removexattr")]
pub fn inode_removexattr(ctx: LsmContext) -> i32 {
    guard(Hook::InodeRemovexattr, |subject| {
        judge_entry(subject, metadata(Hook::InodeRemovexattr), ctx.arg(1))
    })
}

/// `inode_set_acl(idmap, dentry, acl_name, kacl)`. KERNEL: from 6.2 on; optional.
#[lsm(hook = "inode_set_acl")]
pub fn inode_set_acl(ctx: LsmContext) -> i32 {
    guard(Hook::InodeSetAcl, |subject| {
        judge_entry(subject, metadata(Hook::InodeSetAcl), ctx.arg(1))
    })
}

/// `inode_remove_acl(idmap, dentry, acl_name)`. KERNEL: from 6.2 on; optional.
#[lsm(hook = "inode_remove_acl")]
pub fn inode_remove_acl(ctx: LsmContext) -> i32 {
    guard(Hook::InodeRemoveAcl, |subject| {
        judge_entry(subject, metadata(Hook::InodeRemoveAcl), ctx.arg(1))
    })
}

/// `inode_file_setattr(dentry, fa)`: the call `file_setattr`, and again what ioctls change. KERNEL: from 6.17 on;
/// optional.
#[lsm(hook = "inode_file_setattr")]
pub fn inode_file_setattr(ctx: LsmContext) -> i32 {
    guard(Hook::InodeFileSetattr, |subject| {
        judge_entry(subject, metadata(Hook::InodeFileSetattr), ctx.arg(0))
    })
}

/// Commands that change a file's attributes, from 64-bit and from 32-bit programs: include/uapi/linux/{fs,
/// fsverity,fscrypt,msdos_fs,btrfs}.h, fs/ext4/ext4.h.
const COMMANDS: [u32; 11] = [
    0x4008_6602, // FS_IOC_SETFLAGS
    0x4004_6602,
    0x401c_5820, // FS_IOC_FSSETXATTR
    0x4008_7602, // FS_IOC_SETVERSION
    0x4004_7602,
    0x4008_6604, // EXT4_IOC_SETVERSION
    0x4004_6604,
    0x4080_6685, // FS_IOC_ENABLE_VERITY
    0x800c_6613, // FS_IOC_SET_ENCRYPTION_POLICY
    0x4004_7211, // FAT_IOCTL_SET_ATTRIBUTES
    0x4008_941a, // BTRFS_IOC_SUBVOL_SETFLAGS
];

/// Whether an ioctl changes a file's attributes.
#[inline(always)]
pub fn is_attribute(command: u32) -> bool {
    let mut found = false;
    let mut i = 0;
    while i < COMMANDS.len() {
        found |= command == COMMANDS[i];
        i += 1;
    }
    found
}

/// Judges an ioctl that does.
///
/// # Safety
/// `file` is a `struct file` that the verifier knows.
#[inline(always)]
pub unsafe fn attribute_ioctl(subject: &Subject, hook: Hook, file: *const c_void) -> i32 {
    // SAFETY: the caller's.
    let place = unsafe { fs::file_path(file) };
    let object = object::path(subject, install(subject), place, 0, ObjectKind::Path);
    judge(subject, metadata(hook), object)
}
