//! A node that starts from what its disk kept.
//!
//! Decides: what of the disk is believed. A node never guesses: one that cannot read its own state
//! votes no more.

use nines_model::{Incarnation, Millis, NodeId, NodeName, Time};

use super::{
    Node, alone, checks, clock, desired_state, event_log, failover, fencing, fitness, heartbeat,
};
use super::{incarnation, joining, leaving, log, lost_log, operations, probe, proposals, rebuild};
use super::{relay, removal, vips};
use crate::{
    action::Refusal,
    membership::Membership,
    snapshot,
    state::State,
    voter::{self, Voter},
    wire::Persisted,
};

/// Who this node is.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its number.
    pub id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Unlike any number of an earlier incarnation: command numbers start here.
    pub boot: Incarnation,
    /// Which boot of the machine this is: a boot clock means nothing in another.
    pub machine_boot: u64,
    /// Number of the machine and of the file that holds the log: a copy has another; 0: not known.
    pub place: u64,
    /// Members known from joining: spoken to until the log names them.
    pub seeds: Vec<NodeId>,
}

impl Config {
    fn identity(&self) -> voter::Identity {
        voter::Identity {
            id: self.id,
            name: self.name.clone(),
            incarnation: self.boot,
            machine_boot: self.machine_boot,
            place: self.place,
        }
    }
}

/// What the disk says, as far as it can be believed, and why this node must not vote, if so.
fn believed<'a>(
    kept: &'a Persisted,
    empty: &'a Persisted,
) -> (&'a Persisted, State, Option<String>) {
    let decoded = snapshot::decode(&kept.snapshot.data);
    // Never guess: a voter with an empty state would renew anybody's lease (S27).
    let mut broken = match &decoded {
        Some(_) => None,
        None => Some("a snapshot that this version cannot read".to_owned()),
    };
    if !kept.retired.is_empty() {
        broken = Some(kept.retired.clone());
    }
    let kept = match Voter::sound(kept) {
        Ok(()) => kept,
        Err(why) => {
            broken = Some(format!("the log on disk is damaged: {why}"));
            empty
        }
    };
    (kept, decoded.unwrap_or_default(), broken)
}

/// Longest lease and restart of any config that this node may have gone by: that of the snapshot,
/// and those in the log after it. What was promised by earlier ones is on the disk beside the
/// snapshot (`voter/promise_bound.rs`). And why it comes to another config than the others, if so.
fn through_configs(state: &State, kept: &Persisted) -> ((Millis, Millis), Option<String>) {
    let (mut at, mut differs) = (state.following(), None);
    let mut longest = (at.spec.timing.lease, at.spec.timing.restart);
    for entry in kept.entries.iter().filter(|entry| entry.index > kept.snapshot.index) {
        match at.follow(&entry.data) {
            Some(Ok(())) => {
                longest.0 = longest.0.max(at.spec.timing.lease);
                longest.1 = longest.1.max(at.spec.timing.restart);
            }
            // What is not committed may still be replaced.
            Some(Err(Refusal::Differs(why))) if entry.index <= kept.hard_state.commit => {
                differs = Some(why);
            }
            Some(Err(_)) | None => {}
        }
    }
    (longest, differs)
}

impl Node {
    /// A node that starts from what the disk kept.
    pub fn new(config: Config, now: Time, kept: &Persisted) -> Self {
        let empty = Persisted::default();
        let unread = snapshot::decode(&kept.snapshot.data).is_none();
        let (kept, state, broken) = believed(kept, &empty);
        let (longest, differs) = through_configs(&state, kept);
        let voter = Voter::new(config.identity(), now, kept, &state, longest, broken);
        let mut node = Self {
            proposals: proposals::Proposals::new(config.boot),
            config,
            state,
            changes: log::Changes::default(),
            voter,
            applied_bytes: 0,
            unrecorded: event_log::Unrecorded::default(),
            facts: fitness::OwnFacts::default(),
            membership: Membership::default(),
            incarnation: incarnation::HeardIncarnations::default(),
            mail: heartbeat::Mail::new(now),
            relays: relay::Relays::default(),
            probes: probe::Probes::default(),
            under_way: std::collections::BTreeMap::new(),
            states_sent: joining::Sent::default(),
            told_broken: lost_log::ToldBroken::default(),
            rebuild: rebuild::Rebuild::default(),
            clock: clock::OwnClock::default(),
            majority_since: None,
            farewells: removal::Farewells::default(),
            disk_full: kept.full,
            outdated: false,
            differs: false,
            operations: operations::Operations::default(),
            own_vips: vips::OwnVips::default(),
            checks: checks::Checks::default(),
            desired_state: desired_state::DesiredState::default(),
            requested: desired_state::Requested::default(),
            leading: failover::Leading::default(),
            fences: fencing::Fences::default(),
            own_watchdog: None,
            alone: alone::Alone::default(),
            leaving: leaving::Leaving::default(),
            wall_offset: 0,
            started: now,
            caught_up: false,
            actions: Vec::new(),
        };
        node.read_from_disk(kept, differs);
        node.rebuild.keeps_log(unread);
        if !node.voter.is_moved() {
            node.voter.keep_incarnation(&mut node.actions);
        }
        node.all_vips_changed();
        node
    }
}
