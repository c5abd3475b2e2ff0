//! One vote of a cluster: consensus, promises, and what the disk must know of both.
//!
//! A voter runs without a node: it knows no VIP of its own, no planner, no health check and no
//! link. Its caller brings messages, heartbeats and the state that the log has made so far
//! ([`Context`]), and carries out what the voter asks for.
//!
//! ```text
//! messages ----> may this node learn? -> can it be true? -> does a promise forbid it? -> consensus
//! heartbeats --> may this node vote? --> does the log name a newer holder? -> promise -> ack
//! ```
//!
//! Decides: whether this node votes at all (`voter/lost_log.rs`, `voter/own_incarnation.rs`), what
//! enters the log and when (`voter/append_gate.rs`), which leases are renewed (`voter/grants.rs`),
//! and what must be on the disk before a promise is given (`voter/promise_bound.rs`). The order of
//! the log itself is decided in `voter/consensus.rs`.

use std::collections::VecDeque;

use nines_model::{Incarnation, LogIndex, Millis, NodeId, NodeName, Time};
use prost::Message as _;

use self::{
    append_gate::AppendGate,
    consensus::{Committed, Consensus, Ready, TICK_MS, disk},
    grants::HolderSets,
    lost_log::LostLog,
    own_incarnation::OwnIncarnation,
    promise_bound::PromiseBound,
    voters::VoterChanges,
};
use crate::{
    action::Action,
    lease::Promises,
    state::State,
    wire::{Command, Member, Persist, Persisted, RaftMessage, command::Kind},
};

mod append_gate;
pub mod consensus;
mod grants;
mod lost_log;
mod own_incarnation;
mod promise_bound;
#[cfg(test)]
mod tests;
mod voters;

pub use self::{grants::Granted, lost_log::rebuild};

/// Disk writes that the consensus does not wait for have numbers from here on.
const BESIDE_THE_LOG: u64 = 1 << 62;
/// After a pause so many ticks are made up for, not hours of them.
const TICKS_MADE_UP_MAX: u32 = 3;
/// Ticks that a pause may miss before the clock of ticks starts anew.
const TICKS_MISSED_MAX: u32 = 100;

/// A leader whose disk takes longer for a write hands over. Stalls of half a second are ordinary.
const DISK_PATIENCE: Millis = Millis(1_000);
/// A disk that was so slow counts as slow for so long: the next write may be as slow.
const SLOW_AGAIN: Millis = Millis(5_000);

/// Whose vote this is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Number of the node in the consensus.
    pub id: NodeId,
    /// Name of the node.
    pub name: NodeName,
    /// Number of this run of the agent; no two runs have the same.
    pub incarnation: Incarnation,
    /// Number of this boot of the machine: a boot clock means nothing in another.
    pub machine_boot: u64,
    /// Number of the machine and of the file that holds the log: a copy has another; 0: not known.
    pub place: u64,
}

/// What a voter goes by besides its own memory, and where its actions go.
pub struct Context<'a> {
    /// Now, by the boot clock.
    pub now: Time,
    /// The state after everything that is applied here.
    pub state: &'a State,
    /// Actions, in order.
    pub out: &'a mut Vec<Action>,
}

impl Context<'_> {
    fn lease(&self) -> Millis {
        self.state.spec.timing.lease
    }

    fn id_of(&self, name: &str) -> Option<NodeId> {
        self.state.member(name).map(Member::id)
    }

    fn name_of(&self, id: NodeId) -> String {
        self.state.members.get(&id).map_or_else(|| format!("node {id}"), |m| m.name.clone())
    }

    fn log(&mut self, line: String) {
        self.out.push(Action::Log(line));
    }
}

/// One vote.
pub struct Voter {
    identity: Identity,
    consensus: Consensus,
    promises: Promises,
    bound: PromiseBound,
    sets: HolderSets,
    gate: AppendGate,
    changes: VoterChanges,
    memory: LostLog,
    own: OwnIncarnation,
    /// Why this node votes no more, if so.
    broken: Option<String>,
    /// The newest state on the disk, and those that it was asked to keep: number of the write, log
    /// index.
    kept_state: LogIndex,
    asked_states: Vec<(u64, LogIndex)>,
    /// Writes of the log that have not ended, each with the time when it was asked for.
    writes: VecDeque<(u64, Time)>,
    /// The disk counts as slow until then.
    slow_until: Time,
    /// The clock of this node is wrong: it renews nothing.
    clock_off: bool,
    next_beside: u64,
    next_tick: Time,
    started: Time,
}

