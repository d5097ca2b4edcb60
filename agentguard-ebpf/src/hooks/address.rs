//! Programs of each agent's cgroup on calls with an internet address: what the LSM hook before let pass because it can't
//! look sockets up (`own`) or can't change an address (`resolver`).

use agentguard_common::counter::Hook;
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{own, resolver};

/// `cgroup/connect4` on a tagged cgroup.
#[cgroup_sock_addr(connect4)]
pub fn cgroup_connect4(ctx: SockAddrContext) -> i32 {
    outbound::<false>(&ctx, Hook::CgroupConnect4)
}

/// `cgroup/connect6` on a tagged cgroup.
#[cgroup_sock_addr(connect6)]
pub fn cgroup_connect6(ctx: SockAddrContext) -> i32 {
    outbound::<true>(&ctx, Hook::CgroupConnect6)
}

/// `cgroup/sendmsg4` on a tagged cgroup: UDP with an address of its own.
#[cgroup_sock_addr(sendmsg4)]
pub fn cgroup_sendmsg4(ctx: SockAddrContext) -> i32 {
    outbound::<false>(&ctx, Hook::CgroupSendmsg4)
}

/// `cgroup/sendmsg6` on a tagged cgroup.
#[cgroup_sock_addr(sendmsg6)]
pub fn cgroup_sendmsg6(ctx: SockAddrContext) -> i32 {
    outbound::<true>(&ctx, Hook::CgroupSendmsg6)
}

/// `cgroup/recvmsg4` on a tagged cgroup: where a datagram is said to come from.
#[cgroup_sock_addr(recvmsg4)]
pub fn cgroup_recvmsg4(ctx: SockAddrContext) -> i32 {
    resolver::put_back::<false>(ctx.sock_addr)
}

/// `cgroup/recvmsg6` on a tagged cgroup, also for IPv4 on a socket of IPv6.
#[cgroup_sock_addr(recvmsg6)]
pub fn cgroup_recvmsg6(ctx: SockAddrContext) -> i32 {
    resolver::put_back::<true>(ctx.sock_addr)
}

/// `cgroup/getpeername4` on a tagged cgroup.
#[cgroup_sock_addr(getpeername4)]
pub fn cgroup_getpeername4(ctx: SockAddrContext) -> i32 {
    resolver::put_back::<false>(ctx.sock_addr)
}

/// `cgroup/getpeername6` on a tagged cgroup.
#[cgroup_sock_addr(getpeername6)]
pub fn cgroup_getpeername6(ctx: SockAddrContext) -> i32 {
    resolver::put_back::<true>(ctx.sock_addr)
}

#[inline(always)]
fn outbound<const V6: bool>(ctx: &SockAddrContext, hook: Hook) -> i32 {
    match resolver::redirect::<V6>(ctx.sock_addr, hook) {
        Some(verdict) => verdict,
        None => own::judge::<V6>(ctx.sock_addr, hook),
    }
}
