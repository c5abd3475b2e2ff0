//! The listeners of the API: the unix socket, the port with TLS, and the port that tells metrics.
//!
//! Decides: how many connections there are, of whom, and how long each may take. A request that is
//! not whole after some seconds, and a reader that does not read, end; an answer is never waited
//! for by others.

use std::{hash::Hash, path::Path, time::Duration};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nines_api::failure::{Failure, Kind, Outcome};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    time::{interval, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    access::{Access, Origin},
    caller::User,
};
use crate::connection_limits::{Gate, Guest, origin};

/// The head of a request must be whole after so long; an idle connection ends, too.
const HEAD: Duration = Duration::from_secs(5);
/// A connection to the port for metrics, with its one request.
const METRICS: Duration = Duration::from_secs(20);
/// A connection to the API's socket. Commands wait 10 s at most.
const API: Duration = Duration::from_secs(120);
/// Connections from one address to a port.
const EACH: usize = 16;
/// How often the mode of the socket is compared with the config.
const MODE: Duration = Duration::from_secs(1);
/// Who may connect to the socket: root and the group.
const GROUP: u32 = 0o660;
/// The same where the config says who may do what.
const EVERYBODY: u32 = 0o666;

/// Binds the socket; a second agent on the same one is refused, a dead one's is replaced.
pub fn listen(path: &Path) -> Outcome<UnixListener> {
    let failed = |e: &dyn std::fmt::Display| {
        Failure::new(Kind::Io, format!("cannot listen on {}", path.display()), e)
            .next("see that its directory exists and is yours, or choose --socket")
    };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(Failure::new(
            Kind::Unsafe,
            format!("an agent already listens on {}", path.display()),
            "two agents on one socket would hide each other",
        )
        .next("systemctl status nines, or choose another --socket"));
    }
    let _ = std::fs::remove_file(path);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|e| failed(&e))?;
    }
    let listener = UnixListener::bind(path).map_err(|e| failed(&e))?;
    // Members of the group may act; systemd's unit sets the group.
    set_mode(path, GROUP).map_err(|e| failed(&e))?;
    Ok(listener)
}

fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

/// Serves one connection, and ends it when its time is over.
fn serve<K: Clone + Eq + Hash + Send + Sync + 'static>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    guest: Guest<K>,
    limit: Duration,
    keep_alive: bool,
) {
    tokio::spawn(async move {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .keep_alive(keep_alive)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let _ = guest.unless_shed(timeout(limit, connection)).await;
    });
}

/// The API, until the process ends. Each request carries its [`Origin`].
pub async fn api(listener: UnixListener, router: Router, room: usize, access: &Access) {
    let gate = Gate::new(room, room / 2);
    let at = listener.local_addr().ok();
    let path = at.as_ref().and_then(|at| at.as_pathname());
    let (mut look, mut mode) = (interval(MODE), GROUP);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = look.tick() => {
                let wanted = match access.is_by_config().await {
                    Some(true) => EVERYBODY,
                    _ => GROUP,
                };
                if wanted != mode && path.is_some_and(|path| set_mode(path, wanted).is_ok()) {
                    mode = wanted;
                }
                continue;
            }
        };
        let Ok((stream, _)) = accepted else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let user = User::of(&stream);
        let guest = gate.enter(user.uid());
        let router = router.clone().layer(Extension(Origin::Socket(user)));
        serve(stream, router, guest, API, true);
    }
}

/// A socket whose requests everybody may make who can open it, until the process ends.
pub async fn open(listener: UnixListener, router: Router, room: usize) {
    let gate = Gate::new(room, room);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => serve(stream, router.clone(), gate.enter(()), API, true),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// The port with TLS, until the process ends. `tls` gives the newest of this side's certificate.
/// Each request carries its [`Origin`].
pub async fn remote(
    listener: TcpListener,
    tls: impl Fn() -> TlsAcceptor + Send,
    router: Router,
    room: usize,
) {
    let gate = Gate::new(room, EACH.min(room));
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let from = origin(from);
        let guest = gate.enter(from);
        let router = router.clone().layer(Extension(Origin::Network(from)));
        let tls = tls();
        tokio::spawn(async move {
            let shaken = guest.unless_shed(timeout(HEAD, tls.accept(stream))).await;
            if let Some(Ok(Ok(stream))) = shaken {
                serve(stream, router, guest, API, true);
            }
        });
    }
}

/// The port for metrics, until the process ends.
pub async fn metrics(listener: TcpListener, router: Router, room: usize) {
    let gate = Gate::new(room, EACH.min(room));
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        serve(stream, router.clone(), gate.enter(origin(from)), METRICS, false);
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    fn block<T>(work: impl Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(work)
    }

    async fn served(room: usize) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let router = Router::new().route("/metrics", get(|| async { "fine" }));
        tokio::spawn(metrics(listener, router, room));
        addr
    }

    #[test]
    fn half_a_request_ends_and_a_whole_one_is_answered_beside_many() {
        block(async {
            let addr = served(8).await;
            let mut halves = Vec::new();
            for _ in 0..50 {
                let mut half = TcpStream::connect(addr).await.unwrap();
                half.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n").await.unwrap();
                halves.push(half);
            }
            let mut whole = TcpStream::connect(addr).await.unwrap();
            whole.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            whole.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("fine"), "{answer}");
            // A bound for hangs only: all of them end by themselves.
            for mut half in halves {
                let mut rest = Vec::new();
                let end = timeout(Duration::from_secs(60), half.read_to_end(&mut rest)).await;
                assert!(end.is_ok(), "a half request is kept");
            }
        });
    }
}
