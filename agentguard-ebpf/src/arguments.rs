//! Programs whose rules look at arguments. Two looks: at the strings in the caller's memory, while the call can
//! still be refused, and at the copy that the new program gets, which nobody can change any more. The second
//! one counts; what it denies is killed before its first instruction.
//!
//! Where the automata stand after the path of each file of the start (a script, its interpreter) is kept in the
//! task's state from the first look to the second: the paths can't be climbed again by then.

use agentguard_common::{
    Decision, Engine as _, Outcome, Verdict,
    automaton::{ABSENT, SINK, Tables as _},
    counter::{Hook, Site},
    decide::{self, Text},
    event::{Action, FLAG_KILLED, FLAG_PARTIAL, ObjectKind, Reason, RecordHeader},
    label::{Execution, Lane, OBJECT_BYTES, Round, TaskState},
    limits::{ALIASES, ARGUMENTS_BYTES, LANES, PROGRAM_BYTES, ROUNDS},
    profile::{self, Mode, Subject as Kind, verb},
};
use aya_ebpf::{
    cty::{c_long, c_void},
    helpers::generated::{
        bpf_copy_from_user, bpf_loop, bpf_probe_read_user, bpf_probe_read_user_str,
    },
};

use crate::{
    approval, count,
    engine::{Arena, Workspace, fresh},
    kernel::{self, task},
    object::{self, Object},
    record::{self, Verb},
    subject::Subject,
    verdict::{ALLOWED, DENIED, install, kill, mode, settle},
};

/// The number of `Subject::Args` among those whose objects begin with paths (`agentguard_common::identity`).
pub const PATH_SUBJECT: u32 = 3;

/// Index in the object buffer of the first string: in front of it is room for a path and its NUL.
const STRINGS: u32 = PROGRAM_BYTES as u32 + 1;

/// Bytes of a string that are read from the caller at a time.
const CHUNK: u32 = 256;

/// What is known of a file of the start when its path is.
mod file {
    /// Its arguments decide; it became a round of the execution.
    pub const OPEN: u32 = 0;
    /// The decision is in the workspace, whatever the arguments.
    pub const DECIDED: u32 = 1;
}

/// What `walk.broken` says besides 0 and 1.
const CROWDED: u32 = 2;

/// What a callback of `bpf_loop` is given. VERIFIER: it must be a pointer to the stack.
#[repr(C)]
struct Context {
    state: *mut TaskState,
}

/// Calls `step` at most `times` times.
#[inline(always)]
fn repeat(
    state: *mut TaskState,
    times: u32,
    step: unsafe extern "C" fn(u32, *mut c_void) -> c_long,
) {
    let mut context = Context { state };
    // SAFETY: every step takes a Context with the task's own map value.
    unsafe {
        bpf_loop(times, step as *mut c_void, (&raw mut context).cast(), 0);
    }
}

/// Whether the profile has a rule that looks at arguments.
#[inline(always)]
pub fn matter(subject: &Subject) -> bool {
    let cell = profile::subject_cell(subject.profile, Kind::Args as u32);
    // Past the end of the arena there is no profile: either way finds the tables broken.
    Arena
        .cell(cell)
        .is_some_and(|automaton| automaton as u32 != ABSENT)
}

