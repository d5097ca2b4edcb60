//! Files and directories that rules name literally, known by device and inode as well as by name.
//!
//! An identity says where the automata stand after the file's own, canonical path. Whoever meets the
//! inode on the way from an object to its root, under whatever name, walks the rest of the path from
//! there too, and the stricter answer wins: so a bind mount, a hard link or another root doesn't lift
//! a prohibition.

use crate::limits::AUTOMATA;

/// Subjects whose objects begin with paths: file, exec, Unix socket and a program with its arguments, in this
/// order.
pub const PATH_SUBJECTS: usize = 4;

/// Key of the `IDENTITIES` map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct IdentityKey {
    /// `inode->i_ino`.
    pub inode: u64,
    /// `super_block->s_dev`, as the kernel writes it (12 bits major, 20 bits minor).
    pub device: u32,
    /// Install number of the policy that the states belong to.
    pub install: u32,
    /// Slot of the profile in `PROFILES` that the states belong to.
    pub profile: u32,
    pub padding: u32,
}

/// Value of the `IDENTITIES` map: per path subject, the state of each automaton after the canonical
/// path. What stands for an absent automaton doesn't matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Identity {
    pub states: [[u32; AUTOMATA]; PATH_SUBJECTS],
}

/// Bits in `IDENTITY_FILTER`, a bitmap that says "certainly not" for most inodes.
pub const FILTER_BITS: u32 = 1 << 16;
/// 64-bit words in `IDENTITY_FILTER`.
pub const FILTER_WORDS: u32 = FILTER_BITS / 64;

/// The bit of `IDENTITY_FILTER` that an inode sets.
#[inline(always)]
pub const fn filter_bit(inode: u64, device: u32) -> u32 {
    // Fibonacci hashing (Knuth, TAOCP 6.4): inode numbers are dense, the top bits spread them.
    let mixed = (inode ^ ((device as u64) << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 48) as u32 & (FILTER_BITS - 1)
}

const _: () = assert!(size_of::<IdentityKey>() == 24);
const _: () = assert!(size_of::<Identity>() == 64);
