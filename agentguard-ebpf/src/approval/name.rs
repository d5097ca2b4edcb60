//! What a held action is known by: the key of its request, with a hash of the object.

use agentguard_common::{
    approval::Request,
    counter::Hook,
    event::{Action, ObjectKind, kind},
    label::{OBJECT_BYTES, TaskState},
};
use aya_ebpf::{
    cty::{c_long, c_void},
    helpers::generated::bpf_loop,
};

use super::{Context, hold};
use crate::{engine::fresh, kernel::fs, maps::CONTROL};

/// Writes the key of the request. Not 0 when the object can't be told from others.
#[inline(never)]
pub fn name(state: *mut TaskState) -> u32 {
    // SAFETY: the task's own map value.
    let (report, process, asked) =
        unsafe { (&mut (*state).report, &(*state).process, &(*state).asked) };
    let hold = hold(state);
    report.kind = kind::APPROVAL;
    let key = &mut hold.note.key;
    key.agent = report.agent;
    key.start_ns = process.start_ns;
    key.pid = process.pid;
    key.action = report.action;
    let is_system = report.action == Action::System as u8;
    key.verbs = if is_system { report.verb } else { report.verbs };
    key.padding = [0; 2];
    hold.note.request = Request {
        outcome: report.outcome,
        install: report.install,
        slot: report.slot,
        tid: process.tid,
        hook: report.hook,
        object_kind: report.object_kind,
        verb: report.verb,
        asking: report.reason,
        ..EMPTY
    };
    hold.note.grant = 0;
    if report.hook == Hook::PathRename as u8 || report.hook == Hook::PathLink as u8 {
        // Both names were hashed when each was in the workspace.
        return finish_hash(state);
    }
    if report.action == Action::Exec as u8 {
        // SAFETY: as above.
        let dentry = unsafe { core::ptr::read_volatile(&raw const (*state).climb.object_dentry) };
        let Some(content) = fs::dentry_inode(dentry).and_then(fs::content) else {
            return 1;
        };
        hold.content = content;
        return hash_program(state);
    }
    if begin_hash(state) != 0 {
        return 1;
    }
    let has_place = report.object_kind != ObjectKind::Address as u8
        && report.object_kind != ObjectKind::Detail as u8;
    // What else is asked of a place than the verbs that are in the key.
    absorb(state, if has_place { u64::from(asked.verbs) } else { 0 });
    hash_object(state);
    finish_hash(state)
}

const EMPTY: Request = Request {
    word: 0,
    leader: 0,
    asked_boot_ns: 0,
    deadline_boot_ns: 0,
    until_boot_ns: 0,
    outcome: 0,
    install: 0,
    slot: 0,
    tid: 0,
    hook: 0,
    object_kind: 0,
    verb: 0,
    cause: 0,
    asking: 0,
    padding: [0; 3],
};

/// Hashes the program in the workspace, and what its content is known by.
#[inline(never)]
pub fn hash_program(state: *mut TaskState) -> u32 {
    if begin_hash(state) != 0 {
        return 1;
    }
    // SAFETY: the task's own map value.
    let content = unsafe { core::ptr::read_volatile(&raw const (*state).hold.content) };
    absorb(state, content[0]);
    absorb(state, content[1]);
    hash_object(state);
    finish_hash(state)
}

/// Begins the hash of an object: SipHash-2-4 with 128 bits (Aumasson and Bernstein, <https://github.com/veorq/SipHash>),
/// in whole words. Not 0 when there is no key yet.
#[inline(never)]
pub fn begin_hash(state: *mut TaskState) -> u32 {
    let Some(control) = CONTROL.get_ptr(0) else {
        return 1;
    };
    // SAFETY: aligned words that userspace writes once.
    let key = unsafe { core::ptr::read_volatile(&raw const (*control).hash_key) };
    if key[0] == 0 || key[1] == 0 {
        return 1;
    }
    hold(state).hash = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d ^ 0xee,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    0
}

/// Adds the object in the workspace: what kind it is, where it lies, and its bytes.
#[inline(never)]
pub fn hash_object(state: *mut TaskState) -> u32 {
    // SAFETY: the task's own map value.
    let (climb, report) = unsafe { (&(*state).climb, &(*state).report) };
    absorb(state, climb.inode);
    absorb(
        state,
        u64::from(climb.object_device) << 32 | u64::from(report.object_kind),
    );
    absorb(state, u64::from(climb.stop.wrapping_sub(climb.start)));
    hold(state).next = climb.start;
    let mut context = Context { state };
    // SAFETY: the callback has the signature that bpf_loop calls.
    unsafe {
        bpf_loop(
            OBJECT_BYTES as u32 / 8 + 1,
            hash_step as *mut c_void,
            (&raw mut context).cast(),
            0,
        );
    }
    0
}

/// Adds eight bytes of the object.
unsafe extern "C" fn hash_step(_step: u32, context: *mut c_void) -> c_long {
    // SAFETY: `hash_object` passes a Context with the task's own map value; what is read past the object's end is
    // inside the value, and masked.
    unsafe {
        let state = (*context.cast::<Context>()).state;
        let next = fresh(&raw const (*state).hold.next);
        let stop = fresh(&raw const (*state).climb.stop);
        if next >= stop || next >= OBJECT_BYTES as u32 {
            return 1;
        }
        let at = (&raw const (*state).object).cast::<u8>().add(next as usize);
        let mut word = 0;
        let mut byte = 0;
        while byte < 8 {
            word |= u64::from(*at.add(byte)) << (8 * byte);
            byte += 1;
        }
        let left = stop - next;
        if left < 8 {
            word &= (1 << (8 * (left & 7))) - 1;
        }
        absorb(state, word);
        (*state).hold.next = next + 8;
    }
    0
}

/// Adds a word.
#[inline(never)]
pub fn absorb(state: *mut TaskState, word: u64) -> u32 {
    let hash = &mut hold(state).hash;
    let mut v = *hash;
    v[3] ^= word;
    round(&mut v);
    round(&mut v);
    v[0] ^= word;
    *hash = v;
    0
}

/// Puts the hash into the request's key.
#[inline(never)]
fn finish_hash(state: *mut TaskState) -> u32 {
    let hold = hold(state);
    let mut v = hold.hash;
    v[2] ^= 0xee;
    let mut i = 0;
    while i < 4 {
        round(&mut v);
        i += 1;
    }
    hold.note.key.object[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
    v[1] ^= 0xdd;
    i = 0;
    while i < 4 {
        round(&mut v);
        i += 1;
    }
    hold.note.key.object[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
    0
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}