/// The first look, at one file of a start, whose path is in the workspace (or isn't, and why).
///
/// # Safety
/// `binprm` is a `struct linux_binprm` the verifier knows.
#[inline(always)]
pub unsafe fn first_look(
    subject: &Subject,
    binprm: *const c_void,
    object: Result<Object, Reason>,
) -> i32 {
    let state = subject.state;
    let say = || report(subject, Hook::BprmCheckSecurity, ObjectKind::Path, 0);
    let refuse = |reason| {
        decided(state, reason);
        say()
    };
    let object = match object {
        Ok(object) => object,
        // FAIL-CLOSED: what can't be named can't be allowed.
        Err(reason) => return refuse(reason),
    };
    // SAFETY: the caller's.
    let (is_first, count) = unsafe {
        let (_, _, count) = task::binprm_arguments(binprm);
        (task::binprm_is_first(binprm), count)
    };
    let known = begin(
        state,
        binprm as u64,
        subject.profile,
        install(subject),
        is_first,
    );
    if known > ROUNDS as u32 {
        // FAIL-CLOSED: the script was judged by another policy than its interpreter would be.
        return refuse(Reason::ArgumentsUnreadable);
    }
    let arguments = count.wrapping_sub(1);
    if object::is_hidden(state) {
        // As `judge_object` does: what identities say that only the path inside the file system leads to.
        let inside = if object::look_inside(state) {
            note(state, subject.profile, arguments, Text::Internal as u32)
        } else {
            // FAIL-CLOSED: an identity is there, but not the way to it.
            decided(state, Reason::PathUnreadable)
        };
        let outside = object::look_outside(state);
        if inside == file::DECIDED && is_refused(state) {
            if is_asked(state) {
                // FAIL-CLOSED: what everybody sees of it may say otherwise, and has arguments.
                return refuse(Reason::CantHold);
            }
            return say();
        }
        if !outside {
            // FAIL-CLOSED: it was there a moment ago.
            return refuse(Reason::PathUnreadable);
        }
    }
    let outside = note(state, subject.profile, arguments, object.text as u32);
    // SAFETY: the task's own map value.
    let rounds = unsafe { fresh(&raw const (*state).execution.rounds) };
    if outside == file::DECIDED && (rounds == known || is_refused(state)) {
        return say();
    }
    // What an interpreter gets is nowhere in the caller's memory, and what audit mode would do is said once.
    if !is_first || mode(subject) == Mode::Audit as u32 || !read_caller(state, arguments) {
        return ALLOWED;
    }
    // One of them looks inside, one outside; none was known before.
    let mut round = 0;
    while round < 2 {
        if round < rounds {
            judge(state, subject.profile, round, 0, 0);
            if is_refused(state) {
                let flags = partial(state, round);
                let asked = is_asked(state);
                let verdict = report(subject, Hook::BprmCheckSecurity, ObjectKind::Program, flags);
                if verdict != ALLOWED {
                    return verdict;
                }
                if asked {
                    approve(state);
                }
            }
        }
        round += 1;
    }
    ALLOWED
}

/// The second look. Nobody can be told any more, so a denial kills.
///
/// # Safety
/// `binprm` is a `struct linux_binprm` the verifier knows; the program is sleepable.
#[inline(always)]
pub unsafe fn second_look(subject: &Subject, binprm: *const c_void) {
    let state = subject.state;
    // SAFETY: the task's own map value.
    let execution = unsafe { &mut (*state).execution };
    // SAFETY: as above.
    let (start, rounds) = unsafe {
        (
            core::ptr::read_volatile(&raw const execution.binprm),
            fresh(&raw const execution.rounds),
        )
    };
    if start != binprm as u64 {
        return;
    }
    execution.binprm = 0;
    if rounds == 0 {
        return;
    }
    let is_stale = execution.profile != subject.profile || execution.install != install(subject);
    // SAFETY: the caller's.
    let (begin, end, count) = unsafe { task::binprm_arguments(binprm) };
    copy_arguments(state, begin, end);
    let mut passed = 0;
    let mut round = ROUNDS as u32;
    // From the last one, the program, which gets the most arguments, to the first one, whose are the last.
    while round > 0 {
        round -= 1;
        if round < rounds {
            let before = count.saturating_sub(arguments_of(state, round));
            judge(
                state,
                subject.profile,
                round,
                before.saturating_sub(passed),
                u32::from(is_stale),
            );
            passed = before;
            // Nobody can be asked any more: what is neither exactly what was approved nor covered for longer is refused.
            let asked = is_asked(state);
            if asked && mode(subject) != Mode::Audit as u32 && is_approved(state) != 0 {
                continue;
            }
            let mut flags = partial(state, round);
            if is_refused(state) && !asked {
                flags |= FLAG_KILLED;
            }
            let hook = Hook::BprmCommittingCreds;
            if report(subject, hook, ObjectKind::Program, flags) == DENIED {
                kill();
                return;
            }
        }
    }
}

