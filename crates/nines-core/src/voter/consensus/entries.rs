//! Entries of the log that are not applied yet, committed or not.

use nines_model::LogIndex;
use raft::{GetEntriesContext, eraftpb::Entry};

use super::{Consensus, changes_voters, codec::from_entry};
use crate::wire::LogEntry;

impl Consensus {
    /// Commands after what is applied, also those that no majority has yet, oldest first.
    pub fn tail(&self) -> Vec<(LogIndex, Vec<u8>)> {
        let entries = self.unapplied(u64::MAX);
        entries.iter().map(|e| (LogIndex(e.index), e.get_data().to_vec())).collect()
    }

    /// Whether the log has a change of voters that is not applied, before this entry.
    pub fn changes_voters_before(&self, entry: &LogEntry) -> bool {
        self.unapplied(entry.index).iter().map(from_entry).any(|entry| changes_voters(&entry))
    }

    pub(super) fn unapplied(&self, before: u64) -> Vec<Entry> {
        let log = &self.raw.raft.raft_log;
        let (low, high) = (self.applied + 1, before.min(log.last_index() + 1));
        if low >= high {
            return Vec::new();
        }
        log.slice(low, high, None, GetEntriesContext::empty(false)).unwrap_or_default()
    }
}
