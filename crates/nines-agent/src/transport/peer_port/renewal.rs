//! Certificates are renewed before they end, and those of builds that knew no end are replaced.
//!
//! Decides: who signs whose. A director signs its own; a witness or real server makes a new key and
//! asks a director, over a line on which it shows the certificate that it has. It gets one for its
//! own name and number only. Who has earlier authorities than the director gets those, too, and a
//! director their keys. Nobody restarts, and no line ends.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use nines_api::failure::{Failure, Kind, Outcome};
use nines_core::Node;
use nines_model::{NodeId, printable::clean};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::{FRAME_MAX, connect, get, join::Door, kind, open, put};
use crate::{
    core_thread::CoreHandle,
    identity::{
        self, Credentials, Peer, StateDir,
        authorities::{Authorities, Order},
        certificate::{self, NEARLY_OVER, Subject, Validity},
        now_s, trust,
    },
    logger::Logger,
};

/// How often a machine looks at its certificate.
const LOOK: Duration = Duration::from_secs(600);
/// A renewal that failed is tried again after so long.
const AGAIN: Duration = Duration::from_secs(10);
/// How long one member may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a machine says that wants a new certificate.
#[derive(Serialize, Deserialize)]
struct Renew {
    /// Its name; a member's number is in its certificate.
    name: String,
    /// Certificate signing request, PEM.
    request: String,
    /// Which authorities it has; `None`: its build rotates none.
    #[serde(default)]
    authorities: Option<Order>,
}

/// What a director answers.
#[derive(Serialize, Deserialize)]
struct Renewed {
    /// Certificate, PEM.
    cert_pem: String,
    /// The authorities, if they are later than those of who asks.
    #[serde(default)]
    authorities: Option<Authorities>,
    /// Key of the authority that signs, PEM; empty: it is not for who asks.
    #[serde(default)]
    ca_key: String,
    /// Key of the authority that signs next, PEM; empty: none, or it is not for who asks.
    #[serde(default)]
    next_key: String,
}

/// A member's side: kind and bytes of the answer. `from`: the member that asks; 0: it is none.
pub(super) async fn answer(
    door: &Door,
    bytes: &[u8],
    from: u64,
    cert: Option<&CertificateDer<'_>>,
) -> (u8, Vec<u8>) {
    match sign(door, bytes, from, cert).await {
        Ok(renewed) => (kind::ANSWER, serde_json::to_vec(&renewed).expect("plain data")),
        Err(why) => (kind::REFUSED, why.to_string().into_bytes()),
    }
}

async fn sign(
    door: &Door,
    bytes: &[u8],
    from: u64,
    cert: Option<&CertificateDer<'_>>,
) -> Outcome<Renewed> {
    let refuse = |why: &str| Failure::new(Kind::Denied, "refused", why);
    let Renew { name, request, authorities: theirs } =
        serde_json::from_slice(bytes).map_err(|_| refuse("the request cannot be read"))?;
    let keys = door.credentials.keys();
    let later = theirs.is_some_and(|theirs| theirs < keys.authorities.order);
    if theirs.is_some_and(|theirs| theirs > keys.authorities.order) {
        return Err(refuse("this member has earlier authorities"));
    }
    let validity = cert.and_then(|cert| Validity::of(cert));
    if !later && validity.is_some_and(|validity| !validity.is_due(now_s())) {
        return Err(refuse("its certificate is not due for renewal"));
    }
    let mut signs = false;
    let subject = if from == 0 {
        let own = identity::server_tls_name(&name);
        if !cert.is_some_and(|cert| trust::names(cert, &own)) {
            return Err(refuse("it has no certificate of that name"));
        }
        Subject::Server(name)
    } else {
        let id = NodeId(from);
        let known = move |node: &Node, _| node.state().members.get(&id).cloned();
        match door.core.inspect(known).await.flatten() {
            Some(known) if known.name == name => {
                signs = !known.witness;
                Subject::Node(name, from)
            }
            _ => return Err(refuse("it is no member of that name and number")),
        }
    };
    let cluster = &door.credentials.identity.cluster;
    let Some(authority) = keys.authority(cluster) else {
        return Err(refuse("this member has no CA key"));
    };
    let cert_pem = authority.sign(&subject, &request, now_s())?;
    door.log.line(&format!("{} has a new certificate", subject.words()));
    let (ca_key, next_key) = if later && signs {
        (keys.ca_key.clone(), keys.next_key.clone())
    } else {
        Default::default()
    };
    let authorities = later.then(|| keys.authorities.clone());
    Ok(Renewed { cert_pem, authorities, ca_key, next_key })
}

/// Signs a new certificate for this machine itself, if one is due and it has the authority's key;
/// whether it did.
pub fn renew_own(credentials: &Credentials, home: &StateDir, now: u64) -> Outcome<bool> {
    let keys = credentials.keys();
    let cluster = &credentials.identity.cluster;
    let Some(authority) = keys.authority(cluster).filter(|_| keys.validity.is_due(now)) else {
        return Ok(false);
    };
    let key = certificate::new_key()?;
    let request = certificate::request(&key)?;
    let cert = authority.sign(&credentials.subject(), &request, now)?;
    credentials.renew(home, &cert, &key)?;
    Ok(true)
}

/// What an agent does with its keys before it starts: it renews a certificate that it can, and
/// forgets the authority's key where it may not be used.
pub fn at_start(credentials: &Credentials, home: &StateDir, log: &Logger) -> Outcome<()> {
    if renew_own(credentials, home, now_s())? {
        log.line("this machine has a new certificate");
    }
    if credentials.drop_ca_key(home)? {
        log.line("the CA key was deleted here: only directors have it");
    }
    Ok(())
}

