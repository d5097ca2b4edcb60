//! The sockets of a listener: UDP and TCP on loopback. Nobody waits at them here.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
};

use nix::errno::Errno;

/// How often a port is looked for that is free for all of them.
const ATTEMPTS: usize = 32;

/// UDP and TCP on one address and one port. They don't block.
#[derive(Debug)]
pub struct Ends {
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
    port: u16,
}

impl Ends {
    pub fn port(&self) -> u16 {
        self.port
    }

    fn bind(host: IpAddr, port: u16) -> io::Result<Self> {
        let udp = UdpSocket::bind((host, port))?;
        let port = udp.local_addr()?.port();
        let tcp = TcpListener::bind((host, port))?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { udp, tcp, port })
    }
}

/// The sockets of one listener.
#[derive(Debug)]
pub struct Sockets {
    /// On 127.0.0.1.
    pub v4: Ends,
    /// On `::1`, where there is IPv6: on the port of `v4`, unless none is free on both.
    pub v6: Option<Ends>,
}

impl Sockets {
    /// The addresses that are listened on.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let v6 = self.v6.as_ref();
        std::iter::once(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.v4.port))
            .chain(v6.map(|ends| SocketAddr::new(Ipv6Addr::LOCALHOST.into(), ends.port)))
    }
}

/// Makes sockets on loopback of the network namespace that the calling thread is in. `port` is
/// tried first, then others; 0 for any.
///
/// # Errors
///
/// When 127.0.0.1 can't be bound to (in a new network namespace: before `lo` is up), or no port was
/// free.
pub fn bind_pair(port: u16) -> io::Result<Sockets> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    let mut only_v4 = None;
    for port in std::iter::once(port).chain(std::iter::repeat_n(0, ATTEMPTS)) {
        let v4 = match Ends::bind(Ipv4Addr::LOCALHOST.into(), port) {
            Ok(v4) => v4,
            Err(error) if is_taken(&error) => {
                last = error;
                continue;
            }
            Err(error) => return Err(error),
        };
        match Ends::bind(Ipv6Addr::LOCALHOST.into(), v4.port) {
            Ok(v6) => return Ok(Sockets { v4, v6: Some(v6) }),
            Err(error) if is_without_v6(&error) => return Ok(Sockets { v4, v6: None }),
            // Kept, so that the same port isn't tried again.
            Err(error) if is_taken(&error) => only_v4 = Some(v4),
            Err(error) => return Err(error),
        }
    }
    let v4 = only_v4.ok_or(last)?;
    let v6 = Ends::bind(Ipv6Addr::LOCALHOST.into(), 0)?;
    Ok(Sockets { v4, v6: Some(v6) })
}

/// Whether another port may do: this one belongs to somebody, or only root may have it.
fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
    )
}

/// Whether there is no IPv6 at all: it isn't in the kernel (`ipv6.disable=1`), or has no `::1`
/// (`disable_ipv6`).
fn is_without_v6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udp_and_tcp_have_one_port() {
        let sockets = bind_pair(0).expect("sockets");
        let udp = sockets.v4.udp.local_addr().expect("an address");
        let tcp = sockets.v4.tcp.local_addr().expect("an address");
        assert_eq!(udp, tcp);
        assert_eq!(udp.port(), sockets.v4.port());
        assert_eq!(sockets.addresses().next(), Some(udp));
    }

    #[test]
    fn a_free_port_is_had_and_a_taken_one_replaced() {
        let first = bind_pair(0).expect("sockets");
        let port = first.v4.port();
        let second = bind_pair(port).expect("sockets");
        assert_ne!(second.v4.port(), port);
        drop(first);
        // Nobody else binds to it meanwhile: the kernel gives a port again only after many others.
        assert_eq!(bind_pair(port).expect("sockets").v4.port(), port);
    }

    #[test]
    fn a_port_taken_for_tcp_only_is_taken() {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let port = tcp.local_addr().expect("an address").port();
        assert_ne!(bind_pair(port).expect("sockets").v4.port(), port);
    }
}
