//! Tells a program, and a service over HTTP, of requests that wait, and takes their answers where the
//! configuration says so. What becomes of an answer isn't decided here.
//!
//! Fail-closed: whatever goes wrong is no answer, and without `answer_within` nothing is one, so that a program
//! that only rings a bell, and succeeds, approves nothing. What is believed came from a process that the
//! daemon started itself, or over a Unix socket from one that is no agent's: who is at the other end of a
//! network can't be told without more than HTTP.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    process::Command,
    sync::{Semaphore, broadcast::error::RecvError},
    task::AbortHandle,
};

use super::{Core, approvals};
use crate::{
    api::{
        server::Peer,
        types::{Approval, Change, Decide, How, Scope},
    },
    causes,
    config::{Approvals, Webhook},
};

/// Requests that are told of at a time. Who is asked more can't answer anyway.
const AT_A_TIME: usize = 8;
/// How long who can't answer may take to be told.
const TELLING: Duration = Duration::from_secs(30);
/// Longest body of an answer.
const ANSWER_BYTES: usize = 16 << 10;
/// What the service manager gave the daemon, and is nobody else's.
const SERVICE: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// An answer, and who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub decide: Decide,
    /// For the log: the program, or the webhook.
    pub by: String,
}

/// Whether a process (its number, and a descriptor of it) is an agent's. Whoever can't be told is.
pub type IsAgent = Arc<dyn Fn(u32, &OwnedFd) -> bool + Send + Sync>;

/// Tells and asks.
#[derive(Clone)]
pub struct Asker {
    config: Approvals,
    is_agent: IsAgent,
    room: Arc<Semaphore>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("it took longer than {} s", .0.as_secs())]
    Late(Duration),
    #[error("cannot {0}: {1}")]
    Failed(&'static str, #[source] io::Error),
    #[error("it ended with {0}, which is no answer")]
    Ended(ExitStatus),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("it answered with status {0}")]
    Status(StatusCode),
    #[error("its answer is too long, or broke off: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("its answer can't be understood: {0}")]
    Answer(#[from] serde_json::Error),
    #[error("what answers there is an agent's process, or can't be told")]
    Agent,
}

impl Asker {
    /// `None` when nobody is to be told.
    pub fn new(config: &Approvals, is_agent: IsAgent) -> Option<Self> {
        if config.notify.is_empty() && config.webhook.is_none() {
            return None;
        }
        Some(Self {
            config: config.clone(),
            is_agent,
            room: Arc::new(Semaphore::new(AT_A_TIME)),
        })
    }

    /// Tells of the request, and waits for an answer if there can be one. Dropping the future ends the program.
    pub async fn ask(&self, request: &Approval) -> Option<Answer> {
        let id = request.id;
        let Ok(_place) = self.room.try_acquire() else {
            tracing::warn!(
                "request {id}: nobody was told, because {AT_A_TIME} earlier ones are being told of"
            );
            return None;
        };
        let body = match serde_json::to_vec(request) {
            Ok(body) => body,
            Err(error) => {
                tracing::error!("request {id} can't be told: {error}");
                return None;
            }
        };
        let told = |by: String, result: Result<Option<Decide>, Error>| match result {
            Ok(decide) => decide.map(|decide| Answer { decide, by }),
            Err(error) => {
                tracing::warn!(
                    "request {id}: no answer from {by}: {}",
                    causes::text(&error)
                );
                None
            }
        };
        let program = async {
            let by = self.config.notify.first()?.clone();
            told(by, self.in_time(self.program(&body)).await)
        };
        let webhook = async {
            let webhook = self.config.webhook.as_ref()?;
            told(
                webhook.to_string(),
                self.in_time(self.webhook(webhook, &body)).await,
            )
        };
        // The first answer counts; who has none doesn't end the other's time.
        tokio::pin!(program, webhook);
        tokio::select! {
            answer = &mut program => match answer {
                Some(answer) => Some(answer),
                None => webhook.await,
            },
            answer = &mut webhook => match answer {
                Some(answer) => Some(answer),
                None => program.await,
            },
        }
    }

