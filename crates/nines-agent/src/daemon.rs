//! The agent: puts the core, the kernel, the disk and the API together.
//!
//! Decides: what is started, in which order, and how it ends. A stop hands VIPs over first; a
//! restart asks for a long lease and replaces the process in place, so no packet is lost.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use nines_api::failure::{Failure, Kind, Outcome};
use nines_core::{Config, Event, Node};
use nines_dataplane::{ebpf, process::boot_time};
use nines_model::{Incarnation, NodeId};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    checks::Checks,
    core_thread::{self, CoreHandle, CoreThread, Input},
    descriptors,
    executors::{Orders, Workers, devices},
    http::{self, access::Access},
    identity::{self, Credentials, StateDir, copied_state},
    logger::Logger,
    real_server,
    start::{
        Listeners, Plane, Shared, cannot_start, remember_places, start_address_threads,
        start_dataplane, start_disk, start_fence_threads, start_tasks, start_watchdog_thread,
    },
    stop::{End, replace},
    storage::own_log,
    threads,
    transport::{
        datagram::DatagramCipher,
        peer_port::{bulk::Bulk, renewal},
    },
};

/// How the agent was started.
#[derive(Clone, Debug)]
pub struct Options {
    /// State directory.
    pub state: PathBuf,
    /// API socket.
    pub socket: PathBuf,
    /// Which hooks packets take.
    pub hooks: ebpf::Hooks,
    /// Where metrics are told over TCP.
    pub metrics: Option<std::net::SocketAddr>,
    /// Where the API is served over TLS.
    pub api: Option<std::net::SocketAddr>,
    /// Where fence agents are; `None`: where the distribution has them.
    pub fence_agents: Option<PathBuf>,
}

/// Runs until stopped.
pub fn run(options: &Options) -> Outcome<()> {
    let log = Logger::stderr();
    let home = StateDir::at(&options.state);
    let credentials = Arc::new(home.credentials()?);
    renewal::at_start(&credentials, &home, &log)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Kind::Io, "cannot start", e))?;
    let of = home.clone();
    let ended = if credentials.identity.server {
        runtime.block_on(real_server::serve(home, credentials, &log))
    } else {
        runtime.block_on(serve(options, home, credentials, &log))
    };
    match ended? {
        End::Stopped => return Ok(()),
        End::Replace => {}
        End::BeginAnew(begun) => own_log::order_anew(&of, begun)?,
    }
    drop(runtime);
    Err(Failure::new(Kind::Io, "cannot restart in place", replace()))
}

async fn serve(
    options: &Options,
    home: StateDir,
    credentials: Arc<Credentials>,
    log: &Logger,
) -> Outcome<End> {
    let listener = http::listen(&options.socket)?;
    let ended = serve_with_socket(options, home, credentials, log, listener).await;
    let _ = std::fs::remove_file(&options.socket);
    ended
}

async fn serve_with_socket(
    options: &Options,
    home: StateDir,
    credentials: Arc<Credentials>,
    log: &Logger,
    listener: tokio::net::UnixListener,
) -> Outcome<End> {
    let (store, kept) = own_log::open_or_restart(&home, &credentials.identity, || drop(replace()))?;
    let mut node = Node::new(node_config(&home, &credentials), boot_time(), &kept);
    let ports = Ports::bind(options, &credentials, listener)?;
    let (poll, core, inbox) = core_thread::channel().map_err(cannot_start)?;
    let shared = Shared::new(core, home, credentials, &node, log);
    let plane = if shared.credentials.identity.witness {
        Plane::default()
    } else {
        start_dataplane(&shared, options.hooks, &mut node)?
    };
    let addresses = start_address_threads(&shared, plane.handle.as_ref())?;
    let disk = start_disk(&shared, store, kept.full)?;
    let (fences, fence_config) = start_fence_threads(&shared, options.fence_agents.clone())?;
    let (workers, orders) =
        Workers::new(disk, addresses.changes(), fences.clone(), plane.handle.as_ref());
    let watchdog = start_watchdog_thread(&shared, &options.socket)?;
    let (wanted, me) = (watchdog.wanted, shared.credentials.identity.me.name.clone());
    let (places, in_force) = (Arc::clone(&shared.places), Arc::clone(&shared.revision));
    let thread = CoreThread::new(
        poll,
        inbox,
        node,
        ports.udp,
        datagram_cipher(&shared.credentials)?,
        &shared.credentials.identity.peers,
        (plane.guard, watchdog.lessor),
        Box::new(workers),
        Box::new(move |node| {
            remember_places(&places, node);
            addresses.look();
            fence_config.put(node.state().spec.fence.clone());
            wanted.put(node.state().spec.watchdog_of(&me).map(str::to_owned));
            in_force.store(node.state().revision, Ordering::Relaxed);
        }),
        log.clone(),
    )
    .map_err(cannot_start)?;
    let joined = threads::spawn("core", move || thread.run())?;
    let shares = descriptors::Shares::of_this_process();
    let identity::Identity { me, cluster, .. } = &shared.credentials.identity;
    let access = Access::new(&shared.core, &me.name, &options.socket, log);
    let listeners = Listeners {
        api: ports.api,
        metrics: ports.metrics,
        peers: ports.peers,
        remote: ports.remote,
    };
    start_tasks(&shared, shares, listeners, access, plane.handle, plane.flows);
    let (name, version) = (&me.name, env!("CARGO_PKG_VERSION"));
    log.line(&format!("nines {version} runs as {name} in cluster {cluster}"));
    let end = until_the_end(&shared, orders, shares).await;
    if let Ok(End::Stopped) = &end {
        watchdog.shared.stops();
    }
    shared.core.put(Input::End);
    let _ = joined.join();
    fences.end();
    if let (Some(_), Ok(End::Stopped)) = (&plane.claim, &end) {
        devices::leave_kernel(&shared.places, log);
    }
    drop(plane.claim);
    end
}

