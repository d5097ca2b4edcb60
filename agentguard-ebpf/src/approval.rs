//! Actions that a rule asks about: whether an answer is there, and if not, holding the process until one is.
//! What the maps hold and who writes what is `agentguard_common::approval`'s business.
//!
//! The process is stopped and its system call returns `-ERESTARTNOINTR`, so that the kernel makes the same call again
//! when it continues (arch/x86/kernel/signal.c, `arch_do_signal_or_restart`). The stop comes first: without a
//! pending signal the number would leak to the program, and an answer must not come before what it undoes.
//!
//! VERIFIER: what is decided on lies in the task's map value, and most functions are programs of their own, because every
//! hook has all of this behind it.

use core::intrinsics::{AtomicOrdering, atomic_cxchg};

use agentguard_common::{
    Outcome, Verdict,
    approval::{
        GRANTED, Grant, HEARTBEAT_NS, HELD as HELD_MOST, REFUSED, Request, RequestKey, TAKEN,
        WAITING, cause, grant,
    },
    counter::{Hook, Site},
    decide::Text,
    event::{Action, FLAG_GRANTED, FLAG_HELD, FLAG_KILLED, Reason},
    label::{Hold, TaskState},
    profile,
};
use aya_ebpf::{
    cty::{c_long, c_void},
    helpers::generated::{
        bpf_for_each_map_elem, bpf_ktime_get_boot_ns, bpf_map_delete_elem, bpf_map_lookup_elem,
        bpf_map_update_elem, bpf_send_signal,
    },
};

use crate::{
    count,
    engine::{Arena, Workspace, fresh},
    maps::{CONTROL, GRANTS, REQUESTS},
    record,
    verdict::{ALLOWED, DENIED, HELD},
};

mod call;
mod name;

pub use self::{
    call::answers_start,
    name::{absorb, begin_hash, hash_object, hash_program},
};
use self::{
    call::{can_hold, is_covered, remember, restore},
    name::name,
};

const SIGCONT: u32 = 18;
const SIGSTOP: u32 = 19;

/// `BPF_NOEXIST`, include/uapi/linux/bpf.h.
const NOEXIST: u64 = 1;

/// What [`find`] says besides the numbers of reasons: the process is stopped once more, and nobody is told.
const AGAIN: u32 = 0x100;
/// The action is a part of one that was approved in the same call.
const COVERED: u32 = 0x101;

/// What callbacks are given. VERIFIER: it must be a pointer to the stack.
#[repr(C)]
struct Context {
    state: *mut TaskState,
}

/// Answers an ask: lets the action through, denies it, or holds the process. The report is in the workspace.
#[inline(never)]
pub fn ask(state: *mut TaskState, profile: u32, hook: Hook) -> i32 {
    record::describe_process(state);
    let found = if name(state) == 0 {
        find(state, profile)
    } else {
        // FAIL-CLOSED: what can't be told from others can't be approved.
        Reason::CantHold as u32
    };
    // SAFETY: the task's own map value.
    let report = unsafe { &mut (*state).report };
    match found {
        AGAIN => HELD,
        COVERED => {
            count::decision(hook, Verdict::Allow as u32);
            ALLOWED
        }
        HELD_FOUND => {
            count::decision(hook, Verdict::Ask as u32);
            HELD
        }
        GRANTED_FOUND => {
            report.reason = Reason::Granted as u8;
            report.flags |= FLAG_GRANTED;
            count::decision(hook, Verdict::Allow as u32);
            remember(state);
            if !record::send_note(state) {
                record::lost(hook, Verdict::Allow as u32);
            }
            ALLOWED
        }
        reason => {
            report.reason = reason as u8;
            if hook as u8 == Hook::BprmCommittingCreds as u8 {
                report.flags |= FLAG_KILLED;
            }
            count::decision(hook, Verdict::Ask as u32);
            if !record::send_note(state) {
                record::lost(hook, Verdict::Ask as u32);
            }
            DENIED
        }
    }
}

const HELD_FOUND: u32 = Reason::Held as u32;
const GRANTED_FOUND: u32 = Reason::Granted as u32;

#[inline(always)]
fn hold(state: *mut TaskState) -> &'static mut Hold {
    // SAFETY: the task's own map value, which lives as long as the program's run.
    unsafe { &mut (*state).hold }
}

