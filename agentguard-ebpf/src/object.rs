//! What is acted on: the object's bytes, put into the task's workspace, and its identities.
//!
//! A path is climbed from the file to the root of its mount namespace over the kernel's own directory
//! entries and mounts, so that neither a symlink, nor `..`, nor a chroot, nor the string that the
//! program passed has a say. Names are written from the end of the buffer towards its front.
//!
//! VERIFIER: everything that changes from step to step lies in the task's map value, whose contents
//! the verifier takes for unknown. 6.1 looks at a `bpf_loop` callback only once, so a bound that it
//! had learnt from a stack slot would be wrong from the second step on.

use agentguard_common::{
    address::{ENCODED_BYTES, VSOCK_BYTES},
    counter::Site,
    decide::Text,
    event::{ObjectKind, Reason, Target},
    identity::{FILTER_WORDS, IdentityKey, filter_bit},
    label::{Climb, OBJECT_BYTES, TaskState},
    limits::{ALIASES, AUTOMATA, CLIMB_STEPS, NAME_BYTES},
};
use aya_ebpf::{
    cty::{c_long, c_void},
    helpers::generated::bpf_loop,
};

use crate::{
    count,
    kernel::{self, fs, task},
    maps::{IDENTITIES, IDENTITY_FILTER},
    subject::Subject,
};

/// The object as far as the verdict needs it; its bytes are in the workspace.
#[derive(Clone, Copy)]
pub struct Object {
    pub kind: ObjectKind,
    pub text: Text,
}

/// How a climb ended. Numbers because they lie in the workspace.
mod end {
    pub const RUNNING: u32 = 0;
    /// At the root of a mount that hangs on nothing: the root of a namespace, or a loose mount.
    pub const TOP: u32 = 1;
    /// At an entry that is its own parent but no mount's root: it was never in a directory.
    pub const LOOSE: u32 = 2;
    pub const TOO_LONG: u32 = 3;
    pub const UNREADABLE: u32 = 4;
    pub const ALIASES: u32 = 5;
}

/// Which way a climb takes at the root of a mount.
mod way {
    /// To the mount point: the path as everybody sees it.
    pub const OVER_MOUNTS: u32 = 0;
    /// Further up inside the file system, over names that the mount hides (a bind mount of a folder below
    /// a protected one): the path as the file system sees it.
    pub const INSIDE: u32 = 1;
    /// For a while inside, without names, to see whether there are identities; then to the mount point.
    pub const PROBING: u32 = 2;
}

/// What a callback of `bpf_loop` is given. VERIFIER: it must be a pointer to the stack.
#[repr(C)]
struct Context {
    state: *mut TaskState,
}

/// Numbers of subjects among those whose objects are paths (`agentguard_common::identity`).
pub const FILE: u32 = 0;
pub const UNIX: u32 = 2;

/// Instead of a mount: nobody came by one. What is in its own file system is looked for, and its name means
/// nothing.
pub const NO_MOUNT: u64 = 0;

/// Puts the path of `dentry` on `vfsmount` into the workspace.
#[inline(never)]
pub fn climb(state: *mut TaskState, vfsmount: u64, dentry: u64, path_subject: u32) -> u32 {
    // SAFETY: the task's own map value.
    let work = unsafe { &mut (*state).climb };
    work.object_mount = vfsmount;
    work.object_dentry = dentry;
    work.subject = path_subject;
    work.hidden = 0;
    let way = if vfsmount == NO_MOUNT {
        way::INSIDE
    } else {
        way::OVER_MOUNTS
    };
    climb_again(state, way, OBJECT_BYTES as u32)
}

/// Puts the path of a directory entry on a mount, and a NUL, in front of the path in the workspace. False when that
/// can't be done; what is in the workspace then means nothing.
#[inline(never)]
pub fn put_in_front(state: *mut TaskState, vfsmount: u64, dentry: u64) -> bool {
    // SAFETY: the task's own map value; the index is bounded.
    unsafe {
        let start = core::ptr::read_volatile(&raw const (*state).climb.start);
        if start == 0 || start > OBJECT_BYTES as u32 {
            return false;
        }
        let nul = kernel::bounded::<{ OBJECT_BYTES / 2 }>(start - 1);
        *(&raw mut (*state).object).cast::<u8>().add(nul as usize) = 0;
        let work = &mut (*state).climb;
        work.object_mount = vfsmount;
        work.object_dentry = dentry;
        work.hidden = 0;
        let how = climb_again(state, way::OVER_MOUNTS, nul);
        (how == end::TOP || how == end::LOOSE)
            && core::ptr::read_volatile(&raw const (*state).climb.start) < nul
    }
}

