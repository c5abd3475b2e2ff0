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
    /// Term and index of the last entry, or of the state if there is none after it.
    pub end: (u64, u64),
    /// Another disk, or an older copy of it, has another number.
    pub disk: u64,
}

/// An entry that ends somebody's answering for a VIP once a majority has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The VIP.
    pub vip: IpAddr,
    /// Lowest and highest token by which nobody answers any more.
    pub tokens: (u64, u64),
    /// The node that goes on all the same: the VIP is given to it.
    pub to: Option<u64>,
}

/// An entry with an order of the leader that wrote it: who gets a VIP, or who is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steered {
    /// Raft term of the leader.
    pub term: u64,
    /// Log index of the entry.
    pub index: u64,
    /// When its disk was asked to keep it, ns.
    pub at: u64,
    /// The leader had applied an entry of its own term by then.
    pub knows_all: bool,
}

/// An order to switch a node off, as the node knows it that asks the devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Log index of the order.
    pub index: u64,
    /// The incarnation that is meant.
    pub incarnation: u64,
    /// The node that speaks to the devices, and its incarnation.
    pub by: u64,
    /// Its incarnation.
    pub by_incarnation: u64,
}

/// A node has asked a device to switch a machine off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffCall {
    /// When, ns.
    pub at: u64,
    /// The node that has asked.
    pub by: u64,
    /// Its incarnation.
    pub by_incarnation: u64,
    /// The machine.
    pub target: u64,
    /// Incarnation of the node that ran there then, or had run there last.
    pub target_incarnation: u64,
    /// The order in the log; `None`: of two voters one has lost the other.
    pub order: Option<Order>,
    /// Incarnation of the target that was off, by the state of the node that has asked.
    pub off: Option<u64>,
    /// For how long the asking node had been able to hear the target then, ns.
    pub heard_ns: u64,
    /// The asking node had heard a majority since its machine booted.
    pub by_heard_majority: bool,
    /// How many vote by the asking node's log.
    pub voters: usize,
    /// When the machine was switched off by it, ns; `true`: in time to be told.
    pub took_effect: Option<(u64, bool)>,
}

/// A copy of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyFacts {
    /// The node whose machine was copied.
    pub of: u64,
    /// Term and receiver of the last vote that has left the copy.
    pub told_vote: Option<(u64, u64)>,
}

/// How a node that runs is by its own word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The node that leads, as far as it knows.
    pub follows: Option<u64>,
    /// A member by the newest state of all.
    pub member: bool,
    /// Why it takes no part.
    pub out: Option<String>,
    /// It hears two agents that run as one node, or has a moment ago.
    pub doubts: bool,
    /// It says that its disk is full.
    pub says_full: bool,
    /// Nodes that are to be switched off by its state, of which it neither orders that nor says why
    /// not.
    pub unfenced: Vec<u64>,
    /// VIPs of the world that its config does not have.
    pub without: BTreeSet<IpAddr>,
    /// What it says of what does not work: of a VIP, or of all of them.
    pub why: Vec<(Option<IpAddr>, String)>,
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
    /// Term of the leader, and index, of the last entry that it has said to have on disk.
    pub told_ack: Option<(u64, u64)>,
    /// The last order that it has asked its disk to keep, as the leader of its term.
    pub steered: Option<Steered>,
    /// A write has failed since the process started.
    pub write_failed: bool,
    /// What needs a disk and has left it since.
    pub told_after: Option<&'static str>,
    /// Nodes that vote, by its own log; empty: down.
    pub voters: Arc<BTreeSet<u64>>,
    /// What its entries on disk end, by index.
    pub ends: Arc<BTreeMap<u64, Vec<End>>>,
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
    /// By its applied state: nodes that are off by a person's word, each with the incarnation.
    pub confirmed: Arc<BTreeSet<(u64, u64)>>,
    /// Of those, each that it can hear, and for how long it could, ns.
    pub hears_confirmed: BTreeMap<u64, u64>,
    /// An entry that it has applied, and that its build takes for another one.
    pub misread: Option<u64>,
    /// How it is by its own word, for goals only; `None`: it does not run.
    pub health: Option<Health>,
    /// Hears no other node.
    pub hears_nobody: bool,
    /// For how long, ns of true time, it has sent nothing that a majority can have answered.
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
    /// For how long nothing has failed any more, for goals only, ns; `None`: something may.
    pub healing_ns: Option<u64>,
    /// How long ago something last failed or was mended, for goals only, ns.
    pub quiet_ns: u64,
    /// Calls of devices that ask to switch a machine off, so far.
    pub off_calls: Arc<Vec<OffCall>>,
    /// Somebody has asked for a lease that is longer than usual, which may still run.
    pub long_lease: bool,
    /// Nothing happens but that nodes are upgraded.
    pub upgrades: bool,
    /// The only machine that faults happen to, if the scenario says so.
    pub victim: Option<u64>,
    /// Why the state of a node has followed a frame of somebody who is no member.
    pub forged: Option<String>,
    /// The copy of one of the machines.
    pub copy: Option<CopyFacts>,
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
