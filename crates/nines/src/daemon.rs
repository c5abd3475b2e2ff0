//! The agent: puts the core, the kernel, the disk and the API together.
//!
//! Decides: what is started, in which order, and how it ends. A stop hands VIPs over first; a
//! restart asks for a long lease and replaces the process in place, so no packet is lost.

use std::{
    os::unix::process::CommandExt as _,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use nines_core::{Config, Event, Node, forwarding::Wanted};
use nines_dataplane::{
    director::{self, Director},
    ebpf,
    process::boot_time,
};
use nines_model::Role;
use tokio::signal::unix::{SignalKind, signal};

use self::{
    core_thread::{CoreThread, Handle, Input, Work},
    datagram::DatagramCipher,
    logger::Logger,
    worker::{AddressWork, ForwardWork, News, Places, Workers},
};
use crate::{
    api,
    failure::{Failure, Kind, Outcome},
    health::{Checks, shortage::Shortages},
    identity::{self, Credentials, StateDir},
    proof,
};

pub mod connection_limits;
mod copied_state;
pub mod core_thread;
pub mod datagram;
pub mod descriptors;
mod devices;
mod facts;
pub mod flow_sync;
pub mod local_server;
pub mod logger;
pub mod own_log;
pub mod peer_port;
pub mod real_server;
mod replay;
pub mod store;
mod vip_addresses;
mod worker;
pub use self::worker::ForwardWork as ForwardQuestion;

/// How the agent was started.
#[derive(Clone, Debug)]
pub struct Options {
    /// State directory of the agent.
    pub state: PathBuf,
    /// Path of the API's socket.
    pub socket: PathBuf,
    /// Which hooks packets take.
    pub hooks: ebpf::Hooks,
    /// Where metrics are told over TCP.
    pub metrics: Option<std::net::SocketAddr>,
}

/// How this node forwards, for people.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// The packet path.
    pub path: String,
    /// What keeps it from forwarding as the config asks; empty: nothing.
    pub trouble: String,
    /// What a person can do about that.
    pub next: String,
    /// What keeps it from being a real server of the other directors; empty: nothing.
    pub serving: String,
    /// Which of its own addresses it waits for; empty: none.
    pub absent: String,
    /// A program that takes VIPs away again and again; empty: none.
    pub fight: String,
    /// VIPs that it could not serve now, by reason.
    pub unfit: vip_addresses::Unfit,
    /// It is a witness.
    pub witness: bool,
    /// The cluster it is a member of, also before it has the log.
    pub cluster: String,
}

impl Shown {
    /// What people hear first of what is wrong.
    pub fn worst(&self) -> &str {
        let all = [&self.absent, &self.trouble, &self.fight, &self.serving];
        all.into_iter().find(|one| !one.is_empty()).map_or("", String::as_str)
    }

    /// What a person can do about that.
    pub fn worst_next(&self) -> String {
        let worst = self.worst();
        if worst.is_empty() || worst == self.trouble || worst == self.serving {
            self.next.clone()
        } else if worst == self.absent {
            "ip -brief address; the agent goes on by itself when the address is there".into()
        } else {
            "see what changes it: ip monitor address; a network manager keeps what its own \
             configuration names"
                .into()
        }
    }
}

/// What the API and the peer port work on.
pub struct Agent {
    /// Handle of the core thread, which has the node.
    pub core: Handle,
    /// State directory of the agent.
    pub home: StateDir,
    /// Credentials of this node.
    pub credentials: Arc<Credentials>,
    /// Questions to the data plane; a witness has none.
    pub forwarding: Option<mpsc::Sender<ForwardWork>>,
    /// How this node forwards.
    pub shown: Arc<Mutex<Shown>>,
    /// Flows told to other directors and taken from them; a witness has none.
    pub flows: Option<Arc<flow_sync::Flows>>,
    /// Config in force here.
    pub revision: Arc<AtomicU64>,
    /// That config as it was last looked at for a real server.
    pub config: tokio::sync::Mutex<Option<Arc<(u64, Arc<nines_model::Spec>)>>>,
    /// Servers that this holder found not to serve the VIP.
    pub unusable: Mutex<proof::AllUnusable>,
    /// Where it says what happens.
    pub log: Logger,
    /// How many descriptors there are for what.
    pub shares: descriptors::Shares,
    /// What this node was short of lately.
    pub shortages: Arc<Shortages>,
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .expect("a process that starts can make threads");
}

