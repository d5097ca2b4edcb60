//! The resolvers that questions are forwarded to.

use std::{future::Future, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use hickory_net::{
    runtime::{RuntimeProvider, TokioHandle, TokioTime, iocompat::AsyncIoTokioAsStd},
    tcp::TcpClientStream,
    udp::UdpClientStream,
    xfer::{DnsExchange, DnsHandle as _, FirstAnswer as _},
};
use hickory_proto::op::{DnsRequest, DnsRequestOptions, Message, ResponseCode};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::message::Asked;

/// How long one of them has to answer. A client of them waits 5 seconds (resolv.conf(5), `timeout`), and is to have an
/// answer before it asks again.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How often each is asked.
const ROUNDS: usize = 2;
/// How long all of it may take.
const ALL: Duration = Duration::from_millis(4500);

/// Where sockets are made, if not where this program is.
pub trait Place: Send + Sync + 'static {
    /// A datagram socket on this local address.
    fn udp(&self, local: SocketAddr) -> io::Result<std::net::UdpSocket>;
    /// A stream socket that isn't connected, of the family of this address.
    fn tcp(&self, to: SocketAddr) -> io::Result<std::net::TcpStream>;
}

/// Resolvers, the first one first, and where they are asked from.
#[derive(Clone)]
pub struct Upstreams {
    pub servers: Vec<SocketAddr>,
    pub place: Option<Arc<dyn Place>>,
}

impl Upstreams {
    /// Asks one after the other until one has an answer. Where none has, what the last one said instead; `None` when none
    /// said anything.
    pub async fn ask(&self, asked: &Asked) -> Option<Message> {
        let mut last = None;
        // What was said before it takes too long counts.
        let _ = tokio::time::timeout(ALL, self.ask_all(asked, &mut last)).await;
        last
    }

    async fn ask_all(&self, asked: &Asked, last: &mut Option<Message>) {
        for _ in 0..ROUNDS {
            for server in &self.servers {
                let Some(response) = self.ask_one(*server, asked).await else {
                    continue;
                };
                let is_final = is_final(&response);
                *last = Some(response);
                if is_final {
                    return;
                }
            }
            if last.is_some() {
                // It would say the same again.
                return;
            }
        }
    }

    async fn ask_one(&self, server: SocketAddr, asked: &Asked) -> Option<Message> {
        let provider = Provider {
            handle: TokioHandle::default(),
            place: self.place.clone(),
        };
        let exchange = UdpClientStream::builder(server, provider.clone())
            .with_timeout(Some(PATIENCE))
            .with_max_retries(1)
            .exchange();
        let response = send(exchange, asked).await?;
        if !response.metadata.truncation {
            return Some(response);
        }
        // What runs beside an exchange ends with the last handle of the provider.
        let exchange =
            TcpClientStream::exchange(server, None, PATIENCE, None, provider.clone()).await;
        send(exchange.ok()?, asked).await
    }
}

async fn send(exchange: DnsExchange<Provider>, asked: &Asked) -> Option<Message> {
    let request = DnsRequest::new(asked.forwarded(), DnsRequestOptions::default());
    let response = exchange.send(request).first_answer().await.ok()?;
    Some(response.into_message())
}

/// Whether another resolver would not say something else.
fn is_final(response: &Message) -> bool {
    matches!(
        response.metadata.response_code,
        ResponseCode::NoError | ResponseCode::NXDomain
    )
}

/// Sockets of tokio, made in another place.
#[derive(Clone)]
struct Provider {
    handle: TokioHandle,
    place: Option<Arc<dyn Place>>,
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
        let place = self.place.clone();
        Box::pin(async move {
            let socket = match place {
                Some(place) => {
                    let socket = place.tcp(server)?;
                    socket.set_nonblocking(true)?;
                    TcpSocket::from_std_stream(socket)
                }
                None if server.is_ipv4() => TcpSocket::new_v4()?,
                None => TcpSocket::new_v6()?,
            };
            let connected = socket.connect(server);
            let stream = tokio::time::timeout(patience.unwrap_or(PATIENCE), connected).await??;
            Ok(AsyncIoTokioAsStd(stream))
        })
    }

    fn bind_udp(&self, local: SocketAddr, _server: SocketAddr) -> Made<Self::Udp> {
        let place = self.place.clone();
        Box::pin(async move {
            match place {
                Some(place) => {
                    let socket = place.udp(local)?;
                    socket.set_nonblocking(true)?;
                    UdpSocket::from_std(socket)
                }
                None => UdpSocket::bind(local).await,
            }
        })
    }
}
