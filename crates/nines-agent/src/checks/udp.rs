//! The question of a UDP check.
//!
//! Decides: what says that nobody listens. UDP has no handshake: an empty datagram is sent, and
//! the host answers "port unreachable" (ICMP) if no program has the port. Silence is no fault,
//! because most services answer only what they understand.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use nines_dataplane::process::hear_unreachable;
use tokio::{net::UdpSocket, time::timeout};

use super::shortage::Trouble;

/// How long a refusal may take; never more than half of the check's own limit.
const WAIT: Duration = Duration::from_millis(250);

/// The kernel gives up the search for a neighbour after about three seconds; a line on which no
/// error came for so long reaches its server again.
const SEARCH: Duration = Duration::from_secs(4);

/// What is kept of one server between tries. A socket that stays open also hears what came too late
/// for the last try: that no machine has the address, above all.
#[derive(Default)]
pub struct Line {
    socket: Option<UdpSocket>,
    /// When the way to the server was last said to be broken, and how.
    broken: Option<(Instant, String)>,
}

async fn open(addr: SocketAddr) -> io::Result<UdpSocket> {
    let any = match addr {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    hear_unreachable(socket.as_fd(), addr.is_ipv6())?;
    socket.connect(addr).await?;
    Ok(socket)
}

impl Line {
    /// Sends one empty datagram. Fails if an ICMP error comes back within `limit`.
    pub async fn ask(&mut self, addr: SocketAddr, limit: Duration) -> Result<String, Trouble> {
        match self.try_once(addr, limit).await {
            Ok(true) => {
                self.broken = None;
                Ok("answered".into())
            }
            Ok(false) => match &self.broken {
                Some((at, why)) if at.elapsed() < SEARCH => Err(Trouble::Server(why.clone())),
                _ => {
                    self.broken = None;
                    Ok("not refused".into())
                }
            },
            Err(e) => {
                // The next try begins with a new socket: this one has errors in store.
                self.socket = None;
                let refused = e.kind() == io::ErrorKind::ConnectionRefused;
                let says = if refused { "no program has the port" } else { "cannot be reached" };
                let trouble = Trouble::of(&e, || format!("{addr}: {says}"));
                if let (Trouble::Server(why), false) = (&trouble, refused) {
                    self.broken = Some((Instant::now(), why.clone()));
                }
                Err(trouble)
            }
        }
    }

    /// Whether an answer came.
    async fn try_once(&mut self, addr: SocketAddr, limit: Duration) -> io::Result<bool> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(open(addr).await?),
        };
        // Answers to earlier questions are no answer to this one; an error since then counts.
        let mut buffer = [0; 2_048];
        loop {
            match socket.try_recv(&mut buffer) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        socket.send(&[]).await?;
        match timeout(WAIT.min(limit / 2), socket.recv(&mut buffer)).await {
            Ok(answer) => answer.map(|_| true),
            Err(_) => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block<T>(work: impl Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(work)
    }

    #[test]
    fn a_port_that_nobody_has_is_refused_and_silence_is_no_fault() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            block(async {
                let limit = Duration::from_secs(60);
                let silent = UdpSocket::bind(host).await.unwrap();
                let addr = silent.local_addr().unwrap();
                let mut line = Line::default();
                assert_eq!(line.ask(addr, limit).await, Ok("not refused".into()), "{host}");
                drop(silent);
                let refused = line.ask(addr, limit).await;
                let Err(Trouble::Server(why)) = refused else { panic!("{host}: {refused:?}") };
                assert!(why.contains("no program has the port"), "{why}");
                // A new server on the port is found by the same line.
                let answers = UdpSocket::bind(addr).await.unwrap();
                tokio::spawn(async move {
                    while let Ok((_, from)) = answers.recv_from(&mut [0; 64]).await {
                        let _ = answers.send_to(b"here", from).await;
                    }
                });
                assert_eq!(line.ask(addr, limit).await, Ok("answered".into()), "{host}");
            });
        }
    }
}
