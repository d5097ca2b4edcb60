//! A file system whose server has gone silent: it answered until a folder was open, and answers nothing any more, as a
//! network file system does whose server is gone.

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};

// include/uapi/linux/fuse.h
const FUSE_INIT: u32 = 26;
const FUSE_OPENDIR: u32 = 27;
const HEADER_BYTES: usize = 16;
/// `struct fuse_init_out`: the protocol's version, and no more than it needs.
const INIT: [u32; 16] = [7, 31, 0, 0, 0, 4096, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// `struct fuse_open_out`.
const OPENED: [u32; 4] = [1, 0, 0, 0];

/// Unmounted when it is dropped; whoever waits for an answer is told that there is none.
#[derive(Debug)]
pub struct Silent {
    path: PathBuf,
    /// Ends with the connection, which is there as long as that is kept.
    _server: JoinHandle<Result<File>>,
}

impl Silent {
    /// Mounts one on this folder.
    ///
    /// # Errors
    /// When it can't be mounted.
    pub fn mount(path: &Path) -> Result<Self> {
        crate::bench::run("modprobe", &["fuse"])?;
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .context("/dev/fuse")?;
        let target = CString::new(path.as_os_str().as_bytes())?;
        let data = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        let data = CString::new(data)?;
        // SAFETY: strings that live as long as the call.
        let mounted = unsafe {
            libc::mount(
                c"silent".as_ptr(),
                target.as_ptr(),
                c"fuse".as_ptr(),
                0,
                data.as_ptr().cast(),
            )
        };
        if mounted != 0 {
            return Err(io::Error::last_os_error()).context("cannot mount a fuse file system");
        }
        Ok(Self {
            path: path.to_owned(),
            _server: thread::spawn(move || serve(device)),
        })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        if let Ok(target) = CString::new(self.path.as_os_str().as_bytes()) {
            // SAFETY: a string that lives as long as the call.
            unsafe { libc::umount2(target.as_ptr(), libc::MNT_FORCE | libc::MNT_DETACH) };
        }
    }
}

/// Answers until a folder was opened.
fn serve(mut device: File) -> Result<File> {
    let mut request = vec![0; 1 << 16];
    loop {
        let length = device.read(&mut request)?;
        let word = |at: usize| {
            let bytes = request.get(at..at + 4).filter(|_| at + 4 <= length);
            bytes
                .map(|bytes| u32::from_ne_bytes(bytes.try_into().unwrap_or_default()))
                .context("a short request")
        };
        // struct fuse_in_header: length, operation, the request's number.
        let operation = word(4)?;
        let body: &[u32] = match operation {
            FUSE_INIT => &INIT,
            FUSE_OPENDIR => &OPENED,
            // As a server does that doesn't know it.
            _ => &[],
        };
        const ENOSYS: i32 = -38;
        let error = if body.is_empty() { ENOSYS } else { 0 };
        let length = (HEADER_BYTES + 4 * body.len()) as u32;
        let mut answer = [length, error as u32, word(8)?, word(12)?].to_vec();
        answer.extend(body);
        let answer: Vec<u8> = answer.into_iter().flat_map(u32::to_ne_bytes).collect();
        device.write_all(&answer)?;
        if operation == FUSE_OPENDIR {
            return Ok(device);
        }
    }
}