    /// Whether what comes back is an answer.
    fn may_answer(&self) -> bool {
        self.config.answer_within.is_some()
    }

    async fn in_time(
        &self,
        work: impl Future<Output = Result<Option<Decide>, Error>>,
    ) -> Result<Option<Decide>, Error> {
        let time = self.config.answer_within.unwrap_or(TELLING);
        tokio::time::timeout(time, work)
            .await
            .unwrap_or(Err(Error::Late(time)))
    }

    /// Runs the program. Its exit status is the answer.
    async fn program(&self, body: &[u8]) -> Result<Option<Decide>, Error> {
        let Some((program, arguments)) = self.config.notify.split_first() else {
            return Ok(None);
        };
        let mut command = Command::new(program);
        for name in SERVICE {
            command.env_remove(name);
        }
        let mut child = command
            .args(arguments)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Error::Failed("start it", error))?;
        // With all that it started, when there is no more time for it.
        let group = Group(
            child
                .id()
                .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)),
        );
        if let Some(mut input) = child.stdin.take() {
            // It need not read it.
            let _ = input.write_all(body).await;
        }
        let status = child
            .wait()
            .await
            .map_err(|error| Error::Failed("wait for it", error))?;
        group.ended();
        let approve = match status.code() {
            _ if !self.may_answer() => return Ok(None),
            Some(0) => true,
            Some(1) => false,
            _ => return Err(Error::Ended(status)),
        };
        Ok(Some(Decide {
            approve,
            scope: Scope::Once,
            reason: None,
            how: How::Notify,
        }))
    }

    /// Sends the request. The body of the response is the answer; an empty one is none.
    async fn webhook(&self, webhook: &Webhook, body: &[u8]) -> Result<Option<Decide>, Error> {
        let failed = |error| Error::Failed("connect", error);
        match webhook {
            Webhook::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(failed)?;
                // FAIL-CLOSED: an agent that listens there in somebody's place is not even told.
                let peer = Peer::of(&stream).process();
                let Some((pid, pidfd)) = peer else {
                    return Err(Error::Agent);
                };
                // It looks at the daemon's state, which somebody may be busy with.
                let is_agent = Arc::clone(&self.is_agent);
                let is_agent = tokio::task::spawn_blocking(move || is_agent(pid, &pidfd));
                if is_agent.await.unwrap_or(true) {
                    return Err(Error::Agent);
                }
                let answer = post(stream, "agentguard", "/", body).await?;
                if !self.may_answer() || answer.is_empty() {
                    return Ok(None);
                }
                let mut decide: Decide = serde_json::from_slice(&answer)?;
                decide.how = How::Notify;
                Ok(Some(decide))
            }
            Webhook::Http { authority, path } => {
                let stream = TcpStream::connect(authority).await.map_err(failed)?;
                post(stream, authority, path, body).await?;
                Ok(None)
            }
        }
    }
}

