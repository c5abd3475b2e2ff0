//! What is true in the world now: who answers, and whether an invariant is broken.
//!
//! Asked of the simulated kernels and disks, never of what a node believes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use nines_core::{Node, lease::promise_ns, node::UnderLease, snapshot, state::State};
use nines_model::NodeId;

use super::{Machine, Sabotage, World};
use crate::{
    observation::{CopyFacts, NodeFacts, Observation},
    scenario::Fault,
};

/// After an event that changes nothing that invariants look at but the time, they are asked so long
/// after they last were, ns.
const LOOK_NS: u64 = 5_000_000;

/// A lease for a planned restart, with what clocks may differ.
const LONG_LEASE_NS: u64 = 2_100_000_000;

/// What invariants look at in a node: its term, whether it leads, and how far its log is.
pub(super) fn knowledge(node: &Node) -> (bool, u64, u64, u64) {
    let consensus = node.consensus();
    let (leads, term) = (consensus.is_leader(), consensus.term());
    (leads, term, consensus.committed().number(), node.state().applied.number())
}

/// What a node's state was when it was last looked at: it changes with the applied index only.
#[derive(Clone, Default)]
pub(super) struct StateSeen {
    applied: u64,
    hash: u64,
    holdings: Arc<BTreeMap<IpAddr, (u64, Option<u64>)>>,
    off: Arc<BTreeSet<(u64, u64)>>,
    confirmed: Arc<BTreeSet<(u64, u64)>>,
    voters: Arc<BTreeSet<u64>>,
    misread: Option<u64>,
}

impl World {
    pub(super) fn answers(&self, id: u64) -> BTreeMap<IpAddr, u64> {
        let kernel = &self.machines[&id].kernel;
        let now = self.local(id);
        let guarded = |vip: &IpAddr| {
            self.sabotage == Sabotage::GuardIgnored
                || kernel.guards.get(vip).is_some_and(|deadline| now < *deadline)
        };
        let here = kernel.addresses.iter().filter(|vip| guarded(vip));
        here.map(|vip| (*vip, kernel.tokens.get(vip).copied().unwrap_or(0))).collect()
    }

    /// A person has broken what invariants rest on: none is asked any more.
    pub fn ask_no_invariant(&mut self) {
        self.invariants.clear();
        self.goals.give_up();
    }

    /// Asks the invariants after each event that changes what they look at, and when a kernel falls
    /// silent by itself. Most events change nothing of it but the time.
    pub(super) fn judge_if_due(&mut self) -> Result<(), String> {
        let due = self.changed || self.now >= self.falls_silent;
        if due || self.now - self.judged >= LOOK_NS { self.judge() } else { Ok(()) }
    }

    /// When the first of the kernels falls silent for a VIP, unless it is renewed.
    fn next_silence(&self) -> u64 {
        let of_machine = |(id, machine): (&u64, &Machine)| {
            let (now, kernel) = (self.local(*id), &machine.kernel);
            let deadlines = kernel.addresses.iter().filter_map(|vip| kernel.guards.get(vip));
            let first = deadlines.filter(|deadline| now < **deadline).min()?;
            let left = u128::from(first.since(now)) * 1_000_000 / u128::from(machine.rate_ppm);
            Some(self.now + left as u64)
        };
        self.machines.iter().filter_map(of_machine).min().unwrap_or(u64::MAX)
    }

    pub(super) fn judge(&mut self) -> Result<(), String> {
        (self.judged, self.changed) = (self.now, false);
        self.falls_silent = self.next_silence();
        let mut seen = Observation {
            now: self.now,
            lease_ns: self.lease.ns(),
            election_ns: self.election.ns(),
            longest_promise_ns: promise_ns(self.lease) + LONG_LEASE_NS,
            ..Observation::default()
        };
        self.note_hearing();
        let copy = self.copy_id();
        let all: Vec<u64> = self.machines.keys().copied().filter(|id| *id != copy).collect();
        for id in all {
            let facts = self.facts(id);
            seen.nodes.insert(id, facts);
        }
        seen.voters = Arc::clone(&self.voters);
        seen.switched_off = self.count_as_off();
        seen.over.clone_from(&self.power.over);
        seen.device_has_lied = self.power.has_lied;
        seen.off_calls = Arc::clone(&self.power.off_calls);
        seen.upgrades = self.older.only;
        seen.victim = self.scenario.victim;
        seen.forged.clone_from(&self.forged);
        let asked_long = self.machines.values().filter_map(|machine| machine.sent.asked_long);
        seen.long_lease = asked_long.max().is_some_and(|at| self.now - at < LONG_LEASE_NS);
        if let Some(machine) = self.machines.get(&copy) {
            seen.copy = Some(CopyFacts { of: machine.identity, told_vote: machine.sent.vote });
            seen.copy_answers = self.answers(copy);
        }
        for (id, node) in &seen.nodes {
            for vip in node.answers.keys() {
                if self.answering.insert(*vip, *id).is_some_and(|before| before != *id) {
                    self.moves += 1;
                }
            }
        }
        if let Some(story) = &mut self.story {
            story.look(&seen);
        }
        for invariant in &mut self.invariants {
            invariant
                .check(&seen)
                .map_err(|why| format!("at {} ms: {why}", self.now / 1_000_000))?;
        }
        self.judge_goals(&mut seen)
    }

