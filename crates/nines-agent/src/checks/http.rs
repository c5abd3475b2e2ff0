//! The HTTP question of a check, and its answer.
//!
//! Decides: when an answer is complete and whether it is the wanted one. HTTP says where an answer
//! ends (RFC 9112 section 6.3): hyper reads lengths, chunks and interim answers.

use std::{
    pin::pin,
    sync::{Mutex, PoisonError},
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// A body is read up to so many bytes; the rest takes no part.
const BODY_MAX: usize = 1024 * 1024;
/// Status line and headers together.
const HEAD_MAX: usize = 64 * 1024;

/// Headers of one answer.
const HEADERS_MAX: usize = 256;

/// How far a check has come, for the message when its time is over.
pub struct Stage(Mutex<&'static str>);

impl Stage {
    /// Where it begins.
    pub fn new(at: &'static str) -> Self {
        Self(Mutex::new(at))
    }

    /// It has come further.
    pub fn set(&self, at: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// Where it is.
    pub fn get(&self) -> &'static str {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is asked, and what the answer must be.
pub struct Question<'a> {
    /// Path and query.
    pub path: &'a str,
    /// Value of the `Host` header.
    pub host: &'a str,
    /// Status code that the answer must have.
    pub status: u16,
    /// Text that the body must contain.
    pub contains: Option<&'a str>,
}

/// Asks once over `stream`.
pub async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    question: &Question<'_>,
    stage: &Stage,
) -> Result<String, String> {
    let Question { path, host, .. } = question;
    let request = Request::get(*path)
        .header(header::HOST, *host)
        .header(header::USER_AGENT, "nines")
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| format!("cannot ask for {path}: {e}"))?;
    stage.set("no answer");
    // Servers that are lax about spaces and old line folds serve their clients all the same.
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .title_case_headers(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(|e| format!("cannot ask: {e}"))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| no_answer(path, &e))?;
        stage.set("the answer did not end");
        judge(response, question).await
    };
    let (mut answer, mut connection) = (pin!(answer), pin!(connection));
    tokio::select! {
        biased;
        judged = &mut answer => judged,
        // What came is handed over: the answer ends, too.
        _ = &mut connection => answer.await,
    }
}

fn no_answer(path: &str, error: &hyper::Error) -> String {
    if error.is_parse_too_large() {
        format!("GET {path} gave headers of more than {} KiB", HEAD_MAX / 1024)
    } else if error.is_parse() || error.is_incomplete_message() {
        format!("GET {path} gave no HTTP answer")
    } else {
        format!("GET {path} gave no answer: {}", root(error))
    }
}

/// The innermost reason, which names what happened to the connection.
fn root(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// Whether an answer is the wanted one; reads it to its end.
async fn judge(response: Response<Incoming>, question: &Question<'_>) -> Result<String, String> {
    let Question { path, status: wanted, contains, .. } = question;
    let status = response.status().as_u16();
    if status != *wanted {
        return Err(format!("GET {path} gave {status}, wanted {wanted}"));
    }
    // A body that ends with the connection ends with a reset one, too, and without TLS's goodbye.
    let ends_with_connection = !response.headers().contains_key(header::CONTENT_LENGTH)
        && !response.headers().contains_key(header::TRANSFER_ENCODING);
    // After 101 the connection speaks another language.
    let bodiless = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let mut body = response.into_body();
    let mut seen = Vec::new();
    while seen.len() < BODY_MAX && !bodiless {
        match body.frame().await {
            None => break,
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                seen.extend_from_slice(&data[..data.len().min(BODY_MAX - seen.len())]);
            }
            Some(Err(_)) if ends_with_connection => break,
            Some(Err(e)) => {
                return Err(format!("GET {path} gave {status} and broke off: {}", root(&e)));
            }
        }
    }
    match contains {
        Some(text) if !holds(&seen, text.as_bytes()) => {
            Err(format!("GET {path} gave {status} without \"{text}\""))
        }
        _ => Ok(status.to_string()),
    }
}

fn holds(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text)
}

/// The name that TLS is asked for: the host without its port.
pub fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            // The colons of a bare IPv6 address are no port's.
            if name.contains(':') && !name.ends_with(']') { host } else { name }
        }
        _ => host,
    }
}
