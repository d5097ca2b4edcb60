//! Giving files other names: rename, link and symlink. What they come to is `agentguard_common::moved`'s business.

use agentguard_common::{
    Decision, Engine as _, Question, Verdict,
    counter::Hook,
    decide::Text,
    event::{Action, ObjectKind, Reason},
    label::{OBJECT_BYTES, TaskState},
    limits::NAME_BYTES,
    moved::{
        ACCESSES, ALL_ACCESSES, BELOW, MADE_UP, Moved, Mover as _, NEW, OLD, ONE_WAY, TRACKS,
        keep_answer, settle, settle_side,
    },
    profile::{Subject as Kind, verb},
};
use aya_ebpf::{
    cty::{c_long, c_void},
    helpers::generated::bpf_loop,
    macros::lsm,
    programs::LsmContext,
};

use crate::{
    approval,
    engine::{Workspace, fresh},
    kernel::{bounded, copy, fs, opaque},
    object,
    record::Verb,
    subject::Subject,
    verdict::{ALLOWED, answer_asked, carry_out, guard, install, judge_surface},
};

// include/uapi/linux/fs.h
const RENAME_EXCHANGE: u32 = 2;
const RENAME_WHITEOUT: u32 = 4;

const READ: u32 = verb::bit(verb::READ) as u32;
const CREATE: u32 = verb::bit(verb::CREATE) as u32;
const DELETE: u32 = verb::bit(verb::DELETE) as u32;

/// Mount and directory entry.
type Place = (u64, u64);

/// `path_link(old_dentry, new_dir, new_dentry)`: the old name is on the new one's mount, because a
/// link across mounts is refused (fs/namei.c, do_linkat).
#[lsm(hook = "path_link")]
pub fn path_link(ctx: LsmContext) -> i32 {
    guard(Hook::PathLink, |subject| {
        // SAFETY: the hook's own argument.
        let (mount, _) = unsafe { fs::path(ctx.arg(1)) };
        let (old, new) = ((mount, ctx.arg(0)), (mount, ctx.arg(2)));
        // SAFETY: the task's own map value.
        let moved = unsafe { &mut (*subject.state).moved };
        moved.wanted = [READ, CREATE];
        moved.exchange = 0;
        moved.below = below_link(old.1);
        change(subject, (Hook::PathLink, Action::FileLink), old, new)
    })
}

/// `path_symlink(dir, dentry, old_name)`. Where it leads isn't looked at: that may change, and may be a symlink again.
#[lsm(hook = "path_symlink")]
pub fn path_symlink(ctx: LsmContext) -> i32 {
    guard(Hook::PathSymlink, |subject| {
        // SAFETY: the hook's own argument.
        let (mount, _) = unsafe { fs::path(ctx.arg(0)) };
        let new = (mount, ctx.arg(1));
        // SAFETY: the task's own map value.
        let moved = unsafe { &mut (*subject.state).moved };
        moved.wanted = [0, CREATE];
        moved.exchange = 0;
        moved.below = BELOW | ONE_WAY | MADE_UP;
        change(subject, (Hook::PathSymlink, Action::FileCreate), new, new)
    })
}

/// What a file that gets another name makes of what is below that name.
#[inline(always)]
fn below_link(file: u64) -> u32 {
    // FAIL-CLOSED: what can't be read may be one.
    if fs::is_symlink(file).unwrap_or(true) {
        BELOW | ONE_WAY
    } else {
        0
    }
}

/// `path_rename(old_dir, old_dentry, new_dir, new_dentry, flags)`. KERNEL: since 5.19 (mainline
/// 100f59d96405) an exchange comes here once and not for both ways.
#[lsm(hook = "path_rename")]
pub fn path_rename(ctx: LsmContext) -> i32 {
    guard(Hook::PathRename, |subject| {
        // SAFETY: the hook's own arguments.
        let ((old_mount, _), (new_mount, _)) =
            unsafe { (fs::path(ctx.arg(0)), fs::path(ctx.arg(2))) };
        let (old, new) = ((old_mount, ctx.arg(1)), (new_mount, ctx.arg(3)));
        need(subject.state, old.1, new.1, ctx.arg(4));
        let what = (Hook::PathRename, Action::FileRename);
        change(subject, what, old, new)
    })
}

