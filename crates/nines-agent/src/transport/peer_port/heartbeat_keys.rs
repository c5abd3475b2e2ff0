//! The key of heartbeats is rotated while the cluster runs: over TLS from member to member, never
//! in the log.
//!
//! ```text
//! director that rotates -> each member that is heard:  1 believe the new key, too
//!                                                      2 send with it
//!                                                      3 believe no other
//! ```
//! Decides: when a step may follow (every member that is heard has made the one before), who may
//! tell keys (directors, one rotation at a time), and how a member that was off gets them: it asks.
//! A rotation that ends early leaves keys that all believe; the next one finishes it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nines_api::failure::{Failure, Kind, Outcome};
use nines_core::{Node, feature_level::KEYS};
use nines_model::{NodeId, Role, Time, printable::clean};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use super::{FRAME_MAX, Rotation, connect, find, get, kind, put};
use crate::{
    core_thread::{CoreHandle, Input},
    identity::{Credentials, HeartbeatKeys, StateDir, trust},
    logger::Logger,
};

/// How long a member may take for a step.
const PATIENCE: Duration = Duration::from_secs(3);
/// A rotation makes all its steps within that time, or ends.
const ROTATION: Duration = Duration::from_secs(30);
/// A member follows one rotation; another may begin when that has said nothing for so long, which
/// is longer than any rotation takes.
const ONE_AT_A_TIME: Duration = Duration::from_secs(45);
/// How often a node asks members that it does not hear whether they have other keys.
const LOOK: Duration = Duration::from_secs(2);

/// What one member says to another.
#[derive(Serialize, Deserialize)]
struct Said {
    /// Keys that the other is to have from now on; `None`: it is only asked.
    put: Option<HeartbeatKeys>,
}

/// The keys of a node, and what it takes to change them.
#[derive(Clone)]
pub struct Secrets {
    /// The node.
    pub core: CoreHandle,
    /// Credentials of this node, and its keys.
    pub credentials: Arc<Credentials>,
    /// State directory.
    pub home: StateDir,
    /// Where it says what happens.
    pub log: Logger,
    /// The rotation that this node follows, and when that last said something.
    pub follows: Arc<Mutex<Option<(u64, Instant)>>>,
    /// The rotation of the authority, as this node sees it.
    pub rotation: Arc<Rotation>,
}

/// A member as a rotation sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) director: bool,
    /// It is heard, or it is this node.
    pub(super) heard: bool,
}

/// What a node knows of the others.
pub(super) struct Seen {
    pub(super) members: BTreeMap<NodeId, Member>,
    /// A majority of the voters is heard.
    pub(super) quorate: bool,
    pub(super) level: u32,
    /// Place in the log of the newest change of the members.
    pub(super) newest_change: u64,
}

impl Seen {
    pub(super) fn of(node: &Node, now: Time) -> Self {
        let (state, me) = (node.state(), node.config().id);
        let lease = state.spec.timing.lease;
        let heard = |id: NodeId| id == me || node.membership().alive(now, id, lease);
        let members = state.members.iter().map(|(id, m)| {
            let spec = state.spec.nodes.get(m.name.as_str());
            let director = !m.witness && spec.is_none_or(|spec| spec.role == Role::Director);
            (*id, Member { name: m.name.clone(), director, heard: heard(*id) })
        });
        let voters = node.consensus().voters();
        let votes = voters.iter().filter(|id| heard(**id)).count();
        Self {
            members: members.collect(),
            quorate: votes * 2 > voters.len(),
            level: state.members.feature_level(),
            newest_change: state.members.newest_change().number(),
        }
    }
}

/// What came of a rotation.
pub struct Rotated {
    /// Name of the key in use now.
    pub key: String,
    /// Members that have it.
    pub have: Vec<String>,
    /// Members that are off: they get it when they come back.
    pub later: Vec<String>,
}

/// What a member says of its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its name.
    pub member: String,
    /// Names the key that it sends with; empty: it gave no answer.
    pub key: String,
    /// It believes another one, too.
    pub rotating: bool,
    /// Why it gave no answer; empty: it did.
    pub why: String,
}

fn not_rotated(why: impl Into<String>) -> Failure {
    Failure::new(Kind::Unsafe, "the heartbeat key was not rotated", why.into())
        .next("nines secret status; a rotation can be begun again at any time")
}

impl Secrets {
    /// A member's side of a frame: kind and bytes of the answer. `from`: who speaks.
    pub(super) async fn answer(&self, bytes: &[u8], from: u64) -> (u8, Vec<u8>) {
        match self.take(bytes, NodeId(from)).await {
            Ok(()) => {
                let keys = self.credentials.heartbeat_keys();
                (kind::ANSWER, serde_json::to_vec(&keys).expect("plain data"))
            }
            Err(why) => (kind::REFUSED, why.to_string().into_bytes()),
        }
    }

