//! The certificate authority is rotated while the cluster runs: over TLS from member to member,
//! never in the log.
//!
//! ```text
//! director that drives: makes a step itself, then tells each member that is heard: catch up
//! member               -> any director: asks for a certificate, and gets it with the authorities
//! real server          -> any director: the same, when a member's answer names later authorities
//!
//! steps: 1 believe the new one, too    2 have a certificate of it    3 believe no other
//! ```
//! Decides: when a step may follow. The second one: when all that are heard have made the first.
//! The third: when every member of the log has made the second, and every real server that was
//! heard lately. Until then a machine that was off comes back by itself. Every director with the
//! key drives a rotation that has begun; it does not matter which of them stops.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nines_api::failure::{Failure, Kind, Outcome};
use nines_core::feature_level::KEYS;
use nines_model::NodeId;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use super::{
    heartbeat_keys::{Secrets, Seen},
    kind, renewal,
};
use crate::identity::{
    Credentials,
    authorities::{Authorities, Order, Phase, name_of},
    certificate, now_s,
};

/// How long a member may take to say what it has, and one that is not heard.
const PATIENCE: Duration = Duration::from_secs(3);
const UNHEARD: Duration = Duration::from_secs(1);
/// How long it may take to catch up and then say so.
const CATCHES_UP: Duration = Duration::from_secs(8);
/// A command waits so long for members and real servers that are there.
const COMMAND: Duration = Duration::from_secs(25);
/// How often a rotation that has begun is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// And how often while it waits for machines that are off.
const WAITS: Duration = Duration::from_secs(15);
/// A real server that has asked nothing for so long is not waited for.
const SERVERS: Duration = Duration::from_secs(3_600);
/// Real servers that are remembered.
const SERVERS_MAX: usize = 4_096;

/// The rotation as one node sees it.
#[derive(Default)]
pub struct Rotation {
    /// Held by who makes steps.
    driving: tokio::sync::Mutex<()>,
    /// Held by who gets what others have.
    catching_up: tokio::sync::Mutex<()>,
    /// When each real server asked last, and which authorities it had then.
    servers: Mutex<BTreeMap<String, (Instant, Order)>>,
}

impl Rotation {
    /// A real server asks, and has these authorities.
    pub fn asked(&self, name: &str, has: Order) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if servers.len() >= SERVERS_MAX {
            servers.retain(|_, (at, _)| now.duration_since(*at) < SERVERS);
        }
        if servers.len() < SERVERS_MAX || servers.contains_key(name) {
            servers.insert(name.to_owned(), (now, has));
        }
    }

    fn seen(&self) -> Vec<Server> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let one = |(name, (at, order)): (&String, &(Instant, Order))| {
            let (name, ago_ms) = (name.clone(), at.elapsed().as_millis() as u64);
            Server { name, ago_ms, order: *order }
        };
        servers.iter().map(one).collect()
    }
}

/// A real server as a member knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Server {
    name: String,
    /// How long ago it asked.
    ago_ms: u64,
    /// What it had then.
    order: Order,
}

/// What one member says to another.
#[derive(Serialize, Deserialize)]
struct Said {
    /// The other has these, and this member is to catch up; `None`: it is only asked.
    latest: Option<Order>,
}

/// What a member has.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Has {
    order: Order,
    /// Names the authority that its certificate comes from.
    authority: String,
    /// Names the others that it believes.
    also: Vec<String>,
    /// Place in the log of the newest change of the members that it knows.
    newest_change: u64,
    /// Real servers that have asked it.
    servers: Vec<Server>,
    /// Why it could not catch up; empty: it could, or was not asked to.
    why: String,
}

/// Where a rotation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Names the new authority.
    pub authority: String,
    /// It has ended: nobody believes the old one.
    pub ended: bool,
    /// Members that have a certificate of the new one.
    pub have: Vec<String>,
    /// Members and real servers that have none, each with the reason.
    pub lack: Vec<(String, String)>,
    /// Some of those are not heard: it makes no sense to wait for them.
    off: bool,
}

/// By the name of each member: the authority of its certificate, and others that it believes.
pub type Told = BTreeMap<String, (String, Vec<String>)>;

impl Standing {
    /// Who has no certificate of the new one, and why.
    pub fn lacking(&self) -> Vec<String> {
        self.lack.iter().map(|(name, why)| format!("{name} ({why})")).collect()
    }
}

fn not_rotated(why: impl Into<String>) -> Failure {
    Failure::new(Kind::Unsafe, "the certificate authority is not rotated", why.into())
        .next("nines secret status; nines secret rotate --ca   goes on where it stopped")
}

