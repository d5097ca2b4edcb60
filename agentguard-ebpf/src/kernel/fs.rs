//! Files, directory entries, inodes and mounts.

use agentguard_common::offsets::ABSENT;
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

/// `file.f_path.dentry`. What this and the functions below return the verifier knows as well, so that what lies there is
/// read directly; those further down take addresses, and copy.
///
/// # Safety
/// `file` is a `struct file` the verifier knows.
#[inline(always)]
pub unsafe fn file_dentry(file: *const c_void) -> *const c_void {
    let o = offsets();
    // SAFETY: the caller's.
    unsafe { direct(file, o.file_f_path + o.path_dentry) }
}

/// `file.f_inode`: what is read and written.
///
/// # Safety
/// As for [`file_dentry`].
#[inline(always)]
pub unsafe fn file_inode(file: *const c_void) -> *const c_void {
    // SAFETY: the caller's.
    unsafe { direct(file, offsets().file_f_inode) }
}

/// `dentry.d_seq`: odd while the entry's name or place changes, and another number afterwards.
///
/// # Safety
/// `dentry` is a `struct dentry` the verifier knows.
#[inline(always)]
pub unsafe fn dentry_sequence(dentry: *const c_void) -> u32 {
    // SAFETY: the caller's.
    unsafe { direct(dentry, offsets().dentry_d_seq) }
}

/// `dentry.d_inode`.
///
/// # Safety
/// As for [`dentry_sequence`].
#[inline(always)]
pub unsafe fn entry_inode(dentry: *const c_void) -> *const c_void {
    // SAFETY: the caller's.
    unsafe { direct(dentry, offsets().dentry_d_inode) }
}

/// `inode.i_ino` and `inode.i_generation`.
///
/// # Safety
/// `inode` is a `struct inode` the verifier knows.
#[inline(always)]
pub unsafe fn identity(inode: *const c_void) -> (u64, u32) {
    let o = offsets();
    // SAFETY: the caller's.
    unsafe {
        (
            direct(inode, o.inode_i_ino),
            direct(inode, o.inode_i_generation),
        )
    }
}

/// `dentry.d_parent`.
///
/// # Safety
/// As for [`dentry_sequence`].
#[inline(always)]
pub unsafe fn entry_parent(dentry: *const c_void) -> *const c_void {
    // SAFETY: the caller's.
    unsafe { direct(dentry, offsets().dentry_d_parent) }
}

/// `dentry.d_name`.
///
/// # Safety
/// As for [`dentry_sequence`].
#[inline(always)]
pub unsafe fn entry_name(dentry: *const c_void) -> Name {
    let o = offsets();
    // SAFETY: the caller's.
    unsafe {
        Name {
            len_bytes: direct(dentry, o.dentry_d_name + o.qstr_len),
            address: direct(dentry, o.dentry_d_name + o.qstr_name),
        }
    }
}

/// The entry of an open file's inode: `dentry`, unless the file was opened under another one's name.
/// KERNEL: before 6.8 (mainline def3ae83da02) so is the file below that of an overlay (`open_with_fake_path`).
#[inline(always)]
pub fn entry_of(inode: u64, dentry: u64) -> Option<u64> {
    if dentry_inode(dentry)? == inode {
        return Some(dentry);
    }
    let o = offsets();
    // A `struct hlist_head` is a pointer to the first element.
    let first: u64 = probe(inode, o.inode_i_dentry)?;
    (first != 0).then(|| first.wrapping_sub(o.dentry_d_u.into()))
}

