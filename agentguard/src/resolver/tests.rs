use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    str::FromStr as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, TXT},
    },
};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::oneshot,
};

use super::{message::Asked, *};

const PATIENCE: Duration = Duration::from_secs(20);

fn name(text: &str) -> Name {
    Name::from_str(text).expect("a name")
}

fn question_for(text: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(name(text), kind));
    message.metadata.recursion_desired = true;
    message
}

fn a(owner: &str, ttl: u32, address: [u8; 4]) -> Record {
    Record::from_rdata(
        name(owner),
        ttl,
        RData::A(A::from(std::net::Ipv4Addr::from(address))),
    )
}

fn alias(owner: &str, ttl: u32, to: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(to))))
}

fn answer_to(question: &Message, records: Vec<Record>) -> Message {
    let mut message = Message::response(question.metadata.id, OpCode::Query);
    message.add_query(question.queries[0].clone());
    message.add_answers(records);
    message
}

fn asked(message: Message) -> Asked {
    Asked::new(message).unwrap_or_else(|refused| panic!("refused: {}", refused.response))
}

#[test]
fn only_addresses_on_the_chain_count_each_with_the_shortest_lifetime() {
    let question = question_for("a.example.", RecordType::A);
    let response = answer_to(
        &question,
        vec![
            alias("a.example.", 300, "b.example."),
            a("evil.example.", 300, [203, 0, 113, 6]),
            a("c.example.", 600, [203, 0, 113, 7]),
            alias("b.example.", 20, "C.example."),
            alias("other.example.", 20, "a.example."),
        ],
    );
    let (released, answer) = asked(question).filter(response).expect("an answer");
    assert_eq!(answer.addresses, [(IpAddr::from([203, 0, 113, 7]), 20)]);
    assert_eq!(released.answers.len(), 3);
}

#[test]
fn what_is_no_chain_is_no_answer() {
    for records in [
        vec![
            alias("a.example.", 1, "b.example."),
            alias("a.example.", 1, "c.example."),
        ],
        vec![
            alias("a.example.", 1, "b.example."),
            alias("b.example.", 1, "a.example."),
        ],
        (0..20)
            .map(|number| alias(&format!("n{number}."), 1, &format!("n{}.", number + 1)))
            .chain([alias("a.example.", 1, "n0.")])
            .collect(),
    ] {
        let question = question_for("a.example.", RecordType::A);
        let response = answer_to(&question, records);
        assert!(asked(question).filter(response).is_none());
    }
}

#[test]
fn an_answer_to_something_else_is_none() {
    let question = question_for("a.example.", RecordType::A);
    let record = || vec![a("a.example.", 1, [203, 0, 113, 7])];
    let mut wrong = answer_to(&question_for("b.example.", RecordType::A), record());
    assert!(asked(question.clone()).filter(wrong).is_none());
    wrong = answer_to(&question, record());
    wrong.metadata.message_type = MessageType::Query;
    assert!(asked(question.clone()).filter(wrong).is_none());
    wrong = answer_to(&question, record());
    wrong.add_query(question.queries[0].clone());
    assert!(asked(question).filter(wrong).is_none());
}

#[test]
fn addresses_beside_the_answer_are_left_out() {
    let question = question_for("a.example.", RecordType::MX);
    let mut response = answer_to(&question, Vec::new());
    response.add_additional(a("mail.example.", 1, [203, 0, 113, 7]));
    response.add_authority(a("ns.example.", 1, [203, 0, 113, 8]));
    let (released, answer) = asked(question).filter(response).expect("an answer");
    assert!(released.additionals.is_empty() && released.authorities.is_empty());
    assert!(answer.addresses.is_empty());
}

#[test]
fn what_is_longer_than_its_receiver_takes_is_to_be_asked_for_again() {
    let long = |message: &Message| {
        let text = TXT::new(vec!["x".repeat(200); 4]);
        answer_to(
            message,
            vec![Record::from_rdata(name("a.example."), 1, RData::TXT(text))],
        )
    };
    for (takes, whole) in [(None, false), (Some(600), false), (Some(4096), true)] {
        let mut question = question_for("a.example.", RecordType::TXT);
        if let Some(bytes) = takes {
            let mut edns = Edns::new();
            edns.set_max_payload(bytes);
            question.set_edns(edns);
        }
        let response = long(&question);
        let asked = asked(question);
        let (released, _) = asked.filter(response).expect("an answer");
        for (transport, whole) in [(Transport::Udp, whole), (Transport::Tcp, true)] {
            let bytes = asked.fit(released.clone(), transport).expect("encoded");
            let read = Message::from_vec(&bytes).expect("readable");
            assert_eq!(read.metadata.truncation, !whole, "{takes:?} {transport:?}");
            assert_eq!(read.answers.is_empty(), !whole);
        }
    }
}

