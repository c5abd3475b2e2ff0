//! One machine: its kernel, its disk, its clock, and the process of a node that runs on it.
//!
//! Decides nothing; the world changes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use nines_core::{Event, Node, wire::Persisted};
use nines_model::Time;

use super::{disk, judge, seen};
use crate::random::Random;

/// What the simulated kernel holds; it outlives the process, not the power.
#[derive(Clone, Debug, Default)]
pub(super) struct Kernel {
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) guards: BTreeMap<IpAddr, Time>,
    /// Whose deadlines are renewed together.
    pub(super) follow: BTreeSet<IpAddr>,
    pub(super) tokens: BTreeMap<IpAddr, u64>,
}

pub(super) struct Machine {
    /// The node that runs here; a copy of a machine has the id of the original.
    pub(super) identity: u64,
    /// Which disk it is.
    pub(super) place: u64,
    pub(super) node: Option<Node>,
    pub(super) kernel: Kernel,
    pub(super) disk: disk::Kept,
    pub(super) incarnation: u64,
    /// Number of the incarnation that runs, or ran last.
    pub(super) boot: u64,
    /// Counts boots of the machine.
    pub(super) power: u64,
    pub(super) paused_until: u64,
    /// When the machine booted.
    pub(super) booted: u64,
    /// Clock: local = offset + (true - booted) * rate / 1e6.
    pub(super) offset: u64,
    pub(super) rate_ppm: u64,
    pub(super) backlog: Vec<Event>,
    /// Since when it cannot have renewed a lease.
    pub(super) alone_since: Option<u64>,
    /// It does not run.
    pub(super) stopped: bool,
    /// When it ceased to run last.
    pub(super) stopped_at: u64,
    pub(super) deaf_since: Option<u64>,
    pub(super) sent: seen::Sent,
    pub(super) wake: u64,
    pub(super) state_seen: judge::StateSeen,
    pub(super) replaced_in_place: bool,
}

impl Machine {
    /// Since when it runs without a break, or ran.
    pub(super) fn runs_since(&self) -> u64 {
        self.sent.started.max(self.paused_until)
    }

    pub(super) fn new(random: &mut Random, id: u64, disk: Persisted) -> Self {
        Self {
            identity: id,
            place: id,
            node: None,
            kernel: Kernel::default(),
            disk: disk::Kept::new(disk),
            incarnation: 0,
            boot: 0,
            power: 1,
            paused_until: 0,
            booted: 0,
            offset: 1_000_000_000 + random.below(1 << 40),
            rate_ppm: 998_000 + random.below(4_001),
            backlog: Vec::new(),
            alone_since: None,
            stopped: true,
            stopped_at: 0,
            deaf_since: None,
            sent: seen::Sent::default(),
            wake: u64::MAX,
            state_seen: judge::StateSeen::default(),
            replaced_in_place: false,
        }
    }
}
