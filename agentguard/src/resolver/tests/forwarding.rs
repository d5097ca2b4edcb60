//! Questions that are forwarded, and what upstream resolvers may do to them.

use std::{net::SocketAddr, time::Instant};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::RecordType,
};

use super::{
    super::{Failure, Protocol, Unusable, Upstreams, sockets::bind_pair},
    fake::{
        Running, TestDesk, Told, Upstream, a, alias, bytes, name, question, read, response, says,
        write,
    },
};

/// Answers every question for an address.
fn known() -> Upstream {
    Upstream::start(|_, question| {
        let owner = question.queries[0].name.to_string();
        vec![response(question, vec![a(&owner, 60, "203.0.113.1")])]
    })
}

#[tokio::test]
async fn an_allowed_name_is_answered_after_its_addresses_were_reported() {
    // Some resolvers write the question in their own way.
    let upstream = Upstream::start(|_, question| {
        let mut answer = response(question, vec![a("www.example.", 60, "203.0.113.1")]);
        answer.queries[0].name = name("www.example.");
        vec![answer]
    });
    let running = Running::start(upstream.upstreams());
    let mut asked = question("wWw.ExAmple.", RecordType::A);
    asked.metadata.recursion_desired = false;
    let answer = running.ask(&asked).await;
    assert_eq!(answer.metadata.id, asked.metadata.id);
    assert!(!answer.metadata.recursion_desired && answer.metadata.recursion_available);
    assert!(answer.queries[0].name.eq_case(&name("wWw.ExAmple.")));
    assert_eq!(answer.answers, [a("www.example.", 60, "203.0.113.1")]);
    let told = running.desk.told();
    let [
        Told::Asker(Protocol::Udp),
        Told::Judged(judged),
        Told::Released(released, answer),
    ] = told.as_slice()
    else {
        panic!("{told:?}")
    };
    assert_eq!(judged, released);
    assert_eq!(judged.to_string(), "www.example. A");
    assert_eq!(answer.addresses, [([203, 0, 113, 1].into(), 60)]);
    let (protocol, forwarded) = &upstream.seen()[0];
    assert_eq!(*protocol, Protocol::Udp);
    assert!(forwarded.metadata.recursion_desired);
    running.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_name_that_does_not_exist_passes() {
    let upstream = Upstream::start(|_, question| vec![says(question, ResponseCode::NXDomain)]);
    let running = Running::start(upstream.upstreams());
    let answer = running.ask(&question("a.example.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    let released = running.desk.released();
    assert_eq!(released[0].response_code, ResponseCode::NXDomain);
    assert!(released[0].addresses.is_empty());
}

#[tokio::test]
async fn several_aliases_of_a_name_are_no_answer() {
    let upstream = Upstream::start(|_, question| {
        let aliases = ["b.example.", "c.example."].map(|to| alias("a.example.", 60, to));
        vec![response(question, aliases.to_vec())]
    });
    let running = Running::start(upstream.upstreams());
    let answer = running.ask(&question("a.example.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(answer.answers.is_empty());
    let why = Failure::Unusable(Unusable::SeveralAliases);
    assert_eq!(running.desk.failures(), [why]);
    assert!(running.desk.released().is_empty());
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_released() {
    let upstream = known();
    let mut desk = TestDesk::new(upstream.upstreams());
    desk.is_full = true;
    let running = Running::with(desk, 1);
    let answer = running.ask(&question("a.example.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(answer.answers.is_empty());
    assert_eq!(running.desk.released().len(), 1);
}

#[tokio::test]
async fn what_was_cut_is_asked_for_again_over_tcp() {
    let many = |question: &Message| {
        let records = (0..100).map(|last| a("a.example.", 60, &format!("203.0.113.{last}")));
        response(question, records.collect())
    };
    let upstream = Upstream::start(move |protocol, question| match protocol {
        Protocol::Udp => {
            let mut cut = says(question, ResponseCode::NoError);
            cut.metadata.truncation = true;
            vec![cut]
        }
        Protocol::Tcp => vec![many(question)],
    });
    let running = Running::start(upstream.upstreams());
    let asked = question("a.example.", RecordType::A);
    // It is cut again on its way to the client, that asks again as well.
    let answer = running.ask(&asked).await;
    assert!(answer.metadata.truncation && answer.answers.is_empty());
    let mut stream = running.tcp().await;
    write(&mut stream, &bytes(&asked)).await;
    let answer = Message::from_vec(&read(&mut stream).await.expect("an answer")).expect("decoded");
    assert_eq!(answer.answers.len(), 100);
    assert!(!answer.metadata.truncation);
    let protocols: Vec<Protocol> = upstream.seen().iter().map(|seen| seen.0).collect();
    assert_eq!(
        protocols,
        [Protocol::Udp, Protocol::Tcp, Protocol::Udp, Protocol::Tcp]
    );
    assert_eq!(running.desk.released()[0].addresses.len(), 100);
}

#[tokio::test]
async fn what_is_cut_over_tcp_as_well_is_no_answer() {
    let upstream = Upstream::start(|_, question| {
        let mut cut = says(question, ResponseCode::NoError);
        cut.metadata.truncation = true;
        vec![cut]
    });
    let running = Running::start(upstream.upstreams());
    let answer = running.ask(&question("a.example.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(running.desk.failures(), [Failure::Unusable(Unusable::Cut)]);
}

#[tokio::test]
async fn what_is_not_the_answer_is_waited_past() {
    let upstream = Upstream::start(|_, question| {
        let good = response(question, vec![a("a.example.", 60, "203.0.113.1")]);
        let forged = response(question, vec![a("a.example.", 60, "203.0.113.66")]);
        let mut wrong_id = forged.clone();
        wrong_id.metadata.id ^= 1;
        let mut wrong_question = forged;
        wrong_question.queries = vec![Query::query(name("b.example."), RecordType::A)];
        vec![wrong_id, wrong_question, good]
    });
    let running = Running::start(upstream.upstreams());
    let answer = running.ask(&question("a.example.", RecordType::A)).await;
    assert_eq!(answer.answers, [a("a.example.", 60, "203.0.113.1")]);
}

#[tokio::test]
async fn bytes_that_are_no_message_are_no_answer() {
    let upstream = Upstream::start_raw(|_, question| {
        let mut bytes = bytes(&response(
            question,
            vec![a("a.example.", 60, "203.0.113.1")],
        ));
        bytes.truncate(bytes.len() - 1);
        vec![bytes]
    });
    let running = Running::start(upstream.upstreams());
    let answer = running.ask(&question("a.example.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(
        running.desk.failures(),
        [Failure::Unusable(Unusable::Unreadable)]
    );
}

/// A port that nobody has any more.
fn dead() -> SocketAddr {
    let ends = bind_pair(0).expect("sockets").v4;
    SocketAddr::from(([127, 0, 0, 1], ends.port()))
}

#[tokio::test]
async fn the_next_resolver_is_asked_when_one_is_gone_or_silent_or_does_not_know() {
    let silent = Upstream::start(|_, _| Vec::new());
    let failing = Upstream::start(|_, question| vec![says(question, ResponseCode::ServFail)]);
    let refusing = Upstream::start(|_, question| vec![says(question, ResponseCode::Refused)]);
    let good = known();
    for first in [dead(), silent.address, failing.address, refusing.address] {
        let running = Running::start(Upstreams::here([first, good.address]));
        let answer = running.ask(&question("a.example.", RecordType::A)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert_eq!(running.desk.released().len(), 1);
        assert!(running.desk.failures().is_empty());
    }
    assert_eq!(silent.seen().len(), 1);
}

#[tokio::test]
async fn when_no_resolver_knows_it_is_a_failure() {
    let refusing = Upstream::start(|_, question| vec![says(question, ResponseCode::Refused)]);
    let nobody: [SocketAddr; 0] = [];
    for (upstreams, why) in [
        (
            refusing.upstreams(),
            Failure::Upstream(ResponseCode::Refused),
        ),
        (Upstreams::here([dead(), dead()]), Failure::NoAnswer),
        (Upstreams::here(nobody), Failure::NoAnswer),
    ] {
        let running = Running::start(upstreams);
        let answer = running.ask(&question("a.example.", RecordType::A)).await;
        // REFUSED would mean the policy.
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(running.desk.failures(), [why]);
    }
    assert_eq!(refusing.seen().len(), 1);
}

#[tokio::test]
async fn silence_ends_before_the_client_asks_again() {
    let silent = Upstream::start(|_, _| Vec::new());
    let running = Running::start(silent.upstreams());
    let start = Instant::now();
    let answer = running.ask(&question("a.example.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(start.elapsed().as_secs_f64() < 5.0);
    assert_eq!(silent.seen().len(), 2);
}