    /// What invariants see of one node.
    fn facts(&mut self, id: u64) -> NodeFacts {
        self.note_silence(id);
        let answers = self.answers(id);
        let hears_nobody = self.hearing.1.get(&id).is_none_or(BTreeSet::is_empty);
        let now = self.now;
        // A long lease for a planned restart is meant to outlast the process.
        let long_lease_ns = self.long_lease_ns();
        self.note_state(id);
        let confirmed = Arc::clone(&self.machines[&id].state_seen.confirmed);
        let could = |(target, _): &(u64, u64)| (*target, self.could_hear_ns(id, *target));
        let hears_confirmed = confirmed.iter().map(could).filter(|(_, ns)| *ns > 0).collect();
        let machine = &self.machines[&id];
        let (state_seen, sent) = (&machine.state_seen, &machine.sent);
        let node = machine.node.as_ref();
        let since = |since: Option<u64>| since.map_or(0, |since| now - since);
        NodeFacts {
            leads: node.filter(|n| n.consensus().is_leader()).map(|n| n.consensus().term()),
            term: node.map_or(0, |n| n.consensus().term()),
            told_vote: sent.vote,
            told_ack: sent.ack,
            steered: sent.steered,
            write_failed: sent.write_failed,
            told_after: sent.told_after,
            voters: node.map(|_| Arc::clone(&state_seen.voters)).unwrap_or_default(),
            ends: machine.disk.ends(),
            kept: machine.disk.kept(),
            committed: node.map_or(0, |n| n.consensus().committed().number()),
            applied: node.map(|_| (state_seen.applied, state_seen.hash)),
            durable: machine.disk.terms(),
            durable_snapshot: machine.disk.get().snapshot.index,
            witness: self.witnesses.contains(&id),
            answers,
            holdings: node.map(|_| Arc::clone(&state_seen.holdings)).unwrap_or_default(),
            off: node.map(|_| Arc::clone(&state_seen.off)).unwrap_or_default(),
            confirmed: node.map(|_| confirmed).unwrap_or_default(),
            hears_confirmed,
            misread: node.and(state_seen.misread),
            health: None,
            hears_nobody,
            holds_nothing: node.is_some_and(|n| n.under_lease() == UnderLease::Nothing),
            alone_ns: since(machine.alone_since).saturating_sub(long_lease_ns),
            deaf_ns: since(machine.deaf_since),
        }
    }

    /// Notes what a node's state is, if that has changed.
    fn note_state(&mut self, id: u64) {
        let machine = self.machines.get_mut(&id).expect("a machine");
        let Some(node) = &machine.node else { return };
        let (state, before) = (node.state(), machine.state_seen.applied);
        if state.applied.number() == before {
            return;
        }
        let misread = machine.state_seen.misread;
        let voters = node.consensus().voters().into_iter().map(NodeId::number).collect();
        machine.state_seen = StateSeen {
            applied: state.applied.number(),
            hash: self.older.hash_of_state(&snapshot::encode(state)),
            holdings: Arc::new(holdings(&self.vips, &self.scenario.nodes, state)),
            off: Arc::new(off_by(state, false)),
            confirmed: Arc::new(off_by(state, true)),
            voters: Arc::new(voters),
            misread: misread.or_else(|| {
                let new = before + 1..=state.applied.number();
                self.older.misread(id, machine.disk.get(), new)
            }),
        };
        note_voters(&mut self.voters, node);
    }

    /// Notes since when a machine has not run, or has heard too few others.
    fn note_silence(&mut self, id: u64) {
        // A majority has never fewer than this.
        let fewest = self.voters.values().map(BTreeSet::len).min().unwrap_or_default();
        // Of two voters one that knows the other to be off need not hear it.
        let off = self.power.off.iter().chain(self.power.back.keys());
        let other_is_off = fewest == 2 && off.into_iter().any(|off| *off != id);
        let hears = self.hearing.1.get(&id).map_or(0, BTreeSet::len);
        let deaf = !other_is_off && hears < fewest / 2;
        let (now, answered) = (self.now, self.answered_until(id, fewest / 2));
        let machine = self.machines.get_mut(&id).expect("a machine");
        machine.sent.heard_majority |= !deaf && machine.node.is_some();
        let stopped = machine.node.is_none() || machine.paused_until > now;
        let note = |since: &mut Option<u64>, is: bool| {
            *since = since.or(Some(now)).filter(|_| is);
        };
        if stopped && !machine.stopped {
            machine.stopped_at = now;
        }
        machine.stopped = stopped;
        // Others may have answered later, one after the other, what was sent while it ran.
        let runs = !stopped && answered >= machine.runs_since();
        let answered = if runs { answered } else { answered.min(machine.stopped_at) };
        note(&mut machine.alone_since, !machine.replaced_in_place && (stopped || deaf));
        machine.alone_since = machine.alone_since.map(|since| since.max(answered));
        note(&mut machine.deaf_since, deaf && !stopped);
    }

