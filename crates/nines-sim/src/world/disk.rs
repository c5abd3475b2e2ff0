//! Disks: what a write leaves, and in which order writes end.

use nines_core::wire::{LogEntry, Persist, Persisted};

use super::{Happening, World};

impl World {
    /// A disk keeps order: a write ends after those before it.
    pub(super) fn after_earlier_writes(&self, id: u64, time: u64) -> u64 {
        let last = self
            .queue
            .iter()
            .filter(|(_, (to, _, what))| *to == id && matches!(what, Happening::Written(..)))
            .map(|((at, _), _)| at - self.now)
            .max()
            .unwrap_or(0);
        time.max(last + 1)
    }

    /// Entries on a node's disk, for tests.
    pub fn disk(&self, id: u64) -> &[LogEntry] {
        &self.machines[&id].disk.entries
    }
}

/// What a disk does with a write.
pub(super) fn keep(disk: &mut Persisted, persist: Persist, forgets_promises: bool) {
    let stay = persist.keeps();
    disk.entries.retain(|e| stay.contains(&e.index));
    if let Some(snapshot) = persist.snapshot {
        disk.snapshot = snapshot;
    }
    disk.entries.extend(persist.entries);
    if let Some(promise) = persist.long_promise.filter(|_| !forgets_promises) {
        disk.long_promise = promise;
    }
    if let Some(incarnation) = persist.incarnation {
        disk.incarnation = incarnation;
    }
    if let Some(why) = persist.retired {
        disk.retired = why;
    }
    if let Some(hard_state) = persist.hard_state {
        disk.hard_state = hard_state;
    }
}
