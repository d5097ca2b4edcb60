//! Memory that is there for the kernel's own look and gone for the next one. See
//! [`Act::KeptBackExec`](super::Act::KeptBackExec).

use std::{ffi::CString, io, ptr, thread};

use super::{Outcome, child::in_shared_memory, perform::outcome};

const PAGE: usize = 4096;

/// `UFFDIO_COPY` and its structure (include/uapi/linux/userfaultfd.h).
const UFFDIO_COPY: u64 = 0xc028_aa03;

#[repr(C)]
struct Copy {
    to: u64,
    from: u64,
    len_bytes: u64,
    mode: u64,
    copied: i64,
}

/// Puts a page with `text` at its start where `uffd` watches.
fn bring(uffd: i32, page: usize, text: &[u8]) -> io::Result<()> {
    // UFFDIO_COPY wants whole pages.
    let mut source = vec![0_u8; 2 * PAGE];
    let at = source.as_ptr().align_offset(PAGE);
    source[at..at + text.len()].copy_from_slice(text);
    let mut copy = Copy {
        to: page as u64,
        from: source[at..].as_ptr() as u64,
        len_bytes: PAGE as u64,
        mode: 0,
        copied: 0,
    };
    // SAFETY: the structure and the source are as long as they say; the page is the case's.
    match unsafe { libc::ioctl(uffd, UFFDIO_COPY, &raw mut copy) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits until somebody waits for the page, and reads that.
fn awaited(uffd: i32) -> io::Result<()> {
    // struct uffd_msg
    let mut message = [0_u8; 32];
    let mut wanted = libc::pollfd {
        fd: uffd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: both are as long as they say.
    let read = unsafe {
        libc::poll(&raw mut wanted, 1, 10_000);
        libc::read(uffd, message.as_mut_ptr().cast(), message.len())
    };
    match read {
        32 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub fn exec(uffd: i32, pages: i64, program: &[u8], argument: &[u8]) -> Outcome {
    let (Ok(path), Ok(argument)) = (CString::new(program), CString::new(argument)) else {
        return Outcome::Failed(libc::EINVAL);
    };
    let (name, second) = (pages as usize, pages as usize + PAGE);
    let failed =
        |error: io::Error| Outcome::Failed(error.raw_os_error().unwrap_or(libc::ENOTRECOVERABLE));
    if let Err(error) = bring(uffd, second, argument.as_bytes_with_nul()) {
        return failed(error);
    }
    let list = [
        name as *const libc::c_char,
        second as *const libc::c_char,
        ptr::null(),
    ];
    let environment: [*const libc::c_char; 1] = [ptr::null()];
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            awaited(uffd)?;
            // SAFETY: the page is the case's own.
            if unsafe { libc::madvise(second as *mut _, PAGE, libc::MADV_DONTNEED) } != 0 {
                return Err(io::Error::last_os_error());
            }
            bring(uffd, name, path.as_bytes_with_nul())
        });
        let done = in_shared_memory(&mut || {
            // SAFETY: both lists end in a null, and what they point to outlives the call.
            let result =
                unsafe { libc::execve(path.as_ptr(), list.as_ptr(), environment.as_ptr()) };
            outcome(result.into())
        });
        match other.join() {
            Ok(Ok(())) => done,
            Ok(Err(error)) => failed(error),
            Err(_) => Outcome::Failed(libc::ENOTRECOVERABLE),
        }
    })
}
