//! Links between machines: what is cut, lost, late or sent twice.

use std::collections::{BTreeMap, BTreeSet};

use nines_core::Event;
use nines_model::{Millis, NodeId};

use super::{Happening, Sabotage, World};
use crate::timing::DELAY_MAX_NS;

/// A link in one direction: receiver, sender, card.
type Link = (u64, u64, usize);
/// Bytes of the largest datagram that passes where large ones do not.
const SMALL_MAX: usize = 1_000;

/// Links that work now and then.
#[derive(Default)]
pub(super) struct BadLinks {
    /// Messages lost of a thousand.
    loss: BTreeMap<Link, u64>,
    /// Those that come and go: since when, how long each takes, until when; ns.
    flaps: BTreeMap<Link, (u64, u64, u64)>,
}

impl BadLinks {
    /// Whether a link is away now.
    fn is_away(&self, link: Link, now: u64) -> bool {
        let away = |(since, every, until): &(u64, u64, u64)| {
            now < *until && ((now - since) / every).is_multiple_of(2)
        };
        self.flaps.get(&link).is_some_and(away)
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
        self.links_changed += 1;
        self.cut.insert((to, from, card));
        self.hears_since.insert((to, from), self.now);
    }

    /// Everything passes again from one to the other.
    pub fn mend(&mut self, from: u64, to: u64) {
        self.links_changed += 1;
        self.cut.retain(|(at, by, _)| (*at, *by) != (to, from));
        self.hears_since.insert((to, from), self.now);
    }

    /// This card of a machine sends nothing and receives nothing.
    pub fn fail_card(&mut self, id: u64, card: usize) {
        let all: Vec<u64> = self.machines.keys().copied().collect();
        for other in all {
            self.cut_card(id, other, card);
            self.cut_card(other, id, card);
        }
    }

    /// So many of a thousand messages are lost on this card, from one machine to another.
    pub fn lose_on_link(&mut self, (from, to, card): (u64, u64, usize), permille: u64) {
        self.bad_links.loss.insert((to, from, card), permille);
    }

    /// This card between two machines is away and back, in turns of this length, for so long.
    pub fn flap(&mut self, (a, b, card): (u64, u64, usize), every: Millis, length: Millis) {
        self.links_changed += 1;
        let until = self.now + length.ns();
        for (to, from) in [(a, b), (b, a)] {
            self.bad_links.flaps.insert((to, from, card), (self.now, every.ns(), until));
            self.hears_since.insert((to, from), until);
        }
    }

    /// One of the cards of a machine, by chance.
    pub fn draw_card(&mut self) -> usize {
        self.random.below(self.scenario.cards as u64) as usize
    }

    /// Whether a message on this card passes.
    fn passes(&self, from: u64, to: u64, card: usize) -> bool {
        let link = (to, from, card);
        !self.cut.contains(&link) && !self.bad_links.is_away(link, self.now)
    }

    /// Whether a connection over some card can work.
    pub(super) fn connects(&self, from: u64, to: u64) -> bool {
        let works = |card| self.passes(from, to, card) && self.passes(to, from, card);
        (0..self.scenario.cards).any(works)
    }

    /// For each machine which others that run it hears, itself or through a third one.
    pub(super) fn note_hearing(&mut self) {
        let up = self.machines.keys().filter(|id| self.is_up(**id));
        let key = (self.links_changed, up.fold(0, |up, id| up | 1 << (id % 128)));
        let few = self.machines.keys().next_back().is_none_or(|id| *id < 128);
        if few && self.bad_links.flaps.is_empty() && self.hearing.0 == key {
            return;
        }
        let by = self.machines.keys().map(|id| (*id, self.hears(*id))).collect();
        let (_, before) = std::mem::replace(&mut self.hearing, (key, by));
        for (id, others) in before {
            let hears = self.hearing.1.get(&id);
            let lost =
                others.into_iter().filter(|other| hears.is_none_or(|is| !is.contains(other)));
            self.heard_until.extend(lost.map(|other| ((id, other), self.now)));
        }
    }

    /// Which other machines that run a node hears, itself or through a third one; copies count for
    /// nothing.
    fn hears(&self, id: u64) -> BTreeSet<u64> {
        let others = self.machines.keys().filter(|o| **o != id && self.is_up(**o));
        let counts = |o: &u64| self.hears_from(id, *o) || self.hears_through(id, *o);
        others.filter(|o| counts(o)).copied().collect()
    }

    /// Whether a node hears another one over a link between them.
    pub(super) fn hears_from(&self, id: u64, other: u64) -> bool {
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
        self.links_changed += 1;
        for (to, from, _) in std::mem::take(&mut self.cut) {
            self.hears_since.insert((to, from), self.now);
        }
        self.bad_links = BadLinks::default();
    }

    pub(super) fn send(&mut self, from: u64, to: u64, mut bytes: Vec<u8>) {
        if self.sabotage == Sabotage::SetsMisread {
            self.misread(&mut bytes);
        }
        self.as_sent(from, &mut bytes);
        self.note_sent(from, &bytes);
        let there = self.machines.iter().filter(|(_, m)| m.identity == to);
        let there: Vec<u64> = there.map(|(machine, _)| *machine).collect();
        for machine in there {
            for card in 0..self.scenario.cards {
                let large = bytes.len() > SMALL_MAX && self.small_only.contains(&card);
                if self.passes(from, machine, card) && !large {
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
            let lost = self.bad_links.loss.get(&(to, from, card)).copied().unwrap_or_default();
            if self.random.chance(self.loss_permille.max(lost)) {
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