/// FAIL-CLOSED: the task is an agent's, but nobody can say any more which one's, while its program waits for
/// the second look.
///
/// # Safety
/// `state` is the task's own map value.
#[inline(always)]
pub unsafe fn is_waiting(state: *mut TaskState, binprm: *const c_void) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let execution = &raw const (*state).execution;
        core::ptr::read_volatile(&raw const (*execution).binprm) == binprm as u64
            && fresh(&raw const (*execution).rounds) != 0
    }
}

/// Forgets what an earlier start left. How many rounds this one has so far; more than there can be when they
/// were judged by another policy.
#[inline(always)]
fn begin(state: *mut TaskState, binprm: u64, profile: u32, install: u32, is_first: bool) -> u32 {
    // SAFETY: the task's own map value.
    let execution = unsafe { &mut (*state).execution };
    if is_first || execution.binprm != binprm {
        execution.binprm = binprm;
        execution.rounds = 0;
        execution.lanes = 0;
    }
    let rounds = execution.rounds;
    if rounds == 0 {
        execution.profile = profile;
        execution.install = install;
    } else if execution.profile != profile || execution.install != install {
        return u32::MAX;
    }
    rounds
}

/// Puts a refusal into the workspace.
#[inline(always)]
fn decided(state: *mut TaskState, reason: Reason) -> u32 {
    Workspace { state }.set_decision(Decision::refuse(reason));
    file::DECIDED
}

#[inline(always)]
fn is_refused(state: *mut TaskState) -> bool {
    // SAFETY: the task's own map value.
    Outcome(unsafe { fresh(&raw const (*state).asked.outcome) }).rank() > Verdict::Allow as u32
}

#[inline(always)]
fn is_asked(state: *mut TaskState) -> bool {
    // SAFETY: the task's own map value.
    Outcome(unsafe { fresh(&raw const (*state).asked.outcome) }).rank() == Verdict::Ask as u32
}

/// Notes what was approved, by which the second look knows it again.
#[inline(always)]
fn approve(state: *mut TaskState) {
    // SAFETY: the task's own map value.
    let hold = unsafe { &mut (*state).hold };
    approval::answers_start(hold);
    hold.approved = hold.note.key.object;
}

/// Whether the program and arguments in the workspace are exactly what was approved at the first look.
#[inline(never)]
fn is_approved(state: *mut TaskState) -> u32 {
    // SAFETY: the task's own map value.
    unsafe {
        (*state).report.object_kind = ObjectKind::Program as u8;
        let hold = &raw const (*state).hold;
        if (*hold).answered_start != (*hold).start || approval::hash_program(state) != 0 {
            return 0;
        }
        let approved = core::ptr::read_volatile(&raw const (*hold).approved);
        let own = core::ptr::read_volatile(&raw const (*hold).note.key.object);
        (approved[0] == own[0] && approved[1] == own[1] && approved[0] != 0).into()
    }
}

#[inline(always)]
fn round_at(state: *mut TaskState, round: u32) -> *mut Round {
    // SAFETY: the task's own map value; the mask keeps the index inside.
    unsafe {
        (&raw mut (*state).execution.round)
            .cast::<Round>()
            .add((round & (ROUNDS as u32 - 1)) as usize)
    }
}

#[inline(always)]
fn lane_at(state: *mut TaskState, lane: u32) -> *mut Lane {
    // SAFETY: as above.
    unsafe {
        (&raw mut (*state).execution.lane)
            .cast::<Lane>()
            .add((lane & (LANES as u32 - 1)) as usize)
    }
}

const _: () = assert!(ROUNDS.is_power_of_two() && LANES.is_power_of_two());

#[inline(always)]
fn arguments_of(state: *mut TaskState, round: u32) -> u32 {
    // SAFETY: as above.
    unsafe { fresh(&raw const (*round_at(state, round)).arguments) }
}

