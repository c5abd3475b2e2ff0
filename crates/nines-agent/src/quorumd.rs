//! quorumd: the witness of many clusters in one process.
//!
//! Decides: which clusters it votes for, and when a witness that has ended starts again. Each
//! folder of its state directory that holds a witness's identity is a cluster. A cluster has its
//! own threads, port, keys and log, and knows nothing of the others: what fails in one ends that
//! one alone. Only a fault of the program ends the process; systemd starts it again. quorumd runs
//! no program and touches no kernel table, so it needs no privilege.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use axum::{Json, Router, extract::State, routing::get};
use nines_api::{
    failure::Outcome,
    types::{Quorumd, QuorumdCluster, SCHEMA},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{Instant, interval},
};

use crate::{
    descriptors::Shares, http, identity::StateDir, logger::Logger, start::cannot_start, threads,
};

pub mod witness;

/// Port of the first cluster's witness unless chosen otherwise; each further one takes the next.
pub const FIRST_PORT: u16 = 9130;

/// New and forgotten folders are looked for so often.
const LOOK: Duration = Duration::from_secs(2);
/// A witness that has ended starts again after so long, and after twice that the next time.
const AGAIN: Duration = Duration::from_secs(1);
/// It is never waited for longer.
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// One that has run for so long has not failed at its start.
const RAN_LONG: Duration = Duration::from_secs(60);
/// A stop waits so long for the witnesses to say farewell.
const STOP: Duration = Duration::from_secs(3);
/// Connections to the socket at once.
const ASKERS: usize = 16;

/// How quorumd was started.
#[derive(Clone, Debug)]
pub struct QuorumdOptions {
    /// Its state directory: a folder for each cluster.
    pub state: PathBuf,
    /// Socket that says how the clusters are.
    pub socket: PathBuf,
}

/// What is shown of each cluster, by folder.
type Shown = Arc<Mutex<BTreeMap<String, QuorumdCluster>>>;

fn locked(shown: &Shown) -> MutexGuard<'_, BTreeMap<String, QuorumdCluster>> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A cluster that it votes for.
struct Cluster {
    /// Told once, to end.
    end: watch::Sender<bool>,
    /// Ends with the witness.
    thread: Option<JoinHandle<()>>,
    /// When it was started last.
    started: Instant,
    /// It is started again then.
    again: Instant,
    /// How long the next wait is.
    wait: Duration,
}

/// The folders of a state directory that hold a witness, by name. An error: they cannot be read.
pub fn folders(state: &Path) -> std::io::Result<BTreeMap<String, StateDir>> {
    let mut homes = BTreeMap::new();
    for entry in std::fs::read_dir(state)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let home = StateDir(entry.path());
        if !name.starts_with('.') && home.file("identity.json").try_exists()? {
            homes.insert(name, home);
        }
    }
    Ok(homes)
}

/// Runs until stopped.
pub fn run(options: &QuorumdOptions) -> Outcome<()> {
    let log = Logger::stderr();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().map_err(cannot_start)?;
    let ended = runtime.block_on(serve(options, &log));
    let _ = std::fs::remove_file(&options.socket);
    ended
}

async fn serve(options: &QuorumdOptions, log: &Logger) -> Outcome<()> {
    let listener = http::listen(&options.socket)?;
    let shown = Shown::default();
    let router = Router::new()
        .route("/v1/quorumd", get(|State(shown): State<Shown>| async move { Json(view(&shown)) }))
        .with_state(Arc::clone(&shown));
    let answering = tokio::spawn(http::serve_router(listener, router, ASKERS));
    let listen = |kind| signal(kind).map_err(cannot_start);
    let mut term = listen(SignalKind::terminate())?;
    let mut int = listen(SignalKind::interrupt())?;
    let mut hup = listen(SignalKind::hangup())?;
    let mut clusters = Clusters {
        of: options.state.clone(),
        running: BTreeMap::new(),
        shown,
        said: String::new(),
        log: log.clone(),
    };
    log.line(&format!(
        "nines quorumd {} votes for the clusters in {}",
        env!("CARGO_PKG_VERSION"),
        options.state.display()
    ));
    clusters.look();
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut alive = interval(Duration::from_secs(1));
    let mut look = interval(LOOK);
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            _ = hup.recv() => clusters.look(),
            _ = look.tick() => clusters.look(),
            _ = alive.tick() => {
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            }
        }
    }
    answering.abort();
    clusters.end().await;
    Ok(())
}