/// Climbs from the same object once more, writing in front of index `from`.
#[inline(never)]
fn climb_again(state: *mut TaskState, way: u32, from: u32) -> u32 {
    // SAFETY: the task's own map value.
    let work = unsafe { &mut (*state).climb };
    let dentry = work.object_dentry;
    let mount = fs::mount_of(work.object_mount);
    work.dentry = dentry;
    work.start = from;
    work.stop = OBJECT_BYTES as u32;
    work.aliases = 0;
    work.end = end::RUNNING;
    work.way = way;
    work.inode = 0;
    let device = if work.object_mount == NO_MOUNT {
        work.root = 0;
        fs::dentry_device(dentry)
    } else {
        enter(work, mount)
    };
    let Some(device) = device else {
        return end::UNREADABLE;
    };
    work.device = device;
    work.object_device = device;
    let mut context = Context { state };
    // SAFETY: the callback has the signature that bpf_loop calls.
    unsafe {
        bpf_loop(
            CLIMB_STEPS,
            climb_step as *mut c_void,
            (&raw mut context).cast(),
            0,
        );
    }
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const (*state).climb.end) }
}

unsafe extern "C" fn climb_step(_step: u32, context: *mut c_void) -> c_long {
    // SAFETY: `climb` passes a Context with the task's own map value.
    let state = unsafe { (*context.cast::<Context>()).state };
    let stop = |how| {
        // SAFETY: as above.
        unsafe { (*state).climb.end = how };
        1
    };
    // SAFETY: as above.
    match unsafe { climb_one(state) } {
        Ok(()) => 0,
        Err(how) => stop(how),
    }
}

/// Goes on in this mount, and returns its file system's device.
#[inline(always)]
fn enter(work: &mut Climb, mount: u64) -> Option<u32> {
    let read = fs::mount(mount)?;
    work.mount = mount;
    work.root = read.root;
    work.above = read.parent;
    work.mountpoint = read.mountpoint;
    Some(read.device)
}

/// One directory entry or mount point. `Err` says how the climb ended.
///
/// # Safety
/// `state` is the task's own map value.
#[inline(always)]
unsafe fn climb_one(state: *mut TaskState) -> Result<(), u32> {
    // SAFETY: the caller's.
    let work = unsafe { &mut (*state).climb };
    let dentry = work.dentry;
    let entry = fs::entry(dentry).ok_or(end::UNREADABLE)?;
    if entry.inode != 0 {
        let number = fs::inode_number(entry.inode).ok_or(end::UNREADABLE)?;
        if dentry == work.object_dentry {
            work.inode = number;
        }
        // SAFETY: the caller's.
        unsafe { note_identity(state, number)? };
    }
    let way = work.way;
    let above = entry.parent;
    if way != way::INSIDE && (dentry == work.root || way == way::PROBING) {
        if above != dentry {
            work.way = way::PROBING;
            work.dentry = above;
            return Ok(());
        }
        work.way = way::OVER_MOUNTS;
        let parent = work.above;
        if parent == work.mount {
            return Err(end::TOP);
        }
        work.dentry = work.mountpoint;
        work.device = enter(work, parent).ok_or(end::UNREADABLE)?;
        return Ok(());
    }
    if above == dentry {
        return Err(end::LOOSE);
    }
    // SAFETY: the caller's.
    unsafe { prepend(state, entry.name)? };
    work.dentry = above;
    Ok(())
}

/// Writes `/` and the name in front of what is there.
///
/// # Safety
/// `state` is the task's own map value.
#[inline(always)]
unsafe fn prepend(state: *mut TaskState, name: fs::Name) -> Result<(), u32> {
    // SAFETY: the caller's.
    unsafe {
        let start = core::ptr::read_volatile(&raw const (*state).climb.start);
        if name.len_bytes > NAME_BYTES as u32 {
            return Err(end::UNREADABLE);
        }
        if start > OBJECT_BYTES as u32 || start <= name.len_bytes + 1 {
            return Err(end::TOO_LONG);
        }
        let start = start - name.len_bytes - 1;
        // VERIFIER: the bound that the subtraction made it lose.
        if start >= OBJECT_BYTES as u32 {
            return Err(end::TOO_LONG);
        }
        let at = (&raw mut (*state).object).cast::<u8>().add(start as usize);
        *at = b'/';
        if !kernel::copy(at.add(1), name.len_bytes, name.address as *const u8) {
            return Err(end::UNREADABLE);
        }
        (*state).climb.start = start;
    }
    Ok(())
}

