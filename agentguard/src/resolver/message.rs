//! Messages: what is asked, and what of an answer is released. Nothing is sent here.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType},
};

use super::{Answer, OPERATION, Question, Transport};

/// Longest datagram that is sent where its receiver takes more: it isn't fragmented on the way (DNS Flag Day 2020).
pub const DATAGRAM_BYTES: u16 = 1232;
/// Longest that everybody takes (RFC 1035 section 4.2.1).
const PLAIN_DATAGRAM_BYTES: u16 = 512;
/// Aliases that are followed at most from a name to its addresses.
const CHAIN: usize = 16;

/// A question that can be judged.
pub struct Asked {
    pub question: Question,
    /// As it was written: a client may have chosen the case of its letters to know its answer again.
    query: Query,
    metadata: Metadata,
    /// The longest datagram that the client takes, and whether it wants signatures.
    edns: Option<(u16, bool)>,
}

/// Something that gets no further.
pub struct Refused {
    pub response: ResponseCode,
    pub question: Option<Question>,
    pub reply: Option<Vec<u8>>,
}

impl Asked {
    /// Takes a message for a question.
    pub fn new(message: Message) -> Result<Self, Refused> {
        let refuse = |response, query: Option<&Query>| {
            Err(Refused {
                response,
                question: query.map(question),
                // An answer to an answer would be answered.
                reply: (message.metadata.message_type == MessageType::Query)
                    .then(|| empty(&message.metadata, query, response).to_vec().ok())
                    .flatten(),
            })
        };
        let query = match message.queries.as_slice() {
            [query] => query,
            _ => return refuse(ResponseCode::FormErr, None),
        };
        if message.metadata.message_type != MessageType::Query {
            return refuse(ResponseCode::FormErr, Some(query));
        }
        if message.metadata.op_code != OPERATION {
            return refuse(ResponseCode::NotImp, Some(query));
        }
        let is_zone_or_all = matches!(
            query.query_type,
            RecordType::ANY | RecordType::AXFR | RecordType::IXFR
        );
        if query.query_class != DNSClass::IN || is_zone_or_all {
            return refuse(ResponseCode::Refused, Some(query));
        }
        if message
            .edns
            .as_ref()
            .is_some_and(|edns| edns.version() != 0)
        {
            return refuse(ResponseCode::BADVERS, Some(query));
        }
        Ok(Self {
            question: question(query),
            query: query.clone(),
            metadata: message.metadata,
            edns: message
                .edns
                .as_ref()
                .map(|edns| (edns.max_payload(), edns.flags().dnssec_ok)),
        })
    }

    /// Whether nobody gets such records: with them a client could keep the name of the host that it talks to from
    /// whoever sees its packets (RFC 9460, Encrypted Client Hello).
    pub fn is_withheld(&self) -> bool {
        is_withheld(self.query.query_type)
    }

    /// The question as it is forwarded: with a number of its own, and without anything that says whose it is.
    pub fn forwarded(&self) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = self.metadata.checking_disabled;
        message.add_query(self.query.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(DATAGRAM_BYTES);
        edns.set_dnssec_ok(self.edns.is_some_and(|(_, dnssec)| dnssec));
        message.set_edns(edns);
        message
    }

    /// What of a response is released, and what it says. `None` when it is no response to this question.
    pub fn filter(&self, response: Message) -> Option<(Message, Answer)> {
        let is_answer = response.metadata.message_type == MessageType::Response
            && response.metadata.op_code == OPERATION
            && response.queries.len() == 1
            && response.queries[0] == self.query;
        if !is_answer {
            return None;
        }
        let mut released = empty(
            &self.metadata,
            Some(&self.query),
            response.metadata.response_code,
        );
        released.metadata.authentic_data = response.metadata.authentic_data;
        released.metadata.checking_disabled = self.metadata.checking_disabled;
        let chain = chain(&self.query.name, &response.answers)?;
        let ttl_of = |name: &Name| {
            chain
                .iter()
                .find(|(other, _)| other == name)
                .map(|(_, ttl)| *ttl)
        };
        let mut addresses = Vec::new();
        for record in response.answers {
            let on_chain = ttl_of(&record.name);
            match &record.data {
                RData::A(address) => {
                    let Some(ttl) = on_chain else { continue };
                    addresses.push((IpAddr::V4(address.0), ttl.min(record.ttl)));
                }
                RData::AAAA(address) => {
                    let Some(ttl) = on_chain else { continue };
                    addresses.push((IpAddr::V6(address.0), ttl.min(record.ttl)));
                }
                RData::CNAME(_) if on_chain.is_none() => continue,
                _ if is_withheld(record.record_type()) => continue,
                _ => {}
            }
            released.add_answer(record);
        }
        released.add_authorities(response.authorities.into_iter().filter(is_harmless));
        released.add_additionals(response.additionals.into_iter().filter(is_harmless));
        let answer = Answer {
            response: response.metadata.response_code,
            addresses,
        };
        Some((released, answer))
    }

