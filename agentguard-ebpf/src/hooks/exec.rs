//! Running programs.

use agentguard_common::{
    counter::{Hook, Site},
    decide::Text,
    event::{Action, ObjectKind, Reason},
    label::{OBJECT_BYTES, TaskState},
    limits::{ARGS_BYTES, EXE_BYTES},
    profile::{Subject as Kind, verb},
};
use aya_ebpf::{
    cty::{c_long, c_void},
    helpers::generated::{bpf_copy_from_user, bpf_loop},
    macros::lsm,
    programs::LsmContext,
};

use crate::{
    arguments, count,
    kernel::{self, fs, task},
    object::{self, Object},
    record::Verb,
    subject::{self, Subject, Who},
    verdict::{ALLOWED, guard, install, judge, kill, refuse_unknown},
};

/// `TMPFS_MAGIC` (include/uapi/linux/magic.h): on a kernel-internal mount it is a memfd.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// The number of `Subject::Exec` among those whose objects begin with paths (`agentguard_common::identity`).
pub const PROGRAM: u32 = 1;

/// `bprm_check_security(bprm)`. Runs once for every file on the way: the script, then its interpreter.
#[lsm(hook = "bprm_check_security")]
pub fn bprm_check_security(ctx: LsmContext) -> i32 {
    guard(Hook::BprmCheckSecurity, |subject| {
        let verb = Verb {
            hook: Hook::BprmCheckSecurity,
            action: Action::Exec,
            kind: Kind::Exec,
            verbs: verb::bit(verb::ONLY),
        };
        let binprm: *const c_void = ctx.arg(0);
        // SAFETY: the task's own map value.
        unsafe { (*subject.state).hold.start = binprm as u64 };
        // SAFETY: the hook's own argument; its file is set before the hook is called.
        let place = unsafe { fs::file_path(task::binprm_file(binprm)) };
        let by_arguments = arguments::matter(subject);
        let subjects = if by_arguments {
            arguments::PATH_SUBJECT
        } else {
            PROGRAM
        };
        let object = program(subject, place, subjects);
        if by_arguments {
            // SAFETY: the hook's own argument.
            return unsafe { arguments::first_look(subject, binprm, object) };
        }
        judge(subject, verb, object)
    })
}

/// `bprm_creds_for_exec(bprm)`. Where a program only asks whether a file may be run, the kernel asks nobody after this
/// hook (fs/exec.c, `bprm_execve`). The answer is that of the file's path: the arguments are the asker's to make up, and
/// are judged when the file is run.
#[lsm(hook = "bprm_creds_for_exec")]
pub fn bprm_creds_for_exec(ctx: LsmContext) -> i32 {
    let binprm: *const c_void = ctx.arg(0);
    // SAFETY: the hook's own argument.
    if unsafe { !task::binprm_is_check(binprm) } {
        return ALLOWED;
    }
    guard(Hook::BprmCredsForExec, |subject| {
        let verb = Verb {
            hook: Hook::BprmCredsForExec,
            action: Action::Exec,
            kind: Kind::Exec,
            verbs: verb::bit(verb::ONLY),
        };
        // SAFETY: the hook's own argument; its file is set before the hook is called.
        let place = unsafe { fs::file_path(task::binprm_file(binprm)) };
        judge(subject, verb, program(subject, place, PROGRAM))
    })
}

/// What is at this place, as an object of rules about programs.
#[inline(always)]
pub fn program(subject: &Subject, place: (u64, u64), path_subject: u32) -> Result<Object, Reason> {
    let object = object::path(
        subject,
        install(subject),
        place,
        path_subject,
        ObjectKind::Path,
    )?;
    let nameless = fs::dentry_inode(place.1).and_then(fs::links_and_magic);
    Ok(match (object.text, nameless) {
        (Text::Internal, Some((_, TMPFS_MAGIC))) => object::pseudo(subject, b"memfd:"),
        // FAIL-CLOSED: some other kernel-internal file, or one whose inode can't be read.
        (Text::Internal, _) | (_, None) => object::pseudo(subject, b"internal:"),
        (_, Some((0, _))) => object::pseudo(subject, b"deleted:"),
        _ => object,
    })
}

