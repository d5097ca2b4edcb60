//! The command line's side of the API: a small blocking client over one connection. It keeps no
//! threads: everything runs on the calling thread, so that `agentguard run` can open the connection
//! first, enter the agent's cgroup and then ask over it whether its own (only) thread is labelled.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, runtime::Runtime, task::JoinHandle};

use super::types::{
    Agent, Approval, CreateAgent, Decide, Decided, Events, Justify, Own, Policy, Refusal,
    RefusalCode, Status, Tag, Tagged, Untag, Verified,
};
use crate::exit;

/// How long a request may take. Installing a large policy is the slowest.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a request got no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot reach the daemon at {}: {source}; is agentguard.service running?",
        socket.display()
    )]
    Unreachable { socket: PathBuf, source: io::Error },
    #[error(
        "permission to connect to {} denied; be root or a member of the group agentguard",
        socket.display()
    )]
    Denied { socket: PathBuf },
    #[error(
        "the kernel refuses this process the daemon's socket {}: it belongs to an agent, and agents don't \
         talk to the daemon",
        socket.display()
    )]
    Agent { socket: PathBuf },
    #[error("cannot start the client: {0}")]
    Runtime(io::Error),
    #[error("the daemon broke off while answering {what}: {source}")]
    Http { what: String, source: hyper::Error },
    #[error("the daemon did not answer {what} within {} seconds", PATIENCE.as_secs())]
    Late { what: String },
    #[error(
        "cannot understand the daemon's answer to {what}: {source}; are both the same version?"
    )]
    Body {
        what: String,
        source: serde_json::Error,
    },
    #[error("{}", .0.message)]
    Refused(Refusal),
}

impl Error {
    /// The exit code that tells this error.
    pub fn code(&self) -> exit::Code {
        match self {
            Self::Unreachable { .. } => exit::Code::DaemonUnreachable,
            Self::Denied { .. } | Self::Agent { .. } => exit::Code::Forbidden,
            Self::Refused(refusal) => match refusal.code {
                RefusalCode::Forbidden => exit::Code::Forbidden,
                RefusalCode::PolicyRefused => exit::Code::PolicyRefused,
                RefusalCode::UnknownProfile
                | RefusalCode::UnknownAgent
                | RefusalCode::UnknownCgroup
                | RefusalCode::UnknownRequest
                | RefusalCode::AlreadyTagged
                | RefusalCode::NotTagged
                | RefusalCode::NotLabelled
                | RefusalCode::Full
                | RefusalCode::TooMany => exit::Code::RequestRefused,
                RefusalCode::BadRequest | RefusalCode::NotFound | RefusalCode::Internal => {
                    exit::Code::Failure
                }
            },
            Self::Runtime(_) | Self::Http { .. } | Self::Late { .. } | Self::Body { .. } => {
                exit::Code::Failure
            }
        }
    }
}

/// One connection to the daemon.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
    /// Drives the connection whenever the runtime runs.
    _connection: JoinHandle<()>,
}

