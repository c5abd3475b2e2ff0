//! Scenarios that a seed draws: how many machines, cards and VIPs there are, and which kinds of
//! faults happen. Each run has some kinds and not others, so that rare ones are not always
//! followed by what mends them.
//!
//! Decides: which worlds are drawn, and how often.

use nines_model::Millis;

use super::{Fault, Scenario};
use crate::random::Random;

/// Random numbers of a scenario are others than those of its world.
const SCENARIOS: u64 = 0x5ca1_ab1e;

/// Directors and witnesses: mostly three nodes, five and seven, and even numbers of them. Each
/// node more means more frames between all of them.
const SIZES: [(u8, u8); 16] = [
    (2, 1),
    (2, 1),
    (2, 1),
    (2, 1),
    (2, 1),
    (3, 0),
    (3, 0),
    (3, 0),
    (2, 2),
    (4, 0),
    (3, 2),
    (5, 0),
    (4, 1),
    (4, 1),
    (5, 2),
    (4, 3),
];

/// Faults of which each run has about half.
const SOMETIMES: [Fault; 24] = [
    Fault::Kill,
    Fault::Kill,
    Fault::PowerOff,
    Fault::Pause,
    Fault::Pause,
    Fault::CutBoth,
    Fault::CutOne,
    Fault::Isolate,
    Fault::Loss,
    Fault::LinkLoss,
    Fault::LinkLoss,
    Fault::Flap,
    Fault::Flap,
    Fault::SlowDisks,
    Fault::SlowDisk,
    Fault::FullDisk,
    Fault::DiskFails,
    Fault::ClockRate,
    Fault::WallClock,
    Fault::MoveRequest,
    Fault::PlannedRestart,
    Fault::Join,
    Fault::Remove,
    Fault::Stranger,
];

/// What can go wrong with one machine while all others work.
const OF_ONE: [Fault; 14] = [
    Fault::Kill,
    Fault::PowerOff,
    Fault::Pause,
    Fault::Pause,
    Fault::CutBoth,
    Fault::CutOne,
    Fault::Isolate,
    Fault::LinkLoss,
    Fault::Flap,
    Fault::SlowDisk,
    Fault::SlowDisk,
    Fault::FullDisk,
    Fault::End,
    Fault::End,
];

/// Times that operators may put in force.
const TIMINGS: [&str; 3] = [
    "[timing]\nlease = \"300ms\"\n",
    "[timing]\nbeat = \"50ms\"\nlease = \"350ms\"\nelection = \"500ms\"\n",
    "[timing]\nbeat = \"10ms\"\nlease = \"80ms\"\n",
];

impl Scenario {
    /// The machines of [`Scenario::of_seed`], and in six of sixteen seeds others.
    pub fn drawn(seed: u64) -> Self {
        match seed % 16 {
            1 | 10 => Self::swarm(seed),
            2 => Self::one_fails(seed),
            3 => Self::sized(2, 1, 2, 2),
            7 => Self::fenced(false),
            11 => Self::fenced(true),
            _ => Self::of_seed(seed),
        }
    }

    /// Three to seven machines with one or two cards, and about half of all kinds of faults.
    pub fn swarm(seed: u64) -> Self {
        let mut random = Random::new(seed ^ SCENARIOS);
        let (directors, witnesses) = SIZES[random.below(SIZES.len() as u64) as usize];
        let vips = 1 + random.below(4) as u8;
        let cards = if directors + witnesses < 5 { 1 + random.below(2) as usize } else { 1 };
        let mut it = Self::sized(directors, witnesses, vips, cards);
        it.faults = SOMETIMES.into_iter().filter(|_| random.chance(500)).collect();
        if cards > 1 {
            it.faults.extend(Fault::of_cards().into_iter().filter(|_| random.chance(500)));
        }
        if it.changes_config && random.chance(500) {
            it.faults.extend([Fault::TakeOut, Fault::PutBack]);
        }
        if random.chance(500) {
            it.timings = TIMINGS.map(str::to_owned).into();
            it.faults.push(Fault::OtherTiming);
            it.changes_config = true;
        }
        let ends = 1 + it.faults.len() / 5;
        it.faults.extend(std::iter::repeat_n(Fault::End, ends));
        it
    }

    /// Only one machine fails, in turn a witness and a director; no operator does anything.
    pub fn one_fails(seed: u64) -> Self {
        let of_witness = (seed / 16).is_multiple_of(2);
        let mut it = Self::sized(2 + (seed / 32 % 2) as u8, 1, 2, 1 + (seed / 64 % 2) as usize);
        let nodes = it.nodes.len() as u64;
        it.victim = Some(if of_witness { nodes } else { 1 + seed / 128 % (nodes - 1) });
        it.faults = OF_ONE.to_vec();
        it.changes_config = false;
        it.length = Millis(20_000);
        it
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_size_and_every_kind_of_fault_is_drawn() {
        let all: Vec<Scenario> = (0..4_000).map(Scenario::drawn).collect();
        let sizes: BTreeSet<usize> = all.iter().map(|scenario| scenario.nodes.len()).collect();
        assert!([2, 3, 5, 7].iter().all(|size| sizes.contains(size)), "{sizes:?}");
        let drawn: BTreeSet<Fault> = all.iter().flat_map(|s| s.faults.iter().copied()).collect();
        assert!(SOMETIMES.iter().chain(&OF_ONE).all(|fault| drawn.contains(fault)), "{drawn:?}");
        assert!(all.iter().any(|s| s.victim == Some(3)) && all.iter().any(|s| s.victim == Some(1)));
        assert!(all.iter().any(|s| !s.timings.is_empty()));
    }
}
