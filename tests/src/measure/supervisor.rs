//! What AgentGuard's questions are compared with: a process that seccomp holds until its supervisor, who is told of each
//! call, lets it go on.

use std::{
    io::{self, BufRead as _, BufReader},
    mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};

use super::{IN_CGROUP, held, operations::now};
use crate::remote::PROGRAM;

/// `AUDIT_ARCH_X86_64`, of include/uapi/linux/audit.h.
const X86_64: u32 = 0xc000_003e;

/// Whoever follows AgentGuard's API is told the path as well; this one gets a pointer into the process.
pub fn told() -> Result<()> {
    let times = held::TIMES.to_string();
    let mut process = Command::new(IN_CGROUP[0])
        .args(&IN_CGROUP[1..])
        .args([PROGRAM, "supervised", &held::path(), &times])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(process.stdout.take().context("no standard output")?);
    let mut listener = String::new();
    lines.read_line(&mut listener)?;
    let id = descriptor(libc::SYS_pidfd_open, [process.id() as usize, 0, 0])?;
    let listener = listener.trim().parse()?;
    let listener = descriptor(
        libc::SYS_pidfd_getfd,
        [id.as_raw_fd() as usize, listener, 0],
    )?;
    let answers = thread::spawn(move || let_go_on(&listener));
    held::compare(
        "from the action to the supervisor's notice",
        "a supervisor, told by seccomp",
        lines,
        answers,
    )?;
    ensure!(process.wait()?.success(), "the process failed");
    Ok(())
}

/// Opens files one after the other, each of which a supervisor is asked about: by the descriptor whose number is said first.
///
/// # Errors
/// When there can't be one, or a file can't be opened.
pub fn supervised(path: &str, count: usize) -> Result<()> {
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    let at = |member: usize| member as u32;
    // SAFETY: these only make values.
    let mut filter = unsafe {
        [
            libc::BPF_STMT(load, at(mem::offset_of!(libc::seccomp_data, arch))),
            libc::BPF_JUMP(equal, X86_64, 0, 3),
            libc::BPF_STMT(load, at(mem::offset_of!(libc::seccomp_data, nr))),
            libc::BPF_JUMP(equal, libc::SYS_openat as u32, 0, 1),
            libc::BPF_STMT(answer, libc::SECCOMP_RET_USER_NOTIF),
            libc::BPF_STMT(answer, libc::SECCOMP_RET_ALLOW),
        ]
    };
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    let listener = descriptor(
        libc::SYS_seccomp,
        [
            libc::SECCOMP_SET_MODE_FILTER as usize,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as usize,
            (&raw const program).addr(),
        ],
    )?;
    println!("{}", listener.as_raw_fd());
    held::moments(path, count)
}

/// Lets every call go on. When each notice came, and when it was answered.
fn let_go_on(listener: &OwnedFd) -> Result<Vec<(u64, u64)>> {
    let mut moments = Vec::new();
    for _ in 0..held::TIMES {
        // SAFETY: every value of its numbers is one.
        let mut notice: libc::seccomp_notif = unsafe { mem::zeroed() };
        ask(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &mut notice)?;
        let told = now();
        let mut answer = libc::seccomp_notif_resp {
            id: notice.id,
            val: 0,
            error: 0,
            flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        };
        let decided = now();
        ask(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &mut answer)?;
        moments.push((told, decided));
    }
    Ok(moments)
}

fn ask<T>(listener: &OwnedFd, request: libc::Ioctl, of: &mut T) -> Result<()> {
    // SAFETY: both requests work on a structure of the kind that they are asked with.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), request, of) };
    ensure!(result == 0, "{}", io::Error::last_os_error());
    Ok(())
}

/// What a system call makes that has a new descriptor for its result.
fn descriptor(call: libc::c_long, arguments: [usize; 3]) -> Result<OwnedFd> {
    let [one, two, three] = arguments;
    // SAFETY: what is pointed to lives as long as the call.
    let fd = unsafe { libc::syscall(call, one, two, three) };
    ensure!(
        fd >= 0,
        "system call {call}: {}",
        io::Error::last_os_error()
    );
    // SAFETY: a new descriptor, nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
