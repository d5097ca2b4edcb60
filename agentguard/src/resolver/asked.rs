//! What a client sent, and what it is sent back. Whether it may be asked, and what the answer is,
//! isn't known here.

use hickory_proto::{
    op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, RecordType,
        rdata::opt::{EdnsCode, EdnsOption},
    },
    serialize::binary::{BinDecodable as _, BinDecoder},
};

use super::{Failure, Protocol, Question, message};

/// Longest datagram that is sent or asked for, in bytes: it isn't fragmented anywhere (DNS Flag Day
/// 2020).
const DATAGRAM_BYTES: u16 = 1232;
/// Longest that every client takes (RFC 1035 section 4.2.1).
const PLAIN_DATAGRAM_BYTES: u16 = 512;
/// Says why there is no better answer (RFC 8914). hickory has no name for it.
const EXTENDED_ERROR: EdnsCode = EdnsCode::Unknown(15);

/// A question that may be judged.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    question: Question,
    /// As it was written: a client may have chosen the case of its letters to know its answer
    /// again.
    query: Query,
    metadata: Metadata,
    edns: Option<ClientEdns>,
}

#[derive(Clone, Copy, Debug)]
struct ClientEdns {
    /// Longest datagram that the client takes, in bytes.
    payload: u16,
    /// The client wants signatures.
    is_dnssec_ok: bool,
}

/// What gets no further.
#[derive(Debug)]
pub(super) struct Rejected {
    pub(super) why: Failure,
    pub(super) question: Option<Question>,
    /// `None` when no answer is due, or none could be told from noise.
    pub(super) reply: Option<Vec<u8>>,
}

