//! Socket options that would send what was judged somewhere else. Options per message don't come by here;
//! the second lock drops what they make.

use agentguard_common::{
    counter::Hook,
    event::{Action, Reason},
};
use aya_ebpf::{macros::lsm, programs::LsmContext};

use super::socket::refuse;
use crate::verdict::{ALLOWED, guard};

const IPPROTO_IP: i32 = 0;
/// Source routes, among others (include/uapi/linux/in.h).
const IP_OPTIONS: i32 = 4;

const IPPROTO_IPV6: i32 = 41;
/// include/uapi/linux/ipv6.h and in6.h.
const IPV6_2292RTHDR: i32 = 5;
const IPV6_2292PKTOPTIONS: i32 = 6;
const IPV6_HOPOPTS: i32 = 54;
const IPV6_RTHDRDSTOPTS: i32 = 55;
const IPV6_RTHDR: i32 = 57;
const IPV6_DSTOPTS: i32 = 59;

/// include/uapi/linux/sctp.h.
const SCTP_SOCKOPT_BINDX_ADD: i32 = 100;
const SCTP_SOCKOPT_CONNECTX: i32 = 110;

/// `socket_setsockopt(sock, level, optname)`: options that put a route or extension headers into every packet.
#[lsm(hook = "socket_setsockopt")]
pub fn socket_setsockopt(ctx: LsmContext) -> i32 {
    let (level, option): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let routes = match level {
        IPPROTO_IP => option == IP_OPTIONS,
        IPPROTO_IPV6 => matches!(
            option,
            IPV6_2292RTHDR
                | IPV6_2292PKTOPTIONS
                | IPV6_HOPOPTS
                | IPV6_RTHDRDSTOPTS
                | IPV6_RTHDR
                | IPV6_DSTOPTS
        ),
        _ => false,
    };
    if !routes {
        return ALLOWED;
    }
    guard(Hook::SocketSetsockopt, |subject| {
        refuse(
            subject,
            Hook::SocketSetsockopt,
            Action::NetSend,
            Reason::SourceRouted,
        )
    })
}

/// `sctp_bind_connect(sk, optname, address, addrlen)`: calls with many addresses at once, of which nothing but
/// this hook would be asked. Others that come by here were judged when they were called, or are a peer's
/// wishes, in whose packets an agent's task is merely interrupted.
#[lsm(hook = "sctp_bind_connect")]
pub fn sctp_bind_connect(ctx: LsmContext) -> i32 {
    let option: i32 = ctx.arg(1);
    if option != SCTP_SOCKOPT_BINDX_ADD && option != SCTP_SOCKOPT_CONNECTX {
        return ALLOWED;
    }
    guard(Hook::SctpBindConnect, |subject| {
        refuse(
            subject,
            Hook::SctpBindConnect,
            Action::NetConnect,
            Reason::AddressUnreadable,
        )
    })
}
