//! Who is answered, what is refused without being forwarded, and connections.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, RecordType},
};
use tokio::io::AsyncWriteExt as _;

use super::{
    super::{Failure, Protocol, ServeError, listener::CONNECTIONS},
    fake::{
        PANICS, Running, TestDesk, Told, UNKNOWN, Upstream, a, bytes, name, question, read,
        receive, response, udp, write,
    },
};

fn known() -> Upstream {
    Upstream::start(|_, question| {
        let owner = question.queries[0].name.to_string();
        vec![response(question, vec![a(&owner, 60, "203.0.113.1")])]
    })
}

#[tokio::test]
async fn a_refused_name_is_refused_and_never_forwarded() {
    let upstream = known();
    let running = Running::start(upstream.upstreams());
    for record_type in [RecordType::A, RecordType::HTTPS, RecordType::TXT] {
        let asked = question("dAta.exfiltrated.refused.", record_type);
        let answer = running.ask(&asked).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
        assert_eq!(answer.metadata.id, asked.metadata.id);
        assert!(answer.queries[0].name.eq_case(&asked.queries[0].name));
    }
    assert!(upstream.seen().is_empty());
    assert!(running.desk.failures().is_empty());
}

#[tokio::test]
async fn how_to_encrypt_the_name_of_a_host_is_withheld() {
    let upstream = known();
    let running = Running::start(upstream.upstreams());
    for record_type in [RecordType::HTTPS, RecordType::SVCB] {
        let answer = running.ask(&question("a.example.", record_type)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.answers.is_empty());
    }
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn what_is_no_question_for_records_is_answered_with_an_error() {
    let upstream = known();
    let running = Running::start(upstream.upstreams());
    let good = question("a.example.", RecordType::A);
    let changed = |change: &dyn Fn(&mut Message)| {
        let mut message = good.clone();
        change(&mut message);
        message
    };
    let of_type = |record_type| changed(&|message| message.queries[0].query_type = record_type);
    let of_class = |class| changed(&|message| message.queries[0].query_class = class);
    let of_version = |version| {
        changed(&|message| {
            let mut edns = Edns::new();
            edns.set_version(version);
            message.set_edns(edns);
        })
    };
    let (malformed, unsupported) = (Failure::Malformed, Failure::Unsupported);
    for (message, response_code, why) in [
        (of_type(RecordType::ANY), ResponseCode::Refused, unsupported),
        (
            of_type(RecordType::AXFR),
            ResponseCode::Refused,
            unsupported,
        ),
        (
            of_type(RecordType::IXFR),
            ResponseCode::Refused,
            unsupported,
        ),
        (of_type(RecordType::OPT), ResponseCode::Refused, unsupported),
        (
            of_type(RecordType::Unknown(253)),
            ResponseCode::Refused,
            unsupported,
        ),
        (of_class(DNSClass::CH), ResponseCode::Refused, unsupported),
        (of_class(DNSClass::ANY), ResponseCode::Refused, unsupported),
        (of_version(1), ResponseCode::BADVERS, unsupported),
        (
            changed(&|message| message.metadata.op_code = OpCode::Update),
            ResponseCode::NotImp,
            unsupported,
        ),
        (
            changed(&|message| message.metadata.op_code = OpCode::Notify),
            ResponseCode::NotImp,
            unsupported,
        ),
        (
            changed(&|message| message.queries.clear()),
            ResponseCode::FormErr,
            malformed,
        ),
        (
            changed(&|message| {
                message.add_query(Query::query(name("b.example."), RecordType::A));
            }),
            ResponseCode::FormErr,
            malformed,
        ),
    ] {
        let answer = running.ask(&message).await;
        // By number: BADVERS is read as BADSIG, which has the same.
        let numbers = [answer.metadata.response_code, response_code].map(u16::from);
        assert_eq!(numbers[0], numbers[1], "{message}");
        assert_eq!(answer.metadata.id, message.metadata.id);
        assert_eq!(running.desk.failures().last(), Some(&why), "{message}");
    }
    let mut cut = bytes(&good);
    cut.truncate(cut.len() - 1);
    let answer = running.ask_bytes(&cut).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    assert!(upstream.seen().is_empty());
    let is_judged = |told: &Told| matches!(told, Told::Judged(_));
    assert!(!running.desk.told().iter().any(is_judged));
}

#[tokio::test]
async fn an_answer_and_noise_are_not_answered() {
    let upstream = known();
    let running = Running::start(upstream.upstreams());
    let good = question("a.refused.", RecordType::A);
    let mut answer = good.clone();
    answer.metadata.message_type = MessageType::Response;
    let socket = running.udp().await;
    for noise in [bytes(&answer), vec![0; 11], Vec::new(), bytes(&good)] {
        socket.send(&noise).await.expect("sent");
    }
    // They are taken one after the other: the first answer is that to the last.
    assert_eq!(receive(&socket).await.0.queries, good.queries);
    assert_eq!(running.desk.failures(), [Failure::Malformed; 3]);
}

#[tokio::test]
async fn nobody_known_gets_no_answer() {
    let upstream = known();
    let running = Running::with(TestDesk::new(upstream.upstreams()), UNKNOWN);
    let socket = running.udp().await;
    let asked = bytes(&question("a.example.", RecordType::A));
    for _ in 0..2 {
        socket.send(&asked).await.expect("sent");
    }
    let mut stream = running.tcp().await;
    // It may be closed before this is written.
    let _ = stream.write_all(&asked).await;
    assert_eq!(read(&mut stream).await, None);
    let is_datagram = |told: &&Told| **told == Told::Asker(Protocol::Udp);
    // When it is asked about the second, it is done with the first.
    running
        .desk
        .until(|told| told.iter().filter(is_datagram).count() == 2)
        .await;
    assert!(socket.try_recv(&mut [0; 512]).is_err());
    let is_asker = |told: &Told| matches!(told, Told::Asker(_));
    assert!(running.desk.told().iter().all(is_asker));
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn every_address_of_a_listener_answers() {
    let upstream = known();
    let running = Running::start(upstream.upstreams());
    let asked = question("a.example.", RecordType::A);
    for address in &running.addresses {
        let socket = udp(*address).await;
        socket.send(&bytes(&asked)).await.expect("sent");
        assert_eq!(receive(&socket).await.0.answers.len(), 1);
    }
    assert_eq!(running.desk.released().len(), running.addresses.len());
}

#[tokio::test]
async fn whoever_asks_too_much_is_refused_and_told_about_once_a_second() {
    const ASKED: usize = 300;
    let upstream = known();
    let running = Running::start(upstream.upstreams());
    let start = Instant::now();
    for _ in 0..ASKED {
        let answer = running.ask(&question("a.refused.", RecordType::A)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    }
    let seconds = start.elapsed().as_secs_f64();
    let told = running.desk.told();
    let judged = told.iter().filter(|told| matches!(told, Told::Judged(_)));
    let judged = judged.count() as f64;
    assert!(
        judged >= 200.0 && judged <= 201.0 + seconds * 50.0,
        "{judged} in {seconds} s"
    );
    let failures = running.desk.failures();
    assert!(failures.iter().all(|why| *why == Failure::RateLimited));
    assert!(failures.len() as f64 <= seconds + 1.0);
    // As fast as this runs, it isn't allowed more than the burst and what came back meanwhile.
    assert!(judged as usize == ASKED || !failures.is_empty());
}

#[tokio::test]
async fn questions_on_one_connection_are_answered_as_they_can_be() {
    // Says nothing the first time, so that this answer is the last one.
    let asked = AtomicUsize::new(0);
    let upstream = Upstream::start(move |_, question| {
        let answer = response(question, vec![a("a.example.", 60, "203.0.113.1")]);
        let is_first = asked.fetch_add(1, Ordering::Relaxed) == 0;
        if is_first { Vec::new() } else { vec![answer] }
    });
    let running = Running::start(upstream.upstreams());
    let mut stream = running.tcp().await;
    let asked =
        ["a.example.", "b.refused.", "c.refused."].map(|text| question(text, RecordType::A));
    let framed: Vec<u8> = asked
        .iter()
        .flat_map(|question| {
            let bytes = bytes(question);
            let len = u16::try_from(bytes.len()).expect("short");
            [len.to_be_bytes().to_vec(), bytes].concat()
        })
        .collect();
    // In pieces that don't end where messages do.
    for piece in framed.chunks(7) {
        stream.write_all(piece).await.expect("written");
    }
    let mut order = Vec::new();
    for _ in 0..2 {
        let answer = read(&mut stream).await.expect("an answer");
        let answer = Message::from_vec(&answer).expect("decoded");
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
        order.push(answer.metadata.id);
    }
    let refused: BTreeSet<u16> = order.into_iter().collect();
    assert_eq!(
        refused,
        [&asked[1], &asked[2]].map(|asked| asked.metadata.id).into()
    );
    // No more questions; the answer that waits still comes.
    stream.shutdown().await.expect("shut down");
    let answer = read(&mut stream).await.expect("an answer");
    let answer = Message::from_vec(&answer).expect("decoded");
    assert_eq!(answer.metadata.id, asked[0].metadata.id);
    assert_eq!(answer.answers.len(), 1);
    assert_eq!(read(&mut stream).await, None);
}

#[tokio::test]
async fn a_listener_that_stopped_has_let_go_of_its_port() {
    let upstream = known();
    let running = Running::start(upstream.upstreams());
    let address = running.addresses[0];
    let mut stream = running.tcp().await;
    write(&mut stream, &bytes(&question("a.example.", RecordType::A))).await;
    assert!(read(&mut stream).await.is_some());
    running.stop().await.expect("stopped");
    assert_eq!(read(&mut stream).await, None);
    tokio::net::UdpSocket::bind(address).await.expect("free");
}

#[tokio::test]
async fn a_listener_whose_desk_panicked_says_so() {
    let upstream = known();
    let running = Running::with(TestDesk::new(upstream.upstreams()), PANICS);
    running.udp().await.send(&[0]).await.expect("sent");
    let error = running.ended().await.expect_err("an error");
    assert!(
        matches!(
            error,
            ServeError::Stopped {
                listener: PANICS,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn whoever_comes_to_a_full_listener_waits() {
    let upstream = known();
    let running = Running::start(upstream.upstreams());
    let asked = bytes(&question("a.refused.", RecordType::A));
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = running.tcp().await;
        write(&mut stream, &asked).await;
        assert!(read(&mut stream).await.is_some());
        streams.push(stream);
    }
    let mut late = running.tcp().await;
    write(&mut late, &asked).await;
    // The others are still served, one after the other.
    for stream in &mut streams {
        write(stream, &asked).await;
        assert!(read(stream).await.is_some());
    }
    assert_eq!(running.desk.askers(), CONNECTIONS);
    streams.pop();
    assert!(read(&mut late).await.is_some());
    assert_eq!(running.desk.askers(), CONNECTIONS + 1);
}
