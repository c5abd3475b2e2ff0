//! Votes that move from one member to another, and members that have lost their logs and begin
//! anew.
//!
//! ```text
//! a voter has lost its log:  it says so -> its vote is taken, by the others' majority
//!     -> it hears of that, and starts anew without a log -> it gets the log -> it gets its vote
//! a voter is dead for long:  a learner is ready -> its vote is taken -> the learner gets one
//! ```
//!
//! Nothing that a node acknowledged before it began anew counts afterwards. The leader forgets how
//! far its log was, because it leaves the consensus and comes back; and what was on its way is of
//! an incarnation that has been replaced. The node itself keeps the index of the entry that took
//! its vote: answers of nodes that have not applied that one are about its earlier log.
//!
//! Decides: when a vote is taken, when a node begins anew, and how many vote.

use nines_model::{Millis, NodeId, Time};

use super::{Node, failover::LEAD_AGAIN};
use crate::{
    action::Action,
    feature_level::LINKS,
    wire::{Anew, AnewOrder, Begun, Heartbeat, VoteChange, command::Kind},
};

/// Members that vote, at most: each entry waits for a majority of them, and seven survive three.
pub const VOTERS_MAX: usize = 7;
/// A voter that was silent for so long gives its vote to a learner, if one is ready. Longer than a
/// machine takes for a start.
const DEAD_LONG: Millis = Millis(600_000);

/// What a node that has lost its log knows of how it goes on.
#[derive(Default)]
pub(super) struct Rebuild {
    /// It has a state that its build cannot read: another build may.
    unread: bool,
    /// It has asked to start anew.
    asked: bool,
}

impl Rebuild {
    pub(super) fn keeps_log(&mut self, unread: bool) {
        self.unread = unread;
    }
}

impl Node {
    /// Whether there are as many voters as there should be.
    pub fn has_enough_voters(&self) -> bool {
        self.voter.consensus().voters().len() >= VOTERS_MAX
    }

    /// Whether a member takes part without a vote because enough others have one: it has the log
    /// and may hold VIPs. One that holds some goes on while a vote is free that it may get.
    pub fn carries_without_vote(&self, id: NodeId) -> bool {
        let consensus = self.voter.consensus();
        let newest = self.state.members.newest_change();
        let applied = match self.membership.peer(id) {
            _ if id == self.config.id => self.state.applied,
            Some(peer) => peer.beat.applied(),
            None => return false,
        };
        let name = self.name_of(id);
        let holds = || self.state.vips.values().any(|held| held.node().as_str() == name);
        (self.has_enough_voters() || holds())
            && consensus.learners().contains(&id)
            && applied >= newest
            && !self.state.members.anew().contains_key(&id)
    }

    /// Whether what keeps this node from voting is mended otherwise than by another log. One that
    /// has started on a full disk does not know yet by what it began anew.
    fn keeps_its_log(&self) -> bool {
        self.rebuild.unread || self.disk_full || self.applies_no_more() || self.is_split()
    }

    /// Whether this node has lost its log and may begin anew.
    fn has_lost_log(&self) -> bool {
        self.voter.is_lost() && !self.keeps_its_log()
    }

    /// Whether a member that votes no more will begin anew by itself, as far as this node knows.
    pub fn begins_anew(&self, now: Time, id: NodeId) -> bool {
        let said = self.membership.peer(id).and_then(|peer| peer.beat.anew.as_ref());
        let lost = if id == self.config.id {
            self.has_lost_log()
        } else {
            said.is_some_and(|anew| anew.lost)
        };
        let level = self.state.members.feature_level() >= LINKS;
        lost && level && !self.floats(id) && self.is_decided_without(now, id)
    }

    /// Whether a member runs on one of several hosts. Its log is on a disk that they share, and
    /// nobody but a person makes that anew.
    fn floats(&self, id: NodeId) -> bool {
        self.state.members.get(&id).is_some_and(|member| member.floats)
    }

    /// What this node's heartbeats say of members that begin anew.
    pub(super) fn anew(&self) -> Option<Anew> {
        let (lost, begun) = (self.has_lost_log(), self.voter.begun().index);
        let order = |(id, index): (&NodeId, &nines_model::LogIndex)| AnewOrder {
            node: id.number(),
            index: index.number(),
        };
        let orders: Vec<AnewOrder> = self.state.members.anew().iter().map(order).collect();
        (lost || begun != 0 || !orders.is_empty()).then_some(Anew { lost, begun, orders })
    }

