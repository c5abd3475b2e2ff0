//! The voter while it runs on this host: a witness whose log is on the disk.
//!
//! Decides: how the voter is told from an ordinary witness, and when a log is opened no more.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::SyncSender,
    },
};

use nines_api::{failure::Outcome, types::QuorumdCluster};
use nines_core::{
    Config,
    quorum_disk::{Ballot, HostNumber},
};
use nines_dataplane::process::boot_time;
use nines_model::Time;
use tokio::sync::watch;

use super::{
    News,
    device::Device,
    layout::{self, Header},
    log,
};
use crate::{
    daemon::node_config,
    descriptors::Shares,
    executors,
    identity::{Admission, Credentials, Peer, StateDir, copied_state},
    logger::Logger,
    quorumd::witness::{self, Seat},
    storage::floor::Floor,
    transport::peer_port::renewal,
};

/// The packet path that the voter tells the cluster.
const PATH: &str = "none (quorum disk)";

/// The voter on this host.
pub struct Voting {
    pub(super) header: Header,
    pub(super) logs: Arc<Device>,
    pub(super) until: Arc<AtomicU64>,
    pub(super) tells: SyncSender<News>,
    pub(super) note: Note,
    pub(super) log: Logger,
    pub(super) me: HostNumber,
    pub(super) from: Option<(HostNumber, Ballot)>,
    pub(super) claim: Ballot,
}

/// Says that the voter has ended, however it did.
struct Ends(SyncSender<News>);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.send(News::Ended);
    }
}

impl Voting {
    /// Copies the log and votes, until it is told to end.
    pub fn run(self, end: watch::Receiver<bool>) {
        let _ends = Ends(self.tells.clone());
        let log = self.log.clone();
        if let Err(why) = self.vote(end) {
            log.line(&why.to_string());
        }
    }

    fn vote(self, end: watch::Receiver<bool>) -> Outcome<()> {
        let to = (self.me, self.claim);
        let unreadable = self.note.is_noted();
        let (before, copier) = (Arc::new(std::panic::take_hook()), std::thread::current().id());
        let (note, usual) = (self.note.clone(), Arc::clone(&before));
        std::panic::set_hook(Box::new(move |what| {
            if std::thread::current().id() == copier {
                note.add();
            }
            usual(what);
        }));
        let taken = log::take_over(&self.logs, &self.header, self.from, to, unreadable);
        std::panic::set_hook(Box::new(move |what| before(what)));
        let (store, kept) = taken?;
        let _ = self.tells.send(News::Copied);
        let home = StateDir(self.note.folder.join("voter"));
        let credentials = Arc::new(own_credentials(&home, &layout::credentials(&self.logs)?)?);
        // The host that takes the voter over next must find what counts.
        let (logs, me) = (Arc::clone(&self.logs), self.me);
        layout::write_credentials(&logs, me, &credentials.given())?;
        credentials.keep_elsewhere(Box::new(move |now| layout::write_credentials(&logs, me, now)));
        renewal::at_start(&credentials, &home, &self.log)?;
        let me = &credentials.identity.me;
        let host = u64::from(self.me.0) + 1;
        let config = node_config(&home, &credentials);
        // A boot clock of another host means nothing here, and the disk is at no place.
        let machine_boot = copied_state::machine_boot() ^ host.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let seat = Seat {
            config: Config { machine_boot, place: 0, ..config },
            bound: Peer { addresses: vec![self.header.address(self.me)], ..me.clone() },
            path: PATH,
            log: (executors::Disk { store, floor: Floor::none(), full: false }, kept),
            first: Box::new(|| Ok(())),
            room: Box::new(|| ()),
            until: Some(Arc::clone(&self.until)),
            credentials: Arc::clone(&credentials),
            home,
        };
        let until = Arc::clone(&self.until);
        let show = move |seen: QuorumdCluster| show(&seen, &until);
        witness::sit(seat, end, &show, Shares::of_this_process(), &self.log)
    }
}

/// The voter's credentials on this host: those on the disk, with what was renewed here since.
fn own_credentials(home: &StateDir, given: &Admission) -> Outcome<Credentials> {
    let theirs = given.authorities();
    let same = |own: &Credentials| {
        let ours = &own.keys().authorities;
        let known = theirs.believed().any(|one| ours.believed().any(|other| one == other));
        own.identity.me.id == given.identity.me.id && known && ours.order >= theirs.order
    };
    match home.is_member().then(|| home.credentials()) {
        Some(Ok(own)) if same(&own) => Ok(own),
        _ => {
            home.keep(&Credentials::of(given.clone(), None)?)?;
            home.credentials()
        }
    }
}

/// What `systemctl status` shows while the voter runs here.
fn show(seen: &QuorumdCluster, until: &AtomicU64) {
    let speaks = boot_time() < Time(until.load(Ordering::Acquire));
    let state = if speaks { seen.state.to_string() } else { "silent".to_owned() };
    let mut line = format!(
        "votes as {} in cluster {}: {state}, {} of {} votes heard",
        seen.node, seen.cluster, seen.heard, seen.voters
    );
    if !seen.text.is_empty() {
        line.push_str(&format!("; {}", seen.text));
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(&line)]);
}

/// Notes that the library stopped at a log: after three times it is not opened any more. Once may
/// have been a former owner that still wrote.
#[derive(Clone)]
pub struct Note {
    folder: PathBuf,
    of: String,
}

impl Note {
    /// Of the log that this host under this claim made the newest.
    pub fn of(folder: &Path, header: &Header, from: Option<(HostNumber, Ballot)>) -> Self {
        let (host, owned) = from.unwrap_or_default();
        let of = format!("{:016x} {} {} {}", header.disk, host.0, owned.epoch, owned.host.0);
        Self { folder: folder.to_owned(), of }
    }

    fn file(&self) -> PathBuf {
        self.folder.join("unreadable")
    }

    fn add(&self) {
        let before = std::fs::read_to_string(self.file()).unwrap_or_default();
        let same: Vec<&str> = before.lines().filter(|line| *line == self.of).collect();
        let text = format!("{}\n{}\n", same.join("\n"), self.of);
        let _ = std::fs::create_dir_all(&self.folder);
        let _ = std::fs::write(self.file(), text.trim_start());
    }

    fn is_noted(&self) -> bool {
        let noted = std::fs::read_to_string(self.file()).unwrap_or_default();
        noted.lines().filter(|line| *line == self.of).count() >= 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quorum_disk::layout::tests::formatted;

    #[test]
    fn a_log_is_opened_three_times_and_no_more() {
        let folder = std::env::temp_dir().join(format!("nines-note-{}", std::process::id()));
        let (path, header) = formatted("note");
        let owned = |epoch| Some((HostNumber(1), Ballot { epoch, host: HostNumber(1) }));
        let note = Note::of(&folder, &header, owned(4));
        let noted = |times| {
            (0..times).for_each(|_| note.add());
            note.is_noted()
        };
        assert!(!noted(0) && !noted(2) && noted(1));
        assert!(!Note::of(&folder, &header, owned(5)).is_noted(), "another log");
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
