//! `/v1/approvals`: what waits for an answer, and answers. Root and the members of the group may give them.

use axum::{
    Json,
    extract::{
        ConnectInfo, Path as UrlPath, Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    response::{IntoResponse as _, Response},
};
use tokio::sync::{broadcast::error::RecvError, mpsc};

use super::{Answer, Api, Failure, Peer, Want, line, lines};
use crate::{
    api::types::{Approvals, Change, Decide, Decided, How, Refusal, RefusalCode},
    daemon::approvals::{self, Who},
};

/// Lines on their way to one follower.
const AHEAD: usize = 256;

pub(super) async fn list(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    query: Result<Query<Approvals>, QueryRejection>,
) -> Result<Response, Failure> {
    api.admit(&peer, Want::Read).await?;
    let Query(query) = query?;
    // In one go, so that nothing falls between the two.
    let (waiting, mut changes) = api
        .with(|core| Ok((core.pending(), core.approvals.changes())))
        .await?;
    if !query.follow {
        return Ok(Json(waiting).into_response());
    }
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        for approval in waiting {
            if sender.send(line(&Change::Asked(approval))).await.is_err() {
                return;
            }
        }
        loop {
            let change = tokio::select! {
                () = sender.closed() => return,
                change = changes.recv() => match change {
                    Ok(change) => change,
                    // A follower that is too slow has to begin again: it can't know what it missed.
                    Err(RecvError::Lagged(_) | RecvError::Closed) => return,
                },
            };
            if sender.send(line(&change)).await.is_err() {
                return;
            }
        }
    });
    Ok(lines(receiver))
}

pub(super) async fn decide(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    UrlPath(id): UrlPath<String>,
    request: Result<Json<Decide>, JsonRejection>,
) -> Answer<Decided> {
    api.admit(&peer, Want::Decide).await?;
    let Json(request) = request?;
    let bad = |message: String| {
        Failure(Refusal {
            code: RefusalCode::BadRequest,
            message,
            diagnostics: None,
        })
    };
    let id: u64 = id
        .parse()
        .map_err(|_| bad(format!("{id:?} is no request's number")))?;
    if request.how == How::Notify {
        return Err(bad("only the daemon itself asks by `notify`".to_owned()));
    }
    // Without credentials nobody was admitted.
    let uid = peer.credentials.map_or(u32::MAX, |peer| peer.uid);
    let who = tokio::task::spawn_blocking(move || Who::of(uid))
        .await
        .map_err(|error| bad(format!("the daemon failed while answering: {error}")))?;
    approvals::decide(&api.core, id, request, who)
        .await
        .map(Json)
        .map_err(Failure)
}