/// What a rename needs of both names. VERIFIER: a program of its own, so that what is known of these numbers
/// isn't followed through all of the rest.
#[inline(never)]
fn need(state: *mut TaskState, old: u64, new: u64, flags: u32) -> u32 {
    let (mut from, mut to) = (DELETE, CREATE);
    // FAIL-CLOSED, here and below: what can't be read may be there, and may be a directory.
    let mut below = if fs::is_directory(old).unwrap_or(true) {
        BELOW
    } else {
        below_link(old)
    };
    if flags & RENAME_EXCHANGE != 0 {
        let plain = below == 0
            && !fs::is_directory(new).unwrap_or(true)
            && !fs::is_symlink(new).unwrap_or(true);
        below = if plain { 0 } else { BELOW };
    }
    if flags & (RENAME_EXCHANGE | RENAME_WHITEOUT) != 0 {
        from |= CREATE;
    }
    if fs::dentry_inode(new) != Some(0) {
        to |= DELETE;
    }
    // SAFETY: the task's own map value.
    let moved = unsafe { &mut (*state).moved };
    moved.wanted = [from, to];
    moved.exchange = flags & RENAME_EXCHANGE;
    moved.below = below;
    0
}

/// Judges both names, when it is known what is needed of them.
#[inline(always)]
fn change(subject: &Subject, (hook, action): (Hook, Action), old: Place, new: Place) -> i32 {
    let state = subject.state;
    // SAFETY: the task's own map value.
    let moved = unsafe { &mut (*state).moved };
    moved.kept = Default::default();
    moved.marks = Moved::EMPTY.marks;
    moved.tracks = [0; 2];
    moved.mounts = [old.0, new.0];
    moved.dentries = [old.1, new.1];
    moved.failed = 0;
    object::look_for(subject, install(subject));
    Workspace { state }.ask(
        subject.profile,
        Question {
            subject: Kind::File,
            verbs: ALL_ACCESSES as u8,
            text: Text::Attached,
        },
    );
    decide(state);
    let rank = (Workspace { state }).decision().outcome.rank();
    if rank == Verdict::Ask as u32 {
        return ask(subject, hook, action);
    }
    if rank != Verdict::Allow as u32 {
        return report(subject, hook, action);
    }
    // Both names are told, unless one is made up.
    if (Workspace { state }).below() & MADE_UP == 0 {
        own(state, OLD);
        let verdict = report(subject, hook, action);
        if verdict != ALLOWED {
            return verdict;
        }
    }
    own(state, NEW);
    report(subject, hook, action)
}

/// Carries out what is decided about the name in the workspace.
#[inline(always)]
fn report(subject: &Subject, hook: Hook, action: Action) -> i32 {
    // SAFETY: the task's own map value.
    let verbs = unsafe { fresh(&raw const (*subject.state).moved.verbs) };
    let verb = Verb {
        hook,
        action,
        kind: Kind::File,
        verbs: verbs as u8,
    };
    let decision = Workspace {
        state: subject.state,
    }
    .decision();
    let (verb, decision) = judge_surface(subject, verb, decision);
    carry_out(subject, verb, ObjectKind::Path, decision)
}

/// What is decided about both names, and in the workspace the name that it is about.
#[inline(never)]
fn decide(state: *mut TaskState) -> u32 {
    let mut context = Context { state };
    // SAFETY: the task's own map value; the callback has the signature that bpf_loop calls. VERIFIER: a loop,
    // because it looks at what is done only once then.
    unsafe {
        bpf_loop(2, look_step as *mut c_void, (&raw mut context).cast(), 0);
        if fresh(&raw const (*state).moved.failed) != 0 {
            return 0;
        }
        settle(&mut Workspace { state });
        show(state);
    }
    0
}

