//! Putting a verdict on a ring. Never changes a verdict: what finds no room is counted.

use agentguard_common::{
    Decision,
    approval::Note,
    counter::Hook,
    event::{Action, LONG_OBJECT, ObjectKind, Process, Record, RecordHeader, SHORT_OBJECT, kind},
    label::{OBJECT_BYTES, TaskState},
    profile::Subject as Kind,
};
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    generated::{
        bpf_get_current_comm, bpf_ktime_get_boot_ns, bpf_ringbuf_discard, bpf_ringbuf_reserve,
        bpf_ringbuf_submit, bpf_send_signal,
    },
};

use crate::{
    count, kernel,
    kernel::task,
    maps::{DENIALS, EVENTS},
};

const SIGSTOP: u32 = 19;

/// What is asked and how it is reported.
#[derive(Clone, Copy)]
pub struct Verb {
    pub hook: Hook,
    pub action: Action,
    pub kind: Kind,
    /// Set of the subject's verbs.
    pub verbs: u8,
}

/// What a record says of an action, as far as it is the same wherever the object is.
#[inline(always)]
pub fn header(verb: Verb, object_kind: ObjectKind, decision: Decision) -> RecordHeader {
    // Zeros that the compiler knew for such it would write byte by byte, in a function of its own.
    let zero = kernel::opaque(0);
    RecordHeader {
        kind: kind::ACTION,
        reserved: 0,
        len_bytes: 0,
        boot_ns: zero,
        agent: 0,
        inode: zero,
        device: 0,
        install: 0,
        outcome: decision.outcome.0,
        slot: 0,
        object_bytes: 0,
        verbs: verb.verbs,
        verb: decision.verb,
        action: verb.action as u8,
        reason: decision.reason as u8,
        object_kind: object_kind as u8,
        flags: 0,
        hook: verb.hook as u8,
        padding: [zero as u8; 5],
    }
}

/// Sends the report, the object and the process of the current task, on the ring of denials when it is
/// `urgent`. False when there was no room.
#[inline(never)]
pub fn send(state: *mut TaskState, urgent: bool) -> bool {
    describe_process(state);
    // SAFETY: the task's own map value.
    let (start, stop) = unsafe {
        let climb = &raw const (*state).climb;
        (
            core::ptr::read_volatile(&raw const (*climb).start),
            core::ptr::read_volatile(&raw const (*climb).stop),
        )
    };
    if start > OBJECT_BYTES as u32 || stop > OBJECT_BYTES as u32 || start > stop {
        return false;
    }
    let object_bytes = stop - start;
    // SAFETY: as above.
    unsafe { (*state).report.object_bytes = object_bytes };
    if object_bytes <= SHORT_OBJECT as u32 {
        fill::<SHORT_OBJECT>(state, urgent, start, object_bytes)
    } else {
        // VERIFIER: the whole rest of the buffer, whose length it knows to fit.
        fill::<LONG_OBJECT>(state, urgent, start, OBJECT_BYTES as u32 - start)
    }
}

/// Sends the report, the object and the process of the current task with the note about its approval, on the ring of
/// denials. False when there was no room.
#[inline(never)]
pub fn send_note(state: *mut TaskState) -> bool {
    note(state, false) == 0
}

/// What [`send_held`] says when there was no room.
pub const NO_ROOM: u32 = 1;
/// What it says when the process could not be stopped.
pub const UNSTOPPED: u32 = 2;

/// The same, and stops the process: after there is room, before anybody can read it. 0 when both were done.
#[inline(never)]
pub fn send_held(state: *mut TaskState) -> u32 {
    note(state, true)
}

#[inline(always)]
fn note(state: *mut TaskState, stop: bool) -> u32 {
    // SAFETY: the task's own map value.
    let (start, stops_at) = unsafe {
        let climb = &raw const (*state).climb;
        (
            core::ptr::read_volatile(&raw const (*climb).start),
            core::ptr::read_volatile(&raw const (*climb).stop),
        )
    };
    if start > OBJECT_BYTES as u32 || stops_at > OBJECT_BYTES as u32 || start > stops_at {
        return NO_ROOM;
    }
    let object_bytes = stops_at - start;
    // SAFETY: as above.
    unsafe { (*state).report.object_bytes = object_bytes };
    if object_bytes <= SHORT_OBJECT as u32 {
        fill_note::<SHORT_OBJECT>(state, stop, start, object_bytes)
    } else {
        // VERIFIER: as in `send`.
        fill_note::<LONG_OBJECT>(state, stop, start, OBJECT_BYTES as u32 - start)
    }
}

