//! Checks against servers of our own.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use nines_core::health::CheckTask;
use nines_model::{Check, CheckKind, Forward, Millis};
use rustls::crypto::ring::default_provider;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{http::Stage, phase, shortage::Trouble};

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

fn block<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(work)
}

fn task(addr: SocketAddr, kind: CheckKind) -> CheckTask {
    CheckTask {
        service: "web".into(),
        server: "r1".into(),
        addr,
        listen: addr,
        forward: Forward::Nat,
        proxy: false,
        check: Check {
            kind,
            port: None,
            every: Millis(100),
            timeout: Millis(60_000),
            rise: 1,
            fall: 1,
            forwarded: true,
        },
    }
}

fn get(tls: bool, status: u16, host: Option<&str>, contains: Option<&str>) -> CheckKind {
    let (host, contains) = (host.map(str::to_owned), contains.map(str::to_owned));
    CheckKind::Http { tls, path: "/".into(), host, status, contains }
}

async fn check(task: &CheckTask) -> Result<String, String> {
    let stage = Stage::new("");
    match super::check(task, &stage, &mut None).await {
        Ok(said) => Ok(said),
        Err(Trouble::Server(why)) => Err(why),
        Err(Trouble::Own(what)) => panic!("a shortage in a test: {what}"),
    }
}

#[test]
fn https_is_asked_with_the_hosts_name() {
    block(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(secure(listener));
        let ask = |host: Option<&str>, text: &str| task(addr, get(true, 200, host, Some(text)));
        for host in ["shop.example", "shop.example:8443"] {
            let asked = check(&ask(Some(host), "asked for shop.example")).await;
            assert_eq!(asked, Ok("200".into()), "{host}");
        }
        assert_eq!(check(&ask(None, "asked for nobody")).await, Ok("200".into()));
        assert!(check(&ask(None, "asked for shop")).await.unwrap_err().contains("without"));
        // Plain HTTP on that port is no answer, and TLS to a port without it no success.
        let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let deaf = task(plain.local_addr().unwrap(), get(true, 200, None, None));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = plain.accept().await {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            }
        });
        assert!(check(&deaf).await.unwrap_err().contains("TLS failed"));
    });
}

/// A server that sends these pieces, and then closes or holds the connection; the channel
/// gets each request.
async fn says(host: &str, pieces: Vec<Vec<u8>>, holds: bool) -> (SocketAddr, Asked) {
    let listener = tokio::net::TcpListener::bind(host).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (tell, asked) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut some = [0; 512];
                match stream.read(&mut some).await {
                    Ok(n) if n > 0 => request.extend_from_slice(&some[..n]),
                    _ => break,
                }
            }
            let _ = tell.send(String::from_utf8_lossy(&request).into_owned());
            for piece in &pieces {
                let _ = stream.write_all(piece).await;
                let _ = stream.flush().await;
                tokio::task::yield_now().await;
            }
            if holds {
                held.push(stream);
            }
        }
    });
    (addr, asked)
}

type Asked = tokio::sync::mpsc::UnboundedReceiver<String>;

