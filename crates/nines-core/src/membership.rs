//! Which peers are heard: heartbeats by peer and link.
//!
//! Decides: when a peer counts as silent. A peer is alive while any link brought a heartbeat within
//! a lease; after this node itself was not running for a while it first listens again, so that its
//! own pause is not taken for everybody's death.

use std::collections::BTreeMap;

use nines_model::{Millis, NodeId, Time};

use self::{
    clock::{ClockRate, Ppm},
    links::LinkQuality,
    probe::LargeDatagrams,
    quarantine::LinkReturns,
};
use crate::{
    lease::promise_ns,
    wire::{Heartbeat, LinkEcho},
};

pub mod clock;
pub mod links;
pub mod probe;
pub mod quarantine;

/// A peer is told so often which of its heartbeats came, for the round trip of each link.
const ECHO_EVERY: Millis = Millis(200);

/// In place of a link: through a third node.
pub const THROUGH_OTHERS: usize = usize::MAX;

/// What the last heartbeats of a peer said.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// When a heartbeat last came, by our link.
    pub heard: BTreeMap<usize, Time>,
    /// When the newest heartbeat of its incarnation that came there was sent, by its clock.
    sent: BTreeMap<usize, u64>,
    /// The newest heartbeat.
    pub beat: Heartbeat,
    /// When it came.
    pub at: Time,
    /// When one last came over a link between the two.
    pub direct: Time,
    /// Round trip of the newest acknowledged heartbeat, ns.
    pub rtt_ns: u64,
    /// When a heartbeat that renewed nothing was last answered.
    pub answered: Time,
    /// Was it alive when last looked at?
    pub was_alive: bool,
    /// Since when it has been alive, or silent.
    changed: Time,
    /// When it was last heard before its newest silence; `None`: it was never silent, or had said
    /// that it stops, or that it votes no more.
    before_silence: Option<Time>,
    /// How often each of our links to it came back.
    returns: BTreeMap<usize, LinkReturns>,
    /// Its large datagrams, by our link.
    large: BTreeMap<usize, LargeDatagrams>,
    /// Numbers of the first and of the newest heartbeat of its incarnation; 0: it does not number
    /// them.
    numbers: (u64, u64),
    /// What each of our links brings of its heartbeats.
    quality: BTreeMap<usize, LinkQuality>,
    /// When it was last told which of its heartbeats came.
    echoed: Time,
    /// How fast its clock runs.
    clock: ClockRate,
}

impl Peer {
    /// What one of our links brings of its heartbeats, and the newest number that any brought.
    pub fn quality(&self, link: usize) -> Option<(&LinkQuality, u64)> {
        Some((self.quality.get(&link)?, self.numbers.1))
    }

    /// What one of our links brings of its large datagrams.
    pub fn large(&self, link: usize) -> Option<&LargeDatagrams> {
        self.large.get(&link)
    }

    /// Our links that bring none of them.
    pub fn loses_large(&self) -> impl Iterator<Item = usize> {
        self.large.iter().filter(|(_, of)| of.are_lost()).map(|(link, _)| *link)
    }

    /// Notes which links are heard.
    fn look_at_links(&mut self, now: Time, lease: Millis) {
        let up = |at: &Time| now.since(*at) < promise_ns(lease);
        let ups = self.heard.values().filter(|at| up(at)).count();
        for (link, at) in &self.heard {
            let heard = up(at);
            let others = ups > usize::from(heard);
            self.returns.entry(*link).or_default().look(now, heard, others);
        }
    }

    /// How long it has been heard without a break, ns; 0: it is silent.
    pub fn heard_for(&self, now: Time) -> u64 {
        if self.was_alive { now.since(self.changed) } else { 0 }
    }

    /// When it was last heard before its newest silence; `None`: it was never silent, or had said
    /// that it stops, or that it votes no more.
    pub fn before_silence(&self) -> Option<Time> {
        self.before_silence
    }

