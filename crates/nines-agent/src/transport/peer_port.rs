//! The TLS port between nodes: consensus messages too large for a datagram, questions to another
//! node, and the door for nodes that join.
//!
//! ```text
//! frame: length u32 | kind u8 | bytes       kinds: 0 who I am, 1 consensus, 2 question, 3 answer,
//!                                                  4 join, 5 credentials, 6 refused,
//!                                                  7 tell me your flows, 8 flows, 9 taken,
//!                                                  10 what is my duty, 11 join as real server,
//!                                                  12 join by signing request,
//!                                                  13 renew my certificate,
//!                                                  14 keys of heartbeats, 15 authorities
//! ```
//! Decides: who may say what. A member may say everything, a real server only ask for its duty, a
//! stranger only ask to join, with a code. A member is known by the number in its certificate.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use nines_model::NodeId;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, SemaphorePermit, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use self::{
    heartbeat_keys::Secrets,
    join::{Door, admit, peers},
    real_servers::Desk,
    strangers::Visit,
};
use crate::{
    core_thread::CoreHandle,
    descriptors::Shares,
    flow_sync::Flows,
    identity::{self, Credentials, Peer, generation::Generation, trust},
};

mod authorities;
pub mod bulk;
mod flow_stream;
pub mod heartbeat_keys;
mod join;
pub mod real_servers;
mod removed;
pub mod renewal;
mod strangers;
pub use authorities::{Rotation, Standing};
pub use flow_stream::{Asker, ask_all as ask_flows};
pub use join::join;
pub use strangers::Guesses;

const FRAME_MAX: usize = 64 * 1024 * 1024;
/// Real servers say which addresses they have.
const SERVER_MAX: usize = 256 * 1024;
/// A real server that asks nothing for so long has gone.
const SILENT: Duration = Duration::from_secs(60);
/// A peer that takes no answer for so long has gone.
const SLOW: Duration = Duration::from_secs(10);
/// An address of a peer that has several is tried for so long.
const EACH: Duration = Duration::from_millis(500);
/// Frames larger than what a real server sends that may be on their way in at once: the memory that
/// those who send slowly can take.
const LARGE_AT_ONCE: usize = 4;
/// A large frame is here after so long, at most.
const LARGE: Duration = Duration::from_secs(60);
/// Strangers have little to say.
const STRANGER_MAX: usize = 16 * 1024;

/// Kinds of frame.
mod kind {
    pub const HELLO: u8 = 0;
    pub const RAFT: u8 = 1;
    pub const QUESTION: u8 = 2;
    pub const ANSWER: u8 = 3;
    pub const JOIN: u8 = 4;
    pub const PAPERS: u8 = 5;
    pub const REFUSED: u8 = 6;
    pub const SUBSCRIBE: u8 = 7;
    pub const FLOWS: u8 = 8;
    pub const TAKEN: u8 = 9;
    pub const DUTY: u8 = 10;
    pub const JOIN_SERVER: u8 = 11;
    pub const JOIN_BY_REQUEST: u8 = 12;
    pub const RENEW: u8 = 13;
    pub const HEARTBEAT_KEYS: u8 = 14;
    pub const AUTHORITIES: u8 = 15;
}

/// Highest feature level that this build reads.
pub const FEATURE_LEVEL: u32 = nines_core::feature_level::BUILD;

/// What a machine that joins says.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Secret of the join code.
    pub secret: String,
    /// Name that the machine wants to have.
    pub name: String,
    /// One a link.
    pub addresses: Vec<std::net::IpAddr>,
    /// UDP and TCP port that the node listens on for other nodes.
    pub port: u16,
    /// Votes and carries nothing.
    pub witness: bool,
    /// Version of its nines; empty: older than this field.
    #[serde(default)]
    pub version: String,
    /// Highest feature level that it reads.
    #[serde(default)]
    pub feature_level: u32,
    /// It runs on one of several hosts, whose addresses these are: the voter of a quorum disk.
    #[serde(default)]
    pub floats: bool,
    /// No node but a real server. Members of the build before are told so by a kind of frame of its
    /// own, which still older ones do not take for a node's.
    #[serde(default)]
    pub server: bool,
    /// Certificate signing request, PEM; empty: it is of a build that makes none.
    #[serde(default)]
    pub request: String,
}