pub(crate) fn node_config(home: &StateDir, credentials: &Credentials) -> Config {
    let me = &credentials.identity.me;
    Config {
        id: NodeId(me.id),
        name: me.name.as_str().into(),
        boot: Incarnation(u64::from_be_bytes(identity::random::<8>()) >> 2),
        machine_boot: copied_state::machine_boot(),
        place: copied_state::of(home, own_log::FILE),
        seeds: credentials.identity.peers.iter().map(|p| NodeId(p.id)).collect(),
    }
}

pub(crate) fn datagram_cipher(credentials: &Credentials) -> Outcome<DatagramCipher> {
    let keys = credentials.heartbeat_keys().bytes()?;
    let mut cipher = DatagramCipher::new(&keys[0], credentials.identity.me.id, identity::random());
    cipher.set_keys(&keys);
    Ok(cipher)
}

/// All that the agent listens on.
struct Ports {
    udp: Vec<mio::net::UdpSocket>,
    peers: tokio::net::TcpListener,
    api: tokio::net::UnixListener,
    metrics: Option<tokio::net::TcpListener>,
    remote: Option<tokio::net::TcpListener>,
}

impl Ports {
    fn bind(
        options: &Options,
        credentials: &Credentials,
        api: tokio::net::UnixListener,
    ) -> Outcome<Self> {
        let me = &credentials.identity.me;
        Ok(Self {
            udp: devices::bind(me)?,
            peers: devices::bind_tcp(std::net::SocketAddr::new(me.addresses[0], me.port))?,
            api,
            metrics: options.metrics.map(devices::bind_tcp).transpose()?,
            remote: options.api.map(devices::bind_tcp).transpose()?,
        })
    }
}

/// The main task: runs checks, hands large frames to their lines, and waits for the end.
async fn until_the_end(
    shared: &Shared,
    mut orders: Orders,
    shares: descriptors::Shares,
) -> Outcome<End> {
    let (core, log) = (&shared.core, &shared.log);
    let shortages = Arc::clone(&shared.shortages);
    let mut checks = Checks::new(core.clone(), log.clone(), shortages, shares.checks);
    let mut bulk = Bulk::new(Arc::clone(&shared.credentials), core.clone(), log.clone());
    let listen = |kind| signal(kind).map_err(cannot_start);
    let (mut term, mut int, mut hup) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
        listen(SignalKind::hangup())?,
    );
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut alive = tokio::time::interval(Duration::from_secs(1));
    let mut stop_at: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            end = orders.ends.recv() => return Ok(end.unwrap_or(End::Stopped)),
            Some(tasks) = orders.checks.recv() => checks.set(&tasks),
            Some((to, bytes)) = orders.bulk.recv() => bulk.send(to, bytes),
            _ = hup.recv() => {
                let restart = core.inspect(|n, _| n.state().spec.timing.restart.0).await;
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Reloading]);
                core.event(Event::Restart(restart.unwrap_or(5_000)));
            }
            _ = term.recv() => stop(core, &mut stop_at, log),
            _ = int.recv() => stop(core, &mut stop_at, log),
            _ = alive.tick() => {
                // Fed only while the core thread answers: a stuck core is a dead agent.
                let look = |n: &Node, _| n.is_mended_by_restart();
                if let Ok(Some(false)) =
                    tokio::time::timeout(Duration::from_secs(1), core.inspect(look)).await
                {
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                }
                if stop_at.is_some_and(|at| at <= tokio::time::Instant::now()) {
                    log.line("no director took the VIPs over in time; stopping anyway");
                    return Ok(End::Stopped);
                }
            }
        }
    }
}

fn stop(core: &CoreHandle, stop_at: &mut Option<tokio::time::Instant>, log: &Logger) {
    if stop_at.is_none() {
        log.line("stopping: VIPs move first");
        *stop_at = Some(tokio::time::Instant::now() + Duration::from_secs(5));
        core.event(Event::Stop);
    }
}
