//! Machines that ask to be let in.
//!
//! Decides: which name and number a newcomer gets, and what is tried again. Machines are let in by
//! any member that has the authority's key, two at once too: the log says which came first.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use nines_api::failure::{Failure, Kind, Outcome};
use nines_core::{
    Node,
    action::Refusal,
    feature_level::REMOVALS,
    wire::{Act, Command, Member, command},
};
use nines_model::{
    AdminCommand, Codes as _, NodeId, NodeName, Role, Spec, names, printable::clean,
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use super::{FRAME_MAX, JoinRequest, Rotation, get, kind, put, strangers::Guesses};
use crate::{
    convert::refusal_text,
    core_thread::CoreHandle,
    identity::{
        self, Admission, Admits, Credentials, Peer, StateDir, certificate,
        join_code::{Comer, NotAdmitted},
        now_s, trust,
    },
    logger::Logger,
};

/// A machine that joins again waits so long until the member that it was is removed.
const REMOVED: Duration = Duration::from_secs(8);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// What newcomers are let in with.
pub(super) struct Door {
    /// The node.
    pub core: CoreHandle,
    /// The state directory: join codes.
    pub home: StateDir,
    /// Credentials that sign those of newcomers.
    pub credentials: Arc<Credentials>,
    /// Wrong codes by address.
    pub guesses: Guesses,
    /// Which authorities real servers believe.
    pub rotation: Arc<Rotation>,
    /// Where it says who came.
    pub log: Logger,
}

fn refuse(why: &str) -> Failure {
    Failure::new(Kind::Denied, "refused", why)
}

/// Lets a machine in that came from `origin`. `request`: what it said; `None`: nothing that can be
/// read.
pub(super) async fn admit(
    door: &Door,
    request: Option<JoinRequest>,
    origin: IpAddr,
) -> Outcome<Admission> {
    let request = request.ok_or_else(|| refuse("the request cannot be read"))?;
    if !door.guesses.may(origin, Instant::now()) {
        return Err(refuse("too many wrong join codes came from there; wait a minute"));
    }
    if door.credentials.keys().ca_key.is_empty() {
        return Err(refuse(&admits_nobody(door).await));
    }
    let (code, first) = match claim(door, &request).await? {
        Ok(claimed) => claimed,
        Err(why) => {
            if why == NotAdmitted::Unknown {
                door.guesses.wrong(origin, Instant::now());
            }
            door.log.line(&format!("{} was not let in from {origin}: {why}", clean(&request.name)));
            return Err(refuse(&why.to_string()));
        }
    };
    let admitted = admit_by_code(door, &request).await;
    // Who had used it up before may have been let in then.
    if admitted.is_err() && first {
        let home = door.home.clone();
        let back = move || home.give_code_back(&code, now_s());
        if let Ok(Err(why)) = tokio::task::spawn_blocking(back).await {
            door.log.line(&why.to_string());
        }
    }
    admitted
}

/// What a member says that has not the authority's key.
async fn admits_nobody(door: &Door) -> String {
    let name = &door.credentials.identity.me.name;
    let look = |node: &Node, _| {
        let directors = node.state().members.values().filter(|m| !m.witness);
        directors.map(|m| (m.name.clone(), m.addresses.first().cloned())).collect::<Vec<_>>()
    };
    let others = door.core.inspect(look).await.unwrap_or_default();
    let others = others.into_iter().filter(|(other, _)| other != name);
    let others: Vec<String> =
        others.map(|(other, at)| format!("{other} ({})", at.unwrap_or_default())).collect();
    let by = if others.is_empty() { "a director".into() } else { others.join(" or ") };
    format!("{name} has no CA key and lets no machine in; join by {by}, with a code made there")
}

/// Takes the code of a machine, off the thread of the other tasks: it is written to disk.
async fn claim(door: &Door, request: &JoinRequest) -> Outcome<Result<(String, bool), NotAdmitted>> {
    let (home, request) = (door.home.clone(), request.clone());
    let key = match request.request.as_str() {
        "" => String::new(),
        asked => identity::certificate::key_of(asked).map_err(|e| refuse(&e.to_string()))?,
    };
    let claim = move || {
        let JoinRequest { secret, name, .. } = &request;
        let comer = Comer { secret, admits: wants(&request), name, key: &key };
        home.claim_code(&comer, now_s())
    };
    tokio::task::spawn_blocking(claim).await.map_err(|_| refuse("this agent is stopping"))?
}

/// What a machine wants to be.
fn wants(request: &JoinRequest) -> Admits {
    match (request.server, request.witness) {
        (true, _) => Admits::Server,
        (_, true) => Admits::Witness,
        _ => Admits::Director,
    }
}

async fn admit_by_code(door: &Door, request: &JoinRequest) -> Outcome<Admission> {
    if !names::is_name(&request.name) {
        let why = "a name has 1 to 63 letters, digits, dots, dashes and _; a letter or digit first";
        return Err(refuse(why));
    }
    let level = door.core.inspect(|node, _| node.state().members.feature_level()).await;
    let old = outdated(request, level.unwrap_or_default()).filter(|_| !request.server);
    if let Some(why) = old {
        return Err(refuse(&why));
    }
    let mut tries = 4;
    loop {
        tries -= 1;
        match admit_once(door, request).await {
            // Another machine was let in at the same time, by another member perhaps.
            Err(Refused::Changed(_)) if tries > 0 => {}
            Err(Refused::Changed(why) | Refused::Final(why)) => return Err(refuse(&why)),
            Ok(made) => return Ok(made),
        }
    }
}

/// Why the build of a machine is too old for the cluster; `None`: it is not.
fn outdated(request: &JoinRequest, level: u32) -> Option<String> {
    let JoinRequest { name, version, feature_level: reads, .. } = request;
    let version = if version.is_empty() { "an older nines" } else { &format!("nines {version}") };
    (*reads < level).then(|| {
        format!(
            "{name} has {version}, which reads feature level {reads}, and the cluster is at level \
             {level}; install nines {} on {name}",
            env!("CARGO_PKG_VERSION")
        )
    })
}

/// Why a machine was not let in.
enum Refused {
    /// The members changed meanwhile: it can be tried again.
    Changed(String),
    Final(String),
}

impl From<Failure> for Refused {
    fn from(why: Failure) -> Self {
        Self::Final(why.to_string())
    }
}

/// What the log says of a newcomer, and of everybody else.
struct Known {
    members: BTreeMap<NodeId, Member>,
    /// Highest number that a member ever had.
    highest: NodeId,
    spec: Arc<Spec>,
    voters: Vec<NodeId>,
    /// A voter of its name has lost its log, and has said so.
    lost: bool,
    /// A VIP of the config is assigned to its name.
    holds: bool,
    /// Feature level in force.
    level: u32,
}

impl Known {
    fn of(node: &Node, name: &str) -> Self {
        let state = node.state();
        let lost = state.member(name).map(Member::id).filter(|id| node.is_retired_of(*id));
        let voters = node.consensus().voters();
        Self {
            members: (*state.members).clone(),
            highest: state.members.highest(),
            spec: state.spec.clone(),
            lost: lost.is_some_and(|id| voters.contains(&id)),
            holds: state
                .vips
                .iter()
                .any(|(vip, h)| *h.node() == *name && state.spec.vips.contains_key(vip)),
            level: state.members.feature_level(),
            voters,
        }
    }

    /// The member that certificates cannot tell from this name.
    fn same(&self, name: &str) -> Option<&Member> {
        let folded = names::in_certificate(name);
        self.members.values().find(|m| names::in_certificate(&m.name) == folded)
    }

    /// Why a node of this name may not join; empty: it may.
    fn refuses(&self, name: &str, witness: bool) -> String {
        let known = self.same(name);
        if self.members.is_empty() {
            return "this node waits for the log itself; join by another member".into();
        }
        if let Some(other) = known.filter(|m| m.name != *name) {
            let other = &other.name;
            return format!(
                "certificates cannot tell {name} from the member {other}; choose another --node"
            );
        }
        if self.lost {
            let holds = format!("{name} still holds a VIP by the log; wait a moment");
            return if self.holds { holds } else { String::new() };
        }
        // One that never had the log lost its credentials on the way: it gets others.
        if known.is_some_and(|m| self.voters.contains(&m.id()) || m.witness != witness) {
            return format!("there is a member {name} already; choose another --node");
        }
        let folded = names::in_certificate(name);
        let same =
            |other: &&NodeName| **other != *name && names::in_certificate(other.as_str()) == folded;
        if let Some(other) = self.spec.nodes.keys().find(same) {
            return format!("cluster.toml calls this node {other}: add --node {other}");
        }
        match self.spec.nodes.get(name) {
            Some(spec) if (spec.role == Role::Witness) != witness => {
                format!("cluster.toml says that {name} is a {}", spec.role)
            }
            _ => String::new(),
        }
    }
}

async fn admit_once(door: &Door, request: &JoinRequest) -> Result<Admission, Refused> {
    let Door { core, credentials, .. } = door;
    let (name, admits) = (&request.name, wants(request));
    let asked = name.clone();
    let Some(known) = core.inspect(move |node, _| Known::of(node, &asked)).await else {
        return Err(Refused::Final("this agent is stopping".into()));
    };
    let peers = peers(&known.members);
    let (addresses, port, floats) = (request.addresses.clone(), request.port, request.floats);
    let newcomer = |id| Peer { id, name: name.clone(), addresses, port, floats };
    if admits == Admits::Server {
        let made = identity::admit(credentials, peers, newcomer(0), admits, &request.request)?;
        door.rotation.asked(name, made.authorities().order);
        door.log.line(&format!("{name} joined as real server"));
        return Ok(made);
    }
    let refused = known.refuses(name, request.witness);
    if !refused.is_empty() {
        return Err(Refused::Final(refused));
    }
    let command = |kind| {
        let actor = format!("join@{name}");
        Command { actor, kind: Some(kind), ..Command::default() }
    };
    // It has lost its log, and has said so: it begins anew, under another number.
    if known.lost {
        let removal = if known.level < REMOVALS {
            command::Kind::Remove(name.clone())
        } else {
            let (verb, subjects) = (AdminCommand::Remove.code().into(), vec![name.clone()]);
            let reason = "it joins again".into();
            command::Kind::Act(Act { verb, subjects, reason, until_ms: 0 })
        };
        return Err(match core.propose(command(removal)).await {
            Ok(_) | Err(Refusal::Changed(_) | Refusal::NotFound(_)) => gone(core, name).await,
            Err(why) => Refused::Final(refusal_text(&why)),
        });
    }
    let newcomer = newcomer(known.same(name).map_or(known.highest.next(), Member::id).number());
    let kind = joins(&newcomer, request);
    let make = || {
        let (newcomer, peers) = (newcomer.clone(), peers.clone());
        identity::admit(credentials, peers, newcomer, admits, &request.request)
    };
    // What cannot be made is no reason to name a member.
    make()?;
    match core.propose(command(kind)).await {
        // The authorities may have been rotated meanwhile, and this machine was not waited for.
        Ok(_) => Ok(make()?),
        Err(why @ Refusal::Changed(_)) => Err(Refused::Changed(refusal_text(&why))),
        Err(why) => Err(Refused::Final(refusal_text(&why))),
    }
}

/// Waits until the leader has removed a member that joins again.
async fn gone(core: &CoreHandle, name: &str) -> Refused {
    let until = Instant::now() + REMOVED;
    loop {
        let asked = name.to_owned();
        let look = move |node: &Node, now| {
            let id = node.state().member(&asked).map(Member::id);
            id.and_then(|id| node.removal_waits(now, id))
        };
        match core.inspect(look).await {
            None => return Refused::Final("this agent is stopping".into()),
            Some(None) => return Refused::Changed("the members changed".into()),
            Some(Some(waits)) if Instant::now() >= until => {
                return Refused::Final(format!("{name} is still a member: {waits}"));
            }
            Some(Some(_)) => tokio::time::sleep(LOOK).await,
        }
    }
}

fn joins(newcomer: &Peer, request: &JoinRequest) -> command::Kind {
    let member = identity::member(newcomer, request.witness);
    command::Kind::Join(Member { feature_level: request.feature_level, ..member })
}

/// Members as others know them before they have the log.
pub(super) fn peers(members: &BTreeMap<NodeId, Member>) -> Vec<Peer> {
    let one = |m: &Member| Peer {
        id: m.id,
        name: m.name.clone(),
        addresses: m.addresses.iter().filter_map(|a| a.parse().ok()).collect(),
        port: m.port as u16,
        floats: m.floats,
    };
    members.values().map(one).collect()
}

/// Asks the member at `to` to let this machine in, with its private key `key_pem`, which stays
/// here. `sending` is called before anything is sent that the member may act on.
pub async fn join(
    to: SocketAddr,
    fingerprint: [u8; 10],
    request: &JoinRequest,
    key_pem: &str,
    sending: impl FnOnce() -> Outcome<()>,
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
        // A member of the build before makes the key itself.
        let signs = stream.get_ref().1.alpn_protocol() == Some(trust::SIGNS_REQUESTS);
        let asked = if signs { certificate::request(key_pem)? } else { String::new() };
        let request = JoinRequest { request: asked, ..request.clone() };
        sending()?;
        let bytes = serde_json::to_vec(&request).expect("plain data");
        let sent = put(&mut stream, request.kind(), &bytes).await;
        sent.map_err(|e| unreachable(e.to_string()))?;
        match get(&mut stream, FRAME_MAX).await.map_err(|e| unreachable(e.to_string()))? {
            (kind::PAPERS, bytes) => {
                let given: Admission = serde_json::from_slice(&bytes)
                    .map_err(|e| unreachable(format!("its answer cannot be read: {e}")))?;
                let theirs = given.authorities();
                let is_it = |pem: &str| identity::fingerprint(&identity::der(pem)) == fingerprint;
                if !theirs.believed().any(is_it) {
                    return Err(unreachable("its answer is of another cluster".into()));
                }
                Credentials::of(given, signs.then(|| key_pem.to_owned()))
            }
            (_, bytes) => {
                let why = String::from_utf8_lossy(&bytes).into_owned();
                let why = why.strip_prefix("refused: ").unwrap_or(&why).to_owned();
                Err(Failure::new(Kind::Denied, what.clone(), clean(&why)).next(
                    "nines code [--witness | --server]   on a director prints a new join command",
                ))
            }
        }
    };
    timeout(Duration::from_secs(10), work)
        .await
        .unwrap_or_else(|_| Err(unreachable("no answer within 10 s".into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_with_an_older_build_is_refused_by_name_and_version() {
        let request = |feature_level, version: &str| JoinRequest {
            secret: String::new(),
            name: "lb3".into(),
            addresses: Vec::new(),
            port: 9119,
            witness: false,
            version: version.into(),
            feature_level,
            floats: false,
            server: false,
            request: String::new(),
        };
        assert_eq!(outdated(&request(0, ""), 0), None);
        assert_eq!(outdated(&request(2, "0.2.0"), 1), None);
        let why = outdated(&request(1, "0.2.0"), 2).unwrap();
        assert!(why.starts_with("lb3 has nines 0.2.0, which reads feature level 1"), "{why}");
        let why = outdated(&request(0, ""), 1).unwrap();
        assert!(why.contains("lb3 has an older nines") && why.contains("at level 1"), "{why}");
    }
}