/// `super_block.s_dev` of an entry's file system.
#[inline(always)]
pub fn dentry_device(dentry: u64) -> Option<u32> {
    let o = offsets();
    let superblock = probe::<u64>(dentry_inode(dentry)?, o.inode_i_sb)?;
    probe(superblock, o.super_block_s_dev)
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

/// `vm_area_struct.vm_file`, null for memory without a file.
///
/// # Safety
/// `vma` is a `struct vm_area_struct` the verifier knows.
#[inline(always)]
pub unsafe fn mapped_file(vma: *const c_void) -> *const c_void {
    // SAFETY: the caller's.
    unsafe { direct(vma, offsets().vm_area_struct_vm_file) }
}

/// `backing_file.user_path` of the file below an overlay: where its user opened it. `None` when it can't be read
/// or this kernel has none.
#[inline(always)]
pub fn user_path(backing_file: u64) -> Option<(u64, u64)> {
    let o = offsets();
    if o.backing_file_user_path == ABSENT {
        return None;
    }
    let mount = probe(backing_file, o.backing_file_user_path + o.path_mnt)?;
    let dentry = probe(backing_file, o.backing_file_user_path + o.path_dentry)?;
    Some((mount, dentry))
}

/// A `struct qstr`.
#[inline(always)]
pub fn name(qstr: u64) -> Option<Name> {
    let o = offsets();
    Some(Name {
        len_bytes: probe(qstr, o.qstr_len)?,
        address: probe(qstr, o.qstr_name)?,
    })
}

/// What an inode's content is known by: when it was last changed (second and nanosecond in one), and its length. `None`
/// when that can't be read, or when somebody has it open for writing and could change it in memory unseen.
#[inline(always)]
pub fn content(inode: u64) -> Option<[u64; 2]> {
    let o = offsets();
    let sec: u64 = probe(inode, o.inode_changed_sec)?;
    let nsec: u32 = probe(inode, o.inode_changed_nsec)?;
    let size: u64 = probe(inode, o.inode_i_size)?;
    let writers: i32 = probe(inode, o.inode_i_writecount)?;
    (writers <= 0).then_some([sec << 30 | u64::from(nsec), size])
}

/// `inode.i_mode`: what kind of file it is, and its permissions.
#[inline(always)]
pub fn inode_mode(inode: u64) -> Option<u16> {
    probe(inode, offsets().inode_i_mode)
}

/// `inode.i_uid`: the owner, as the initial user namespace numbers users.
#[inline(always)]
pub fn inode_owner(inode: u64) -> Option<u32> {
    probe(inode, offsets().inode_i_uid)
}

/// `inode.i_rdev`: the device that a device file stands for.
#[inline(always)]
pub fn inode_device(inode: u64) -> Option<u32> {
    probe(inode, offsets().inode_i_rdev)
}

/// Magic number of the inode's file system.
#[inline(always)]
pub fn inode_magic(inode: u64) -> Option<u64> {
    let o = offsets();
    let superblock = probe::<u64>(inode, o.inode_i_sb)?;
    probe(superblock, o.super_block_s_magic)
}

/// The `struct pid` that a file in /proc is about, 0 when it is about none. The inode is in /proc.
#[inline(always)]
pub fn proc_pid(inode: u64) -> Option<u64> {
    let o = offsets();
    let around = inode.wrapping_sub(o.proc_inode_vfs_inode.into());
    probe(around, o.proc_inode_pid)
}

/// The `struct cgroup` whose folder in cgroup2 has this inode.
#[inline(always)]
pub fn cgroup_of_folder(inode: u64) -> Option<u64> {
    let o = offsets();
    let node: u64 = probe(inode, o.inode_i_private)?;
    probe(node, o.kernfs_node_priv)
}

/// `file.f_mode`: the `FMODE_*` bits.
///
/// # Safety
/// `file` is a `struct file` the verifier knows.
#[inline(always)]
pub unsafe fn file_mode(file: *const c_void) -> u32 {
    // SAFETY: the caller's.
    unsafe { direct(file, offsets().file_f_mode) }
}

/// Whether a file still has a name.
///
/// # Safety
/// `inode` is a `struct inode` the verifier knows.
#[inline(always)]
pub unsafe fn has_links(inode: *const c_void) -> bool {
    // SAFETY: the caller's.
    unsafe { direct::<u32>(inode, offsets().inode_i_nlink) != 0 }
}

/// Number of names of the file's inode, and the magic number of its file system.
#[inline(always)]
pub fn links_and_magic(inode: u64) -> Option<(u32, u64)> {
    let links = probe(inode, offsets().inode_i_nlink)?;
    Some((links, inode_magic(inode)?))
}

/// `super_block.s_magic` of an inode's file system.
///
/// # Safety
/// `inode` is a `struct inode` the verifier knows.
#[inline(always)]
pub unsafe fn magic_of(inode: *const c_void) -> u64 {
    let o = offsets();
    // SAFETY: the caller's; every inode has a file system.
    unsafe {
        let file_system = direct::<*const c_void>(inode, o.inode_i_sb);
        direct(file_system, o.super_block_s_magic)
    }
}

/// Whether there is a directory behind a name.
#[inline(always)]
pub fn is_directory(dentry: u64) -> Option<bool> {
    const S_IFDIR: u16 = 0o040_000;
    is_of_type(dentry, S_IFDIR)
}

/// Whether there is a symlink behind a name.
#[inline(always)]
pub fn is_symlink(dentry: u64) -> Option<bool> {
    const S_IFLNK: u16 = 0o120_000;
    is_of_type(dentry, S_IFLNK)
}

/// Whether there is a file of this type behind a name (include/uapi/linux/stat.h).
#[inline(always)]
fn is_of_type(dentry: u64, wanted: u16) -> Option<bool> {
    const S_IFMT: u16 = 0o170_000;
    let inode = dentry_inode(dentry)?;
    if inode == 0 {
        return Some(false);
    }
    let mode = inode_mode(inode)?;
    Some(mode & S_IFMT == wanted)
}

/// What a directory entry says of itself.
#[derive(Clone, Copy)]
pub struct Entry {
    pub parent: u64,
    pub name: Name,
    pub inode: u64,
}

/// Reads all of an entry at once, where it lies together as it does on every kernel that is tested: each read by itself
/// costs as much.
#[inline(always)]
pub fn entry(dentry: u64) -> Option<Entry> {
    /// `d_parent`, `d_name` (a hash, the length and the address) and `d_inode` (include/linux/dcache.h).
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Together {
        parent: u64,
        hash: u32,
        len_bytes: u32,
        name: u64,
        inode: u64,
    }
    let o = offsets();
    if o.dentry_d_name == o.dentry_d_parent + 8
        && o.qstr_len == 4
        && o.qstr_name == 8
        && o.dentry_d_inode == o.dentry_d_parent + 24
    {
        let read: Together = probe(dentry, o.dentry_d_parent)?;
        return Some(Entry {
            parent: read.parent,
            name: Name {
                len_bytes: read.len_bytes,
                address: read.name,
            },
            inode: read.inode,
        });
    }
    Some(Entry {
        parent: dentry_parent(dentry)?,
        name: dentry_name(dentry)?,
        inode: dentry_inode(dentry)?,
    })
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
    name(dentry.wrapping_add(offsets().dentry_d_name.into()))
}

#[inline(always)]
pub fn inode_number(inode: u64) -> Option<u64> {
    probe(inode, offsets().inode_i_ino)
}

/// Whether an entry is shared memory that nobody opened as a file, and nobody can: `mmap` with `MAP_SHARED |
/// MAP_ANONYMOUS` makes it (mm/shmem.c, `shmem_zero_setup`). Its name has a `/`, as no other's can.
#[inline(always)]
pub fn is_shared_memory(dentry: u64) -> bool {
    const NAME: &[u8; 8] = b"dev/zero";
    match dentry_name(dentry) {
        Some(name) => {
            name.len_bytes == 8 && probe::<u64>(name.address, 0) == Some(u64::from_le_bytes(*NAME))
        }
        None => false,
    }
}

/// The `struct mount` around a `struct vfsmount`.
#[inline(always)]
pub fn mount_of(vfsmount: u64) -> u64 {
    vfsmount.wrapping_sub(offsets().mount_mnt as u64)
}

/// The mount namespace, an error pointer on kernel-internal mounts, null when unmounted.
#[inline(always)]
pub fn mount_namespace(mount: u64) -> Option<u64> {
    probe(mount, offsets().mount_mnt_ns)
}

/// Whether this is what the kernel has in the place of the namespace of its own mounts: `MNT_NS_INTERNAL` is
/// `ERR_PTR(-EINVAL)` (fs/mount.h).
#[inline(always)]
pub fn is_error_pointer(pointer: u64) -> bool {
    pointer > u64::MAX - 4096
}

/// The `struct vfsmount` in a `struct mount`.
#[inline(always)]
pub fn vfsmount_of(mount: u64) -> u64 {
    mount.wrapping_add(offsets().mount_mnt as u64)
}

/// Address of the list of all mounts of the entry's file system. The entry has an inode.
#[inline(always)]
pub fn mounts_of(dentry: u64) -> Option<u64> {
    let o = offsets();
    let superblock: u64 = probe(dentry_inode(dentry)?, o.inode_i_sb)?;
    Some(superblock.wrapping_add(o.super_block_s_mounts.into()))
}

/// The first element of such a list. KERNEL: before 6.18 it is a `list_head`, which points to `mount.mnt_instance`
/// and at its end to itself; from 6.18 on it points to mounts, and at its end nowhere.
#[inline(always)]
pub fn first_mount(list: u64) -> Option<u64> {
    probe(list, 0)
}

#[inline(always)]
pub fn next_mount(element: u64) -> Option<u64> {
    let o = offsets();
    if o.mount_mnt_next_for_sb == ABSENT {
        probe(element, 0)
    } else {
        probe(element, o.mount_mnt_next_for_sb)
    }
}

/// Whether the list ends here.
#[inline(always)]
pub fn is_last_mount(list: u64, element: u64) -> bool {
    if offsets().mount_mnt_next_for_sb == ABSENT {
        element == list
    } else {
        element == 0
    }
}

/// The `struct mount` of an element.
#[inline(always)]
pub fn mount_in_list(element: u64) -> u64 {
    let o = offsets();
    if o.mount_mnt_next_for_sb == ABSENT {
        element.wrapping_sub(o.mount_mnt_instance.into())
    } else {
        element
    }
}

/// `iattr.ia_valid`: the `ATTR_*` bits of what is changed.
#[inline(always)]
pub fn changes(attributes: u64) -> Option<u32> {
    probe(attributes, offsets().iattr_ia_valid)
}

/// Whether the hook `inode_setattr` has the directory entry as its first argument.
#[inline(always)]
pub fn setattr_says_entry_first() -> bool {
    offsets().inode_setattr_dentry == 0
}

/// What a `struct mount` says of itself.
#[derive(Clone, Copy)]
pub struct Mount {
    /// The `struct mount` that it lies on, itself when it lies on none, and the entry there.
    pub parent: u64,
    pub mountpoint: u64,
    /// Its root's entry, and the device of its file system.
    pub root: u64,
    pub device: u32,
}

/// Reads all of a mount at once where it lies together, as [`entry`] does.
#[inline(always)]
pub fn mount(mount: u64) -> Option<Mount> {
    /// `mnt_parent`, `mnt_mountpoint` (fs/mount.h), and `mnt_root`, `mnt_sb` (include/linux/mount.h).
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Together {
        parent: u64,
        mountpoint: u64,
        root: u64,
        superblock: u64,
    }
    let o = offsets();
    let (root, superblock) = (
        o.mount_mnt + o.vfsmount_mnt_root,
        o.mount_mnt + o.vfsmount_mnt_sb,
    );
    let read = if o.mount_mnt_mountpoint == o.mount_mnt_parent + 8
        && root == o.mount_mnt_parent + 16
        && superblock == o.mount_mnt_parent + 24
    {
        probe::<Together>(mount, o.mount_mnt_parent)?
    } else {
        Together {
            parent: probe(mount, o.mount_mnt_parent)?,
            mountpoint: probe(mount, o.mount_mnt_mountpoint)?,
            root: probe(mount, root)?,
            superblock: probe(mount, superblock)?,
        }
    };
    Some(Mount {
        parent: read.parent,
        mountpoint: read.mountpoint,
        root: read.root,
        device: probe(read.superblock, o.super_block_s_dev)?,
    })
}
