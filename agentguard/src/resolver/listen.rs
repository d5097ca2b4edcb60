//! The sockets on which questions come, and who waits at them.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket, tcp::OwnedReadHalf},
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
};

use super::{Desk, Transport, Work};

/// Longest message (RFC 1035 section 4.2.2).
const MESSAGE_BYTES: usize = 65_535;
/// Connections of one listener at once.
const CONNECTIONS: usize = 64;
/// Questions of one connection that wait for an answer at once.
const PIPELINED: usize = 64;
/// How long a connection may say nothing (RFC 7766 section 6.2.3: seconds).
const IDLE: Duration = Duration::from_secs(10);
/// How long to wait when a socket can't be read, so that an error that stays doesn't keep a processor busy.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a port is looked for that is free for all of them.
const ATTEMPTS: usize = 32;

/// Sockets on one address.
struct Ends {
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
    port: u16,
}

/// Sockets on 127.0.0.1 and, where there is IPv6, on `::1`.
pub struct Pair {
    v4: Ends,
    v6: Option<Ends>,
}

impl Pair {
    pub fn port_v4(&self) -> u16 {
        self.v4.port
    }

    pub fn port_v6(&self) -> Option<u16> {
        self.v6.as_ref().map(|ends| ends.port)
    }
}

/// Makes sockets on loopback of the current network namespace, on `port` if that is free.
///
/// # Errors
///
/// When there is no loopback to be bound to.
pub fn bind(port: u16) -> io::Result<Pair> {
    let v4 = bind_one(Ipv4Addr::LOCALHOST.into(), port)?;
    let v6 = match bind_one(Ipv6Addr::LOCALHOST.into(), v4.port) {
        Ok(ends) => Some(ends),
        // Without IPv6 nobody asks over it.
        Err(error) => {
            tracing::debug!("no resolver on ::1: {error}");
            None
        }
    };
    Ok(Pair { v4, v6 })
}

fn bind_one(host: std::net::IpAddr, wanted: u16) -> io::Result<Ends> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in std::iter::once(wanted).chain(std::iter::repeat_n(0, ATTEMPTS)) {
        let made = std::net::UdpSocket::bind(SocketAddr::new(host, port)).and_then(|udp| {
            let address = udp.local_addr()?;
            let tcp = std::net::TcpListener::bind(address)?;
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            Ok(Ends {
                udp,
                tcp,
                port: address.port(),
            })
        });
        match made {
            Ok(ends) => return Ok(ends),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Answers at the sockets until `stop` is dropped.
pub(super) fn serve<D: Desk>(
    number: u32,
    pair: Pair,
    work: Arc<Work<D>>,
    stop: oneshot::Receiver<()>,
) -> io::Result<()> {
    let mut tasks = JoinSet::new();
    for ends in [Some(pair.v4), pair.v6].into_iter().flatten() {
        let udp = UdpSocket::from_std(ends.udp)?;
        let tcp = TcpListener::from_std(ends.tcp)?;
        tasks.spawn(datagrams(number, udp, Arc::clone(&work)));
        tasks.spawn(connections(number, tcp, Arc::clone(&work)));
    }
    tokio::spawn(async move {
        // Dropped, never sent.
        let _ = stop.await;
        tasks.shutdown().await;
    });
    Ok(())
}

async fn datagrams<D: Desk>(number: u32, socket: UdpSocket, work: Arc<Work<D>>) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; MESSAGE_BYTES];
    let mut answering = JoinSet::new();
    loop {
        while answering.try_join_next().is_some() {}
        let (len, source) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // Of an answer that nobody waited for.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => {
                tracing::warn!("cannot receive questions: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(asker) = work.desk.asker(number, Transport::Udp, source) else {
            continue;
        };
        let bytes = buffer[..len].to_vec();
        let (work, socket) = (Arc::clone(&work), Arc::clone(&socket));
        answering.spawn(async move {
            if let Some(answer) = work.answer(&asker, &bytes, Transport::Udp).await {
                // It may have gone.
                let _ = socket.send_to(&answer, source).await;
            }
        });
    }
}

async fn connections<D: Desk>(number: u32, listener: TcpListener, work: Arc<Work<D>>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut served = JoinSet::new();
    loop {
        while served.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (stream, source) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept a connection with questions: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(asker) = work.desk.asker(number, Transport::Tcp, source) else {
            continue;
        };
        let work = Arc::clone(&work);
        served.spawn(async move {
            let _place = place;
            // Whoever breaks a connection knows why.
            let _ = connection(stream, asker, work).await;
        });
    }
}

/// One connection: questions are read as they come, and answered as soon as they can be (RFC 7766 section 7).
async fn connection<D: Desk>(
    stream: TcpStream,
    asker: D::Asker,
    work: Arc<Work<D>>,
) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let (answers, mut answered) = mpsc::channel::<Vec<u8>>(PIPELINED);
    let places = Arc::new(Semaphore::new(PIPELINED));
    let read = async move {
        let mut answering = JoinSet::new();
        // It ends with the connection, or with its silence.
        while let Some(bytes) = message(&mut reader).await {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                break;
            };
            let (work, asker, answers) = (Arc::clone(&work), asker.clone(), answers.clone());
            answering.spawn(async move {
                let _place = place;
                if let Some(answer) = work.answer(&asker, &bytes, Transport::Tcp).await {
                    let _ = answers.send(answer).await;
                }
            });
            while answering.try_join_next().is_some() {}
        }
        while answering.join_next().await.is_some() {}
        Ok::<(), io::Error>(())
    };
    let write = async move {
        while let Some(answer) = answered.recv().await {
            let len = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let mut framed = len.to_be_bytes().to_vec();
            framed.extend_from_slice(&answer);
            tokio::time::timeout(IDLE, writer.write_all(&framed)).await??;
        }
        Ok(())
    };
    tokio::try_join!(read, write)?;
    Ok(())
}

/// The next message of a connection; `None` when there is none any more.
async fn message(reader: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut len = [0; 2];
    tokio::time::timeout(IDLE, reader.read_exact(&mut len))
        .await
        .ok()?
        .ok()?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(len))];
    tokio::time::timeout(IDLE, reader.read_exact(&mut bytes))
        .await
        .ok()?
        .ok()?;
    Some(bytes)
}