impl Asked {
    /// Reads what a client sent.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Rejected> {
        // The header comes first: whoever only has the start right is told so, and nothing is
        // reserved for the 65,535 questions that a header can promise.
        let silent = Rejected {
            why: Failure::Malformed,
            question: None,
            reply: None,
        };
        let Ok(header) = Header::read(&mut BinDecoder::new(bytes)) else {
            return Err(silent);
        };
        // An answer to an answer could go back and forth for ever.
        if header.message_type != MessageType::Query {
            return Err(silent);
        }
        let reject = |why, response_code| {
            let reply = empty(&header.metadata, None, response_code);
            Rejected {
                why,
                question: None,
                reply: reply.to_vec().ok(),
            }
        };
        if header.op_code != OpCode::Query {
            return Err(reject(Failure::Unsupported, ResponseCode::NotImp));
        }
        if header.counts.queries != 1 {
            return Err(reject(Failure::Malformed, ResponseCode::FormErr));
        }
        let (metadata, query, edns) = match Message::from_vec(bytes) {
            Ok(Message {
                metadata,
                mut queries,
                edns,
                ..
            }) if queries.len() == 1 => (metadata, queries.remove(0), edns),
            _ => return Err(reject(Failure::Malformed, ResponseCode::FormErr)),
        };
        let asked = Self {
            question: Question {
                name: query.name.to_lowercase(),
                record_type: query.query_type,
            },
            query,
            metadata,
            edns: edns.as_ref().map(|edns| ClientEdns {
                payload: edns.max_payload(),
                is_dnssec_ok: edns.flags().dnssec_ok,
            }),
        };
        let response_code = if edns.is_some_and(|edns| edns.version() != 0) {
            ResponseCode::BADVERS
        } else if asked.query.query_class != DNSClass::IN
            || is_no_type_of_records(asked.record_type())
        {
            ResponseCode::Refused
        } else {
            return Ok(asked);
        };
        Err(Rejected {
            why: Failure::Unsupported,
            reply: asked.reply(response_code, Protocol::Udp),
            question: Some(asked.question),
        })
    }

    pub(super) fn question(&self) -> &Question {
        &self.question
    }

    pub(super) fn query(&self) -> &Query {
        &self.query
    }

    fn record_type(&self) -> RecordType {
        self.query.query_type
    }

    /// Whether nobody gets such records. With them a client would encrypt the name of the host that
    /// it connects to (Encrypted Client Hello), or connect to addresses that are hints in them (RFC
    /// 9460 sections 7.3 and 14.3.2).
    pub(super) fn is_withheld(&self) -> bool {
        message::is_withheld(self.record_type())
    }

    /// The question as it is forwarded: with a random id, and without options that tell whose it is
    /// (client subnet, cookies).
    pub(super) fn forwarded(&self) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.metadata.authentic_data = self.metadata.authentic_data;
        message.metadata.checking_disabled = self.metadata.checking_disabled;
        message.add_query(self.query.clone());
        message.set_edns(edns(self.is_dnssec_ok()));
        message
    }

    /// An answer without records, as it is sent.
    pub(super) fn reply(&self, response_code: ResponseCode, protocol: Protocol) -> Option<Vec<u8>> {
        let mut message = empty(&self.metadata, Some(&self.query), response_code);
        message.edns = self.edns.map(|edns_| edns(edns_.is_dnssec_ok));
        self.encode(message, protocol)
    }

    /// An answer from upstream, as it is sent: with the client's id, its question exactly as it
    /// wrote it, and EDNS if it spoke EDNS.
    pub(super) fn release(&self, mut message: Message, protocol: Protocol) -> Option<Vec<u8>> {
        message.metadata.id = self.metadata.id;
        message.metadata.recursion_desired = self.metadata.recursion_desired;
        message.metadata.checking_disabled = self.metadata.checking_disabled;
        message.queries = vec![self.query.clone()];
        let upstream = message.edns.take();
        message.edns = self.edns.map(|client| {
            let mut edns = edns(client.is_dnssec_ok);
            // The other options are between the upstream resolver and this one (RFC 6891 section
            // 6.1.1).
            for error in upstream
                .iter()
                .flat_map(|upstream| upstream.options().get_all(EXTENDED_ERROR))
            {
                edns.options_mut().insert(EdnsOption::clone(error));
            }
            edns
        });
        self.encode(message, protocol)
    }

    /// What is longer than its receiver takes becomes an empty answer that tells it to ask again
    /// over TCP (RFC 2181 section 9).
    fn encode(&self, mut message: Message, protocol: Protocol) -> Option<Vec<u8>> {
        let bytes = message.to_vec().ok()?;
        let limit = match protocol {
            Protocol::Tcp => u16::MAX,
            Protocol::Udp => self.edns.map_or(PLAIN_DATAGRAM_BYTES, |edns| {
                edns.payload.clamp(PLAIN_DATAGRAM_BYTES, DATAGRAM_BYTES)
            }),
        };
        if bytes.len() <= usize::from(limit) {
            return Some(bytes);
        }
        message.answers.clear();
        message.authorities.clear();
        message.additionals.clear();
        message.metadata.truncation = true;
        if let Some(edns) = &mut message.edns {
            edns.options_mut().remove(EXTENDED_ERROR);
        }
        message.to_vec().ok()
    }

    fn is_dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.is_dnssec_ok)
    }
}

/// Whether there are no records of this type: it asks for several or for a transfer (ANY, AXFR,
/// ...), or belongs to the protocol itself. 128 to 255 are set aside for such (RFC 6895 section
/// 3.1).
fn is_no_type_of_records(record_type: RecordType) -> bool {
    matches!(u16::from(record_type), 0 | 41 | 128..=255)
}

fn edns(is_dnssec_ok: bool) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(DATAGRAM_BYTES);
    edns.set_dnssec_ok(is_dnssec_ok);
    edns
}

/// A response without records.
fn empty(asked: &Metadata, query: Option<&Query>, response_code: ResponseCode) -> Message {
    let mut message = Message::response(asked.id, asked.op_code);
    message.metadata.recursion_desired = asked.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.checking_disabled = asked.checking_disabled;
    message.metadata.response_code = response_code;
    message.add_queries(query.cloned());
    message
}
