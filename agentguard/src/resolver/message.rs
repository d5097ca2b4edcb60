//! What of an upstream resolver's response is released, and which addresses are in it. A pure
//! function: nothing is sent or remembered here, and the client's part of the answer (id, question,
//! EDNS) is put in elsewhere.

use std::net::IpAddr;

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{DNSClass, Name, RData, Record, RecordType},
};

use super::Answer;

/// Aliases that are followed from a name. Names that work have a few; resolvers themselves give up
/// not much later (Unbound and BIND at 11 unless told otherwise, `max-query-restarts`).
const ALIASES: usize = 16;

/// Why a response can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("it can't be read")]
    Unreadable,
    #[error("it isn't a response to the question")]
    NotTheResponse,
    #[error("it was cut, even over TCP")]
    Cut,
    #[error("a name is an alias for several")]
    SeveralAliases,
    #[error("its aliases go in a circle")]
    Circle,
    #[error("it has more than {ALIASES} aliases in a row")]
    TooManyAliases,
}

/// A response of which only the part is left that belongs to the question.
#[derive(Debug)]
pub(super) struct Filtered {
    pub(super) message: Message,
    pub(super) answer: Answer,
}

/// Takes from a response what belongs to the question.
///
/// A client believes every address that it finds at a name on the chain of aliases, so these are
/// what is reported; and no other address is let through, so that it can't believe one that wasn't.
pub(super) fn filter(query: &Query, mut response: Message) -> Result<Filtered, Unusable> {
    let is_response = response.metadata.message_type == MessageType::Response
        && response.metadata.op_code == OpCode::Query
        // Names are compared without regard to case.
        && response.queries.as_slice() == std::slice::from_ref(query);
    if !is_response {
        return Err(Unusable::NotTheResponse);
    }
    if response.metadata.truncation {
        return Err(Unusable::Cut);
    }
    let chain = chain(&query.name, &response.answers)?;
    response.answers.retain(|record| {
        is_harmless(record)
            && (!is_followed(record) || chain.iter().any(|link| link.name == record.name))
    });
    let beside = |record: &Record| is_harmless(record) && !is_followed(record);
    response.authorities.retain(beside);
    response.additionals.retain(beside);
    let addresses = response
        .answers
        .iter()
        .filter_map(|record| {
            let link = chain.iter().find(|link| link.name == record.name)?;
            Some((address(record)?, lifetime(record).min(link.ttl)))
        })
        .collect();
    Ok(Filtered {
        answer: Answer {
            response_code: response.metadata.response_code,
            addresses,
            chain: chain.iter().map(|link| link.name.to_lowercase()).collect(),
        },
        message: response,
    })
}

/// Whether nobody gets records of this type.
pub(super) fn is_withheld(record_type: RecordType) -> bool {
    matches!(record_type, RecordType::HTTPS | RecordType::SVCB)
}

/// A name on the way from the asked one to the addresses.
struct Link {
    name: Name,
    /// The shortest lifetime, in seconds, of the aliases on the way here.
    ttl: u32,
}

/// The asked name and what it is an alias for. A name's alias is followed wherever it stands in the
/// section. Those of DNAME come with a CNAME made for the name that was asked (RFC 6672 section
/// 3.1), so they need nothing of their own.
fn chain(name: &Name, answers: &[Record]) -> Result<Vec<Link>, Unusable> {
    let mut chain: Vec<Link> = Vec::new();
    let mut last = Link {
        name: name.clone(),
        ttl: u32::MAX,
    };
    loop {
        let mut aliases = answers
            .iter()
            .filter(|record| record.dns_class == DNSClass::IN && record.name == last.name)
            .filter_map(|record| match &record.data {
                RData::CNAME(target) => Some((&target.0, lifetime(record))),
                _ => None,
            });
        let Some((target, ttl)) = aliases.next() else {
            chain.push(last);
            return Ok(chain);
        };
        if aliases.next().is_some() {
            return Err(Unusable::SeveralAliases);
        }
        let next = Link {
            name: target.clone(),
            ttl: ttl.min(last.ttl),
        };
        chain.push(last);
        if chain.iter().any(|link| link.name == next.name) {
            return Err(Unusable::Circle);
        }
        if chain.len() > ALIASES {
            return Err(Unusable::TooManyAliases);
        }
        last = next;
    }
}

/// Whether a client follows this record to an address, so that it must be at a name on the chain.
fn is_followed(record: &Record) -> bool {
    matches!(
        record.record_type(),
        RecordType::A | RecordType::AAAA | RecordType::CNAME
    )
}

/// Whether a record may be anywhere in an answer. A signature of the whole message (TSIG) was made
/// for this resolver.
fn is_harmless(record: &Record) -> bool {
    let record_type = record.record_type();
    record.dns_class == DNSClass::IN && record_type != RecordType::TSIG && !is_withheld(record_type)
}

fn address(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

/// In seconds. Those with the highest bit set mean 0 (RFC 2181 section 8).
fn lifetime(record: &Record) -> u32 {
    if record.ttl > i32::MAX.unsigned_abs() {
        0
    } else {
        record.ttl
    }
}