    /// An answer without records.
    pub fn reply(&self, response: ResponseCode, transport: Transport) -> Option<Vec<u8>> {
        self.fit(
            empty(&self.metadata, Some(&self.query), response),
            transport,
        )
    }

    /// An answer as it is sent: what is longer than its receiver takes is to be asked for again over TCP.
    pub fn fit(&self, mut message: Message, transport: Transport) -> Option<Vec<u8>> {
        if let Some((_, dnssec)) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM_BYTES);
            edns.set_dnssec_ok(dnssec);
            message.set_edns(edns);
        }
        let bytes = message.to_vec().ok()?;
        let limit = match transport {
            Transport::Tcp => u16::MAX,
            Transport::Udp => self.edns.map_or(PLAIN_DATAGRAM_BYTES, |(bytes, _)| {
                bytes.clamp(PLAIN_DATAGRAM_BYTES, DATAGRAM_BYTES)
            }),
        };
        if bytes.len() <= usize::from(limit) {
            return Some(bytes);
        }
        message.answers.clear();
        message.authorities.clear();
        message.additionals.clear();
        message.metadata.truncation = true;
        message.to_vec().ok()
    }
}

/// The answer to bytes that are no message: as far as they have a number, and aren't an answer themselves.
pub fn unreadable(bytes: &[u8]) -> Option<Vec<u8>> {
    let (id, rest) = bytes.split_first_chunk::<2>()?;
    let is_question = rest.first()? & 0x80 == 0;
    if !is_question {
        return None;
    }
    Message::error_msg(u16::from_be_bytes(*id), OPERATION, ResponseCode::FormErr)
        .to_vec()
        .ok()
}

fn question(query: &Query) -> Question {
    Question {
        labels: query.name.iter().map(<[u8]>::to_vec).collect(),
        kind: query.query_type,
    }
}

/// A response without records.
fn empty(asked: &Metadata, query: Option<&Query>, response: ResponseCode) -> Message {
    let mut message = Message::response(asked.id, asked.op_code);
    message.metadata.recursion_desired = asked.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.response_code = response;
    if let Some(query) = query {
        message.add_query(query.clone());
    }
    message
}

fn is_withheld(kind: RecordType) -> bool {
    matches!(kind, RecordType::HTTPS | RecordType::SVCB)
}

/// Whether a record beside the answer says nothing that somebody could take for an answer.
fn is_harmless(record: &Record) -> bool {
    let kind = record.record_type();
    !matches!(kind, RecordType::A | RecordType::AAAA | RecordType::CNAME) && !is_withheld(kind)
}

/// The names that a name stands for by the aliases in an answer, itself first, each with the shortest lifetime on the way
/// to it. `None` when that is no chain: two aliases of one name, a circle, or too many.
fn chain(name: &Name, answers: &[Record]) -> Option<Vec<(Name, u32)>> {
    let mut chain = vec![(name.clone(), u32::MAX)];
    loop {
        let (last, ttl) = chain.last()?.clone();
        let mut aliases = answers.iter().filter_map(|record| match &record.data {
            RData::CNAME(to) if record.name == last => Some((&to.0, record.ttl)),
            _ => None,
        });
        let Some((to, own_ttl)) = aliases.next() else {
            return Some(chain);
        };
        if aliases.next().is_some()
            || chain.len() > CHAIN
            || chain.iter().any(|(before, _)| before == to)
        {
            return None;
        }
        chain.push((to.clone(), ttl.min(own_ttl)));
    }
}