/// What becomes of the action: a reason's number, [`AGAIN`] or [`COVERED`].
#[inline(never)]
fn find(state: *mut TaskState, profile: u32) -> u32 {
    // SAFETY: the task's own map value.
    let (report, asked) = unsafe { (&(*state).report, &(*state).asked) };
    let by_rules = report.action != Action::System as u8;
    // SAFETY: as above.
    let text = unsafe { fresh(&raw const asked.text) };
    if by_rules && text == Text::Detached as u32 {
        // FAIL-CLOSED: nobody could say yes to text that may be forged.
        return Reason::Detached as u32;
    }
    if is_covered(state) {
        return COVERED;
    }
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if by_rule(state, now) != 0 || by_object(state, now, grant::OBJECT) != 0 {
        return Reason::Granted as u32;
    }
    if by_object(state, now, grant::REFUSAL) != 0 {
        // Its own question is over as well, and counts no longer.
        forget(state);
        return refusal(hold(state).note.request.cause);
    }
    // One of several rules may have been covered.
    hold(state).note.grant = 0;
    match waiting(state, now) {
        0 => request(state, profile, now),
        found => found,
    }
}

/// The reason for a refusal.
#[inline(always)]
fn refusal(why: u8) -> u32 {
    match why {
        cause::TIMEOUT => Reason::TimedOut as u32,
        cause::TOO_MANY => Reason::TooManyPending as u32,
        cause::UNAVAILABLE => Reason::AskUnavailable as u32,
        _ => Reason::Refused as u32,
    }
}

/// Whether a rule grant covers every verb that a rule asks about.
#[inline(never)]
fn by_rule(state: *mut TaskState, now: u64) -> u32 {
    // SAFETY: the task's own map value.
    let report = unsafe { &(*state).report };
    // SAFETY: as above.
    let outcome = Outcome(unsafe { fresh(&raw const report.outcome) });
    let action = report.action;
    if report.hook == Hook::PathRename as u8 || report.hook == Hook::PathLink as u8 {
        // Which rules ask about the other name isn't known any more.
        return 0;
    }
    if action == Action::System as u8 {
        return rule_at(state, outcome.0, report.verb.into(), now);
    }
    if report.verbs & report.verbs.wrapping_sub(1) == 0 {
        return rule_at(state, outcome.0, report.verbs.into(), now);
    }
    let workspace = Workspace { state };
    let mut verb = 0;
    while verb < 8 {
        if report.verbs & 1 << verb != 0 {
            let own = agentguard_common::Engine::outcome(&workspace, verb);
            if own.rank() == Verdict::Ask as u32 && rule_at(state, own.0, 1 << verb, now) == 0 {
                return 0;
            }
        }
        verb += 1;
    }
    1
}

/// Whether there is a grant for the rule of an outcome.
#[inline(never)]
fn rule_at(state: *mut TaskState, outcome: u32, verbs: u32, now: u64) -> u32 {
    let rule = Outcome(outcome).rule();
    let hold = hold(state);
    let is_default = rule == Outcome::DEFAULT_RULE;
    let key = &mut hold.grant;
    key.agent = hold.note.key.agent;
    key.object = [0; 2];
    key.install = hold.note.request.install;
    key.rule = rule;
    key.kind = grant::RULE;
    key.action = if is_default { hold.note.key.action } else { 0 };
    key.verbs = if is_default { verbs as u8 } else { 0 };
    key.padding = [0; 5];
    granted(state, now)
}

/// Whether there is a grant or refusal for the object.
#[inline(never)]
fn by_object(state: *mut TaskState, now: u64, kind: u8) -> u32 {
    let hold = hold(state);
    let key = &mut hold.grant;
    key.agent = hold.note.key.agent;
    key.object = hold.note.key.object;
    key.install = 0;
    key.rule = 0;
    key.kind = kind;
    key.action = hold.note.key.action;
    key.verbs = hold.note.key.verbs;
    key.padding = [0; 5];
    granted(state, now)
}

/// Looks the key in the workspace up in `GRANTS`.
#[inline(always)]
fn granted(state: *mut TaskState, now: u64) -> u32 {
    let hold = hold(state);
    // SAFETY: the map's key; a map value or null, read at once.
    unsafe {
        let found: *const Grant = bpf_map_lookup_elem(
            (&raw const GRANTS).cast_mut().cast(),
            (&raw const hold.grant).cast(),
        )
        .cast_const()
        .cast();
        if found.is_null() || core::ptr::read_volatile(&raw const (*found).until_boot_ns) <= now {
            return 0;
        }
        hold.note.grant = core::ptr::read_volatile(&raw const (*found).id);
        hold.note.request.cause = core::ptr::read_volatile(&raw const (*found).cause);
    }
    1
}

