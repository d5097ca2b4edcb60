//! Directory entries whose hook doesn't say on which mount they are: what the rules say of every name that such
//! an entry has in the acting task's mount namespace.
//!
//! The kernel knows the mounts of a file system. On each that is in the task's namespace the entry is climbed
//! from; where it is below the mount's root that is one of its names, and the strictest rule that any of them
//! meets decides, as with identities. So a rule can't be evaded by another mount, and a default is only asked
//! where no name meets a rule.

use agentguard_common::{
    Decision, Engine as _, Question,
    counter::Site,
    decide::{Text, begin, conclude},
    event::{ObjectKind, Reason},
    label::TaskState,
    limits::{ALIASES, MOUNTS, NAMES},
};
use aya_ebpf::{
    cty::{c_long, c_void},
    helpers::generated::bpf_loop,
};

use crate::{
    count,
    engine::{Workspace, fresh, reason},
    kernel::{fs, task},
    object,
    record::Verb,
    subject::Subject,
    verdict::{carry_out, install, judge_surface},
};

/// How often a list that changed under the search is read anew.
const AGAIN: u32 = 8;

/// What the callback is given. VERIFIER: it must be a pointer to the stack.
#[repr(C)]
struct Context {
    state: *mut TaskState,
}

/// Decides what is done to the entry `dentry`, one verb. `path_subject` is the number of the subject among those whose
/// objects are paths.
#[inline(always)]
pub fn decide_entry(subject: &Subject, verb: Verb, dentry: u64, path_subject: u32) -> Decision {
    let state = subject.state;
    object::look_for(subject, install(subject));
    Workspace { state }.ask(
        subject.profile,
        Question {
            subject: verb.kind,
            verbs: verb.verbs,
            text: Text::Attached,
        },
    );
    // SAFETY: the task's own map value.
    unsafe {
        (*state).names.subject = path_subject;
        (*state).names.verb = verb.verbs.trailing_zeros();
    }
    decide(state, dentry);
    Workspace { state }.decision()
}

/// Judges what is done to a file by its entry alone.
#[inline(always)]
pub fn judge_entry(subject: &Subject, verb: Verb, dentry: u64) -> i32 {
    let decision = decide_entry(subject, verb, dentry, object::FILE);
    let (verb, decision) = judge_surface(subject, verb, decision);
    carry_out(subject, verb, ObjectKind::Path, decision)
}

/// Decides the question, and puts the name that it was decided by into the workspace.
#[inline(never)]
fn decide(state: *mut TaskState, dentry: u64) -> u32 {
    let mut workspace = Workspace { state };
    begin(&mut workspace);
    search(state, dentry);
    // SAFETY: the task's own map value.
    let names = unsafe { &raw mut (*state).names };
    // SAFETY: as above.
    let (failed, done) = unsafe {
        (
            fresh(&raw const (*names).failed),
            fresh(&raw const (*names).done),
        )
    };
    if failed != 0 {
        // FAIL-CLOSED: what can't be named can't be allowed.
        return refuse(state, reason(failed));
    }
    if done == 0 {
        // FAIL-CLOSED: it may have names that nobody looked at.
        return refuse(state, Reason::TooManyAliases);
    }
    let text = kind(state);
    // SAFETY: as above.
    let (any, told, hidden) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*names).any),
            core::ptr::read_volatile(&raw const (*names).told),
            fresh(&raw const (*names).hidden),
        )
    };
    if hidden != 0 || told == 0 {
        // What only the path inside the file system leads to.
        if !object::look_inside_of(state, any, dentry) {
            // FAIL-CLOSED: an identity may be there, but not the way to it.
            return refuse(state, Reason::PathUnreadable);
        }
        // SAFETY: as above.
        unsafe { (*state).asked.text = Text::Internal as u32 };
        if look_asked(state) != 0 {
            return refuse(state, Reason::TablesBroken);
        }
    }
    // SAFETY: as above.
    unsafe { (*state).asked.text = text as u32 };
    let decision = conclude(&mut workspace);
    workspace.set_decision(decision);
    let mount = if told == 0 { any } else { told };
    // SAFETY: as above.
    let path_subject = unsafe { fresh(&raw const (*names).subject) };
    if object::path_text(state, (mount, dentry), path_subject).is_err() {
        // FAIL-CLOSED: it was there a moment ago.
        return refuse(state, Reason::PathUnreadable);
    }
    0
}

#[inline(always)]
fn refuse(state: *mut TaskState, reason: Reason) -> u32 {
    Workspace { state }.set_decision(Decision::refuse(reason));
    0
}

