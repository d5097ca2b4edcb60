//! What the tests share: messages, a fake upstream resolver, a desk that remembers, and a client.
//! No tests.

use std::{
    net::SocketAddr,
    str::FromStr as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use hickory_proto::{
    op::{Message, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::CNAME},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use super::super::{
    Answer, Desk, Failure, Judgement, Protocol, Question, Resolver, ServeError, Unreleased,
    Upstreams, bind_pair,
};

/// Longer than anything here takes.
pub const LONG: Duration = Duration::from_secs(30);

pub fn name(text: &str) -> Name {
    Name::from_str(text).expect("a name")
}

pub fn question(text: &str, record_type: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), record_type));
    message
}

pub fn a(owner: &str, ttl: u32, address: &str) -> Record {
    let data = RData::A(address.parse().expect("an address"));
    Record::from_rdata(name(owner), ttl, data)
}

pub fn aaaa(owner: &str, ttl: u32, address: &str) -> Record {
    let data = RData::AAAA(address.parse().expect("an address"));
    Record::from_rdata(name(owner), ttl, data)
}

pub fn alias(owner: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
}

/// A response to `question` with these answers.
pub fn response(question: &Message, answers: Vec<Record>) -> Message {
    let mut message = Message::response(question.metadata.id, OpCode::Query);
    message.metadata.recursion_desired = question.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message.add_queries(question.queries.clone());
    message.add_answers(answers);
    message
}

/// A response to `question` without answers.
pub fn says(question: &Message, response_code: ResponseCode) -> Message {
    let mut message = response(question, Vec::new());
    message.metadata.response_code = response_code;
    message
}

pub fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().expect("encoded")
}

/// Something that answers like a resolver, on one port of UDP and TCP.
pub struct Upstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<(Protocol, Message)>>>,
    _tasks: JoinSet<()>,
}

impl Upstream {
    /// Answers every question with these messages, one after the other.
    pub fn start(
        script: impl Fn(Protocol, &Message) -> Vec<Message> + Send + Sync + 'static,
    ) -> Self {
        Self::start_raw(move |protocol, question| {
            script(protocol, question).iter().map(bytes).collect()
        })
    }

    pub fn start_raw(
        script: impl Fn(Protocol, &Message) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let ends = bind_pair(0).expect("sockets").v4;
        let address = ends.udp.local_addr().expect("an address");
        let udp = UdpSocket::from_std(ends.udp).expect("registered");
        let tcp = TcpListener::from_std(ends.tcp).expect("registered");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let script = Arc::new(move |protocol, bytes: &[u8]| {
            let question = Message::from_vec(bytes).expect("a question");
            noted
                .lock()
                .expect("lock")
                .push((protocol, question.clone()));
            script(protocol, &question)
        });
        let mut tasks = JoinSet::new();
        let answers = Arc::clone(&script);
        tasks.spawn(async move {
            let mut buffer = vec![0; 65_535];
            loop {
                let (len, source) = udp.recv_from(&mut buffer).await.expect("received");
                for answer in answers(Protocol::Udp, &buffer[..len]) {
                    udp.send_to(&answer, source).await.expect("sent");
                }
            }
        });
        tasks.spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.expect("accepted");
                let question = read(&mut stream).await.expect("a question");
                for answer in script(Protocol::Tcp, &question) {
                    write(&mut stream, &answer).await;
                }
            }
        });
        Self {
            address,
            seen,
            _tasks: tasks,
        }
    }

    /// What was asked so far.
    pub fn seen(&self) -> Vec<(Protocol, Message)> {
        self.seen.lock().expect("lock").clone()
    }

    pub fn upstreams(&self) -> Upstreams {
        Upstreams::here([self.address])
    }
}

/// What a desk was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Asker(Protocol),
    Judged(Question),
    Released(Question, Answer),
    Failed(Option<Question>, Failure),
}

/// Forwards everything but names under `refused.`, for everybody but those at listener [`UNKNOWN`].
pub struct TestDesk {
    pub upstreams: Upstreams,
    /// Nothing can be written down.
    pub is_full: bool,
    told: watch::Sender<Vec<Told>>,
}

pub const UNKNOWN: u32 = 7;
/// At this listener the desk panics.
pub const PANICS: u32 = 8;

impl TestDesk {
    pub fn new(upstreams: Upstreams) -> Self {
        Self {
            upstreams,
            is_full: false,
            told: watch::Sender::default(),
        }
    }

    pub fn told(&self) -> Vec<Told> {
        self.told.borrow().clone()
    }

    pub fn released(&self) -> Vec<Answer> {
        let told = self.told().into_iter();
        told.filter_map(|told| match told {
            Told::Released(_, answer) => Some(answer),
            _ => None,
        })
        .collect()
    }