impl JoinRequest {
    /// The kind of frame that it goes in.
    fn kind(&self) -> u8 {
        match () {
            () if !self.request.is_empty() => kind::JOIN_BY_REQUEST,
            () if self.server => kind::JOIN_SERVER,
            () => kind::JOIN,
        }
    }

    /// Reads what came in a frame of this kind; `None`: it is none.
    fn read(what: u8, bytes: &[u8]) -> Option<Self> {
        let request: Self = serde_json::from_slice(bytes).ok()?;
        match what {
            kind::JOIN_BY_REQUEST => (!request.request.is_empty()).then_some(request),
            _ => {
                let server = what == kind::JOIN_SERVER;
                Some(Self { server, request: String::new(), ..request })
            }
        }
    }
}

async fn put(to: &mut (impl AsyncWrite + Unpin), kind: u8, bytes: &[u8]) -> std::io::Result<()> {
    let mut frame = Vec::with_capacity(bytes.len() + 5);
    frame.extend((bytes.len() as u32).to_be_bytes());
    frame.push(kind);
    frame.extend(bytes);
    to.write_all(&frame).await?;
    to.flush().await
}

/// [`put`] to a peer that may not read; whether it did.
async fn say(to: &mut (impl AsyncWrite + Unpin), kind: u8, bytes: &[u8]) -> bool {
    matches!(timeout(SLOW, put(to, kind, bytes)).await, Ok(Ok(())))
}

async fn get(from: &mut (impl AsyncRead + Unpin), max: usize) -> std::io::Result<(u8, Vec<u8>)> {
    let (kind, length) = head(from, max).await?;
    Ok((kind, body(from, length).await?))
}

/// Kind and length of the next frame.
async fn head(from: &mut (impl AsyncRead + Unpin), max: usize) -> std::io::Result<(u8, usize)> {
    let mut head = [0; 5];
    from.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if length > max {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "frame too large"));
    }
    Ok((head[4], length))
}

async fn body(from: &mut (impl AsyncRead + Unpin), length: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// A frame of a visitor. A large one keeps its place until it has been taken.
async fn visitors_frame<'a>(
    from: &mut (impl AsyncRead + Unpin),
    max: usize,
    large: &'a Semaphore,
) -> std::io::Result<(u8, Vec<u8>, Option<SemaphorePermit<'a>>)> {
    let (kind, length) = head(from, max).await?;
    if length <= SERVER_MAX {
        return Ok((kind, body(from, length).await?, None));
    }
    let place = large.acquire().await.map_err(std::io::Error::other)?;
    let bytes = timeout(LARGE, body(from, length)).await??;
    Ok((kind, bytes, Some(place)))
}

/// Makes the answer to a member that asks what this node counts.
pub type CountersAnswer = Box<dyn Fn() -> BoxedBytes + Send + Sync>;
/// Bytes that come later.
pub type BoxedBytes = Pin<Box<dyn Future<Output = Vec<u8>> + Send>>;

/// What visitors are served from.
pub struct PeerPort {
    core: CoreHandle,
    door: Door,
    desk: Desk,
    /// Flows told to other directors; a witness has none.
    flows: Option<Arc<Flows>>,
    counters: CountersAnswer,
    secrets: Secrets,
    members: watch::Receiver<Arc<removed::Known>>,
    /// Places of large frames on their way in.
    large: Semaphore,
}

impl PeerPort {
    /// All parts put together. `revision`: of the config in force here.
    pub fn new(
        secrets: Secrets,
        revision: Arc<AtomicU64>,
        flows: Option<Arc<Flows>>,
        counters: CountersAnswer,
    ) -> Self {
        let Secrets { core, credentials, home, log, .. } = secrets.clone();
        let (guesses, rotation) = (Guesses::default(), Arc::clone(&secrets.rotation));
        let door = Door { core: core.clone(), home, credentials, guesses, rotation, log };
        let desk = Desk {
            core: core.clone(),
            credentials: Arc::clone(&door.credentials),
            rotation: Arc::clone(&door.rotation),
            revision,
            config: tokio::sync::Mutex::default(),
        };
        let members = removed::watch(core.clone());
        let large = Semaphore::new(LARGE_AT_ONCE);
        Self { core, door, desk, flows, counters, secrets, members, large }
    }
}