/// Asks the profile about the file whose path is in the workspace.
#[inline(always)]
fn ask(state: *mut TaskState, profile: u32, text: u32) {
    // SAFETY: the task's own map value.
    unsafe {
        let asked = &mut (*state).asked;
        asked.profile = profile;
        asked.subject = Kind::Args as u32;
        asked.verbs = u32::from(verb::bit(verb::ONLY));
        asked.text = text;
        (*state).execution.open = 0;
        (*state).walk.broken = 0;
    }
    decide::begin(&mut Workspace { state });
}

/// Notes where the automata stand after the path in the workspace, under each of its names. See [`file`] for
/// what it says.
#[inline(never)]
fn note(state: *mut TaskState, profile: u32, arguments: u32, text: u32) -> u32 {
    ask(state, profile, text);
    // SAFETY: the task's own map value.
    let (execution, climb) = unsafe { (&mut (*state).execution, &(*state).climb) };
    let lanes = execution.lanes;
    let aliases = climb.aliases;
    if aliases > ALIASES as u32 {
        return decided(state, Reason::TablesBroken);
    }
    repeat(state, aliases + 1, note_lane);
    // SAFETY: as above.
    let (broken, open, rounds) = unsafe {
        (
            fresh(&raw const (*state).walk.broken),
            fresh(&raw const execution.open),
            fresh(&raw const execution.rounds),
        )
    };
    if broken != 0 || open == 0 || rounds >= ROUNDS as u32 {
        execution.lanes = lanes;
        if broken == 0 && open == 0 {
            let mut workspace = Workspace { state };
            let decision = decide::conclude(&mut workspace);
            workspace.set_decision(decision);
            return file::DECIDED;
        }
        // FAIL-CLOSED: the arena doesn't hold what the descriptor says, or there is no room for the rest.
        return decided(
            state,
            if broken == 1 {
                Reason::TablesBroken
            } else {
                Reason::TooManyAliases
            },
        );
    }
    let round = round_at(state, rounds);
    // SAFETY: as above; the path's last bytes fit, and what the mask would let pass lies inside the value.
    unsafe {
        let start = fresh(&raw const climb.start);
        let mut len_bytes = (OBJECT_BYTES as u32).saturating_sub(start);
        if len_bytes > PROGRAM_BYTES as u32 {
            len_bytes = PROGRAM_BYTES as u32;
        }
        let len_bytes = kernel::bounded::<PROGRAM_BYTES>(len_bytes);
        let from = (&raw const (*state).object)
            .cast::<u8>()
            .add((OBJECT_BYTES as u32 - len_bytes) as usize);
        kernel::copy((&raw mut (*round).path).cast(), len_bytes, from);
        (*round).path_bytes = len_bytes;
        (*round).arguments = arguments;
        (*round).text = text;
        (*round).inode = climb.inode;
        (*round).device = climb.object_device;
    }
    execution.rounds = rounds + 1;
    file::OPEN
}

/// One text or identity of [`note`].
unsafe extern "C" fn note_lane(number: u32, context: *mut c_void) -> c_long {
    // SAFETY: `repeat` passes a Context with the task's own map value.
    unsafe {
        let state = (*context.cast::<Context>()).state;
        let mut workspace = Workspace { state };
        let broken = &raw mut (*state).walk.broken;
        match decide::look_until_end(&mut workspace, number) {
            Some(true) => {}
            Some(false) => return 0,
            None => {
                *broken = 1;
                return 1;
            }
        }
        if (*state).walk.cursor.step(&Arena, 0).is_none() {
            *broken = 1;
            return 1;
        }
        let execution = &raw mut (*state).execution;
        let lanes = fresh(&raw const (*execution).lanes);
        if lanes >= LANES as u32 {
            *broken = CROWDED;
            return 1;
        }
        let lane = lane_at(state, lanes);
        (*lane).states = (*state).walk.cursor.state;
        (*lane).round = (*execution).rounds;
        (*execution).lanes = lanes + 1;
        if !is_settled(state) {
            (*execution).open = 1;
        }
        // In case that none is open.
        if decide::collect(&mut workspace).is_none() {
            *broken = 1;
            return 1;
        }
        0
    }
}

