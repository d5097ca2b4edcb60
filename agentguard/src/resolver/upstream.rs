//! The resolvers that questions are forwarded to, and how they are asked. Ids, ports and the
//! matching of answers are hickory's; what of an answer is used is decided in `message`.

use std::{fmt, future::Future, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use futures_util::future::{Either, select};
use hickory_net::{
    DnsMultiplexer, NetError,
    runtime::{RuntimeProvider, TokioHandle, TokioTime, iocompat::AsyncIoTokioAsStd},
    tcp::TcpClientStream,
    udp::UdpClientStream,
    xfer::{DnsExchange, DnsHandle as _, DnsRequestSender as _, FirstAnswer as _},
};
use hickory_proto::op::{DnsRequest, DnsRequestOptions, Message, ResponseCode};
use tokio::{
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

use super::{
    Failure,
    asked::Asked,
    message::{self, Filtered, Unusable},
};

/// How long all tries may take. The C library asks again after 5 seconds (resolv.conf(5),
/// `timeout`); it is to have an answer before that, or it would ask twice.
const ALL: Duration = Duration::from_millis(4500);
/// How long one resolver has to answer, if each is to have a turn in that time: a name that it has
/// to look up itself takes up to some hundred milliseconds, and more where servers are down.
const PATIENCE: Duration = Duration::from_secs(2);
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
/// How often all are asked when none says anything: datagrams get lost.
const ROUNDS: u32 = 2;

/// Makes the sockets to ask from, where upstream resolvers can be reached: maybe in another network
/// namespace.
///
/// It is called from the tasks of the resolver and must not block for long. Whoever enters a
/// namespace for it has to do that on a thread of its own, not on the runtime's.
pub trait SocketMaker: Send + Sync + 'static {
    /// A datagram socket that is bound to `local`: the unspecified address of `server`'s family,
    /// and a random port.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AddrInUse`] or [`io::ErrorKind::PermissionDenied`] to be called with
    /// another port; others end this try.
    fn udp(&self, local: SocketAddr, server: SocketAddr) -> io::Result<std::net::UdpSocket>;

    /// A stream socket of `server`'s family, not connected yet. (`TcpSocket::new_v4` needs no
    /// runtime.)
    ///
    /// # Errors
    ///
    /// They end this try.
    fn tcp(&self, server: SocketAddr) -> io::Result<TcpSocket>;
}

/// Makes sockets in the network namespace of the thread that it is called on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Here;

impl SocketMaker for Here {
    fn udp(&self, local: SocketAddr, _server: SocketAddr) -> io::Result<std::net::UdpSocket> {
        std::net::UdpSocket::bind(local)
    }

    fn tcp(&self, server: SocketAddr) -> io::Result<TcpSocket> {
        match server {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }
    }
}

/// Upstream resolvers, the preferred one first, and where they are asked from. Cheap to clone.
#[derive(Clone)]
pub struct Upstreams {
    pub servers: Arc<[SocketAddr]>,
    pub sockets: Arc<dyn SocketMaker>,
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Upstreams")
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}

impl Upstreams {
    /// Resolvers that are asked from this network namespace.
    pub fn here(servers: impl Into<Arc<[SocketAddr]>>) -> Self {
        Self {
            servers: servers.into(),
            sockets: Arc::new(Here),
        }
    }

    /// Asks one after the other until one has an answer. The error is that of the last one that
    /// said anything.
    pub(super) async fn ask(&self, asked: &Asked) -> Result<Filtered, Failure> {
        let mut last = Failure::NoAnswer;
        match timeout(ALL, self.ask_all(asked, &mut last)).await {
            Ok(Some(filtered)) => Ok(filtered),
            Ok(None) | Err(_) => Err(last),
        }
    }

    async fn ask_all(&self, asked: &Asked, last: &mut Failure) -> Option<Filtered> {
        let turns = u32::try_from(self.servers.len()).unwrap_or(u32::MAX);
        let patience = (ALL / turns.max(1)).clamp(LEAST_PATIENCE, PATIENCE);
        for _ in 0..ROUNDS {
            for server in self.servers.iter() {
                match self.ask_one(*server, asked, patience).await {
                    Ok(filtered) => return Some(filtered),
                    Err(Failure::NoAnswer) => {}
                    Err(why) => *last = why,
                }
            }
            // Whoever has said something would say it again.
            if *last != Failure::NoAnswer {
                break;
            }
        }
        None
    }

    async fn ask_one(
        &self,
        server: SocketAddr,
        asked: &Asked,
        patience: Duration,
    ) -> Result<Filtered, Failure> {
        let provider = Provider {
            sockets: Arc::clone(&self.sockets),
            handle: TokioHandle::default(),
        };
        let unanswered = |error: NetError| {
            tracing::debug!(%server, "no answer from upstream: {error}");
            match error {
                NetError::Proto(_) => Failure::Unusable(Unusable::Unreadable),
                _ => Failure::NoAnswer,
            }
        };
        let mut response = over_udp(server, asked.forwarded(), patience, provider.clone())
            .await
            .map_err(unanswered)?;
        if response.metadata.truncation {
            let over_tcp = over_tcp(server, asked.forwarded(), patience, provider);
            response = timeout(patience, over_tcp)
                .await
                .map_err(|_| NetError::Timeout)
                .flatten()
                .map_err(unanswered)?;
        }
        match response.metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => {
                message::filter(asked.query(), response).map_err(Failure::Unusable)
            }
            other => Err(Failure::Upstream(other)),
        }
    }
}

