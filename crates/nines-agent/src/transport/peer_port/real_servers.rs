//! What real servers ask of members: which VIPs are theirs. A question is answered when the answer
//! is another than last time, or after a while.
//!
//! Decides: how long a question waits, and that no question costs the thread that keeps leases
//! much.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nines_model::{NodeId, RealServerRole, Spec};
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::client::TlsStream;

use super::{FRAME_MAX, Rotation, get, kind, open, put};
use crate::{
    core_thread::CoreHandle,
    identity::{Credentials, Peer, authorities::Order},
};

/// How long a question may wait for a change.
const WAIT: Duration = Duration::from_secs(10);
/// How often a member looks for one; nobody is answered sooner, however often he asks.
const LOOK: Duration = Duration::from_millis(100);

/// A real server's question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Its name, as in its certificate.
    pub name: String,
    /// All addresses of the machine.
    pub addresses: BTreeSet<IpAddr>,
    /// VIPs that it was told to have.
    pub vips: BTreeSet<IpAddr>,
    /// Tunnels that it was told to take packets out of.
    pub tunnels: BTreeSet<u16>,
    /// Config that it was told by; 0: none.
    pub revision: u64,
    /// Which authorities it has; `None`: its build rotates none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorities: Option<Order>,
}

/// A member's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Config it comes from.
    pub revision: u64,
    /// VIPs that the machine must have.
    pub vips: BTreeSet<IpAddr>,
    /// Tunnels that it must take packets out of: UDP ports of GUE, 0 for other kinds.
    pub tunnels: BTreeSet<u16>,
    /// Whom to ask next time.
    pub members: Vec<Peer>,
    /// Which authorities the member has: a director gives them to who has earlier ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorities: Option<Order>,
}

/// What a member answers from.
pub struct Desk {
    /// The node.
    pub core: CoreHandle,
    /// Credentials of the node, and its keys.
    pub credentials: Arc<Credentials>,
    /// Which authorities real servers believe.
    pub rotation: Arc<Rotation>,
    /// Revision of the config in force here.
    pub revision: Arc<AtomicU64>,
    /// That config as it was last looked at.
    pub config: tokio::sync::Mutex<Option<Arc<(u64, Arc<Spec>)>>>,
}

/// A member's side; `None`: this agent is stopping.
pub async fn answer(desk: &Desk, question: &Question) -> Option<Answer> {
    let until = Instant::now() + WAIT;
    if let Some(theirs) = question.authorities {
        desk.rotation.asked(&question.name, theirs);
    }
    let ours = || desk.credentials.keys().authorities.order;
    let rotated = || question.authorities.is_some_and(|theirs| theirs < ours());
    let (revision, RealServerRole { vips, tunnels }) = loop {
        sleep(LOOK).await;
        let config = config(desk).await?;
        let (revision, spec) = &*config;
        let newer = *revision > question.revision;
        let late = Instant::now() > until || rotated();
        if newer || late || *revision == question.revision {
            let duty = RealServerRole::of(spec, &question.addresses);
            let known =
                duty.vips.is_subset(&question.vips) && duty.tunnels.is_subset(&question.tunnels);
            if newer || late || !known {
                break (*revision, duty);
            }
        }
        while desk.revision.load(Ordering::Relaxed) == *revision
            && Instant::now() < until
            && !rotated()
        {
            sleep(LOOK).await;
        }
    };
    let members = desk.core.inspect(|node, _| super::peers(&node.state().members)).await?;
    Some(Answer { revision, vips, tunnels, members, authorities: Some(ours()) })
}

/// The config in force. The thread that keeps leases is asked once for each, whoever asks here.
async fn config(desk: &Desk) -> Option<Arc<(u64, Arc<Spec>)>> {
    let mut kept = desk.config.lock().await;
    let now = desk.revision.load(Ordering::Relaxed);
    if kept.as_ref().is_none_or(|config| config.0 != now) {
        let look = |node: &nines_core::Node, _| (node.state().revision, node.state().spec.clone());
        *kept = Some(Arc::new(desk.core.inspect(look).await?));
    }
    kept.clone()
}

/// A real server's side: a line to a member.
pub struct Line(TlsStream<TcpStream>);

impl Line {
    /// To one of its addresses.
    pub async fn to(credentials: &Credentials, member: &Peer) -> std::io::Result<Self> {
        let mut why = std::io::Error::other("it has no address");
        for address in &member.addresses {
            let at = SocketAddr::new(*address, member.port);
            let attempt = open(credentials, NodeId(member.id), at);
            match timeout(Duration::from_secs(2), attempt).await {
                Ok(Ok(stream)) => return Ok(Self(stream)),
                Ok(Err(e)) => why = e,
                Err(_) => why = std::io::ErrorKind::TimedOut.into(),
            }
        }
        Err(why)
    }

    /// Waits for the answer as long as a living member may take.
    pub async fn ask(&mut self, question: &Question) -> std::io::Result<Answer> {
        let work = async {
            let bytes = serde_json::to_vec(question).expect("plain data");
            put(&mut self.0, kind::DUTY, &bytes).await?;
            match get(&mut self.0, FRAME_MAX).await? {
                (kind::ANSWER, bytes) => Ok(serde_json::from_slice(&bytes)?),
                (_, bytes) => Err(std::io::Error::other(String::from_utf8_lossy(&bytes))),
            }
        };
        timeout(WAIT + Duration::from_secs(5), work).await?
    }
}
