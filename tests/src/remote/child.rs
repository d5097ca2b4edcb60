//! Processes that a remote makes, in every way there is to make one.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
    thread,
};

use super::{
    Act, Birth, Outcome, Program,
    perform::{self, Prepared, outcome},
};

/// Does `act` in a new process.
pub fn perform(birth: Birth, act: &Act, steps: &[i64]) -> Outcome {
    match (birth, act) {
        (Birth::Vfork, Act::Call { number, arguments }) => {
            let prepared = Prepared::new(*number, arguments, steps);
            in_shared_memory(&mut || prepared.call())
        }
        // Anything more than a call could not be done in memory that belongs to the parent.
        (Birth::Vfork | Birth::Spawn, _) => Outcome::Failed(libc::EINVAL),
        _ => in_own_memory(birth, &mut || perform::perform(act, steps)),
    }
}

/// Runs a program in a new process.
pub fn exec(birth: Birth, program: &Program, arguments: &[Vec<u8>]) -> Outcome {
    let (Some(program), Some(arguments)) = (text_of(program), texts(arguments)) else {
        return Outcome::Failed(libc::EINVAL);
    };
    let mut pointers: Vec<*const libc::c_char> =
        arguments.iter().map(|text| text.as_ptr()).collect();
    pointers.push(ptr::null());
    let environment = [c"PATH=/usr/bin".as_ptr(), ptr::null()];
    if let Birth::Spawn = birth {
        return spawn(&program, &pointers, &environment);
    }
    let mut run = || {
        // SAFETY: both lists end in a null, and what they point to outlives the call.
        let result = unsafe {
            match &program {
                Text::Path(path) => {
                    libc::execve(path.as_ptr(), pointers.as_ptr(), environment.as_ptr()).into()
                }
                Text::Descriptor(fd) => libc::syscall(
                    libc::SYS_execveat,
                    *fd,
                    c"".as_ptr(),
                    pointers.as_ptr(),
                    environment.as_ptr(),
                    libc::AT_EMPTY_PATH,
                ),
            }
        };
        outcome(result)
    };
    match birth {
        Birth::Vfork => in_shared_memory(&mut run),
        _ => in_own_memory(birth, &mut run),
    }
}

/// See [`Act::SwappingExec`].
pub fn swapping_exec(program: &[u8], argument: &[u8], other: &[u8], times: u32) -> Outcome {
    let differs = argument.iter().zip(other).position(|(one, two)| one != two);
    let (Ok(program), Some(at)) = (CString::new(program), differs) else {
        return Outcome::Failed(libc::EINVAL);
    };
    let text: Vec<AtomicU8> = argument
        .iter()
        .chain(&[0])
        .map(|byte| AtomicU8::new(*byte))
        .collect();
    let ends = AtomicBool::new(false);
    let pointers = [program.as_ptr(), text.as_ptr().cast(), ptr::null()];
    let environment: [*const libc::c_char; 1] = [ptr::null()];
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                for byte in [other[at], argument[at]] {
                    text[at].store(byte, Ordering::Relaxed);
                    for _ in 0..200 {
                        std::hint::spin_loop();
                    }
                }
            }
        });
        let mut ran = 0;
        for _ in 0..times {
            let done = in_shared_memory(&mut || {
                // SAFETY: both lists end in a null, and what they point to outlives the call.
                let result = unsafe {
                    libc::execve(program.as_ptr(), pointers.as_ptr(), environment.as_ptr())
                };
                outcome(result.into())
            });
            ran += i64::from(done == Outcome::Done(0));
        }
        ends.store(true, Ordering::Relaxed);
        Outcome::Done(ran)
    })
}

enum Text {
    Path(CString),
    Descriptor(i32),
}

fn text_of(program: &Program) -> Option<Text> {
    Some(match program {
        Program::Path(path) => Text::Path(CString::new(path.clone()).ok()?),
        Program::Descriptor(fd) => Text::Descriptor(*fd),
    })
}

fn texts(arguments: &[Vec<u8>]) -> Option<Vec<CString>> {
    arguments
        .iter()
        .map(|argument| CString::new(argument.clone()).ok())
        .collect()
}

