//! Which incarnation of each node counts.
//!
//! An incarnation is one run of an agent; every frame names its sender's. A new incarnation
//! replaces the one before, and a replaced one never counts again. When frames of a replaced
//! incarnation go on coming, two agents run under one id: neither of them counts until that has
//! ended. An incarnation that started from a copied or moved state directory does not replace one
//! that still sends heartbeats. It counts only after every other voter has confirmed that it hears
//! no other incarnation of that id.
//!
//! Decides: whose frames count, and who is double. Knows no socket and no disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use nines_model::{Incarnation, Millis, NodeId, Time};

/// Frames of a replaced incarnation may still be on their way for so long.
const ON_ITS_WAY: Millis = Millis(100);
/// For so long both incarnations must have been heard before that is told.
const CERTAIN: Millis = Millis(200);
/// Two incarnations at once are forgotten so long after the last sign of them.
const FORGOTTEN: Millis = Millis(5_000);
/// A moved incarnation is confirmed when no other has been heard for so long.
const QUIET: Millis = Millis(10_000);
/// Replaced incarnations that are remembered, by node.
const REPLACED: usize = 32;

/// Frames of an earlier start may come for so long after a later one was first heard.
const LATE: Millis = Millis(5_000);

/// The sender of a frame, as the frame says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sender {
    /// Number of the incarnation.
    pub incarnation: Incarnation,
    /// How often agents have started from its state directory.
    pub starts: u64,
    /// It started from a state directory that was copied or moved, and is not confirmed.
    pub moved: bool,
}

/// What a frame's incarnation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The incarnation counts.
    Counts,
    /// It counts from now on, in place of the one before, if any.
    New,
    /// It is not confirmed yet: only its heartbeats are looked at.
    Moved,
    /// It was replaced, or is a copy of one that lives.
    Ended,
}

/// Incarnations of one node.
#[derive(Clone, Debug, Default)]
struct One {
    current: Incarnation,
    /// The current incarnation is not confirmed by everybody yet.
    moved: bool,
    /// Its start, and when it was first heard.
    starts: u64,
    since: Time,
    heard: Time,
    /// Replaced incarnations, and when.
    replaced: VecDeque<(Incarnation, Time)>,
    /// First and last sign that two live, of those that have not been forgotten.
    double: Option<(Time, Time)>,
}

impl One {
    fn replace(&mut self, now: Time, incarnation: Incarnation, starts: u64) {
        if self.current != Incarnation::NONE {
            self.replaced.push_back((self.current, now));
            if self.replaced.len() > REPLACED {
                self.replaced.pop_front();
            }
        }
        self.current = incarnation;
        (self.starts, self.since, self.heard) = (starts, now, now);
    }

    fn sign(&mut self, now: Time) {
        let first = self.double.filter(|(_, last)| now.since(*last) < FORGOTTEN.ns());
        self.double = Some((first.map_or(now, |(first, _)| first), now));
    }
}

/// Incarnations of all peers.
#[derive(Clone, Debug, Default)]
pub struct Incarnations {
    by_id: BTreeMap<NodeId, One>,
}

impl Incarnations {
    /// A frame of a node came. `listening`: for so long, in ns, this node has been able to hear
    /// another incarnation of it.
    pub fn hear(&mut self, now: Time, id: NodeId, sender: Sender, listening: u64) -> Standing {
        let Sender { incarnation, starts, moved } = sender;
        let one = self.by_id.entry(id).or_default();
        if incarnation == Incarnation::NONE {
            return Standing::Ended;
        }
        if incarnation == one.current {
            one.heard = now;
            one.moved &= moved;
            return if one.moved { Standing::Moved } else { Standing::Counts };
        }
        if let Some((_, since)) = one.replaced.iter().find(|(replaced, _)| *replaced == incarnation)
        {
            if now.since(*since) > ON_ITS_WAY.ns() {
                one.sign(now);
            }
            return Standing::Ended;
        }
        // A later start was heard first: this frame was on its way meanwhile.
        if starts < one.starts && now.since(one.since) < LATE.ns() {
            return Standing::Ended;
        }
        if !moved {
            one.replace(now, incarnation, starts);
            one.moved = false;
            return Standing::New;
        }
        let quiet = if one.current == Incarnation::NONE {
            listening
        } else {
            now.since(one.heard).min(listening)
        };
        if quiet < QUIET.ns() {
            if one.current != Incarnation::NONE {
                one.sign(now);
            }
            return Standing::Ended;
        }
        one.replace(now, incarnation, starts);
        one.moved = true;
        Standing::Moved
    }

    /// The incarnation of a node that counts, or will once it is confirmed.
    pub fn current(&self, id: NodeId) -> Incarnation {
        self.by_id.get(&id).map_or(Incarnation::NONE, |one| one.current)
    }

    /// This incarnation of a node is one that is not confirmed by everybody yet.
    pub fn is_moved(&self, id: NodeId) -> bool {
        self.by_id.get(&id).is_some_and(|one| one.moved)
    }

    /// Moved incarnations that this node would let count.
    pub fn confirmed(&self) -> Vec<(NodeId, Incarnation)> {
        let moved = self.by_id.iter().filter(|(_, one)| one.moved);
        moved.map(|(id, one)| (*id, one.current)).collect()
    }

