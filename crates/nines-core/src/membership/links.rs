//! How well each link carries the heartbeats of a peer: what is lost, and how long a round trip
//! takes.
//!
//! Decides: what counts as lost. Heartbeats are numbered, and the same one goes over every link;
//! one that another link brought a while ago, and this one has not, is lost here. A round trip is
//! that of one link alone: a heartbeat tells which one came last on each link, and how long ago.

use std::collections::VecDeque;

use nines_model::{Millis, Time};

use crate::wire::LinkEcho;

/// Heartbeats that the present loss is of: 2 s at 20 ms.
const LATELY: u64 = 100;
/// A heartbeat is not missed before so many later ones have come.
const ON_ITS_WAY: u64 = 8;
/// Counts are noted so often, and kept for [`LONG`].
const NOTED_EVERY: Millis = Millis(5_000);
/// A link that has lost much for so long is a fault, not a moment.
pub const LONG: Millis = Millis(60_000);
/// No round trip takes so long: the clock has started anew meanwhile.
const TRIP_MAX: Millis = Millis(10_000);

/// Heartbeats by their numbers, and when they were counted.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    at: Time,
    /// The newest number that any link brought.
    newest: u64,
    /// Heartbeats that this link brought.
    came: u64,
}

/// One link, as the heartbeats of one incarnation of a peer show it.
#[derive(Clone, Debug, Default)]
pub struct LinkQuality {
    /// The newest number that came here, and one bit for each of those before: whether it came.
    newest: u64,
    seen: u128,
    came: u64,
    /// The first number of this incarnation that any link brought.
    first: u64,
    noted: VecDeque<Count>,
    /// Round trip over this link, smoothed, ns; 0: not known.
    trip_ns: u64,
}

/// A share in thousandths.
pub type Permille = u64;

fn permille(part: u64, of: u64) -> Permille {
    (part * 1_000).checked_div(of).unwrap_or(0)
}

impl LinkQuality {
    pub(super) fn new(first: u64) -> Self {
        Self { first, ..Self::default() }
    }

    /// The heartbeat of this number came here; `newest`: the newest that any link brought.
    pub(super) fn came(&mut self, now: Time, number: u64, newest: u64) {
        let ahead = number.saturating_sub(self.newest);
        if ahead > 0 {
            let shifted = u32::try_from(ahead).ok().and_then(|by| self.seen.checked_shl(by));
            (self.seen, self.newest) = (shifted.unwrap_or(0), number);
        }
        let back = self.newest - number;
        let bit = u32::try_from(back).ok().and_then(|by| 1u128.checked_shl(by)).unwrap_or(0);
        if bit == 0 || self.seen & bit != 0 {
            return;
        }
        self.seen |= bit;
        self.came += 1;
        let due = |last: &Count| now.since(last.at) >= NOTED_EVERY.ns();
        if self.noted.back().is_none_or(due) {
            self.noted.push_back(Count { at: now, newest, came: self.came });
            // The oldest one that is old enough stays.
            while self.noted.get(1).is_some_and(|next| now.since(next.at) >= LONG.ns()) {
                self.noted.pop_front();
            }
        }
    }

    /// What a peer says of the newest heartbeat that it got over this link.
    pub(super) fn echoed(&mut self, now: Time, echo: &LinkEcho) {
        let trip = now.0.checked_sub(echo.sent_ns).and_then(|ns| ns.checked_sub(echo.held_ns));
        let Some(trip) = trip.filter(|ns| *ns < TRIP_MAX.ns()) else { return };
        // One in eight of the new value: a single late answer is no slow link.
        self.trip_ns = if self.trip_ns == 0 { trip } else { (self.trip_ns * 7 + trip) / 8 };
    }

    /// Round trip over this link, ns; 0: not known.
    pub const fn trip_ns(&self) -> u64 {
        self.trip_ns
    }