/// If a rule names this inode literally, notes where the automata stand after its own name.
///
/// # Safety
/// `state` is the task's own map value.
#[inline(always)]
unsafe fn note_identity(state: *mut TaskState, inode: u64) -> Result<(), u32> {
    // SAFETY: the caller's.
    unsafe {
        let work = &mut (*state).climb;
        let bit = filter_bit(inode, work.device);
        let Some(word) = IDENTITY_FILTER.get((bit / 64) & (FILTER_WORDS - 1)) else {
            return Err(end::UNREADABLE);
        };
        if core::ptr::read_volatile(word) & (1 << (bit % 64)) == 0 {
            return Ok(());
        }
        let key = IdentityKey {
            inode,
            device: work.device,
            install: work.install,
            profile: work.profile,
            padding: 0,
        };
        let Some(identity) = IDENTITIES.get(key) else {
            return Ok(());
        };
        if work.way == way::PROBING {
            // Its name is not in front of what is in the buffer.
            work.hidden = 1;
            return Ok(());
        }
        let number = core::ptr::read_volatile(&raw const work.aliases);
        if number >= ALIASES as u32 {
            return Err(end::ALIASES);
        }
        let subject = core::ptr::read_volatile(&raw const work.subject);
        if subject >= identity.states.len() as u32 {
            return Err(end::UNREADABLE);
        }
        let alias = (&raw mut (*state).aliases)
            .cast::<agentguard_common::decide::Alias>()
            .add(number as usize);
        let states = (&raw const identity.states)
            .cast::<[u32; AUTOMATA]>()
            .add(subject as usize);
        (*alias).states = *states;
        (*alias).from = work.start;
        work.aliases = number + 1;
    }
    Ok(())
}

/// The path of a directory entry on a mount, for a subject whose objects are paths (0 file, 1 exec,
/// 2 Unix socket).
#[inline(always)]
pub fn path(
    subject: &Subject,
    install: u32,
    (vfsmount, dentry): (u64, u64),
    path_subject: u32,
    kind: ObjectKind,
) -> Result<Object, Reason> {
    look_for(subject, install);
    let text = path_text(subject.state, (vfsmount, dentry), path_subject)?;
    Ok(Object { kind, text })
}

/// Says whose identities the climbs from now on look for.
#[inline(always)]
pub fn look_for(subject: &Subject, install: u32) {
    // SAFETY: the task's own map value.
    unsafe {
        (*subject.state).climb.install = install;
        (*subject.state).climb.profile = subject.profile_slot;
    }
}

/// The path of a directory entry on a mount, after [`look_for`].
#[inline(always)]
pub fn path_text(
    state: *mut TaskState,
    (vfsmount, dentry): (u64, u64),
    path_subject: u32,
) -> Result<Text, Reason> {
    let how = climb(state, vfsmount, dentry, path_subject);
    // SAFETY: the task's own map value.
    let work = unsafe { &mut (*state).climb };
    match how {
        end::TOP | end::LOOSE => {}
        end::TOO_LONG | end::RUNNING => return Err(Reason::PathTooLong),
        end::ALIASES => return Err(Reason::TooManyAliases),
        _ => {
            count::failure(Site::KernelRead);
            return Err(Reason::PathUnreadable);
        }
    }
    if vfsmount == NO_MOUNT {
        return Ok(Text::Internal);
    }
    let Some(namespace) = fs::mount_namespace(work.mount) else {
        count::failure(Site::KernelRead);
        return Err(Reason::PathUnreadable);
    };
    let text = if fs::is_error_pointer(namespace) {
        Text::Internal
    } else if how == end::TOP && namespace != 0 && namespace == task::mount_namespace() {
        Text::Attached
    } else {
        Text::Detached
    };
    if work.start == OBJECT_BYTES as u32 {
        // The root itself.
        // SAFETY: as above.
        unsafe { write(state, b"/") };
    }
    Ok(text)
}

