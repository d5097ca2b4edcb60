//! Messages that nobody sane sends. Nothing may panic or hang, and no address may get through that
//! isn't the question's.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use hickory_proto::{
    op::{Edns, Message, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::TXT},
};
use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};

use super::{
    super::{
        Protocol, Resolver, Upstreams,
        asked::Asked,
        exchange::Step,
        message::{Filtered, filter},
    },
    fake::{Running, TestDesk, Upstream, a, aaaa, alias, bytes, name, question, response},
};

fn full_question() -> Message {
    let mut message = question("wWw.a.example.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(1400);
    edns.set_dnssec_ok(true);
    message.set_edns(edns);
    message
}

fn full_response() -> Message {
    let mut message = response(
        &full_question(),
        vec![
            alias("www.a.example.", 60, "b.example."),
            alias("b.example.", 60, "c.example."),
            a("c.example.", 60, "203.0.113.1"),
            aaaa("c.example.", 60, "2001:db8::1"),
            a("evil.example.", 60, "203.0.113.66"),
        ],
    );
    let text = RData::TXT(TXT::new(vec!["text".to_owned()]));
    message.add_authority(Record::from_rdata(name("example."), 60, text));
    message.add_additional(a("c.example.", 60, "203.0.113.66"));
    message.set_edns(Edns::new());
    message
}

/// A message with some bytes changed, maybe cut, maybe longer.
fn damaged(message: &Message) -> impl Strategy<Value = Vec<u8>> + use<> {
    let bytes = bytes(message);
    let len = bytes.len();
    (
        prop::collection::vec((0..len, any::<u8>()), 0..6),
        0..=len,
        prop::collection::vec(any::<u8>(), 0..8),
        any::<bool>(),
    )
        .prop_map(move |(changes, cut, more, is_cut)| {
            let mut bytes = bytes.clone();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            if is_cut {
                bytes.truncate(cut);
            }
            bytes.extend(more);
            bytes
        })
}

fn admits(bytes: &[u8]) {
    let resolver = Resolver::new(Arc::new(TestDesk::new(Upstreams::here([]))));
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        match resolver.admit(&1, bytes, protocol) {
            Step::Silence | Step::Judge(_) => {}
            Step::Reply(reply) => {
                let reply = Message::from_vec(&reply).expect("a message");
                assert_ne!(reply.metadata.response_code, ResponseCode::NoError);
            }
        }
    }
    if let Ok(asked) = Asked::parse(bytes) {
        let forwarded = Message::from_vec(&super::fake::bytes(&asked.forwarded()));
        assert_eq!(
            forwarded.expect("a message").queries,
            [asked.query().clone()]
        );
    }
}

/// The names that can be reached from one by aliases, without regard to order or number.
fn reached(from: &Name, answers: &[Record]) -> BTreeSet<Name> {
    let mut reached = BTreeSet::from([from.to_lowercase()]);
    loop {
        let more: Vec<Name> = answers
            .iter()
            .filter(|record| reached.contains(&record.name.to_lowercase()))
            .filter_map(|record| match &record.data {
                RData::CNAME(target) => Some(target.0.to_lowercase()),
                _ => None,
            })
            .collect();
        let before = reached.len();
        reached.extend(more);
        if reached.len() == before {
            return reached;
        }
    }
}

fn addresses<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<IpAddr> {
    let records = records.into_iter();
    records
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(address.0.into()),
            RData::AAAA(address) => Some(address.0.into()),
            _ => None,
        })
        .collect()
}

/// Whatever a response says: what is reported is what is released, and all of it is reached from
/// the question.
fn check(question: &Message, upstream: Message) {
    let asked = Asked::parse(&bytes(question)).expect("a question");
    let Ok(Filtered { message, answer }) = filter(asked.query(), upstream.clone()) else {
        return;
    };
    let reached = reached(&question.queries[0].name, &upstream.answers);
    let owners = upstream
        .answers
        .iter()
        .filter(|record| reached.contains(&record.name.to_lowercase()));
    let allowed = addresses(owners);
    let reported: Vec<IpAddr> = answer
        .addresses
        .iter()
        .map(|(address, _)| *address)
        .collect();
    assert!(reported.iter().all(|address| allowed.contains(address)));
    assert!(answer.chain.iter().all(|name| reached.contains(name)));
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let Some(sent) = asked.release(message.clone(), protocol) else {
            continue;
        };
        let sent = Message::from_vec(&sent).expect("a message");
        if !sent.metadata.truncation {
            assert_eq!(addresses(sent.all_sections()), reported);
        }
        assert_eq!(sent.metadata.id, question.metadata.id);
        assert!(sent.queries[0].name.eq_case(&question.queries[0].name));
        let is_withheld =
            |record: &Record| matches!(record.record_type(), RecordType::HTTPS | RecordType::SVCB);
        assert!(!sent.all_sections().any(is_withheld));
    }
}

