//! Whether large datagrams pass where heartbeats do.
//!
//! Heartbeats are small. A link whose path carries less than its cards promise (an MTU black hole)
//! brings all of them, and none of the larger frames. So each node sends its peers a datagram of
//! full size now and then, over every link, and each heartbeat says how many there were.
//!
//! Decides: from when on large datagrams count as lost on a link.

use nines_model::{Millis, Time};

use super::links::Permille;

/// A datagram of full size goes to each peer so often.
pub const PROBE_EVERY: Millis = Millis(2_000);
/// So many in a row that did not come are no chance, on a link that brings heartbeats.
const LOST: u64 = 5;
/// A link that brought nothing for so long was down: probes that were lost then say nothing.
const DOWN: Millis = Millis(1_000);
/// Of a link that loses more of its heartbeats than this, in thousandths, lost probes say nothing.
const LOSS_MAX: Permille = 200;

/// Large datagrams of a peer over one link.
#[derive(Clone, Copy, Debug, Default)]
pub struct LargeDatagrams {
    /// Number of the newest that came, or had been sent when the link was first heard.
    newest: u64,
    /// When the link last brought anything.
    at: Time,
    /// None of the last ones came here.
    lost: bool,
    /// The peer says that none of this node's came there.
    lost_there: bool,
}

impl LargeDatagrams {
    /// A heartbeat came over the link; `sent`: probes that the peer has sent so far; `loss`: the
    /// share of its heartbeats that the link loses.
    pub(super) fn beat(&mut self, now: Time, sent: u64, loss: impl FnOnce() -> Permille) {
        let down = self.at == Time(0) || now.since(self.at) >= DOWN.ns();
        if down || (sent > self.newest && loss() > LOSS_MAX) {
            self.newest = sent;
        }
        self.at = now;
        self.lost = sent.saturating_sub(self.newest) >= LOST;
    }

    /// A probe came over the link.
    pub(super) fn came(&mut self, now: Time, number: u64) {
        (self.newest, self.at, self.lost) = (self.newest.max(number), now, false);
    }

    /// What the peer says of this node's probes over the link.
    pub(super) fn told(&mut self, lost_there: bool) {
        self.lost_there = lost_there;
    }

    /// Whether large datagrams of the peer do not come here.
    pub const fn are_lost(&self) -> bool {
        self.lost
    }

    /// Whether large datagrams of this node do not come to the peer, as it says.
    pub const fn are_lost_there(&self) -> bool {
        self.lost_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Time {
        Time(Millis(seconds * 1_000).ns())
    }

    #[test]
    fn five_in_a_row_are_lost_and_one_that_comes_ends_it() {
        let mut link = LargeDatagrams::default();
        link.beat(Time(1), 7, || 0);
        for sent in 8..=11 {
            link.beat(Time(sent), sent, || 0);
            assert!(!link.are_lost(), "{sent}");
        }
        let mut lossy = link;
        lossy.beat(Time(12), 12, || 201);
        assert!(!lossy.are_lost(), "it loses heartbeats, too");
        lossy.beat(Time(13), 13, || 0);
        assert!(!lossy.are_lost(), "what was lost then is not counted later");
        link.beat(Time(12), 12, || 200);
        assert!(link.are_lost());
        link.came(Time(13), 13);
        link.beat(Time(13), 13, || 0);
        assert!(!link.are_lost());
    }

    #[test]
    fn what_was_lost_while_the_link_was_down_says_nothing() {
        let mut link = LargeDatagrams::default();
        link.beat(s(1), 1, || 0);
        link.beat(s(100), 50, || 0);
        assert!(!link.are_lost());
        link.beat(s(101), 51, || 0);
        assert!(!link.are_lost());
    }

    #[test]
    fn a_build_that_sends_none_loses_none() {
        let mut link = LargeDatagrams::default();
        (1..100).for_each(|n| link.beat(Time(n), 0, || 0));
        assert!(!link.are_lost());
    }
}
