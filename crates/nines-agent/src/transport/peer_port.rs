//! The TLS port between nodes: consensus messages too large for a datagram, questions to another
//! node, and the door for nodes that join.
//!
//! ```text
//! frame: length u32 | kind u8 | bytes       kinds: 0 who I am, 1 consensus, 2 question, 3 answer,
//!                                                  4 join, 5 credentials, 6 refused,
//!                                                  7 tell me your flows, 8 flows, 9 taken,
//!                                                  10 what is my duty, 11 join as real server
//! ```
//! Decides: who may say what. A member may say everything, a real server only ask for its duty, a
//! stranger only ask to join, with a code.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use nines_api::failure::{Failure, Kind, Outcome};
use nines_model::{NodeId, printable::clean};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use self::{
    join::{Door, admit, peers},
    real_servers::Desk,
    strangers::{Guesses, Visit},
};
use crate::{
    core_thread::CoreHandle,
    descriptors::Shares,
    flow_sync::Flows,
    identity::{self, Credentials, Peer, StateDir, trust},
    logger::Logger,
};

pub mod bulk;
mod flow_stream;
mod join;
pub mod real_servers;
mod strangers;
pub use flow_stream::{Asker, ask_all as ask_flows};

const FRAME_MAX: usize = 64 * 1024 * 1024;
/// Real servers say which addresses they have.
const SERVER_MAX: usize = 256 * 1024;
/// A real server that asks nothing for so long has gone.
const SILENT: Duration = Duration::from_secs(60);
/// A peer that takes no answer for so long has gone.
const SLOW: Duration = Duration::from_secs(10);
/// An address of a peer that has several is tried for so long.
const EACH: Duration = Duration::from_millis(500);
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
}

/// Highest feature level that this build reads.
pub const FEATURE_LEVEL: u32 = nines_core::feature_level::BUILD;

/// What a node that joins says.
#[derive(Serialize, Deserialize)]
pub struct JoinRequest {
    /// Secret of the join code.
    pub secret: String,
    /// Name that the node wants to have.
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
    /// No node but a real server: a kind of frame of its own, which older members do not take for
    /// a node's.
    #[serde(skip)]
    pub server: bool,
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
    let mut head = [0; 5];
    from.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if length > max {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "frame too large"));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    Ok((head[4], bytes))
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
}

impl PeerPort {
    /// All parts put together. `revision`: of the config in force here.
    pub fn new(
        core: &CoreHandle,
        credentials: &Arc<Credentials>,
        home: StateDir,
        revision: Arc<AtomicU64>,
        flows: Option<Arc<Flows>>,
        counters: CountersAnswer,
        log: &Logger,
    ) -> Self {
        let (credentials, guesses, log) =
            (Arc::clone(credentials), Guesses::default(), log.clone());
        let door = Door { core: core.clone(), home, credentials, guesses, log };
        let desk = Desk { core: core.clone(), revision, config: tokio::sync::Mutex::default() };
        Self { core: core.clone(), door, desk, flows, counters }
    }
}

/// Serves the port until the process ends.
pub async fn serve(listener: TcpListener, port: PeerPort, shares: Shares) -> Outcome<()> {
    let acceptor = TlsAcceptor::from(trust::server(&port.door.credentials)?);
    let port = Arc::new(port);
    let talk = move |visit| talk(visit, Arc::clone(&port));
    strangers::keep(listener, acceptor, shares, talk).await;
    Ok(())
}