/// What the process's own request says: a reason's number, [`AGAIN`], or 0 when it must ask (anew).
#[inline(never)]
fn waiting(state: *mut TaskState, now: u64) -> u32 {
    let hold = hold(state);
    // SAFETY: the map's key and value; a map value or null.
    unsafe {
        let found = lookup(&raw const hold.note.key);
        if found.is_null() {
            return 0;
        }
        let word = core::ptr::read_volatile(&raw const (*found).word);
        let deadline = core::ptr::read_volatile(&raw const (*found).deadline_boot_ns);
        let until = core::ptr::read_volatile(&raw const (*found).until_boot_ns);
        let why = core::ptr::read_volatile(&raw const (*found).cause);
        let leader = core::ptr::read_volatile(&raw const (*found).leader);
        let asked = core::ptr::read_volatile(&raw const (*found).asked_boot_ns);
        let request = &mut hold.note.request;
        request.word = word;
        request.deadline_boot_ns = deadline;
        request.until_boot_ns = until;
        request.cause = why;
        request.leader = leader;
        request.asked_boot_ns = asked;
        match word & ((1 << agentguard_common::approval::STATE_BITS) - 1) {
            WAITING if now > deadline => {
                forget(state);
                Reason::TimedOut as u32
            }
            WAITING => stop_again(state),
            REFUSED => {
                forget(state);
                refusal(why)
            }
            GRANTED if now > until => {
                // Nobody used it in time.
                forget(state);
                0
            }
            GRANTED => {
                let taken = word & !((1 << agentguard_common::approval::STATE_BITS) - 1) | TAKEN;
                if !exchange(&raw mut (*found).word, word, taken) {
                    // FAIL-CLOSED: another thread was first, and what it left is not for this one.
                    return Reason::NoRoom as u32;
                }
                forget(state);
                Reason::Granted as u32
            }
            // FAIL-CLOSED: another thread has just taken it.
            _ => Reason::NoRoom as u32,
        }
    }
}

/// # Safety
/// `key` lies in memory that the verifier knows.
#[inline(always)]
unsafe fn lookup(key: *const RequestKey) -> *mut Request {
    // SAFETY: the caller's.
    unsafe { bpf_map_lookup_elem((&raw const REQUESTS).cast_mut().cast(), key.cast()).cast() }
}

/// Deletes the process's request.
#[inline(always)]
fn forget(state: *mut TaskState) {
    // SAFETY: the map's key.
    unsafe {
        bpf_map_delete_elem(
            (&raw const REQUESTS).cast_mut().cast(),
            (&raw const (*state).hold.note.key).cast(),
        );
    }
}

/// Stops the process that still waits: somebody continued it.
#[inline(always)]
fn stop_again(state: *mut TaskState) -> u32 {
    if !can_hold(state) {
        return Reason::CantHold as u32;
    }
    restore(state);
    if !stop() {
        return Reason::CantHold as u32;
    }
    // An answer that came before the stop also continued the process before it, so that nobody would do so again.
    // SAFETY: the map's key; a map value or null.
    unsafe {
        let found = lookup(&raw const (*state).hold.note.key);
        if found.is_null()
            || core::ptr::read_volatile(&raw const (*found).word) != (*state).hold.note.request.word
        {
            // The stop is taken back, and the call made again at once.
            bpf_send_signal(SIGCONT);
        }
    }
    AGAIN
}

#[inline(always)]
fn stop() -> bool {
    // SAFETY: no preconditions.
    if unsafe { bpf_send_signal(SIGSTOP) } != 0 {
        count::failure(Site::Hold);
        return false;
    }
    true
}

