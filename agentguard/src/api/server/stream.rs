//! `GET /v1/events`: the end of the log, then what comes. A follower that is too slow is told how much
//! it missed; nobody waits for it.

use std::sync::Arc;

use axum::{
    extract::{ConnectInfo, Query, State, rejection::QueryRejection},
    response::Response,
};
use serde::Deserialize;
use tokio::sync::{broadcast::error::RecvError, mpsc};

use super::{Api, Failure, Peer, Want, line, lines};
use crate::{
    api::types::{Events, Refusal, RefusalCode},
    event::{Stage, clock, lifecycle::LossCount},
    sink::{Line, log, lost},
};

/// Events shown when it isn't said how many.
const DEFAULT: u64 = 10;
/// Lines on their way to one follower.
const AHEAD: usize = 256;

/// What a line of the log is filtered by.
#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    seq: u64,
    agent: Option<String>,
    verdict: Option<String>,
    #[serde(default)]
    action: String,
}

/// Whether an event is wanted. Who looks for some agent's denials must see that some were lost.
fn wanted(query: &Events, agent: Option<&str>, verdict: Option<&str>, action: &str) -> bool {
    let any = |wanted: &Option<String>, fits: &dyn Fn(&str) -> bool| {
        wanted
            .as_deref()
            .is_none_or(|wanted| wanted.split(',').any(fits))
    };
    let told = matches!(action, "lost" | "daemon.gap");
    any(&query.action, &|wanted| is_action(action, wanted))
        && (told
            || any(&query.agent, &|wanted| agent == Some(wanted))
                && any(&query.verdict, &|wanted| verdict == Some(wanted)))
}

/// Whether an action is the one that is meant, or one of its kind.
fn is_action(action: &str, wanted: &str) -> bool {
    let wanted = wanted.trim_end_matches('.');
    action
        .strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

pub(super) async fn events(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    query: Result<Query<Events>, QueryRejection>,
) -> Result<Response, Failure> {
    api.admit(&peer, Want::Read).await?;
    let Query(query) = query?;
    // Before the log is read, so that nothing falls between the two.
    let mut follower = api.followers.subscribe();
    let count = query.n.unwrap_or(if query.follow { 0 } else { DEFAULT });
    let path = api.log.clone();
    let filter = query.clone();
    let found = tokio::task::spawn_blocking(move || {
        let mut latest = 0;
        let found = log::last_lines(
            &path,
            usize::try_from(count).unwrap_or(usize::MAX),
            |line| {
                let Ok(fields) = serde_json::from_slice::<Fields>(line) else {
                    return false;
                };
                latest = latest.max(fields.seq);
                wanted(
                    &filter,
                    fields.agent.as_deref(),
                    fields.verdict.as_deref(),
                    &fields.action,
                )
            },
        );
        found.map(|lines| (lines, latest))
    })
    .await
    .map_err(|error| failed(&error))?
    .map_err(|error| failed(&error))?;
    let (found, latest) = found;
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        for line in found {
            let mut text = String::from_utf8_lossy(&line).into_owned();
            text.push('\n');
            if sender.send(text).await.is_err() {
                return;
            }
        }
        if !query.follow {
            return;
        }
        loop {
            let text = tokio::select! {
                () = sender.closed() => return,
                next = follower.recv() => match next {
                    Ok(line) => match following(&query, &line, latest) {
                        Some(text) => text,
                        None => continue,
                    },
                    Err(RecvError::Lagged(count)) => missed(count),
                    Err(RecvError::Closed) => return,
                },
            };
            if sender.send(text).await.is_err() {
                return;
            }
        }
    });
    Ok(lines(receiver))
}

/// The text of a new line, if it is wanted and was not among those of the log.
fn following(query: &Events, line: &Arc<Line>, latest: u64) -> Option<String> {
    (line.seq > latest && wanted(query, line.agent.as_deref(), line.verdict, line.action))
        .then(|| format!("{}\n", line.text))
}

/// What a slow follower is told. It has no number, for it is in no log.
fn missed(count: u64) -> String {
    let now = clock::render(clock::wall_ns().into());
    line(&lost(
        now.clone(),
        Stage::Follower,
        vec![LossCount {
            action: None,
            hook: None,
            verdict: "unknown".to_owned(),
            count,
        }],
        now.clone(),
        now,
    ))
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure(Refusal {
        code: RefusalCode::Internal,
        message: format!("cannot read the log: {error}"),
        diagnostics: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_take_what_is_asked_for() {
        let query = Events {
            agent: Some("a".to_owned()),
            action: Some("file.".to_owned()),
            ..Events::default()
        };
        assert!(wanted(&query, Some("a"), Some("deny"), "file.open"));
        assert!(!wanted(&query, Some("b"), Some("deny"), "file.open"));
        assert!(!wanted(&query, None, Some("deny"), "file.open"));
        assert!(!wanted(&query, Some("a"), Some("deny"), "exec"));
        let query = Events {
            verdict: Some("kill,deny".to_owned()),
            action: Some("exec,lost".to_owned()),
            ..Events::default()
        };
        assert!(wanted(&query, None, Some("deny"), "exec"));
        assert!(!wanted(&query, None, None, "exec"));
        assert!(!wanted(&query, None, Some("deny"), "execute"));
        assert!(wanted(&query, None, None, "lost"));
    }
}