    /// How often one of our links to it came back within an hour, and how long it is still kept out
    /// of use; `None`: it is not.
    pub fn link_quarantine(&self, now: Time, link: usize) -> Option<(usize, Millis)> {
        self.returns.get(&link)?.quarantine(now)
    }

    /// By how much this node's clock runs faster than the peer's; `None`: not known.
    pub fn clock_ahead(&self) -> Option<Ppm> {
        self.clock.ahead()
    }

    /// Round trip over the fastest link, ns; 0: not known.
    pub fn trip_ns(&self) -> u64 {
        let links = self.quality.values().map(LinkQuality::trip_ns).filter(|ns| *ns > 0);
        links.min().unwrap_or(self.rtt_ns)
    }
}

/// What this node has heard of each of its peers.
#[derive(Clone, Debug, Default)]
pub struct Membership {
    peers: BTreeMap<NodeId, Peer>,
    listened_since: Time,
    ran_at: Time,
}

impl Membership {
    /// Notes that this node runs now. A gap of half a lease means it did not.
    pub fn running(&mut self, now: Time, lease: Millis) {
        if now.since(self.ran_at) > lease.ns() / 2 {
            self.listened_since = now;
        }
        self.ran_at = now;
    }

    /// A heartbeat came; false if it is older than one already heard. Only a newer heartbeat is a
    /// sign of life. Times of two incarnations are not compared: the boot clock starts anew
    /// with the machine.
    pub fn heard(&mut self, now: Time, from: NodeId, link: usize, beat: Heartbeat) -> bool {
        let peer = self.peers.entry(from).or_default();
        let first = peer.at == Time(0) || beat.incarnation() != peer.beat.incarnation();
        if first {
            peer.sent.clear();
            peer.quality.clear();
            peer.large.clear();
            peer.numbers = (0, 0);
            peer.clock = ClockRate::default();
        }
        let through = link == THROUGH_OTHERS;
        if !through && peer.sent.get(&link).is_none_or(|sent| beat.sent_ns > *sent) {
            peer.sent.insert(link, beat.sent_ns);
            peer.heard.insert(link, now);
            peer.direct = now;
        }
        if first || beat.sent_ns > peer.beat.sent_ns {
            peer.at = now;
            if !through {
                peer.clock.heard(now, beat.sent_ns);
            }
        } else if beat.sent_ns < peer.beat.sent_ns {
            return false;
        }
        peer.beat = beat;
        true
    }

    /// What a heartbeat, which was taken in a moment ago, shows of the link it came over.
    pub fn note_link(&mut self, now: Time, from: NodeId, link: usize, beat: &Heartbeat) {
        let (number, echoes) = (beat.number, &beat.echoes);
        let counts = number > 0 && link != THROUGH_OTHERS;
        let Some(peer) = self.peers.get_mut(&from).filter(|_| counts) else { return };
        let (first, newest) = &mut peer.numbers;
        if *first == 0 {
            *first = number;
        }
        *newest = number.max(*newest);
        let quality = peer.quality.entry(link).or_insert_with(|| LinkQuality::new(*first));
        quality.came(now, number, *newest);
        for echo in echoes.iter().filter(|echo| usize::try_from(echo.link) == Ok(link)) {
            quality.echoed(now, echo);
            peer.large.entry(link).or_default().told(echo.large_lost);
        }
        let loss = || quality.loss(*newest);
        peer.large.entry(link).or_default().beat(now, beat.probes, loss);
    }

    /// A probe of a peer came over a link.
    pub fn note_probe(&mut self, now: Time, from: NodeId, link: usize, number: u64) {
        if let Some(peer) = self.peers.get_mut(&from).filter(|_| link != THROUGH_OTHERS) {
            peer.large.entry(link).or_default().came(now, number);
        }
    }