/// Forgets an identity of the object itself, as opposed to those of what it is in. False when there is none.
#[inline(always)]
pub fn forget_own(state: *mut TaskState) -> bool {
    // SAFETY: the task's own map value; the number is bounded before it is used.
    unsafe {
        let aliases = core::ptr::read_volatile(&raw const (*state).climb.aliases);
        let first = (&raw mut (*state).aliases).cast::<agentguard_common::decide::Alias>();
        // It is the first that is met.
        if aliases == 0
            || aliases > ALIASES as u32
            || core::ptr::read_volatile(&raw const (*first).from) != OBJECT_BYTES as u32
        {
            return false;
        }
        // VERIFIER: by the helper, which doesn't want to know where the last one is.
        let last = first.add((aliases - 1) as usize);
        let size = size_of::<agentguard_common::decide::Alias>() as u32;
        if !kernel::copy(first.cast(), size, last.cast()) {
            return false;
        }
        (*state).climb.aliases = aliases - 1;
    }
    true
}

/// Whether an identity was met that only the path inside the file system leads to.
#[inline(always)]
pub fn is_hidden(state: *mut TaskState) -> bool {
    // SAFETY: the task's own map value.
    unsafe { core::ptr::read_volatile(&raw const (*state).climb.hidden) != 0 }
}

/// Replaces the object by its path inside its own file system. False when that can't be had.
#[inline(always)]
pub fn look_inside(state: *mut TaskState) -> bool {
    climb_again(state, way::INSIDE, OBJECT_BYTES as u32) == end::LOOSE
}

/// Puts the path of `dentry` inside its own file system, of which `vfsmount` is any mount, into the workspace. False
/// when that can't be had.
#[inline(always)]
pub fn look_inside_of(state: *mut TaskState, vfsmount: u64, dentry: u64) -> bool {
    // SAFETY: the task's own map value.
    let work = unsafe { &mut (*state).climb };
    work.object_mount = vfsmount;
    work.object_dentry = dentry;
    work.subject = 0;
    work.hidden = 0;
    look_inside(state)
}

/// Puts the path as everybody sees it back.
#[inline(always)]
pub fn look_outside(state: *mut TaskState) -> bool {
    climb_again(state, way::OVER_MOUNTS, OBJECT_BYTES as u32) == end::TOP
}

/// Whether a mount is the kernel's own, in no namespace.
#[inline(always)]
pub fn is_internal(vfsmount: u64) -> bool {
    fs::mount_namespace(fs::mount_of(vfsmount)).is_some_and(fs::is_error_pointer)
}

/// Replaces the object by a few bytes that are known here.
///
/// # Safety
/// `state` is the task's own map value.
#[inline(always)]
unsafe fn write<const N: usize>(state: *mut TaskState, bytes: &[u8; N]) {
    // SAFETY: the caller's; N is a handful.
    unsafe {
        let at = (&raw mut (*state).object)
            .cast::<u8>()
            .add(OBJECT_BYTES - N);
        let mut i = 0;
        while i < N {
            *at.add(i) = bytes[i];
            i += 1;
        }
        (*state).climb.start = (OBJECT_BYTES - N) as u32;
    }
}

/// Replaces the path of a program that has none by a pseudo-path.
#[inline(always)]
pub fn pseudo<const N: usize>(subject: &Subject, name: &[u8; N]) -> Object {
    // SAFETY: the task's own map value.
    unsafe { write(subject.state, name) };
    Object {
        kind: ObjectKind::Path,
        text: Text::Pseudo,
    }
}

/// No object at all, for refusals that come before there is one.
#[inline(always)]
pub fn nothing(state: *mut TaskState) {
    // SAFETY: the task's own map value.
    unsafe {
        (*state).climb.start = OBJECT_BYTES as u32;
        (*state).climb.stop = OBJECT_BYTES as u32;
        (*state).climb.aliases = 0;
        (*state).climb.hidden = 0;
        (*state).climb.inode = 0;
        (*state).climb.object_device = 0;
    }
}

/// An address, `len_bytes` (8, 10 or 20) of `encoded`.
#[inline(always)]
pub fn address(subject: &Subject, encoded: &[u8; ENCODED_BYTES], len_bytes: usize) -> Object {
    nothing(subject.state);
    // SAFETY: the task's own map value. VERIFIER: each length is a constant in its branch.
    unsafe {
        if len_bytes == ENCODED_BYTES {
            write(subject.state, encoded);
        } else if len_bytes == VSOCK_BYTES {
            write(subject.state, &first::<VSOCK_BYTES>(encoded));
        } else {
            write(subject.state, &first::<8>(encoded));
        }
    }
    Object {
        kind: ObjectKind::Address,
        text: Text::Attached,
    }
}

