//! What an invariant sees: plain facts about one instant, taken from the world.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// What a disk has of its node's term, vote and commit index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Newest term.
    pub term: u64,
    /// The node that it voted for in that term; 0: none.
    pub vote: u64,
    /// Index known to be committed.
    pub commit: u64,
    /// Another disk, or an older copy of it, has another number.
    pub disk: u64,
}

/// One node at one instant.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Believes to lead, in this term.
    pub leads: Option<u64>,
    /// Its term; 0: down.
    pub term: u64,
    /// Term and receiver of the last vote that has left it.
    pub told_vote: Option<(u64, u64)>,
    /// What is durable of its term, vote and commit index.
    pub kept: Kept,
    /// Index it knows committed, with the term of that entry as in its log.
    pub committed: u64,
    /// Index applied, and hash of the state then; `None`: down.
    pub applied: Option<(u64, u64)>,
    /// What is durable: term of each entry by index.
    pub durable: Arc<BTreeMap<u64, u64>>,
    /// Index up to which the durable snapshot stands in for entries.
    pub durable_snapshot: u64,
    /// A witness by the config at the beginning.
    pub witness: bool,
    /// VIPs its kernel answers for now, with the token its process last acted on.
    pub answers: BTreeMap<IpAddr, u64>,
    /// By its applied state: the entry each VIP stands at, and the node that holds it; for a VIP
    /// that nobody holds, the applied index.
    pub holdings: Arc<BTreeMap<IpAddr, (u64, Option<u64>)>>,
    /// By its applied state: nodes that a device has switched off, each with the incarnation.
    pub off: Arc<BTreeSet<(u64, u64)>>,
    /// Hears no other node.
    pub hears_nobody: bool,
    /// For how long, ns of true time, it has not run or has heard too few others for a majority.
    pub alone_ns: u64,
    /// It says that nothing on its machine is under a lease: its watchdog is fed without an end.
    pub holds_nothing: bool,
    /// For how long, ns of true time, it has run and heard too few others for a majority.
    pub deaf_ns: u64,
}

/// The whole world at one instant.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// True time, ns.
    pub now: u64,
    /// Facts of each node by its number.
    pub nodes: BTreeMap<u64, NodeFacts>,
    /// Lease in force, ns.
    pub lease_ns: u64,
    /// Voters by the log index of the change that made them so, as far as any node knows; empty:
    /// all nodes.
    pub voters: Arc<BTreeMap<u64, BTreeSet<u64>>>,
    /// Election timeout in force, ns.
    pub election_ns: u64,
    /// The longest that anybody may have promised, ns.
    pub longest_promise_ns: u64,
    /// Nodes that a fence device has switched off, and that are off or have not got what was
    /// decided without them.
    pub switched_off: BTreeSet<u64>,
    /// By node the last incarnation that was over when a device had switched it off.
    pub over: BTreeMap<u64, u64>,
    /// A device has said that it switched a machine off, and has not.
    pub device_has_lied: bool,
    /// VIPs that a copy of one of the machines answers for.
    pub copy_answers: BTreeMap<IpAddr, u64>,
}

/// Changes of who votes that may be under way at once, with the voters before and after.
const VOTERS_AT_ONCE: usize = 3;

impl Observation {
    /// Whether a majority has the entry at `index` on disk (as entry or inside a snapshot): of the
    /// newest voters that any node knows of, or of those before them.
    pub fn on_majority(&self, index: u64) -> bool {
        if self.voters.is_empty() {
            return self.on_majority_of(index, |_| true);
        }
        let mut newest = self.voters.values().rev().take(VOTERS_AT_ONCE);
        newest.any(|voters| self.on_majority_of(index, |id| voters.contains(id)))
    }

    fn on_majority_of(&self, index: u64, votes: impl Fn(&u64) -> bool) -> bool {
        let mut by_term: BTreeMap<u64, usize> = BTreeMap::new();
        let mut inside = 0;
        let mut all = 0;
        let mut off = 0;
        for (id, node) in self.nodes.iter().filter(|(id, _)| votes(id)) {
            all += 1;
            off += usize::from(self.switched_off.contains(id));
            if node.durable_snapshot >= index {
                inside += 1;
            } else if let Some(term) = node.durable.get(&index) {
                *by_term.entry(*term).or_default() += 1;
            }
        }
        let most = by_term.values().max().copied().unwrap_or(0);
        // Of two voters the one goes on alone when the other is off.
        let alone = all == 2 && off > 0 && most + inside == 1;
        alone || (most + inside) * 2 > all
    }
}