/// Whether nothing that follows can change what the automata say.
#[inline(always)]
fn is_settled(state: *mut TaskState) -> bool {
    // SAFETY: the task's own map value.
    let states = unsafe { core::ptr::read_volatile(&raw const (*state).walk.cursor.state) };
    states[0] & states[1] & states[2] & states[3] & SINK != 0
}

/// Judges one round by the strings in the buffer, after passing over `pass` more of them. The decision is in the
/// workspace, and so is the object for the event.
#[inline(never)]
fn judge(state: *mut TaskState, profile: u32, round: u32, pass: u32, is_stale: u32) -> u32 {
    let judged = round_at(state, round);
    // SAFETY: the task's own map value.
    let execution = unsafe { &mut (*state).execution };
    execution.current = round;
    execution.wanted = pass;
    repeat(state, OBJECT_BYTES as u32, pass_one);
    // SAFETY: as above.
    let from = unsafe { fresh(&raw const execution.next) };
    // SAFETY: as above; both numbers are bounded before they are used.
    unsafe {
        let climb = &mut (*state).climb;
        climb.inode = (*judged).inode;
        climb.object_device = (*judged).device;
        let len_bytes = kernel::bounded::<PROGRAM_BYTES>(fresh(&raw const (*judged).path_bytes));
        let start = from.wrapping_sub(len_bytes + 1);
        if from == 0 || from > OBJECT_BYTES as u32 || start >= OBJECT_BYTES as u32 {
            // FAIL-CLOSED: the place of the strings is beyond a path's.
            climb.start = OBJECT_BYTES as u32;
            climb.stop = OBJECT_BYTES as u32;
            return decided(state, Reason::ArgumentsUnreadable);
        }
        let object = (&raw mut (*state).object).cast::<u8>();
        kernel::copy(
            object.add(start as usize),
            len_bytes,
            (&raw const (*judged).path).cast(),
        );
        *object.add(kernel::bounded::<{ OBJECT_BYTES / 2 }>(from - 1) as usize) = 0;
        climb.start = start;
        climb.stop = from;
    }
    execution.wanted = arguments_of(state, round);
    repeat(state, OBJECT_BYTES as u32, find_stop);
    if is_stale != 0 {
        // FAIL-CLOSED: the states mean nothing in the policy that is in force now.
        return decided(state, Reason::ArgumentsUnreadable);
    }
    // SAFETY: as above.
    ask(state, profile, unsafe { fresh(&raw const (*judged).text) });
    repeat(state, LANES as u32, judge_lane);
    // SAFETY: as above.
    let (broken, open, wanted, cut) = unsafe {
        (
            fresh(&raw const (*state).walk.broken),
            fresh(&raw const execution.open),
            fresh(&raw const execution.wanted),
            fresh(&raw const execution.cut),
        )
    };
    if broken != 0 {
        // FAIL-CLOSED: the arena doesn't hold what the descriptor says.
        return decided(state, Reason::TablesBroken);
    }
    if wanted != 0 && open != 0 {
        // FAIL-CLOSED: what isn't there could make a difference.
        return decided(
            state,
            if cut != 0 {
                Reason::ArgumentsTooLong
            } else {
                Reason::ArgumentsUnreadable
            },
        );
    }
    let mut workspace = Workspace { state };
    let decision = decide::conclude(&mut workspace);
    workspace.set_decision(decision);
    file::DECIDED
}

/// Passes over one byte of a string that is of no interest.
unsafe extern "C" fn pass_one(_step: u32, context: *mut c_void) -> c_long {
    // SAFETY: `repeat` passes a Context with the task's own map value.
    unsafe {
        let state = (*context.cast::<Context>()).state;
        let execution = &raw mut (*state).execution;
        let next = fresh(&raw const (*execution).next);
        let wanted = fresh(&raw const (*execution).wanted);
        if wanted == 0 || next >= OBJECT_BYTES as u32 || next >= fresh(&raw const (*execution).end)
        {
            return 1;
        }
        if *(&raw const (*state).object).cast::<u8>().add(next as usize) == 0 {
            (*execution).wanted = wanted - 1;
        }
        (*execution).next = next + 1;
        0
    }
}

