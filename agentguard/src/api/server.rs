//! The daemon's side of the API: who may ask what, and the answers' way. What is done is
//! [`Core`]'s business.
//!
//! Reading and answering questions is for root and the members of one group, changing for root alone, and nothing is
//! for a process of an agent, whatever its user: only whether it is labelled may it ask, once it is.

use std::{
    convert::Infallible,
    fs, io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{
        ConnectInfo, Path as UrlPath, Query, State,
        connect_info::Connected,
        rejection::{JsonRejection, QueryRejection},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use serde::Serialize;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::broadcast,
};

use super::types::{self, Refusal, RefusalCode};
use crate::{
    daemon::{Core, Denied},
    sink::Line,
};

mod approvals;
pub mod own;
mod stream;

/// What every request needs.
#[derive(Clone)]
pub struct Api {
    pub core: Arc<Mutex<Core>>,
    pub followers: broadcast::Sender<Arc<Line>>,
    pub log: PathBuf,
    /// Members may read.
    pub group: Option<u32>,
    /// What agents were refused lately.
    pub denied: Arc<Denied>,
}

/// Why the socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the socket {} is in use by another process", .0.display())]
    InUse(PathBuf),
    #[error("cannot {operation} the socket {}: {source}", path.display())]
    Socket {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// Makes the socket, in place of one that nobody listens on.
pub fn bind(path: &Path, group: Option<u32>) -> Result<UnixListener, Error> {
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    bind_as(path, group, mode)
}

/// The same for these users.
fn bind_as(path: &Path, group: Option<u32>, mode: u32) -> Result<UnixListener, Error> {
    let failed = |operation| {
        move |source| Error::Socket {
            operation,
            path: path.to_owned(),
            source,
        }
    };
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(Error::InUse(path.to_owned()));
        }
        fs::remove_file(path).map_err(failed("replace"))?;
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed("make the folder of"))?;
    }
    let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
    std::os::unix::fs::chown(path, Some(0), group).map_err(failed("give away"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("protect"))?;
    Ok(listener)
}

/// Answers requests until the future is dropped.
pub async fn serve(listener: UnixListener, api: Api) -> io::Result<()> {
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/agents", get(agents).post(create))
        .route("/v1/agents/{id}/verify", post(verify))
        .route("/v1/tags", post(tag).delete(untag))
        .route("/v1/reload", post(reload))
        .route("/v1/policy", get(policy))
        .route("/v1/events", get(stream::events))
        .route("/v1/approvals", get(approvals::list))
        .route("/v1/approvals/{id}", post(approvals::decide))
        .fallback(async || refuse(RefusalCode::NotFound, "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            refuse(
                RefusalCode::BadRequest,
                "this path doesn't take this method",
            )
        })
        .with_state(api);
    axum::serve(
        listener,
        router.into_make_service_with_connect_info::<Peer>(),
    )
    .await
}

/// Who connected.
#[derive(Clone, Debug)]
pub struct Peer {
    credentials: Option<Credentials>,
}

#[derive(Clone, Debug)]
struct Credentials {
    pid: u32,
    uid: u32,
    groups: Vec<u32>,
    /// Still means the process that connected when its number is another's.
    pidfd: Arc<OwnedFd>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self::of(stream.io())
    }
}

impl Peer {
    /// The process at the other end, if it can be told: its number, and what still means it when that is another's.
    pub fn process(self) -> Option<(u32, Arc<OwnedFd>)> {
        let credentials = self.credentials?;
        Some((credentials.pid, credentials.pidfd))
    }

    /// Who is at the other end of this connection.
    pub fn of(stream: &UnixStream) -> Self {
        let credentials = (|| {
            let peer = stream.peer_cred().ok()?;
            let pid = u32::try_from(peer.pid()?).ok().filter(|pid| *pid != 0)?;
            // SAFETY: the stream outlives this borrow of its descriptor.
            let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
            let mut groups = peer_groups(socket);
            groups.push(peer.gid());
            Some(Credentials {
                pid,
                uid: peer.uid(),
                groups,
                pidfd: Arc::new(peer_pidfd(socket, pid)?),
            })
        })();
        Self { credentials }
    }
}