/// `bprm_committing_creds(bprm)`. The arguments are the new program's own now, and there is no way back: what they
/// forbid is killed before its first instruction. Sleepable, because they are in its memory. What is read there
/// are pages that the kernel itself filled a moment ago; nobody can make it wait for them.
#[lsm(hook = "bprm_committing_creds", sleepable)]
pub fn bprm_committing_creds(ctx: LsmContext) -> i32 {
    let binprm: *const c_void = ctx.arg(0);
    match subject::current() {
        Who::Nobody => {}
        // SAFETY: the hook's own argument.
        Who::Agent(subject) => unsafe {
            arguments::second_look(&subject, binprm);
            // What the start has used up can't be given back any more.
            (*subject.state).hold.answered_start = 0;
        },
        Who::Unknown(state, reason) => {
            // SAFETY: the task's own map value, when there is one.
            if !state.is_null() && unsafe { arguments::is_waiting(state, binprm) } {
                // FAIL-CLOSED: nobody can say any more what the program may be run with.
                refuse_unknown(Hook::BprmCommittingCreds, state, reason);
                kill();
            }
        }
    }
    0
}

/// `bprm_committed_creds(bprm)`. Gives no verdict: notes the new program's path and arguments for the
/// events of its process. Sleepable, because the arguments are in the new program's memory.
#[lsm(hook = "bprm_committed_creds", sleepable)]
pub fn bprm_committed_creds(ctx: LsmContext) -> i32 {
    // FAIL-OPEN: the hook can't deny; whoever isn't known is denied by the others.
    if let Who::Agent(subject) = subject::current() {
        let bprm: *const c_void = ctx.arg(0);
        // SAFETY: the hook's own argument.
        unsafe {
            note_program(&subject, task::binprm_file(bprm));
            note_arguments(subject.state, bprm);
        }
    }
    0
}

/// # Safety
/// `file` is a `struct file` the verifier knows.
#[inline(always)]
unsafe fn note_program(subject: &Subject, file: *const c_void) {
    // SAFETY: the caller's, and the task's own map value.
    unsafe {
        let process = &mut (*subject.state).process;
        process.exe_bytes = 0;
        process.cut = 0;
        let (vfsmount, dentry) = fs::file_path(file);
        object::climb(subject.state, vfsmount, dentry, PROGRAM);
        let start = core::ptr::read_volatile(&raw const (*subject.state).climb.start);
        if start >= OBJECT_BYTES as u32 {
            return;
        }
        let mut len_bytes = OBJECT_BYTES as u32 - start;
        if len_bytes > EXE_BYTES as u32 {
            len_bytes = EXE_BYTES as u32;
            process.cut |= 1;
        }
        let from = (&raw const (*subject.state).object)
            .cast::<u8>()
            .add((OBJECT_BYTES as u32 - len_bytes) as usize);
        let len_bytes = kernel::bounded::<EXE_BYTES>(len_bytes);
        if kernel::copy((&raw mut process.exe).cast(), len_bytes, from) {
            process.exe_bytes = len_bytes as u16;
        }
    }
}

/// # Safety
/// `bprm` is a `struct linux_binprm` the verifier knows.
#[inline(always)]
unsafe fn note_arguments(state: *mut TaskState, bprm: *const c_void) {
    // SAFETY: the caller's, and the task's own map value.
    unsafe {
        let process = &mut (*state).process;
        process.args_bytes = 0;
        let (begin, end, count) = task::binprm_arguments(bprm);
        // Reading past `exec` could run over the top of the stack and fail whole.
        let mut len_bytes = end.wrapping_sub(begin);
        if len_bytes > ARGS_BYTES as u64 {
            len_bytes = ARGS_BYTES as u64;
            process.cut |= 2;
        }
        if bpf_copy_from_user(
            (&raw mut process.args).cast(),
            kernel::bounded::<ARGS_BYTES>(len_bytes as u32),
            begin as *const c_void,
        ) != 0
        {
            count::failure(Site::ArgumentsRead);
            return;
        }
        // The environment follows the arguments: only the first `count` strings are kept.
        (*state).walk.next = 0;
        (*state).walk.broken = count;
        let mut context = Context { state };
        bpf_loop(
            len_bytes as u32,
            keep_arguments as *mut c_void,
            (&raw mut context).cast(),
            0,
        );
    }
}

/// What the callback is given. VERIFIER: it must be a pointer to the stack.
#[repr(C)]
struct Context {
    state: *mut TaskState,
}

/// Counts strings down (`walk.broken` strings are still wanted) and wipes what comes after the last.
unsafe extern "C" fn keep_arguments(index: u32, context: *mut c_void) -> c_long {
    // SAFETY: `note_arguments` passes a Context with the task's own map value.
    unsafe {
        let state = (*context.cast::<Context>()).state;
        if index >= ARGS_BYTES as u32 {
            return 1;
        }
        let byte = (&raw mut (*state).process.args)
            .cast::<u8>()
            .add(index as usize);
        let wanted = core::ptr::read_volatile(&raw const (*state).walk.broken);
        if wanted == 0 {
            *byte = 0;
            return 0;
        }
        if *byte == 0 {
            (*state).walk.broken = wanted - 1;
        }
        (*state).process.args_bytes = index as u16 + 1;
        0
    }
}
