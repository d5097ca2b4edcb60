//! Waits at the sockets of a listener, and sends the answers. What they are isn't known here.
//!
//! hickory-server isn't used: it answers whoever sends, starts a task for every datagram and a
//! connection for everybody without a bound, and takes one question of a connection at a time.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream, UdpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc},
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};

use super::{
    Desk, Protocol, Resolver,
    exchange::Step,
    limits::Permit,
    sockets::{Ends, Sockets},
};

/// Longest question that is read from a datagram, in bytes; of a longer one only the start, which
/// is malformed then.
const QUESTION_BYTES: usize = 4096;
/// Connections at once.
pub(super) const CONNECTIONS: usize = 64;
/// Questions of one connection that wait for an answer at once. When there are as many, no more are
/// read.
const PIPELINED: usize = 64;
/// How long a connection may say nothing, or not take its answers (RFC 7766 section 6.2.3: a few
/// seconds). Every question is answered in half that time.
const IDLE: Duration = Duration::from_secs(10);
/// How long to wait when a socket gives an error (too many open files, no memory), so that one that
/// stays doesn't keep a processor busy.
const PAUSE: Duration = Duration::from_millis(100);

/// Why a listener doesn't answer any more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot wait for questions at listener {listener}: {source}")]
    Socket { listener: u32, source: io::Error },
    #[error("listener {listener} stopped: {source}")]
    Stopped { listener: u32, source: JoinError },
}

pub(super) async fn serve<D: Desk>(
    resolver: &Resolver<D>,
    listener: u32,
    sockets: Sockets,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let register = |ends: Ends| -> io::Result<_> {
        Ok((
            UdpSocket::from_std(ends.udp)?,
            TcpListener::from_std(ends.tcp)?,
        ))
    };
    let mut tasks = JoinSet::new();
    for ends in std::iter::once(sockets.v4).chain(sockets.v6) {
        let (udp, tcp) = register(ends).map_err(|source| Error::Socket { listener, source })?;
        tasks.spawn(datagrams(resolver.clone(), listener, udp));
        tasks.spawn(connections(resolver.clone(), listener, tcp));
    }
    let stopped = tokio::select! {
        () = shutdown => None,
        stopped = tasks.join_next() => stopped,
    };
    tasks.shutdown().await;
    match stopped {
        Some(Err(source)) => Err(Error::Stopped { listener, source }),
        Some(Ok(())) | None => Ok(()),
    }
}

async fn datagrams<D: Desk>(resolver: Resolver<D>, listener: u32, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut answering = JoinSet::new();
    let mut buffer = vec![0; QUESTION_BYTES];
    loop {
        reap(&mut answering);
        let (len, source) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // Somebody didn't wait for an answer: the kernel tells with the next call.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => {
                tracing::warn!(listener, "cannot receive questions: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Some(asker) = resolver.desk.asker(listener, Protocol::Udp, source) else {
            continue;
        };
        match resolver.admit(&asker, &buffer[..len], Protocol::Udp) {
            Step::Silence => {}
            Step::Reply(bytes) => send(&socket, &bytes, source).await,
            Step::Judge(admitted) => {
                let socket = Arc::clone(&socket);
                answering.spawn(async move {
                    if let Some((bytes, _permit)) = admitted.answer().await {
                        send(&socket, &bytes, source).await;
                    }
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, to).await {
        tracing::debug!(%to, "cannot send an answer: {error}");
    }
}

async fn connections<D: Desk>(resolver: Resolver<D>, listener: u32, socket: TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut served = JoinSet::new();
    loop {
        // Whoever comes meanwhile waits in the kernel's queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        reap(&mut served);
        let (stream, source) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(listener, "cannot accept a connection: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Some(asker) = resolver.desk.asker(listener, Protocol::Tcp, source) else {
            continue;
        };
        let resolver = resolver.clone();
        served.spawn(async move {
            let _place = place;
            if let Err(error) = connection(resolver, asker, stream).await {
                tracing::debug!(%source, "a connection ended early: {error}");
            }
        });
    }
}

/// What goes back over a connection.
type Reply = (Vec<u8>, Option<Permit>);

/// Questions are read as they come, and answered as soon as they can be, in any order (RFC 7766
/// section 7).
async fn connection<D: Desk>(
    resolver: Resolver<D>,
    asker: D::Asker,
    stream: TcpStream,
) -> io::Result<()> {
    // Answers are small and wait for nothing.
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    // One at a time: what waits to be written still counts as in flight.
    let (replies, written) = mpsc::channel(1);
    tokio::try_join!(
        questions(resolver, asker, reader, replies),
        answers(writer, written)
    )?;
    Ok(())
}

async fn questions<D: Desk>(
    resolver: Resolver<D>,
    asker: D::Asker,
    mut reader: OwnedReadHalf,
    replies: mpsc::Sender<Reply>,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(PIPELINED));
    let mut answering = JoinSet::new();
    while let Some(bytes) = next(&mut reader).await {
        reap(&mut answering);
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            break;
        };
        match resolver.admit(&asker, &bytes, Protocol::Tcp) {
            Step::Silence => {}
            Step::Reply(bytes) => {
                if replies.send((bytes, None)).await.is_err() {
                    break;
                }
            }
            Step::Judge(admitted) => {
                let replies = replies.clone();
                answering.spawn(async move {
                    let _place = place;
                    if let Some((bytes, permit)) = admitted.answer().await {
                        // Nobody takes it when the connection has ended.
                        let _ = replies.send((bytes, Some(permit))).await;
                    }
                });
            }
        }
    }
    // A client may have said all it wants to say and still wait for its answers.
    while let Some(ended) = answering.join_next().await {
        report(ended);
    }
    Ok(())
}

async fn answers(mut writer: OwnedWriteHalf, mut replies: mpsc::Receiver<Reply>) -> io::Result<()> {
    while let Some((bytes, _permit)) = replies.recv().await {
        let len = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let framed = [&len.to_be_bytes(), bytes.as_slice()].concat();
        timeout(IDLE, writer.write_all(&framed)).await??;
    }
    Ok(())
}

/// The next message of a connection. `None` when there is none any more: it was closed, broke, or
/// said nothing for too long.
async fn next(reader: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let read = async {
        let mut bytes = vec![0; usize::from(reader.read_u16().await?)];
        reader.read_exact(&mut bytes).await?;
        io::Result::Ok(bytes)
    };
    timeout(IDLE, read).await.ok()?.ok()
}

/// Forgets tasks that have ended.
fn reap(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.try_join_next() {
        report(ended);
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("a question was given up: {error}");
    }
}
