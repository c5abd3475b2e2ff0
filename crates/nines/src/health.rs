//! Checks of real servers: one request, one answer.
//!
//! Decides: when a try was good. Rise and fall are counted in nines-core.

use std::{sync::Arc, time::Duration};

use nines_core::{Event, action::CheckTask};
use nines_dataplane::{
    address,
    probe::{self, Answer, Question},
};
use nines_model::{CheckKind, Forward};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{daemon::core_thread::Handle, trust};

/// An answer is read up to so many bytes.
const ANSWER_MAX: usize = 64 * 1024;

/// Runs the checks that the core asked for last.
#[derive(Default)]
pub struct Checks {
    running: Vec<(CheckTask, JoinHandle<()>)>,
}

impl Checks {
    /// Exactly these from now on; those that stay keep their rhythm.
    pub fn set(&mut self, tasks: Vec<CheckTask>, core: &Handle) {
        let mut before = std::mem::take(&mut self.running);
        for task in tasks {
            if let Some(at) = before.iter().position(|(t, _)| *t == task) {
                self.running.push(before.swap_remove(at));
                continue;
            }
            let handle = tokio::spawn(repeat(task.clone(), core.clone()));
            self.running.push((task, handle));
        }
        before.into_iter().for_each(|(_, handle)| handle.abort());
    }
}

async fn repeat(task: CheckTask, core: Handle) {
    loop {
        let began = Instant::now();
        let limit = Duration::from_millis(task.check.timeout.0);
        let outcome = match timeout(limit, check(&task)).await {
            Ok(Ok(said)) => Ok(format!("{said} in {} ms", began.elapsed().as_millis())),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(format!("no answer within {}", task.check.timeout)),
        };
        let (service, server) = (task.service.clone(), task.server.clone());
        core.event(Event::Checked { service, server, outcome });
        sleep(Duration::from_millis(task.check.every.0)).await;
    }
}

/// What a server that wants to be told of clients is told of a check: there is none (PROXY protocol,
/// version 2, command LOCAL).
const LOCAL: [u8; 16] = *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

async fn check(task: &CheckTask) -> Result<String, String> {
    let said = asked(task).await?;
    let keeps_vip = matches!(task.forward, Forward::Dr | Forward::Tunnel(_));
    if !task.check.forwarded || !keeps_vip {
        return Ok(said);
    }
    let (vip, server, forward) = (task.listen, task.addr.ip(), task.forward);
    // Whoever waits for the whole check hears why it failed.
    let patience = Duration::from_millis(task.check.timeout.0 / 2);
    let ask = move || forwarded(Question { vip, server, forward }, patience);
    tokio::task::spawn_blocking(ask).await.map_err(|e| e.to_string())?.map(|()| said)
}

/// Whether the server answers as the VIP to what comes as clients' packets do.
fn forwarded(question: Question, patience: Duration) -> Result<(), String> {
    let (vip, server) = (question.vip, question.server);
    let interfaces = address::interfaces().map_err(|e| e.to_string())?;
    if server.is_loopback()
        || interfaces.iter().any(|i| i.addresses.iter().any(|(own, _)| *own == server))
    {
        return Ok(());
    }
    let answers = probe::ask(&[question], patience).map_err(|e| e.to_string())?;
    match answers.into_iter().next() {
        Some(Ok(Some(Answer::Accepts))) => Ok(()),
        Some(Ok(Some(Answer::Refuses))) => Err(format!("has the VIP, but refuses {vip}")),
        Some(Ok(None)) | None => {
            Err(format!("does not answer as {vip} to forwarded packets: see nines doctor"))
        }
        Some(Err(why)) => Err(format!("cannot be reached as packets go: {why}")),
    }
}