/// The process that made the connection (`SO_PEERPIDFD`, 6.5 on; before, by its number, which another
/// process can have only when the one that connected is gone).
fn peer_pidfd(socket: BorrowedFd<'_>, pid: u32) -> Option<OwnedFd> {
    const SO_PEERPIDFD: libc::c_int = 77;
    let mut fd: libc::c_int = -1;
    let mut len = size_of_val(&fd) as libc::socklen_t;
    // SAFETY: the buffer is as long as said.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        // SAFETY: the kernel has just given this descriptor to us.
        return Some(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

/// The supplementary groups of the peer when it connected.
fn peer_groups(socket: BorrowedFd<'_>) -> Vec<u32> {
    let mut groups = vec![0_u32; 65_536];
    let mut len = (groups.len() * size_of::<u32>()) as libc::socklen_t;
    // SAFETY: the buffer is as long as said; the kernel says how much of it it filled.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    let count = if result == 0 {
        len as usize / size_of::<u32>()
    } else {
        0
    };
    groups.truncate(count);
    groups
}

/// What a request wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Read,
    /// Answer for people.
    Decide,
    Change,
}

/// Whether this user may do this.
fn may(uid: u32, groups: &[u32], group: Option<u32>, want: Want) -> bool {
    uid == 0 || (want != Want::Change && group.is_some_and(|group| groups.contains(&group)))
}

impl Api {
    /// Lets a peer pass that may do this, and that is no agent's.
    async fn admit(&self, peer: &Peer, want: Want) -> Result<(), Failure> {
        let forbidden = |message: &str| {
            Failure(Refusal {
                code: RefusalCode::Forbidden,
                message: message.to_owned(),
                diagnostics: None,
            })
        };
        let Some(credentials) = &peer.credentials else {
            return Err(forbidden("the process that connected can't be told"));
        };
        if !may(credentials.uid, &credentials.groups, self.group, want) {
            return Err(forbidden(match want {
                Want::Read => "only root and members of the group agentguard may read",
                Want::Decide => "only root and members of the group agentguard may answer",
                Want::Change => "only root may change anything",
            }));
        }
        let (pid, pidfd) = (credentials.pid, Arc::clone(&credentials.pidfd));
        match self.with(move |core| core.agent_of(pid, &pidfd)).await? {
            None => Ok(()),
            Some(_) => Err(forbidden("a process of an agent may not use this socket")),
        }
    }

    /// Does something with the core, away from the threads that serve.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Core) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Failure> {
        let core = Arc::clone(&self.core);
        let done = tokio::task::spawn_blocking(move || {
            work(&mut core.lock().unwrap_or_else(PoisonError::into_inner))
        })
        .await;
        match done {
            Ok(result) => result.map_err(Failure),
            Err(error) => Err(Failure(Refusal {
                code: RefusalCode::Internal,
                message: format!("the daemon failed while answering: {error}"),
                diagnostics: None,
            })),
        }
    }
}

/// A refusal as a response.
#[derive(Debug)]
struct Failure(Refusal);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.0.code {
            RefusalCode::BadRequest => StatusCode::BAD_REQUEST,
            RefusalCode::Forbidden => StatusCode::FORBIDDEN,
            RefusalCode::UnknownProfile
            | RefusalCode::UnknownAgent
            | RefusalCode::UnknownCgroup
            | RefusalCode::UnknownRequest
            | RefusalCode::NotFound => StatusCode::NOT_FOUND,
            RefusalCode::AlreadyTagged | RefusalCode::NotTagged | RefusalCode::NotLabelled => {
                StatusCode::CONFLICT
            }
            RefusalCode::PolicyRefused => StatusCode::UNPROCESSABLE_ENTITY,
            RefusalCode::Full => StatusCode::SERVICE_UNAVAILABLE,
            RefusalCode::TooMany => StatusCode::TOO_MANY_REQUESTS,
            RefusalCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self.0)).into_response()
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        Self(Refusal {
            code: RefusalCode::BadRequest,
            message: rejection.body_text(),
            diagnostics: None,
        })
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Self(Refusal {
            code: RefusalCode::BadRequest,
            message: rejection.body_text(),
            diagnostics: None,
        })
    }
}

