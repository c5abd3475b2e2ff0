//! The door of the peer port: who comes in, how long they may stay silent, how many there are.
//!
//! Decides: strangers have five seconds to show a certificate of the cluster or a join code, and
//! few places; members and real servers have places of their own. Wrong join codes are counted.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls_pki_types::CertificateDer;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    connection_limits::{Gate, origin},
    descriptors::Shares,
    identity::trust,
};

/// How long a stranger has.
const PATIENCE: Duration = Duration::from_secs(5);
/// Places of strangers from one address.
const STRANGERS_EACH: usize = 32;
/// Places of one certificate: a director has a line to each other one for each kind of message.
const LINES_EACH: usize = 64;
/// Wrong join codes from one address in one minute.
const GUESSES: u32 = 10;
/// The time in which [`GUESSES`] are counted.
const MINUTE: Duration = Duration::from_secs(60);
/// Addresses whose wrong codes are counted.
const GUESSERS: usize = 4_096;

/// One that came in.
pub struct Visit {
    /// The connection after its TLS handshake.
    pub stream: TlsStream<TcpStream>,
    /// Its certificate, signed by the cluster's authority; `None`: a stranger.
    pub cert: Option<CertificateDer<'static>>,
    /// Those that it showed along with it.
    pub others: Vec<CertificateDer<'static>>,
    /// Address of the other end.
    pub from: IpAddr,
    /// Until when the first frame must be here.
    pub until: Instant,
}

/// Wrong join codes by address.
#[derive(Default)]
pub struct Guesses(Mutex<HashMap<IpAddr, (u32, Option<Instant>)>>);

impl Guesses {
    /// Whether this address may try a join code now.
    pub fn may(&self, from: IpAddr, now: Instant) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (_, since)| since.is_some_and(|since| now.duration_since(since) < MINUTE));
        all.get(&from).is_none_or(|(count, _)| *count < GUESSES)
    }

    /// It was wrong.
    pub fn wrong(&self, from: IpAddr, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < GUESSERS || all.contains_key(&from) {
            let entry = all.entry(from).or_default();
            entry.0 += 1;
            entry.1.get_or_insert(now);
        }
    }
}

/// Lets visitors in until the process ends; `talk` goes on with each. `acceptor`: with the newest
/// certificate of this node.
pub async fn keep<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    acceptor: impl Fn() -> TlsAcceptor,
    shares: Shares,
    talk: impl Fn(Visit) -> F + Clone + Send + 'static,
) {
    let strangers = Gate::new(shares.strangers, STRANGERS_EACH.min(shares.strangers / 2));
    let members = Gate::new(shares.members, LINES_EACH);
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            // Out of descriptors: those of strangers come back within seconds.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let from: SocketAddr = from;
        let stranger = strangers.enter(origin(from));
        let (acceptor, members, talk) = (acceptor(), Arc::clone(&members), talk.clone());
        tokio::spawn(async move {
            let until = Instant::now() + PATIENCE;
            let handshake = timeout_at(until, acceptor.accept(stream));
            let Some(Ok(Ok(stream))) = stranger.unless_shed(handshake).await else { return };
            let certs = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
            let mut others = certs.unwrap_or_default();
            if others.is_empty() {
                let visit = Visit { stream, cert: None, others, from: origin(from), until };
                stranger.unless_shed(talk(visit)).await;
                return;
            }
            let cert = others.remove(0);
            let line = members.enter(trust::first_name(&cert));
            drop(stranger);
            let visit = Visit { stream, cert: Some(cert), others, from: origin(from), until };
            line.unless_shed(talk(visit)).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_codes_close_the_door_for_a_minute_and_for_one_address() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        for _ in 0..GUESSES {
            assert!(guesses.may(at("10.0.0.9"), now));
            guesses.wrong(at("10.0.0.9"), now);
        }
        assert!(!guesses.may(at("10.0.0.9"), now + MINUTE / 2));
        assert!(guesses.may(at("10.0.0.8"), now));
        assert!(guesses.may(at("10.0.0.9"), now + MINUTE));
    }
}
