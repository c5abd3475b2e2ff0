//! The witness of one cluster: a node that votes, and nothing else.
//!
//! Decides: how much of an agent that takes. The node, its log and the port between nodes are the
//! same as everywhere; there is no kernel table, no address, no check, no fence device and no API.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::AtomicU64,
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use nines_api::{
    failure::{Failure, Kind, Outcome},
    states::NodeState,
    types::QuorumdCluster,
};
use nines_core::{
    Config, Event, Node, feature_level,
    wire::{Begun, Facts, Persisted},
};
use nines_dataplane::process::boot_time;
use nines_model::{NodeId, Time};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

use super::locked;
use crate::{
    core_thread::{self, CoreHandle, CoreThread, Executors, Input, Work},
    daemon::{datagram_cipher, node_config},
    datagram_budget::Guest,
    descriptors::Shares,
    executors::{self, DiskQueue, DiskWork, devices},
    http::view::outside::outside,
    identity::{Credentials, Identity, Peer, StateDir},
    logger::Logger,
    queue::{Offer as _, Refused},
    start::{cannot_start, start_renewal},
    stop::replace,
    storage::{floor::Floor, own_log, room},
    threads,
    transport::peer_port::{
        self, BoxedBytes, PeerPort, bulk::Bulk, heartbeat_keys::Secrets, renewal,
    },
    watchdog::Lessor,
};

/// The packet path that it tells the cluster.
const PATH: &str = "none (quorumd)";
/// What it shows is renewed so often.
const SHOW: Duration = Duration::from_secs(1);
/// A farewell is waited for so long.
const FAREWELL: Duration = Duration::from_secs(2);

/// One log is opened at a time: what stops at a damaged one is the process's panic hook.
static OPENING: Mutex<()> = Mutex::new(());

/// Where it says how it is.
#[derive(Clone)]
pub struct Shown {
    /// Name of the folder.
    pub of: String,
    /// All clusters.
    pub all: super::Shown,
}

impl Shown {
    fn put(&self, cluster: QuorumdCluster) {
        // A folder that was forgotten meanwhile is not shown again.
        if let Some(shown) = locked(&self.all).get_mut(&self.of) {
            *shown = cluster;
        }
    }

    /// It has ended with a failure.
    pub fn stopped(&self, home: &StateDir, why: &Failure) {
        let who = home.identity().ok();
        let cluster = who.map(|who| named(&self.of, &who)).unwrap_or_default();
        self.put(QuorumdCluster {
            folder: self.of.clone(),
            state: NodeState::NotReady.into(),
            text: why.to_string(),
            ..cluster
        });
    }
}

/// What its identity says.
fn named(folder: &str, who: &Identity) -> QuorumdCluster {
    QuorumdCluster {
        folder: folder.to_owned(),
        cluster: who.cluster.clone(),
        node: who.me.name.clone(),
        addresses: who.me.addresses.iter().map(ToString::to_string).collect(),
        port: who.me.port,
        ..QuorumdCluster::default()
    }
}

/// What a witness votes with.
pub struct Seat {
    /// Where its keys are, which are renewed there.
    pub home: StateDir,
    /// Credentials of the witness.
    pub credentials: Arc<Credentials>,
    /// Who it is as a node.
    pub config: Config,
    /// Addresses and port that it listens on.
    pub bound: Peer,
    /// What it tells the cluster of its packet path.
    pub path: &'static str,
    /// The log that it writes to, and what that had.
    pub log: (executors::Disk, Persisted),
    /// Called before anybody counts on the first state that comes.
    pub first: Box<dyn Fn() -> Outcome<()> + Send>,
    /// Waits until a disk that was full has room again.
    pub room: Box<dyn FnOnce() + Send>,
    /// It may speak until then, by the boot clock in ns; `None`: always.
    pub until: Option<Arc<AtomicU64>>,
}

/// Votes until it is told to end, or has to start anew.
pub fn vote(
    home: &StateDir,
    end: watch::Receiver<bool>,
    shown: &Shown,
    shares: Shares,
    log: &Logger,
) -> Outcome<()> {
    let credentials = Arc::new(home.credentials()?);
    renewal::at_start(&credentials, home, log)?;
    if !credentials.identity.witness {
        let what = format!("{} is no witness's state directory", home.0.display());
        return Err(Failure::new(Kind::Unsafe, what, "quorumd holds no VIP and serves nobody")
            .next("move it away; nines quorumd join ADDRESS CODE makes one"));
    }
    let (store, kept) = {
        let _alone = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        own_log::open_or_restart(home, &credentials.identity, || drop(replace()))?
    };
    let floor = if store.is_kept() { Floor::open(home) } else { Floor::none() };
    let opened = (executors::Disk { store, floor, full: kept.full }, kept);
    let (of, whose, full) = (home.clone(), Arc::clone(&credentials), home.clone());
    let seat = Seat {
        home: home.clone(),
        config: node_config(home, &credentials),
        bound: credentials.identity.bound(),
        path: PATH,
        log: opened,
        first: Box::new(move || whose.identity.note_log(&of)),
        room: Box::new(move || room::wait(&full)),
        until: None,
        credentials,
    };
    sit(
        seat,
        end,
        &|seen| shown.put(QuorumdCluster { folder: shown.of.clone(), ..seen }),
        shares,
        log,
    )
}