/// Begins the hash by which an approval is known, with the new name, which is left in the workspace. Not 0 when that
/// can't be done.
#[inline(never)]
fn name_new(state: *mut TaskState) -> u32 {
    // SAFETY: the task's own map value.
    let (wanted, exchange) = unsafe {
        let moved = &raw const (*state).moved;
        (
            core::ptr::read_volatile((&raw const (*moved).wanted).cast::<u64>()),
            fresh(&raw const (*moved).exchange),
        )
    };
    let (mount, dentry) = place(state, NEW);
    if approval::begin_hash(state) != 0 || object::path_text(state, (mount, dentry), 0).is_err() {
        return 1;
    }
    // SAFETY: as above.
    unsafe { (*state).report.object_kind = ObjectKind::Names as u8 };
    approval::absorb(state, wanted);
    approval::absorb(state, exchange.into());
    approval::hash_object(state);
    0
}

/// Puts the old name in front of the new one, in the workspace and into the hash. Not 0 when that can't be done.
#[inline(never)]
fn name_both(state: *mut TaskState) -> u32 {
    let (mount, dentry) = place(state, OLD);
    if !object::put_in_front(state, mount, dentry) {
        return 1;
    }
    approval::hash_object(state);
    0
}

/// Carries out an ask about what is done to both names. What `[system]` says of either counts as well.
#[inline(always)]
fn ask(subject: &Subject, hook: Hook, action: Action) -> i32 {
    let state = subject.state;
    let mut verb = Verb {
        hook,
        action,
        kind: Kind::File,
        // SAFETY: the task's own map value.
        verbs: unsafe { fresh(&raw const (*state).moved.verbs) } as u8,
    };
    let asked = Workspace { state }.decision();
    let mut decision = asked;
    if name_new(state) != 0 {
        // FAIL-CLOSED: it was there a moment ago.
        decision = Decision::refuse(Reason::PathUnreadable);
    }
    (verb, decision) = judge_surface(subject, verb, decision);
    if decision.outcome.rank() > Verdict::Ask as u32 {
        return carry_out(subject, verb, ObjectKind::Path, decision);
    }
    if name_both(state) != 0 {
        // FAIL-CLOSED: whoever is asked must see both.
        let refusal = Decision::refuse(Reason::PathTooLong);
        object::nothing(state);
        return carry_out(subject, verb, ObjectKind::Path, refusal);
    }
    (verb, decision) = judge_surface(subject, verb, decision);
    carry_out(subject, verb, ObjectKind::Names, decision)
}

/// Puts the path of the side that is settled on into the workspace.
#[inline(always)]
fn show(state: *mut TaskState) {
    let mut workspace = Workspace { state };
    let side = workspace.side();
    let (mount, dentry) = place(state, side);
    if object::path_text(state, (mount, dentry), 0).is_err() {
        // FAIL-CLOSED: it was there a moment ago.
        workspace.set_decision(Decision::refuse(Reason::PathUnreadable));
    }
}

/// What is allowed of the name on one side by itself, and in the workspace that name.
#[inline(never)]
fn own(state: *mut TaskState, side: u32) -> u32 {
    settle_side(&mut Workspace { state }, side);
    show(state);
    0
}

/// Mount and directory entry of the name on one side.
#[inline(always)]
fn place(state: *mut TaskState, side: u32) -> Place {
    // SAFETY: the task's own map value; the mask keeps the index inside.
    unsafe {
        let moved = &raw const (*state).moved;
        let at = (side & 1) as usize;
        (
            core::ptr::read_volatile((&raw const (*moved).mounts).cast::<u64>().add(at)),
            core::ptr::read_volatile((&raw const (*moved).dentries).cast::<u64>().add(at)),
        )
    }
}

/// What the callback is given. VERIFIER: it must be a pointer to the stack.
#[repr(C)]
struct Context {
    state: *mut TaskState,
}

/// Looks at one name.
unsafe extern "C" fn look_step(side: u32, context: *mut c_void) -> c_long {
    // SAFETY: `decide` passes a Context with the task's own map value.
    unsafe {
        let state = (*context.cast::<Context>()).state;
        (*state).moved.side = side;
        if let Err(reason) = look_at(state) {
            // FAIL-CLOSED: what can't be named or judged can't be allowed.
            let side = (side & 1) as usize;
            let wanted = (&raw const (*state).moved.wanted).cast::<u32>().add(side);
            (*state).moved.verbs = fresh(wanted);
            (*state).moved.failed = 1;
            Workspace { state }.set_decision(Decision::refuse(reason));
            return 1;
        }
    }
    0
}

