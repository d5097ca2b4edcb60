//! Calls that threads of one process make on one socket at the same time.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::Outcome;

/// See [`Act::RacingConnects`](super::Act::RacingConnects).
pub fn racing_connects(local: &[u8], to: &[u8], other: &[u8], times: u32) -> Outcome {
    let connect = |fd: i32, address: &[u8]| {
        // SAFETY: the address is as long as it says.
        unsafe { libc::connect(fd, address.as_ptr().cast(), address.len() as u32) }
    };
    // SAFETY: the address is as long as it says.
    let fd = unsafe {
        let fd = libc::socket(
            libc::AF_INET,
            libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            0,
        );
        if libc::bind(fd, local.as_ptr().cast(), local.len() as u32) != 0
            || libc::listen(fd, 1) != 0
        {
            return Outcome::Failed(std::io::Error::last_os_error().raw_os_error().unwrap_or(0));
        }
        fd
    };
    let ends = AtomicBool::new(false);
    let connected = thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                connect(fd, other);
            }
        });
        let mut connected = 0;
        for _ in 0..times {
            connect(fd, &[0; 16]);
            connect(fd, to);
            connected += i64::from(is_connected(fd));
        }
        ends.store(true, Ordering::Relaxed);
        connected
    });
    // SAFETY: nobody else uses it any more.
    unsafe { libc::close(fd) };
    Outcome::Done(connected)
}

/// Whether the socket has a peer, now or within some milliseconds.
fn is_connected(fd: i32) -> bool {
    let mut wanted = libc::pollfd {
        fd,
        events: libc::POLLOUT,
        revents: 0,
    };
    let mut address = [0_u8; 128];
    let mut len = address.len() as u32;
    // SAFETY: both are as long as they say.
    unsafe {
        libc::poll(&raw mut wanted, 1, 5);
        libc::getpeername(fd, address.as_mut_ptr().cast(), &raw mut len) == 0
    }
}