/// Looks at one byte for the end of the wanted strings.
unsafe extern "C" fn find_stop(_step: u32, context: *mut c_void) -> c_long {
    // SAFETY: as above.
    unsafe {
        let state = (*context.cast::<Context>()).state;
        let execution = &raw mut (*state).execution;
        let stop = fresh(&raw const (*state).climb.stop);
        let wanted = fresh(&raw const (*execution).wanted);
        if wanted == 0 || stop >= OBJECT_BYTES as u32 || stop >= fresh(&raw const (*execution).end)
        {
            return 1;
        }
        if *(&raw const (*state).object).cast::<u8>().add(stop as usize) == 0 {
            (*execution).wanted = wanted - 1;
        }
        (*state).climb.stop = stop + 1;
        0
    }
}

/// One name of the file that [`judge`] judges.
unsafe extern "C" fn judge_lane(number: u32, context: *mut c_void) -> c_long {
    // SAFETY: as above.
    unsafe {
        let state = (*context.cast::<Context>()).state;
        let execution = &raw mut (*state).execution;
        if number >= fresh(&raw const (*execution).lanes) {
            return 1;
        }
        let lane = lane_at(state, number);
        if (*lane).round != fresh(&raw const (*execution).current) {
            return 0;
        }
        let mut workspace = Workspace { state };
        let profile = workspace.profile();
        let walk = &raw mut (*state).walk;
        let done = match profile::cursor(&Arena, profile, Kind::Args as u32) {
            Some(cursor) => {
                (*walk).cursor.base = cursor.base;
                (*walk).cursor.state = (*lane).states;
                let (from, stop) = (
                    fresh(&raw const (*execution).next),
                    fresh(&raw const (*state).climb.stop),
                );
                workspace.feed_until(from, stop)
            }
            None => None,
        };
        if done.is_none() || decide::collect(&mut workspace).is_none() {
            (*walk).broken = 1;
            return 1;
        }
        if !is_settled(state) {
            (*execution).open = 1;
        }
        0
    }
}

/// Whether the event has less than all of the round's path and arguments.
#[inline(always)]
fn partial(state: *mut TaskState, round: u32) -> u8 {
    // SAFETY: the task's own map value.
    unsafe {
        let path_bytes = fresh(&raw const (*round_at(state, round)).path_bytes);
        if path_bytes >= PROGRAM_BYTES as u32 || fresh(&raw const (*state).execution.wanted) != 0 {
            FLAG_PARTIAL
        } else {
            0
        }
    }
}

/// Counts, reports and clamps the decision in the workspace. VERIFIER: its reason stays a number.
#[inline(always)]
fn report(subject: &Subject, hook: Hook, kind: ObjectKind, flags: u8) -> i32 {
    let verb = Verb {
        hook,
        action: Action::Exec,
        kind: Kind::Args,
        verbs: verb::bit(verb::ONLY),
    };
    // SAFETY: the task's own map value.
    unsafe {
        let asked = &raw const (*subject.state).asked;
        (*subject.state).report = RecordHeader {
            agent: subject.agent,
            slot: subject.slot,
            flags,
            outcome: fresh(&raw const (*asked).outcome),
            reason: fresh(&raw const (*asked).reason) as u8,
            ..record::header(verb, kind, Decision::refuse(Reason::Rule))
        };
    }
    settle(subject.state, subject.profile, hook)
}

