//! Lives: whose frames this node counts, and whether its own life may take part.
//!
//! A life that starts where the newest one on this disk ran takes part at once. One that starts
//! elsewhere started from a copy, or the disk has moved: it votes for nothing, promises nothing and
//! holds nothing until every other voter has confirmed that no other life of this node speaks.
//!
//! Decides: what moves, what is double, and what that forbids. The rule is in `lives.rs`.

use std::collections::BTreeSet;

use nines_model::Time;

use super::{Config, Node};
use crate::{
    action::Action,
    lives::{Lives, Sender, Standing},
    wire::{Frame, KeptLife, Life, Persist, Persisted},
};

/// This node's own life, and those it hears.
#[derive(Default)]
pub(super) struct OwnLife {
    pub(super) heard: Lives,
    /// The life before, if it ended on this machine since it booted.
    pub(super) heir_of: u64,
    /// How often agents have started from this disk, this life included.
    pub(super) starts: u64,
    /// This life is not confirmed by everybody yet.
    pub(super) moved: bool,
    /// The disk write after which it takes part; 0: none was asked for.
    confirming: u64,
    /// Nodes that are double, when the leader last told it.
    told: BTreeSet<u64>,
}

impl OwnLife {
    pub(super) fn new(config: &Config, kept: &Persisted) -> Self {
        let before = &kept.life;
        let moved = before.place != 0 && before.place != config.place;
        let here = !moved && before.machine_boot == config.machine_boot;
        let heir_of = if here { before.life } else { 0 };
        Self { heir_of, moved, starts: before.starts + 1, ..Self::default() }
    }
}

impl Node {
    /// This life takes no part: it started from a copied or moved state directory.
    pub fn is_moved(&self) -> bool {
        self.life.moved
    }

    /// Nodes of which two lives run at once, as far as this node or those it hears know.
    pub fn double(&self, now: Time) -> BTreeSet<u64> {
        let mut double = self.life.heard.double(now);
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
        self.life.heard.is_double(now, id) || self.membership.ever_heard().any(says)
    }

    /// Whether what the current life of a node asks for is granted.
    pub fn may_ask(&self, now: Time, id: u64) -> bool {
        !self.life.heard.is_moved(id) && !self.is_double(now, id)
    }

    /// Nodes of which this node itself hears two lives, for its beats.
    pub(super) fn hears_double(&self, now: Time) -> Vec<u64> {
        self.life.heard.double(now).into_iter().collect()
    }

    /// Moved lives that this node would let count, for its beats.
    pub(super) fn confirmed_lives(&self) -> Vec<Life> {
        let confirmed = self.life.heard.confirmed().into_iter();
        confirmed.map(|(node, life)| Life { node, life }).collect()
    }

    /// What the life that sent a frame is.
    pub(super) fn standing(&mut self, now: Time, from: u64, frame: &Frame) -> Standing {
        let listening = self.membership.listening(now);
        let Frame { life, starts, moved, .. } = *frame;
        self.life.heard.hear(now, from, Sender { life, starts, moved }, listening)
    }

    /// Puts this life on the disk where it has the right to be there.
    pub(super) fn keep_life(&mut self) -> u64 {
        let config = &self.config;
        let (life, machine_boot, place) = (config.boot, config.machine_boot, config.place);
        let starts = self.life.starts;
        let life = Some(KeptLife { life, machine_boot, place, starts });
        self.keep(Persist { life, ..Persist::default() })
    }

    /// Asks the disk for something that the consensus does not wait for.
    pub(super) fn keep(&mut self, persist: Persist) -> u64 {
        let number = self.next_long;
        self.next_long += 1;
        self.actions.push(Action::Persist(number, Box::new(persist)));
        number
    }

    /// A moved life takes part once all other voters have confirmed it, and the disk knows.
    pub(super) fn confirm(&mut self, now: Time) {
        if !self.life.moved || self.life.confirming != 0 || self.broken.is_some() {
            return;
        }
        let (me, life, lease) = (self.config.id, self.config.boot, self.lease());
        let mine = Life { node: me, life };
        let confirms = |id: &u64| {
            let beat = self.membership.peer(*id).map(|p| &p.beat);
            self.membership.alive(now, *id, lease)
                && beat.is_some_and(|b| b.confirmed.contains(&mine))
        };
        let voters = self.consensus.voters();
        if !voters.is_empty() && voters.iter().filter(|id| **id != me).all(confirms) {
            self.life.confirming = self.keep_life();
        }
    }

    /// A write beside the log is on disk.
    pub(super) fn kept(&mut self, number: u64) {
        // In order: the newest is on disk when the last number asked for is.
        if number + 1 == self.next_long {
            self.bound.kept = self.bound.asked;
        }
        if self.life.confirming != 0 && number >= self.life.confirming && self.life.moved {
            self.life.moved = false;
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
        if double == self.life.told || (!self.consensus.leads() && !double.is_empty()) {
            return;
        }
        let new: Vec<u64> = double.difference(&self.life.told).copied().collect();
        self.life.told = double;
        for id in new {
            let name = self.name_of(id);
            let text = format!(
                "two agents run as {name}: neither counts as a voter and neither holds a VIP"
            );
            self.tell(now, "two-lives", name, text, "auto", String::new());
        }
    }
}
