//! Disks: what a write leaves, and in which order writes end.

use std::{collections::BTreeMap, sync::Arc};

use nines_core::{
    Event,
    wire::{HardState, LogEntry, Persist, Persisted},
};

use super::{Happening, World};
use crate::{observation, scenario::Disk};

/// What a disk holds.
pub(super) struct Kept {
    contents: Persisted,
    /// Term of each entry by index; who judges the world asks for it after each event.
    terms: Arc<BTreeMap<u64, u64>>,
    /// Counts disks that took its place.
    number: u64,
}

impl World {
    /// Writes, or fails to.
    pub(super) fn write(&mut self, id: u64, number: u64, persist: Box<Persist>) {
        let slow = self.random.below(self.slow_disk_ns + 1);
        let disk = self.disk_times(id);
        let time = disk.write_ns_min + self.random.below(disk.write_ns_spread) + slow;
        let time = self.after_earlier_writes(id, time);
        let what = match self.disk_error(id) {
            Some((fault, why)) => Happening::Deliver(Event::PersistFailed(fault, why)),
            None => Happening::Written(number, persist),
        };
        self.schedule(time, id, what);
    }

    /// A disk keeps order: a write ends after those before it.
    fn after_earlier_writes(&self, id: u64, time: u64) -> u64 {
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
        &self.machines[&id].disk.contents.entries
    }

    /// How long writes of a node take.
    fn disk_times(&self, id: u64) -> Disk {
        self.scenario.disk(&self.name(self.machines[&id].identity))
    }
}

impl Kept {
    /// A disk with this on it.
    pub(super) fn new(contents: Persisted) -> Self {
        let mut disk = Self { contents, terms: Arc::default(), number: 0 };
        disk.changed();
        disk
    }

    /// What is on it.
    pub(super) fn get(&self) -> &Persisted {
        &self.contents
    }

    /// Another disk takes its place, with this on it.
    pub(super) fn replace(&mut self, contents: Persisted) {
        *self = Self { number: self.number + 1, ..Self::new(contents) };
    }

    /// What is on it of term, vote and commit index.
    pub(super) fn kept(&self) -> observation::Kept {
        let HardState { term, vote, commit } = self.contents.hard_state;
        observation::Kept { term, vote, commit, disk: self.number }
    }

    /// Changes what is on it, past the node.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Persisted)) {
        change(&mut self.contents);
        self.changed();
    }

    /// Term of each entry by index.
    pub(super) fn terms(&self) -> Arc<BTreeMap<u64, u64>> {
        Arc::clone(&self.terms)
    }

    /// What a disk does with a write.
    pub(super) fn keep(&mut self, persist: Persist, forgets_promises: bool) {
        let (disk, stay) = (&mut self.contents, persist.keeps());
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
        disk.removed |= persist.removed;
        if let Some(hard_state) = persist.hard_state {
            disk.hard_state = hard_state;
        }
        self.changed();
    }

    fn changed(&mut self) {
        self.terms = Arc::new(self.contents.entries.iter().map(|e| (e.index, e.term)).collect());
    }
}