/// Votes from a seat until it is told to end, or has to start anew. When it returns, nothing of it
/// writes to its log any more.
pub fn sit(
    seat: Seat,
    end: watch::Receiver<bool>,
    show: &dyn Fn(QuorumdCluster),
    shares: Shares,
    log: &Logger,
) -> Outcome<()> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().map_err(cannot_start)?;
    // Its tasks end with the runtime.
    let (disk, ordered) = runtime.block_on(serve(seat, end, show, shares, log))?;
    drop(runtime);
    let _ = disk.join();
    ordered
}

/// Gives the thread of the disk, which ends now, and whether a start anew could be ordered.
async fn serve(
    seat: Seat,
    mut end: watch::Receiver<bool>,
    show: &dyn Fn(QuorumdCluster),
    shares: Shares,
    log: &Logger,
) -> Outcome<(JoinHandle<()>, Outcome<()>)> {
    let (home, credentials, path) = (seat.home.clone(), Arc::clone(&seat.credentials), seat.path);
    let who = &credentials.identity;
    let Started { core, mut orders, port, thread, disk } = start(seat, log)?;
    let joined = threads::spawn("core", move || thread.run())?;
    start_tasks(&home, &credentials, &core, (port, shares, path), log);
    log.line(&format!("votes as {} in cluster {}, port {}", who.me.name, who.cluster, who.me.port));

    let mut bulk = Bulk::new(Arc::clone(&credentials), core.clone(), log.clone());
    let mut shows = tokio::time::interval(SHOW);
    let (mut anew, mut ordered) = (false, Ok(()));
    while !*end.borrow_and_update() && !anew {
        tokio::select! {
            _ = end.changed() => {}
            ended = orders.ends.recv() => {
                if let Some(Some(begun)) = ended {
                    ordered = own_log::order_anew(&home, begun);
                }
                anew = true;
            }
            Some((to, bytes)) = orders.bulk.recv() => bulk.send(to, bytes),
            _ = shows.tick() => {
                let Some((seen, mended)) = core.inspect(look).await else { break };
                let dropped = core.datagrams.all().map(|(_, count)| count).sum();
                let QuorumdCluster { cluster, node, addresses, port, .. } = named("", who);
                show(QuorumdCluster { cluster, node, addresses, port, dropped, ..seen });
                anew = mended;
            }
        }
    }
    if !anew {
        core.event(Event::Stop);
        let _ = tokio::time::timeout(FAREWELL, orders.ends.recv()).await;
    }
    core.put(Input::End);
    let _ = joined.join();
    Ok((disk, ordered))
}

/// The parts of a witness that has started.
struct Started {
    core: CoreHandle,
    orders: Orders,
    port: TcpListener,
    /// The thread of the node, which does not run yet.
    thread: CoreThread,
    /// The thread of the disk: it ends after that of the node.
    disk: JoinHandle<()>,
}

/// Opens the ports and starts the thread of the disk.
fn start(seat: Seat, log: &Logger) -> Outcome<Started> {
    let Seat { credentials, bound, first, room, until, log: (log_of, kept), .. } = seat;
    let node = Node::new(seat.config, boot_time(), &kept);
    let udp = devices::bind(&bound)?;
    let port = devices::bind_tcp(SocketAddr::new(bound.addresses[0], bound.port))?;
    let (poll, core, inbox) = core_thread::channel().map_err(cannot_start)?;
    let (disk, writes) = sync_channel(threads::DISK);
    let told = core.clone();
    let joined =
        threads::spawn("disk", move || executors::disk(log_of, writes, first, room, &told))?;
    let (workers, orders) = Workers::new(disk);
    let (spec, members) = (node.newest_config(), node.state().members.len());
    let guest = Guest::new(boot_time(), &spec, members);
    let thread = CoreThread::new(
        poll,
        inbox,
        node,
        udp,
        datagram_cipher(&credentials)?,
        &credentials.identity.peers,
        (None, Lessor::of_witness()),
        Box::new(workers),
        Box::new(|_| ()),
        log.clone(),
    );
    let thread = thread.map_err(cannot_start)?.among_many(guest.until(until));
    Ok(Started { core, orders, port, thread, disk: joined })
}