/// A record about an approval.
#[repr(C)]
struct Noted<const N: usize> {
    record: Record<N>,
    note: Note,
}

#[inline(always)]
fn fill_note<const N: usize>(
    state: *mut TaskState,
    stop: bool,
    start: u32,
    copied_bytes: u32,
) -> u32 {
    let copied_bytes = kernel::bounded::<N>(copied_bytes);
    // SAFETY: the ring; the reserved record, which is submitted or given back on every way; every copy is bounded.
    unsafe {
        let noted: *mut Noted<N> = bpf_ringbuf_reserve(
            (&raw const DENIALS).cast_mut().cast(),
            size_of::<Noted<N>>() as u64,
            0,
        )
        .cast();
        if noted.is_null() {
            return NO_ROOM;
        }
        if stop && bpf_send_signal(SIGSTOP) != 0 {
            bpf_ringbuf_discard(noted.cast(), 0);
            return UNSTOPPED;
        }
        let report = &mut (*state).report;
        report.len_bytes = size_of::<Noted<N>>() as u32;
        write_record(state, &raw mut (*noted).record, start, copied_bytes);
        kernel::copy(
            (&raw mut (*noted).note).cast(),
            size_of::<Note>() as u32,
            (&raw const (*state).hold.note).cast(),
        );
        bpf_ringbuf_submit(noted.cast(), 0);
    }
    0
}

/// Brings the parts of the process that change up to date.
#[inline(always)]
pub fn describe_process(state: *mut TaskState) {
    // SAFETY: the task's own map value.
    let process = unsafe { &mut (*state).process };
    let ids = bpf_get_current_pid_tgid();
    let user = bpf_get_current_uid_gid();
    process.pid = (ids >> 32) as u32;
    process.tid = ids as u32;
    process.uid = user as u32;
    process.gid = (user >> 32) as u32;
    process.ppid = task::parent_pid();
    process.start_ns = task::process_start_ns();
    let comm = &mut process.comm;
    // SAFETY: the task's own map value; the helper writes that many bytes.
    unsafe { bpf_get_current_comm(comm.as_mut_ptr().cast(), comm.len() as u32) };
}

/// One record with `N` bytes of room for the object, of which `copied_bytes` are filled.
#[inline(always)]
fn fill<const N: usize>(
    state: *mut TaskState,
    urgent: bool,
    start: u32,
    copied_bytes: u32,
) -> bool {
    let copied_bytes = kernel::bounded::<N>(copied_bytes);
    let Some(record) = reserve::<N>(urgent) else {
        return false;
    };
    // SAFETY: the reserved record and the task's own map value; every copy is bounded.
    unsafe {
        let report = &mut (*state).report;
        report.len_bytes = size_of::<Record<N>>() as u32;
        write_record(state, record, start, copied_bytes);
        bpf_ringbuf_submit(record.cast(), 0);
    }
    true
}

/// # Safety
/// `record` is reserved, `state` is the task's own map value, and `copied_bytes` is bounded.
#[inline(always)]
unsafe fn write_record<const N: usize>(
    state: *mut TaskState,
    record: *mut Record<N>,
    start: u32,
    copied_bytes: u32,
) {
    // SAFETY: the caller's.
    unsafe {
        let report = &mut (*state).report;
        report.boot_ns = bpf_ktime_get_boot_ns();
        report.inode = (*state).climb.inode;
        report.device = (*state).climb.object_device;
        core::ptr::write(&raw mut (*record).header, *report);
        kernel::copy(
            (&raw mut (*record).object).cast(),
            copied_bytes,
            (&raw const (*state).object)
                .cast::<u8>()
                .add(start as usize),
        );
        kernel::copy(
            (&raw mut (*record).process).cast(),
            size_of::<Process>() as u32,
            (&raw const (*state).process).cast(),
        );
    }
}

/// Room for one record on one of the rings.
#[inline(always)]
pub fn reserve<const N: usize>(urgent: bool) -> Option<*mut Record<N>> {
    let ring = if urgent {
        (&raw const DENIALS).cast_mut().cast()
    } else {
        (&raw const EVENTS).cast_mut().cast()
    };
    // SAFETY: both are rings.
    let record: *mut Record<N> =
        unsafe { bpf_ringbuf_reserve(ring, size_of::<Record<N>>() as u64, 0) }.cast();
    (!record.is_null()).then_some(record)
}

/// Counts a record that was not sent.
#[inline(always)]
pub fn lost(hook: Hook, verdict: u32) {
    count::lost(hook, verdict);
}
