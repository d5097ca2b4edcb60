//! What is measured: a process does one thing again and again, and says what it cost. It is the same process whatever it
//! is under.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::bench::run_well;

/// Rounds until two agree.
const ROUNDS: u32 = 60;
/// Two rounds agree when they differ by this part at most.
const AGREE: f64 = 0.005;

/// The clock, in nanoseconds: instructions, in a guest that counts them.
pub fn now() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// What this process has used of the processor, in the same unit: what the kernel still does for itself after its boot is
/// not in it.
pub fn used() -> u64 {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes to what it is given.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The same, and what the children have used that have ended.
fn used_by_all() -> u64 {
    let usage = usage(libc::RUSAGE_CHILDREN);
    let nanoseconds =
        |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
    used() + nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime)
}

/// What the kernel says of this process (`RUSAGE_SELF`), or of its children that have ended (`RUSAGE_CHILDREN`).
pub fn usage(who: libc::c_int) -> libc::rusage {
    let mut usage = std::mem::MaybeUninit::zeroed();
    // SAFETY: the call writes to what it is given, and every value of its numbers is one.
    unsafe {
        libc::getrusage(who, usage.as_mut_ptr());
        usage.assume_init()
    }
}

/// Does something until two rounds agree, and prints what it costs, in instructions.
///
/// # Errors
/// When it can't be done, or no two rounds agree.
pub fn run(what: &[&str]) -> Result<()> {
    let cost = match *what {
        ["open", path] => of_this(2000, || {
            fs::File::open(path)?;
            Ok(())
        })?,
        ["create", folder] => {
            let path = Path::new(folder).join("new");
            of_this(500, || {
                fs::File::create_new(&path)?;
                Ok(fs::remove_file(&path)?)
            })?
        }
        ["rename", folder] => {
            let (one, other) = (Path::new(folder).join("one"), Path::new(folder).join("two"));
            fs::write(&one, "")?;
            let to_and_fro = of_this(300, || {
                fs::rename(&one, &other)?;
                Ok(fs::rename(&other, &one)?)
            })?;
            to_and_fro / 2.0
        }
        ["stat", path] => of_this(2000, || {
            fs::metadata(path)?;
            Ok(())
        })?,
        ["read", path] => {
            use std::os::unix::fs::FileExt as _;
            let file = fs::File::open(path)?;
            of_this(2000, || {
                file.read_at(&mut [0; 16], 0)?;
                Ok(())
            })?
        }
        ["write", folder] => {
            use std::os::unix::fs::FileExt as _;
            let file = fs::File::create(Path::new(folder).join("written"))?;
            of_this(2000, || {
                file.write_at(&[0; 16], 0)?;
                Ok(())
            })?
        }
        ["tcp-connect", to] => {
            let to = address(to)?;
            of_this(200, || {
                let stream = TcpStream::connect(to)?;
                // Without it every port would be waiting for stragglers before long.
                let linger = libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                // SAFETY: the option's own value.
                let result = unsafe {
                    libc::setsockopt(
                        stream.as_raw_fd(),
                        libc::SOL_SOCKET,
                        libc::SO_LINGER,
                        (&raw const linger).cast(),
                        size_of_val(&linger) as u32,
                    )
                };
                ensure!(result == 0, "{}", std::io::Error::last_os_error());
                Ok(())
            })?
        }
        ["udp-connect", to] => {
            let (socket, to) = datagrams(to)?;
            of_this(2000, || Ok(socket.connect(to)?))?
        }
        ["udp-send", to] => {
            let (socket, to) = datagrams(to)?;
            of_this(500, || {
                socket.send_to(&[0; 16], to)?;
                Ok(())
            })?
        }
        ["udp-send-connected", to] => {
            let (socket, to) = datagrams(to)?;
            socket.connect(to)?;
            of_this(500, || {
                socket.send(&[0; 16])?;
                Ok(())
            })?
        }
        ["unix-connect", path] => of_this(500, || {
            UnixStream::connect(path)?;
            Ok(())
        })?,
        ["fork"] => of_all(100, || {
            // SAFETY: the child does nothing but end.
            match unsafe { libc::fork() } {
                // SAFETY: never comes back.
                0 => unsafe { libc::_exit(0) },
                child => wait_for(child),
            }
        })?,
        ["exec", program] => of_all(50, || {
            let mut command = Command::new(program);
            let status = command.stdin(Stdio::null()).status()?;
            ensure!(status.success(), "{program}: {status}");
            Ok(())
        })?,
        ["pipe"] => {
            let mut echo = Command::new("cat")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let mut there = echo.stdin.take().context("no pipe")?;
            let mut back = echo.stdout.take().context("no pipe")?;
            // Of both, and whatever else runs.
            let cost = until_two_agree(now, 500, || {
                there.write_all(b"x")?;
                Ok(back.read_exact(&mut [0])?)
            })?;
            drop(there);
            echo.wait()?;
            cost
        }
        ["command", folder, program, ..] => of_all(1, || {
            let mut command = Command::new(program);
            command.args(&what[3..]).current_dir(folder);
            let output = command.stdin(Stdio::null()).output()?;
            ensure!(output.status.success(), "{program}: {output:?}");
            Ok(())
        })?,
        // Not what it costs, but the most memory that it ever had, in KiB.
        ["memory", program, ..] => {
            run_well(program, &what[2..])?;
            usage(libc::RUSAGE_CHILDREN).ru_maxrss as f64
        }
        _ => bail!("nothing that is measured: {what:?}"),
    };
    println!("{cost:.0}");
    Ok(())
}

/// A datagram socket, and the address that something has, or has by name.
pub fn datagrams(to: &str) -> Result<(UdpSocket, SocketAddr)> {
    Ok((UdpSocket::bind("0.0.0.0:0")?, address(to)?))
}

fn address(of: &str) -> Result<SocketAddr> {
    let mut addresses = of.to_socket_addrs()?;
    addresses.next().context("the name has no address")
}

fn wait_for(child: i32) -> Result<()> {
    let mut status = 0;
    // SAFETY: the call writes to what it is given.
    let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
    ensure!(ended == child && status == 0, "the child failed: {status}");
    Ok(())
}

/// What one of `count` costs this process.
fn of_this(count: u32, act: impl FnMut() -> Result<()>) -> Result<f64> {
    until_two_agree(used, count, act)
}

/// What one of `count` costs this process and those that it starts.
fn of_all(count: u32, act: impl FnMut() -> Result<()>) -> Result<f64> {
    until_two_agree(used_by_all, count, act)
}

/// The cheaper of the first two rounds, one after the other, that agree.
fn until_two_agree(
    clock: fn() -> u64,
    count: u32,
    mut act: impl FnMut() -> Result<()>,
) -> Result<f64> {
    let mut before = 0_f64;
    for _ in 0..ROUNDS {
        let begin = clock();
        for _ in 0..count {
            act()?;
        }
        let cost = (clock() - begin) as f64 / f64::from(count);
        if (cost - before).abs() <= before * AGREE {
            return Ok(cost.min(before));
        }
        before = cost;
    }
    bail!("of {ROUNDS} rounds no two agree within {AGREE}");
}
