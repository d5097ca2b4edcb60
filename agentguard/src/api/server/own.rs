//! The agents' own socket: it tells a process of an agent what its agent was refused and why, and takes what
//! the agent says for its own requests. It answers nothing else, to nobody else.
//!
//! Everybody may connect, and what connects may be hostile. So a connection is for one request, is short and
//! small, and each agent (and each user who is none) has few at a time and not many in a row. Nothing here
//! decides anything: the most that an agent gets by it is text on the screen of a person who is asked.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json,
    body::Body,
    extract::Query,
    http::{Method, Request, Response},
    response::IntoResponse,
};
use http_body_util::{BodyExt as _, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};

use super::{Api, Error, Failure, Peer, bind_as, refuse};
use crate::{
    api::types::{self, Refusal, RefusalCode},
    daemon::{KEPT_DENIALS, approvals::JUSTIFICATION_BYTES},
};

/// Connections at a time: of everybody, and of one owner.
const CONNECTIONS: usize = 64;
const CONNECTIONS_OF_ONE: usize = 4;
/// Requests that one owner may make at once, and how long it takes until it may make one more.
const BURST: u32 = 20;
const REFILL: Duration = Duration::from_millis(500);
/// Pause after each connection that is taken: finding out who it is costs something, and is done before its
/// owner's limits are known.
const PACE: Duration = Duration::from_millis(2);
/// Longest that one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a request's head, and of its body: a justification of which every byte is escaped.
const HEAD_BYTES: usize = 8 << 10;
const BODY_BYTES: usize = 6 * JUSTIFICATION_BYTES + 64;

/// Makes the socket; everybody may connect to it.
pub fn bind(path: &Path) -> Result<UnixListener, Error> {
    bind_as(path, None, 0o666)
}

/// Answers requests until the future is dropped.
pub async fn serve(listener: UnixListener, api: Api) {
    let guests = Arc::new(Mutex::new(Guests::default()));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (api, guests) = (api.clone(), Arc::clone(&guests));
                tokio::spawn(async move {
                    // Whoever takes too long is left.
                    let _ = tokio::time::timeout(PATIENCE, attend(stream, api, guests)).await;
                });
            }
            // No descriptors, perhaps. The next attempt may find some.
            Err(error) => tracing::warn!("cannot take a connection of an agent: {error}"),
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Who connected, as far as limits go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Owner {
    Agent(u64),
    /// No agent's process.
    User(u32),
}

/// Everybody who was here lately.
#[derive(Debug, Default)]
struct Guests {
    connections: usize,
    owners: HashMap<Owner, Guest>,
}

#[derive(Debug)]
struct Guest {
    connections: usize,
    /// Requests that may still be made, as of `since`.
    credit: u32,
    since: Instant,
}

/// What is done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    Served,
    /// It is told to come later.
    Later,
    /// It is closed.
    Closed,
}

impl Guests {
    /// Decides on one more connection. Unless it is closed, [`Self::leave`] must follow.
    fn admit(&mut self, owner: Owner, now: Instant) -> Admission {
        if self.connections == CONNECTIONS {
            return Admission::Closed;
        }
        // Those who have all their credit again are as if they had never been here.
        let forgotten = REFILL * BURST;
        self.owners.retain(|_, guest| {
            guest.connections > 0 || now.duration_since(guest.since) < forgotten
        });
        let guest = self.owners.entry(owner).or_insert(Guest {
            connections: 0,
            credit: BURST,
            since: now,
        });
        if guest.connections == CONNECTIONS_OF_ONE {
            return Admission::Closed;
        }
        let earned = now.duration_since(guest.since).as_millis() / REFILL.as_millis();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            guest.credit = guest.credit.saturating_add(earned).min(BURST);
            guest.since = now;
        }
        guest.connections += 1;
        self.connections += 1;
        if guest.credit == 0 {
            return Admission::Later;
        }
        guest.credit -= 1;
        Admission::Served
    }

    fn leave(&mut self, owner: Owner) {
        self.connections = self.connections.saturating_sub(1);
        if let Some(guest) = self.owners.get_mut(&owner) {
            guest.connections = guest.connections.saturating_sub(1);
        }
    }
}

/// Leaves when the connection ends, however it does.
struct Stay {
    guests: Arc<Mutex<Guests>>,
    owner: Owner,
}

impl Drop for Stay {
    fn drop(&mut self) {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        guests.leave(self.owner);
    }
}

/// An agent that asks about itself.
#[derive(Clone, Debug)]
struct Asker {
    agent: u64,
    session: String,
}

