//! A resolver that forwards what it may and writes down what it learns before it answers. It doesn't know who asks, nor
//! what may be asked: that is its [`Desk`]'s business. The protocol is hickory's.

mod configured;
mod limits;
mod listen;
mod message;
mod upstream;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use hickory_proto::op::{Message, OpCode, ResponseCode};
pub use hickory_proto::rr::RecordType;
use tokio::sync::oneshot;

pub use self::{
    configured::Configured,
    listen::{Pair, bind},
    upstream::{Place, Upstreams},
};
use self::{limits::Limits, message::Asked};

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// A question, as far as it is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The labels of the name, as they were written.
    pub labels: Vec<Vec<u8>>,
    pub kind: RecordType,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub response: ResponseCode,
    /// The addresses, each with its lifetime in seconds: the shortest on the way from the name to it.
    pub addresses: Vec<(IpAddr, u32)>,
}

/// What is done with a question.
pub enum Judgement {
    Forward(Upstreams),
    /// Answered with REFUSED.
    Refuse,
    /// Answered as if there were no such name: for names that programs make of others and a list of domains to search
    /// (resolv.conf(5), `search`). They try the next only when this one isn't there.
    Hide,
}

/// Why a question was not forwarded, or got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Not one question, or not a question at all.
    Malformed,
    /// An operation or a type of record that isn't forwarded for anybody.
    Unsupported,
    /// More questions than one may ask in this time.
    TooMany,
    /// None of the resolvers answered in time, or with anything that could be believed.
    NoAnswer,
}

/// Who the resolver works for. Called from its tasks: what is done here must not take long.
pub trait Desk: Send + Sync + 'static {
    /// Who asks.
    type Asker: Clone + Send + Sync + 'static;

    /// Who sent something from `source` to the pair with this number. `None` for nobody known: there is no answer.
    fn asker(&self, number: u32, transport: Transport, source: SocketAddr) -> Option<Self::Asker>;

    /// Whose questions are counted together.
    fn key(&self, asker: &Self::Asker) -> u64;

    /// Whether a question may be forwarded, and where to.
    fn judge(&self, asker: &Self::Asker, question: &Question) -> Judgement;

    /// Writes down what was learnt, before the answer is released. False when that can't be done: then there is none.
    fn release(&self, asker: &Self::Asker, question: &Question, answer: &Answer) -> bool;

    /// Something went wrong. `question` is there when it could be read.
    fn failed(&self, asker: &Self::Asker, question: Option<&Question>, why: Failure);
}

/// Answers on a pair of listeners until `stop` is dropped.
///
/// # Errors
///
/// When the sockets can't be waited for.
pub fn serve<D: Desk>(
    number: u32,
    pair: Pair,
    desk: Arc<D>,
    stop: oneshot::Receiver<()>,
) -> io::Result<()> {
    listen::serve(
        number,
        pair,
        Arc::new(Work {
            desk,
            limits: Limits::default(),
        }),
        stop,
    )
}

/// What answering takes.
struct Work<D> {
    desk: Arc<D>,
    limits: Limits,
}

impl<D: Desk> Work<D> {
    /// The answer to one message, as it is sent; `None` when it gets none.
    async fn answer(
        &self,
        asker: &D::Asker,
        bytes: &[u8],
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let message = match Message::from_vec(bytes) {
            Ok(message) => message,
            Err(_) => {
                self.desk.failed(asker, None, Failure::Malformed);
                return message::unreadable(bytes);
            }
        };
        let asked = match Asked::new(message) {
            Ok(asked) => asked,
            Err(refused) => {
                let why = match refused.response {
                    ResponseCode::FormErr => Failure::Malformed,
                    _ => Failure::Unsupported,
                };
                self.desk.failed(asker, refused.question.as_ref(), why);
                return refused.reply;
            }
        };
        let key = self.desk.key(asker);
        let Some(_place) = self.limits.enter(key) else {
            if self.limits.tells(key) {
                self.desk
                    .failed(asker, Some(&asked.question), Failure::TooMany);
            }
            return asked.reply(ResponseCode::Refused, transport);
        };
        let upstreams = match self.desk.judge(asker, &asked.question) {
            Judgement::Forward(upstreams) => upstreams,
            Judgement::Refuse => return asked.reply(ResponseCode::Refused, transport),
            Judgement::Hide => return asked.reply(ResponseCode::NXDomain, transport),
        };
        if asked.is_withheld() {
            return asked.reply(ResponseCode::NoError, transport);
        }
        let filtered = match upstreams.ask(&asked).await {
            Some(response) => asked.filter(response),
            None => None,
        };
        let Some((released, answer)) = filtered else {
            self.desk
                .failed(asker, Some(&asked.question), Failure::NoAnswer);
            return asked.reply(ResponseCode::ServFail, transport);
        };
        if !self.desk.release(asker, &asked.question, &answer) {
            return asked.reply(ResponseCode::ServFail, transport);
        }
        asked.fit(released, transport)
    }
}

/// The only operation that is answered.
const OPERATION: OpCode = OpCode::Query;

#[cfg(test)]
mod tests;