/// Tells of every request, those first that wait already, until the daemon ends. Does nothing when nobody is to be
/// told.
pub async fn serve(core: Arc<Mutex<Core>>) {
    let lock = |core: &Arc<Mutex<Core>>| -> _ {
        let core = core.lock().unwrap_or_else(PoisonError::into_inner);
        (
            core.approvals.changes(),
            core.pending(),
            core.config.approvals.clone(),
        )
    };
    let (mut changes, mut waiting, config) = lock(&core);
    let looked = Arc::clone(&core);
    let is_agent: IsAgent = Arc::new(move |pid, pidfd| {
        let core = looked.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(core.agent_of(pid, pidfd), Ok(None))
    });
    let Some(asker) = Asker::new(&config, is_agent) else {
        return;
    };
    // Those that were told of and still wait.
    let mut told: HashMap<u64, AbortHandle> = HashMap::new();
    loop {
        for request in waiting.drain(..) {
            told.entry(request.id)
                .or_insert_with(|| tell(asker.clone(), Arc::clone(&core), request));
        }
        match changes.recv().await {
            Ok(Change::Asked(request)) => waiting.push(request),
            Ok(Change::Answered(answered)) => end(&mut told, answered.id),
            Ok(Change::Gone(gone)) => end(&mut told, gone.id),
            Err(RecvError::Lagged(_)) => {
                (changes, waiting, _) = lock(&core);
                let gone: Vec<u64> = told
                    .keys()
                    .filter(|id| waiting.iter().all(|request| request.id != **id))
                    .copied()
                    .collect();
                for id in gone {
                    end(&mut told, id);
                }
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Tells of one request, and does what is answered.
fn tell(asker: Asker, core: Arc<Mutex<Core>>, request: Approval) -> AbortHandle {
    let task = tokio::spawn(async move {
        let Some(Answer { decide, by }) = asker.ask(&request).await else {
            return;
        };
        // On its own: an answer is carried out to its end, also when this is ended because there is one.
        tokio::spawn(async move {
            let who = approvals::Who { uid: 0, name: by };
            if let Err(refusal) = approvals::decide(&core, request.id, decide, who).await {
                tracing::warn!("request {}: {}", request.id, refusal.message);
            }
        });
    });
    task.abort_handle()
}

/// Nobody needs to answer this one any more.
fn end(told: &mut HashMap<u64, AbortHandle>, id: u64) {
    if let Some(task) = told.remove(&id) {
        task.abort();
    }
}

/// Sends `body` and returns what comes back.
async fn post(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    path: &str,
    body: &[u8],
) -> Result<Bytes, Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    // Neither the stream nor its task outlives this.
    let _end = Abort(connection.abort_handle());
    let request = Request::post(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::copy_from_slice(body)))
        .map_err(|error| Error::Body(error.into()))?;
    let response = sender.send_request(request).await?;
    if !response.status().is_success() {
        return Err(Error::Status(response.status()));
    }
    let body = Limited::new(response.into_body(), ANSWER_BYTES);
    let collected = body.collect().await.map_err(Error::Body)?;
    Ok(collected.to_bytes())
}

/// Ends a task with the scope.
struct Abort(tokio::task::AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A process group that is killed with the scope, unless its leader has ended: its number may be another's then.
struct Group(Option<Pid>);

impl Group {
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::Instant};

    use axum::{Router, http::StatusCode, routing::post};

    use super::*;
    use crate::cli::request::tests::request;

    fn nobody() -> IsAgent {
        Arc::new(|_, _| false)
    }

    /// A shell that runs `script`.
    fn shell(script: &str, seconds: Option<u64>) -> Asker {
        let config = Approvals {
            notify: ["/bin/sh", "-c", script].map(str::to_owned).into(),
            webhook: None,
            answer_within: seconds.map(Duration::from_secs),
        };
        Asker::new(&config, nobody()).expect("a program is to be told")
    }

    async fn verdict(asker: &Asker) -> Option<bool> {
        let answer = asker.ask(&request()).await?;
        assert_eq!(answer.decide.how, How::Notify);
        Some(answer.decide.approve)
    }

    #[tokio::test]
    async fn a_program_answers_by_its_exit_status() {
        for (script, answer) in [
            ("exit 0", Some(true)),
            ("exit 1", Some(false)),
            ("exit 2", None),
            ("kill -9 $$", None),
            // What it is told is the whole request.
            ("grep -q '\"id\":17,.*192.0.2.7.*ask-network'", Some(true)),
        ] {
            assert_eq!(verdict(&shell(script, Some(20))).await, answer, "{script}");
        }
        let mut missing = shell("", Some(20));
        missing.config.notify = vec!["/nonexistent/program".to_owned()];
        assert_eq!(verdict(&missing).await, None);
    }

    /// A program that tells somebody, and succeeds, has approved nothing.
    #[tokio::test]
    async fn who_is_only_told_answers_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let told = directory.path().join("told");
        let script = format!("cat >{}", told.display());
        assert_eq!(verdict(&shell(&script, None)).await, None);
        let text = fs::read(told).expect("it was told");
        assert_eq!(
            serde_json::from_slice::<Approval>(&text).expect("a request"),
            request()
        );
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_ended_with_all_that_it_started() {
        let directory = tempfile::tempdir().expect("a directory");
        let pid = directory.path().join("pid");
        let begin = Instant::now();
        let script = format!("sleep 1000 & echo $! >{}; wait", pid.display());
        assert_eq!(verdict(&shell(&script, Some(5))).await, None);
        assert!(begin.elapsed() < Duration::from_secs(60));
        let pid = fs::read_to_string(pid).expect("it ran");
        let alive = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        while alive() {
            assert!(begin.elapsed() < Duration::from_secs(60), "it lives on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn only_so_many_are_told_of_at_a_time() {
        let asker = shell("sleep 1000", Some(1000));
        let waiting: Vec<_> = (0..AT_A_TIME)
            .map(|_| {
                let asker = asker.clone();
                tokio::spawn(async move { asker.ask(&request()).await })
            })
            .collect();
        while asker.room.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(verdict(&asker).await, None);
        for task in waiting {
            task.abort();
            let _ = task.await;
        }
        assert_eq!(asker.room.available_permits(), AT_A_TIME);
    }

    /// A service on a socket in `directory` that answers with this.
    fn service(directory: &Path, status: StatusCode, body: &'static str) -> Webhook {
        let path = directory.join("socket");
        let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
        let router = Router::new().route(
            "/",
            post(move |told: String| async move {
                let told: Approval = serde_json::from_str(&told).expect("a request");
                assert_eq!(told, request());
                (status, body)
            }),
        );
        tokio::spawn(async move { axum::serve(listener, router).await });
        Webhook::Unix(path)
    }

    fn hook(webhook: Webhook, seconds: Option<u64>, is_agent: IsAgent) -> Asker {
        let config = Approvals {
            notify: Vec::new(),
            webhook: Some(webhook),
            answer_within: seconds.map(Duration::from_secs),
        };
        Asker::new(&config, is_agent).expect("a webhook is to be told")
    }

    #[tokio::test]
    async fn a_service_answers_with_a_body() {
        for (status, body, answer) in [
            (StatusCode::OK, r#"{"approve":true}"#, Some(true)),
            (
                StatusCode::OK,
                r#"{"approve":false,"reason":"no"}"#,
                Some(false),
            ),
            (StatusCode::OK, r#"{"approve":"yes"}"#, None),
            (StatusCode::OK, r#"{"ok":true}"#, None),
            (StatusCode::OK, "", None),
            (StatusCode::FORBIDDEN, r#"{"approve":true}"#, None),
        ] {
            let directory = tempfile::tempdir().expect("a directory");
            let webhook = service(directory.path(), status, body);
            let told = hook(webhook.clone(), None, nobody());
            assert_eq!(verdict(&told).await, None, "{body}");
            let agent: IsAgent = Arc::new(|_, _| true);
            assert_eq!(verdict(&hook(webhook.clone(), Some(20), agent)).await, None);
            let asker = hook(webhook, Some(20), nobody());
            assert_eq!(verdict(&asker).await, answer, "{status} {body}");
        }
    }

    #[tokio::test]
    async fn a_service_says_how_far_its_yes_goes() {
        let directory = tempfile::tempdir().expect("a directory");
        let body = r#"{"approve":true,"scope":{"for":60},"how":"cli"}"#;
        let webhook = service(directory.path(), StatusCode::OK, body);
        let by = webhook.to_string();
        let answer = hook(webhook, Some(20), nobody()).ask(&request()).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.by, by);
        assert_eq!(
            (answer.decide.scope, answer.decide.how),
            (Scope::For(60), How::Notify)
        );
    }

    /// Whoever gets hold of the port, an agent for instance, is told; it can't answer.
    #[tokio::test]
    async fn over_a_network_nobody_answers() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let authority = listener.local_addr().expect("an address").to_string();
        let router = Router::new().route("/ask", post(async || r#"{"approve":true}"#));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let webhook = Webhook::Http {
            authority,
            path: "/ask".to_owned(),
        };
        let body = serde_json::to_vec(&request()).expect("JSON");
        let asker = hook(webhook.clone(), Some(20), nobody());
        let answer = asker.webhook(&webhook, &body).await.expect("told");
        assert_eq!(answer, None);
        assert_eq!(verdict(&asker).await, None);
    }
}