/// Starts the port between nodes, what keeps keys and certificate, and what is told of this node.
fn start_tasks(
    home: &StateDir,
    credentials: &Arc<Credentials>,
    core: &CoreHandle,
    (port, shares, path): (TcpListener, Shares, &'static str),
    log: &Logger,
) {
    let secrets = Secrets {
        core: core.clone(),
        credentials: Arc::clone(credentials),
        home: home.clone(),
        log: log.clone(),
        follows: Arc::default(),
        rotation: Arc::default(),
    };
    threads::task("keys", secrets.clone().keep());
    threads::task("authorities", secrets.clone().keep_authorities());
    let nothing = Box::new(|| Box::pin(async { b"{}".to_vec() }) as BoxedBytes);
    let doors = PeerPort::new(secrets, Arc::default(), None, nothing);
    threads::task("peer-port", peer_port::serve(port, doors, shares));
    let name = credentials.identity.me.name.clone();
    core.event(Event::Facts(facts(&name, path, String::new())));
    let told = core.clone();
    let tell = move |wrong| told.offer(Event::Facts(facts(&name, path, wrong)));
    start_renewal(core, credentials, home, log, tell);
}

/// `trouble`: what is wrong with it; empty: nothing.
fn facts(name: &str, path: &str, trouble: String) -> Facts {
    Facts {
        node: name.to_owned(),
        trouble,
        version: env!("CARGO_PKG_VERSION").into(),
        feature_level: feature_level::BUILD,
        path: path.into(),
        no_programs: true,
        no_ipvs: true,
        ..Facts::default()
    }
}

/// What is seen of the node now, and whether a start anew mends it.
fn look(node: &Node, now: Time) -> (QuorumdCluster, bool) {
    let me = node.config().id;
    let lease = node.state().spec.timing.lease;
    let voters = node.consensus().voters();
    let heard = |id: &&NodeId| **id == me || node.membership().alive(now, **id, lease);
    let name = |id: NodeId| {
        let member = node.state().members.get(&id);
        member.map_or_else(|| format!("node {id}"), |member| member.name.clone())
    };
    let apart = outside(node, now, me, node.config().name.as_str());
    let votes = voters.contains(&me) && apart.is_none();
    let (state, text, next) = match apart {
        Some(apart) => (apart.state, apart.why, apart.next),
        None => (NodeState::Ok, String::new(), String::new()),
    };
    let cluster = QuorumdCluster {
        state: state.into(),
        text,
        next,
        votes,
        voters: voters.len(),
        heard: voters.iter().filter(heard).count(),
        leader: node.consensus().leader().map(name).unwrap_or_default(),
        term: node.consensus().term(),
        revision: node.state().revision,
        ..QuorumdCluster::default()
    };
    (cluster, node.is_mended_by_restart())
}

/// What the witness's task receives from the core.
struct Orders {
    /// Large frames, each with the node that it is for.
    bulk: mpsc::Receiver<(NodeId, Vec<u8>)>,
    /// The node can start anew, with or without its log, or has said farewell.
    ends: mpsc::Receiver<Option<Begun>>,
}

/// Does what a voter needs: writes its log and sends large frames. It runs nothing.
struct Workers {
    disk: DiskQueue,
    bulk: mpsc::Sender<(NodeId, Vec<u8>)>,
    ends: mpsc::Sender<Option<Begun>>,
}

impl Workers {
    fn new(disk: SyncSender<DiskWork>) -> (Self, Orders) {
        let (bulk, bulk_asked) = mpsc::channel(threads::BULK);
        let (ends, ends_asked) = mpsc::channel(1);
        let workers = Self { disk: DiskQueue::new(disk), bulk, ends };
        (workers, Orders { bulk: bulk_asked, ends: ends_asked })
    }
}

impl Executors for Workers {
    fn take(&mut self, work: Work) -> Option<Event> {
        match work {
            Work::Persist(number, persist) => self.disk.put((number, persist)),
            Work::Bulk(to, bytes) => {
                let full = matches!(self.bulk.offer((to, bytes)), Err(Refused::Full(_)));
                full.then_some(Event::Undelivered(to))
            }
            Work::Fence(id, _) => {
                let result = Err("a witness without an agent speaks to no fence device".to_owned());
                Some(Event::Done { id, result })
            }
            // A witness carries nothing: there is nothing to do, and that is done at once.
            Work::Address(id, ..) | Work::Announce(id, _) | Work::Forward(id, _) => {
                Some(Event::Done { id, result: Ok(()) })
            }
            Work::Watch(_) | Work::Check(_) => None,
            Work::Restart | Work::Stop => {
                let _ = self.ends.offer(None);
                None
            }
            Work::BeginAnew(begun) => {
                let _ = self.ends.offer(Some(begun));
                None
            }
        }
    }

    fn retry(&mut self) {}
}