impl Client {
    /// Connects to the daemon's socket (usually [`super::SOCKET`]).
    pub fn connect(socket: &Path) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(Error::Runtime)?;
        let stream =
            runtime
                .block_on(UnixStream::connect(socket))
                .map_err(|source| match source.kind() {
                    // File modes give EACCES; EPERM is an LSM's.
                    _ if source.raw_os_error() == Some(libc::EPERM) => Error::Agent {
                        socket: socket.to_owned(),
                    },
                    io::ErrorKind::PermissionDenied => Error::Denied {
                        socket: socket.to_owned(),
                    },
                    _ => Error::Unreachable {
                        socket: socket.to_owned(),
                        source,
                    },
                })?;
        let (sender, connection) = runtime
            .block_on(http1::handshake(TokioIo::new(stream)))
            .map_err(|source| Error::Http {
                what: "the connection".to_owned(),
                source,
            })?;
        let connection = runtime.spawn(async move {
            // An error here is seen by the request that is under way.
            let _ = connection.await;
        });
        Ok(Self {
            runtime,
            sender,
            _connection: connection,
        })
    }

    /// What is enforced, and how it goes.
    pub fn status(&mut self) -> Result<Status, Error> {
        self.call(Method::GET, "/v1/status", None::<&()>)
    }

    /// Every agent that is known.
    pub fn agents(&mut self) -> Result<Vec<Agent>, Error> {
        self.call(Method::GET, "/v1/agents", None::<&()>)
    }

    /// Makes a tagged cgroup for a new agent. Whoever is put into it is judged.
    pub fn create_agent(&mut self, request: &CreateAgent) -> Result<Agent, Error> {
        self.call(Method::POST, "/v1/agents", Some(request))
    }

    /// Asks whether the process that made this connection carries the agent's label.
    pub fn verify(&mut self, agent: u64) -> Result<Verified, Error> {
        let path = format!("/v1/agents/{agent}/verify");
        self.call(Method::POST, &path, None::<&()>)
    }

    /// Makes an existing cgroup an agent's.
    pub fn tag(&mut self, request: &Tag) -> Result<Tagged, Error> {
        self.call(Method::POST, "/v1/tags", Some(request))
    }

    /// Releases the agent of a tagged cgroup.
    pub fn untag(&mut self, request: &Untag) -> Result<Agent, Error> {
        let path = format!(
            "/v1/tags?cgroup={}",
            escape(request.cgroup.as_os_str().as_encoded_bytes())
        );
        self.call(Method::DELETE, &path, None::<&()>)
    }

    /// Loads the policies anew, all or none. A refusal carries the diagnostics.
    pub fn reload(&mut self) -> Result<Policy, Error> {
        self.call(Method::POST, "/v1/reload", None::<&()>)
    }

    /// The policy in force.
    pub fn policy(&mut self) -> Result<Policy, Error> {
        self.call(Method::GET, "/v1/policy", None::<&()>)
    }

    /// Events as JSON lines, without their line ends. Takes the connection for itself.
    pub fn events(self, query: &Events) -> Result<Lines, Error> {
        let mut path = format!("/v1/events?follow={}", query.follow);
        if let Some(n) = query.n {
            path.push_str(&format!("&n={n}"));
        }
        for (key, value) in [
            ("agent", &query.agent),
            ("verdict", &query.verdict),
            ("action", &query.action),
        ] {
            if let Some(value) = value {
                path.push_str(&format!("&{key}={}", escape(value.as_bytes())));
            }
        }
        self.lines(&path)
    }

    /// The requests that wait, oldest first.
    pub fn approvals(&mut self) -> Result<Vec<Approval>, Error> {
        self.call(Method::GET, "/v1/approvals", None::<&()>)
    }

    /// The requests that wait and what becomes of them, as lines of
    /// [`Change`](super::types::Change). Takes the connection for itself.
    pub fn follow_approvals(self) -> Result<Lines, Error> {
        self.lines("/v1/approvals?follow=true")
    }

    /// Answers a request.
    pub fn decide(&mut self, id: u64, answer: &Decide) -> Result<Decided, Error> {
        let path = format!("/v1/approvals/{id}");
        self.call(Method::POST, &path, Some(answer))
    }

    /// What the agent that asks was refused lately, and what of it waits. Only on the agents' own socket.
    pub fn why(&mut self, last: usize) -> Result<Own, Error> {
        let path = format!("/v1/why?last={last}");
        self.call(Method::GET, &path, None::<&()>)
    }

    /// Says something for a request of the agent that asks. Only on the agents' own socket.
    pub fn justify(&mut self, id: u64, text: &Justify) -> Result<Approval, Error> {
        let path = format!("/v1/approvals/{id}/justification");
        self.call(Method::POST, &path, Some(text))
    }

    /// The lines of a response. Takes the connection for itself.
    fn lines(mut self, path: &str) -> Result<Lines, Error> {
        let response = self.send(Method::GET, path, None::<&()>)?;
        Ok(Lines {
            runtime: self.runtime,
            what: format!("GET {path}"),
            body: response.into_body(),
            buffer: Vec::new(),
            done: false,
            _sender: self.sender,
        })
    }

    fn call<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Error> {
        let what = format!("{method} {path}");
        let response = self.send(method, path, body)?;
        let bytes = self.collect(&what, response)?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Body { what, source })
    }

    /// Sends a request and returns the response if its status is 200.
    fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Response<Incoming>, Error> {
        let what = format!("{method} {path}");
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|source| Error::Body {
                what: what.clone(),
                source,
            })?,
            None => Vec::new(),
        };
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| {
            Error::Refused(Refusal {
                code: RefusalCode::BadRequest,
                message: format!("cannot make a request of {path}"),
                diagnostics: None,
            })
        })?;
        let headers = request.headers_mut();
        headers.insert(
            hyper::header::HOST,
            hyper::header::HeaderValue::from_static("agentguard"),
        );
        headers.insert(
            hyper::header::CONTENT_TYPE,
            hyper::header::HeaderValue::from_static("application/json"),
        );
        let sender = &mut self.sender;
        let answer = self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, async {
                sender.ready().await?;
                sender.send_request(request).await
            })
            .await
        });
        let response = match answer {
            Err(_) => return Err(Error::Late { what }),
            Ok(Err(source)) => return Err(Error::Http { what, source }),
            Ok(Ok(response)) => response,
        };
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let bytes = self.collect(&what, response)?;
        let refusal =
            serde_json::from_slice(&bytes).map_err(|source| Error::Body { what, source })?;
        Err(Error::Refused(refusal))
    }

    fn collect(&self, what: &str, response: Response<Incoming>) -> Result<Bytes, Error> {
        let collected = self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, response.into_body().collect()).await
        });
        match collected {
            Err(_) => Err(Error::Late {
                what: what.to_owned(),
            }),
            Ok(Err(source)) => Err(Error::Http {
                what: what.to_owned(),
                source,
            }),
            Ok(Ok(body)) => Ok(body.to_bytes()),
        }
    }
}

/// A stream of lines, one JSON object per item.
#[derive(Debug)]
pub struct Lines {
    runtime: Runtime,
    /// The request, for messages.
    what: String,
    body: Incoming,
    buffer: Vec<u8>,
    done: bool,
    /// Dropping it would close the connection.
    _sender: SendRequest<Full<Bytes>>,
}

impl Iterator for Lines {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Some(Ok(String::from_utf8_lossy(&line).into_owned()));
            }
            if self.done {
                return None;
            }
            match self.runtime.block_on(self.body.frame()) {
                None => self.done = true,
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(source)) => {
                    self.done = true;
                    return Some(Err(Error::Http {
                        what: self.what.clone(),
                        source,
                    }));
                }
            }
        }
    }
}

/// Percent-encodes what is not an unreserved character (RFC 3986 §2.3) or a slash.
fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(*byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn escapes_what_a_query_cannot_hold() {
        assert_eq!(
            escape(b"/sys/fs/cgroup/a b&c\xff"),
            "/sys/fs/cgroup/a%20b%26c%FF"
        );
    }
}