    /// How many it was asked about.
    pub fn askers(&self) -> usize {
        let is_asker = |told: &&Told| matches!(told, Told::Asker(_));
        self.told.borrow().iter().filter(is_asker).count()
    }

    pub fn failures(&self) -> Vec<Failure> {
        let told = self.told().into_iter();
        told.filter_map(|told| match told {
            Told::Failed(_, why) => Some(why),
            _ => None,
        })
        .collect()
    }

    /// Waits until what was told is as it should be.
    pub async fn until(&self, is: impl Fn(&[Told]) -> bool) {
        let mut told = self.told.subscribe();
        timeout(LONG, told.wait_for(|told| is(told)))
            .await
            .expect("in time")
            .expect("a desk");
    }

    fn note(&self, told: Told) {
        self.told.send_modify(|all| all.push(told));
    }
}

impl Desk for TestDesk {
    type Asker = u64;

    fn asker(&self, listener: u32, protocol: Protocol, source: SocketAddr) -> Option<u64> {
        assert!(source.ip().is_loopback());
        assert_ne!(listener, PANICS, "as this test wants it");
        self.note(Told::Asker(protocol));
        (listener != UNKNOWN).then_some(listener.into())
    }

    fn key(&self, asker: &u64) -> u64 {
        *asker
    }

    fn judge(&self, _asker: &u64, question: &Question) -> Judgement {
        self.note(Told::Judged(question.clone()));
        match question.labels().last() {
            Some(b"refused") => Judgement::Refuse,
            _ => Judgement::Forward(self.upstreams.clone()),
        }
    }

    fn release(
        &self,
        _asker: &u64,
        question: &Question,
        answer: &Answer,
    ) -> Result<(), Unreleased> {
        self.note(Told::Released(question.clone(), answer.clone()));
        if self.is_full {
            Err(Unreleased)
        } else {
            Ok(())
        }
    }

    fn failed(&self, _asker: &u64, question: Option<&Question>, why: Failure) {
        self.note(Told::Failed(question.cloned(), why));
    }
}

/// A resolver that runs, and the desk that it works for.
pub struct Running {
    pub desk: Arc<TestDesk>,
    pub addresses: Vec<SocketAddr>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    pub fn start(upstreams: Upstreams) -> Self {
        Self::with(TestDesk::new(upstreams), 1)
    }

    pub fn with(desk: TestDesk, listener: u32) -> Self {
        let desk = Arc::new(desk);
        let sockets = bind_pair(0).expect("sockets");
        let addresses = sockets.addresses().collect();
        let resolver = Resolver::new(Arc::clone(&desk));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            resolver.serve(listener, sockets, shutdown).await
        });
        Self {
            desk,
            addresses,
            stop,
            task,
        }
    }

    /// How it ended by itself.
    pub async fn ended(self) -> Result<(), ServeError> {
        let ended = timeout(LONG, self.task).await.expect("in time");
        ended.expect("no panic")
    }

    pub async fn stop(self) -> Result<(), ServeError> {
        drop(self.stop);
        self.task.await.expect("no panic")
    }

    /// Asks over UDP.
    pub async fn ask(&self, question: &Message) -> Message {
        self.ask_bytes(&bytes(question)).await
    }

    pub async fn ask_bytes(&self, bytes: &[u8]) -> Message {
        let socket = self.udp().await;
        socket.send(bytes).await.expect("sent");
        receive(&socket).await.0
    }

    pub async fn udp(&self) -> UdpSocket {
        udp(self.addresses[0]).await
    }

    pub async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.addresses[0])
            .await
            .expect("connected")
    }
}

pub async fn udp(to: SocketAddr) -> UdpSocket {
    let local = if to.is_ipv4() {
        "127.0.0.1:0"
    } else {
        "[::1]:0"
    };
    let socket = UdpSocket::bind(local).await.expect("a socket");
    socket.connect(to).await.expect("connected");
    socket
}

/// The next datagram, as a message and its length in bytes.
pub async fn receive(socket: &UdpSocket) -> (Message, usize) {
    let mut buffer = vec![0; 65_535];
    let len = timeout(LONG, socket.recv(&mut buffer))
        .await
        .expect("in time")
        .expect("received");
    (Message::from_vec(&buffer[..len]).expect("a message"), len)
}

/// The next message of a connection; `None` at its end.
pub async fn read(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let read = async {
        let mut bytes = vec![0; usize::from(stream.read_u16().await.ok()?)];
        stream.read_exact(&mut bytes).await.ok()?;
        Some(bytes)
    };
    timeout(LONG, read).await.expect("in time")
}

pub async fn write(stream: &mut TcpStream, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).expect("no longer");
    let framed = [&len.to_be_bytes(), bytes].concat();
    stream.write_all(&framed).await.expect("written");
}
