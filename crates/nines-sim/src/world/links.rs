//! Links between machines: what is cut, lost, late or sent twice.

use nines_core::{
    Event, peek,
    voter::consensus,
    wire::{Frame, frame},
};
use nines_model::NodeId;
use prost::Message as _;

use super::{Happening, Sabotage, World};
use crate::timing::DELAY_MAX_NS;

/// Field of [`Frame`] with a message of the consensus.
const RAFT: u64 = 3;

/// The term and the receiver of a vote that a frame brings, in answer or as the candidate's own.
fn vote(bytes: &[u8]) -> Option<(u64, u64)> {
    // Most frames are heartbeats.
    peek::field(bytes, RAFT)?;
    match Frame::decode(bytes).ok()?.kind? {
        frame::Kind::Raft(message) => {
            consensus::gives_vote(&message).map(|(term, to)| (term, to.number()))
        }
        _ => None,
    }
}

impl World {
    /// Nothing passes from one to the other, on no card; `both`: nor back.
    pub fn cut(&mut self, from: u64, to: u64, both: bool) {
        for card in 0..self.scenario.cards {
            self.cut_card(from, to, card);
            if both {
                self.cut_card(to, from, card);
            }
        }
    }

    /// Nothing passes from one to the other on this card.
    pub fn cut_card(&mut self, from: u64, to: u64, card: usize) {
        self.cut.insert((to, from, card));
    }

    /// Everything passes again from one to the other.
    pub fn mend(&mut self, from: u64, to: u64) {
        self.cut.retain(|(at, by, _)| (*at, *by) != (to, from));
    }

    /// This card of a machine sends nothing and receives nothing.
    pub fn fail_card(&mut self, id: u64, card: usize) {
        let all: Vec<u64> = self.machines.keys().copied().collect();
        for other in all {
            self.cut_card(id, other, card);
            self.cut_card(other, id, card);
        }
    }

    /// One of the cards of a machine, by chance.
    pub fn draw_card(&mut self) -> usize {
        self.random.below(self.scenario.cards as u64) as usize
    }

    /// Whether a message on this card passes.
    fn passes(&self, from: u64, to: u64, card: usize) -> bool {
        !self.cut.contains(&(to, from, card))
    }

    /// Whether a connection over some card can work.
    pub(super) fn connects(&self, from: u64, to: u64) -> bool {
        let works = |card| self.passes(from, to, card) && self.passes(to, from, card);
        (0..self.scenario.cards).any(works)
    }

    /// How many other machines that run a node hears, itself or through a third one; copies count
    /// for nothing.
    pub(super) fn hears(&self, id: u64) -> usize {
        let others = self.machines.keys().filter(|o| **o != id && self.is_up(**o));
        let counts = |o: &u64| self.hears_from(id, *o) || self.hears_through(id, *o);
        others.filter(|o| counts(o)).count()
    }

    /// Whether a node hears another one over a link between them.
    fn hears_from(&self, id: u64, other: u64) -> bool {
        (0..self.scenario.cards).any(|card| self.passes(other, id, card))
    }

    /// Whether a third node hears the other one and is heard.
    fn hears_through(&self, id: u64, other: u64) -> bool {
        let third = self.machines.keys().filter(|third| ![id, other].contains(third));
        let passes_on = |third: u64| self.hears_from(third, other) && self.hears_from(id, third);
        third.copied().any(|third| passes_on(third) && self.is_up(third))
    }

    /// Whether a machine runs and is none of the copies.
    fn is_up(&self, id: u64) -> bool {
        let machine = &self.machines[&id];
        id != self.copy_id() && machine.node.is_some() && machine.paused_until <= self.now
    }

    /// All links work again.
    pub fn mend_all_links(&mut self) {
        self.cut.clear();
    }

    pub(super) fn send(&mut self, from: u64, to: u64, mut bytes: Vec<u8>) {
        if self.sabotage == Sabotage::SetsMisread {
            self.misread(&mut bytes);
        }
        self.as_sent(from, &mut bytes);
        if let Some(vote) = vote(&bytes) {
            self.machines.get_mut(&from).expect("it sends").told_vote = Some(vote);
        }
        let there = self.machines.iter().filter(|(_, m)| m.identity == to);
        let there: Vec<u64> = there.map(|(machine, _)| *machine).collect();
        for machine in there {
            for card in 0..self.scenario.cards {
                if self.passes(from, machine, card) {
                    self.send_to(from, machine, card, &bytes);
                }
            }
        }
    }

    fn send_to(&mut self, from: u64, to: u64, card: usize, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        self.as_received(to, &mut bytes);
        let identity = self.machines[&from].identity;
        let copies = 1 + u64::from(self.random.chance(10));
        for _ in 0..copies {
            if self.random.chance(self.loss_permille) {
                continue;
            }
            // Mostly under a millisecond, sometimes late enough to be overtaken.
            let late = if self.random.chance(20) { DELAY_MAX_NS } else { 1_000_000 };
            let delay = 50_000 + self.random.below(late - 50_000);
            let event = Event::Frame { from: NodeId(identity), link: card, bytes: bytes.clone() };
            self.schedule(delay, to, Happening::Deliver(event));
        }
    }
}
