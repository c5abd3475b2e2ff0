//! Log entries that no datagram can carry.
//!
//! Decides: what goes to a peer over TLS, and when the same goes again. A large entry takes longer
//! than a heartbeat, and a datagram overtakes it. So until a peer has acknowledged it, everything
//! of the log goes to that peer the same way, in order; and an entry on its way is not sent again
//! each time the library would.

use nines_model::{LogIndex, Millis, NodeId, Time};

use super::Node;
use crate::{
    voter::consensus,
    wire::{LogEntry, RaftMessage},
};

/// The last large entries sent to a peer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UnderWay {
    term: u64,
    /// Index before the first and of the last.
    after: LogIndex,
    last: LogIndex,
    /// Not sent again before.
    until: Time,
}

/// How a message is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As its size says.
    Any,
    /// Over TLS, behind what goes there already.
    Bulk,
    /// Not at all: the same is on its way.
    None,
}

/// Milliseconds for a large entry whatever its size: the TLS connection is made first, and the
/// acknowledgement comes with a heartbeat.
const ALLOWANCE_MS: u64 = 1_000;
/// Bytes per millisecond: the network and the disk of the peer take 10 MB a second each, one after
/// the other.
const BYTES_PER_MS: u64 = 5_000;

/// Time for so many bytes: a link of 10 MB/s and a disk of the same speed.
fn allowance(bytes: usize) -> Millis {
    Millis(ALLOWANCE_MS + bytes as u64 / BYTES_PER_MS)
}

fn size(entries: &[LogEntry]) -> usize {
    entries.iter().map(|e| e.data.len() + e.context.len() + 32).sum()
}

impl UnderWay {
    /// Whether a peer that has acknowledged `matched` in this term lacks large entries.
    pub fn lacks(&self, term: u64, matched: LogIndex) -> bool {
        self.term == term && matched < self.last
    }

    /// What to do with entries for a peer that has acknowledged `matched`.
    pub fn way(&mut self, now: Time, message: &RaftMessage, matched: LogIndex, most: usize) -> Way {
        let last = message.entries.last().map_or(message.index(), LogEntry::index);
        let open = self.term == message.term && matched < self.last && now < self.until;
        if open && !message.entries.is_empty() && message.index() == self.after && last <= self.last
        {
            return Way::None;
        }
        let size = size(&message.entries);
        if size + 128 > most {
            let until = now.plus(allowance(size));
            *self = Self { term: message.term, after: message.index(), last, until };
            return Way::Bulk;
        }
        if open { Way::Bulk } else { Way::Any }
    }
}

impl Node {
    /// Whether a peer waits for large entries that only a link between it and this leader carries:
    /// it is heard through others alone, and nobody passes large entries on.
    pub(super) fn is_out_of_reach(&self, now: Time, id: NodeId) -> bool {
        let consensus = self.voter.consensus();
        let matched = consensus.last().0.minus(consensus.lag(id).unwrap_or(0));
        let lacks = self.under_way.get(&id).is_some_and(|u| u.lacks(consensus.term(), matched));
        lacks && self.heard_through_others(now, id)
    }

    /// How a message of the consensus is to go.
    pub(super) fn way(&mut self, now: Time, message: &RaftMessage, most: usize) -> Way {
        if !consensus::brings_entries(message) || !self.voter.consensus().is_leader() {
            return Way::Any;
        }
        let behind = self.voter.consensus().lag(message.receiver()).unwrap_or(0);
        let matched = self.voter.consensus().last().0.minus(behind);
        self.under_way.entry(message.receiver()).or_default().way(now, message, matched, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(after: u64, sizes: &[usize]) -> RaftMessage {
        let entry = |(i, size): (usize, &usize)| LogEntry {
            index: after + 1 + i as u64,
            data: vec![0; *size],
            ..LogEntry::default()
        };
        let entries = sizes.iter().enumerate().map(entry).collect();
        RaftMessage { kind: 3, term: 2, index: after, entries, ..RaftMessage::default() }
    }

    #[test]
    fn what_follows_a_large_entry_goes_behind_it_until_it_has_arrived() {
        let mut line = UnderWay::default();
        let mut way = |ms: u64, message: &RaftMessage, matched| {
            line.way(Time(Millis(ms).ns()), message, LogIndex(matched), 1_350)
        };
        assert_eq!(way(0, &append(9, &[10]), 9), Way::Any);
        let large = append(10, &[5_000_000]);
        assert_eq!(way(1, &large, 10), Way::Bulk);
        assert_eq!(way(2, &append(11, &[10]), 10), Way::Bulk, "a datagram would overtake it");
        assert_eq!(way(3, &append(12, &[]), 10), Way::Bulk);
        assert_eq!(way(100, &large, 10), Way::None, "it is on its way");
        assert_eq!(way(200, &append(12, &[10]), 11), Way::Any, "it has arrived");
        assert_eq!(way(300, &large, 10), Way::None);
        assert_eq!(way(2_100, &large, 10), Way::Bulk, "it must have been lost");
        let other_term = RaftMessage { term: 3, ..append(11, &[10]) };
        assert_eq!(way(2_101, &other_term, 10), Way::Any);
    }
}