    /// Which heartbeats of a peer came last, by link; none: it was told a moment ago.
    pub fn echoes_for(&mut self, now: Time, to: NodeId) -> Vec<LinkEcho> {
        let Some(peer) = self.peers.get_mut(&to) else { return Vec::new() };
        if now.since(peer.echoed) < ECHO_EVERY.ns() || peer.numbers.1 == 0 {
            return Vec::new();
        }
        peer.echoed = now;
        let echo = |(link, at): (&usize, &Time)| {
            let link_number = u32::try_from(*link).ok()?;
            let (sent_ns, held_ns) = (*peer.sent.get(link)?, now.since(*at));
            // What is so old tells of no link that works.
            (held_ns < Millis(1_000).ns()).then_some(LinkEcho {
                link: link_number,
                sent_ns,
                held_ns,
                large_lost: peer.large.get(link).is_some_and(LargeDatagrams::are_lost),
            })
        };
        peer.heard.iter().filter_map(echo).collect()
    }

    /// It is no member any more: its silence is nobody's business.
    pub fn forget(&mut self, id: NodeId) {
        self.peers.remove(&id);
    }

    /// How long this node has listened without a gap, ns.
    pub fn listening(&self, now: Time) -> u64 {
        now.since(self.listened_since)
    }

    /// Everybody who was ever heard.
    pub fn ever_heard(&self) -> impl Iterator<Item = NodeId> {
        self.peers.keys().copied()
    }

    /// Whether a heartbeat that renews nothing should be answered: five times a second, for the
    /// round trip. Renewals are always answered.
    pub fn owes_answer(&mut self, now: Time, from: NodeId) -> bool {
        let peer = self.peers.entry(from).or_default();
        let owes = now.since(peer.answered) >= Millis(200).ns();
        if owes {
            peer.answered = now;
        }
        owes
    }

    /// An acknowledgement told the round trip.
    pub fn round_trip(&mut self, from: NodeId, ns: u64) {
        self.peers.entry(from).or_default().rtt_ns = ns;
    }

    /// A peer, if it was ever heard.
    pub fn peer(&self, id: NodeId) -> Option<&Peer> {
        self.peers.get(&id)
    }

    /// Heard within the lease it asked for, on any link, and taking part: one that votes no more
    /// still speaks.
    pub fn alive(&self, now: Time, id: NodeId, lease: Millis) -> bool {
        self.speaks(now, id, lease) && self.peers[&id].beat.broken.is_empty()
    }

    /// Heard within the lease it asked for, on any link.
    pub fn speaks(&self, now: Time, id: NodeId, lease: Millis) -> bool {
        self.peers.get(&id).is_some_and(|p| {
            let length = Millis(p.beat.lease_ms).max(lease);
            p.at != Time(0) && now.since(p.at) < promise_ns(length)
        })
    }

    /// No heartbeat for one lease, and this node itself ran for all of it: so the silence is the
    /// peer's.
    pub fn silent(&self, now: Time, id: NodeId, lease: Millis) -> bool {
        !self.alive(now, id, lease) && now.since(self.listened_since) >= promise_ns(lease)
    }

    /// Is the link heard? `None`: never was.
    pub fn link_up(&self, now: Time, id: NodeId, link: usize, lease: Millis) -> Option<bool> {
        let heard = self.peers.get(&id)?.heard.get(&link)?;
        Some(now.since(*heard) < promise_ns(lease))
    }

