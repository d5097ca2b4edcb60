//! One question, from the bytes that came to the bytes that go back. Where they come from and go to
//! is `listener`'s business.

use std::{sync::Arc, time::Instant};

use hickory_proto::op::ResponseCode;

use super::{
    Desk, Failure, Judgement, Protocol, Resolver,
    asked::{Asked, Rejected},
    limits::{Over, Permit},
};

/// What is done with something that came.
pub(super) enum Step<D: Desk> {
    /// Nothing goes back.
    Silence,
    /// This goes back at once.
    Reply(Vec<u8>),
    /// It is to be judged. There are never more of these at once than may be in flight.
    Judge(Box<Admitted<D>>),
}

/// A question that is within the limits; it counts as long as this lives.
pub(super) struct Admitted<D: Desk> {
    desk: Arc<D>,
    asker: D::Asker,
    asked: Asked,
    protocol: Protocol,
    permit: Permit,
}

impl<D: Desk> Resolver<D> {
    /// The first step: takes no longer than reading the message does.
    pub(super) fn admit(&self, asker: &D::Asker, bytes: &[u8], protocol: Protocol) -> Step<D> {
        let now = Instant::now();
        let key = self.desk.key(asker);
        let is_within_rate = self.limits.take(key, now);
        let asked = match Asked::parse(bytes) {
            Ok(asked) => asked,
            // What isn't a question either is neither answered nor told.
            Err(_) if !is_within_rate => return Step::Silence,
            Err(Rejected {
                why,
                question,
                reply,
            }) => {
                self.desk.failed(asker, question.as_ref(), why);
                return reply.map_or(Step::Silence, Step::Reply);
            }
        };
        let entered = if is_within_rate {
            self.limits.enter(key, now)
        } else {
            Err(Over::One)
        };
        match entered {
            Ok(permit) => Step::Judge(Box::new(Admitted {
                desk: Arc::clone(&self.desk),
                asker: asker.clone(),
                asked,
                protocol,
                permit,
            })),
            Err(over) => {
                let (why, response_code) = match over {
                    Over::One => (Failure::RateLimited, ResponseCode::Refused),
                    Over::All => (Failure::Overloaded, ResponseCode::ServFail),
                };
                if self.limits.tells(key, now) {
                    self.desk.failed(asker, Some(asked.question()), why);
                }
                let reply = asked.reply(response_code, protocol);
                reply.map_or(Step::Silence, Step::Reply)
            }
        }
    }
}

impl<D: Desk> Admitted<D> {
    /// The answer, as it is sent, and what keeps the question counted until it is. `None` when none
    /// can be written.
    pub(super) async fn answer(self) -> Option<(Vec<u8>, Permit)> {
        let (asked, protocol) = (&self.asked, self.protocol);
        let bytes = match self.resolve().await {
            Ok(bytes) => bytes,
            Err(response_code) => asked.reply(response_code, protocol),
        };
        Some((bytes?, self.permit))
    }

    /// The error is what the client is told.
    async fn resolve(&self) -> Result<Option<Vec<u8>>, ResponseCode> {
        let question = self.asked.question();
        let upstreams = match self.desk.judge(&self.asker, question) {
            Judgement::Forward(upstreams) => upstreams,
            Judgement::Refuse => return Err(ResponseCode::Refused),
            Judgement::Hide => return Err(ResponseCode::NXDomain),
        };
        if self.asked.is_withheld() {
            return Err(ResponseCode::NoError);
        }
        let filtered = upstreams.ask(&self.asked).await.map_err(|why| {
            self.desk.failed(&self.asker, Some(question), why);
            ResponseCode::ServFail
        })?;
        self.desk
            .release(&self.asker, question, &filtered.answer)
            .map_err(|_| ResponseCode::ServFail)?;
        Ok(self.asked.release(filtered.message, self.protocol))
    }
}
