//! A stand-in for the daemon: speaks the API over a socket in a temporary directory, answers as the
//! test says, and remembers what it was asked. It judges nothing.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use agentguard::api::types::{Agent, AgentState, Refusal, RefusalCode};
use axum::{
    Router,
    body::Bytes,
    http::{Method, StatusCode, Uri},
    serve::Listener,
};
use serde::Serialize;
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream, unix::SocketAddr};

/// Status and body.
pub type Answer = (StatusCode, Vec<u8>);

/// The answer that carries a value.
pub fn ok(value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value).expect("it can be serialised");
    (StatusCode::OK, body)
}

/// The answer that refuses.
pub fn refuse(status: StatusCode, code: RefusalCode, message: &str) -> Answer {
    let refusal = Refusal {
        code,
        message: message.to_owned(),
        diagnostics: None,
    };
    let body = serde_json::to_vec(&refusal).expect("it can be serialised");
    (status, body)
}

/// An agent in this directory.
pub fn agent(cgroup: &Path) -> Agent {
    Agent {
        id: 7,
        name: "alice".to_owned(),
        session: "01JC".to_owned(),
        profile: "coding".to_owned(),
        state: AgentState::Active,
        cgroup: cgroup.to_owned(),
        since: "2026-11-20T10:15:42Z".to_owned(),
        owned: true,
    }
}

/// A running stand-in; it ends when it is dropped.
pub struct Fake {
    /// Temporary files of the test, among them the socket.
    pub dir: TempDir,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

impl Fake {
    /// Answers every request, given as `METHOD /path?query`, with what `answer` says.
    pub fn new(answer: impl Fn(&str, &Path) -> Answer + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let listener = {
            let _context = runtime.enter();
            Counting {
                listener: UnixListener::bind(dir.path().join("socket")).expect("a socket"),
                connections: Arc::clone(&connections),
            }
        };
        let seen = Arc::clone(&requests);
        let path = dir.path().to_owned();
        let answer = Arc::new(answer);
        let router = Router::new().fallback(move |method: Method, uri: Uri, body: Bytes| {
            let request = format!("{method} {uri}");
            let answered = answer(&request, &path);
            let body = String::from_utf8_lossy(&body);
            seen.lock()
                .expect("no test panics with the lock")
                .push(format!("{request} {body}").trim_end().to_owned());
            async move { answered }
        });
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            dir,
            requests,
            connections,
            _runtime: runtime,
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// What was asked so far: method, path with query, and body.
    pub fn requests(&self) -> Vec<String> {
        self.requests
            .lock()
            .expect("no test panics with the lock")
            .clone()
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A listener that counts.
struct Counting {
    listener: UnixListener,
    connections: Arc<AtomicUsize>,
}

impl Listener for Counting {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let accepted = Listener::accept(&mut self.listener).await;
        self.connections.fetch_add(1, Ordering::SeqCst);
        accepted
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
