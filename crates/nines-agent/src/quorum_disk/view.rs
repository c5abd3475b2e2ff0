//! What is on a quorum disk, for people.
//!
//! Decides: nothing. It reads, and writes nothing.

use std::{net::IpAddr, path::Path, time::Duration};

use nines_api::failure::Outcome;
use nines_core::quorum_disk::{Ballot, Seen, newest};

use super::{
    device::{Device, Use},
    layout,
};

/// Between two looks a host that claims the disk has written its block.
const LOOK_AGAIN: Duration = Duration::from_millis(1_300);

/// A quorum disk.
#[derive(Clone, Debug)]
pub struct DiskView {
    /// Name of its cluster.
    pub cluster: String,
    /// Name of its voter.
    pub node: String,
    /// Port of the voter.
    pub port: u16,
    /// Room for the log of each host, in bytes.
    pub area: u64,
    /// Its hosts, in their order.
    pub hosts: Vec<HostView>,
}

/// A host of it.
#[derive(Clone, Debug)]
pub struct HostView {
    /// Its address.
    pub address: IpAddr,
    /// What it does.
    pub state: HostState,
    /// Number of its claim; 0: it has none.
    pub claim: u64,
    /// Its log is the newest.
    pub newest_log: bool,
    /// How often it has written its block.
    pub writes: u64,
    /// Since it wrote last, by the wall clocks of both machines, ms; `None`: it never did.
    pub age_ms: Option<u64>,
}

/// What a host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostState {
    /// It runs the voter, and has renewed its claim while this was looked at.
    Owner,
    /// Its claim has not changed while this was looked at.
    Silent,
    /// It has no claim: it waits, or runs no process.
    None,
    /// Its block cannot be read.
    Damaged,
}

impl HostState {
    /// The word for it, which never changes.
    pub fn code(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Silent => "silent",
            Self::None => "-",
            Self::Damaged => "damaged",
        }
    }
}

/// Looks at a disk, twice.
pub fn look(path: &Path) -> Outcome<DiskView> {
    let device = Device::open(path, Use::Read)?;
    let header = layout::header(&device)?;
    let before = layout::blocks(&device, &header)?;
    std::thread::sleep(LOOK_AGAIN);
    let after = layout::blocks(&device, &header)?;
    let written = layout::written(&device, &header)?;
    let log = newest(&after);
    let mut hosts = Vec::new();
    for (host, address) in header.numbered() {
        let place = host.place();
        let (state, claim, writes) = match after[place] {
            Seen::Damaged => (HostState::Damaged, 0, 0),
            Seen::Block(b) if b.claim == Ballot::NONE => (HostState::None, 0, b.sequence),
            Seen::Block(b) if before[place] == after[place] => {
                (HostState::Silent, b.claim.epoch, b.sequence)
            }
            Seen::Block(b) => (HostState::Owner, b.claim.epoch, b.sequence),
        };
        let now = layout::wall_ms();
        let age_ms = written[place].map(|at| now.saturating_sub(at));
        let newest_log = log == Some(host);
        hosts.push(HostView { address, state, claim, newest_log, writes, age_ms });
    }
    let layout::Header { cluster, node, port, area, .. } = header;
    Ok(DiskView { cluster, node, port, area, hosts })
}

#[cfg(test)]
mod tests {
    use nines_core::quorum_disk::{Block, HostNumber};

    use super::*;
    use crate::quorum_disk::layout::{tests::formatted, write_block};

    #[test]
    fn it_says_who_owns_and_whose_log_is_the_newest() {
        let (path, header) = formatted("view");
        let claim = Ballot { epoch: 3, host: HostNumber(1) };
        let block = Block { run: 3, sequence: 8, claim, owned: claim };
        let device = Device::open(&path, Use::Blocks).unwrap();
        write_block(&device, header.disk, HostNumber(1), &block).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let seen = look(&path).unwrap();
        assert_eq!((seen.cluster.as_str(), seen.node.as_str(), seen.port), ("t", "qd", 9118));
        let [a, b] = seen.hosts.as_slice() else { panic!("two hosts") };
        assert_eq!((a.state, a.writes, a.age_ms, a.newest_log), (HostState::None, 0, None, false));
        assert_eq!((b.state, b.claim, b.writes, b.newest_log), (HostState::Silent, 3, 8, true));
        assert!(b.age_ms.is_some());
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing was written");
        std::fs::remove_file(&path).unwrap();
    }
}