    async fn take(&self, bytes: &[u8], from: NodeId) -> Outcome<()> {
        let refuse = |why: &str| Failure::new(Kind::Denied, "refused", why);
        let said: Said =
            serde_json::from_slice(bytes).map_err(|_| refuse("the keys cannot be read"))?;
        let Some(keys) = said.put else { return Ok(()) };
        let seen = self.core.inspect(Seen::of).await.ok_or_else(|| refuse("it is stopping"))?;
        if !seen.members.get(&from).is_some_and(|member| member.director) {
            return Err(refuse("only directors rotate keys"));
        }
        self.follow_and_put(&keys).await
    }

    /// One rotation at a time: two would leave members that do not hear each other.
    fn follow(&self, rotation: u64) -> Outcome<()> {
        let mut follows = self.follows.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match *follows {
            Some((other, at)) if other != rotation && now < at + ONE_AT_A_TIME => {
                let wait = (at + ONE_AT_A_TIME - now).as_secs() + 1;
                Err(Failure::new(
                    Kind::Denied,
                    "refused",
                    format!("another rotation has begun; try again in {wait} s"),
                ))
            }
            _ => {
                *follows = Some((rotation, now));
                Ok(())
            }
        }
    }

    /// These keys count from now on, here.
    async fn put(&self, keys: &HeartbeatKeys) -> Outcome<()> {
        let (credentials, home, keys) =
            (Arc::clone(&self.credentials), self.home.clone(), keys.clone());
        let write = move || credentials.put_heartbeat_keys(&home, &keys);
        tokio::task::spawn_blocking(write)
            .await
            .map_err(|_| not_rotated("the agent is stopping"))??;
        // What is in force: others may have been put meanwhile.
        let bytes = self.credentials.heartbeat_keys().bytes()?;
        self.core.deliver(Input::Keys(bytes)).await;
        Ok(())
    }

    async fn follow_and_put(&self, keys: &HeartbeatKeys) -> Outcome<()> {
        self.follow(keys.rotation)?;
        self.put(keys).await?;
        if !keys.is_rotating() {
            // It has ended. Versions order what its director still says to others.
            *self.follows.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(())
    }

    /// Asks a member for its keys, or tells it some; gives those it has then.
    async fn ask(&self, id: NodeId, put: Option<&HeartbeatKeys>) -> Result<HeartbeatKeys, String> {
        if id.number() == self.credentials.identity.me.id {
            if let Some(keys) = put {
                self.follow_and_put(keys).await.map_err(|why| why.to_string())?;
            }
            return Ok(self.credentials.heartbeat_keys());
        }
        let said = serde_json::to_vec(&Said { put: put.cloned() }).expect("plain data");
        let answer = self.ask_member(id, (kind::HEARTBEAT_KEYS, &said), PATIENCE).await?;
        serde_json::from_slice(&answer).map_err(|_| "its answer cannot be read".to_owned())
    }

    /// Says something to a member, as a frame of this kind; gives its answer, or why there is none.
    pub(super) async fn ask_member(
        &self,
        id: NodeId,
        said: (u8, &[u8]),
        patience: Duration,
    ) -> Result<Vec<u8>, String> {
        let seed = &self.credentials.identity.peers;
        let addresses = find(&self.core, seed, id).await.unwrap_or_default();
        let mut why = "it has no address".to_owned();
        for at in addresses {
            match timeout(patience, self.ask_at(id, at, said)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(e)) => why = clean(&e.to_string()).into_owned(),
                Err(_) => why = "no answer".into(),
            }
        }
        Err(why)
    }

    async fn ask_at(
        &self,
        id: NodeId,
        at: SocketAddr,
        (what, said): (u8, &[u8]),
    ) -> std::io::Result<Vec<u8>> {
        let mut stream = connect(&self.credentials, id, at).await?;
        if stream.get_ref().1.alpn_protocol() != Some(trust::SIGNS_REQUESTS) {
            return Err(std::io::Error::other("its build rotates no keys"));
        }
        put(&mut stream, what, said).await?;
        match get(&mut stream, FRAME_MAX).await? {
            (kind::ANSWER, bytes) => Ok(bytes),
            (_, bytes) => Err(std::io::Error::other(String::from_utf8_lossy(&bytes))),
        }
    }

    async fn seen(&self) -> Outcome<Seen> {
        let seen = self.core.inspect(Seen::of).await;
        seen.ok_or_else(|| not_rotated("the agent is stopping"))
    }

    /// Rotates the key. No VIP moves: in each step all that are heard hear each other.
    pub async fn rotate(&self) -> Outcome<Rotated> {
        timeout(ROTATION, self.rotate_in_steps())
            .await
            .unwrap_or_else(|_| Err(not_rotated("it took too long; no member is unheard by it")))
    }

