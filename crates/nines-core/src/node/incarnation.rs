//! Incarnations: whose frames this node counts, and whether its own incarnation may take part.
//!
//! An incarnation that starts where the newest one on this disk ran takes part at once. One that
//! starts elsewhere started from a copy, or the disk has moved: it votes for nothing, promises
//! nothing and holds nothing until every other voter has confirmed that no other incarnation of
//! this node speaks.
//!
//! Decides: what moves, what is double, and what that forbids. The rule is in `incarnations.rs`.

use std::collections::BTreeSet;

use nines_model::Time;
use nines_planner::Doubt;

use super::{Config, Node};
use crate::{
    action::Action,
    event_log::EventKind,
    incarnations::{Incarnations, Sender, Standing},
    wire::{Frame, Incarnation, KeptIncarnation, Persist, Persisted},
};

/// This node's own incarnation, and those it hears.
#[derive(Default)]
pub(super) struct OwnIncarnation {
    pub(super) heard: Incarnations,
    /// The incarnation before, if it ended on this machine since it booted.
    pub(super) heir_of: u64,
    /// How often agents have started from this disk, this incarnation included.
    pub(super) starts: u64,
    /// This incarnation is not confirmed by everybody yet.
    pub(super) moved: bool,
    /// The disk write after which it takes part; 0: none was asked for.
    confirming: u64,
    /// Nodes that are double, when the leader last told it.
    told: BTreeSet<u64>,
}

impl OwnIncarnation {
    pub(super) fn new(config: &Config, kept: &Persisted) -> Self {
        let before = &kept.incarnation;
        let moved = before.place != 0 && before.place != config.place;
        let here = !moved && before.machine_boot == config.machine_boot;
        let heir_of = if here { before.incarnation } else { 0 };
        Self { heir_of, moved, starts: before.starts + 1, ..Self::default() }
    }
}

impl Node {
    /// This incarnation takes no part: it started from a copied or moved state directory.
    pub fn is_moved(&self) -> bool {
        self.incarnation.moved
    }

    /// Nodes of which two incarnations run at once, as far as this node or those it hears know.
    pub fn double(&self, now: Time) -> BTreeSet<u64> {
        let mut double = self.incarnation.heard.double(now);
        let lease = self.lease();
        for id in self.membership.ever_heard() {
            if let Some(peer) = self.membership.peer(id).filter(|p| !p.beat.double.is_empty())
                && self.membership.alive(now, id, lease)
            {
                double.extend(&peer.beat.double);
            }
        }
        double
    }

    /// Two agents run as this node.
    pub fn is_double(&self, now: Time, id: u64) -> bool {
        let says = |peer: u64| {
            self.membership.peer(peer).is_some_and(|p| p.beat.double.contains(&id))
                && self.membership.alive(now, peer, self.lease())
        };
        self.incarnation.heard.is_double(now, id) || self.membership.ever_heard().any(says)
    }

    /// Whether what the current incarnation of a node asks for is granted.
    pub fn may_ask(&self, now: Time, id: u64) -> bool {
        !self.incarnation.heard.is_moved(id) && !self.is_double(now, id)
    }

    /// Why the current incarnation of a node does not count; `None`: it counts.
    pub fn doubt(&self, now: Time, id: u64) -> Option<Doubt> {
        if self.is_double(now, id) {
            return Some(Doubt::RunsTwice);
        }
        let own = id == self.config.id && self.is_moved();
        (own || self.incarnation.heard.is_moved(id)).then_some(Doubt::Unconfirmed)
    }

    /// Nodes of which this node itself hears two incarnations, for its heartbeats.
    pub(super) fn hears_double(&self, now: Time) -> Vec<u64> {
        self.incarnation.heard.double(now).into_iter().collect()
    }

    /// Moved incarnations that this node would let count, for its heartbeats.
    pub(super) fn confirmed_lives(&self) -> Vec<Incarnation> {
        let confirmed = self.incarnation.heard.confirmed().into_iter();
        confirmed.map(|(node, incarnation)| Incarnation { node, incarnation }).collect()
    }

    /// What the incarnation that sent a frame is.
    pub(super) fn standing(&mut self, now: Time, from: u64, frame: &Frame) -> Standing {
        let listening = self.membership.listening(now);
        let Frame { incarnation, starts, moved, .. } = *frame;
        self.incarnation.heard.hear(now, from, Sender { incarnation, starts, moved }, listening)
    }

    /// Puts this incarnation on the disk where it has the right to be there.
    pub(super) fn keep_life(&mut self) -> u64 {
        let config = &self.config;
        let (incarnation, machine_boot, place) = (config.boot, config.machine_boot, config.place);
        let starts = self.incarnation.starts;
        let incarnation = Some(KeptIncarnation { incarnation, machine_boot, place, starts });
        self.keep(Persist { incarnation, ..Persist::default() })
    }

    /// Asks the disk for something that the consensus does not wait for.
    pub(super) fn keep(&mut self, persist: Persist) -> u64 {
        let number = self.next_long;
        self.next_long += 1;
        self.actions.push(Action::Persist(number, Box::new(persist)));
        number
    }

    /// A moved incarnation takes part once all other voters have confirmed it, and the disk knows.
    pub(super) fn confirm(&mut self, now: Time) {
        if !self.incarnation.moved || self.incarnation.confirming != 0 || self.broken.is_some() {
            return;
        }
        let (me, incarnation, lease) = (self.config.id, self.config.boot, self.lease());
        let mine = Incarnation { node: me, incarnation };
        let confirms = |id: &u64| {
            let beat = self.membership.peer(*id).map(|p| &p.beat);
            self.membership.alive(now, *id, lease)
                && beat.is_some_and(|b| b.confirmed.contains(&mine))
        };
        let voters = self.consensus.voters();
        if !voters.is_empty() && voters.iter().filter(|id| **id != me).all(confirms) {
            self.incarnation.confirming = self.keep_life();
        }
    }

    /// A write beside the log is on disk.
    pub(super) fn kept(&mut self, number: u64) {
        // In order: the newest is on disk when the last number asked for is.
        if number + 1 == self.next_long {
            self.promise_bound.kept = self.promise_bound.asked;
        }
        if self.incarnation.confirming != 0
            && number >= self.incarnation.confirming
            && self.incarnation.moved
        {
            self.incarnation.moved = false;
            self.log(
                "every other voter has confirmed that no other agent runs as this node; \
                      it takes part from now on"
                    .into(),
            );
        }
    }

    /// The leader tells, once, that a node is double.
    pub(super) fn tell_double(&mut self, now: Time) {
        let double = self.double(now);
        if double == self.incarnation.told || (!self.consensus.leads() && !double.is_empty()) {
            return;
        }
        let new: Vec<u64> = double.difference(&self.incarnation.told).copied().collect();
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
