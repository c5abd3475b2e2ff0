//! Checks of real servers: one request, one answer.
//!
//! Decides: when a try is made, how many at once, and when it was good. The core counts good and
//! bad ones; `checks/http.rs` and `checks/udp.rs` say what those answers mean.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, LazyLock},
    time::Duration,
};

use nines_core::{
    Event,
    health::{CheckTask, CheckTasks},
};
use nines_dataplane::{
    address,
    probe::{self, Answer, Question},
};
use nines_model::{CheckKind, Forward, ServerRef};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use self::{
    http::Stage,
    shortage::{Shortages, Trouble},
};
use crate::{core_thread::CoreHandle, identity::trust, logger::Logger};

mod http;
pub mod proof;
pub mod shortage;
mod udp;

/// What all checks share.
struct Desk {
    core: CoreHandle,
    log: Logger,
    shortages: Arc<Shortages>,
    /// Tries that may run at once: each has a descriptor.
    room: Semaphore,
    /// Sockets that may stay open between tries.
    kept: Arc<Semaphore>,
}

/// Runs the checks that the core asked for last.
pub struct Checks {
    desk: Arc<Desk>,
    running: HashMap<ServerRef, (Arc<CheckTask>, JoinHandle<()>)>,
}

impl Checks {
    /// None yet. At most `room` descriptors are used at once.
    pub fn new(core: CoreHandle, log: Logger, shortages: Arc<Shortages>, room: usize) -> Self {
        let kept = Arc::new(Semaphore::new(room / 2));
        let desk = Desk { core, log, shortages, room: Semaphore::new(room - room / 2), kept };
        Self { desk: Arc::new(desk), running: HashMap::new() }
    }

    /// Exactly these from now on; those that stay keep their rhythm.
    pub fn set(&mut self, tasks: &CheckTasks) {
        let mut before = std::mem::take(&mut self.running);
        for task in tasks.iter() {
            let key = task.subject();
            let running = match before.remove(&key) {
                Some(same) if *same.0 == *task => same,
                other => {
                    other.into_iter().for_each(|(_, handle)| handle.abort());
                    let task = Arc::new(task.clone());
                    let handle = tokio::spawn(repeat(Arc::clone(&task), Arc::clone(&self.desk)));
                    (task, handle)
                }
            };
            self.running.insert(key, running);
        }
        before.into_values().for_each(|(_, handle)| handle.abort());
    }
}

/// From the first try to the second, ms: the first is made at once, and then the checks of many
/// servers spread over the whole interval, the same way in each process.
fn phase(task: &CheckTask) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&task.service, &task.server).hash(&mut hasher);
    hasher.finish() % task.check.every.0.max(1)
}

async fn repeat(task: Arc<CheckTask>, desk: Arc<Desk>) {
    let mut wait = phase(&task);
    let mut line = None;
    loop {
        // On the heap while it runs: most checks wait most of the time.
        Box::pin(attempt(&task, &desk, &mut line)).await;
        sleep(Duration::from_millis(wait)).await;
        wait = task.check.every.0;
    }
}

/// One try, as soon as there is room for it.
async fn attempt(task: &CheckTask, desk: &Desk, line: &mut Option<KeptLine>) {
    let Ok(_room) = desk.room.acquire().await else { return };
    let began = Instant::now();
    let limit = Duration::from_millis(task.check.timeout.0);
    let stage = Stage::new("no connection");
    let outcome = match timeout(limit, check(task, &stage, line)).await {
        Ok(Ok(said)) => Ok(format!("{said} in {} ms", began.elapsed().as_millis())),
        Ok(Err(Trouble::Server(why))) => Err(why),
        Ok(Err(Trouble::Own(what))) => {
            if let Some(said) = desk.shortages.note(what, std::time::Instant::now()) {
                desk.log.line(&said);
            }
            return;
        }
        Err(_) => Err(format!("{} within {}", stage.get(), task.check.timeout)),
    };
    if let Some(kept) = line
        && kept.room.is_none()
    {
        kept.room = Arc::clone(&desk.kept).try_acquire_owned().ok();
        if kept.room.is_none() {
            *line = None;
        }
    }
    desk.core.offer(Event::Checked { server: task.subject(), outcome });
}

/// A line that stays open between tries, and its place among those.
#[derive(Default)]
struct KeptLine {
    line: udp::Line,
    room: Option<OwnedSemaphorePermit>,
}

