//! Copies of machines: the same node twice, in the same world.

use nines_model::{Millis, NodeId};

use super::{Machine, Sabotage, World};
use crate::random::Random;

/// No copy runs for so long that everybody could confirm it while its original is off: its disk is
/// older than what the original has acknowledged, which is another fault.
const AT_MOST: Millis = Millis(8_000);

impl World {
    /// A copy of a node's disk starts on another machine, as that node. `cut_off`: from these.
    pub fn copy(&mut self, id: u64, cut_off: &[u64]) {
        let copy = self.copy_id();
        if self.machines.contains_key(&copy) {
            return;
        }
        let place = if self.sabotage == Sabotage::CopiesUnknown { id } else { copy };
        let (disk, rate_ppm) = (self.machines[&id].disk.get().clone(), self.machines[&id].rate_ppm);
        let machine = Machine {
            identity: id,
            place,
            incarnation: self.sequence + 1,
            power: 1_000,
            booted: self.now,
            offset: 1_000_000_000,
            rate_ppm,
            // No number of this world is drawn for it.
            ..Machine::new(&mut Random::new(0), copy, disk)
        };
        self.machines.insert(copy, machine);
        for other in cut_off {
            self.cut(copy, *other, true);
        }
        self.start(copy);
    }

    /// A node is copied; the copy is cut off from some of the others.
    pub fn copy_somebody(&mut self) {
        let id = self.draw_founder();
        let cut_off: Vec<u64> = self.founders().filter(|_| self.random.chance(400)).collect();
        self.copy(id, &cut_off);
    }

    /// Who copied it stops the copy, and restarts the original.
    pub fn remove_copy(&mut self) {
        let id = self.copy_id();
        let Some(copy) = self.machines.remove(&id) else { return };
        self.cut.retain(|(to, from, _)| *from != id && *to != id);
        self.kill(copy.identity);
        self.start(copy.identity);
    }

    /// The disk of a node goes on in another machine, which boots.
    pub fn move_disk(&mut self, id: u64) {
        self.power_off(id);
        self.machines.get_mut(&id).expect("a machine").place += 100;
        self.start(id);
    }

    /// The copy has run for long enough.
    pub fn copy_is_old(&self) -> bool {
        let copy = self.machines.get(&self.copy_id());
        copy.is_some_and(|m| self.now - m.booted > AT_MOST.ns())
    }

    /// What a copy answers for, and what it believes.
    pub fn copy_holds(&self) -> bool {
        let copy = self.copy_id();
        self.machines.contains_key(&copy) && !self.answers(copy).is_empty()
    }

    /// Every node that runs knows that two agents run as this one.
    pub fn everybody_knows_double(&self, id: u64) -> bool {
        self.machines.iter().all(|(machine, m)| {
            let now = self.local(*machine);
            m.node.as_ref().is_none_or(|node| node.double(now).contains(&NodeId(id)))
        })
    }

    /// The machine of a node answers for something.
    pub fn holds(&self, id: u64) -> bool {
        !self.answers(id).is_empty()
    }
}