fn refuse(code: RefusalCode, message: &str) -> Response {
    Failure(Refusal {
        code,
        message: message.to_owned(),
        diagnostics: None,
    })
    .into_response()
}

type Answer<T> = Result<Json<T>, Failure>;

async fn status(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Answer<types::Status> {
    api.admit(&peer, Want::Read).await?;
    api.with(|core| core.status()).await.map(Json)
}

async fn agents(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Answer<Vec<types::Agent>> {
    api.admit(&peer, Want::Read).await?;
    api.with(|core| Ok(core.agents())).await.map(Json)
}

async fn policy(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Answer<types::Policy> {
    api.admit(&peer, Want::Read).await?;
    api.with(|core| Ok(core.policy())).await.map(Json)
}

async fn create(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Result<Json<types::CreateAgent>, JsonRejection>,
) -> Answer<types::Agent> {
    api.admit(&peer, Want::Change).await?;
    let Json(request) = request?;
    api.with(|core| core.create_agent(request)).await.map(Json)
}

async fn tag(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Result<Json<types::Tag>, JsonRejection>,
) -> Answer<types::Tagged> {
    api.admit(&peer, Want::Change).await?;
    let Json(request) = request?;
    api.with(|core| core.tag(request)).await.map(Json)
}

async fn untag(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Result<Query<types::Untag>, QueryRejection>,
) -> Answer<types::Agent> {
    api.admit(&peer, Want::Change).await?;
    let Query(request) = request?;
    api.with(move |core| core.untag(&request)).await.map(Json)
}

async fn reload(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Answer<types::Policy> {
    api.admit(&peer, Want::Change).await?;
    api.with(Core::reload).await.map(Json)
}

/// The one question that a process of an agent may ask: root alone, about itself alone.
async fn verify(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    UrlPath(id): UrlPath<String>,
) -> Answer<types::Verified> {
    let Some(credentials) = peer.credentials.filter(|peer| peer.uid == 0) else {
        return Err(Failure(Refusal {
            code: RefusalCode::Forbidden,
            message: "only root may ask this".to_owned(),
            diagnostics: None,
        }));
    };
    let Ok(id) = id.parse() else {
        return Err(Failure(Refusal {
            code: RefusalCode::BadRequest,
            message: format!("{id:?} is no agent's number"),
            diagnostics: None,
        }));
    };
    let (pid, pidfd) = (credentials.pid, credentials.pidfd);
    api.with(move |core| core.verify(id, pid, &pidfd))
        .await
        .map(Json)
}

/// A stream of lines as a response.
fn lines(receiver: tokio::sync::mpsc::Receiver<String>) -> Response {
    let body = futures_util::stream::unfold(receiver, |mut receiver| async {
        let line = receiver.recv().await?;
        Some((Ok::<_, Infallible>(line), receiver))
    });
    (
        [(axum::http::header::CONTENT_TYPE, "application/jsonl")],
        Body::from_stream(body),
    )
        .into_response()
}

/// One JSON value and a line end.
fn line(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_may_all_and_the_group_may_read_and_answer() {
        assert!(may(0, &[], None, Want::Change));
        assert!(may(1000, &[5, 7], Some(7), Want::Read));
        assert!(may(1000, &[5, 7], Some(7), Want::Decide));
        assert!(!may(1000, &[5], Some(7), Want::Decide));
        assert!(!may(1000, &[0], None, Want::Decide));
        assert!(!may(1000, &[5, 7], Some(7), Want::Change));
        assert!(!may(1000, &[5], Some(7), Want::Read));
        assert!(!may(1000, &[0], None, Want::Read));
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let listener = bind(&path, None).expect("replaced");
        assert!(matches!(bind(&path, None), Err(Error::InUse(_))));
        drop(listener);
    }
}