#[test]
fn an_answer_ends_where_http_says() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    // What is sent, whether the connection stays open, the text wanted, and the outcome.
    let cases: &[(&str, bool, Option<&str>, Result<&str, &str>)] = &[
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true, Some("ok"), Ok("200")),
        ("HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\nok", true, None, Ok("200")),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", true, None, Ok("200")),
        ("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", true, None, Ok("200")),
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", true, Some("ok"), Ok("200")),
        ("HTTP/1.0 200 OK\r\n\r\nto the end", false, Some("the end"), Ok("200")),
        ("HTTP/1.1 200 OK\r\n\r\nA: b", false, Some("A: b"), Ok("200")),
        ("HTTP/1.1 200 OK\r\nA: b\r\n\r\n", false, Some("A: b"), Err("without")),
        ("HTTP/1.1 204 No Content\r\n\r\n", true, None, Err("gave 204, wanted 200")),
        ("HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", true, None, Err("gave 302")),
        ("HTTP/1.1 503 No\r\nContent-Length: 9\r\n\r\n", true, None, Err("gave 503")),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", false, None, Err("broke off")),
        ("SSH-2.0-OpenSSH\r\n", true, None, Err("no HTTP answer")),
        ("HTTP/1.1 abc\r\n\r\n", true, None, Err("no HTTP answer")),
        ("", false, None, Err("no HTTP answer")),
        ("HTTP/1.1 200 OK\r\n", false, None, Err("no HTTP answer")),
    ];
    let joined = |text: &str| format!("{chunked}{text}");
    let mut all: Vec<(String, bool, Option<&str>, Result<&str, &str>)> = cases
        .iter()
        .map(|(text, open, wanted, end)| ((*text).into(), *open, *wanted, *end))
        .collect();
    all.extend([
        (joined("6\r\nall is\r\n5\r\n well\r\n0\r\n\r\n"), true, Some("is well"), Ok("200")),
        (joined("2;x=y\r\nok\r\n0\r\nTrailer: 1\r\n\r\n"), true, Some("ok"), Ok("200")),
        (joined("2\r\nok\r\n0\r\n\r\n"), true, Some("2\r\nok"), Err("without")),
        (joined("ff\r\nok"), false, None, Err("broke off")),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
                .to_owned()
                + &joined("2\r\nok\r\n0\r\n\r\n"),
            true,
            Some("ok"),
            Ok("200"),
        ),
        (
            format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(400_000)),
            true,
            None,
            Err("headers of more than"),
        ),
    ]);
    block(async {
        for (text, holds, contains, wanted) in all {
            // At once, and byte by byte.
            let single = text.bytes().take(2_000).map(|b| vec![b]).collect();
            let split = if text.len() < 2_000 { vec![single] } else { Vec::new() };
            for pieces in split.into_iter().chain([vec![text.clone().into_bytes()]]) {
                let (addr, _asked) = says("127.0.0.1:0", pieces, holds).await;
                let asked = task(addr, get(false, 200, None, contains));
                let got = tokio::time::timeout(Duration::from_secs(60), check(&asked)).await;
                let got = got.unwrap_or_else(|_| panic!("no end of {text:?}"));
                match wanted {
                    Ok(status) => assert_eq!(got, Ok(status.into()), "{text:?}"),
                    Err(why) => {
                        assert!(got.clone().unwrap_err().contains(why), "{text:?}: {got:?}");
                    }
                }
            }
        }
    });
}

#[test]
fn an_answer_without_an_end_is_read_to_a_limit() {
    let head = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    let mega = vec![b'x'; 1024 * 1024];
    block(async {
        let (addr, _asked) = says("127.0.0.1:0", vec![head, mega, b"late".to_vec()], true).await;
        assert_eq!(check(&task(addr, get(false, 200, None, Some("xxx")))).await, Ok("200".into()));
        let late = check(&task(addr, get(false, 200, None, Some("late")))).await;
        assert!(late.unwrap_err().contains("without"));
    });
}

#[test]
fn the_host_is_the_vip_as_clients_write_it() {
    let answer = b"HTTP/1.1 204 No Content\r\n\r\n".to_vec();
    block(async {
        for (server, listen, host, wanted) in [
            ("127.0.0.1:0", "10.0.0.100:80", None, "10.0.0.100"),
            ("127.0.0.1:0", "10.0.0.100:8080", None, "10.0.0.100:8080"),
            ("[::1]:0", "[2001:db8::64]:80", None, "[2001:db8::64]"),
            ("[::1]:0", "[2001:db8::64]:81", None, "[2001:db8::64]:81"),
            ("127.0.0.1:0", "10.0.0.100:80", Some("shop.example"), "shop.example"),
        ] {
            let (addr, mut asked) = says(server, vec![answer.clone()], true).await;
            let mut task = task(addr, get(false, 204, host, None));
            task.listen = listen.parse().unwrap();
            assert_eq!(check(&task).await, Ok("204".into()));
            let request = asked.recv().await.unwrap();
            assert!(request.starts_with("GET / HTTP/1.1\r\n"), "{request}");
            assert!(request.contains(&format!("\r\nHost: {wanted}\r\n")), "{request}");
            assert!(request.contains("\r\nConnection: close\r\n"), "{request}");
        }
    });
}

#[test]
fn many_checks_spread_over_their_interval() {
    let addr: SocketAddr = "127.0.0.1:80".parse().unwrap();
    let mut tenths = [0; 10];
    for number in 0..1_000 {
        let mut task = task(addr, CheckKind::Tcp);
        task.check.every = Millis(2_000);
        task.server = format!("r{number}").into();
        assert_eq!(phase(&task), phase(&task));
        tenths[(phase(&task) / 200) as usize] += 1;
    }
    assert!(tenths.iter().all(|n| (50..=150).contains(n)), "{tenths:?}");
}