    /// Peers whose state changed since the last look: (id, alive now).
    pub fn changes(&mut self, now: Time, lease: Millis) -> Vec<(NodeId, bool)> {
        let ids: Vec<NodeId> = self.peers.keys().copied().collect();
        let mut changed = Vec::new();
        for id in ids {
            let alive = self.alive(now, id, lease);
            let silent = self.silent(now, id, lease);
            let peer = self.peers.get_mut(&id).expect("listed a moment ago");
            if alive != peer.was_alive && (alive || silent) {
                (peer.was_alive, peer.changed) = (alive, now);
                if !alive {
                    let said = peer.beat.leaving || !peer.beat.broken.is_empty();
                    peer.before_silence = (!said).then_some(peer.at);
                }
                changed.push((id, alive));
            }
            if now.since(self.listened_since) >= promise_ns(lease) {
                peer.look_at_links(now, lease);
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const PEER: NodeId = NodeId(2);
    const LEASE: Millis = Millis(100);

    fn beat(ms: u64) -> Heartbeat {
        Heartbeat { sent_ns: ms * MS, lease_ms: 100, ..Heartbeat::default() }
    }

    #[test]
    fn one_link_is_enough_and_silence_is_told_once() {
        let mut m = Membership::default();
        for t in 0..50 {
            m.running(Time(t * 10 * MS), LEASE);
        }
        m.heard(Time(500 * MS), PEER, 0, beat(1));
        m.heard(Time(560 * MS), PEER, 1, beat(2));
        assert_eq!(m.changes(Time(561 * MS), LEASE), [(PEER, true)]);
        for t in 50..70 {
            m.running(Time(t * 10 * MS), LEASE);
        }
        assert!(m.alive(Time(650 * MS), PEER, LEASE));
        assert_eq!(m.link_up(Time(650 * MS), PEER, 0, LEASE), Some(false));
        assert_eq!(m.link_up(Time(650 * MS), PEER, 1, LEASE), Some(true));
        assert_eq!(m.changes(Time(700 * MS), LEASE), [(PEER, false)]);
        assert_eq!(m.changes(Time(701 * MS), LEASE), []);
    }

    #[test]
    fn an_older_beat_is_no_sign_of_life() {
        let mut m = Membership::default();
        m.running(Time(500 * MS), LEASE);
        assert!(m.heard(Time(500 * MS), PEER, 0, beat(400)));
        assert!(!m.heard(Time(550 * MS), PEER, 0, beat(390)));
        assert!(m.heard(Time(590 * MS), PEER, 0, beat(400)), "the same again, late");
        assert!(!m.alive(Time(601 * MS), PEER, LEASE), "silent since 500 ms");
        assert_eq!(m.link_up(Time(601 * MS), PEER, 0, LEASE), Some(false));
        // The slower link of two is one that works.
        assert!(m.heard(Time(610 * MS), PEER, 0, beat(420)));
        assert!(!m.heard(Time(610 * MS), PEER, 1, beat(410)));
        assert_eq!(m.link_up(Time(620 * MS), PEER, 1, LEASE), Some(true));
    }

    #[test]
    fn a_machine_that_boots_twice_is_heard_at_once() {
        let mut m = Membership::default();
        m.running(Time(90_000 * MS), LEASE);
        assert!(m.heard(Time(90_000 * MS), PEER, 0, Heartbeat { incarnation: 1, ..beat(50_000) }));
        assert!(m.heard(Time(91_000 * MS), PEER, 0, Heartbeat { incarnation: 2, ..beat(30_000) }));
        assert!(m.alive(Time(91_001 * MS), PEER, LEASE));
        assert_eq!(m.link_up(Time(91_001 * MS), PEER, 0, LEASE), Some(true));
        assert!(m.heard(Time(92_000 * MS), PEER, 0, Heartbeat { incarnation: 3, ..beat(40_000) }));
        assert!(m.alive(Time(92_001 * MS), PEER, LEASE));
    }

    #[test]
    fn our_own_pause_is_not_their_death() {
        let mut m = Membership::default();
        m.running(Time(10 * MS), LEASE);
        m.heard(Time(10 * MS), PEER, 0, beat(1));
        m.changes(Time(10 * MS), LEASE);
        m.running(Time(9_000 * MS), LEASE);
        assert!(!m.silent(Time(9_000 * MS), PEER, LEASE));
        m.running(Time(9_040 * MS), LEASE);
        m.running(Time(9_080 * MS), LEASE);
        m.running(Time(9_101 * MS), LEASE);
        assert!(m.silent(Time(9_101 * MS), PEER, LEASE), "it had its chance");
    }
}
