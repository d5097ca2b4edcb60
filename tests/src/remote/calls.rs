//! The system calls that cases have made, under the names that people know, and the addresses they take.

use std::{
    net::{IpAddr, SocketAddr},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use super::{Act, Arg, Birth, Program};

impl From<i64> for Arg {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<i32> for Arg {
    fn from(number: i32) -> Self {
        Self::Int(number.into())
    }
}

impl From<usize> for Arg {
    fn from(number: usize) -> Self {
        Self::Int(number as i64)
    }
}

impl From<&Path> for Arg {
    /// A string that ends in a NUL.
    fn from(path: &Path) -> Self {
        let mut bytes = path.as_os_str().as_bytes().to_vec();
        bytes.push(0);
        Self::Bytes(bytes)
    }
}

impl From<&str> for Arg {
    fn from(text: &str) -> Self {
        Path::new(text).into()
    }
}

/// A descriptor: a number, or a step of the sequence.
pub fn call<const N: usize>(number: i64, arguments: [Arg; N]) -> Act {
    Act::Call {
        number,
        arguments: arguments.to_vec(),
    }
}

/// The numbers of 32-bit calls (arch/x86/entry/syscalls/syscall_32.tbl).
pub mod number_32 {
    pub const OPEN: i64 = 5;
    pub const EXECVE: i64 = 11;
    pub const UNLINK: i64 = 10;
    pub const IOCTL: i64 = 54;
    pub const SOCKETCALL: i64 = 102;
    pub const SOCKET: i64 = 359;
    pub const BIND: i64 = 361;
    pub const CONNECT: i64 = 362;
    pub const LISTEN: i64 = 363;
    pub const SENDTO: i64 = 369;
}

/// A 32-bit call.
pub fn call_32<const N: usize>(number: i64, arguments: [Arg; N]) -> Act {
    Act::Call32 {
        number,
        arguments: arguments.to_vec(),
    }
}

/// Runs a program in a child by the 32-bit call, with `argv[0]` and `arguments`.
pub fn exec_32(program: impl AsRef<Path>, arguments: &[&str]) -> Act {
    let path = program.as_ref();
    let texts: Vec<Arg> = std::iter::once(Arg::from(path))
        .chain(arguments.iter().map(|text| Arg::from(*text)))
        .collect();
    let list = Arg::Struct {
        bytes: vec![0; 4 * (texts.len() + 1)],
        pointers: texts
            .into_iter()
            .enumerate()
            .map(|(at, text)| (4 * at, text))
            .collect(),
    };
    let environment = Arg::Bytes(vec![0; 4]);
    forked(call_32(number_32::EXECVE, [path.into(), list, environment]))
}

/// `openat` from the working directory, mode 0600.
pub fn open(path: impl AsRef<Path>, flags: i32) -> Act {
    open_at(libc::AT_FDCWD, path, flags)
}

/// `openat` from `directory`, mode 0600.
pub fn open_at(directory: impl Into<Arg>, path: impl AsRef<Path>, flags: i32) -> Act {
    call(
        libc::SYS_openat,
        [
            directory.into(),
            path.as_ref().into(),
            flags.into(),
            0o600.into(),
        ],
    )
}

pub fn close(fd: impl Into<Arg>) -> Act {
    call(libc::SYS_close, [fd.into()])
}

/// Reads a few bytes.
pub fn read(fd: impl Into<Arg>) -> Act {
    call(
        libc::SYS_read,
        [fd.into(), Arg::Bytes(vec![0; 64]), 64.into()],
    )
}

pub fn write(fd: impl Into<Arg>, text: &str) -> Act {
    let bytes = text.as_bytes().to_vec();
    let length = bytes.len();
    call(
        libc::SYS_write,
        [fd.into(), Arg::Bytes(bytes), length.into()],
    )
}

/// Calls on one path.
pub fn on_path<const N: usize>(number: i64, path: impl AsRef<Path>, more: [i64; N]) -> Act {
    let mut arguments = vec![Arg::from(path.as_ref())];
    arguments.extend(more.map(Arg::Int));
    Act::Call { number, arguments }
}

pub fn mkdir(path: impl AsRef<Path>) -> Act {
    on_path(libc::SYS_mkdir, path, [0o700])
}

pub fn chdir(path: impl AsRef<Path>) -> Act {
    on_path(libc::SYS_chdir, path, [])
}

pub fn unlink(path: impl AsRef<Path>) -> Act {
    on_path(libc::SYS_unlink, path, [])
}

/// Calls on two paths: `rename`, `link`, `symlink`.
pub fn on_paths(number: i64, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Act {
    call(number, [from.as_ref().into(), to.as_ref().into()])
}

/// In a child made by `fork`.
pub fn forked(act: Act) -> Act {
    child(Birth::Fork, act)
}

pub fn child(birth: Birth, act: Act) -> Act {
    Act::Child {
        birth,
        act: Box::new(act),
    }
}

/// Runs a program in a child, with `argv[0]` and `arguments`.
pub fn exec(birth: Birth, program: impl AsRef<Path>, arguments: &[&str]) -> Act {
    let path = program.as_ref().as_os_str().as_bytes().to_vec();
    let mut all = vec![path.clone()];
    all.extend(arguments.iter().map(|text| text.as_bytes().to_vec()));
    Act::Exec {
        birth,
        program: Program::Path(path),
        arguments: all,
    }
}

/// `socket`, close-on-exec.
pub fn socket(family: i32, kind: i32, protocol: i32) -> Act {
    call(
        libc::SYS_socket,
        [
            family.into(),
            (kind | libc::SOCK_CLOEXEC).into(),
            protocol.into(),
        ],
    )
}

/// A socket of the address's family.
pub fn socket_for(address: SocketAddr, kind: i32) -> Act {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    socket(family, kind, 0)
}

/// `connect`, `bind`: calls with a socket and an address.
pub fn to_address(number: i64, fd: impl Into<Arg>, address: Vec<u8>) -> Act {
    let length = address.len();
    call(number, [fd.into(), Arg::Bytes(address), length.into()])
}

pub fn connect(fd: impl Into<Arg>, address: Vec<u8>) -> Act {
    to_address(libc::SYS_connect, fd, address)
}

pub fn bind(fd: impl Into<Arg>, address: Vec<u8>) -> Act {
    to_address(libc::SYS_bind, fd, address)
}

pub fn listen(fd: impl Into<Arg>) -> Act {
    call(libc::SYS_listen, [fd.into(), 8.into()])
}

pub fn accept(fd: impl Into<Arg>) -> Act {
    call(
        libc::SYS_accept4,
        [fd.into(), 0.into(), 0.into(), libc::SOCK_CLOEXEC.into()],
    )
}

/// `sendto` of a few bytes.
pub fn send_to(fd: impl Into<Arg>, address: Vec<u8>, flags: i32) -> Act {
    let length = address.len();
    call(
        libc::SYS_sendto,
        [
            fd.into(),
            Arg::Bytes(b"ping".to_vec()),
            4.into(),
            (flags | libc::MSG_NOSIGNAL).into(),
            Arg::Bytes(address),
            length.into(),
        ],
    )
}

/// `send` of a few bytes.
pub fn send(fd: impl Into<Arg>) -> Act {
    call(
        libc::SYS_sendto,
        [
            fd.into(),
            Arg::Bytes(b"ping".to_vec()),
            4.into(),
            libc::MSG_NOSIGNAL.into(),
            0.into(),
            0.into(),
        ],
    )
}

/// Receives the datagram that is there; EAGAIN when none is.
pub fn receive(fd: impl Into<Arg>) -> Act {
    received(fd, libc::MSG_DONTWAIT)
}

/// `recv` of a datagram.
pub fn received(fd: impl Into<Arg>, flags: i32) -> Act {
    const ROOM: usize = 8192;
    call(
        libc::SYS_recvfrom,
        [
            fd.into(),
            Arg::Bytes(vec![0; ROOM]),
            ROOM.into(),
            flags.into(),
            0.into(),
            0.into(),
        ],
    )
}

/// `sendmmsg` of one datagram to each address.
pub fn send_many(fd: impl Into<Arg>, addresses: &[Vec<u8>]) -> Act {
    // struct mmsghdr on 64 bits: name, namelen, iov, iovlen, control, controllen, flags, sent length.
    const SIZE: usize = 64;
    let mut bytes = vec![0; SIZE * addresses.len()];
    let mut pointers = Vec::new();
    for (number, address) in addresses.iter().enumerate() {
        let at = number * SIZE;
        pointers.push((at, Arg::Bytes(address.clone())));
        bytes[at + 8..at + 12].copy_from_slice(&(address.len() as u32).to_ne_bytes());
        let part = Arg::Struct {
            bytes: [[0; 8], 4_u64.to_ne_bytes()].concat(),
            pointers: vec![(0, Arg::Bytes(b"ping".to_vec()))],
        };
        pointers.push((at + 16, part));
        bytes[at + 24..at + 32].copy_from_slice(&1_u64.to_ne_bytes());
    }
    call(
        libc::SYS_sendmmsg,
        [
            fd.into(),
            Arg::Struct { bytes, pointers },
            addresses.len().into(),
            libc::MSG_NOSIGNAL.into(),
        ],
    )
}

pub fn set_option(fd: impl Into<Arg>, level: i32, name: i32, value: &[u8]) -> Act {
    call(
        libc::SYS_setsockopt,
        [
            fd.into(),
            level.into(),
            name.into(),
            Arg::Bytes(value.to_vec()),
            value.len().into(),
        ],
    )
}

/// `struct sockaddr_in` or `sockaddr_in6`.
pub fn internet(address: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::new();
    let family = match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    bytes.extend((family as u16).to_ne_bytes());
    bytes.extend(address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.extend(ip.octets());
            bytes.extend([0; 8]);
        }
        IpAddr::V6(ip) => {
            bytes.extend([0; 4]);
            bytes.extend(ip.octets());
            bytes.extend([0; 4]);
        }
    }
    bytes
}

/// The address written `10.0.0.1:80` or `[::1]:80`.
///
/// # Panics
/// When it isn't one: addresses stand in the cases.
pub fn at(text: &str) -> SocketAddr {
    match text.parse() {
        Ok(address) => address,
        Err(error) => panic!("{text}: {error}"),
    }
}

/// `struct sockaddr_un` of a path, or of an abstract name that begins with `@`.
pub fn unix(name: impl AsRef<Path>) -> Vec<u8> {
    let name = name.as_ref().as_os_str().as_bytes();
    let mut bytes = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    match name.split_first() {
        Some((b'@', rest)) => {
            bytes.push(0);
            bytes.extend(rest);
        }
        _ => {
            bytes.extend(name);
            bytes.push(0);
        }
    }
    bytes
}

/// `sendmsg` of a few bytes to an address, with one control message.
pub fn send_with_control(
    fd: impl Into<Arg>,
    address: Vec<u8>,
    (level, kind): (i32, i32),
    data: &[u8],
) -> Act {
    // struct cmsghdr on 64 bits: its own length, level, type; the data is padded to 8 bytes.
    let mut control = (16 + data.len() as u64).to_ne_bytes().to_vec();
    control.extend(level.to_ne_bytes());
    control.extend(kind.to_ne_bytes());
    control.extend(data);
    control.resize(control.len().next_multiple_of(8), 0);
    // struct msghdr: name, namelen, iov, iovlen, control, controllen, flags.
    let mut bytes = vec![0; 56];
    bytes[8..12].copy_from_slice(&(address.len() as u32).to_ne_bytes());
    bytes[24..32].copy_from_slice(&1_u64.to_ne_bytes());
    bytes[40..48].copy_from_slice(&(control.len() as u64).to_ne_bytes());
    let part = Arg::Struct {
        bytes: [[0; 8], 4_u64.to_ne_bytes()].concat(),
        pointers: vec![(0, Arg::Bytes(b"ping".to_vec()))],
    };
    let pointers = vec![
        (0, Arg::Bytes(address)),
        (16, part),
        (32, Arg::Bytes(control)),
    ];
    call(
        libc::SYS_sendmsg,
        [
            fd.into(),
            Arg::Struct { bytes, pointers },
            libc::MSG_NOSIGNAL.into(),
        ],
    )
}

/// `struct sockaddr_vm`.
pub fn vsock(cid: u32, port: u32) -> Vec<u8> {
    let mut bytes = (libc::AF_VSOCK as u16).to_ne_bytes().to_vec();
    bytes.extend([0; 2]);
    bytes.extend(port.to_ne_bytes());
    bytes.extend(cid.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes
}
