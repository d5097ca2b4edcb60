//! Files that were allowed before: what an agent was allowed to open, and what must be the same for that to be so again.
//! Shared between the programs alone; here because the loader checks the size of what tasks and inodes carry.

/// Longest name whose file is remembered, in bytes.
pub const NAME_BYTES: usize = 64;
/// Longest path of a file that is remembered although its opens are logged, in bytes.
pub const TOLD_BYTES: usize = 240;
/// In [`Seen::verbs`], the accesses of an open: as in [`verb`](crate::profile::verb).
pub const OPENED: u64 = 0xff;
/// In [`Seen::verbs`]: it may be mapped as code.
pub const MAPPED: u64 = 1 << 8;
/// Words of a [`Place`].
pub const PLACE_WORDS: usize = size_of::<Place>() / 8;

/// Everything that the answer to an open follows from, besides the inode and the accesses.
///
/// `changes` stands for all directories and mounts on the way to the root: none of them can have another name or be
/// somewhere else while the kernel's counts of renames and of changes to mounts are what they were. The last directory is
/// known by its address, and because an address can be another one's by now, by what a file handle knows it by (inode
/// number and generation, include/linux/exportfs.h); the file by its own name, because an inode can have several.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Place {
    /// The entry's name, zero-padded.
    pub name: [u64; NAME_BYTES / 8],
    pub len_bytes: u64,
    /// `struct dentry *` of the directory, and its inode's number and generation.
    pub folder: u64,
    pub folder_inode: u64,
    pub folder_generation: u64,
    /// `struct vfsmount *` and `struct mnt_namespace *`. Neither address becomes another one's without a change to mounts.
    pub mount: u64,
    pub namespace: u64,
    /// [`Control::generation`](crate::label::Control::generation).
    pub generation: u64,
    /// `rename_lock` in the low half, `mount_lock` in the high one: the sequence counters of the kernel, both even.
    pub changes: u64,
    /// Arena cell of the profile's descriptor.
    pub profile: u64,
    /// [`window`] in which the answer was given: the kernel's counters have 32 bits, and whoever renames 2^31 times brings
    /// them back to where they were, though not as fast as that.
    pub window: u64,
}

/// The time in which an answer counts, by the kernel's ticks: 16 seconds of 1000 a second, 164 of 100.
#[inline(always)]
pub const fn window(jiffies: u64) -> u64 {
    jiffies >> 14
}

/// What an inode carries (`SEEN`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Seen {
    /// Who began to write what follows, and who has done, counted. They are the same while nobody writes.
    pub begun: u64,
    pub done: u64,
    /// The accesses that were allowed, one bit each, and [`MAPPED`]; of opens that are logged, those of one, whose outcome is
    /// kept.
    pub verbs: u64,
    pub place: Place,
    pub told: Told,
}

/// What the event says of an open that is allowed and logged.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Told {
    /// As in [`RecordHeader`](crate::event::RecordHeader).
    pub inode: u64,
    pub device: u32,
    pub outcome: u32,
    /// The verb that decided, and 1 when no rule did.
    pub verb: u32,
    pub by_default: u32,
    /// Length of the path in bytes, 0 when nothing is logged.
    pub path_bytes: u32,
    pub padding: u32,
    /// The path, at the end.
    pub path: [u64; TOLD_BYTES / 8],
}

/// Where the kernel counts what moves: addresses of `rename_lock` and `mount_lock`, 0 when they aren't known. Then nothing
/// is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Sequences {
    pub renames: u64,
    pub mounts: u64,
}

impl Sequences {
    pub const UNKNOWN: Self = Self {
        renames: 0,
        mounts: 0,
    };
}

const _: () = {
    // Compared and copied by words.
    assert!(size_of::<Place>() == 18 * 8);
    assert!(size_of::<Seen>() == (21 + 4 + TOLD_BYTES / 8) * 8);
    // With the kernel's own header (as in `label`) it fits a slab object of 512 bytes.
    assert!(size_of::<Seen>() <= 512 - 72);
};