#[inline(always)]
fn first<const N: usize>(encoded: &[u8; ENCODED_BYTES]) -> [u8; N] {
    let mut short = [0; N];
    let mut i = 0;
    while i < N {
        short[i] = encoded[i];
        i += 1;
    }
    short
}

/// The address in the workspace, as packets have it (`packet::Packet`).
#[inline(always)]
pub fn address_words(state: *mut TaskState) -> [u64; 3] {
    const SHORT: usize = OBJECT_BYTES - 8;
    const LONG: usize = OBJECT_BYTES - ENCODED_BYTES;
    // SAFETY: the task's own map value; constants inside it.
    unsafe {
        let object = (&raw const (*state).object).cast::<u8>();
        let start = core::ptr::read_volatile(&raw const (*state).climb.start);
        if start == SHORT as u32 {
            [word::<8>(object.add(SHORT)), 0, 0]
        } else if start == LONG as u32 {
            [
                word::<8>(object.add(LONG)),
                word::<8>(object.add(LONG + 8)),
                word::<4>(object.add(LONG + 16)),
            ]
        } else {
            [0; 3]
        }
    }
}

/// The first `N` bytes at `bytes`, the first one lowest.
///
/// # Safety
/// They are there.
#[inline(always)]
unsafe fn word<const N: usize>(bytes: *const u8) -> u64 {
    let mut word = 0;
    let mut i = 0;
    while i < N {
        // SAFETY: the caller's.
        word |= u64::from(unsafe { core::ptr::read_volatile(bytes.add(i)) }) << (8 * i);
        i += 1;
    }
    word
}

/// Another task.
#[inline(always)]
pub fn task(subject: &Subject, task: *const c_void, detail: u32) {
    nothing(subject.state);
    let (pid, tid, start_ns) = task::identity(task);
    // SAFETY: the task's own map value; a multiple of 8 bytes from its end, which is aligned.
    unsafe {
        let start = OBJECT_BYTES - size_of::<Target>();
        let target = (&raw mut (*subject.state).object)
            .cast::<u8>()
            .add(start)
            .cast::<Target>();
        (*target).start_ns = start_ns;
        (*target).pid = pid;
        (*target).tid = tid;
        (*target).detail = detail;
        (*target).padding = 0;
        let comm = &raw mut (*target).comm;
        if !kernel::copy(comm.cast(), 16, task::comm(task) as *const u8) {
            (*target).comm = [0; 16];
        }
        (*subject.state).climb.start = start as u32;
    }
}

/// An abstract Unix address: `@` and the name, `len_bytes` bytes at kernel address `name`.
#[inline(always)]
pub fn abstract_name(subject: &Subject, len_bytes: u32, name: u64) -> Result<Object, Reason> {
    unix_name(subject, b'@', len_bytes, name)?;
    Ok(Object {
        kind: ObjectKind::Unix,
        text: Text::Attached,
    })
}

/// The path that a Unix socket was bound by, as its server said it: `len_bytes` bytes at kernel address `name`, of which
/// the first is `/` and the last the NUL that the kernel puts there.
#[inline(always)]
pub fn bound_name(subject: &Subject, len_bytes: u32, name: u64) -> Result<Object, Reason> {
    unix_name(
        subject,
        b'/',
        len_bytes.saturating_sub(2),
        name.wrapping_add(1),
    )?;
    Ok(Object {
        kind: ObjectKind::Unix,
        text: Text::Detached,
    })
}

/// Puts `first` and a part of a Unix socket's address into the workspace.
#[inline(always)]
fn unix_name(subject: &Subject, first: u8, len_bytes: u32, name: u64) -> Result<(), Reason> {
    nothing(subject.state);
    // 107: sun_path less the leading byte (include/uapi/linux/un.h).
    if len_bytes > 107 {
        return Err(Reason::AddressUnreadable);
    }
    let len_bytes = kernel::bounded::<64>(len_bytes);
    // SAFETY: the task's own map value; the length is at most 127.
    unsafe {
        let start = OBJECT_BYTES as u32 - len_bytes - 1;
        let at = (&raw mut (*subject.state).object)
            .cast::<u8>()
            .add(start as usize);
        *at = first;
        if !kernel::copy(at.add(1), len_bytes, name as *const u8) {
            count::failure(Site::KernelRead);
            return Err(Reason::AddressUnreadable);
        }
        (*subject.state).climb.start = start;
    }
    Ok(())
}