/// Serves the port until the process ends.
pub async fn serve(listener: TcpListener, port: PeerPort, shares: Shares) {
    let credentials = Arc::clone(&port.door.credentials);
    let port = Arc::new(port);
    let talk = move |visit| talk(visit, Arc::clone(&port));
    let acceptor = move || TlsAcceptor::from(Arc::clone(&credentials.keys().server));
    strangers::keep(listener, acceptor, shares, talk).await;
}

/// Talks with one that came in, until it has nothing more to say, or has left the cluster.
async fn talk(visit: Visit, port: Arc<PeerPort>) {
    let (speaks, speaker) = watch::channel(0);
    let left = removed::left(port.members.clone(), speaker);
    let from = visit.from;
    let shown = (visit.cert.clone(), visit.others.clone());
    let forgotten = authorities::forgotten(Arc::clone(&port.door.credentials), shown);
    tokio::select! {
        () = converse(visit, Arc::clone(&port), &speaks) => {}
        () = forgotten => {
            port.door.log.line(&format!("the line from {from} ends: its authority is forgotten"));
        }
        () = left => {
            let id = *speaks.borrow();
            port.door.log.line(&format!("member {id} was removed: its line from {from} ends"));
        }
    }
}

async fn converse(visit: Visit, port: Arc<PeerPort>, speaks: &watch::Sender<u64>) {
    let Visit { mut stream, cert, from: origin, mut until, .. } = visit;
    let mut from = 0;
    let max = |from| match (from, &cert) {
        (_, None) => STRANGER_MAX,
        (0, Some(_)) => SERVER_MAX,
        _ => FRAME_MAX,
    };
    // One whose certificate is over may ask for a new one, and for nothing else.
    let over = cert.as_ref().is_some_and(|c| trust::is_over(c));
    loop {
        let frame = visitors_frame(&mut stream, max(from), &port.large);
        let Ok(Ok((what, bytes, _place))) = timeout_at(until, frame).await else { return };
        let done = match what {
            kind::HELLO => {
                from = speaker(&port.core, &bytes, cert.as_ref()).await;
                let _ = speaks.send(from);
                from != 0
            }
            kind::RENEW if cert.is_some() => {
                let (what, bytes) = renewal::answer(&port.door, &bytes, from, cert.as_ref()).await;
                say(&mut stream, what, &bytes).await
            }
            _ if over => false,
            kind::RAFT if from != 0 => {
                port.core.frame(NodeId(from), bytes).await;
                true
            }
            kind::QUESTION if from != 0 => {
                let answer = (port.counters)().await;
                say(&mut stream, kind::ANSWER, &answer).await
            }
            kind::DUTY => match duty(&port.desk, &bytes, cert.as_ref()).await {
                Some(answer) => say(&mut stream, kind::ANSWER, &answer).await,
                None => false,
            },
            kind::HEARTBEAT_KEYS if from != 0 => {
                let (what, bytes) = port.secrets.answer(&bytes, from).await;
                say(&mut stream, what, &bytes).await
            }
            kind::AUTHORITIES if from != 0 => {
                let (what, bytes) = port.secrets.answer_authorities(&bytes, from).await;
                say(&mut stream, what, &bytes).await
            }
            kind::SUBSCRIBE if from != 0 => {
                if let Some(flows) = &port.flows {
                    flow_stream::tell(flows, from, &bytes, stream).await;
                }
                return;
            }
            kind::JOIN | kind::JOIN_SERVER | kind::JOIN_BY_REQUEST => {
                let request = JoinRequest::read(what, &bytes);
                let (what, bytes) = match admit(&port.door, request, origin).await {
                    Ok(given) => (kind::PAPERS, serde_json::to_vec(&given).expect("plain data")),
                    Err(why) => (kind::REFUSED, why.to_string().into_bytes()),
                };
                let _ = say(&mut stream, what, &bytes).await;
                let _ = stream.shutdown().await;
                false
            }
            _ => false,
        };
        if !done {
            return;
        }
        // A member may be silent as long as it likes; a real server asks again at once.
        until = Instant::now() + if from == 0 { SILENT } else { Duration::from_secs(86_400) };
    }
}

