//! The internet sockets that an agent's processes have open, and how one of them is disconnected. Found through the
//! processes' descriptors, so that it makes no difference in which network namespace they are, nor what the kernel
//! was built with. A socket that is on its way from one process to another isn't found; its packets don't leave.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::{
    net::{
        AddressFamily, SocketAddrAny, getpeername, getsockname,
        sockopt::{socket_acceptconn, socket_domain, socket_protocol},
    },
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::super::super::policy::Destination;

/// A connected socket.
pub struct Connected {
    socket: OwnedFd,
    /// The protocol and the far end.
    pub to: Destination,
    /// A peer began it: the agent listens on its port.
    pub from_peer: bool,
}

/// The connected internet sockets of these processes.
pub fn connected(processes: impl IntoIterator<Item = u32>) -> Vec<Connected> {
    let mut sockets = BTreeMap::new();
    for pid in processes {
        // A process that is gone has none.
        let _ = sockets_of(pid, &mut sockets);
    }
    let port = |socket: &OwnedFd| Some(internet(getsockname(socket).ok()?)?.port());
    let listening: BTreeSet<u16> = sockets
        .values()
        .filter(|socket| socket_acceptconn(socket).unwrap_or(false))
        .filter_map(port)
        .collect();
    sockets
        .into_values()
        .filter_map(|socket| {
            let protocol = socket_protocol(&socket).ok()??.as_raw().get();
            let far = internet(getpeername(&socket).ok()??)?;
            Some(Connected {
                to: Destination::Inet {
                    protocol: u8::try_from(protocol).ok().or(
                        // Its packets and its rules are TCP's.
                        (protocol == libc::IPPROTO_MPTCP as u32).then_some(libc::IPPROTO_TCP as u8),
                    )?,
                    address: far.ip().to_canonical(),
                    port: far.port(),
                },
                from_peer: port(&socket).is_some_and(|port| listening.contains(&port)),
                socket,
            })
        })
        .collect()
}

/// Descriptors of a process's internet sockets, by their inode: one may have many.
fn sockets_of(pid: u32, sockets: &mut BTreeMap<u64, OwnedFd>) -> io::Result<()> {
    let Some(number) = Pid::from_raw(pid as i32) else {
        return Ok(());
    };
    let pidfd = pidfd_open(number, PidfdFlags::empty())?;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let inode = fs::read_link(entry.path()).ok().and_then(|target| {
            let inode = target.to_str()?.strip_prefix("socket:[")?;
            inode.strip_suffix(']')?.parse::<u64>().ok()
        });
        let fd = entry.file_name().to_str().and_then(|fd| fd.parse().ok());
        let (Some(inode), Some(fd)) = (inode, fd) else {
            continue;
        };
        if sockets.contains_key(&inode) {
            continue;
        }
        // It may be closed, and another one by now, which is looked at itself.
        let Ok(socket) = pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty()) else {
            continue;
        };
        let is_internet = matches!(
            socket_domain(&socket),
            Ok(AddressFamily::INET | AddressFamily::INET6)
        );
        if is_internet {
            sockets.insert(inode, socket);
        }
    }
    Ok(())
}

fn internet(address: impl TryInto<SocketAddrAny>) -> Option<SocketAddr> {
    SocketAddr::try_from(address.try_into().ok()?).ok()
}

impl Connected {
    /// Ends the connection at once: a stream is reset, and its process gets `ECONNRESET`; a datagram socket forgets its
    /// peer (connect(2), `AF_UNSPEC`).
    pub fn end(&self) -> io::Result<()> {
        rustix::net::connect_unspec(self.socket.as_fd()).map_err(io::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        net::{TcpListener, TcpStream, UdpSocket},
    };

    use super::*;

    #[test]
    fn own_connections_are_found_and_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listening");
        let there = listener.local_addr().expect("an address");
        let mut stream = TcpStream::connect(there).expect("connected");
        let (mut accepted, from) = listener.accept().expect("accepted");
        let datagrams = UdpSocket::bind("[::1]:0").expect("bound");
        datagrams.connect("[::1]:9").expect("connected");

        let found = connected([std::process::id()]);
        let to = |address: SocketAddr, protocol| {
            let wanted = Destination::Inet {
                protocol,
                address: address.ip(),
                port: address.port(),
            };
            found.iter().find(move |socket| socket.to == wanted)
        };
        assert!(to(from, 6).expect("the accepted one").from_peer);
        assert!(to("[::1]:9".parse().expect("an address"), 17).is_some());
        let own = to(there, 6).expect("the connected one");
        assert!(!own.from_peer);
        own.end().expect("ended");
        let mut byte = [0];
        let error = stream.read(&mut byte).map_err(|error| error.kind());
        assert!(matches!(
            error,
            Ok(0) | Err(io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected)
        ));
        let error = accepted.read(&mut byte).map_err(|error| error.kind());
        assert_eq!(error, Err(io::ErrorKind::ConnectionReset));
    }
}
