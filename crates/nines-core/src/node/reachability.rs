//! Which nodes hear each other: a node that the leader does not hear may be heard by others.
//!
//! A holder keeps its lease while a majority of voters renews it. A leader that is cut off from the
//! holder alone must not take the VIP away from it; another voter that hears both leads better.
//!
//! Decides: whether a node that is silent here counts as alive, and who should lead then.

use nines_model::{Millis, NodeId, Time};

use super::{Node, failover::NEAR_LAG_MAX};
use crate::lease::promise_ns;

impl Node {
    /// Nodes that this one has heard lately, for its heartbeats: over a link, and only through
    /// others. Two heartbeats less than a lease: when a node has died, nobody still says that it is
    /// heard by the time the leader misses it.
    pub(super) fn hears_how(&self, now: Time) -> (Vec<NodeId>, Vec<NodeId>) {
        let timing = &self.state.spec.timing;
        let lately = timing.lease.0.saturating_sub(2 * timing.beat.0).max(timing.beat.0);
        let lately = |at: Time| at != Time(0) && now.since(at) < Millis(lately).ns();
        let (mut direct, mut through) = (Vec::new(), Vec::new());
        for id in self.state.members.keys() {
            // One that votes no more holds nothing: what it held goes elsewhere.
            match self.membership.peer(*id).filter(|p| p.beat.broken.is_empty()) {
                Some(peer) if lately(peer.direct) => direct.push(*id),
                Some(peer) if lately(peer.at) => through.push(*id),
                _ => {}
            }
        }
        (direct, through)
    }

    /// Nodes that this one has heard lately, be it through others.
    pub(super) fn hears(&self, now: Time) -> Vec<NodeId> {
        let (mut heard, through) = self.hears_how(now);
        heard.extend(through);
        heard
    }

    /// Whether this node hears a majority, itself included. A leader that does not orders nothing:
    /// it may be the one that is cut off, and what it ordered would count once it is back.
    pub(super) fn hears_majority(&self, now: Time) -> bool {
        let heard = self.hears(now);
        self.is_majority(|id| id == self.config.id || heard.contains(&id))
    }

    /// Whether a peer says that it hears a majority. One that does not cannot renew what it holds,
    /// though its own heartbeats arrive.
    fn says_to_hear_majority(&self, id: NodeId) -> bool {
        let Some(beat) = self.membership.peer(id).map(|p| &p.beat) else { return true };
        // Builds from before feature levels may say nothing of it.
        beat.feature_level == 0
            || self.is_majority(|voter| voter == id || beat.hears_somehow(voter))
    }

    pub(super) fn is_majority(&self, counts: impl Fn(NodeId) -> bool) -> bool {
        let voters = self.voter.consensus().voters();
        voters.iter().filter(|id| counts(**id)).count() * 2 > voters.len()
    }

    /// Notes since when peers that speak have heard no majority.
    pub(super) fn note_deaf(&mut self, now: Time) {
        let lease = self.lease();
        let deaf = |id: &NodeId| {
            *id != self.config.id
                && self.membership.speaks(now, *id, lease)
                && !self.says_to_hear_majority(*id)
        };
        let deaf: Vec<NodeId> = self.state.members.keys().copied().filter(deaf).collect();
        self.leading.deaf.retain(|id, _| deaf.contains(id));
        for id in deaf {
            self.leading.deaf.entry(id).or_insert(now);
        }
    }

    /// Deaf for so long that nothing it held can be renewed any more. One that has just started has
    /// heard nobody yet.
    pub(super) fn is_deaf(&self, now: Time, id: NodeId) -> bool {
        let since = self.leading.deaf.get(&id).filter(|_| self.voter.consensus().leads());
        since.is_some_and(|since| now.since(*since) >= promise_ns(self.lease()))
            && !self.says_to_hear_majority(id)
    }

    /// Whether a peer hears every node that this one hears.
    pub(super) fn hears_as_many(&self, now: Time, id: NodeId) -> bool {
        let beat = self.membership.peer(id).map(|p| &p.beat);
        let others = self.hears(now).into_iter().filter(|other| *other != id);
        beat.is_some_and(|beat| {
            beat.feature_level == 0 || others.into_iter().all(|other| beat.hears_somehow(other))
        })
    }

    /// Silent here, and heard by so many others that it can hold what it holds.
    pub(super) fn is_heard_elsewhere(&self, now: Time, id: NodeId) -> bool {
        let voters = self.voter.consensus().voters();
        let hears = |voter: &&NodeId| {
            **voter == id
                || (self.membership.alive(now, **voter, self.lease())
                    && self.membership.peer(**voter).is_some_and(|p| p.beat.hears_somehow(id)))
        };
        let heard = voters.iter().filter(hears).count();
        let besides = usize::from(voters.contains(&id));
        heard > besides && heard * 2 > voters.len()
    }

    /// A voter that hears everybody who lives, if this leader does not.
    pub(super) fn hears_more(&self, now: Time) -> Option<NodeId> {
        let me = self.config.id;
        let lease = self.lease();
        let alive = |id: &NodeId| self.membership.alive(now, *id, lease);
        let members = self.state.members.keys().copied().filter(|id| *id != me);
        let (here, not_here): (Vec<NodeId>, Vec<NodeId>) = members.partition(alive);
        // The silence of one that comes and goes is its own: the lead does not follow it.
        let missed =
            |id: &NodeId| self.is_heard_elsewhere(now, *id) && self.quarantine(now, *id).is_none();
        let missed: Vec<NodeId> = not_here.into_iter().filter(missed).collect();
        let out_of_reach: Vec<NodeId> =
            here.iter().copied().filter(|id| self.is_out_of_reach(now, *id)).collect();
        if missed.is_empty() && out_of_reach.is_empty() {
            return None;
        }
        let sees_all = |voter: &&NodeId| {
            let beat = self.membership.peer(**voter).map(|p| &p.beat);
            here.contains(voter)
                && !out_of_reach.contains(voter)
                && !self.is_to_leave(**voter)
                && self.quarantine(now, **voter).is_none()
                && !beat.is_some_and(|beat| beat.lags)
                && self.may_ask(now, **voter)
                && self.voter.consensus().lag(**voter).is_some_and(|lag| lag <= NEAR_LAG_MAX)
                && beat.is_some_and(|beat| {
                    here.iter().chain(&missed).all(|id| id == *voter || beat.hears_somehow(*id))
                        && out_of_reach.iter().all(|id| beat.hears(*id))
                })
        };
        self.voter.consensus().voters().iter().find(sees_all).copied()
    }
}
