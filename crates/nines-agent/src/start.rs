//! The threads and tasks of an agent, started in their order, each with its queue.
//!
//! Decides: who hears whom. What each thread may do, and how long its queue is, says `threads.rs`.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::AtomicU64,
        mpsc::{SyncSender, sync_channel},
    },
    time::Duration,
};

use nines_api::failure::{Failure, Kind, Outcome};
use nines_core::{Event, Node, forwarding::Wanted};
use nines_dataplane::{
    director::{self, Director},
    ebpf,
};
use nines_model::RealServerRole;

use crate::{
    backup::daily,
    checks::{proof, shortage::Shortages},
    convert::kernel_failure,
    core_thread::CoreHandle,
    descriptors,
    executors::{
        self, DiskWork,
        addresses::{self, AddressHandle},
        devices,
        fence::{self, FenceHandle},
        forwarding::{self, DataplaneHandle, Forwarding, News},
        local_server,
        vip_addresses::{self, Places},
    },
    facts, flow_sync,
    http::{self, Api, Sight, access::Access},
    identity::{Credentials, StateDir},
    logger::Logger,
    own_status::OwnStatus,
    queue::{self, SlotSender},
    storage::{floor::Floor, room, store::Store},
    threads,
    transport::peer_port::{self, Asker, BoxedBytes, PeerPort, heartbeat_keys::Secrets, renewal},
    watchdog::{self, Lessor},
};

/// What several threads and tasks of one agent share.
pub struct Shared {
    /// The node.
    pub core: CoreHandle,
    /// State directory.
    pub home: StateDir,
    /// Credentials of this node.
    pub credentials: Arc<Credentials>,
    /// How this node forwards, for people.
    pub shown: Arc<Mutex<OwnStatus>>,
    /// Where VIPs belong.
    pub places: Places,
    /// Revision of the config in force here.
    pub revision: Arc<AtomicU64>,
    /// How often interfaces changed.
    pub changes: Arc<AtomicU64>,
    /// Rings when there may be other facts.
    pub news: Arc<tokio::sync::Notify>,
    /// What this node was short of lately.
    pub shortages: Arc<Shortages>,
    /// Where it says what happens.
    pub log: Logger,
}

impl Shared {
    /// What the node's state directory says of it.
    pub fn new(
        core: CoreHandle,
        home: StateDir,
        credentials: Arc<Credentials>,
        node: &Node,
        log: &Logger,
    ) -> Self {
        let witness = credentials.identity.witness;
        let path = if witness { "none (witness)" } else { "starting" }.to_owned();
        let cluster = credentials.identity.cluster.clone();
        let generation = credentials.identity.generation;
        let shown = OwnStatus { path, witness, cluster, generation, ..OwnStatus::default() };
        let places = Places::default();
        remember_places(&places, node);
        Self {
            core,
            home,
            credentials,
            shown: Arc::new(Mutex::new(shown)),
            places,
            revision: Arc::new(AtomicU64::new(node.state().revision)),
            changes: Arc::default(),
            news: Arc::default(),
            shortages: Arc::default(),
            log: log.clone(),
        }
    }
}

/// The data plane as others have it; a witness has none.
#[derive(Default)]
pub struct Plane {
    /// Questions to it.
    pub handle: Option<DataplaneHandle>,
    /// Flows told to other directors and taken from them.
    pub flows: Option<Arc<flow_sync::Flows>>,
    /// Deadlines of VIPs in the kernel.
    pub guard: Option<Box<dyn nines_dataplane::Guard>>,
    /// Keeps other processes from the forwarding tables.
    pub claim: Option<ebpf::Claim>,
}

/// Opens the data plane and starts its threads: "forwarding", "serves", "flows-out", "flows-in".
pub fn start_dataplane(shared: &Shared, hooks: ebpf::Hooks, node: &mut Node) -> Outcome<Plane> {
    let Some(claim) = ebpf::claim(Duration::from_secs(5)).map_err(kernel_failure)? else {
        let why = "somebody else holds the forwarding tables of this network namespace";
        return Err(Failure::new(Kind::Io, "cannot start", why)
            .next("see who: fuser /sys/fs/bpf/nines/*; another agent, or an ipvsadm that hangs"));
    };
    let spec = node.newest_config();
    let flows = spec.flows;
    let table = Wanted { spec, ..Wanted::default() }.table();
    let sizes = ebpf::Sizes::holding(&table, flows);
    let (mut plane, guard) =
        ebpf::open(ebpf::object::BYTES, hooks, sizes).map_err(kernel_failure)?;
    node.inherit(director::serving(&mut plane));
    devices::ready_kernel(&shared.log)?;
    let (handle, inbox) = forwarding::channel();
    let learn = handle.clone();
    let out = plane.flows_out().map_err(kernel_failure)?;
    let flows = Arc::new(flow_sync::Flows::start(out, move || learn.learn(), &shared.log)?);
    let duties = start_local_server(shared)?;
    let (core, shown, log) = (shared.core.clone(), Arc::clone(&shared.shown), shared.log.clone());
    let (places, own) =
        (Arc::clone(&shared.places), shared.credentials.identity.me.addresses.clone());
    let told = Arc::clone(&flows);
    threads::spawn("forwarding", move || {
        let mut plane = Director::new(plane);
        // This takes longest of all at a start: the cluster agrees on who leads meanwhile. What
        // fails is tried again, and told, with the first table.
        let _ = plane.ebpf().provide(&table);
        let cover = |plane: &mut Director| devices::cover(plane, &own, &places);
        let mut learns = false;
        let tell = |plane: &mut Director, news: News<'_>| {
            let followed = match news {
                News::Table { table, larger } => {
                    duties.put(table.duty.clone());
                    told.table_changed(larger.then(|| plane.ebpf()), learns)
                }
                News::Learn => {
                    learns = true;
                    told.learn(plane.ebpf())
                }
            };
            if let Err(why) = followed {
                log.line(&why.to_string());
            }
        };
        Forwarding::new(plane, cover, tell, &shown, &core, &log).run(&inbox);
    })?;
    let guard: Option<Box<dyn nines_dataplane::Guard>> = Some(Box::new(guard));
    Ok(Plane { handle: Some(handle), flows: Some(flows), guard, claim: Some(claim) })
}

