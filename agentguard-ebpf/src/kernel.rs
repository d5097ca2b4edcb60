//! The only place that reads kernel structures. One function per field, offsets from `OFFSETS`.
//!
//! Two ways to read: `direct` follows a pointer that the verifier knows by its BTF type (a hook's
//! argument, or what was read directly from one) and costs one instruction; `probe` copies from any
//! address and can fail.

pub mod fs;
pub mod net;
pub mod task;

use agentguard_common::{offsets::KernelOffsets, seen::Sequences};
use aya_ebpf::{cty::c_void, helpers::generated::bpf_probe_read_kernel};

use crate::maps::{OFFSETS, SEQUENCES};

/// The frozen offsets, which the verifier takes for constants. The compiler must not: it is not told where they
/// are. A volatile read, which would do as well, reads all of them each time.
#[inline(always)]
pub fn offsets() -> &'static KernelOffsets {
    let address = opaque((&raw const OFFSETS) as u64);
    // SAFETY: the global is nothing but the table, is there forever, and is frozen before any program is loaded.
    unsafe { &*(address as *const KernelOffsets) }
}

/// Where the kernel counts what moves: frozen as well.
#[inline(always)]
pub fn sequences() -> &'static Sequences {
    let address = opaque((&raw const SEQUENCES) as u64);
    // SAFETY: as above.
    unsafe { &*(address as *const Sequences) }
}

/// Reads the field at `offset` from a pointer that the verifier knows by its BTF type.
///
/// # Safety
/// `base` is such a pointer, not null, and `offset` comes from [`offsets`].
#[inline(always)]
unsafe fn direct<T: Copy>(base: *const c_void, offset: u32) -> T {
    // SAFETY: the verifier checks the access against the kernel's own types.
    unsafe { core::ptr::read_volatile(base.cast::<u8>().add(offset as usize).cast()) }
}

/// Copies a `T` from kernel address `address` plus `offset`.
#[inline(always)]
pub fn probe<T: Copy>(address: u64, offset: u32) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes size_of::<T>() bytes or fails; a bad address is a failure.
    let result = unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address.wrapping_add(offset as u64) as *const c_void,
        )
    };
    // SAFETY: written on success.
    (result == 0).then(|| unsafe { value.assume_init() })
}

/// The same length, which is at most `N`, in a form that the verifier can bound by twice `N`.
///
/// VERIFIER: a comparison bounds only the register compared, and the compiler compares another one
/// than it passes on; a mask on the very value that is passed on can't be separated from it. `opaque`
/// keeps the compiler from proving the mask useless and leaving it out.
#[inline(always)]
pub fn bounded<const N: usize>(len_bytes: u32) -> u32 {
    (opaque(u64::from(len_bytes)) & (2 * N as u64 - 1)) as u32
}

/// The same byte, for comparisons. VERIFIER: what they say of it doesn't rub off on `byte`, which would
/// otherwise be a different constant, and everything that follows looked at anew, for each of them.
#[inline(always)]
pub fn apart(byte: u8) -> u8 {
    bounded::<128>(byte.into()) as u8
}

/// The same number, of which the compiler no longer knows anything.
#[inline(always)]
pub fn opaque(mut number: u64) -> u64 {
    // SAFETY: a move of the register to itself; without an instruction the line information of the
    // next one would be a duplicate, which the kernel refuses.
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) number, options(nomem, nostack, preserves_flags));
    }
    number
}

/// The same number, of which the verifier no longer knows anything; 0 when it can't be copied.
#[inline(always)]
pub fn forgotten(number: u64) -> u64 {
    // FAIL-CLOSED: callers take 0 for "it isn't so", and refuse.
    probe(core::ptr::from_ref(&number) as u64, 0).unwrap_or(0)
}

/// Copies `len_bytes` bytes from kernel address `from` to `to`.
///
/// # Safety
/// `to` has room for `len_bytes` bytes that the verifier can see.
#[inline(always)]
pub unsafe fn copy(to: *mut u8, len_bytes: u32, from: *const u8) -> bool {
    // SAFETY: the caller's; the helper checks `from`.
    unsafe { bpf_probe_read_kernel(to.cast(), len_bytes, from.cast()) == 0 }
}