/// Waits until the authority of a line's certificate is believed no more. `others`: certificates
/// that were shown along with it.
pub(super) async fn forgotten(
    credentials: Arc<Credentials>,
    (cert, others): (Option<CertificateDer<'static>>, Vec<CertificateDer<'static>>),
) {
    let (mut changes, Some(cert)) = (credentials.changes(), cert) else {
        return std::future::pending().await;
    };
    while credentials.keys().authorities.believe(&cert, &others) {
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

impl Secrets {
    /// A member's side of a frame: kind and bytes of the answer. `from`: who speaks.
    pub(super) async fn answer_authorities(&self, bytes: &[u8], from: u64) -> (u8, Vec<u8>) {
        let Ok(said) = serde_json::from_slice::<Said>(bytes) else {
            return (kind::REFUSED, b"refused: the question cannot be read".to_vec());
        };
        let caught_up = self.catch_up(said.latest.unwrap_or_default(), Some(NodeId(from))).await;
        let why = caught_up.err().map_or_else(String::new, |why| why.to_string());
        match self.has(why).await {
            Some(has) => (kind::ANSWER, serde_json::to_vec(&has).expect("plain data")),
            None => (kind::REFUSED, b"refused: it is stopping".to_vec()),
        }
    }

    async fn has(&self, why: String) -> Option<Has> {
        let newest_change = self.core.inspect(Seen::of).await?.newest_change;
        let Authorities { order, signing, .. } = &self.credentials.keys().authorities;
        let also = self.credentials.keys().authorities.believed().skip(1).map(name_of).collect();
        let (order, authority) = (*order, name_of(signing));
        Some(Has { order, authority, also, newest_change, servers: self.rotation.seen(), why })
    }

    /// Gets the authorities that are the `latest` from a director, from this one first, unless this
    /// node has them.
    async fn catch_up(&self, latest: Order, first: Option<NodeId>) -> Outcome<()> {
        let _alone = self.rotation.catching_up.lock().await;
        let before = self.credentials.keys().authorities.order;
        if latest <= before {
            return Ok(());
        }
        let mut all = renewal::signers(&self.core, &self.credentials.identity.peers).await;
        all.sort_by_key(|peer| Some(NodeId(peer.id)) != first);
        let done = renewal::catch_up(&self.credentials, &self.home, all).await;
        if self.credentials.keys().authorities.order > before {
            self.tell_step().await;
            return Ok(());
        }
        done
    }

    /// Says what has changed, and takes back what counts no more.
    async fn tell_step(&self) {
        let keys = self.credentials.keys();
        let name = name_of(keys.authorities.newest());
        match keys.authorities.phase() {
            Phase::Believed => self.log.line(&format!("authority {name} is believed, too")),
            Phase::Used => {
                self.log.line(&format!("the certificate of this machine is of authority {name}"));
            }
            Phase::Rest => {
                self.log.line(&format!("no authority but {name} is believed any more"));
                let home = self.home.clone();
                let revoke =
                    move || home.revoke_codes_if(|code| code.is_outdated(keys.ca_pem()), now_s());
                match tokio::task::spawn_blocking(revoke).await {
                    Ok(Ok(codes)) if !codes.is_empty() => {
                        let codes = codes.join(", ");
                        let line =
                            format!("join codes of the authority before are revoked: {codes}");
                        self.log.line(&line);
                    }
                    Ok(Err(why)) => self.log.line(&why.to_string()),
                    _ => {}
                }
            }
        }
    }

    /// Asks all members at once what they have. `latest`: they are to have that, if they are heard.
    async fn ask_authorities(
        &self,
        seen: &Seen,
        latest: Option<Order>,
    ) -> BTreeMap<NodeId, Result<Has, String>> {
        let mut asks = tokio::task::JoinSet::new();
        for (id, member) in &seen.members {
            let (id, own) = (*id, self.clone());
            let patience = match (member.heard, latest) {
                (false, _) => UNHEARD,
                (true, None) => PATIENCE,
                (true, Some(_)) => CATCHES_UP,
            };
            asks.spawn(async move { (id, own.ask_for_authorities(id, latest, patience).await) });
        }
        let mut answers = BTreeMap::new();
        while let Some(answer) = asks.join_next().await {
            answers.extend(answer);
        }
        answers
    }

    async fn ask_for_authorities(
        &self,
        id: NodeId,
        latest: Option<Order>,
        patience: Duration,
    ) -> Result<Has, String> {
        if id.number() == self.credentials.identity.me.id {
            return self.has(String::new()).await.ok_or_else(|| "it is stopping".to_owned());
        }
        let said = serde_json::to_vec(&Said { latest }).expect("plain data");
        let answer = self.ask_member(id, (kind::AUTHORITIES, &said), patience).await?;
        serde_json::from_slice(&answer).map_err(|_| "its answer cannot be read".to_owned())
    }

    /// Where a rotation stands, and what each member that answers has: names of the authority that
    /// its certificate comes from, and of others that it believes.
    pub async fn authorities_told(&self) -> Outcome<(Standing, Told)> {
        let seen = self.seen_or_stopping().await?;
        let told = self.ask_authorities(&seen, None).await;
        let standing = standing(&self.credentials.keys().authorities, &seen, &told);
        let one = |(id, has): (NodeId, Result<Has, String>)| {
            let Has { authority, also, .. } = has.ok()?;
            Some((seen.members.get(&id)?.name.clone(), (authority, also)))
        };
        Ok((standing, told.into_iter().filter_map(one).collect()))
    }

    async fn seen_or_stopping(&self) -> Outcome<Seen> {
        let seen = self.core.inspect(Seen::of).await;
        seen.ok_or_else(|| not_rotated("the agent is stopping"))
    }

    /// The members, if a majority of them is heard.
    async fn seen_quorate(&self) -> Outcome<Seen> {
        let seen = self.seen_or_stopping().await?;
        if seen.quorate { Ok(seen) } else { Err(not_rotated("this node hears no majority")) }
    }

    /// Makes a step here. Others follow.
    async fn step(&self, next: Authorities, next_key: String) -> Outcome<()> {
        let keys = self.credentials.keys();
        let is_signer = next.signing == keys.authorities.signing;
        let ca_key = if is_signer { keys.ca_key.clone() } else { keys.next_key.clone() };
        let own = if next.has_signed(&keys.cert_pem) {
            (keys.cert_pem.clone(), keys.key_pem.clone())
        } else {
            let cluster = &self.credentials.identity.cluster;
            let signer = certificate::Authority { cluster, ca_key: &ca_key };
            signer.with_key(&self.credentials.subject(), now_s())?
        };
        let (credentials, home) = (Arc::clone(&self.credentials), self.home.clone());
        let write = move || credentials.put_authorities(&home, &next, (ca_key, next_key), own);
        let written = tokio::task::spawn_blocking(write).await;
        match written.map_err(|_| not_rotated("the agent is stopping"))? {
            Ok(()) => self.tell_step().await,
            // Another director was faster.
            Err(_) if self.credentials.keys().authorities.order > keys.authorities.order => {}
            Err(why) => return Err(why),
        }
        Ok(())
    }

    /// Rotates the authority, or goes on with a rotation that has begun. No VIP moves, and no
    /// connection ends but those of machines that show a certificate of the old one at last.
    pub async fn rotate_authority(&self) -> Outcome<Standing> {
        let until = Instant::now() + COMMAND;
        let late = |_| not_rotated("it takes longer than usual; it goes on by itself");
        timeout(COMMAND, self.begin()).await.map_err(late)??;
        loop {
            let limit = until.saturating_duration_since(Instant::now()).max(LOOK);
            let standing = timeout(limit, self.advance()).await.map_err(late)??;
            if standing.ended || standing.off || Instant::now() + LOOK > until {
                return Ok(standing);
            }
            sleep(LOOK / 4).await;
        }
    }

    /// Begins a rotation, unless one has begun.
    async fn begin(&self) -> Outcome<()> {
        let _alone = self.rotation.driving.lock().await;
        let seen = self.seen_quorate().await?;
        self.may_rotate(&seen)?;
        let told = self.ask_authorities(&seen, None).await;
        let latest = told.values().flatten().map(|has| has.order).max().unwrap_or_default();
        // If no director has them, their keys are lost, and a new rotation has to begin.
        let _ = self.catch_up(latest, None).await;
        let keys = self.credentials.keys();
        let own = &keys.authorities;
        let cluster =
            (self.credentials.identity.cluster.as_str(), self.credentials.identity.generation);
        match (own.is_rotating(), latest > own.order) {
            (true, false) => Ok(()),
            (true, true) => self.step(own.raised(latest.version), keys.next_key.clone()).await,
            (false, _) => {
                let (offered, next_key) = own.offered(latest.version, cluster, &keys.ca_key)?;
                self.step(offered, next_key).await
            }
        }
    }

    fn may_rotate(&self, seen: &Seen) -> Outcome<()> {
        let me = NodeId(self.credentials.identity.me.id);
        let directors = seen.members.iter().filter(|(id, m)| m.director && **id != me);
        let directors: Vec<&str> = directors.map(|(_, m)| m.name.as_str()).collect();
        let there = format!("on a director ({}): nines secret rotate --ca", directors.join(", "));
        if !seen.members.get(&me).is_some_and(|member| member.director) {
            return Err(not_rotated("this node is no director and has no CA key").next(there));
        }
        if self.credentials.keys().ca_key.is_empty() {
            return Err(not_rotated("the CA key is not on this machine").next(there));
        }
        if seen.level < KEYS {
            let why = format!(
                "the cluster is at feature level {}, and {KEYS} is needed: every member must run a \
                 build that rotates keys",
                seen.level
            );
            return Err(not_rotated(why).next("nines status   shows the versions of the members"));
        }
        Ok(())
    }

    /// Goes on with a rotation as far as that can be now.
    async fn advance(&self) -> Outcome<Standing> {
        let _alone = self.rotation.driving.lock().await;
        loop {
            let own = self.credentials.keys().authorities.clone();
            let seen = self.seen_quorate().await?;
            let told = self.ask_authorities(&seen, Some(own.order)).await;
            let latest = told.values().flatten().map(|has| has.order).max().unwrap_or_default();
            if latest > own.order {
                self.catch_up(latest, None).await?;
                if self.credentials.keys().authorities.order == own.order {
                    return Err(not_rotated("a member has later authorities than all directors"));
                }
                continue;
            }
            let standing = standing(&own, &seen, &told);
            match own.phase() {
                Phase::Rest => return Ok(standing),
                Phase::Believed => {
                    let heard = |id: &NodeId| seen.members.get(id).is_some_and(|m| m.heard);
                    if let Some((id, why)) = told.iter().find_map(|(id, has)| {
                        lacks(&own, has).filter(|_| heard(id)).map(|why| (id, why))
                    }) {
                        return Err(not_rotated(format!("{}: {why}", seen.members[id].name)));
                    }
                    self.step(own.used(), String::new()).await?;
                }
                Phase::Used if !standing.lack.is_empty() => return Ok(standing),
                Phase::Used => self.step(own.alone(), String::new()).await?,
            }
        }
    }

    /// Goes on with a rotation that has begun, whoever began it, until the process ends.
    pub async fn keep_authorities(self) {
        let mut said = String::new();
        loop {
            sleep(LOOK).await;
            let keys = self.credentials.keys();
            if !keys.authorities.is_rotating() {
                continue;
            }
            let done = if keys.ca_key.is_empty() {
                // That nobody has later ones is nothing new.
                let _ = self.catch_up(keys.authorities.order.next(), None).await;
                Ok(())
            } else {
                self.advance().await.map(drop)
            };
            if let Err(why) = done.map_err(|why| why.to_string())
                && said != why
            {
                self.log.line(&why);
                said = why;
            }
            if self.credentials.keys().authorities.is_rotating() {
                sleep(WAITS).await;
            }
        }
    }
}

/// Why a member has not made the step that this node has; `None`: it has.
fn lacks(own: &Authorities, has: &Result<Has, String>) -> Option<String> {
    match has {
        Err(why) => Some(why.clone()),
        Ok(has) if has.order == own.order => None,
        Ok(has) if !has.why.is_empty() => Some(has.why.clone()),
        Ok(_) => Some("it has other authorities".into()),
    }
}

/// Where a rotation stands, by what all members have said.
fn standing(
    own: &Authorities,
    seen: &Seen,
    told: &BTreeMap<NodeId, Result<Has, String>>,
) -> Standing {
    let (mut have, mut lack, mut off) = (Vec::new(), Vec::new(), false);
    for (id, member) in &seen.members {
        let silent = Err("it gave no answer".to_owned());
        let has = told.get(id).unwrap_or(&silent);
        // A member that knows of another that has joined: that one is to be asked, too.
        let behind = |has: &Has| has.newest_change != seen.newest_change;
        match lacks(own, has) {
            Some(why) => {
                off |= !member.heard;
                lack.push((member.name.clone(), why));
            }
            None if has.as_ref().is_ok_and(behind) => {
                lack.push((member.name.clone(), "it knows of other members".into()));
            }
            None => have.push(member.name.clone()),
        }
    }
    for (name, server) in servers(told) {
        if server.order < own.order && server.ago_ms < SERVERS.as_millis() as u64 {
            let ago = server.ago_ms / 1_000;
            lack.push((format!("real server {name}"), format!("heard {ago} s ago")));
        }
    }
    let authority = name_of(own.newest());
    Standing { authority, ended: !own.is_rotating(), have, lack, off }
}

/// What each real server had when it asked any member last.
fn servers(told: &BTreeMap<NodeId, Result<Has, String>>) -> BTreeMap<&str, &Server> {
    let mut newest: BTreeMap<&str, &Server> = BTreeMap::new();
    for server in told.values().flatten().flat_map(|has| &has.servers) {
        let known = newest.entry(&server.name).or_insert(server);
        if server.ago_ms < known.ago_ms {
            *known = server;
        }
    }
    newest
}