const NAMES: [&str; 6] = [
    "a.example.",
    "A.example.",
    "b.example.",
    "c.example.",
    "d.",
    ".",
];

fn records() -> impl Strategy<Value = Vec<Record>> {
    let owner = || prop::sample::select(&NAMES[..]);
    let record = (owner(), owner(), 0..4_u8, any::<u32>(), any::<[u8; 4]>()).prop_map(
        |(owner, target, kind, ttl, address)| match kind {
            0 => alias(owner, ttl, target),
            1 => aaaa(
                owner,
                ttl,
                &std::net::Ipv4Addr::from(address)
                    .to_ipv6_mapped()
                    .to_string(),
            ),
            _ => a(owner, ttl, &std::net::Ipv4Addr::from(address).to_string()),
        },
    );
    prop::collection::vec(record, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_bytes_are_read_or_not(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        admits(&bytes);
    }

    #[test]
    fn any_bytes_behind_a_header_are_read_or_not(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        counts in any::<[u16; 4]>(),
    ) {
        let mut message = vec![0, 1, 1, 0];
        message.extend(counts.iter().flat_map(|count| (count % 3).to_be_bytes()));
        message.extend(bytes);
        admits(&message);
        if let Ok(response) = Message::from_vec(&message) {
            check(&full_question(), response);
        }
    }

    #[test]
    fn a_damaged_question_is_read_or_not(bytes in damaged(&full_question())) {
        admits(&bytes);
    }

    #[test]
    fn a_damaged_response_yields_no_address_of_another_name(bytes in damaged(&full_response())) {
        if let Ok(mut response) = Message::from_vec(&bytes) {
            check(&full_question(), response.clone());
            // So that not most of them are left out for their question.
            response.queries = full_question().queries;
            check(&full_question(), response);
        }
    }

    #[test]
    fn no_made_up_response_yields_an_address_of_another_name(
        answers in records(),
        authorities in records(),
        additionals in records(),
    ) {
        let question = question("a.example.", RecordType::A);
        let mut message = response(&question, answers);
        message.add_authorities(authorities);
        message.add_additionals(additionals);
        check(&question, message);
    }
}

#[tokio::test]
async fn a_listener_survives_damaged_questions_and_answers() {
    const CASES: usize = 100;
    let mut runner = TestRunner::deterministic();
    let mut damaged = |message: &Message| -> Vec<Vec<u8>> {
        let strategy = damaged(message);
        (0..CASES)
            .map(|_| strategy.new_tree(&mut runner).expect("a case").current())
            .collect()
    };
    let (questions, responses) = (damaged(&full_question()), damaged(&full_response()));
    let upstream = Upstream::start_raw({
        let next = std::sync::Mutex::new(responses.into_iter());
        move |_, question| {
            let owner = question.queries[0].name.to_string();
            let good = response(question, vec![a(&owner, 60, "203.0.113.1")]);
            let mut sent: Vec<Vec<u8>> = next.lock().expect("lock").next().into_iter().collect();
            // With the right id, which is looked at first, half of them are read.
            for (number, bad) in sent.iter_mut().enumerate() {
                if number % 2 == 0 && bad.len() >= 2 {
                    bad[..2].copy_from_slice(&question.metadata.id.to_be_bytes());
                }
            }
            sent.push(bytes(&good));
            sent
        }
    });
    let running = Running::start(upstream.upstreams());
    let socket = running.udp().await;
    for bad in questions {
        socket.send(&bad).await.expect("sent");
    }
    let answer = running.ask(&question("b.refused.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    for _ in 0..50 {
        let answer = running.ask(&full_question()).await;
        let is_answer = matches!(
            answer.metadata.response_code,
            ResponseCode::NoError
                | ResponseCode::NXDomain
                | ResponseCode::ServFail
                | ResponseCode::Refused
        );
        assert!(is_answer, "{answer}");
    }
}
