//! Disks: what a write leaves, and in which order writes end.

use std::{collections::BTreeMap, sync::Arc};

use nines_core::{
    Event,
    wire::{HardState, LogEntry, Persist, Persisted},
};

use super::{Happening, World};
use crate::{
    observation::{self, End},
    scenario::Disk,
};

/// What a disk holds.
pub(super) struct Kept {
    contents: Persisted,
    /// Term of each entry by index; who judges the world asks for it after each event.
    terms: Arc<BTreeMap<u64, u64>>,
    /// What its entries end, by index.
    ends: Arc<BTreeMap<u64, Vec<End>>>,
    /// Counts disks that took its place.
    number: u64,
}

impl World {
    /// Writes, or fails to. After a write that failed an agent writes nothing more, and says
    /// nothing of it: the log must have no gap.
    pub(super) fn write(&mut self, id: u64, number: u64, persist: Box<Persist>) {
        self.note_asked(id, &persist);
        if self.machines[&id].sent.writes_no_more {
            return;
        }
        let slow = self.slow_disks.get(&id).copied().unwrap_or_default();
        let slow = self.random.below(self.slow_disk_ns.max(slow) + 1);
        let disk = self.disk_times(id);
        let time = disk.write_ns_min + self.random.below(disk.write_ns_spread) + slow;
        let time = self.after_earlier_writes(id, time);
        let what = match self.disk_error(id) {
            Some((fault, why)) => {
                self.machines.get_mut(&id).expect("it writes").sent.writes_no_more = true;
                Happening::Deliver(Event::PersistFailed(fault, why))
            }
            None => Happening::Written(number, persist),
        };
        self.schedule(time, id, what);
    }

    /// Writes of this machine take up to so much more from now on, ns.
    pub fn slow_disk(&mut self, id: u64, ns: u64) {
        self.slow_disks.insert(id, ns);
    }

    /// A disk keeps order: a write ends after those before it.
    fn after_earlier_writes(&self, id: u64, time: u64) -> u64 {
        let last = self
            .queue
            .iter()
            .filter(|(_, (to, _, what))| {
                let failed = matches!(what, Happening::Deliver(Event::PersistFailed(..)));
                *to == id && (failed || matches!(what, Happening::Written(..)))
            })
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
        let mut disk = Self { contents, terms: Arc::default(), ends: Arc::default(), number: 0 };
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
        let snapshot = (self.contents.snapshot.term, self.contents.snapshot.index);
        let end = self.contents.entries.last().map_or(snapshot, |e| (e.term, e.index));
        observation::Kept { term, vote, commit, end, disk: self.number }
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

    /// What its entries end, by index.
    pub(super) fn ends(&self) -> Arc<BTreeMap<u64, Vec<End>>> {
        Arc::clone(&self.ends)
    }

    /// What a disk does with a write, whose entries end this.
    pub(super) fn keep(
        &mut self,
        persist: Persist,
        ends: Vec<(u64, Vec<End>)>,
        forgets_promises: bool,
    ) {
        let (disk, stay) = (&mut self.contents, persist.keeps());
        let replaced = self.ends.keys().any(|index| !stay.contains(index));
        if replaced || !ends.is_empty() {
            let all = Arc::make_mut(&mut self.ends);
            all.retain(|index, _| stay.contains(index));
            all.extend(ends);
        }
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
