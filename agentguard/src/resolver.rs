//! A DNS resolver that forwards what it may, and reports what it learns before it answers. It is no
//! cache, and it decides nothing: who asks, what they may ask and what becomes of an answer is its
//! [`Desk`]'s business. The protocol is hickory's.
//!
//! One question goes this way: [`Desk::asker`] says who sent it; `limits` whether that isn't one
//! too many; `asked` reads it; [`Desk::judge`] says whether it is forwarded; `upstream` forwards
//! it; `message` keeps of the answer what belongs to the question; [`Desk::release`] is told the
//! addresses; only then the answer goes out. Whatever goes wrong on the way ends in an error for
//! the client, never in an answer that wasn't reported.

mod asked;
mod configured;
mod exchange;
mod limits;
mod listener;
mod message;
mod sockets;
mod upstream;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

pub use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};

use self::limits::Limits;
pub use self::{
    configured::{Configured, Error as ConfiguredError},
    listener::Error as ServeError,
    message::Unusable,
    sockets::{Ends, Sockets, bind_pair},
    upstream::{Here, SocketMaker, Upstreams},
};

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Udp,
    Tcp,
}

/// A question, as far as it is judged. Its class is always IN.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// In lower case, fully qualified; its labels may hold any bytes.
    pub name: Name,
    pub record_type: RecordType,
}

impl Question {
    /// The labels of the name, the host's first. None for the root.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        self.name.iter()
    }
}

impl fmt::Display for Question {
    /// Name and type, with every byte escaped that isn't printable ASCII.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.name.to_ascii(), self.record_type)
    }
}

/// What came of a forwarded question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `NoError` or `NXDomain`; anything else is no answer.
    pub response_code: ResponseCode,
    /// Every address that is released, with its lifetime in seconds: the shortest of the records on
    /// the way from the name to it. They are what the upstream resolver said, and may be of any
    /// kind: loopback and link-local as well.
    pub addresses: Vec<(IpAddr, u32)>,
    /// The asked name, and those that it is an alias for, in order and in lower case.
    pub chain: Vec<Name>,
}

/// What is done with a question.
#[derive(Clone, Debug)]
pub enum Judgement {
    /// It may be asked of these.
    Forward(Upstreams),
    /// The client is told REFUSED.
    Refuse,
    /// The client is told that there is no such name: one that it made of another and a domain to search
    /// (resolv.conf(5), `search`). It tries the next only when this one isn't there.
    Hide,
}

/// Why a question was not forwarded, or got no answer. The client was told what is said with each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Not a message, or not with one question. FORMERR; nothing when it isn't a question at all.
    #[error("is malformed")]
    Malformed,
    /// An operation (NOTIMP), class, type (REFUSED) or version of EDNS (BADVERS) that is forwarded
    /// for nobody.
    #[error("is of a kind that isn't forwarded")]
    Unsupported,
    /// One question too many of one asker. REFUSED. Told at most once a second.
    #[error("is one too many of its asker")]
    RateLimited,
    /// Too many questions wait for an answer. SERVFAIL. Told at most once a second.
    #[error("is one too many for this resolver")]
    Overloaded,
    /// No upstream resolver answered in time. SERVFAIL.
    #[error("was not answered in time")]
    NoAnswer,
    /// Every upstream resolver that answered said that it can't or won't. SERVFAIL.
    #[error("was answered upstream with {0}")]
    Upstream(ResponseCode),
    /// What the upstream resolvers said can't be believed. SERVFAIL.
    #[error("was answered with something unusable: {0}")]
    Unusable(#[from] Unusable),
}

/// An answer could not be written down, so it must not be released. Why is for the [`Desk`] to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer could not be written down")]
pub struct Unreleased;

/// Who the resolver works for.
///
/// These are called from the resolver's tasks. They may hold a mutex or call the kernel, but must
/// not wait for anything longer than that: while one runs, its thread answers nobody else. If
/// `asker`, `key` or `failed` panics the listener may stop, and then [`Resolver::serve`] returns an
/// error; if another panics only that question stays without an answer.
pub trait Desk: Send + Sync + 'static {
    /// Somebody who asks.
    type Asker: Clone + Send + Sync + 'static;

    /// Who sent something from `source` to listener number `listener`: asked once for each
    /// datagram, and once for each connection. `None` for nobody known: a datagram gets no answer
    /// at all, a connection is closed.
    fn asker(&self, listener: u32, protocol: Protocol, source: SocketAddr) -> Option<Self::Asker>;

    /// Whose questions are counted together.
    fn key(&self, asker: &Self::Asker) -> u64;

    /// Whether a question may be forwarded, and where to. Questions for HTTPS and SVCB are judged
    /// as well, but are never forwarded: for an allowed name there are no such records.
    fn judge(&self, asker: &Self::Asker, question: &Question) -> Judgement;

    /// Writes down what came of a forwarded question. The answer isn't released before this
    /// returns.
    ///
    /// # Errors
    ///
    /// When that can't be done: the client is told SERVFAIL instead.
    fn release(
        &self,
        asker: &Self::Asker,
        question: &Question,
        answer: &Answer,
    ) -> Result<(), Unreleased>;

    /// A question went wrong. It is there when it could be read. Not told of what this desk refused
    /// itself.
    fn failed(&self, asker: &Self::Asker, question: Option<&Question>, why: Failure);
}

/// The resolver: one for all its listeners, since they share its limits.
pub struct Resolver<D> {
    desk: Arc<D>,
    limits: Arc<Limits>,
}

impl<D> Clone for Resolver<D> {
    fn clone(&self) -> Self {
        Self {
            desk: Arc::clone(&self.desk),
            limits: Arc::clone(&self.limits),
        }
    }
}

impl<D: Desk> Resolver<D> {
    pub fn new(desk: Arc<D>) -> Self {
        Self {
            desk,
            limits: Arc::default(),
        }
    }

    /// Answers at `sockets` until `shutdown` is ready. What wasn't answered by then gets no answer;
    /// when this returns, the sockets are closed. To be called inside a runtime of tokio with I/O
    /// and time.
    ///
    /// # Errors
    ///
    /// When the sockets can't be waited for, or one of the tasks that do panicked.
    pub async fn serve(
        &self,
        listener: u32,
        sockets: Sockets,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        listener::serve(self, listener, sockets, shutdown).await
    }
}