impl Voter {
    /// A voter that starts. `state` is what the snapshot on its disk says; `lease` and `restart`
    /// are the longest of any config that this node may have gone by; `broken` says why it must
    /// not vote, if that is known already.
    pub fn new(
        identity: Identity,
        now: Time,
        kept: &Persisted,
        state: &State,
        (lease, restart): (Millis, Millis),
        broken: Option<String>,
    ) -> Self {
        let place = state.members.keys().position(|id| *id == identity.id);
        // A node that joins does not know the others yet; ids are given in their order.
        let rank = place.map_or(identity.id.number().saturating_sub(1), |place| place as u64);
        let consensus = Consensus::new(identity.id, rank, state.spec.timing.election.0, kept);
        let until = promise_bound::kept_until(&identity, now, &kept.long_promise, restart);
        let promises = Promises::after_restart(now, lease, until);
        Self {
            own: OwnIncarnation::new(&identity, kept),
            changes: VoterChanges::new(consensus.voters(), promises.latest()),
            consensus,
            promises,
            bound: PromiseBound::new(until, lease),
            sets: HolderSets::default(),
            gate: AppendGate::default(),
            memory: LostLog::new(broken.is_some() && !kept.full, kept.removed, kept.begun),
            broken,
            kept_state: LogIndex(kept.snapshot.index),
            asked_states: Vec::new(),
            writes: VecDeque::new(),
            slow_until: Time(0),
            clock_off: false,
            next_beside: BESIDE_THE_LOG,
            next_tick: now,
            started: now,
            identity,
        }
    }

    /// Whether `kept` can be the log of a voter; an error says what is wrong with it.
    pub fn sound(kept: &Persisted) -> Result<(), String> {
        disk::sound(kept)
    }

    /// The consensus, to look at.
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// Whether this voter may renew leases, as far as its clock is concerned.
    pub fn may_renew(&mut self, may: bool) {
        self.clock_off = !may;
    }

    /// Why this node votes no more, if so.
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// This node votes no more in this incarnation (S26, S27).
    pub fn breaks(&mut self, why: String) {
        self.broken = Some(why);
    }

    /// Leads no more, at once.
    pub fn step_down(&mut self) {
        self.consensus.step_down();
    }

    /// Whether it takes part: it is not broken, and no other incarnation may speak for it.
    pub fn takes_part(&self) -> bool {
        self.broken.is_none() && !self.own.moved()
    }

    /// When to call [`Self::tick`] and [`Self::due`] at the latest.
    pub fn next_deadline(&self) -> Time {
        self.gate.next_deadline().map_or(self.next_tick, |at| at.min(self.next_tick))
    }

    /// The clock of the consensus: ticks until `until`.
    pub fn tick(&mut self, cx: &mut Context<'_>, until: Time) {
        let mut made_up = 0;
        while until >= self.next_tick {
            self.next_tick = self.next_tick.plus(Millis(TICK_MS));
            let votes = self.takes_part() && self.may_vote(cx);
            if votes && made_up < TICKS_MADE_UP_MAX {
                self.consensus.tick();
            }
            made_up += 1;
            if made_up > TICKS_MISSED_MAX {
                self.next_tick = until.plus(Millis(TICK_MS));
            }
        }
    }

    /// Takes everything out of the consensus that is ready; call until it gives nothing. The disk
    /// is asked here; messages, states and entries are the caller's.
    pub fn take(&mut self, cx: &mut Context<'_>) -> Option<Ready> {
        let mut ready = self.consensus.take()?;
        if ready.snapshot.is_some() {
            self.note_voters();
        }
        if let Some((number, mut persist)) = ready.persist.take() {
            if let Some(snapshot) = &persist.snapshot {
                self.asked_states.push((number, snapshot.index()));
                self.installs(number);
                // What lease it names is not known yet.
                persist.long_promise = self.bound_of_promises(cx.now, Millis(0));
            }
            self.writes.push_back((number, cx.now));
            cx.out.push(Action::Persist(number, Box::new(persist)));
        }
        Some(ready)
    }

    /// Whether the disk has not ended a write of the log for so long that another node should lead:
    /// a node applies only what its own disk has.
    pub fn disk_lags(&self, now: Time) -> bool {
        let waits = |(_, since): &(u64, Time)| now.since(*since) > DISK_PATIENCE.ns();
        now < self.slow_until || self.writes.front().is_some_and(waits)
    }