/// The check as it is without that.
async fn asked(task: &CheckTask) -> Result<String, String> {
    let connect = || async {
        let cannot = |e: std::io::Error| format!("cannot connect to {}: {e}", task.addr);
        let mut stream = TcpStream::connect(task.addr).await.map_err(cannot)?;
        if task.proxy {
            stream.write_all(&LOCAL).await.map_err(cannot)?;
        }
        Ok::<_, String>(stream)
    };
    match &task.check.kind {
        CheckKind::None => Ok("not checked".into()),
        CheckKind::Tcp => connect().await.map(|_| "connected".into()),
        CheckKind::Http { tls, path, host, status, contains } => {
            let host = host.clone().unwrap_or_else(|| match task.listen.ip() {
                std::net::IpAddr::V4(a) => a.to_string(),
                std::net::IpAddr::V6(a) => format!("[{a}]"),
            });
            let stream = connect().await?;
            let answer = if *tls {
                let connector =
                    tokio_rustls::TlsConnector::from(Arc::new(trust::unverified_client()));
                // A server with several sites picks one by this name (SNI, RFC 6066 section 3).
                let name = rustls_pki_types::ServerName::try_from(host.clone())
                    .unwrap_or_else(|_| task.addr.ip().into());
                let stream = connector
                    .connect(name, stream)
                    .await
                    .map_err(|e| format!("TLS failed: {e}"))?;
                ask(stream, path, &host).await?
            } else {
                ask(stream, path, &host).await?
            };
            judge(&answer, path, *status, contains.as_deref())
        }
    }
}

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    host: &str,
) -> Result<Vec<u8>, String> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: nines\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(|e| format!("cannot ask: {e}"))?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4_096];
    while answer.len() < ANSWER_MAX {
        match stream.read(&mut chunk).await {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&chunk[..n]),
            // Servers that close without TLS's goodbye have still answered.
            Err(_) if !answer.is_empty() => break,
            Err(e) => return Err(format!("no answer: {e}")),
        }
    }
    Ok(answer)
}

/// Whether an HTTP answer is the wanted one.
fn judge(answer: &[u8], path: &str, wanted: u16, contains: Option<&str>) -> Result<String, String> {
    let line = answer.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_whitespace();
    let status: Option<u16> = match words.next() {
        Some(version) if version.starts_with("HTTP/1.") => {
            words.next().and_then(|s| s.parse().ok())
        }
        _ => None,
    };
    let Some(status) = status else {
        return Err(format!("GET {path} gave no HTTP answer"));
    };
    if status != wanted {
        return Err(format!("GET {path} gave {status}, wanted {wanted}"));
    }
    if let Some(text) = contains {
        let body =
            answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(&[][..], |i| &answer[i + 4..]);
        if !String::from_utf8_lossy(body).contains(text) {
            return Err(format!("GET {path} gave {status} without \"{text}\""));
        }
    }
    Ok(status.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nines_core::action::CheckTask;
    use nines_model::{Check, CheckKind, Forward, Millis};
    use rustls::crypto::ring::default_provider;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::{check, judge};

    /// A web server with a certificate that nobody signed; says which name it was asked for.
    async fn secure(listener: tokio::net::TcpListener) {
        let made = rcgen::generate_simple_self_signed(["shop.example".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.unwrap())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let name = stream.get_ref().1.server_name().unwrap_or("nobody").to_owned();
            let _ = stream.read(&mut [0; 1_024]).await;
            let answer = format!("HTTP/1.1 200 OK\r\n\r\nasked for {name}");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    }

    #[test]
    fn https_is_asked_with_the_hosts_name() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            tokio::spawn(secure(listener));
            let task = |host: Option<&str>, contains: &str| CheckTask {
                service: "web".into(),
                server: "r1".into(),
                addr,
                listen: addr,
                forward: Forward::Nat,
                proxy: false,
                check: Check {
                    kind: CheckKind::Http {
                        tls: true,
                        path: "/".into(),
                        host: host.map(str::to_owned),
                        status: 200,
                        contains: Some(contains.into()),
                    },
                    port: None,
                    every: Millis(100),
                    timeout: Millis(1_000),
                    rise: 1,
                    fall: 1,
                    forwarded: true,
                },
            };
            let asked = check(&task(Some("shop.example"), "asked for shop.example")).await;
            assert_eq!(asked, Ok("200".into()));
            assert_eq!(check(&task(None, "asked for nobody")).await, Ok("200".into()));
            assert!(check(&task(None, "asked for shop")).await.unwrap_err().contains("without"));
            // Plain HTTP on that port is no answer, and TLS to a port without it no success.
            let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut deaf = task(None, "");
            deaf.addr = plain.local_addr().unwrap();
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = plain.accept().await {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                }
            });
            assert!(check(&deaf).await.unwrap_err().contains("TLS failed"));
        });
    }

    #[test]
    fn answers_are_judged() {
        let ok = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nall is well";
        assert_eq!(judge(ok, "/", 200, None), Ok("200".into()));
        assert_eq!(judge(ok, "/", 200, Some("is well")), Ok("200".into()));
        assert!(judge(ok, "/", 200, Some("A: b")).is_err(), "headers are no body");
        assert_eq!(judge(ok, "/x", 204, None), Err("GET /x gave 200, wanted 204".into()));
        assert!(judge(b"SSH-2.0-x", "/", 200, None).unwrap_err().contains("no HTTP"));
        assert!(judge(b"", "/", 200, None).is_err());
        assert!(judge(b"HTTP/1.1 abc\r\n", "/", 200, None).is_err());
    }
}