/// Runs until stopped.
pub fn run(options: &Options) -> Outcome<()> {
    let log = Logger::stderr();
    let home = identity::home(&options.state);
    let credentials = Arc::new(home.credentials()?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Kind::Io, "cannot start", e))?;
    let ended = if credentials.identity.server {
        runtime.block_on(real_server::serve(home, credentials, &log))
    } else {
        runtime.block_on(serve(options, home, credentials, &log))
    };
    match ended {
        Ok(End::Stopped) => Ok(()),
        Ok(End::Replace) => {
            drop(runtime);
            Err(Failure::new(Kind::Io, "cannot restart in place", replace()))
        }
        Err(why) => Err(why),
    }
}

/// Starts this program anew in its own place; returns only if that cannot be.
fn replace() -> std::io::Error {
    let me = match std::env::current_exe() {
        Ok(me) => me,
        Err(why) => return why,
    };
    // An upgraded binary has the same path; the kernel calls the old one "(deleted)".
    let me = PathBuf::from(me.to_string_lossy().trim_end_matches(" (deleted)").to_owned());
    std::process::Command::new(me).args(std::env::args_os().skip(1)).exec()
}

/// How an agent ends.
pub enum End {
    Stopped,
    Replace,
}

async fn serve(
    options: &Options,
    home: StateDir,
    credentials: Arc<Credentials>,
    log: &Logger,
) -> Outcome<End> {
    let listener = api::listen(&options.socket)?;
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
    let me = credentials.identity.me.clone();
    let (store, kept) = own_log::open_or_restart(&home, &credentials.identity, || drop(replace()))?;
    let boot = u64::from_be_bytes(identity::random::<8>()) >> 2;
    let config = Config {
        id: me.id,
        name: me.name.clone(),
        boot,
        machine_boot: copied_state::machine_boot(),
        place: copied_state::of(&home, own_log::FILE),
        seeds: credentials.identity.peers.iter().map(|p| p.id).collect(),
    };
    let mut node = Node::new(config, boot_time(), &kept);
    let witness = credentials.identity.witness;

    let sockets = devices::bind(&me)?;
    let tcp = devices::bind_tcp(std::net::SocketAddr::new(me.addresses[0], me.port))?;
    let metrics = options.metrics.map(devices::bind_tcp).transpose()?;
    let (poll, core, inputs) =
        core_thread::channel().map_err(|e| Failure::new(Kind::Io, "cannot start", e))?;
    let places: Places = Places::default();
    remember_places(&places, &node);
    let path = if witness { "none (witness)" } else { "starting" }.to_owned();
    let cluster = credentials.identity.cluster.clone();
    let shown = Shown { path, witness, cluster, ..Shown::default() };
    let shown = Arc::new(Mutex::new(shown));
    let (elsewhere, mut others) = tokio::sync::mpsc::unbounded_channel();
    let (disk, disk_work) = mpsc::channel();
    let (addresses, address_work) = mpsc::channel();
    let (configs, unread) = mpsc::channel();
    let mut guard: Option<Box<dyn nines_dataplane::Guard>> = None;
    let mut forwarding = None;
    let mut shared_flows = None;
    let mut claim = None;
    if !witness {
        claim = ebpf::claim(Duration::from_secs(5))?;
        if claim.is_none() {
            let why = "another process holds the forwarding tables of this network namespace";
            return Err(Failure::new(Kind::Io, "cannot start", why).next(
                "see who: fuser /sys/fs/bpf/nines/*; another agent, or an ipvsadm that hangs",
            ));
        }
        let spec = node.newest_config();
        let flows = spec.flows;
        let table = Wanted { spec, ..Wanted::default() }.table();
        let sizes = ebpf::Sizes::holding(&table, flows);
        let (mut plane, kernel_guard) = ebpf::open(ebpf::object::BYTES, options.hooks, sizes)?;
        node.inherit(director::serving(&mut plane));
        devices::ready_kernel(log)?;
        let (send, work) = mpsc::channel();
        let learn = send.clone();
        let wanted = move || drop(learn.send(ForwardWork::Learn));
        let told = flow_sync::Flows::start(plane.flows_out()?, wanted, log);
        let told = Arc::new(told.map_err(|e| Failure::new(Kind::Io, "cannot start", e))?);
        shared_flows = Some(Arc::clone(&told));
        guard = Some(Box::new(kernel_guard));
        forwarding = Some(send);
        let (core, shown, log, places) =
            (core.clone(), Arc::clone(&shown), log.clone(), Arc::clone(&places));
        let own = me.addresses.clone();
        let (duties, duty) = mpsc::channel();
        {
            let (memory, core, log, shown) =
                (home.file(local_server::MEMORY), core.clone(), log.clone(), Arc::clone(&shown));
            spawn("serves", move || local_server::keep(&duty, &memory, &core, &shown, &log));
        }
        spawn("forwarding", move || {
            let mut plane = Director::new(plane);
            // This takes longest of all at a start: the cluster agrees on who leads meanwhile. What
            // fails is tried again, and told, with the first table.
            let _ = plane.ebpf().provide(&table);
            let cover = move |plane: &mut Director| devices::cover(plane, &own, &places);
            let notes = log.clone();
            let mut learns = false;
            let tell = |plane: &mut Director, news: News<'_>| {
                let followed = match news {
                    News::Table { table, larger } => {
                        let _ = duties.send(table.duty.clone());
                        told.table_changed(larger.then(|| plane.ebpf()), learns)
                    }
                    News::Learn => {
                        learns = true;
                        told.learn(plane.ebpf())
                    }
                };
                if let Err(why) = followed {
                    notes.line(&why.to_string());
                }
            };
            worker::forwarding(plane, cover, tell, work, &shown, &core, &log);
        });
    }
    let look = addresses.clone();
    let changes = Arc::new(AtomicU64::new(0));
    let news = Arc::new(tokio::sync::Notify::new());
    {
        let (core, log, places) = (core.clone(), log.clone(), Arc::clone(&places));
        let (shown, news) = (Arc::clone(&shown), Arc::clone(&news));
        spawn("addresses", move || {
            let kept = vip_addresses::VipAddresses::new(witness);
            worker::addresses(kept, address_work, &places, &shown, &news, &core, &log);
        });
    }
    {
        let (own, forwarding, addresses) =
            (me.addresses.clone(), forwarding.clone(), addresses.clone());
        let (shown, changed, log) = (Arc::clone(&shown), Arc::clone(&changes), log.clone());
        spawn("devices", move || {
            devices::watch(&own, forwarding.as_ref(), &addresses, &changed, &shown, &log);
        });
    }
    let workers = Workers {
        disk,
        addresses,
        configs,
        forwarding: forwarding.clone(),
        elsewhere,
        watched: true,
    };
    {
        let (core, home, credentials) = (core.clone(), home.clone(), Arc::clone(&credentials));
        let first = move || credentials.identity.note_log(&home);
        spawn("disk", move || worker::disk(store, disk_work, first, &core));
    }
    {
        let core = core.clone();
        spawn("configs", move || worker::configs(unread, &core));
    }
    let beat_key = data_encoding::HEXLOWER
        .decode(credentials.identity.beat_key.as_bytes())
        .map_err(|e| Failure::new(Kind::Io, "identity.json is damaged", e))?;
    let configured = Arc::clone(&places);
    let revision = Arc::new(AtomicU64::new(node.state().revision));
    let in_force = Arc::clone(&revision);
    let seals = DatagramCipher::new(&beat_key, me.id, identity::random());
    let thread = CoreThread::new(
        poll,
        inputs,
        node,
        sockets,
        seals,
        &credentials.identity.peers,
        guard,
        Box::new(move |work| workers.take(work)),
        Box::new(move |node| {
            remember_places(&configured, node);
            let _ = look.send(AddressWork::Look);
            in_force.store(node.state().revision, Ordering::Relaxed);
        }),
        log.clone(),
    )
    .map_err(|e| Failure::new(Kind::Io, "cannot start", e))?;
    let joined = std::thread::Builder::new()
        .name("core".into())
        .spawn(move || thread.run())
        .map_err(|e| Failure::new(Kind::Io, "cannot start", e))?;

    let (flows, log) = (shared_flows, log.clone());
    let config = tokio::sync::Mutex::default();
    let (shares, shortages) = (descriptors::Shares::of_this_process(), Arc::default());
    let unusable = Mutex::default();
    #[rustfmt::skip]
    let agent = Agent {
        core, home, credentials, forwarding, shown, flows, revision, config, unusable, log, shares,
        shortages,
    };
    let agent = Arc::new(agent);
    tokio::spawn(api::serve(listener, Arc::clone(&agent)));
    tokio::spawn(api::tell_systemd(Arc::clone(&agent)));
    if let Some(listener) = metrics {
        tokio::spawn(api::serve_metrics(listener, Arc::clone(&agent)));
    }
    tokio::spawn(peer_port::serve(tcp, Arc::clone(&agent.credentials), Arc::clone(&agent)));
    if agent.flows.is_some() {
        tokio::spawn(proof::keep(Arc::clone(&agent)));
        tokio::spawn(flow_sync::ask_all(Arc::clone(&agent)));
    }
    tokio::spawn(facts::tell(Arc::clone(&agent), Arc::clone(&places), news, changes));
    agent.log.line(&format!(
        "nines {} runs as {} in cluster {}",
        env!("CARGO_PKG_VERSION"),
        me.name,
        agent.credentials.identity.cluster
    ));
    let end = until_the_end(&agent, &mut others, &agent.log).await;
    agent.core.put(Input::End);
    let _ = joined.join();
    if let (Some(_), Ok(End::Stopped)) = (&claim, &end) {
        devices::leave_kernel(&places, &agent.log);
    }
    drop(claim);
    end
}