/// Talks with one that came in, until it has nothing more to say.
async fn talk(visit: Visit, port: Arc<PeerPort>) {
    let Visit { mut stream, cert, from: origin, mut until } = visit;
    let mut from = 0;
    let max = |from| match (from, &cert) {
        (_, None) => STRANGER_MAX,
        (0, Some(_)) => SERVER_MAX,
        _ => FRAME_MAX,
    };
    let is_named = |name: &str| cert.as_ref().is_some_and(|c| trust::names(c, name));
    while let Ok(Ok((what, bytes))) = timeout_at(until, get(&mut stream, max(from))).await {
        let done = match what {
            kind::HELLO => {
                from = speaker(&port.core, &bytes, cert.as_ref()).await;
                from != 0
            }
            kind::RAFT if from != 0 => {
                port.core.frame(NodeId(from), bytes).await;
                true
            }
            kind::QUESTION if from != 0 => {
                let answer = (port.counters)().await;
                say(&mut stream, kind::ANSWER, &answer).await
            }
            kind::DUTY => match serde_json::from_slice::<real_servers::Question>(&bytes) {
                Ok(question) if is_named(&identity::server_tls_name(&question.name)) => {
                    match real_servers::answer(&port.desk, &question).await {
                        Some(answer) => {
                            let bytes = serde_json::to_vec(&answer).expect("plain data");
                            say(&mut stream, kind::ANSWER, &bytes).await
                        }
                        None => false,
                    }
                }
                _ => false,
            },
            kind::SUBSCRIBE if from != 0 => {
                if let Some(flows) = &port.flows {
                    flow_stream::tell(flows, from, &bytes, stream).await;
                }
                return;
            }
            kind::JOIN | kind::JOIN_SERVER => {
                let server = what == kind::JOIN_SERVER;
                let (what, bytes) = match admit(&port.door, &bytes, server, origin).await {
                    Ok(credentials) => {
                        (kind::PAPERS, serde_json::to_vec(&credentials).expect("plain data"))
                    }
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

/// The member that says hello, by its certificate: a node that joins has no log yet that could say
/// who is a member, and the log comes by this door. 0: none. What the log does say holds, too.
async fn speaker(core: &CoreHandle, hello: &[u8], cert: Option<&CertificateDer<'_>>) -> u64 {
    let name = String::from_utf8_lossy(hello).into_owned();
    let named = cert.filter(|c| trust::names(c, &identity::tls_name(&name)));
    let Some(id) = named.and_then(trust::number) else { return 0 };
    let known = move |node: &nines_core::Node, _| match node.state().members.get(&NodeId(id)) {
        Some(member) => member.name == name,
        None => node.may_be_newer(NodeId(id)),
    };
    if core.inspect(known).await == Some(true) { id } else { 0 }
}

/// Connects as a member.
async fn connect(
    credentials: &Credentials,
    peer: &str,
    to: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut stream = open(credentials, peer, to).await?;
    put(&mut stream, kind::HELLO, credentials.identity.me.name.as_bytes()).await?;
    Ok(stream)
}

/// Connects by the first address that answers as this peer: one that floats is behind any of them.
async fn connect_any(
    credentials: &Credentials,
    peer: &str,
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

/// A line to a member that has said nothing yet.
async fn open(
    credentials: &Credentials,
    peer: &str,
    to: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let other = |e: &dyn std::fmt::Display| std::io::Error::other(e.to_string());
    let connector = TlsConnector::from(trust::client(credentials).map_err(|e| other(&e))?);
    let name =
        rustls_pki_types::ServerName::try_from(identity::tls_name(peer)).map_err(|e| other(&e))?;
    let stream = TcpStream::connect(to).await?;
    connector.connect(name, stream).await
}

async fn find(core: &CoreHandle, seed: &[Peer], id: NodeId) -> Option<(String, Vec<SocketAddr>)> {
    let known = core
        .inspect(move |node, _| {
            node.state().members.get(&id).map(|m| {
                let addresses = m.addresses.iter().filter_map(|a| a.parse().ok());
                let addresses = addresses.map(|a| SocketAddr::new(a, m.port as u16)).collect();
                (m.name.clone(), addresses)
            })
        })
        .await
        .flatten();
    known.or_else(|| {
        let peer = seed.iter().find(|p| p.id == id.number())?;
        let addresses = peer.addresses.iter().map(|a| SocketAddr::new(*a, peer.port));
        Some((peer.name.clone(), addresses.collect()))
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
        let (name, addresses) = find(core, &credentials.identity.peers, id).await?;
        let mut stream = connect_any(credentials, &name, &addresses).await.ok()?;
        put(&mut stream, kind::QUESTION, b"counters").await.ok()?;
        match get(&mut stream, FRAME_MAX).await.ok()? {
            (kind::ANSWER, bytes) => Some(bytes),
            _ => None,
        }
    };
    timeout(limit, ask).await.ok().flatten()
}

/// Asks the member at `to` to let this machine in.
pub async fn join(
    to: SocketAddr,
    fingerprint: [u8; 10],
    request: &JoinRequest,
) -> Outcome<Credentials> {
    let what = format!("cannot join by {to}");
    let unreachable = |why: String| {
        Failure::new(Kind::Unreachable, what.clone(), why).next(format!(
            "see that the agent runs there and that TCP and UDP port {} are open",
            to.port()
        ))
    };
    let config = Arc::new(trust::joining_client(fingerprint));
    let name = rustls_pki_types::ServerName::IpAddress(to.ip().into());
    let work = async {
        let stream = TcpStream::connect(to).await.map_err(|e| unreachable(e.to_string()))?;
        let stream = TlsConnector::from(config).connect(name, stream).await;
        let mut stream = stream.map_err(|e| {
            Failure::new(Kind::Denied, what.clone(), e)
                .next("copy the whole command that nines init printed")
        })?;
        let bytes = serde_json::to_vec(request).expect("plain data");
        let kind = if request.server { kind::JOIN_SERVER } else { kind::JOIN };
        put(&mut stream, kind, &bytes).await.map_err(|e| unreachable(e.to_string()))?;
        match get(&mut stream, FRAME_MAX).await.map_err(|e| unreachable(e.to_string()))? {
            (kind::PAPERS, bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| unreachable(format!("its answer cannot be read: {e}"))),
            (_, bytes) => {
                let why = String::from_utf8_lossy(&bytes).into_owned();
                let why = why.strip_prefix("refused: ").unwrap_or(&why).to_owned();
                Err(Failure::new(Kind::Denied, what.clone(), clean(&why))
                    .next("nines code [--server]   on a member prints a new join command"))
            }
        }
    };
    timeout(Duration::from_secs(10), work)
        .await
        .unwrap_or_else(|_| Err(unreachable("no answer within 10 s".into())))
}
