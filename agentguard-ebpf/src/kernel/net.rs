//! Sockets, messages and socket addresses.

use aya_ebpf::cty::c_void;

use super::{direct, offsets, probe};

pub const AF_UNSPEC: u16 = 0;
pub const AF_UNIX: u16 = 1;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
pub const AF_NETLINK: u16 = 16;
pub const AF_PACKET: u16 = 17;
pub const AF_VSOCK: u16 = 40;

pub const SOCK_STREAM: i16 = 1;
pub const SOCK_DGRAM: i16 = 2;
pub const SOCK_RAW: i16 = 3;
pub const SOCK_SEQPACKET: i16 = 5;

pub const IPPROTO_ICMP: u8 = 1;
pub const IPPROTO_TCP: u8 = 6;
pub const IPPROTO_UDP: u8 = 17;
pub const IPPROTO_ICMPV6: u8 = 58;
pub const IPPROTO_SCTP: u8 = 132;
/// Beyond a byte; its packets and its rules are TCP's.
pub const IPPROTO_MPTCP: u16 = 262;

/// `socket.sk`.
///
/// # Safety
/// `socket` is a `struct socket` the verifier knows.
#[inline(always)]
pub unsafe fn sk(socket: *const c_void) -> *const c_void {
    // SAFETY: the caller's.
    unsafe { direct(socket, offsets().socket_sk) }
}

/// Whether the socket is the kernel's own: every other one has a file by the time that anybody can use it
/// (net/socket.c, `sock_alloc_file`).
///
/// # Safety
/// `socket` is a `struct socket` the verifier knows.
#[inline(always)]
pub unsafe fn is_kernels(socket: *const c_void) -> bool {
    // SAFETY: the caller's.
    unsafe { direct::<u64>(socket, offsets().socket_file) == 0 }
}

/// `socket.type`: `SOCK_STREAM`, `SOCK_DGRAM`, ...
///
/// # Safety
/// `socket` is a `struct socket` the verifier knows.
#[inline(always)]
pub unsafe fn socket_type(socket: *const c_void) -> i16 {
    // SAFETY: the caller's.
    unsafe { direct(socket, offsets().socket_type) }
}

/// `sock.__sk_common.skc_family`.
///
/// # Safety
/// `sk` is a `struct sock` the verifier knows, not null.
#[inline(always)]
pub unsafe fn family(sk: *const c_void) -> u16 {
    // SAFETY: the caller's.
    unsafe { direct(sk, offsets().sock_common_skc_family) }
}

/// The socket's protocol as rules name it: MPTCP is TCP.
///
/// # Safety
/// `sk` is a `struct sock` the verifier knows, not null.
#[inline(always)]
pub unsafe fn protocol(sk: *const c_void) -> u8 {
    // SAFETY: the caller's.
    let protocol: u16 = unsafe { direct(sk, offsets().sock_sk_protocol) };
    if protocol == IPPROTO_MPTCP {
        IPPROTO_TCP
    } else {
        protocol as u8
    }
}

/// Whether it is an MPTCP socket, whose connections the kernel makes by sockets of its own.
///
/// # Safety
/// `sk` is a `struct sock` the verifier knows, not null.
#[inline(always)]
pub unsafe fn is_mptcp(sk: *const c_void) -> bool {
    // SAFETY: the caller's.
    unsafe { direct::<u16>(sk, offsets().sock_sk_protocol) == IPPROTO_MPTCP }
}

/// Local port, in host order.
///
/// # Safety
/// `sk` is a `struct sock` the verifier knows, not null.
#[inline(always)]
pub unsafe fn local_port(sk: *const c_void) -> u16 {
    // SAFETY: the caller's.
    unsafe { direct(sk, offsets().sock_common_skc_num) }
}

/// Local IPv4 address of an `AF_INET` socket.
#[inline(always)]
pub fn local_v4(sk: *const c_void) -> Option<[u8; 4]> {
    probe(sk as u64, offsets().sock_common_skc_rcv_saddr)
}

/// Local IPv6 address of an `AF_INET6` socket.
#[inline(always)]
pub fn local_v6(sk: *const c_void) -> Option<[u8; 16]> {
    probe(sk as u64, offsets().sock_common_skc_v6_rcv_saddr)
}

/// `msghdr.msg_name`, `msg_namelen` and `msg_flags`.
///
/// # Safety
/// `message` is a `struct msghdr` the verifier knows.
#[inline(always)]
pub unsafe fn message(message: *const c_void) -> (u64, i32, u32) {
    let o = offsets();
    // SAFETY: the caller's.
    unsafe {
        (
            direct(message, o.msghdr_msg_name),
            direct(message, o.msghdr_msg_namelen),
            direct(message, o.msghdr_msg_flags),
        )
    }
}

/// Whether the kernel would let a TCP socket listen (net/ipv4/af_inet.c, `__inet_listen_sk`): it is closed or does already.
#[inline(always)]
pub fn may_listen(sk: *const c_void) -> bool {
    // include/net/tcp_states.h
    const CLOSE: u8 = 7;
    const LISTEN: u8 = 10;
    let state = probe::<u8>(sk as u64, offsets().sock_common_skc_state);
    matches!(state, Some(CLOSE | LISTEN))
}

/// Whether a TCP socket has begun to connect and is not connected yet.
#[inline(always)]
pub fn is_connecting(sk: *const c_void) -> bool {
    // include/net/tcp_states.h
    const SYN_SENT: u8 = 2;
    probe::<u8>(sk as u64, offsets().sock_common_skc_state) == Some(SYN_SENT)
}

/// `unix_sock.path` as mount and directory entry; both 0 when the socket has no path.
#[inline(always)]
pub fn unix_path(sk: *const c_void) -> Option<(u64, u64)> {
    let o = offsets();
    Some((
        probe(sk as u64, o.unix_sock_path + o.path_mnt)?,
        probe(sk as u64, o.unix_sock_path + o.path_dentry)?,
    ))
}

/// Length of the socket's bound address and where its `sun_path` is; length 0 when it has none.
#[inline(always)]
pub fn unix_name(sk: *const c_void) -> Option<(u32, u64)> {
    let o = offsets();
    let address: u64 = probe(sk as u64, o.unix_sock_addr)?;
    if address == 0 {
        return Some((0, 0));
    }
    let len: u32 = probe(address, o.unix_address_len)?;
    // `sun_path` comes after the two bytes of `sun_family`.
    Some((
        len.saturating_sub(2),
        address.wrapping_add(o.unix_address_name as u64 + 2),
    ))
}
