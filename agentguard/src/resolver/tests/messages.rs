//! What of a response is released, and how it fits its client.

use std::net::IpAddr;

use hickory_proto::{
    op::{DnsResponse, Edns, Message, MessageType, Query, ResponseCode},
    rr::{
        DNSClass, RData, Record, RecordType,
        rdata::{
            HTTPS, MX, SVCB, TXT,
            opt::{EdnsCode, EdnsOption},
        },
    },
};

use super::{
    super::{
        Protocol, Unusable,
        asked::Asked,
        message::{Filtered, filter},
    },
    fake::{a, aaaa, alias, bytes, name, question, response, says},
};

fn asked(question: &Message) -> Asked {
    Asked::parse(&bytes(question)).expect("a question")
}

fn filtered(question: &Message, records: Vec<Record>) -> Result<Filtered, Unusable> {
    filter(&question.queries[0], response(question, records))
}

fn https(owner: &str) -> Record {
    let data = RData::HTTPS(HTTPS(SVCB::new(1, name("."), Vec::new())));
    Record::from_rdata(name(owner), 60, data)
}

#[test]
fn addresses_have_the_shortest_lifetime_on_their_way() {
    let question = question("a.example.", RecordType::A);
    let records = vec![
        a("c.example.", 600, "203.0.113.1"),
        a("c.example.", 5, "203.0.113.2"),
        alias("b.example.", 20, "C.Example."),
        alias("A.example.", 300, "b.example."),
        aaaa("b.example.", 500, "2001:db8::1"),
    ];
    let Filtered { message, answer } = filtered(&question, records).expect("an answer");
    let addresses: Vec<(IpAddr, u32)> = [
        ("203.0.113.1", 20),
        ("203.0.113.2", 5),
        ("2001:db8::1", 300),
    ]
    .map(|(address, ttl)| (address.parse().expect("an address"), ttl))
    .to_vec();
    assert_eq!(answer.addresses, addresses);
    assert_eq!(message.answers.len(), 5);
    let chain: Vec<String> = answer.chain.iter().map(ToString::to_string).collect();
    assert_eq!(chain, ["a.example.", "b.example.", "c.example."]);
}

#[test]
fn a_lifetime_with_the_highest_bit_is_none() {
    let question = question("a.example.", RecordType::A);
    for (ttl, lifetime) in [(0x8000_0000, 0), (u32::MAX, 0), (0x7fff_ffff, 0x7fff_ffff)] {
        let answer = filtered(&question, vec![a("a.example.", ttl, "203.0.113.1")])
            .expect("an answer")
            .answer;
        assert_eq!(answer.addresses[0].1, lifetime);
    }
}

#[test]
fn what_does_not_belong_to_the_question_is_left_out() {
    let question = question("a.example.", RecordType::A);
    let mut message = response(
        &question,
        vec![
            a("a.example.", 60, "203.0.113.1"),
            a("evil.example.", 60, "203.0.113.66"),
            aaaa("evil.example.", 60, "2001:db8::66"),
            alias("evil.example.", 60, "a.example."),
            https("a.example."),
            Record::from_rdata(
                name("other.example."),
                60,
                RData::TXT(TXT::new(vec!["kept".to_owned()])),
            ),
        ],
    );
    let mut chaos = a("a.example.", 60, "203.0.113.66");
    chaos.dns_class = DNSClass::CH;
    message.add_answer(chaos);
    message.add_authority(a("a.example.", 60, "203.0.113.66"));
    message.add_authority(alias("a.example.", 60, "evil.example."));
    message.add_additional(a("a.example.", 60, "203.0.113.66"));
    message.add_additional(aaaa("a.example.", 60, "2001:db8::66"));
    message.add_additional(https("a.example."));
    let Filtered { message, answer } = filter(&question.queries[0], message).expect("an answer");
    assert_eq!(answer.addresses.len(), 1);
    let types: Vec<RecordType> = message.answers.iter().map(Record::record_type).collect();
    assert_eq!(types, [RecordType::A, RecordType::TXT]);
    assert!(message.authorities.is_empty());
    assert!(message.additionals.is_empty());
}

#[test]
fn other_records_are_kept_and_yield_no_addresses() {
    let question = question("example.", RecordType::MX);
    let mail = || {
        let data = RData::MX(MX::new(10, name("mail.example.")));
        Record::from_rdata(name("example."), 60, data)
    };
    let mut message = response(&question, vec![mail()]);
    message.add_additional(a("mail.example.", 60, "203.0.113.1"));
    let Filtered { message, answer } = filter(&question.queries[0], message).expect("an answer");
    assert_eq!(message.answers, [mail()]);
    assert!(message.additionals.is_empty());
    assert!(answer.addresses.is_empty());
}

#[test]
fn what_is_no_chain_is_no_answer() {
    let question = question("a.example.", RecordType::A);
    let long = |aliases: usize| -> Vec<Record> {
        let names: Vec<String> = std::iter::once("a.example.".to_owned())
            .chain((1..=aliases).map(|number| format!("n{number}.example.")))
            .collect();
        names
            .windows(2)
            .map(|pair| alias(&pair[0], 60, &pair[1]))
            .chain([a(&names[aliases], 60, "203.0.113.1")])
            .collect()
    };
    assert_eq!(
        filtered(&question, long(16))
            .expect("an answer")
            .answer
            .addresses
            .len(),
        1
    );
    let several = vec![
        alias("a.example.", 60, "b.example."),
        alias("A.EXAMPLE.", 60, "c.example."),
    ];
    let circle = vec![
        alias("a.example.", 60, "b.example."),
        alias("b.example.", 60, "A.example."),
    ];
    let itself = vec![alias("a.example.", 60, "a.example.")];
    for (records, why) in [
        (long(17), Unusable::TooManyAliases),
        (several, Unusable::SeveralAliases),
        (circle, Unusable::Circle),
        (itself, Unusable::Circle),
    ] {
        assert_eq!(filtered(&question, records).err(), Some(why));
    }
}