    /// Share of the last [`LATELY`] heartbeats that this link did not bring, in thousandths;
    /// `newest`: the newest that any link brought.
    pub fn loss(&self, newest: u64) -> Permille {
        let end = newest.saturating_sub(ON_ITS_WAY);
        let begin = end.saturating_sub(LATELY).max(self.first);
        let came = |number: &u64| {
            let back = self.newest.checked_sub(*number).filter(|back| *back < 128);
            back.is_some_and(|back| self.seen >> back & 1 == 1)
        };
        let lost = (begin..end).filter(|number| !came(number)).count();
        permille(lost as u64, end.saturating_sub(begin))
    }

    /// The same over the last [`LONG`]; `None`: it was not watched for so long.
    pub fn loss_for_long(&self, now: Time, newest: u64) -> Option<Permille> {
        let then = self.noted.front().filter(|count| now.since(count.at) >= LONG.ns())?;
        let sent = newest.saturating_sub(then.newest);
        Some(permille(sent.saturating_sub(self.came - then.came), sent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A link that brings what `brings` says of the numbers from 1 to `last`, one every 20 ms.
    fn link(last: u64, brings: impl Fn(u64) -> bool) -> LinkQuality {
        let mut link = LinkQuality::new(1);
        for number in (1..=last).filter(|number| brings(*number)) {
            link.came(Time(number * 20 * MS), number, number);
        }
        link
    }

    #[test]
    fn what_another_link_brought_and_this_one_did_not_is_lost() {
        assert_eq!(link(1_000, |_| true).loss(1_000), 0);
        assert_eq!(link(1_000, |n| n % 4 != 0).loss(1_000), 250);
        assert_eq!(link(899, |_| true).loss(1_008), 1_000, "nothing of the last hundred came");
        assert_eq!(link(949, |_| true).loss(1_008), 500);
        assert_eq!(link(1_000, |_| true).loss(1_005), 0, "the last ones may be on their way");
        assert_eq!(link(30, |n| n > 20).loss(38), 689, "it began at 1: 20 of 29");
        assert_eq!(LinkQuality::new(7).loss(9), 0, "nothing is known yet");
    }

    #[test]
    fn a_number_that_comes_twice_or_late_counts_once() {
        let mut link = link(400, |n| n % 2 == 0);
        for number in [399, 399, 398, 301, 5] {
            link.came(Time(8_001 * MS), number, 400);
        }
        assert_eq!(link.came, 202, "399 and 301; nobody knows of 5 any more");
    }

    #[test]
    fn a_minute_is_a_minute() {
        let now = |last: u64| Time(last * 20 * MS);
        assert_eq!(link(2_000, |_| true).loss_for_long(now(2_000), 2_000), None, "40 s");
        let loss = |last: u64, brings: fn(u64) -> bool| {
            link(last, brings).loss_for_long(now(last), last).unwrap()
        };
        assert_eq!(loss(4_000, |_| true), 0);
        assert_eq!(loss(4_001, |n| n % 10 != 0) / 10, 10, "ten percent");
        assert!(loss(9_000, |n| !(3_000..=3_050).contains(&n)) == 0, "long ago");
    }

    #[test]
    fn a_round_trip_is_smoothed_and_never_from_another_boot() {
        let mut link = LinkQuality::new(1);
        let echo = |sent_ms: u64, held_ms: u64| LinkEcho {
            link: 0,
            sent_ns: sent_ms * MS,
            held_ns: held_ms * MS,
            large_lost: false,
        };
        link.echoed(Time(1_010 * MS), &echo(1_000, 8));
        assert_eq!(link.trip_ns(), 2 * MS);
        link.echoed(Time(1_050 * MS), &echo(1_030, 10));
        assert_eq!(link.trip_ns(), 3 * MS);
        for odd in [echo(90_000, 0), echo(1_000, 900), echo(0, 0)] {
            link.echoed(Time(20_000 * MS).max(Time(1_060 * MS)), &odd);
        }
        assert_eq!(link.trip_ns(), 3 * MS);
    }
}
