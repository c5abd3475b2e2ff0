//! The CLI's end of the API.

use std::{path::Path, time::Duration};

use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, body::Bytes, http::request};
use hyper_util::rt::TokioIo;
use nines_model::printable::clean_json;
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncWrite};

use super::types::Problem;
use crate::{
    failure::{Failure, Kind, Outcome},
    remote::Remote,
};

/// How long an answer may take.
const USUAL: Duration = Duration::from_secs(10);

/// Where the agent is.
#[derive(Clone, Copy)]
pub enum Client<'a> {
    /// Behind this socket.
    Socket(&'a Path),
    /// On another machine.
    Remote(&'a Remote),
}

impl Client<'_> {
    /// Where it is asked, for people.
    fn place(&self) -> String {
        match self {
            Self::Socket(path) => path.display().to_string(),
            Self::Remote(remote) => remote.url.clone(),
        }
    }

    fn unreachable(&self, why: impl std::fmt::Display) -> Failure {
        let (what, why) = (format!("no agent answers on {}", self.place()), why.to_string());
        let denied = why.contains("os error 13)");
        match self {
            Self::Remote(_) if why.contains("not of this cluster") => {
                Failure::new(Kind::Denied, what, why)
                    .next("give this cluster's own ca.pem, and see that no other machine answers")
            }
            Self::Remote(_) => Failure::new(Kind::Unreachable, what, why)
                .next("see that the agent there runs with --api, and that its port is open"),
            Self::Socket(_) if denied => Failure::new(Kind::Denied, what, why)
                .next("run as root or as a member of the group nines"),
            Self::Socket(_) => Failure::new(Kind::Unreachable, what, why)
                .next("systemctl start nines   (or: nines agent), then try again"),
        }
    }

    async fn call(&self, method: Method, path: &str, body: Vec<u8>) -> Outcome<Vec<u8>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "nines")
            .header("content-type", "application/json");
        match self {
            Self::Socket(socket) => {
                let stream = tokio::net::UnixStream::connect(socket).await;
                let stream = stream.map_err(|e| self.unreachable(e))?;
                self.exchange(stream, request, body).await
            }
            Self::Remote(remote) => {
                if let Some(bearer) = &remote.bearer {
                    request = request.header("authorization", bearer.as_str());
                }
                let stream = remote.connect().await.map_err(|e| self.unreachable(e))?;
                self.exchange(stream, request, body).await
            }
        }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: request::Builder,
        body: Vec<u8>,
    ) -> Outcome<Vec<u8>> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.unreachable(e))?;
        tokio::spawn(connection);
        let request =
            request.body(Full::new(Bytes::from(body))).map_err(|e| self.unreachable(e))?;
        let response = sender.send_request(request).await.map_err(|e| self.unreachable(e))?;
        let status = response.status();
        let bytes =
            response.into_body().collect().await.map_err(|e| self.unreachable(e))?.to_bytes();
        if status.is_success() {
            return Ok(bytes.to_vec());
        }
        let cleaned = clean_json(&String::from_utf8_lossy(&bytes));
        let problem: Problem = serde_json::from_str(&cleaned).map_err(|_| {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            Failure::new(Kind::Io, format!("the agent answered {status}"), text)
        })?;
        let word = problem.r#type.rsplit(':').next().unwrap_or_default();
        Err(Failure {
            kind: Kind::from_word(word),
            what: problem.title,
            why: problem.detail,
            next: problem.next,
            errors: problem.errors,
        })
    }

    fn block<T>(&self, limit: Duration, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::new(Kind::Io, "cannot start", e))?;
        runtime.block_on(async {
            tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
                let what = format!("the agent on {} gives no answer", self.place());
                Err(Failure::new(Kind::TimedOut, what, format!("{limit:?} went by"))
                    .next("systemctl status nines"))
            })
        })
    }

    /// GET, as the agent's bytes.
    pub fn get_raw(&self, path: &str) -> Outcome<Vec<u8>> {
        self.block(USUAL, self.call(Method::GET, path, Vec::new()))
    }

    /// Sends a GET request for `path` and decodes the agent's JSON answer.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Outcome<T> {
        let bytes = self.get_raw(path)?;
        // The config is a file: its lines and tabs are its own.
        if path == "/v1/config" { Self::decode(&bytes) } else { Self::read(&bytes) }
    }

    /// Sends `body` as JSON in a POST request and decodes the agent's JSON answer.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Outcome<T> {
        self.post_within(path, body, USUAL)
    }

    /// The same where the answer may take so long.
    pub fn post_within<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        limit: Duration,
    ) -> Outcome<T> {
        let bytes = serde_json::to_vec(body).expect("plain data");
        // A large config is given time.
        let limit = limit + Duration::from_millis(bytes.len() as u64 / 500);
        let answer = self.block(limit, self.call(Method::POST, path, bytes))?;
        Self::read(&answer)
    }

    /// What others said in it (reasons, names, events) cannot act on a terminal.
    fn read<T: DeserializeOwned>(bytes: &[u8]) -> Outcome<T> {
        Self::decode(clean_json(&String::from_utf8_lossy(bytes)).as_bytes())
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Outcome<T> {
        serde_json::from_slice(bytes).map_err(|e| {
            Failure::new(Kind::Io, "the agent's answer cannot be read", e)
                .next("nines version   shows whether agent and command are of one version")
        })
    }
}

/// A value of a query, with all bytes percent-encoded that could mean something else there.
pub fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                char::from(b).to_string()
            }
            _ => format!("%{b:02X}"),
        })
        .collect()
}