proptest! {
    /// Neither what agents send nor what resolvers answer may stop the daemon.
    #[test]
    fn any_bytes_are_answered_or_not(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = super::message::unreadable(&bytes);
        if let Ok(message) = Message::from_vec(&bytes)
            && let Ok(asked) = Asked::new(message)
        {
            let _ = asked.forwarded().to_vec();
            let _ = asked.reply(ResponseCode::Refused, Transport::Udp);
        }
    }

    /// A message with bytes changed is filtered to something that can be sent, or to nothing; and what counts as an address
    /// of the name is in what is released, under a name on the chain.
    #[test]
    fn a_damaged_answer_never_yields_an_address_of_another_name(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let question = question_for("a.example.", RecordType::A);
        let mut response = answer_to(&question, vec![
            alias("a.example.", 300, "b.example."),
            a("b.example.", 300, [203, 0, 113, 7]),
            a("c.example.", 300, [203, 0, 113, 8]),
        ]);
        response.add_additional(Record::from_rdata(
            name("d.example."),
            1,
            RData::AAAA(AAAA::from(std::net::Ipv6Addr::LOCALHOST)),
        ));
        let mut bytes = response.to_vec().expect("encoded");
        for (at, byte) in changes {
            let index = at.index(bytes.len());
            bytes[index] = byte;
        }
        let Ok(response) = Message::from_vec(&bytes) else { return Ok(()) };
        let asked = asked(question);
        let Some((released, answer)) = asked.filter(response) else { return Ok(()) };
        for (address, _) in &answer.addresses {
            let of = |record: &&Record| record.data.ip_addr() == Some(*address);
            let owner = released.answers.iter().find(of).map(|record| record.name.clone());
            let owner = owner.expect("released");
            let is_alias = |record: &Record| {
                matches!(&record.data, RData::CNAME(to) if to.0 == owner)
            };
            prop_assert!(owner == name("a.example.") || released.answers.iter().any(is_alias));
        }
        prop_assert!(asked.fit(released, Transport::Udp).is_some());
    }
}

/// What a desk was told.
#[derive(Default)]
struct Clerk {
    servers: Vec<SocketAddr>,
    refuses: Option<&'static str>,
    /// Nothing can be written down.
    is_full: bool,
    released: Mutex<Vec<Answer>>,
    failures: Mutex<Vec<Failure>>,
}

impl Desk for Clerk {
    type Asker = u64;

    fn asker(&self, number: u32, _transport: Transport, _source: SocketAddr) -> Option<u64> {
        (number == 7).then_some(1)
    }

    fn key(&self, asker: &u64) -> u64 {
        *asker
    }

    fn judge(&self, _asker: &u64, question: &Question) -> Judgement {
        if self
            .refuses
            .is_some_and(|label| question.labels[0] == label.as_bytes())
        {
            return Judgement::Refuse;
        }
        Judgement::Forward(Upstreams {
            servers: self.servers.clone(),
            place: None,
        })
    }

    fn release(&self, _asker: &u64, _question: &Question, answer: &Answer) -> bool {
        self.released
            .lock()
            .expect("not poisoned")
            .push(answer.clone());
        !self.is_full
    }

    fn failed(&self, _asker: &u64, _question: Option<&Question>, why: Failure) {
        self.failures.lock().expect("not poisoned").push(why);
    }
}

/// A resolver that answers with what it is given, over UDP and TCP.
async fn upstream(answers: HashMap<&'static str, Vec<Message>>) -> SocketAddr {
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let address = udp.local_addr().expect("an address");
    let tcp = TcpListener::bind(address).await.expect("bound");
    let answers = Arc::new(answers);
    let of = |answers: &HashMap<&'static str, Vec<Message>>, bytes: &[u8]| -> Vec<Message> {
        let question = Message::from_vec(bytes).expect("a question");
        let asked = question.queries[0].name.to_ascii().to_lowercase();
        let found = answers.get(asked.as_str()).cloned().unwrap_or_default();
        found
            .into_iter()
            .map(|mut answer| {
                // One that is somebody else's keeps its number.
                if answer.metadata.id == 0 {
                    answer.metadata.id = question.metadata.id;
                }
                answer.queries = vec![question.queries[0].clone()];
                answer
            })
            .collect()
    };
    let over_tcp = Arc::clone(&answers);
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (len, from) = udp.recv_from(&mut buffer).await.expect("received");
            for answer in of(&answers, &buffer[..len]) {
                let bytes = answer.to_vec().expect("encoded");
                udp.send_to(&bytes, from).await.expect("sent");
            }
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.expect("accepted");
            let mut len = [0; 2];
            stream.read_exact(&mut len).await.expect("a length");
            let mut bytes = vec![0; usize::from(u16::from_be_bytes(len))];
            stream.read_exact(&mut bytes).await.expect("a message");
            let mut answer = of(&over_tcp, &bytes).pop().expect("an answer");
            answer.metadata.truncation = false;
            let bytes = answer.to_vec().expect("encoded");
            stream
                .write_all(&[&(bytes.len() as u16).to_be_bytes(), bytes.as_slice()].concat())
                .await
                .expect("written");
        }
    });
    address
}

