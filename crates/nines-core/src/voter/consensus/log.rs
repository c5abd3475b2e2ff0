//! The log as the consensus library reads it: in memory, from the newest snapshot on.
//!
//! Decides: what the library finds at an index. The disk holds the same, by the same rule.

use raft::{
    GetEntriesContext, RaftState, Storage, StorageError,
    eraftpb::{ConfState, Entry, HardState, Snapshot as RaftSnapshot},
};

use super::codec::to_raft_snapshot;
use crate::wire::{Persist, Snapshot};

/// The log in memory; the disk follows by [`Persist`].
pub(super) struct Log {
    pub(super) hard_state: HardState,
    pub(super) conf: ConfState,
    /// Index and term of the last entry before `entries`.
    pub(super) before: (u64, u64),
    pub(super) entries: Vec<Entry>,
    pub(super) snapshot: Snapshot,
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.before.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let first = self.before.0 + 1;
        let range = (low - first) as usize..(high - first) as usize;
        let mut found =
            self.entries.get(range).ok_or(raft::Error::Store(StorageError::Unavailable))?.to_vec();
        if let Some(max) = max_size.into() {
            let mut size = 0;
            let fits = found
                .iter()
                .take_while(|e| {
                    size += e.get_data().len() as u64 + 32;
                    size <= max
                })
                .count();
            found.truncate(fits.max(1));
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.before.0 {
            return Ok(self.before.1);
        }
        if index < self.before.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        self.entries
            .get((index - self.before.0 - 1) as usize)
            .map(|e| e.term)
            .ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.before.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.before.0 + self.entries.len() as u64)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<RaftSnapshot> {
        if self.snapshot.index < request_index || self.snapshot.index == 0 {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        Ok(to_raft_snapshot(&self.snapshot))
    }
}

impl Log {
    /// As the disk is asked to.
    pub(super) fn keep(&mut self, persist: &Persist, entries: &[Entry]) {
        let stay = persist.keeps();
        self.entries.truncate(self.entries.partition_point(|e| e.index < stay.end));
        self.entries.drain(..self.entries.partition_point(|e| e.index < stay.start));
        self.entries.extend_from_slice(entries);
    }
}
