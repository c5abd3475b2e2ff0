//! quorum disk: a shared disk as the witness of a cluster. Each of its hosts runs this process; the
//! one that holds the disk's lease runs the voter.
//!
//! ```text
//! disk-lease   writes and reads blocks as nines_core::quorum_disk says, moves the deadline
//! disk-voter   copies the log, then votes as any witness does, and speaks before the deadline only
//! main         signals, systemd
//! ```
//!
//! Decides: which host this is, and how the voter starts and ends. Two processes of one host never
//! run: each listens on an abstract socket of a name that only one can have.

use std::{
    net::IpAddr,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use nines_api::failure::{Failure, Kind, Outcome};
use nines_core::quorum_disk::{Ballot, HostNumber, Lease, Seen, Step, Timing, Why};
use nines_dataplane::{address, process::boot_time};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
};

use self::{
    device::{Device, Use},
    layout::Header,
    voter::{Note, Voting},
};
use crate::{
    convert::kernel_failure,
    identity::{self, StateDir, authorities::Authorities},
    logger::Logger,
    start::cannot_start,
    threads,
};

mod device;
pub mod init;
mod layout;
mod log;
pub mod view;
mod voter;

/// Port of the voter unless chosen otherwise, on whichever host runs it.
pub const PORT: u16 = 9118;
/// A stop waits so long for the voter and its claim to end.
const STOP: Duration = Duration::from_secs(8);

/// How the process was started.
#[derive(Clone, Debug)]
pub struct QuorumDiskOptions {
    /// The shared device.
    pub device: PathBuf,
    /// Where it notes which logs cannot be read.
    pub notes: PathBuf,
    /// State directory of this machine's agent.
    pub agent: PathBuf,
}

/// What the thread of the lease hears.
enum News {
    /// The log is in this host's area.
    Copied,
    /// The voter has ended.
    Ended,
    /// The process is to stop.
    Stop,
}

/// Which of a disk's hosts this machine is.
fn this_host(header: &Header) -> Outcome<HostNumber> {
    let all = address::interfaces().map_err(kernel_failure)?;
    let own: Vec<IpAddr> = all.iter().flat_map(|i| i.addresses.iter().map(|(a, _)| *a)).collect();
    let mine: Vec<HostNumber> =
        header.numbered().filter(|(_, at)| own.contains(at)).map(|(host, _)| host).collect();
    let hosts: Vec<String> = header.hosts.iter().map(ToString::to_string).collect();
    match mine.as_slice() {
        [one] => Ok(*one),
        [] => {
            let what = "this machine is no host of the disk";
            let why = format!("it has none of the addresses {}", hosts.join(", "));
            Err(Failure::new(Kind::Usage, what, why).next("nines quorum-disk show DEVICE"))
        }
        _ => {
            let what = "this machine has the addresses of several hosts of the disk";
            Err(Failure::new(Kind::Unsafe, what, hosts.join(", "))
                .next("give each host an address of its own: nines quorum-disk init ... --at"))
        }
    }
}

/// Refuses a disk of another cluster than this machine's, as far as its agent's files may be read.
/// `voter`: the authorities that its voter believes, which may have been rotated since.
fn of_this_cluster(
    (disk, voter): (&Header, &Authorities),
    path: &Path,
    agent: &StateDir,
) -> Outcome<()> {
    let (Ok(ours), Ok(mine)) = (agent.authorities(), agent.identity()) else {
        return Ok(());
    };
    let mut ours = ours.believed();
    if ours.any(|pem| {
        Header::authority_of(pem) == disk.authority || voter.believed().any(|v| v == pem)
    }) {
        return Ok(());
    }
    let what = format!("{} is the quorum disk of another cluster", path.display());
    let why = format!("of {}, and this machine is in cluster {}", disk.cluster, mine.cluster);
    Err(Failure::new(Kind::Unsafe, what, why)
        .next("see whether it is the right device: nines quorum-disk show DEVICE"))
}

