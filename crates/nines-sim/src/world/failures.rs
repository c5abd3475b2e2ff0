//! Failures of one machine: its process or its power is gone, it stands still, its disk is full,
//! its wall clock jumps, its boot clock has another rate.

use std::collections::{BTreeMap, BTreeSet};

use nines_core::{DiskFault, Event};
use nines_model::Millis;

use super::{Happening, Kernel, Sabotage, World, disk, founding};

/// The wall clock of a machine that is right, when the world begins, ns since 1970.
const WALL_NS: u64 = 1_700_000_000_000_000_000;

/// An agent looks so often whether a full disk has room again, ns.
const ROOM_NS: u64 = 2_000_000_000;

/// What is wrong with machines.
#[derive(Default)]
pub(super) struct Failures {
    full_disks: BTreeSet<u64>,
    failed_disks: BTreeSet<u64>,
    /// How far wall clocks are off, ns.
    wall: BTreeMap<u64, i64>,
}

impl World {
    /// kill -9: the process is gone, the kernel stays, unsynced writes are lost.
    pub fn kill(&mut self, id: u64) {
        self.changed = true;
        let forgets = self.sabotage == Sabotage::DiskForgets;
        let machine = self.machines.get_mut(&id).expect("a machine");
        machine.node = None;
        machine.incarnation += 1;
        if forgets {
            machine.disk = disk::Kept::new(founding(&self.scenario, self.scenario.spec()));
            // The others would remember: their processes end, too.
            self.forget_others(id);
        }
    }

    /// Power: the kernel is gone too.
    pub fn power_off(&mut self, id: u64) {
        self.kill(id);
        let machine = self.machines.get_mut(&id).expect("a machine");
        machine.kernel = Kernel::default();
        machine.power += 1;
        machine.sent.heard_majority = false;
        // The boot clock starts anew.
        machine.booted = self.now;
        machine.offset = machine.power % 7 * 1_000_000_000;
    }

    /// SIGSTOP for a while.
    pub fn pause(&mut self, id: u64, length: Millis) {
        let until = self.now + length.ns();
        self.machines.get_mut(&id).expect("a machine").paused_until = until;
        self.schedule(length.ns(), id, Happening::Wake);
    }

    /// The disk of this machine is full, or has room again: its agent sees that some time later.
    pub fn fill_disk(&mut self, id: u64, full: bool) {
        let disks = &mut self.failures.full_disks;
        if full {
            disks.insert(id);
        } else if disks.remove(&id) {
            let after = self.random.below(ROOM_NS);
            self.schedule(after, id, Happening::Deliver(Event::DiskHasRoom));
        }
    }

    /// All disks have room again, take writes, and are as fast as before.
    pub fn all_disks_work(&mut self) {
        self.slow_disks.clear();
        for id in self.failures.full_disks.clone() {
            self.fill_disk(id, false);
        }
        for id in std::mem::take(&mut self.failures.failed_disks) {
            // Somebody restarts the agent, for nothing else mends that.
            self.kill(id);
            self.start(id);
        }
    }

    /// Every write of this machine fails from now on, or none does.
    pub fn fail_disk(&mut self, id: u64, fails: bool) {
        let disks = &mut self.failures.failed_disks;
        if fails {
            disks.insert(id)
        } else {
            disks.remove(&id)
        };
    }

    /// Why a machine's disk takes nothing, if so.
    pub(super) fn disk_error(&self, id: u64) -> Option<(DiskFault, String)> {
        if self.failures.failed_disks.contains(&id) {
            return Some((DiskFault::Failed, "Input/output error (os error 5)".into()));
        }
        let full = self.failures.full_disks.contains(&id);
        full.then(|| (DiskFault::Full, "No space left on device (os error 28)".into()))
    }

    /// The wall clock of a machine is set to another time.
    pub fn jump_wall_clock(&mut self, id: u64, by_ns: i64) {
        *self.failures.wall.entry(id).or_default() += by_ns;
        self.tell_wall_clock(id);
    }

    pub(super) fn tell_wall_clock(&mut self, id: u64) {
        let off = self.failures.wall.get(&id).copied().unwrap_or_default();
        self.feed(id, Event::WallClock((WALL_NS + self.now).saturating_add_signed(off)));
    }

    /// The boot clock of a machine has another rate from now on.
    pub fn set_clock_rate(&mut self, id: u64, rate_ppm: u64) {
        let now = self.local(id);
        let machine = self.machines.get_mut(&id).expect("a machine");
        (machine.booted, machine.offset) = (self.now, now.0);
        machine.rate_ppm = rate_ppm;
        // What it waits for comes at another time.
        machine.wake = u64::MAX;
        self.feed(id, Event::Tick);
    }

    /// Whether the process of a node runs; one that is frozen does.
    pub fn runs(&self, id: u64) -> bool {
        self.machines[&id].node.is_some()
    }
}