/// The answer to a real server that asks for its duty; `None`: it has no certificate of the name
/// that it says, or this agent is stopping.
async fn duty(desk: &Desk, bytes: &[u8], cert: Option<&CertificateDer<'_>>) -> Option<Vec<u8>> {
    let question: real_servers::Question = serde_json::from_slice(bytes).ok()?;
    let name = identity::server_tls_name(&question.name);
    cert.filter(|cert| trust::names(cert, &name))?;
    let answer = real_servers::answer(desk, &question).await?;
    Some(serde_json::to_vec(&answer).expect("plain data"))
}

/// The member that says hello, by its certificate: a node that joins has no log yet that could say
/// who is a member, and the log comes by this door. 0: none. What the log does say holds, too.
async fn speaker(core: &CoreHandle, hello: &[u8], cert: Option<&CertificateDer<'_>>) -> u64 {
    let name = String::from_utf8_lossy(hello).into_owned();
    let Some(id) = cert.and_then(trust::number) else { return 0 };
    let known = move |node: &nines_core::Node, _| match node.state().members.get(&NodeId(id)) {
        Some(member) => member.name == name,
        None => node.may_be_newer(NodeId(id)),
    };
    if core.inspect(known).await == Some(true) { id } else { 0 }
}

/// Connects as a member.
async fn connect(
    credentials: &Credentials,
    peer: NodeId,
    to: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut stream = open(credentials, peer, to).await?;
    put(&mut stream, kind::HELLO, credentials.identity.me.name.as_bytes()).await?;
    Ok(stream)
}

/// Connects by the first address that answers as this peer: one that floats is behind any of them.
async fn connect_any(
    credentials: &Credentials,
    peer: NodeId,
    to: &[SocketAddr],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut why = std::io::Error::other("it has no address");
    for address in to {
        match timeout(EACH, connect(credentials, peer, *address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(e)) => why = e,
            Err(_) => why = std::io::ErrorKind::TimedOut.into(),
        }
    }
    Err(why)
}

/// A line to a member that has said nothing yet. Its certificate must have the member's number:
/// names may be those of machines that have left.
async fn open(
    credentials: &Credentials,
    peer: NodeId,
    to: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let keys = credentials.keys();
    let own = (&keys.authorities, keys.cert_pem.as_str(), keys.key_pem.as_str());
    let client = trust::client(own, Generation::of(&credentials.identity), to.ip());
    let connector = TlsConnector::from(client.map_err(|e| std::io::Error::other(e.to_string()))?);
    let name = identity::number_tls_name(peer.number());
    let name = rustls_pki_types::ServerName::try_from(name).map_err(std::io::Error::other)?;
    let stream = TcpStream::connect(to).await?;
    connector.connect(name, stream).await
}

/// Where a member listens, the best way first; `None`: nobody knows.
async fn find(core: &CoreHandle, seed: &[Peer], id: NodeId) -> Option<Vec<SocketAddr>> {
    let known = core
        .inspect(move |node, now| {
            node.state().members.get(&id).map(|m| {
                let best = node.best_links(now, id, m.addresses.len());
                let addresses = best.iter().filter_map(|link| m.addresses[*link].parse().ok());
                addresses.map(|a| SocketAddr::new(a, m.port as u16)).collect()
            })
        })
        .await
        .flatten();
    known.or_else(|| {
        let peer = seed.iter().find(|p| p.id == id.number())?;
        let addresses = peer.addresses.iter().map(|a| SocketAddr::new(*a, peer.port));
        Some(addresses.collect())
    })
}

/// What another node counts, as JSON; `None`: no answer in time.
pub async fn ask_counters(
    core: &CoreHandle,
    credentials: &Credentials,
    id: NodeId,
    limit: Duration,
) -> Option<Vec<u8>> {
    let ask = async {
        let addresses = find(core, &credentials.identity.peers, id).await?;
        let mut stream = connect_any(credentials, id, &addresses).await.ok()?;
        put(&mut stream, kind::QUESTION, b"counters").await.ok()?;
        match get(&mut stream, FRAME_MAX).await.ok()? {
            (kind::ANSWER, bytes) => Some(bytes),
            _ => None,
        }
    };
    timeout(limit, ask).await.ok().flatten()
}

#[cfg(test)]
mod tests;