/// What is to be said of a certificate that ends soon; empty: nothing.
pub fn trouble(validity: Validity, now: u64) -> String {
    let left = validity.until.saturating_sub(now);
    match () {
        () if validity.is_over(now) => {
            "its certificate is over: other members do not hear it over TLS".into()
        }
        () if now < validity.from => "its certificate is not valid yet: look at the clocks".into(),
        () if left < NEARLY_OVER => {
            // By the day: whoever hears of a change writes it to the log.
            match left / 86_400 {
                0 => "its certificate ends within a day".into(),
                days => format!("its certificate ends in {}", nines_api::text::count(days, "day")),
            }
        }
        () => String::new(),
    }
}

/// Renews this machine's certificate whenever that is due, until the process ends. `members`: whom
/// it may ask now. `tell` hears what is wrong; empty: nothing.
pub async fn keep<F: Future<Output = Vec<Peer>> + Send>(
    credentials: Arc<Credentials>,
    home: StateDir,
    log: Logger,
    members: impl Fn() -> F + Send,
    tell: impl Fn(String) + Send,
) {
    let mut said = String::new();
    loop {
        let due = credentials.keys().validity.is_due(now_s());
        let done = if due { renew(&credentials, &home, members().await).await } else { Ok(()) };
        match &done {
            Ok(()) if due => {
                log.line("this machine has a new certificate");
                said.clear();
            }
            Err(why) if said != why.to_string() => {
                said = why.to_string();
                log.line(&said);
            }
            _ => {}
        }
        tell(trouble(credentials.keys().validity, now_s()));
        sleep(if done.is_err() { AGAIN } else { LOOK }).await;
    }
}

/// Members that can sign, as the log names them; before this node has it, those it joined by.
pub async fn signers(core: &CoreHandle, seed: &[Peer]) -> Vec<Peer> {
    let look = |node: &Node, _| {
        let directors = node.state().members.iter().filter(|(_, m)| !m.witness);
        super::peers(&directors.map(|(id, m)| (*id, m.clone())).collect())
    };
    let known = core.inspect(look).await.unwrap_or_default();
    if known.is_empty() { seed.to_vec() } else { known }
}

/// Gets a new certificate: from the own authority, or from one of these members.
pub(super) async fn renew(
    credentials: &Credentials,
    home: &StateDir,
    members: Vec<Peer>,
) -> Outcome<()> {
    if renew_own(credentials, home, now_s())? {
        return Ok(());
    }
    catch_up(credentials, home, members).await
}

/// Gets a new certificate from one of these members, and the authorities if it has later ones.
pub async fn catch_up(
    credentials: &Credentials,
    home: &StateDir,
    members: Vec<Peer>,
) -> Outcome<()> {
    let key = certificate::new_key()?;
    let name = credentials.identity.me.name.clone();
    let authorities = Some(credentials.keys().authorities.order);
    let ask = Renew { name, request: certificate::request(&key)?, authorities };
    let ask = serde_json::to_vec(&ask).expect("plain data");
    let mut why = "no director is known".to_owned();
    for member in members.iter().filter(|m| m.id != credentials.identity.me.id) {
        for address in &member.addresses {
            let at = SocketAddr::new(*address, member.port);
            let asked = timeout(PATIENCE, ask_one(credentials, NodeId(member.id), at, &ask));
            match asked.await {
                Ok(Ok(given)) => match take(credentials, home, given, &key) {
                    Ok(()) => return Ok(()),
                    Err(e) => why = format!("{}: {e}", member.name),
                },
                Ok(Err(e)) => why = format!("{}: {}", member.name, clean(&e.to_string())),
                Err(_) => why = format!("{}: no answer", member.name),
            }
        }
    }
    Err(Failure::new(Kind::Unreachable, "the certificate of this machine is not renewed yet", why))
}

/// Keeps what a director gave.
fn take(credentials: &Credentials, home: &StateDir, given: Renewed, key: &str) -> Outcome<()> {
    let Renewed { cert_pem, authorities, ca_key, next_key } = given;
    match authorities {
        None => credentials.renew(home, &cert_pem, key),
        Some(later) => {
            let own = (cert_pem, key.to_owned());
            credentials.put_authorities(home, &later, (ca_key, next_key), own)
        }
    }
}

async fn ask_one(
    credentials: &Credentials,
    member: NodeId,
    at: SocketAddr,
    ask: &[u8],
) -> std::io::Result<Renewed> {
    let mut stream = if credentials.identity.server {
        open(credentials, member, at).await?
    } else {
        connect(credentials, member, at).await?
    };
    if stream.get_ref().1.alpn_protocol() != Some(trust::SIGNS_REQUESTS) {
        return Err(std::io::Error::other("its build renews no certificates"));
    }
    put(&mut stream, kind::RENEW, ask).await?;
    match get(&mut stream, FRAME_MAX).await? {
        (kind::ANSWER, bytes) => Ok(serde_json::from_slice(&bytes)?),
        (_, bytes) => Err(std::io::Error::other(String::from_utf8_lossy(&bytes))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_ends_soon_is_told_of() {
        const DAY: u64 = 86_400;
        let validity = Validity { from: 100 * DAY, until: 190 * DAY };
        for (now, told) in [
            (99 * DAY, "its certificate is not valid yet: look at the clocks"),
            (100 * DAY, ""),
            (176 * DAY, ""),
            (176 * DAY + 1, "its certificate ends in 13 days"),
            (189 * DAY, "its certificate ends in 1 day"),
            (190 * DAY, "its certificate ends within a day"),
            (190 * DAY + 1, "its certificate is over: other members do not hear it over TLS"),
        ] {
            assert_eq!(trouble(validity, now), told, "{now}");
        }
    }
}