    /// The newest time at which a message of a node can have been sent that so many others have
    /// answered. They need not all be heard at one time: one that is gone now and one that is back
    /// may both have answered it.
    fn answered_until(&self, id: u64, others: usize) -> u64 {
        let hears = self.hearing.1.get(&id);
        let until = |other: &u64| match hears {
            Some(hears) if hears.contains(other) => self.now,
            _ => self.heard_until.get(&(id, *other)).copied().unwrap_or_default(),
        };
        let mut all: Vec<u64> = self.machines.keys().filter(|o| **o != id).map(until).collect();
        all.sort_unstable();
        others.checked_sub(1).map_or(self.now, |n| all.iter().rev().nth(n).copied().unwrap_or(0))
    }

    /// Planned restarts in this world ask for 2 s; while any may be out, silence comes later.
    fn long_lease_ns(&self) -> u64 {
        if self.restarts_drawn() { LONG_LEASE_NS } else { 0 }
    }

    fn restarts_drawn(&self) -> bool {
        self.sabotage == Sabotage::None && self.scenario.faults.contains(&Fault::PlannedRestart)
    }

    /// Where every node stands, when `NINES_SIM_LOG` is set.
    pub fn describe_if_verbose(&self) {
        if self.verbose {
            self.describe();
        }
    }

    /// Where every node stands.
    pub fn describe(&self) {
        for (id, machine) in &self.machines {
            let Some(node) = &machine.node else {
                eprintln!("{id}: down");
                continue;
            };
            let c = node.consensus();
            eprintln!(
                "{id}: {:?} term {} leader {} committed {} applied {} last {:?} waiting {} [{}] holds {:?} \
                 answers {:?} hears {:?} doubts {:?} awaits {:?}",
                node.broken(),
                c.term(),
                c.leader().map_or(0, NodeId::number),
                c.committed(),
                c.applied_index(),
                c.last(),
                node.waiting(),
                c.progress(),
                node.state().vips,
                self.answers(*id),
                self.heard_by(node, *id),
                node.double(self.local(*id)),
                node.awaits(self.local(*id)),
            );
        }
    }

    /// For how long a node has not heard each of its peers, in ms.
    fn heard_by(&self, node: &Node, id: u64) -> Vec<(u64, u64)> {
        let peers = node.membership().ever_heard();
        let age = |at| self.local(id).since(at) / 1_000_000;
        peers.filter_map(|p| Some((p.number(), age(node.membership().peer(p)?.at)))).collect()
    }

    /// Every VIP is answered for by exactly one node, and by the one it goes with another on.
    pub fn serves_everything(&self) -> bool {
        let spec = nines_model::config::parse(&self.scenario.text).expect("it was read before");
        let all: Vec<(IpAddr, u64)> = self
            .machines
            .keys()
            .copied()
            .filter(|id| *id != self.copy_id())
            .flat_map(|id| self.answers(id).into_keys().map(move |vip| (vip, id)))
            .collect();
        let by: BTreeMap<IpAddr, u64> = all.iter().copied().collect();
        let together = spec.vips.iter().all(|(vip, wanted)| {
            by.contains_key(vip) && wanted.with.is_none_or(|with| by.get(&with) == by.get(vip))
        });
        all.len() == spec.vips.len() && by.len() == spec.vips.len() && together
    }
}

/// Notes who votes by a node's log.
fn note_voters(voters: &mut Arc<BTreeMap<u64, BTreeSet<u64>>>, node: &Node) {
    let changed = node.state().members.newest_change().number();
    let now = node.consensus().voters().into_iter().map(NodeId::number).collect();
    let before = voters.range(..=changed).next_back();
    if before.is_none_or(|(_, known)| *known != now) {
        Arc::make_mut(voters).insert(changed, now);
    }
}

/// Nodes that are off by a node's state, each with the incarnation: by the word of a person, or of
/// devices.
fn off_by(state: &State, person: bool) -> BTreeSet<(u64, u64)> {
    let off = state.fencing.iter().filter_map(|(id, power)| Some((*id, power.off.as_ref()?)));
    let of = off.filter(|(_, off)| off.by_person == person);
    of.map(|(id, off)| (id.number(), off.incarnation)).collect()
}

/// Where each of the world's VIPs stands in a node's state.
fn holdings(
    vips: &[IpAddr],
    names: &[String],
    state: &State,
) -> BTreeMap<IpAddr, (u64, Option<u64>)> {
    let id = |name: &str| (1..).zip(names).find(|(_, n)| *n == name).map(|(id, _)| id);
    let stands = |vip: &IpAddr| match state.vips.get(vip) {
        Some(held) => (held.token().number(), id(held.node().as_str())),
        None => (state.applied.number(), None),
    };
    vips.iter().map(|vip| (*vip, stands(vip))).collect()
}
