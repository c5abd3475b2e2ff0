//! How fast the clock of a peer runs, compared with this node's own.
//!
//! A heartbeat says when it was sent by its sender's clock. The least delay within some seconds is
//! near the same each time, so what it changes by from one such time to the next is the difference
//! of the two clocks. A machine that stands still shows as one step, which the middle of several
//! differences leaves out.
//!
//! Decides: the rate of a peer's clock, and from when on it is known.

use std::collections::VecDeque;

use nines_model::{Millis, Time};

/// Heartbeats whose least delay counts as one sample.
const WINDOW: Millis = Millis(10_000);
/// Windows that a rate is made from: one minute lies between the first and the last.
const WINDOWS: usize = 7;

/// Parts in a million by which a clock runs faster than another.
pub type Ppm = i64;

/// What the lease rule allows two clocks to differ by: each may err by 2,000 ppm. And what delays
/// may make of it in ten seconds.
pub const RATE_MAX: Ppm = 4_200;

/// The heartbeat of one window that was on its way for the shortest time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    began: Time,
    came: Time,
    /// This node's time less the sender's, ns.
    ahead: i128,
}

/// The clock of one peer.
#[derive(Clone, Debug, Default)]
pub struct ClockRate(VecDeque<Sample>);

impl ClockRate {
    /// A heartbeat came that was sent at that time by the peer's clock.
    pub(super) fn heard(&mut self, now: Time, sent_ns: u64) {
        let ahead = i128::from(now.0) - i128::from(sent_ns);
        match self.0.back_mut() {
            Some(last) if now.since(last.began) < WINDOW.ns() => {
                if ahead < last.ahead {
                    (last.came, last.ahead) = (now, ahead);
                }
                return;
            }
            // It was silent: what was before belongs to another minute.
            Some(last) if now.since(last.began) >= 2 * WINDOW.ns() => self.0.clear(),
            _ => {}
        }
        if self.0.len() > WINDOWS {
            self.0.pop_front();
        }
        self.0.push_back(Sample { began: now, came: now, ahead });
    }

    /// By how much this node's clock runs faster than the peer's; `None`: not known yet.
    pub fn ahead(&self) -> Option<Ppm> {
        // The newest window is not over.
        let over: Vec<&Sample> = self.0.iter().take(WINDOWS).collect();
        if self.0.len() <= WINDOWS {
            return None;
        }
        let slope = |pair: &[&Sample]| {
            let ns = i128::from(pair[1].came.since(pair[0].came)).max(1);
            Ppm::try_from((pair[1].ahead - pair[0].ahead) * 1_000_000 / ns).unwrap_or(Ppm::MAX)
        };
        let mut slopes: Vec<Ppm> = over.windows(2).map(slope).collect();
        slopes.sort_unstable();
        slopes.get(slopes.len() / 2).copied()
    }
}

/// By how much this node's clock runs faster than those of most, given how much it is ahead of each
/// of its peers; `None`: fewer than three clocks are known, so no majority.
pub fn ahead_of_most(peers: impl Iterator<Item = Ppm>) -> Option<Ppm> {
    let mut all: Vec<Ppm> = peers.chain([0]).collect();
    all.sort_unstable();
    (all.len() >= 3).then(|| {
        // Of an even number the one that is nearer to this node's own.
        let (low, high) = (all[(all.len() - 1) / 2], all[all.len() / 2]);
        if low.abs() < high.abs() { low } else { high }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// The rate after so many seconds with a clock that runs by `ppm` slower than ours, where
    /// heartbeats are late by up to 20 ms, and what happens to them on the way.
    fn rate(seconds: u64, ppm: i64, way: impl Fn(u64) -> Option<u64>) -> Option<Ppm> {
        let mut clock = ClockRate::default();
        for beat in 0..seconds * 50 {
            let now = 5_000_000 * MS + beat * 20 * MS;
            let Some(late) = way(beat) else { continue };
            let passed = i128::from(beat * 20 * MS - late.min(beat * 20 * MS));
            let sent = 90 * i128::from(MS) + passed * i128::from(1_000_000 - ppm) / 1_000_000;
            clock.heard(Time(now), sent as u64);
        }
        clock.ahead()
    }

    fn jitter(beat: u64) -> Option<u64> {
        Some(MS / 2 + beat.wrapping_mul(7_919) % 20 * MS)
    }

    #[test]
    fn a_rate_is_known_after_a_minute_whatever_the_delays() {
        assert_eq!(rate(60, 50_000, jitter), None);
        for ppm in [-50_000, -2_000, 0, 100, 50_000] {
            let known = rate(90, ppm, jitter).unwrap();
            assert!((known - ppm).abs() < 300 + ppm.abs() / 10, "{ppm}: {known}");
        }
        assert_eq!(rate(600, 0, |beat| jitter(beat).filter(|_| beat % 3 == 0)), Some(0));
    }

    #[test]
    fn a_step_is_no_rate_and_silence_begins_anew() {
        // A machine that stood still for 12 s, as its peers see it.
        let step = |beat: u64| Some(MS + if beat > 3_000 { 12_000 * MS } else { 0 });
        assert!(rate(120, 0, step).unwrap().abs() < 300);
        assert_eq!(
            rate(120, 0, |beat| jitter(beat).filter(|_| !(2_000..4_000).contains(&beat))),
            None
        );
    }

    #[test]
    fn one_that_differs_from_most_is_wrong_and_the_others_are_not() {
        let of = |peers: &[Ppm]| ahead_of_most(peers.iter().copied());
        assert_eq!((of(&[]), of(&[50_000])), (None, None));
        assert_eq!(of(&[50_000, 49_000]), Some(49_000));
        assert_eq!(of(&[50_000, 100]), Some(100));
        assert_eq!(of(&[-50_000, -51_000, 20]), Some(0), "two against two");
        assert_eq!(of(&[-50_000, -51_000, -50_500, 20]), Some(-50_000));
    }
}