/// Asks: makes the request, stops the process and tells the daemon. A reason's number.
#[inline(never)]
fn request(state: *mut TaskState, profile: u32, now: u64) -> u32 {
    if !can_hold(state) {
        return Reason::CantHold as u32;
    }
    let hold = hold(state);
    let rule = Outcome(hold.note.request.outcome).rule();
    let (Some(approvals), Some(control)) = (
        profile::approvals(&Arena, profile, rule),
        CONTROL.get_ptr_mut(0),
    ) else {
        // FAIL-CLOSED: the arena doesn't hold what the descriptor says.
        return Reason::TablesBroken as u32;
    };
    // SAFETY: an aligned word that userspace writes.
    let heartbeat = unsafe { core::ptr::read_volatile(&raw const (*control).heartbeat_ns) };
    if now > heartbeat.wrapping_add(HEARTBEAT_NS) {
        return Reason::AskUnavailable as u32;
    }
    hold.held = 0;
    hold.leaders = 0;
    // The hash is done; its place has a bit for each hash of an object that waits, and these are counted.
    hold.hash = [0; 4];
    hold.next = 0;
    hold.note.request.leader = 0;
    let mut context = Context { state };
    // SAFETY: the callback has the signature that the helper calls.
    unsafe {
        bpf_for_each_map_elem(
            (&raw const REQUESTS).cast_mut().cast(),
            count_step as *mut c_void,
            (&raw mut context).cast(),
            0,
        );
    }
    // SAFETY: the task's own map value; the counter is shared, and raised atomically.
    unsafe {
        let leader = core::ptr::read_volatile(&raw const hold.note.request.leader);
        if fresh(&raw const hold.held) >= HELD_MOST
            || leader == 0
                && (fresh(&raw const hold.leaders) >= approvals.max_pending
                    || fresh(&raw const hold.next) >= approvals.max_pending)
        {
            return Reason::TooManyPending as u32;
        }
        let Some(id) = next_id(&raw mut (*control).requests) else {
            // FAIL-CLOSED: others are so busy asking that there is no number to be had.
            return Reason::NoRoom as u32;
        };
        let request = &mut hold.note.request;
        request.word = Request::word(id, WAITING);
        if leader == 0 {
            request.leader = id;
        }
        request.asked_boot_ns = now;
        request.deadline_boot_ns = now + u64::from(approvals.timeout_ms) * 1_000_000;
        request.until_boot_ns = 0;
        request.cause = 0;
        let inserted = bpf_map_update_elem(
            (&raw const REQUESTS).cast_mut().cast(),
            (&raw const hold.note.key).cast(),
            (&raw const hold.note.request).cast(),
            NOEXIST,
        );
        if inserted != 0 {
            // FAIL-CLOSED: the map is full, or another thread is doing the same at this moment.
            return Reason::NoRoom as u32;
        }
        restore(state);
        (*state).report.reason = Reason::Held as u8;
        (*state).report.flags |= FLAG_HELD;
    }
    let failed = record::send_held(state);
    if failed == 0 {
        return Reason::Held as u32;
    }
    // SAFETY: the task's own map value.
    unsafe { (*state).report.flags &= !FLAG_HELD };
    forget(state);
    if failed == record::UNSTOPPED {
        count::failure(Site::Hold);
        Reason::CantHold as u32
    } else {
        Reason::NoRoom as u32
    }
}

/// The next id. VERIFIER: by compare and exchange, because an addition that gives the old number back isn't in the
/// instructions that this object is compiled to.
///
/// # Safety
/// `last` lies in a map's value.
#[inline(always)]
unsafe fn next_id(last: *mut u64) -> Option<u64> {
    const TRIES: u32 = 16;
    let mut tries = 0;
    while tries < TRIES {
        // SAFETY: the caller's; an aligned word that others change atomically.
        let old = unsafe { core::ptr::read_volatile(last) };
        // SAFETY: as above.
        if unsafe { exchange(last, old, old + 1) } {
            return Some(old + 1);
        }
        tries += 1;
    }
    None
}

/// Writes `new` over `old`; false when something else was there.
///
/// # Safety
/// `word` lies in a map's value.
#[inline(always)]
unsafe fn exchange(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: the caller's.
    let (before, _) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, old, new)
    };
    before == old
}

/// Counts what waits of the agent, and finds who waits for the same.
unsafe extern "C" fn count_step(
    _map: *mut c_void,
    key: *const RequestKey,
    request: *const Request,
    context: *mut c_void,
) -> c_long {
    // SAFETY: `request` passes a Context with the task's own map value; the helper an element of the map.
    unsafe {
        let state = (*context.cast::<Context>()).state;
        let hold = &raw mut (*state).hold;
        if (*key).agent != (*hold).note.key.agent {
            return 0;
        }
        let word = core::ptr::read_volatile(&raw const (*request).word);
        if word & ((1 << agentguard_common::approval::STATE_BITS) - 1) != WAITING {
            return 0;
        }
        (*hold).held = fresh(&raw const (*hold).held) + 1;
        let leader = core::ptr::read_volatile(&raw const (*request).leader);
        if leader == word >> agentguard_common::approval::STATE_BITS {
            (*hold).leaders = fresh(&raw const (*hold).leaders) + 1;
        }
        // Leaders can be gone while others still wait for the same. An agent can't choose hashes, so that few meet.
        let bit = (*key).object[0] ^ u64::from((*key).action);
        let bits = (&raw mut (*hold).hash)
            .cast::<u64>()
            .add((bit >> 6 & 3) as usize);
        let mask = 1 << (bit & 63);
        if *bits & mask == 0 {
            *bits |= mask;
            (*hold).next = fresh(&raw const (*hold).next) + 1;
        }
        let own = &(*hold).note.key;
        if (*key).object[0] == own.object[0]
            && (*key).object[1] == own.object[1]
            && (*key).action == own.action
            && (*key).verbs == own.verbs
        {
            (*hold).note.request.leader = leader;
        }
    }
    0
}