/// Holds the name that one process of a host has: the kernel takes it back when that ends.
fn alone(header: &Header, host: HostNumber) -> Outcome<UnixListener> {
    let name = format!("nines-quorum-disk-{:016x}-{}", header.disk, host.0);
    let at = SocketAddr::from_abstract_name(name.as_bytes()).map_err(cannot_start)?;
    UnixListener::bind_addr(&at).map_err(|e| {
        Failure::new(Kind::Unsafe, "another process of this host uses the disk", e)
            .next("systemctl status nines-quorum-disk")
    })
}

/// Runs until stopped.
pub fn run(options: &QuorumDiskOptions) -> Outcome<()> {
    let log = Logger::stderr();
    let blocks = Device::open(&options.device, Use::Blocks)?;
    let header = layout::header(&blocks)?;
    let voter = layout::credentials(&blocks)?.authorities();
    of_this_cluster((&header, &voter), &options.device, &StateDir(options.agent.clone()))?;
    let me = this_host(&header)?;
    let _alone = alone(&header, me)?;
    if !blocks.direct {
        log.line("no direct I/O here: other machines do not see what this one writes; for tests");
    }
    let logs = Arc::new(Device::open(&options.device, Use::Log)?);
    let (heard, news) = sync_channel(threads::QUORUM_DISK);
    let keeper = Keeper {
        lease: Lease::new(me, header.hosts.len() as u8, 1 + (random() >> 1), Timing::USUAL),
        seen: Vec::new(),
        until: Arc::new(AtomicU64::new(0)),
        voter: None,
        tells: heard.clone(),
        said: String::new(),
        notes: options.notes.clone(),
        log: log.clone(),
        header,
        blocks,
        logs,
        me,
    };
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().map_err(cannot_start)?;
    runtime.block_on(until_the_end(keeper, heard, news))
}

fn random() -> u64 {
    u64::from_le_bytes(identity::random::<8>())
}