/// Serves one connection.
async fn attend(stream: UnixStream, api: Api, guests: Arc<Mutex<Guests>>) {
    let Some(credentials) = Peer::of(&stream).credentials else {
        return;
    };
    let (pid, pidfd) = (credentials.pid, Arc::clone(&credentials.pidfd));
    let asker = api.with(move |core| core.own(pid, &pidfd)).await;
    let owner = match &asker {
        Ok(Some((agent, _))) => Owner::Agent(*agent),
        // FAIL-CLOSED: whoever can't be told is nobody.
        Ok(None) | Err(_) => Owner::User(credentials.uid),
    };
    let admission = guests
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .admit(owner, Instant::now());
    if admission == Admission::Closed {
        return;
    }
    let _stay = Stay { guests, owner };
    let who = match (asker, admission) {
        (_, Admission::Later) => Err((
            RefusalCode::TooMany,
            "asked too often; ask again in a few seconds",
        )),
        (Ok(Some((agent, session))), _) => Ok(Asker { agent, session }),
        (Ok(None), _) => Err((
            RefusalCode::Forbidden,
            "this socket answers processes of agents alone, about themselves",
        )),
        (Err(_), _) => Err((
            RefusalCode::Internal,
            "the agent of the process that asks can't be told",
        )),
    };
    let service = service_fn(|request: Request<Incoming>| {
        let (api, who) = (api.clone(), who.clone());
        async move {
            Ok::<_, std::convert::Infallible>(match who {
                Ok(asker) => answer(request, &api, &asker)
                    .await
                    .unwrap_or_else(IntoResponse::into_response),
                Err((code, message)) => refuse(code, message),
            })
        }
    });
    // What goes wrong here is the peer's own loss.
    let _ = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Answers an agent about itself.
async fn answer(
    request: Request<Incoming>,
    api: &Api,
    asker: &Asker,
) -> Result<Response<Body>, Failure> {
    let uri = request.uri().clone();
    if request.method() == Method::POST
        && let Some(id) = justified(uri.path())
    {
        return justify(request.into_body(), id, api, asker).await;
    }
    match (request.method(), uri.path()) {
        (&Method::GET, "/v1/why") => {
            let Query(why) = Query::<types::Why>::try_from_uri(&uri)?;
            let last = why.last.unwrap_or(1).min(KEPT_DENIALS);
            let denials = api.denied.of(&asker.session, last);
            let agent = asker.agent;
            let waiting = api.with(move |core| Ok(core.pending_of(agent))).await?;
            Ok(Json(types::Own { waiting, denials }).into_response())
        }
        _ => Ok(refuse(
            RefusalCode::NotFound,
            "this socket answers GET /v1/why and POST /v1/approvals/ID/justification alone",
        )),
    }
}

/// Takes what an agent says for its own request.
async fn justify(
    body: Incoming,
    id: u64,
    api: &Api,
    asker: &Asker,
) -> Result<Response<Body>, Failure> {
    let bad = |message: String| {
        Failure(Refusal {
            code: RefusalCode::BadRequest,
            message,
            diagnostics: None,
        })
    };
    let body = Limited::new(body, BODY_BYTES)
        .collect()
        .await
        .map_err(|_| {
            bad(format!(
                "a justification has {JUSTIFICATION_BYTES} bytes at most"
            ))
        })?;
    let said: types::Justify = serde_json::from_slice(&body.to_bytes())
        .map_err(|error| bad(format!("the body is no justification: {error}")))?;
    let agent = asker.agent;
    let request = api.with(move |core| core.justify(agent, id, said)).await?;
    Ok(Json(request).into_response())
}

/// The number in `/v1/approvals/{id}/justification`.
fn justified(path: &str) -> Option<u64> {
    let id = path.strip_prefix("/v1/approvals/")?;
    id.strip_suffix("/justification")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_has_few_connections_and_leaves_room_for_others() {
        let mut guests = Guests::default();
        let now = Instant::now();
        let one = Owner::Agent(1);
        for _ in 0..CONNECTIONS_OF_ONE {
            assert_eq!(guests.admit(one, now), Admission::Served);
        }
        assert_eq!(guests.admit(one, now), Admission::Closed);
        assert_eq!(guests.admit(Owner::User(1), now), Admission::Served);
        guests.leave(one);
        assert_eq!(guests.admit(one, now), Admission::Served);
        for user in 2.. {
            if guests.admit(Owner::User(user), now) == Admission::Closed {
                assert_eq!(guests.connections, CONNECTIONS);
                break;
            }
        }
    }

    #[test]
    fn an_owner_that_asks_too_often_is_told_to_wait() {
        let mut guests = Guests::default();
        let now = Instant::now();
        let one = Owner::Agent(1);
        let mut ask = |at| {
            let admission = guests.admit(one, at);
            guests.leave(one);
            admission
        };
        for _ in 0..BURST {
            assert_eq!(ask(now), Admission::Served);
        }
        assert_eq!(ask(now), Admission::Later);
        // Being told so costs nothing more, and brings nothing either.
        assert_eq!(ask(now + REFILL), Admission::Served);
        assert_eq!(ask(now + REFILL), Admission::Later);
        assert_eq!(ask(now + REFILL * 3), Admission::Served);
        assert_eq!(ask(now + REFILL * 3), Admission::Served);
        assert_eq!(ask(now + REFILL * 3), Admission::Later);
    }

    #[test]
    fn what_is_justified_has_a_number() {
        assert_eq!(justified("/v1/approvals/17/justification"), Some(17));
        for path in [
            "/v1/approvals/17",
            "/v1/approvals//justification",
            "/v1/approvals/-1/justification",
            "/v1/approvals/1/2/justification",
            "/v1/approvals/17/justification/",
        ] {
            assert_eq!(justified(path), None, "{path}");
        }
    }

    #[test]
    fn owners_that_went_are_forgotten() {
        let mut guests = Guests::default();
        let now = Instant::now();
        for user in 0..1000 {
            guests.admit(Owner::User(user), now);
            guests.leave(Owner::User(user));
        }
        guests.admit(Owner::Agent(1), now + REFILL * BURST);
        assert_eq!(guests.owners.len(), 1);
    }
}