fn view(shown: &Shown) -> Quorumd {
    let clusters = locked(shown).values().cloned().collect();
    Quorumd { schema: SCHEMA, version: env!("CARGO_PKG_VERSION").into(), clusters }
}

/// All clusters that it votes for.
struct Clusters {
    of: PathBuf,
    running: BTreeMap<String, Cluster>,
    shown: Shown,
    /// Why the folders could not be read when last tried; empty: they could.
    said: String,
    log: Logger,
}

impl Clusters {
    /// Starts the witnesses of new folders, and those that have ended; ends those whose folder is
    /// gone.
    fn look(&mut self) {
        let folders = match folders(&self.of) {
            Ok(folders) => folders,
            Err(e) => {
                // Whoever votes goes on.
                let line = format!("{} cannot be read: {e}", self.of.display());
                if self.said != line {
                    self.log.line(&line);
                    self.said = line;
                }
                return;
            }
        };
        self.said.clear();
        self.running.retain(|name, cluster| {
            let stays = folders.contains_key(name);
            if !stays {
                let _ = cluster.end.send(true);
                locked(&self.shown).remove(name);
                self.log.line(&format!("{name}: its folder is gone; no vote is given there"));
            }
            stays
        });
        let each = folders.len().max(1);
        for (name, home) in folders {
            let now = Instant::now();
            let known = self.running.remove(&name);
            let next = match known {
                Some(cluster) if !cluster.is_due(now) => cluster,
                Some(ended) => self.start(&name, home, each, ended.next_wait(now)),
                None => self.start(&name, home, each, AGAIN),
            };
            self.running.insert(name, next);
        }
    }

    fn start(&self, name: &str, home: StateDir, each: usize, wait: Duration) -> Cluster {
        locked(&self.shown).entry(name.to_owned()).or_insert_with(|| QuorumdCluster {
            folder: name.to_owned(),
            ..QuorumdCluster::default()
        });
        let (end, told) = watch::channel(false);
        let log = self.log.about(name);
        let shown = witness::Shown { of: name.to_owned(), all: Arc::clone(&self.shown) };
        let shares = Shares::of_this_process().each_of(each);
        let work = move || {
            if let Err(why) = witness::vote(&home, told, &shown, shares, &log) {
                log.line(&why.to_string());
                shown.stopped(&home, &why);
            }
        };
        let thread = match threads::spawn("witness", work) {
            Ok(thread) => Some(thread),
            Err(why) => {
                self.log.about(name).line(&why.to_string());
                None
            }
        };
        let now = Instant::now();
        Cluster { end, thread, started: now, again: now + wait, wait }
    }

    /// Ends all of them, and waits a moment for it.
    async fn end(mut self) {
        for cluster in self.running.values() {
            let _ = cluster.end.send(true);
        }
        let until = Instant::now() + STOP;
        while self.running.values().any(|c| !c.has_ended()) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.running.clear();
    }
}

impl Cluster {
    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Whether it is to be started again.
    fn is_due(&self, now: Instant) -> bool {
        self.has_ended() && now >= self.again
    }

    /// How long its next failure is waited for.
    fn next_wait(&self, now: Instant) -> Duration {
        let ran_long = now.duration_since(self.started) >= RAN_LONG + self.wait;
        if ran_long { AGAIN } else { (self.wait * 2).min(AGAIN_MAX) }
    }
}
