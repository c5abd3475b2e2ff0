//! Changes of who votes.
//!
//! A majority from before a change and one from after it share a voter; majorities two changes
//! apart need not. So a voter appends no change of voters before its promises from before the last
//! change have ended. A change is committed by a majority that has done so, and that shares a voter
//! with every majority which may have renewed a lease before the last change: none of those leases
//! is left when the next voters decide.
//!
//! Decides: when another change of voters may be appended, and whom a node asks that has slept
//! through some.

use std::collections::BTreeSet;

use nines_model::{LogIndex, Millis, NodeId, Time};

use super::{Context, Voter, consensus};
use crate::{
    state::State,
    wire::{Ack, LogEntry, RaftMessage, numbers},
};

/// When a change of voters is not applied yet, so long passes before the next one is looked at
/// again.
const AGAIN: Millis = Millis(20);

/// Who votes, and since when.
pub(super) struct VoterChanges {
    /// Voters when last looked at.
    voters: Vec<NodeId>,
    /// Promises from before they were the voters end then.
    settled: Time,
    /// Voters of a later change, by what another node says, and the place of that change.
    told: (LogIndex, Vec<NodeId>),
    /// Nodes that say that this one has left, and have that on their disks.
    farewells: BTreeSet<NodeId>,
}

impl VoterChanges {
    /// A voter that starts: when the last change was is not known.
    pub(super) fn new(voters: Vec<NodeId>, promised: Time) -> Self {
        Self { voters, settled: promised, told: Default::default(), farewells: BTreeSet::new() }
    }
}

impl Voter {
    /// Whether this voter itself would append a change of voters now.
    pub fn may_change_voters(&self, now: Time) -> bool {
        now >= self.changes.settled
    }

    /// Notes that others vote than before, if so.
    pub(super) fn note_voters(&mut self) {
        let voters = self.consensus.voters();
        if voters != self.changes.voters {
            (self.changes.voters, self.changes.settled) = (voters, self.promises.latest());
        }
        self.forget_those_outside();
    }

    /// What the ack of a heartbeat tells of the voters: a node that has slept while members left
    /// would wait for them for ever.
    pub(super) fn voters_for(&self, cx: &Context<'_>, applied: LogIndex) -> Vec<u64> {
        let known = applied >= cx.state.members.newest_change();
        if known { Vec::new() } else { self.all_voters() }
    }

    /// Whether some node says that this one has left.
    pub fn is_told_to_have_left(&self) -> bool {
        !self.changes.farewells.is_empty()
    }

    /// Numbers of the nodes that vote, for a message.
    pub fn all_voters(&self) -> Vec<u64> {
        numbers(self.consensus.voters())
    }

    /// Another node names the voters of a change that this one has not got, or says that this one
    /// has left. True: a majority of the newest voters has said so, and does without it. One word
    /// alone is not enough: who knows of the last change may die, and those that do not know yet
    /// need this vote.
    pub fn told_of_voters(&mut self, cx: &Context<'_>, from: NodeId, ack: &Ack) -> bool {
        let newest = cx.state.members.newest_change().max(self.changes.told.0);
        if !ack.voters.is_empty() && ack.membership() > newest {
            self.changes.told = (ack.membership(), ack.voters().collect());
        }
        if !ack.left || ack.membership() < cx.state.members.newest_change() {
            return false;
        }
        self.changes.farewells.insert(from);
        let voters = self.newest_voters(cx.state);
        let told = voters.iter().filter(|voter| self.changes.farewells.contains(voter)).count();
        told * 2 > voters.len()
    }

    /// The newest voters that this node knows of, by its log or by what it was told.
    pub fn newest_voters(&self, state: &State) -> Vec<NodeId> {
        let (change, voters) = &self.changes.told;
        if *change > state.members.newest_change() {
            voters.clone()
        } else {
            self.consensus.voters()
        }
    }

    /// The part of a message that may not enter the consensus yet because of the change of voters
    /// that it brings or asks for, and until when; the rest stays in `message`.
    pub(super) fn take_early_change(
        &self,
        cx: &Context<'_>,
        message: &mut RaftMessage,
    ) -> Option<(Time, RaftMessage)> {
        let asks = consensus::asks_to_write(message);
        if !asks && !consensus::brings_entries(message) {
            return None;
        }
        // What others have committed is committed without this voter.
        let (applied, done) = (cx.state.applied, cx.state.applied.max(LogIndex(message.commit)));
        let changes = |entry: &&LogEntry| consensus::changes_voters(entry);
        let until = |at: usize, entry: &LogEntry| {
            // The others commit it without this node, which throws its log away by it.
            if !asks && consensus::takes_log_of(entry, self.identity.id) {
                return cx.now.plus(AGAIN);
            }
            let before = message.entries[..at].iter().filter(|e| e.index() > applied);
            let unsettled = !asks
                && (before.clone().any(|e| changes(&e))
                    || self.consensus.changes_voters_before(entry));
            // The change before it is applied first; how long that binds is known then.
            let again = self.promises.latest().max(cx.now.plus(AGAIN));
            if unsettled { again } else { self.changes.settled }
        };
        let (at, until) = (message.entries.iter().enumerate())
            .filter(|(_, entry)| (asks || entry.index() > done) && changes(entry))
            .map(|(at, entry)| (at, until(at, entry)))
            .find(|(_, until)| *until > cx.now)?;
        if asks || at == 0 {
            return Some((until, std::mem::take(message)));
        }
        // As if the leader had sent it in two parts.
        let mut late = RaftMessage { entries: Vec::new(), ..message.clone() };
        late.entries = message.entries.split_off(at);
        let last = message.entries.last().expect("there are some before it");
        (late.index, late.log_term) = (last.index, last.term);
        Some((until, late))
    }
}
