//! Files, directory entries, inodes and mounts.

use aya_ebpf::cty::c_void;

use super::{direct, offsets, probe};

/// Length and address of a directory entry's name.
#[derive(Clone, Copy)]
pub struct Name {
    pub len_bytes: u32,
    pub address: u64,
}

/// `file.f_path` as mount and directory entry.
///
/// # Safety
/// `file` is a `struct file` the verifier knows.
#[inline(always)]
pub unsafe fn file_path(file: *const c_void) -> (u64, u64) {
    let o = offsets();
    // SAFETY: the caller's.
    unsafe {
        (
            direct::<u64>(file, o.file_f_path + o.path_mnt),
            direct::<u64>(file, o.file_f_path + o.path_dentry),
        )
    }
}

/// A `struct path` as mount and directory entry.
///
/// # Safety
/// `path` is a `struct path` the verifier knows.
#[inline(always)]
pub unsafe fn path(path: *const c_void) -> (u64, u64) {
    let o = offsets();
    // SAFETY: the caller's.
    unsafe {
        (
            direct::<u64>(path, o.path_mnt),
            direct::<u64>(path, o.path_dentry),
        )
    }
}

/// `file.f_flags`: the `O_*` flags of the open.
///
/// # Safety
/// `file` is a `struct file` the verifier knows.
#[inline(always)]
pub unsafe fn file_flags(file: *const c_void) -> u32 {
    // SAFETY: the caller's.
    unsafe { direct(file, offsets().file_f_flags) }
}

/// Number of names of the file's inode, and the magic number of its file system.
#[inline(always)]
pub fn links_and_magic(inode: u64) -> Option<(u32, u64)> {
    let o = offsets();
    let links = probe::<u32>(inode, o.inode_i_nlink)?;
    let superblock = probe::<u64>(inode, o.inode_i_sb)?;
    Some((links, probe::<u64>(superblock, o.super_block_s_magic)?))
}

#[inline(always)]
pub fn dentry_parent(dentry: u64) -> Option<u64> {
    probe(dentry, offsets().dentry_d_parent)
}

#[inline(always)]
pub fn dentry_inode(dentry: u64) -> Option<u64> {
    probe(dentry, offsets().dentry_d_inode)
}

#[inline(always)]
pub fn dentry_name(dentry: u64) -> Option<Name> {
    let o = offsets();
    Some(Name {
        len_bytes: probe(dentry, o.dentry_d_name + o.qstr_len)?,
        address: probe(dentry, o.dentry_d_name + o.qstr_name)?,
    })
}

#[inline(always)]
pub fn inode_number(inode: u64) -> Option<u64> {
    probe(inode, offsets().inode_i_ino)
}

/// The `struct mount` around a `struct vfsmount`.
#[inline(always)]
pub fn mount_of(vfsmount: u64) -> u64 {
    vfsmount.wrapping_sub(offsets().mount_mnt as u64)
}

#[inline(always)]
pub fn mount_parent(mount: u64) -> Option<u64> {
    probe(mount, offsets().mount_mnt_parent)
}

#[inline(always)]
pub fn mount_mountpoint(mount: u64) -> Option<u64> {
    probe(mount, offsets().mount_mnt_mountpoint)
}

/// The mount namespace, an error pointer on kernel-internal mounts, null when unmounted.
#[inline(always)]
pub fn mount_namespace(mount: u64) -> Option<u64> {
    probe(mount, offsets().mount_mnt_ns)
}

#[inline(always)]
pub fn mount_root(mount: u64) -> Option<u64> {
    let o = offsets();
    probe(mount, o.mount_mnt + o.vfsmount_mnt_root)
}

/// `super_block.s_dev` of the mounted file system.
#[inline(always)]
pub fn mount_device(mount: u64) -> Option<u32> {
    let o = offsets();
    let superblock = probe::<u64>(mount, o.mount_mnt + o.vfsmount_mnt_sb)?;
    probe(superblock, o.super_block_s_dev)
}