    /// Two incarnations of a node speak at once.
    pub fn is_double(&self, now: Time, id: NodeId) -> bool {
        self.by_id.get(&id).and_then(|one| one.double).is_some_and(|(first, last)| {
            now.since(last) < FORGOTTEN.ns() && last.since(first) >= CERTAIN.ns()
        })
    }

    /// Nodes of which two incarnations speak at once.
    pub fn double(&self, now: Time) -> BTreeSet<NodeId> {
        self.by_id.keys().copied().filter(|id| self.is_double(now, *id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);
    const LONG: u64 = 60_000_000_000;

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    fn sender(incarnation: u64, moved: bool) -> Sender {
        Sender { incarnation: Incarnation(incarnation), starts: 1, moved }
    }

    #[test]
    fn a_late_frame_of_an_earlier_start_ends_no_later_one() {
        let mut incarnations = Incarnations::default();
        let start = |incarnation, starts| {
            let incarnation = Incarnation(incarnation);
            Sender { incarnation, starts, moved: false }
        };
        assert_eq!(incarnations.hear(at(1), PEER, start(8, 4), 0), Standing::New);
        // This node never heard that incarnation: a cut link held its frames back.
        for ms in (2..1_000).step_by(50) {
            assert_eq!(incarnations.hear(at(ms), PEER, start(7, 3), 0), Standing::Ended);
            assert_eq!(incarnations.hear(at(ms + 1), PEER, start(8, 4), 0), Standing::Counts);
        }
        assert!(incarnations.double(at(1_000)).is_empty());
        assert_eq!(incarnations.hear(at(1_001), PEER, start(9, 5), 0), Standing::New);
        assert_eq!(
            incarnations.hear(at(9_000), PEER, start(10, 2), 0),
            Standing::New,
            "an older copy of it"
        );
    }

    #[test]
    fn a_restart_replaces_and_what_is_late_is_no_second_life() {
        let mut incarnations = Incarnations::default();
        assert_eq!(incarnations.hear(at(1), PEER, sender(7, false), 0), Standing::New);
        assert_eq!(incarnations.hear(at(2), PEER, sender(7, false), 0), Standing::Counts);
        assert_eq!(incarnations.hear(at(500), PEER, sender(8, false), 0), Standing::New);
        assert_eq!(incarnations.hear(at(530), PEER, sender(7, false), 0), Standing::Ended);
        assert_eq!(incarnations.hear(at(531), PEER, sender(8, false), 0), Standing::Counts);
        // One frame that waited in a stream is no agent.
        assert_eq!(incarnations.hear(at(900), PEER, sender(7, false), 0), Standing::Ended);
        assert!(incarnations.double(at(901)).is_empty());
        assert_eq!(
            incarnations.hear(at(902), PEER, sender(0, false), 0),
            Standing::Ended,
            "a frame without a life"
        );
    }

    #[test]
    fn two_lives_at_once_are_noticed_until_one_has_ended() {
        let mut incarnations = Incarnations::default();
        incarnations.hear(at(0), PEER, sender(7, false), 0);
        for ms in (10..1_000).step_by(20) {
            assert_ne!(incarnations.hear(at(ms), PEER, sender(8, false), 0), Standing::Ended);
            assert_eq!(
                incarnations.hear(at(ms), PEER, sender(7, false), 0),
                Standing::Ended,
                "for good"
            );
        }
        assert_eq!(incarnations.double(at(1_000)), [PEER].into());
        assert_eq!(incarnations.double(at(5_500)), [PEER].into());
        assert!(incarnations.double(at(6_100)).is_empty());
        assert_eq!(
            incarnations.hear(at(7_000), PEER, sender(9, false), 0),
            Standing::New,
            "a new life may"
        );
    }

    #[test]
    fn a_copy_does_not_replace_a_life_that_speaks() {
        let mut incarnations = Incarnations::default();
        for ms in (0..1_000).step_by(20) {
            incarnations.hear(at(ms), PEER, sender(7, false), LONG);
            assert_eq!(incarnations.hear(at(ms), PEER, sender(8, true), LONG), Standing::Ended);
        }
        assert_eq!(incarnations.hear(at(1_001), PEER, sender(7, false), LONG), Standing::Counts);
        assert_eq!(incarnations.double(at(1_001)), [PEER].into());
        assert!(incarnations.confirmed().is_empty());
        // The first has been off for long: its disk is in another machine.
        assert_eq!(incarnations.hear(at(12_000), PEER, sender(8, true), LONG), Standing::Moved);
        assert_eq!(incarnations.confirmed(), [(PEER, Incarnation(8))]);
        assert_eq!(incarnations.hear(at(12_001), PEER, sender(7, false), LONG), Standing::Ended);
        assert_eq!(incarnations.hear(at(12_002), PEER, sender(8, false), LONG), Standing::Counts);
        assert!(incarnations.confirmed().is_empty(), "everybody has");
    }

    #[test]
    fn who_has_just_started_confirms_nobody() {
        let mut incarnations = Incarnations::default();
        assert_eq!(incarnations.hear(at(1), PEER, sender(8, true), 1_000_000), Standing::Ended);
        assert_eq!(incarnations.hear(at(2), PEER, sender(7, false), 2_000_000), Standing::New);
        assert_eq!(
            Incarnations::default().hear(at(1), PEER, sender(8, true), LONG),
            Standing::Moved
        );
    }
}