fn record(owner: &str, address: [u8; 4]) -> Message {
    let mut message = Message::response(0, OpCode::Query);
    message.add_answer(a(owner, 60, address));
    message
}

fn says(response: ResponseCode) -> Message {
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.response_code = response;
    message
}

/// A resolver under test, and a client of it.
struct Client {
    clerk: Arc<Clerk>,
    to: SocketAddr,
    socket: UdpSocket,
    _stop: oneshot::Sender<()>,
}

impl Client {
    async fn new(clerk: Clerk, number: u32) -> Self {
        let clerk = Arc::new(clerk);
        let pair = bind(0).expect("bound");
        let to = SocketAddr::from(([127, 0, 0, 1], pair.port_v4()));
        let (stop, stopped) = oneshot::channel();
        serve(number, pair, Arc::clone(&clerk), stopped).expect("serving");
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        socket.connect(to).await.expect("connected");
        Self {
            clerk,
            to,
            socket,
            _stop: stop,
        }
    }

    async fn asks(&self, message: &Message) -> Message {
        self.sends(&message.to_vec().expect("encoded")).await
    }

    async fn sends(&self, bytes: &[u8]) -> Message {
        self.socket.send(bytes).await.expect("sent");
        let mut buffer = [0; 2048];
        let len = tokio::time::timeout(PATIENCE, self.socket.recv(&mut buffer))
            .await
            .expect("in time")
            .expect("received");
        Message::from_vec(&buffer[..len]).expect("a message")
    }

    fn released(&self) -> usize {
        self.clerk.released.lock().expect("not poisoned").len()
    }

    fn failures(&self) -> Vec<Failure> {
        self.clerk.failures.lock().expect("not poisoned").clone()
    }
}

fn clerk(servers: &[SocketAddr]) -> Clerk {
    Clerk {
        servers: servers.to_vec(),
        ..Clerk::default()
    }
}

#[tokio::test]
async fn an_allowed_name_is_answered_after_it_was_written_down() {
    let server = upstream(HashMap::from([(
        "a.example.",
        vec![record("a.example.", [203, 0, 113, 7])],
    )]))
    .await;
    let client = Client::new(clerk(&[server]), 7).await;
    let question = question_for("A.eXample.", RecordType::A);
    let answer = client.asks(&question).await;
    assert_eq!(answer.metadata.id, question.metadata.id);
    assert!(answer.queries[0].name.eq_case(&question.queries[0].name));
    assert_eq!(answer.answers.len(), 1);
    assert_eq!(client.released(), 1);
}