fn spawn(
    program: &Text,
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
) -> Outcome {
    let Text::Path(path) = program else {
        return Outcome::Failed(libc::EINVAL);
    };
    let mut pid = 0;
    // SAFETY: both lists end in a null, and what they point to outlives the call.
    let errno = unsafe {
        libc::posix_spawn(
            &mut pid,
            path.as_ptr(),
            ptr::null(),
            ptr::null(),
            arguments.as_ptr().cast(),
            environment.as_ptr().cast(),
        )
    };
    if errno != 0 {
        return Outcome::Failed(errno);
    }
    wait(pid)
}

/// A child with a copy of the memory: the outcome comes back through a pipe, which a program that is run
/// closes.
fn in_own_memory(birth: Birth, act: &mut dyn FnMut() -> Outcome) -> Outcome {
    let (read, write) = match pipe() {
        Ok(ends) => ends,
        Err(error) => return Outcome::Failed(error.raw_os_error().unwrap_or(libc::EIO)),
    };
    // SAFETY: this process has one thread when it makes children, so that the child has all of it.
    let pid = unsafe {
        match birth {
            Birth::Fork => i64::from(libc::fork()),
            Birth::Clone3 => clone3(0, -1),
            Birth::IntoCgroup(fd) => clone3(CLONE_INTO_CGROUP, fd),
            Birth::Vfork | Birth::Spawn => return Outcome::Failed(libc::EINVAL),
        }
    };
    match pid {
        -1 => outcome(-1),
        0 => {
            let told = serde_json::to_vec(&act()).unwrap_or_default();
            // SAFETY: the bytes are as long as that; `_exit` runs nothing of the parent's.
            unsafe {
                libc::write(write.as_raw_fd(), told.as_ptr().cast(), told.len());
                libc::_exit(0);
            }
        }
        pid => {
            drop(write);
            let told = io::read_to_string(std::fs::File::from(read)).unwrap_or_default();
            let ended = wait(pid as i32);
            if told.is_empty() {
                ended
            } else {
                serde_json::from_str(&told).unwrap_or(Outcome::Failed(libc::EBADMSG))
            }
        }
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, which are nobody else's.
    unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

/// include/uapi/linux/sched.h; the constant of the libc crate is an `int`, which it doesn't fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` (include/uapi/linux/sched.h), its version with a cgroup.
#[repr(C)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// # Safety
/// As for `fork`.
unsafe fn clone3(flags: u64, cgroup: i32) -> i64 {
    let arguments = CloneArgs {
        flags,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.max(0) as u64,
    };
    // SAFETY: the caller's; the structure is as long as it says.
    unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<CloneArgs>(),
        )
    }
}

/// What the child that shares memory is given.
struct Shared<'a> {
    act: &'a mut dyn FnMut() -> Outcome,
    outcome: Option<Outcome>,
}

extern "C" fn run_shared(shared: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `in_shared_memory` passes its own, and waits.
    let shared = unsafe { &mut *shared.cast::<Shared<'_>>() };
    shared.outcome = Some((shared.act)());
    0
}

/// A child like that of `vfork`, on a stack of its own as `posix_spawn` gives it.
pub fn in_shared_memory(act: &mut dyn FnMut() -> Outcome) -> Outcome {
    let mut shared = Shared { act, outcome: None };
    let mut stack = vec![0_u128; 16 << 10];
    // SAFETY: the stack grows down from its end; this thread stands still until the child has ended or
    // runs a program, so that the memory is the child's alone.
    let pid = unsafe {
        libc::clone(
            run_shared,
            stack.as_mut_ptr().add(stack.len()).cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw mut shared).cast(),
        )
    };
    if pid == -1 {
        return outcome(-1);
    }
    let ended = wait(pid);
    shared.outcome.unwrap_or(ended)
}

/// The end of a child.
fn wait(pid: i32) -> Outcome {
    let mut status = 0;
    // SAFETY: room for one status.
    while unsafe { libc::waitpid(pid, &mut status, 0) } == -1 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Outcome::Failed(error.raw_os_error().unwrap_or(libc::EIO));
        }
    }
    if libc::WIFSIGNALED(status) {
        Outcome::Killed(libc::WTERMSIG(status))
    } else {
        Outcome::Done(i64::from(libc::WEXITSTATUS(status)))
    }
}