/// Starts the thread "serves"; gives where it hears its newest role.
fn start_local_server(shared: &Shared) -> Outcome<SlotSender<RealServerRole>> {
    let (duties, duty) = queue::slot();
    let memory = shared.home.file(local_server::MEMORY);
    let (core, shown, log) = (shared.core.clone(), Arc::clone(&shared.shown), shared.log.clone());
    threads::spawn("serves", move || local_server::keep(&duty, &memory, &core, &shown, &log))?;
    Ok(duties)
}

/// Starts the threads "addresses" and "devices".
pub fn start_address_threads(
    shared: &Shared,
    dataplane: Option<&DataplaneHandle>,
) -> Outcome<AddressHandle> {
    let (handle, inbox) = addresses::channel();
    {
        let witness = shared.credentials.identity.witness;
        let (core, log) = (shared.core.clone(), shared.log.clone());
        let (shown, places) = (Arc::clone(&shared.shown), Arc::clone(&shared.places));
        let news = Arc::clone(&shared.news);
        threads::spawn("addresses", move || {
            let kept = vip_addresses::VipAddresses::new(witness);
            addresses::run(kept, &inbox, &places, &shown, &news, &core, &log);
        })?;
    }
    let own = shared.credentials.identity.me.addresses.clone();
    let (dataplane, look) = (dataplane.cloned(), handle.clone());
    let (shown, changes, log) =
        (Arc::clone(&shared.shown), Arc::clone(&shared.changes), shared.log.clone());
    threads::spawn("devices", move || {
        devices::watch(&own, dataplane.as_ref(), &look, &changes, &shown, &log);
    })?;
    Ok(handle)
}

/// Starts the thread "disk". `full`: there was no room to open the log.
pub fn start_disk(shared: &Shared, store: Store, full: bool) -> Outcome<SyncSender<DiskWork>> {
    let (disk, writes) = sync_channel(threads::DISK);
    let (core, home) = (shared.core.clone(), shared.home.clone());
    let credentials = Arc::clone(&shared.credentials);
    let floor = if store.is_kept() { Floor::open(&home) } else { Floor::none() };
    let log = executors::Disk { store, floor, full };
    threads::spawn("disk", move || {
        let first = || credentials.identity.note_log(&home);
        executors::disk(log, writes, first, || room::wait(&home), &core);
    })?;
    Ok(disk)
}

/// Starts the threads "fence" and "fence-config"; gives where calls and new devices go.
/// `directory`: where fence agents are.
pub fn start_fence_threads(
    shared: &Shared,
    directory: Option<PathBuf>,
) -> Outcome<(FenceHandle, SlotSender<fence::Devices>)> {
    let directory = directory.unwrap_or_else(|| fence::DIRECTORY.into());
    let (handle, inbox) = fence::channel(directory);
    let (core, log) = (shared.core.clone(), shared.log.clone());
    threads::spawn("fence", move || fence::run(&inbox, &core, &log))?;
    let (devices, newest) = queue::slot();
    let (ahead, log) = (handle.clone(), shared.log.clone());
    threads::spawn("fence-config", move || fence::look_ahead(&ahead, &newest, &log))?;
    Ok((handle, devices))
}

/// What feeds and stops the watchdog of this machine.
pub struct WatchdogEnds {
    /// For the core's thread.
    pub lessor: Lessor,
    /// Where the newest watchdog of the config goes.
    pub wanted: SlotSender<Option<String>>,
    /// Says that the agent stops for good.
    pub shared: Arc<watchdog::Shared>,
}