#[test]
fn only_the_response_to_the_question_is_one() {
    let asked_for = question("a.example.", RecordType::A);
    let good = response(&asked_for, vec![a("a.example.", 60, "203.0.113.1")]);
    let check = |change: &dyn Fn(&mut Message)| {
        let mut message = good.clone();
        change(&mut message);
        filter(&asked_for.queries[0], message).err()
    };
    assert_eq!(
        check(&|message| message.queries[0].name = name("A.eXample.")),
        None
    );
    let not = Some(Unusable::NotTheResponse);
    let other = |name_, record_type| Query::query(name(name_), record_type);
    assert_eq!(check(&|message| message.queries.clear()), not);
    assert_eq!(
        check(&|message| message.queries.push(asked_for.queries[0].clone())),
        not
    );
    assert_eq!(
        check(&|message| message.queries[0] = other("b.example.", RecordType::A)),
        not
    );
    assert_eq!(
        check(&|message| message.queries[0] = other("a.example.", RecordType::MX)),
        not
    );
    assert_eq!(
        check(&|message| message.queries[0].query_class = DNSClass::CH),
        not
    );
    assert_eq!(
        check(&|message| message.metadata.message_type = MessageType::Query),
        not
    );
    assert_eq!(
        check(&|message| message.metadata.truncation = true),
        Some(Unusable::Cut)
    );
}

#[test]
fn datagrams_are_no_longer_than_the_client_takes() {
    let many = |question: &Message, count: u8| {
        let records = (0..count)
            .map(|last| a("a.example.", 60, &format!("203.0.113.{last}")))
            .collect();
        filtered(question, records).expect("an answer").message
    };
    let plain = question("a.example.", RecordType::A);
    let with_edns = |payload| {
        let mut question = plain.clone();
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        question.set_edns(edns);
        question
    };
    // 12 bytes of header, 15 of question, 16 for each address, 11 of EDNS.
    for (question, most) in [
        (plain.clone(), 512),
        (with_edns(512), 512),
        (with_edns(900), 900),
        (with_edns(1232), 1232),
        (with_edns(4096), 1232),
    ] {
        let asked = asked(&question);
        let overhead = if question.edns.is_some() { 38 } else { 27 };
        let fits = u8::try_from((most - overhead) / 16).expect("few");
        for (count, is_cut) in [(fits, false), (fits + 1, true)] {
            let sent = asked
                .release(many(&question, count), Protocol::Udp)
                .expect("encoded");
            assert!(sent.len() <= most);
            let sent = Message::from_vec(&sent).expect("decoded");
            assert_eq!(sent.metadata.truncation, is_cut);
            assert_eq!(sent.answers.len(), if is_cut { 0 } else { count.into() });
            assert_eq!(sent.queries, question.queries);
            assert_eq!(sent.edns.is_some(), question.edns.is_some());
        }
        let sent = asked
            .release(many(&question, 200), Protocol::Tcp)
            .expect("encoded");
        assert_eq!(
            DnsResponse::from_buffer(sent)
                .expect("a response")
                .answers
                .len(),
            200
        );
    }
}

#[test]
fn what_tells_whose_the_question_is_stays_here() {
    let mut question = question("a.eXample.", RecordType::A);
    question.metadata.checking_disabled = true;
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    edns.set_dnssec_ok(true);
    let subnet = [0, 1, 24, 0, 198, 51, 100];
    for (code, data) in [(EdnsCode::Subnet, &subnet[..]), (EdnsCode::Cookie, &[0; 8])] {
        edns.options_mut()
            .insert(EdnsOption::try_from((code, data)).expect("an option"));
    }
    question.set_edns(edns);
    let asked = asked(&question);
    let forwarded = asked.forwarded();
    assert!(forwarded.queries[0].name.eq_case(&name("a.eXample.")));
    assert!(forwarded.metadata.recursion_desired && forwarded.metadata.checking_disabled);
    let edns = forwarded.edns.expect("edns");
    assert!(edns.flags().dnssec_ok && edns.options().as_ref().is_empty());
    assert_eq!(edns.max_payload(), 1232);
    // A random id can be the same by chance, but not each time.
    let ids = (0..20).map(|_| asked.forwarded().metadata.id);
    assert!(ids.into_iter().any(|id| id != question.metadata.id));
}

#[test]
fn why_there_is_no_better_answer_is_passed_on_but_no_other_option() {
    let mut question = question("a.example.", RecordType::A);
    question.set_edns(Edns::new());
    let mut message = says(&question, ResponseCode::NXDomain);
    let mut edns = Edns::new();
    for code in [15, 10] {
        edns.options_mut()
            .insert(EdnsOption::Unknown(code, vec![0, 22]));
    }
    message.set_edns(edns);
    let released = asked(&question)
        .release(message, Protocol::Udp)
        .expect("encoded");
    let edns = Message::from_vec(&released)
        .expect("decoded")
        .edns
        .expect("edns");
    assert_eq!(edns.options().as_ref().len(), 1);
    assert!(edns.option(EdnsCode::Unknown(15)).is_some());
}