/// The main task: signals, and systemd's watchdog.
async fn until_the_end(
    keeper: Keeper,
    tell: SyncSender<News>,
    news: Receiver<News>,
) -> Outcome<()> {
    let listen = |kind| signal(kind).map_err(cannot_start);
    let mut term = listen(SignalKind::terminate())?;
    let mut int = listen(SignalKind::interrupt())?;
    let (Header { cluster, node, .. }, log) = (keeper.header.clone(), keeper.log.clone());
    let (me, path) = (keeper.header.address(keeper.me), keeper.blocks.path().to_owned());
    log.line(&format!(
        "nines quorum-disk {} is host {me} of {}, the voter {node} of cluster {cluster}",
        env!("CARGO_PKG_VERSION"),
        path.display()
    ));
    let (ends, mut ended) = oneshot::channel();
    threads::spawn("disk-lease", move || {
        let _ = ends.send(keeper.keep(&news));
    })?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut alive = tokio::time::interval(Duration::from_secs(1));
    let mut stop_at: Option<tokio::time::Instant> = None;
    loop {
        let stopped = tokio::select! {
            end = &mut ended => return end.unwrap_or(Ok(())),
            _ = term.recv() => true,
            _ = int.recv() => true,
            _ = alive.tick() => false,
        };
        let now = tokio::time::Instant::now();
        if stopped && stop_at.is_none() {
            stop_at = Some(now + STOP);
            let _ = tell.try_send(News::Stop);
        }
        if stop_at.is_some_and(|at| at <= now) {
            log.line("the disk does not answer; stopping anyway: its claim ends by itself");
            return Ok(());
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
    }
}

/// Keeps the lease. It alone writes this host's blocks.
struct Keeper {
    lease: Lease,
    /// All blocks, as they were read last.
    seen: Vec<Seen>,
    /// The voter may speak until then.
    until: Arc<AtomicU64>,
    /// Ends the voter, if there is one.
    voter: Option<watch::Sender<bool>>,
    tells: SyncSender<News>,
    /// What was said last, so that it is said once.
    said: String,
    notes: PathBuf,
    log: Logger,
    header: Header,
    blocks: Device,
    logs: Arc<Device>,
    me: HostNumber,
}

impl Keeper {
    /// Keeps it until it is told to stop, or may not go on.
    fn keep(mut self, news: &Receiver<News>) -> Outcome<()> {
        loop {
            while let Ok(one) = news.try_recv() {
                self.hear(&one);
            }
            let now = boot_time();
            let step = self.lease.step(now);
            self.publish();
            match step {
                Step::Wait(until) => {
                    let long = Duration::from_nanos(until.since(now).max(1_000_000));
                    if let Ok(one) = news.recv_timeout(long) {
                        self.hear(&one);
                    }
                }
                Step::Write(block) => {
                    let done = layout::write_block(&self.blocks, self.header.disk, self.me, &block);
                    match done {
                        Ok(()) => self.lease.wrote(now, boot_time(), block),
                        Err(e) => self.fails(&layout::failed(&self.blocks, "write", e)),
                    }
                }
                Step::Read => match layout::blocks(&self.blocks, &self.header) {
                    Ok(seen) => {
                        self.lease.read(now, boot_time(), &seen, random());
                        self.publish();
                        self.seen = seen;
                        self.tell();
                    }
                    Err(why) if why.kind == Kind::Unsafe => return self.gives_up(news, why),
                    Err(why) => self.fails(&why),
                },
                Step::Start { from, claim } => self.start(from, claim)?,
                Step::End(why) => {
                    self.say(&format!("the voter ends here: {}", self.text(why)));
                    match &self.voter {
                        Some(end) => drop(end.send(true)),
                        None => self.lease.voter_ended(now),
                    }
                }
                Step::Stopped(Why::Twice) => {
                    return Err(Failure::new(
                        Kind::Unsafe,
                        "another machine writes the block of this host",
                        format!("two machines have the address {}", self.header.address(self.me)),
                    )
                    .next("give each host an address of its own"));
                }
                Step::Stopped(_) => return Ok(()),
            }
        }
    }

    fn hear(&mut self, news: &News) {
        match news {
            News::Copied => self.lease.copied(boot_time()),
            News::Ended => {
                self.voter = None;
                self.lease.voter_ended(boot_time());
            }
            News::Stop => self.lease.stop(),
        }
        self.publish();
    }

    /// The voter goes by this from now on.
    fn publish(&self) {
        self.until.store(self.lease.speaks_until().0, Ordering::Release);
    }

    /// The disk is another one by now: the voter ends, and nothing more is written.
    fn gives_up(self, news: &Receiver<News>, why: Failure) -> Outcome<()> {
        self.until.store(0, Ordering::Release);
        if let Some(end) = &self.voter {
            let _ = end.send(true);
            while !matches!(news.recv(), Ok(News::Ended) | Err(_)) {}
        }
        Err(why)
    }

    fn fails(&mut self, why: &Failure) {
        self.lease.failed(boot_time());
        self.publish();
        self.say(&why.to_string());
    }

    /// Says a line once, to the journal and to `systemctl status`.
    fn say(&mut self, line: &str) {
        if self.said != line {
            line.clone_into(&mut self.said);
            self.log.line(line);
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(line)]);
        }
    }

    fn text(&self, why: Why) -> String {
        match why {
            Why::Asked => "it was asked to".into(),
            Why::Late => "the disk did not answer in time, or this host stood still".into(),
            Why::Outbid(host) => format!("host {} has taken over", self.header.address(host)),
            Why::Twice => "another process writes the block of this host".into(),
        }
    }

    /// Says who owns the disk, as the newest blocks show it.
    fn tell(&mut self) {
        if self.lease.holds() {
            return;
        }
        let block = |seen: &Seen| match seen {
            Seen::Block(block) => Some(*block),
            Seen::Damaged => None,
        };
        let damaged = self.seen.iter().position(|seen| *seen == Seen::Damaged);
        let claims = self.header.numbered().zip(&self.seen);
        let claims = claims.filter_map(|((_, at), seen)| Some((block(seen)?.claim, at)));
        let owner = claims.filter(|(claim, _)| *claim != Ballot::NONE).max();
        let line = match (damaged, owner) {
            (Some(host), _) => format!(
                "the block of host {} cannot be read: no host takes the disk; if it stays so: \
                 nines quorum-disk init ... --force",
                self.header.hosts[host]
            ),
            (None, Some((_, at))) => format!("host {at} owns the disk; this host waits"),
            (None, None) => "nobody owns the disk".to_owned(),
        };
        self.say(&line);
    }

    /// Starts the thread that copies the log and then votes.
    fn start(&mut self, from: Option<HostNumber>, claim: Ballot) -> Outcome<()> {
        let owned = |host: HostNumber| match self.seen.get(host.place()) {
            Some(Seen::Block(block)) => block.owned,
            _ => Ballot::NONE,
        };
        let from = from.map(|host| (host, owned(host)));
        let (end, ends) = watch::channel(false);
        let work = Voting {
            header: self.header.clone(),
            logs: Arc::clone(&self.logs),
            until: Arc::clone(&self.until),
            tells: self.tells.clone(),
            note: Note::of(&self.notes, &self.header, from),
            log: self.log.clone(),
            me: self.me,
            from,
            claim,
        };
        self.voter = Some(end);
        let line = match from {
            Some((host, _)) => {
                format!("this host takes the disk over from {}", self.header.address(host))
            }
            None => "this host takes the disk, which was nobody's".to_owned(),
        };
        self.say(&line);
        threads::spawn("disk-voter", move || work.run(ends)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quorum_disk::layout::tests::formatted;

    #[test]
    fn a_disk_of_another_cluster_is_refused() {
        let folder = std::env::temp_dir().join(format!("nines-qdisk-of-{}", std::process::id()));
        let agent = StateDir(folder.clone());
        let (path, header) = formatted("cluster");
        let voter = layout::tests::some_credentials();
        let check =
            |header: &Header| of_this_cluster((header, &voter.keys().authorities), &path, &agent);
        assert!(check(&header).is_ok(), "this machine is in no cluster");
        let credentials = layout::tests::some_credentials();
        agent.keep(&credentials).unwrap();
        let why = check(&header).unwrap_err();
        assert!(why.what.contains("of another cluster") && why.kind == Kind::Unsafe, "{why}");
        let authority = Header::authority_of(credentials.keys().ca_pem());
        assert!(check(&Header { authority, ..header.clone() }).is_ok());
        // The authority was rotated since the disk was made.
        agent.keep(&voter).unwrap();
        assert!(check(&header).is_ok());
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn one_process_of_a_host_uses_the_disk() {
        let (path, header) = formatted("alone");
        let host = HostNumber(0);
        let first = alone(&header, host).unwrap();
        assert_eq!(alone(&header, host).unwrap_err().kind, Kind::Unsafe);
        assert!(alone(&header, HostNumber(1)).is_ok());
        drop(first);
        assert!(alone(&header, host).is_ok());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_machine_is_the_host_whose_address_it_has() {
        let (path, header) = formatted("host");
        let with = |hosts: &[&str]| {
            let hosts = hosts.iter().map(|at| at.parse().unwrap()).collect();
            this_host(&Header { hosts, ..header.clone() })
        };
        assert_eq!(with(&["203.0.113.77", "127.0.0.1"]).unwrap(), HostNumber(1));
        assert_eq!(with(&["203.0.113.77", "203.0.113.78"]).unwrap_err().kind, Kind::Usage);
        assert_eq!(with(&["127.0.0.1", "127.0.0.1"]).unwrap_err().kind, Kind::Unsafe);
        std::fs::remove_file(&path).unwrap();
    }
}