#[tokio::test]
async fn what_is_refused_never_gets_to_a_resolver() {
    // Nobody is there.
    let mut clerk = clerk(&["127.0.0.1:9".parse().expect("an address")]);
    clerk.refuses = Some("secret");
    let client = Client::new(clerk, 7).await;
    let answer = client
        .asks(&question_for("secret.example.", RecordType::A))
        .await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    for kind in [RecordType::ANY, RecordType::AXFR] {
        let answer = client.asks(&question_for("a.example.", kind)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    }
    let answer = client
        .asks(&question_for("a.example.", RecordType::HTTPS))
        .await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.answers.is_empty());
    let answer = client.sends(b"\x12\x34\x01\x00garbage").await;
    assert_eq!(
        (answer.metadata.id, answer.metadata.response_code),
        (0x1234, ResponseCode::FormErr)
    );
    assert_eq!(client.released(), 0);
    assert_eq!(
        client.failures(),
        [
            Failure::Unsupported,
            Failure::Unsupported,
            Failure::Malformed
        ]
    );
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_answered() {
    let server = upstream(HashMap::from([(
        "a.example.",
        vec![record("a.example.", [203, 0, 113, 7])],
    )]))
    .await;
    let mut full = clerk(&[server]);
    full.is_full = true;
    let client = Client::new(full, 7).await;
    let answer = client
        .asks(&question_for("a.example.", RecordType::A))
        .await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(answer.answers.is_empty());
}

#[tokio::test]
async fn the_next_resolver_is_asked_when_one_does_not_know() {
    let ignorant = upstream(HashMap::from([(
        "a.example.",
        vec![says(ResponseCode::ServFail)],
    )]))
    .await;
    let other = upstream(HashMap::from([
        ("a.example.", vec![record("a.example.", [203, 0, 113, 7])]),
        ("none.example.", vec![says(ResponseCode::NXDomain)]),
    ]))
    .await;
    let silent = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let silent = silent.local_addr().expect("an address");
    let client = Client::new(clerk(&[ignorant, silent, other]), 7).await;
    let answer = client
        .asks(&question_for("a.example.", RecordType::A))
        .await;
    assert_eq!(answer.answers.len(), 1);
    let answer = client
        .asks(&question_for("none.example.", RecordType::A))
        .await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    let client = Client::new(clerk(&[ignorant]), 7).await;
    let answer = client
        .asks(&question_for("a.example.", RecordType::A))
        .await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let client = Client::new(clerk(&[]), 7).await;
    let answer = client
        .asks(&question_for("a.example.", RecordType::A))
        .await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(client.failures(), [Failure::NoAnswer]);
}

#[tokio::test]
async fn what_was_cut_is_asked_for_again_and_what_is_not_the_answer_is_waited_past() {
    let mut cut = record("a.example.", [203, 0, 113, 7]);
    cut.metadata.truncation = true;
    let mut forged = record("b.example.", [203, 0, 113, 66]);
    forged.metadata.id = 1;
    let right = record("b.example.", [203, 0, 113, 7]);
    let server = upstream(HashMap::from([
        ("a.example.", vec![cut]),
        ("b.example.", vec![forged, right]),
    ]))
    .await;
    let client = Client::new(clerk(&[server]), 7).await;
    for asked in ["a.example.", "b.example."] {
        let answer = client.asks(&question_for(asked, RecordType::A)).await;
        let found = answer
            .answers
            .first()
            .and_then(|record| record.data.ip_addr());
        assert_eq!(found, Some(IpAddr::from([203, 0, 113, 7])), "{asked}");
    }
}

#[tokio::test]
async fn questions_on_one_connection_are_answered_as_they_can_be() {
    let server = upstream(HashMap::from([
        ("a.example.", vec![record("a.example.", [203, 0, 113, 7])]),
        ("b.example.", vec![record("b.example.", [203, 0, 113, 8])]),
    ]))
    .await;
    let client = Client::new(clerk(&[server]), 7).await;
    let mut stream = TcpStream::connect(client.to).await.expect("connected");
    let questions = ["a.example.", "b.example."].map(|text| question_for(text, RecordType::A));
    let mut bytes = Vec::new();
    for question in &questions {
        let message = question.to_vec().expect("encoded");
        bytes.extend((message.len() as u16).to_be_bytes());
        bytes.extend(message);
    }
    stream.write_all(&bytes).await.expect("written");
    // Nothing more is asked, and what was is answered.
    stream.shutdown().await.expect("shut down");
    let mut all = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all))
        .await
        .expect("in time")
        .expect("read");
    let mut numbers = Vec::new();
    let mut rest = all.as_slice();
    while let Some((len, more)) = rest.split_first_chunk::<2>() {
        let (message, more) = more.split_at(usize::from(u16::from_be_bytes(*len)));
        numbers.push(Message::from_vec(message).expect("a message").metadata.id);
        rest = more;
    }
    numbers.sort_unstable();
    let mut asked = questions.map(|question| question.metadata.id);
    asked.sort_unstable();
    assert_eq!(numbers, asked);
}

#[tokio::test]
async fn nobody_known_gets_no_answer() {
    let client = Client::new(clerk(&[]), 8).await;
    let mut stream = TcpStream::connect(client.to).await.expect("connected");
    // A datagram that came before is dealt with before.
    let bytes = question_for("a.example.", RecordType::A)
        .to_vec()
        .expect("encoded");
    client.socket.send(&bytes).await.expect("sent");
    let ended = tokio::time::timeout(PATIENCE, stream.read(&mut [0])).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))));
    assert!(client.socket.try_recv(&mut [0; 64]).is_err());
}