/// Copies the strings that the new program gets into the object buffer.
#[inline(always)]
fn copy_arguments(state: *mut TaskState, begin: u64, end: u64) {
    // SAFETY: the task's own map value; the length is bounded.
    unsafe {
        let execution = &mut (*state).execution;
        execution.next = STRINGS;
        execution.end = STRINGS;
        // Reading past the end could run over the top of the stack and fail whole.
        let mut len_bytes = end.wrapping_sub(begin);
        execution.cut = u32::from(len_bytes > ARGUMENTS_BYTES as u64);
        if len_bytes > ARGUMENTS_BYTES as u64 {
            len_bytes = ARGUMENTS_BYTES as u64;
        }
        // VERIFIER: twice as long would still lie inside the value.
        let len_bytes = kernel::bounded::<{ OBJECT_BYTES / 2 }>(len_bytes as u32);
        let to = (&raw mut (*state).object)
            .cast::<u8>()
            .add(STRINGS as usize);
        if bpf_copy_from_user(to.cast(), len_bytes, begin as *const c_void) != 0 {
            // FAIL-CLOSED: `judge` finds nothing there.
            count::failure(Site::ArgumentsRead);
            execution.cut = 0;
            return;
        }
        execution.end = STRINGS + len_bytes;
    }
}

/// Reads the arguments after `argv[0]` from the caller's memory into the object buffer, as far as it can be done
/// without waiting: a page that isn't there may be one that the agent keeps back. False when it can't be.
#[inline(never)]
fn read_caller(state: *mut TaskState, arguments: u32) -> bool {
    let list = task::caller_arguments();
    // SAFETY: the task's own map value.
    let execution = unsafe { &mut (*state).execution };
    execution.next = STRINGS;
    execution.end = STRINGS;
    execution.cut = 0;
    execution.string = 0;
    execution.wanted = arguments;
    if arguments == 0 {
        return true;
    }
    if list == 0 {
        return false;
    }
    execution.list = list.wrapping_add(8);
    // SAFETY: as above.
    unsafe { (*state).walk.broken = 0 };
    // A string takes a byte at least, and one step for each chunk.
    repeat(
        state,
        OBJECT_BYTES as u32 + OBJECT_BYTES as u32 / CHUNK,
        read_one,
    );
    // SAFETY: as above.
    unsafe { fresh(&raw const (*state).walk.broken) == 0 }
}

/// Reads one string of the caller's, or a part of it.
unsafe extern "C" fn read_one(_step: u32, context: *mut c_void) -> c_long {
    // SAFETY: `repeat` passes a Context with the task's own map value; what is written is bounded, and the
    // helpers check the addresses.
    unsafe {
        let state = (*context.cast::<Context>()).state;
        let execution: *mut Execution = &raw mut (*state).execution;
        let wanted = fresh(&raw const (*execution).wanted);
        if wanted == 0 {
            return 1;
        }
        let string = &raw mut (*execution).string;
        if core::ptr::read_volatile(string) == 0 {
            let list = core::ptr::read_volatile(&raw const (*execution).list);
            if bpf_probe_read_user(string.cast(), 8, list as *const c_void) != 0
                || core::ptr::read_volatile(string) == 0
            {
                (*state).walk.broken = 1;
                return 1;
            }
            (*execution).list = list.wrapping_add(8);
        }
        let at = fresh(&raw const (*execution).end);
        if at >= OBJECT_BYTES as u32 - 1 {
            (*execution).cut = 1;
            return 1;
        }
        let room = OBJECT_BYTES as u32 - at;
        let size = if room < CHUNK { room } else { CHUNK };
        let size = kernel::bounded::<{ CHUNK as usize }>(size);
        let to = (&raw mut (*state).object).cast::<u8>().add(at as usize);
        let address = core::ptr::read_volatile(string);
        let mut read = bpf_probe_read_user_str(to.cast(), size, address as *const c_void);
        if read < 0 {
            (*state).walk.broken = 1;
            return 1;
        }
        if read == 0 {
            // KERNEL: 6.1 doesn't count the NUL of an empty string.
            *to = 0;
            read = 1;
        }
        if read as u32 >= size {
            // The last byte is a NUL that the helper put there.
            *string = address.wrapping_add(u64::from(size) - 1);
            (*execution).end = at + size - 1;
        } else {
            *string = 0;
            (*execution).wanted = wanted - 1;
            (*execution).end = at + read as u32;
        }
        0
    }
}