/// Puts the name of the side at hand into the workspace and keeps what the profile says of it.
#[inline(always)]
fn look_at(state: *mut TaskState) -> Result<(), Reason> {
    let side = Workspace { state }.side();
    let text = object::path_text(state, place(state, side), 0)? as u32;
    // SAFETY: the task's own map value; the mask keeps the index inside. VERIFIER: from here on nothing is
    // known of the number.
    unsafe {
        let texts = (&raw mut (*state).moved.texts).cast::<u32>();
        core::ptr::write_volatile(texts.add((side & 1) as usize), text);
        (*state).asked.text = text;
    }
    make_up(state)?;
    survey(state)?;
    if !object::is_hidden(state) {
        return Ok(());
    }
    if !object::look_inside(state) {
        return Err(Reason::PathUnreadable);
    }
    // SAFETY: as above.
    unsafe { (*state).asked.text = Text::Internal as u32 };
    make_up(state)?;
    survey(state)
}

/// What a made-up name consists of: no pattern names such bytes, so that only wildcards fit.
static UNNAMED: [u8; NAME_BYTES] = [1; NAME_BYTES];

/// Puts a made-up name in the place of the one in the workspace, if that is on the side of which nothing is asked.
#[inline(always)]
fn make_up(state: *mut TaskState) -> Result<(), Reason> {
    let workspace = Workspace { state };
    if workspace.below() & MADE_UP == 0 || workspace.side() != OLD {
        return Ok(());
    }
    let (_, dentry) = place(state, OLD);
    let name = fs::dentry_name(dentry).ok_or(Reason::PathUnreadable)?;
    let len_bytes = bounded::<{ NAME_BYTES + 1 }>(name.len_bytes);
    if len_bytes > NAME_BYTES as u32 {
        return Err(Reason::PathUnreadable);
    }
    // VERIFIER: an index of its own, because it can't bound what is subtracted from a pointer.
    let start = opaque((OBJECT_BYTES as u32 - len_bytes).into());
    if start > OBJECT_BYTES as u64 {
        return Err(Reason::PathUnreadable);
    }
    // SAFETY: the task's own map value; the name is the last part of what is there.
    let done = unsafe {
        let at = (&raw mut (*state).object).cast::<u8>().add(start as usize);
        copy(at, len_bytes, UNNAMED.as_ptr())
    };
    if done {
        Ok(())
    } else {
        Err(Reason::PathUnreadable)
    }
}

/// Keeps what the profile says of the object in the workspace.
#[inline(always)]
fn survey(state: *mut TaskState) -> Result<(), Reason> {
    match survey_asked(state) {
        0 => Ok(()),
        1 => Err(Reason::TooManyAliases),
        _ => Err(Reason::TablesBroken),
    }
}

/// VERIFIER: a program of its own; what it is about is in the workspace.
#[inline(never)]
fn survey_asked(state: *mut TaskState) -> u32 {
    let mut workspace = Workspace { state };
    answer_asked(state);
    if workspace.decision().reason as u8 == Reason::TablesBroken as u8 {
        return 2;
    }
    if workspace.side() == NEW && object::forget_own(state) {
        // What is overwritten counts for its deletion; its name doesn't keep its identity.
        let deleted = workspace.outcome(verb::DELETE.into());
        workspace.keep(NEW, verb::DELETE.into(), deleted);
        answer_asked(state);
    }
    if workspace.below() & MADE_UP == 0 || workspace.side() == NEW {
        keep_answer(&mut workspace);
    }
    if workspace.below() != 0 {
        let last = workspace.aliases();
        if workspace.trace_all(last).is_none() {
            return if workspace.tracks(workspace.side()) >= TRACKS {
                1
            } else {
                2
            };
        }
    }
    0
}

const _: () = assert!(ACCESSES == verb::METADATA as u32 + 1);