/// What a server that wants to be told of clients is told of a check: there is none (PROXY
/// protocol, version 2, command LOCAL).
const LOCAL: [u8; 16] = *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

async fn check(
    task: &CheckTask,
    stage: &Stage,
    line: &mut Option<KeptLine>,
) -> Result<String, Trouble> {
    let said = asked(task, stage, line).await?;
    let keeps_vip = matches!(task.forward, Forward::Dr | Forward::Tunnel(_));
    if !task.check.forwarded || !keeps_vip {
        return Ok(said);
    }
    let (vip, server, forward) = (task.listen, task.addr.ip(), task.forward);
    // The caller that waits for the whole check hears why it failed.
    let patience = Duration::from_millis(task.check.timeout.0 / 2);
    let ask = move || forwarded(Question { vip, server, forward }, patience);
    let asked = tokio::task::spawn_blocking(ask).await;
    asked.map_err(|e| Trouble::Server(e.to_string()))?.map_err(|why| Trouble::of_text(&why))?;
    Ok(said)
}

/// Whether the server answers as the VIP to what comes as clients' packets do.
fn forwarded(question: Question, patience: Duration) -> Result<(), String> {
    let (vip, server) = (question.vip, question.server);
    let interfaces = address::interfaces().map_err(|e| e.to_string())?;
    if server.is_loopback()
        || interfaces.iter().any(|i| i.addresses.iter().any(|(own, _)| *own == server))
    {
        return Ok(());
    }
    let answers = probe::ask(&[question], patience).map_err(|e| e.to_string())?;
    match answers.into_iter().next() {
        Some(Ok(Some(Answer::Accepts))) => Ok(()),
        Some(Ok(Some(Answer::Refuses))) => Err(format!("has the VIP, but refuses {vip}")),
        Some(Ok(None)) | None => {
            Err(format!("does not answer as {vip} to forwarded packets: see nines doctor"))
        }
        Some(Err(why)) => Err(format!("cannot be reached as packets go: {why}")),
    }
}

/// The check as it is without that.
async fn asked(
    task: &CheckTask,
    stage: &Stage,
    line: &mut Option<KeptLine>,
) -> Result<String, Trouble> {
    match &task.check.kind {
        CheckKind::None => Ok("not checked".into()),
        CheckKind::Tcp => connect(task).await.map(|_| "connected".into()),
        CheckKind::Udp => {
            let kept = line.get_or_insert_default();
            kept.line.ask(task.addr, Duration::from_millis(task.check.timeout.0)).await
        }
        CheckKind::Http { tls, path, host, status, contains } => {
            let by_vip = host.is_none().then(|| vip_host(task, if *tls { 443 } else { 80 }));
            let host = host.as_deref().or(by_vip.as_deref()).unwrap_or_default();
            let contains = contains.as_deref();
            let question = http::Question { path, host, status: *status, contains };
            let stream = connect(task).await?;
            if !*tls {
                return Ok(http::ask(stream, &question, stage).await?);
            }
            stage.set("no TLS handshake");
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&UNVERIFIED));
            // A server with several sites picks one by this name (SNI, RFC 6066 section 3).
            let name = rustls_pki_types::ServerName::try_from(http::host_name(host).to_owned())
                .unwrap_or_else(|_| task.addr.ip().into());
            let stream = connector.connect(name, stream).await;
            let stream = stream.map_err(|e| format!("TLS failed: {e}"))?;
            Ok(http::ask(stream, &question, stage).await?)
        }
    }
}

/// TLS of checks; one, for its making costs more than a check.
static UNVERIFIED: LazyLock<Arc<rustls::ClientConfig>> =
    LazyLock::new(|| Arc::new(trust::unverified_client()));

/// The VIP as clients name it in a URL.
fn vip_host(task: &CheckTask, usual: u16) -> String {
    match task.listen {
        listen if listen.port() != usual => listen.to_string(),
        std::net::SocketAddr::V4(listen) => listen.ip().to_string(),
        std::net::SocketAddr::V6(listen) => format!("[{}]", listen.ip()),
    }
}

async fn connect(task: &CheckTask) -> Result<TcpStream, Trouble> {
    let cannot = |e: std::io::Error| Trouble::of(&e, || format!("cannot connect to {}", task.addr));
    let mut stream = TcpStream::connect(task.addr).await.map_err(cannot)?;
    if task.proxy {
        stream.write_all(&LOCAL).await.map_err(cannot)?;
    }
    Ok(stream)
}

#[cfg(test)]
mod tests;
