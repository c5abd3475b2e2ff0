//! What a node tells of logs that were lost, its own and others'. The rule is in
//! `voter/lost_log.rs`.
//!
//! Decides: what a node waits for after its start, and when the leader tells that a node votes no
//! more.

use std::collections::BTreeSet;

use nines_model::{NodeId, Time};

use super::Node;
use crate::{
    event_log::EventKind::{HeartbeatBack, Join, NoVote, Returned},
    voter,
    wire::{Ack, Awaits, Heartbeat},
};

/// Nodes that vote no more, when the leader last told it.
#[derive(Default)]
pub(super) struct ToldBroken(BTreeSet<NodeId>);

impl Node {
    /// What a heartbeat shows of its sender's log.
    pub(super) fn remember(&mut self, now: Time, from: NodeId, beat: &Heartbeat) {
        // A copy of it may go on with what it never got.
        if self.may_ask(now, from) {
            let begun = beat.anew.as_ref().map_or(0, |anew| anew.begun);
            self.voter.remember(from, begun, beat.position());
        }
        // The only voter let every newcomer in itself.
        let newer = self.voter.is_alone() && self.may_be_newer(from);
        if newer && !self.is_double(now, self.config.id) {
            let why = format!("its log is older than the cluster: node {from} joined after it");
            let (voter, mut cx) = self.voter(now);
            voter.retire(&mut cx, why);
        }
        let before = self.membership.peer(from).map_or(Awaits::Nothing, |p| p.beat.awaits());
        if ![before, Awaits::Nothing].contains(&beat.awaits()) {
            let line = format!("{} {}", self.name_of(from), beat.awaits().words());
            self.log(line);
        }
    }

    /// Somebody says what this node has shown before.
    pub(super) fn reminded(&mut self, now: Time, from: NodeId, ack: &Ack) {
        if !self.is_double(now, self.config.id) {
            let (voter, mut cx) = self.voter(now);
            voter.reminded(&mut cx, from, ack);
        }
    }

    /// What a person can do about a node that votes no more for good.
    pub fn rebuild(name: &str) -> String {
        voter::rebuild(name)
    }

    /// Whether a restart cannot fix what keeps this node from voting.
    pub fn is_retired(&self) -> bool {
        self.voter.is_retired()
    }

    /// What this node waits for; one that votes no more waits for nothing.
    pub fn awaits(&self, now: Time) -> Awaits {
        if self.broken().is_some() || self.voter.consensus().is_voter(self.config.id) {
            return Awaits::Nothing;
        }
        let lease = self.state.spec.timing.lease;
        let mut heard = self.membership.ever_heard();
        match self.state.members.contains_key(&self.config.id) {
            true => Awaits::Vote,
            false if !self.state.members.is_empty() => Awaits::Newest,
            false if heard.any(|id| self.membership.alive(now, id, lease)) => Awaits::Log,
            false => Awaits::Member,
        }
    }

    /// Why a node votes no more, by its own word.
    pub fn broken_of(&self, id: NodeId) -> Option<&str> {
        if id == self.config.id {
            return self.broken();
        }
        let said = self.membership.peer(id).map(|p| p.beat.broken.as_str());
        said.filter(|why| !why.is_empty())
    }

    /// Whether that is for good.
    pub fn is_retired_of(&self, id: NodeId) -> bool {
        let said = self.membership.peer(id).is_some_and(|p| p.beat.retired);
        if id == self.config.id { self.is_retired() } else { said }
    }

    /// The leader tells, once, that a node votes no more.
    pub(super) fn tell_broken(&mut self, now: Time) {
        let broken = |id: &NodeId| self.broken_of(*id).is_some();
        let all: BTreeSet<NodeId> = self.state.members.keys().copied().filter(broken).collect();
        let new: Vec<NodeId> = all.difference(&self.told_broken.0).copied().collect();
        if !new.is_empty() && !self.voter.consensus().leads() {
            return;
        }
        self.told_broken.0 = all;
        for id in new {
            let name = self.name_of(id);
            // The leader before may have told it.
            let last = self.state.story.newest(&[NoVote, HeartbeatBack, Returned, Join], &name);
            if last.is_some_and(|event| event.kind.is(NoVote)) {
                continue;
            }
            let why = self.broken_of(id).unwrap_or_default();
            let text = format!("{name} votes no more and holds no VIP: {why}");
            self.record_event(now, NoVote, name, text, "auto", String::new());
        }
    }
}