async fn over_udp(
    server: SocketAddr,
    message: Message,
    patience: Duration,
    provider: Provider,
) -> Result<Message, NetError> {
    let mut stream = UdpClientStream::builder(server, provider)
        .with_timeout(Some(patience))
        .with_max_retries(1)
        .build();
    let request = DnsRequest::new(message, DnsRequestOptions::default());
    let response = stream.send_message(request).first_answer().await?;
    Ok(response.into_message())
}

/// A connection for one question.
async fn over_tcp(
    server: SocketAddr,
    message: Message,
    patience: Duration,
    provider: Provider,
) -> Result<Message, NetError> {
    let (connecting, handle) = TcpClientStream::new(server, None, Some(patience), provider);
    let multiplexer = DnsMultiplexer::new(connecting.await?, handle).with_timeout(patience);
    let (exchange, connection) = DnsExchange::<Provider>::from_stream(multiplexer);
    let request = DnsRequest::new(message, DnsRequestOptions::default());
    let answer = exchange.send(request).first_answer();
    // Both in this task, so that nothing is left of it when the answer isn't waited for any more.
    let response = match select(answer, connection).await {
        Either::Left((response, _)) => response?,
        Either::Right(((), answer)) => answer.await?,
    };
    Ok(response.into_message())
}

/// Hands hickory the sockets of a [`SocketMaker`].
#[derive(Clone)]
struct Provider {
    sockets: Arc<dyn SocketMaker>,
    /// For what hickory wants to run beside: nothing, as it is used here.
    handle: TokioHandle,
}

type Made<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

impl RuntimeProvider for Provider {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.handle.clone()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        _local: Option<SocketAddr>,
        patience: Option<Duration>,
    ) -> Made<Self::Tcp> {
        let socket = self.sockets.tcp(server);
        Box::pin(async move {
            let connecting = socket?.connect(server);
            let stream = timeout(patience.unwrap_or(PATIENCE), connecting).await??;
            Ok(AsyncIoTokioAsStd(stream))
        })
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Made<Self::Udp> {
        let socket = self.sockets.udp(local, server);
        Box::pin(async move {
            let socket = socket?;
            // hickory advises against it because other systems then don't take an address with a
            // datagram; Linux does. So the kernel drops what comes from elsewhere, and says at once
            // when nobody listens there.
            socket.connect(server)?;
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        })
    }
}
