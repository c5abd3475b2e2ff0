//! Incarnations: which frames of a node count, and what a node tells of two that run at once.
//!
//! Decides: which nodes are double, and what that forbids. The rule is in `incarnations.rs`; what
//! this node's own incarnation may do is in `voter/own_incarnation.rs`.

use std::collections::BTreeSet;

use nines_model::{Incarnation, NodeId, Time};
use nines_planner::Doubt;

use super::Node;
use crate::{
    event_log::EventKind,
    incarnations::{Incarnations, Sender, Standing},
    wire::{Frame, NodeIncarnation},
};

/// The incarnations that this node hears.
#[derive(Default)]
pub(super) struct HeardIncarnations {
    heard: Incarnations,
    /// Nodes that are double, when the leader last told it.
    told: BTreeSet<NodeId>,
}

impl HeardIncarnations {
    /// The incarnation of a node that counts.
    pub(super) fn current(&self, id: NodeId) -> Incarnation {
        self.heard.current(id)
    }
}

impl Node {
    /// This incarnation takes no part: it started from a copied or moved state directory.
    pub fn is_moved(&self) -> bool {
        self.voter.is_moved()
    }

    /// Nodes of which two incarnations run at once, as far as this node or those it hears know.
    pub fn double(&self, now: Time) -> BTreeSet<NodeId> {
        let mut double = self.incarnation.heard.double(now);
        let lease = self.lease();
        for id in self.membership.ever_heard() {
            if let Some(peer) = self.membership.peer(id).filter(|p| !p.beat.double.is_empty())
                && self.membership.alive(now, id, lease)
            {
                double.extend(peer.beat.double());
            }
        }
        double
    }

    /// Two agents run as this node.
    pub fn is_double(&self, now: Time, id: NodeId) -> bool {
        let says = |peer: NodeId| {
            self.membership.peer(peer).is_some_and(|p| p.beat.double().any(|node| node == id))
                && self.membership.alive(now, peer, self.lease())
        };
        self.incarnation.heard.is_double(now, id) || self.membership.ever_heard().any(says)
    }

    /// Whether what the current incarnation of a node asks for is granted.
    pub fn may_ask(&self, now: Time, id: NodeId) -> bool {
        !self.incarnation.heard.is_moved(id) && !self.is_double(now, id)
    }

    /// Why the current incarnation of a node does not count; `None`: it counts.
    pub fn doubt(&self, now: Time, id: NodeId) -> Option<Doubt> {
        if self.is_double(now, id) {
            return Some(Doubt::RunsTwice);
        }
        let own = id == self.config.id && self.is_moved();
        (own || self.incarnation.heard.is_moved(id)).then_some(Doubt::Unconfirmed)
    }

    /// Nodes of which this node itself hears two incarnations, for its heartbeats.
    pub(super) fn hears_double(&self, now: Time) -> BTreeSet<NodeId> {
        self.incarnation.heard.double(now)
    }

    /// Moved incarnations that this node would let count, for its heartbeats.
    pub(super) fn confirmed_lives(&self) -> Vec<NodeIncarnation> {
        let confirmed = self.incarnation.heard.confirmed().into_iter();
        confirmed.map(|(node, incarnation)| NodeIncarnation::of(node, incarnation)).collect()
    }

    /// What the incarnation that sent a frame is.
    pub(super) fn standing(&mut self, now: Time, from: NodeId, frame: &Frame) -> Standing {
        let listening = self.membership.listening(now);
        let Frame { starts, moved, .. } = *frame;
        let sender = Sender { incarnation: frame.incarnation(), starts, moved };
        self.incarnation.heard.hear(now, from, sender, listening)
    }

    /// A moved incarnation takes part once all other voters have confirmed it, and the disk knows.
    pub(super) fn confirm(&mut self, now: Time) {
        if !self.voter.awaits_confirmation() {
            return;
        }
        let (me, lease) = (self.config.id, self.lease());
        let mine = NodeIncarnation::of(me, self.config.boot);
        let confirms = |id: &NodeId| {
            let beat = self.membership.peer(*id).map(|p| &p.beat);
            self.membership.alive(now, *id, lease)
                && beat.is_some_and(|b| b.confirmed.contains(&mine))
        };
        let voters = self.voter.newest_voters(&self.state);
        if !voters.is_empty() && voters.iter().filter(|id| **id != me).all(confirms) {
            self.voter.confirmed(&mut self.actions);
        }
    }

    /// The leader tells, once, that a node is double.
    pub(super) fn tell_double(&mut self, now: Time) {
        let double = self.double(now);
        if double == self.incarnation.told
            || (!self.voter.consensus().leads() && !double.is_empty())
        {
            return;
        }
        let new: Vec<NodeId> = double.difference(&self.incarnation.told).copied().collect();
        self.incarnation.told = double;
        for id in new {
            let name = self.name_of(id);
            let text = format!(
                "two agents run as {name}: neither counts as a voter and neither holds a VIP"
            );
            self.record_event(now, EventKind::TwoIncarnations, name, text, "auto", String::new());
        }
    }
}