    async fn rotate_in_steps(&self) -> Outcome<Rotated> {
        let seen = self.seen().await?;
        let me = NodeId(self.credentials.identity.me.id);
        if !seen.members.get(&me).is_some_and(|member| member.director) {
            return Err(not_rotated("this node is no director"));
        }
        if seen.level < KEYS {
            let why = format!(
                "the cluster is at feature level {}, and {KEYS} is needed: every member must run a \
                 build that rotates keys",
                seen.level
            );
            return Err(not_rotated(why));
        }
        let others = self.all_heard(&[]).await?;
        let newest = others.values().max_by_key(|keys| keys.version);
        let base = newest.cloned().unwrap_or_else(|| self.credentials.heartbeat_keys());
        let sent_with = others.values().map(|keys| keys.sending.clone());
        let (offered, new) = base.offered(sent_with);
        self.all_heard(&[&offered]).await?;
        let used = offered.used(&new);
        self.all_heard(&[&offered, &used]).await?;
        let alone = used.alone();
        let have = self.all_heard(&[&offered, &used, &alone]).await?;
        let seen = self.seen().await?;
        let name = |id: &NodeId| seen.members.get(id).map(|member| member.name.clone());
        let later = seen.members.iter().filter(|(id, _)| !have.contains_key(id));
        let rotated = Rotated {
            key: alone.name(),
            have: have.keys().filter_map(name).collect(),
            later: later.map(|(_, member)| member.name.clone()).collect(),
        };
        self.log.line(&format!("the heartbeat key was rotated; it is {} now", rotated.key));
        Ok(rotated)
    }

    /// Has every member that is heard make these steps, each once all have made the one before.
    /// Gives the keys that each has then. An error: one did not make it, or too few are heard.
    async fn all_heard(
        &self,
        steps: &[&HeartbeatKeys],
    ) -> Outcome<BTreeMap<NodeId, HeartbeatKeys>> {
        let mut all = BTreeMap::new();
        for step in std::iter::once(None).chain(steps.iter().map(|step| Some(*step))) {
            let seen = self.seen().await?;
            if !seen.quorate {
                // A minority that rotates would be unheard when the others come back.
                return Err(not_rotated("this node hears no majority"));
            }
            for (id, member) in seen.members.iter().filter(|(_, member)| member.heard) {
                let trouble = |why: String| not_rotated(format!("{}: {why}", member.name));
                let has = match all.remove(id) {
                    Some(has) => has,
                    None => self.ask(*id, None).await.map_err(trouble)?,
                };
                let has = match step.filter(|step| has.version < step.version) {
                    Some(step) => self.ask(*id, Some(step)).await.map_err(trouble)?,
                    None => has,
                };
                all.insert(*id, has);
            }
        }
        let other = |has: &HeartbeatKeys| steps.last().is_some_and(|last| *has != **last);
        if let Some((id, _)) = all.iter().find(|(_, has)| other(has)) {
            return Err(not_rotated(format!("node {id} has other keys")));
        }
        Ok(all)
    }

    /// What each member says of its keys.
    pub async fn told(&self) -> Outcome<Vec<Told>> {
        let members = self.seen().await?.members;
        let mut asked = self.ask_all(members.keys().copied()).await;
        let one = |(id, member): (NodeId, Member)| {
            let asked = asked.remove(&id).unwrap_or_else(|| Err("no answer".into()));
            let (key, rotating) =
                asked.as_ref().map(|keys| (keys.name(), keys.is_rotating())).unwrap_or_default();
            let why = asked.err().unwrap_or_default();
            Told { member: member.name, key, rotating, why }
        };
        Ok(members.into_iter().map(one).collect())
    }

    /// Asks many members at once for their keys: those that are off keep nobody waiting.
    async fn ask_all(
        &self,
        ids: impl Iterator<Item = NodeId>,
    ) -> BTreeMap<NodeId, Result<HeartbeatKeys, String>> {
        let mut asks = tokio::task::JoinSet::new();
        for id in ids {
            let own = self.clone();
            asks.spawn(async move { (id, own.ask(id, None).await) });
        }
        let mut answers = BTreeMap::new();
        while let Some(answer) = asks.join_next().await {
            answers.extend(answer);
        }
        answers
    }

    /// Gets keys that were rotated while this node was off or alone: from members that it does not
    /// hear, for they may send with another key.
    pub async fn keep(self) {
        loop {
            let Some(seen) = self.core.inspect(Seen::of).await else { return };
            // A witness is asked by nodes that are alone only: it may not cut off others.
            let asked = |m: &Member| !m.heard && (m.director || !seen.quorate);
            let known = seen.members.iter().filter(|(_, m)| asked(m));
            let mut ask: Vec<NodeId> = known.map(|(id, _)| *id).collect();
            if seen.members.is_empty() {
                // It has no log yet.
                ask = self.credentials.identity.peers.iter().map(|p| NodeId(p.id)).collect();
            }
            ask.retain(|id| id.number() != self.credentials.identity.me.id);
            let mut asks = tokio::task::JoinSet::new();
            for id in ask {
                let own = self.clone();
                asks.spawn(async move { own.ask(id, None).await });
            }
            // The first that knows of another key is believed, whoever else is waited for.
            while let Some(answer) = asks.join_next().await {
                let Ok(Ok(keys)) = answer else { continue };
                if keys.version > self.credentials.heartbeat_keys().version {
                    match self.put(&keys).await {
                        Ok(()) => self.log.line("the heartbeat key was rotated meanwhile"),
                        Err(why) => self.log.line(&why.to_string()),
                    }
                }
            }
            sleep(LOOK).await;
        }
    }
}