/// What kind of text the names are.
///
/// What a file system does to the one below it, such as an overlay to its upper layer, it does with the rights of
/// whoever mounted it, over a mount of its own that is in no namespace. The task didn't choose any name there,
/// and was judged by the one that it did choose: rules still count, but not the default.
#[inline(always)]
fn kind(state: *mut TaskState) -> Text {
    // SAFETY: the task's own map value.
    let names = unsafe { &raw const (*state).names };
    // SAFETY: as above.
    let (internal, found, elsewhere) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*names).internal) != 0,
            fresh(&raw const (*names).names) != 0,
            fresh(&raw const (*names).elsewhere) != 0,
        )
    };
    if internal && (task::acts_for_another() || !found && !elsewhere) {
        Text::Internal
    } else if found {
        Text::Attached
    } else {
        Text::Detached
    }
}

/// Looks at all names of the entry. VERIFIER: not a program of its own; there may be eight, one calling the other.
#[inline(always)]
fn search(state: *mut TaskState, dentry: u64) {
    // SAFETY: the task's own map value.
    let names = unsafe { &mut (*state).names };
    names.dentry = dentry;
    names.any = 0;
    names.internal = 0;
    names.told = 0;
    names.names = 0;
    names.elsewhere = 0;
    names.hidden = 0;
    names.failed = 0;
    names.done = 0;
    names.again = 0;
    let first = fs::mounts_of(dentry).and_then(|list| {
        names.list = list;
        fs::first_mount(list)
    });
    let Some(first) = first else {
        count::failure(Site::KernelRead);
        names.failed = Reason::PathUnreadable as u32;
        return;
    };
    names.next = first;
    let mut context = Context { state };
    // SAFETY: the callback has the signature that bpf_loop calls.
    unsafe {
        bpf_loop(
            MOUNTS,
            mount_step as *mut c_void,
            (&raw mut context).cast(),
            0,
        );
    }
}

/// One mount of the file system.
unsafe extern "C" fn mount_step(_step: u32, context: *mut c_void) -> c_long {
    // SAFETY: `search` passes a Context with the task's own map value.
    let state = unsafe { (*context.cast::<Context>()).state };
    // SAFETY: as above.
    let names = unsafe { &mut (*state).names };
    let element = names.next;
    if fs::is_last_mount(names.list, element) {
        names.done = 1;
        return 1;
    }
    let mount = fs::mount_in_list(element);
    let (Some(next), Some(namespace)) = (fs::next_mount(element), fs::mount_namespace(mount))
    else {
        return begin_again(state);
    };
    names.next = next;
    let vfsmount = fs::vfsmount_of(mount);
    names.any = vfsmount;
    if fs::is_error_pointer(namespace) {
        names.internal = vfsmount;
        return 0;
    }
    if namespace == 0 || namespace != task::mount_namespace() {
        names.elsewhere = 1;
        return 0;
    }
    look_at_name(state, vfsmount).into()
}

/// The mount was taken out of the list while it was looked at. KERNEL: its memory is still there, because this runs
/// in an RCU section, but its link is poisoned (include/linux/list.h, `list_del`).
#[inline(always)]
fn begin_again(state: *mut TaskState) -> c_long {
    // SAFETY: the task's own map value.
    let names = unsafe { &mut (*state).names };
    names.again += 1;
    match fs::first_mount(names.list) {
        Some(first) if names.again <= AGAIN => {
            names.next = first;
            0
        }
        _ => {
            count::failure(Site::KernelRead);
            names.failed = Reason::PathUnreadable as u32;
            1
        }
    }
}

/// Adds what the rules say of the entry's name on a mount, if it has one there. 1 when the search has failed.
#[inline(never)]
fn look_at_name(state: *mut TaskState, vfsmount: u64) -> u32 {
    // SAFETY: the task's own map value.
    let names = unsafe { &mut (*state).names };
    match object::path_text(state, (vfsmount, names.dentry), names.subject) {
        Ok(Text::Attached) => {}
        // The mount shows another part of the file system.
        Ok(_) => return 0,
        Err(reason) => {
            names.failed = reason as u32;
            return 1;
        }
    }
    names.names += 1;
    if names.names > NAMES {
        names.failed = Reason::TooManyAliases as u32;
        return 1;
    }
    if object::is_hidden(state) {
        names.hidden = 1;
    }
    let verb = names.verb;
    let before = Workspace { state }.outcome(verb);
    if look_asked(state) != 0 {
        names.failed = Reason::TablesBroken as u32;
        return 1;
    }
    let after = Workspace { state }.outcome(verb);
    if names.told == 0 || after.0 > before.0 {
        names.told = vfsmount;
    }
    0
}

/// Adds what the rules say of the object in the workspace and its identities. 0 unless the tables are broken.
/// VERIFIER: a program of its own; what it is about is in the workspace.
#[inline(never)]
fn look_asked(state: *mut TaskState) -> u32 {
    let mut workspace = Workspace { state };
    let aliases = workspace.aliases();
    if aliases > ALIASES as u32 || workspace.look_at_all(aliases).is_none() {
        return 1;
    }
    0
}
