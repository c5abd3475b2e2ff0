//! Lines on which flows go from one director to another: one is asked for, the other tells.
//!
//! Decides: who is asked, and when this node is behind. Each director asks every other one, again
//! after each line that has ended. It is behind until it has received everything, and while some of
//! it is of servers that are not in its own table yet. What is told says `flow_sync.rs`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nines_core::{Event, wire::Member};
use nines_model::{NodeId, Role};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
    time::{interval, sleep, timeout},
};

use super::{FRAME_MAX, connect, find, get, kind, put};
use crate::{
    core_thread::CoreHandle,
    flow_sync::{Flows, decode},
    identity::Credentials,
};

/// A line on which nothing is told says that it lives.
const ALIVE: Duration = Duration::from_secs(2);
/// One that says nothing for so long is dead.
const DEAD: Duration = Duration::from_secs(7);

/// Messages sent and not yet answered, oldest first.
#[derive(Default)]
struct Unanswered(Mutex<VecDeque<Instant>>);

impl Unanswered {
    /// Notes that one more message was sent.
    fn sent(&self) {
        self.0.lock().expect("nobody panics with it").push_back(Instant::now());
    }

    /// The oldest was answered; how long that took.
    fn answered(&self) -> Option<Duration> {
        self.0.lock().expect("nobody panics with it").pop_front().map(|at| at.elapsed())
    }
}

/// Tells this director's flows to the member `to` until the line breaks. `subscription`: the layout
/// of its kernel tables, four bytes.
pub async fn tell(
    flows: &Arc<Flows>,
    to: u64,
    subscription: &[u8],
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
) {
    let layout = subscription.first_chunk().map(|word| u32::from_be_bytes(*word));
    let mut messages = flows.subscribe(layout);
    let (mut from, mut into) = tokio::io::split(stream);
    let unanswered = Arc::new(Unanswered::default());
    let answers = {
        let (flows, unanswered) = (Arc::clone(flows), Arc::clone(&unanswered));
        tokio::spawn(async move {
            while let Ok((kind::TAKEN, _)) = get(&mut from, FRAME_MAX).await {
                let Some(lag) = unanswered.answered() else { return };
                flows.answered(to, lag);
            }
        })
    };
    let mut alive = interval(ALIVE);
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            _ = alive.tick() => Some(Arc::default()),
        };
        let Some(message) = message.filter(|_| !answers.is_finished()) else { break };
        unanswered.sent();
        let sent = timeout(DEAD, put(&mut into, kind::FLOWS, &message)).await;
        if !matches!(sent, Ok(Ok(()))) {
            break;
        }
    }
    answers.abort();
}

/// Which directors' flows this node does not have yet; the core is told of each change.
struct Behind {
    core: CoreHandle,
    of: Mutex<BTreeSet<NodeId>>,
}

impl Behind {
    /// Nothing is known yet.
    fn new(core: CoreHandle) -> Arc<Self> {
        Arc::new(Self { core, of: Mutex::default() })
    }

    /// Has, or has not, the flows of this one.
    fn set(&self, of: NodeId, behind: bool) {
        let mut set = self.of.lock().expect("nobody panics with it");
        if if behind { set.insert(of) } else { set.remove(&of) } {
            self.core.event(Event::Behind(set.clone()));
        }
    }
}

/// What is needed to ask other directors for their flows.
#[derive(Clone)]
pub struct Asker {
    /// Knows the members.
    pub core: CoreHandle,
    /// Credentials with which they are asked.
    pub credentials: Arc<Credentials>,
    /// Takes what they tell.
    pub flows: Arc<Flows>,
}

/// Asks every other director for its flows, for as long as it is one.
pub async fn ask_all(asker: Asker) {
    let core = asker.core.clone();
    let behind = Behind::new(core.clone());
    let mut lines: BTreeMap<NodeId, JoinHandle<()>> = BTreeMap::new();
    loop {
        let directors = core.inspect(|node, _| {
            let (state, me) = (node.state(), node.config().id);
            let others = state.members.values().filter(|m| m.id() != me && !m.witness);
            let role = |m: &&Member| {
                state.spec.nodes.get(m.name.as_str()).is_none_or(|n| n.role == Role::Director)
            };
            others.filter(role).map(|m| m.id()).collect::<BTreeSet<NodeId>>()
        });
        let Some(directors) = directors.await else { return };
        for id in &directors {
            if !lines.contains_key(id) {
                behind.set(*id, true);
                let task = ask(asker.clone(), *id, Arc::clone(&behind));
                lines.insert(*id, tokio::spawn(task));
            }
        }
        lines.retain(|id, task| {
            let stays = directors.contains(id);
            if !stays {
                task.abort();
                behind.set(*id, false);
            }
            stays
        });
        sleep(Duration::from_secs(1)).await;
    }
}

/// Keeps asking the member `of` for its flows.
async fn ask(asker: Asker, of: NodeId, behind: Arc<Behind>) {
    loop {
        behind.set(of, true);
        // Why it ended shows in status: the node is behind.
        let _ = take(&asker, of, &behind).await;
        sleep(Duration::from_millis(500)).await;
    }
}

async fn take(asker: &Asker, of: NodeId, behind: &Behind) -> Option<()> {
    let Asker { core, credentials, flows } = asker;
    let addresses = find(core, &credentials.identity.peers, of).await?;
    let mut stream = None;
    for address in addresses {
        let attempt = timeout(Duration::from_millis(500), connect(credentials, of, address));
        if let Ok(Ok(open)) = attempt.await {
            stream = Some(open);
            break;
        }
    }
    let mut stream = stream?;
    let mut tables = flows.changes();
    tables.mark_unchanged();
    let layout = nines_dataplane::ebpf::ABI_VERSION.to_be_bytes();
    put(&mut stream, kind::SUBSCRIBE, &layout).await.ok()?;
    let (mut strange, mut all) = (0, false);
    loop {
        let (what, message) = timeout(DEAD, get(&mut stream, FRAME_MAX)).await.ok()?.ok()?;
        if what != kind::FLOWS {
            return None;
        }
        if !message.is_empty() {
            let (batch, whole) = decode(&message)?;
            strange += flows.take(batch).await?;
            all |= whole;
            behind.set(of, !all || strange > 0);
            if all && strange > 0 {
                // Servers that are not here come with the next table; then all is asked for again.
                let _ = timeout(DEAD, tables.changed()).await;
                return None;
            }
        }
        put(&mut stream, kind::TAKEN, &[]).await.ok()?;
    }
}