fn remember_places(places: &Places, node: &Node) {
    let vips = node.state().spec.vips.iter();
    *places.lock().expect("nobody panics with it") =
        vips.map(|(addr, v)| (*addr, (v.prefix, v.interface.clone()))).collect();
}

async fn until_the_end(
    agent: &Arc<Agent>,
    others: &mut tokio::sync::mpsc::UnboundedReceiver<Work>,
    log: &Logger,
) -> Outcome<End> {
    let listen = |kind| signal(kind).map_err(|e| Failure::new(Kind::Io, "cannot start", e));
    let (mut term, mut int, mut hup) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
        listen(SignalKind::hangup())?,
    );
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut alive = tokio::time::interval(Duration::from_secs(1));
    let (core, log_of_checks) = (agent.core.clone(), agent.log.clone());
    let shortages = Arc::clone(&agent.shortages);
    let mut checks = Checks::new(core, log_of_checks, shortages, agent.shares.checks);
    let mut bulk =
        peer_port::bulk::Bulk::new(Arc::clone(&agent.credentials), agent.core.clone(), log.clone());
    let mut stop_at: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            work = others.recv() => match work {
                Some(Work::Check(tasks)) => checks.set(Arc::unwrap_or_clone(tasks)),
                Some(Work::Bulk(to, bytes)) => bulk.send(to, bytes),
                Some(Work::Forward(_)) => agent.core.event(Event::Forwarded(Ok(()))),
                Some(Work::Restart) => return Ok(End::Replace),
                Some(Work::Stop) | None => return Ok(End::Stopped),
                Some(_) => {}
            },
            _ = hup.recv() => {
                let restart = agent.core.inspect(|n, _| n.state().spec.timing.restart.0).await;
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Reloading]);
                agent.core.event(Event::Restart(restart.unwrap_or(5_000)));
            }
            _ = term.recv() => stop(agent, &mut stop_at, log),
            _ = int.recv() => stop(agent, &mut stop_at, log),
            _ = alive.tick() => {
                // Fed only while the core thread answers: a stuck core is a dead agent.
                let look = |n: &Node, _| n.broken().is_some() && !n.is_retired();
                if let Ok(Some(false)) =
                    tokio::time::timeout(Duration::from_secs(1), agent.core.inspect(look)).await
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

fn stop(agent: &Agent, stop_at: &mut Option<tokio::time::Instant>, log: &Logger) {
    if stop_at.is_none() {
        log.line("stopping: VIPs move first");
        *stop_at = Some(tokio::time::Instant::now() + Duration::from_secs(5));
        agent.core.event(Event::Stop);
    }
}

/// Role of a node by the spec, in words.
pub fn role_word(role: Role) -> &'static str {
    match role {
        Role::Director => "director",
        Role::Witness => "witness",
    }
}