    /// A heartbeat says whose votes have been taken, perhaps this node's. Its sender has applied
    /// that. The others have committed it without this node, which appends such an entry about
    /// itself only then, so nothing that is committed rests on this node's log. It begins anew also
    /// if its log is whole again, because its newest copy was put back.
    pub(super) fn told_to_begin_anew(&mut self, now: Time, beat: &Heartbeat) {
        let me = self.config.id;
        let stays = self.keeps_its_log() || self.voter.is_removed();
        if self.rebuild.asked || stays || self.is_double(now, me) {
            return;
        }
        let orders = beat.anew.iter().flat_map(|anew| &anew.orders);
        let newest = orders.filter(|order| order.node == me.number()).map(|order| order.index);
        let before = self.voter.begun();
        let Some(index) = newest.max().filter(|index| *index > before.index) else { return };
        self.rebuild.asked = true;
        // It may have voted in any term that it or the others have seen.
        let term = self.voter.consensus().term().max(beat.term).max(before.term);
        self.log("the others go on without this node's log: it begins anew".into());
        self.actions.push(Action::BeginAnew(Begun { index, term }));
    }

    /// Whether the other voters can decide without this one: they are more than half of all voters.
    fn is_decided_without(&self, now: Time, id: NodeId) -> bool {
        let voters = self.voter.consensus().voters();
        let heard = voters.iter().filter(|voter| **voter != id && self.counts(now, **voter));
        heard.count() * 2 > voters.len()
    }

    /// The leader's part: one change of voters at a time.
    pub(super) fn rebuild_members(&mut self, now: Time) {
        let level = self.state.members.feature_level();
        let busy = self.voter.consensus().has_change_ahead();
        if level < LINKS || busy || !self.voter.may_change_voters(now) {
            return;
        }
        if let Some(kind) = self.next_rebuild(now).or_else(|| self.next_replacement(now)) {
            self.propose_own(now, kind, String::new());
            self.leading.wait(now.plus(LEAD_AGAIN));
        }
    }

    fn next_rebuild(&self, now: Time) -> Option<Kind> {
        let members = &self.state.members;
        let said = |id: &NodeId| self.membership.peer(*id).and_then(|p| p.beat.anew.as_ref());
        let speaks =
            |id: &NodeId| *id != self.config.id && self.membership.speaks(now, *id, self.lease());
        // One that began anew by the newest entry about it gets the log.
        let ready = |(id, index): &(&NodeId, &nines_model::LogIndex)| {
            let begun = said(id).is_some_and(|anew| anew.begun == index.number() && !anew.lost);
            speaks(id) && self.doubt(now, **id).is_none() && begun
        };
        if let Some((id, _)) = members.anew().iter().find(ready) {
            let node = id.number();
            return Some(Kind::LearnAgain(VoteChange { node, anew: true, why: String::new() }));
        }
        // One whose vote was taken hears of it by itself. A copy of a state directory may have lost
        // its log, too, as long as no other agent of its name is heard: it is not to vote by it.
        let lost = |id: &&NodeId| {
            speaks(id)
                && !self.is_double(now, **id)
                && !self.floats(**id)
                && said(id).is_some_and(|anew| anew.lost)
                && !members.anew().contains_key(id)
                && !self.is_to_leave(**id)
                && self.is_decided_without(now, **id)
        };
        let id = members.keys().find(lost)?;
        let why = self.broken_of(*id).unwrap_or_default().to_owned();
        Some(Kind::TakeVote(VoteChange { node: id.number(), anew: true, why }))
    }

    /// A voter that has been dead for long, while a learner has the log and no vote.
    fn next_replacement(&self, now: Time) -> Option<Kind> {
        let consensus = self.voter.consensus();
        if !self.has_enough_voters() || self.membership.listening(now) < DEAD_LONG.ns() {
            return None;
        }
        let dead = |id: &NodeId| {
            let last = self.membership.peer(*id).map_or(Time(0), |peer| peer.at);
            *id != self.config.id
                && now.since(last) >= DEAD_LONG.ns()
                && !self.is_heard_elsewhere(now, *id)
                && self.is_decided_without(now, *id)
        };
        let id = consensus.voters().into_iter().find(dead)?;
        let next = consensus.learners().into_iter().find(|id| self.may_vote_next(now, *id))?;
        let why = format!(
            "it has been silent for {} minutes, and {} is ready to vote",
            DEAD_LONG.0 / 60_000,
            self.name_of(next)
        );
        Some(Kind::TakeVote(VoteChange { node: id.number(), anew: false, why }))
    }
}