/// Starts the thread "watchdog". `socket`: the agent's, beside which the guard process looks.
pub fn start_watchdog_thread(shared: &Shared, socket: &Path) -> Outcome<WatchdogEnds> {
    let (wanted, newest) = queue::slot();
    let (lessor, pages) = sync_channel(1);
    let both = Arc::<watchdog::Shared>::default();
    let core = shared.core.clone();
    let teller = watchdog::Teller {
        pages: watchdog::Pages::beside(socket),
        wanted: newest,
        lessor,
        shared: Arc::clone(&both),
        tell: Box::new(move |state| core.event(Event::Watchdog(state))),
        log: shared.log.clone(),
    };
    threads::spawn("watchdog", move || watchdog::run(&teller))?;
    Ok(WatchdogEnds { lessor: Lessor::new(pages, Arc::clone(&both)), wanted, shared: both })
}

/// What tasks accept connections at.
pub struct Listeners {
    /// The API's socket.
    pub api: tokio::net::UnixListener,
    /// The API's port.
    pub remote: Option<tokio::net::TcpListener>,
    /// The port for metrics.
    pub metrics: Option<tokio::net::TcpListener>,
    /// The port for nodes and real servers.
    pub peers: tokio::net::TcpListener,
}

/// Starts the tasks: the API, the ports, and those that tell and ask.
pub fn start_tasks(
    shared: &Shared,
    shares: descriptors::Shares,
    at: Listeners,
    access: Arc<Access>,
    dataplane: Option<DataplaneHandle>,
    flows: Option<Arc<flow_sync::Flows>>,
) {
    let (core, credentials) = (&shared.core, &shared.credentials);
    let unusable = Arc::default();
    let secrets = Secrets {
        core: core.clone(),
        credentials: Arc::clone(credentials),
        home: shared.home.clone(),
        log: shared.log.clone(),
        follows: Arc::default(),
        rotation: Arc::default(),
    };
    let sight = Sight {
        core: core.clone(),
        credentials: Arc::clone(credentials),
        secrets: secrets.clone(),
        dataplane,
        shown: Arc::clone(&shared.shown),
        unusable: Arc::clone(&unusable),
        ready: Arc::default(),
    };
    let api = Api { sight: sight.clone(), flows: flows.clone(), access };
    threads::task("api", http::serve(at.api, api.clone(), shares.api));
    threads::task("systemd", http::tell_systemd(sight.clone()));
    if let Some(at) = at.remote {
        threads::task("api-port", http::serve_remote(at, api.clone(), shares.remote));
    }
    if let Some(listener) = at.metrics {
        threads::task("metrics", http::serve_metrics(listener, api, shares.metrics));
    }
    let counters = Box::new(move || Box::pin(http::counters_json(sight.clone())) as BoxedBytes);
    threads::task("keys", secrets.clone().keep());
    threads::task("authorities", secrets.clone().keep_authorities());
    let revision = Arc::clone(&shared.revision);
    let port = PeerPort::new(secrets, revision, flows.clone(), counters);
    threads::task("peer-port", peer_port::serve(at.peers, port, shares));
    let shown = Arc::clone(&shared.shown);
    let tell = move |wrong| shown.lock().expect("nobody panics with it").certificate = wrong;
    start_renewal(core, credentials, &shared.home, &shared.log, tell);
    if let Some(flows) = flows {
        threads::task("proof", proof::keep(core.clone(), unusable));
        let asker = Asker { core: core.clone(), credentials: Arc::clone(credentials), flows };
        threads::task("flows-ask", peer_port::ask_flows(asker));
    }
    let teller = facts::Teller {
        core: core.clone(),
        node: credentials.identity.me.name.clone(),
        shown: Arc::clone(&shared.shown),
        shortages: Arc::clone(&shared.shortages),
        places: Arc::clone(&shared.places),
        news: Arc::clone(&shared.news),
        changes: Arc::clone(&shared.changes),
    };
    threads::task("facts", facts::tell(teller));
    let (core, credentials) = (core.clone(), Arc::clone(credentials));
    threads::task(
        "backups",
        daily::keep(core, credentials, shared.home.clone(), shared.log.clone()),
    );
}

/// Starts the task "certificate". `tell` hears what is wrong with it; empty: nothing.
pub fn start_renewal(
    core: &CoreHandle,
    credentials: &Arc<Credentials>,
    home: &StateDir,
    log: &Logger,
    tell: impl Fn(String) + Send + 'static,
) {
    let (core, seed) = (core.clone(), credentials.identity.peers.clone());
    let members = move || {
        let (core, seed) = (core.clone(), seed.clone());
        async move { renewal::signers(&core, &seed).await }
    };
    let (credentials, home, log) = (Arc::clone(credentials), home.clone(), log.clone());
    threads::task("certificate", renewal::keep(credentials, home, log, members, tell));
}

/// Notes where the VIPs of the node's config belong.
pub fn remember_places(places: &Places, node: &Node) {
    let vips = node.state().spec.vips.iter();
    *places.lock().expect("nobody panics with it") =
        vips.map(|(addr, v)| (*addr, (v.prefix, v.interface.clone()))).collect();
}

/// The failure of a start.
pub fn cannot_start(e: std::io::Error) -> Failure {
    Failure::new(Kind::Io, "cannot start", e)
}