    /// A disk write has ended; gives the messages that waited for it.
    pub fn persisted(&mut self, cx: &mut Context<'_>, number: u64) -> Vec<RaftMessage> {
        let beside = |number| number >= BESIDE_THE_LOG;
        let done = |asked: &u64| *asked <= number && beside(*asked) == beside(number);
        for (_, index) in self.asked_states.extract_if(.., |(asked, _)| done(asked)) {
            self.kept_state = self.kept_state.max(index);
        }
        if number >= BESIDE_THE_LOG {
            self.kept_beside(cx, number);
            return Vec::new();
        }
        let late = |(write, since): &(u64, Time)| {
            *write <= number && cx.now.since(*since) > DISK_PATIENCE.ns()
        };
        if self.writes.front().is_some_and(late) {
            self.slow_until = cx.now.plus(SLOW_AGAIN);
        }
        self.writes.retain(|(write, _)| *write > number);
        self.state_kept(cx, number);
        self.consensus.persisted(number)
    }

    /// Replaces the log by its state `data`, all but `tail` entries.
    pub fn compact(&mut self, cx: &mut Context<'_>, data: Vec<u8>, tail: u64) {
        let snapshot = self.consensus.compact(data, tail);
        let index = snapshot.index();
        let long_promise = self.bound_of_promises(cx.now, cx.lease());
        let persist = Persist { snapshot: Some(snapshot), long_promise, ..Persist::default() };
        // The library does not wait for this.
        let number = self.keep_beside(cx.out, persist);
        self.asked_states.push((number, index));
    }

    /// Whether the disk has a state that includes the entry at `index`.
    pub fn has_kept(&self, index: LogIndex) -> bool {
        self.kept_state >= index
    }

    /// A committed change of membership takes effect; one that is not `valid` has none.
    pub fn apply_change(&mut self, entry: &Committed, valid: bool) {
        self.consensus.apply_change(entry, valid);
        self.note_voters();
    }

    /// The state has applied the entry at `index`.
    pub fn applied(&mut self, cx: &Context<'_>, index: LogIndex) {
        self.lease_kept(cx);
        self.consensus.applied(index);
    }

    /// Writes a command; changes of membership take the library's own way. False: nobody leads.
    pub fn write(&mut self, state: &State, command: &Command) -> bool {
        let bytes = command.encode_to_vec();
        if self.broken.is_some() {
            return false;
        }
        match &command.kind {
            // One that is in the log and lost its credentials on the way gets others.
            Some(Kind::Join(member)) if !state.members.contains_key(&member.id()) => {
                self.consensus.propose_member(member.id(), false, bytes)
            }
            Some(Kind::Remove(name)) => {
                let id = state.member(name).map(Member::id);
                id.is_some_and(|id| self.consensus.propose_removal(id, bytes))
            }
            Some(Kind::TakeVote(taken)) if taken.anew => {
                self.consensus.propose_removal(taken.member(), bytes)
            }
            Some(Kind::TakeVote(change) | Kind::LearnAgain(change)) => {
                self.consensus.propose_member(change.member(), false, bytes)
            }
            Some(Kind::Fence(fence)) if fence.is_about_votes() => {
                self.consensus.propose_member(fence.target(), false, bytes)
            }
            _ => self.consensus.propose(bytes),
        }
    }

    /// Gives a learner its vote.
    pub fn promote(&mut self, id: NodeId) {
        self.consensus.propose_member(id, true, Vec::new());
    }

    /// Says in place of `other`, of two voters the one that is off, what is needed of it now.
    pub fn vote_for(&mut self, other: NodeId) {
        self.consensus.vote_for(other);
    }

    /// What was said in place of another node is not believed any more. False: the disk has not
    /// all of the log yet, try again.
    pub fn forget_borrowed_vote(&mut self) -> bool {
        self.consensus.forget_borrowed()
    }

    /// Hands leadership to another voter.
    pub fn transfer(&mut self, to: NodeId) {
        self.consensus.transfer(to);
    }

    /// What was sent to this follower was lost.
    pub fn lost(&mut self, id: NodeId) {
        self.consensus.lost(id);
    }

    /// Asks the disk for something that the consensus does not wait for.
    fn keep_beside(&mut self, out: &mut Vec<Action>, persist: Persist) -> u64 {
        let number = self.next_beside;
        self.next_beside += 1;
        out.push(Action::Persist(number, Box::new(persist)));
        number
    }

    /// A write beside the log is on disk. They end in order: the newest is there when the last
    /// number that was asked for is.
    fn kept_beside(&mut self, cx: &mut Context<'_>, number: u64) {
        if number + 1 == self.next_beside {
            self.bound.all_kept();
        }
        self.incarnation_kept(cx, number);
    }
}
