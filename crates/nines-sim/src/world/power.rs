//! Fence devices: what they do to machines, and how they fail.
//!
//! Decides: what is true of power. A call that a node has begun goes on when the node dies, as a
//! process on another machine does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nines_core::Event;
use nines_model::{Millis, Switch, codes};

use super::{Happening, World};
use crate::observation::OffCall;

codes! {
    /// How a fence device behaves.
    pub enum Device {
        /// It does what it is asked and says so.
        Works = "works",
        /// It says at once that it does not.
        Refuses = "refuses",
        /// It does not answer.
        Hangs = "hangs",
        /// It says that it has done it, and does nothing.
        Lies = "lies",
        /// It does it, after everybody has stopped waiting.
        Late = "is late",
    }
}

/// A machine that has been on for so long, and hears a leader, is heard by that.
const FOLLOWS_NS: u64 = 2_000_000_000;

/// A call of a device that has come to its end.
#[derive(Clone, Debug)]
pub struct Switched {
    pub(super) target: u64,
    pub(super) switch: Switch,
    /// The number of the operation, if its result comes with this.
    pub(super) number: Option<u64>,
    pub(super) result: Result<(), String>,
    /// Which of the calls to switch something off it ends.
    pub(super) call: Option<usize>,
    /// Whether the machine is switched.
    pub(super) takes_effect: bool,
}

/// What is known of power.
#[derive(Default)]
pub(super) struct Power {
    devices: BTreeMap<String, Device>,
    /// Machines that cannot reach a device.
    unreachable: BTreeSet<(u64, String)>,
    /// Machines that a device has switched off, and that nobody has switched on.
    pub(super) off: BTreeSet<u64>,
    /// Machines that were off, and run again without the log of the one that went on without them,
    /// each with the time when it started.
    pub(super) back: BTreeMap<u64, u64>,
    /// The last incarnation that was over when a device had switched its machine off, by machine.
    pub(super) over: BTreeMap<u64, u64>,
    /// A device has lied: what follows from that is nobody's fault.
    pub(super) has_lied: bool,
    /// Calls by name of the device, target and switch.
    calls: BTreeMap<(String, u64, Switch), usize>,
    /// Calls that ask to switch a machine off.
    pub(super) off_calls: Arc<Vec<OffCall>>,
}

impl World {
    /// A fence device behaves like this from now on.
    pub fn set_device(&mut self, device: &str, behaves: Device) {
        self.power.devices.insert(device.into(), behaves);
    }

    /// A machine reaches a fence device no more, or does again.
    pub fn cut_device(&mut self, id: u64, device: &str, cut: bool) {
        let pair = (id, device.to_owned());
        if cut {
            self.power.unreachable.insert(pair);
        } else {
            self.power.unreachable.remove(&pair);
        }
    }

    /// One of the devices refuses, hangs, is late, or is not reached by one machine.
    pub fn some_device_fails(&mut self) {
        let (id, of) = (self.draw_founder(), self.draw_founder());
        let device = format!("bmc-{}", self.name(of));
        match self.random.below(4) {
            0 => self.set_device(&device, Device::Refuses),
            1 => self.set_device(&device, Device::Hangs),
            2 => self.set_device(&device, Device::Late),
            _ => self.cut_device(id, &device, true),
        }
    }

    /// What devices would still do late, they do not any more.
    pub fn no_device_is_late(&mut self) {
        let late =
            |what: &Happening| matches!(what, Happening::Switched(Switched { number: None, .. }));
        self.queue.retain(|_, (_, _, what)| !late(what));
    }

    /// All devices work, and are reached.
    pub fn all_devices_work(&mut self) {
        self.power.devices.clear();
        self.power.unreachable.clear();
    }

    /// Whether a device has switched this machine off, and nobody has switched it on since.
    pub fn is_switched_off(&self, id: u64) -> bool {
        self.power.off.contains(&id)
    }

    /// A person sees that a machine is off, and leaves it so.
    pub fn is_seen_off(&mut self, id: u64) {
        if self.machines[&id].node.is_none() {
            self.power.off.insert(id);
        }
    }

    /// How often devices were asked for this about a machine.
    pub fn fence_calls(&self, target: u64, switch: Switch) -> usize {
        let of = |((_, id, what), _): &(&(String, u64, Switch), &usize)| {
            *id == target && *what == switch
        };
        self.power.calls.iter().filter(of).map(|(_, count)| count).sum()
    }

    /// A node asks a device to switch a machine, or whether it could.
    pub(super) fn ask_device(
        &mut self,
        (id, number): (u64, u64),
        device: &str,
        (target, switch, timeout): (&str, Switch, Millis),
    ) {
        let Some(target) = self.founders().find(|founder| self.name(*founder) == target) else {
            return;
        };
        *self.power.calls.entry((device.to_owned(), target, switch)).or_default() += 1;
        let call = (switch == Switch::Off).then(|| self.note_off_call(id, target));
        let behaves = self.power.devices.get(device).copied().unwrap_or(Device::Works);
        let takes = 200_000_000 + self.random.below(1_300_000_000);
        let failed = |why: &str| Err(format!("{device}: {why}"));
        let reached = !self.power.unreachable.contains(&(id, device.to_owned()));
        let (after, result, takes_effect) = match behaves {
            _ if !reached => (5_000_000_000, failed("no connection"), false),
            Device::Works => (takes, Ok(()), true),
            Device::Refuses => (takes, failed("refused"), false),
            Device::Hangs => (timeout.ns(), failed("no answer"), false),
            Device::Lies => (takes, Ok(()), false),
            Device::Late => (timeout.ns(), failed("no answer"), false),
        };
        self.power.has_lied |= behaves == Device::Lies && switch == Switch::Off;
        if behaves == Device::Late && reached {
            let late =
                Switched { target, switch, number: None, result: Ok(()), takes_effect: true, call };
            self.schedule(timeout.ns() + takes, id, Happening::Switched(late));
        }
        let number = Some(number);
        let ended = Switched { target, switch, number, result, call, takes_effect };
        self.schedule(after, id, Happening::Switched(ended));
    }

    /// A call of a device ends: the machine is switched, whatever has become of who asked.
    pub(super) fn switched(&mut self, ended: &Switched) {
        let Switched { target, switch, takes_effect: true, .. } = ended else { return };
        match switch {
            Switch::Off => {
                self.changed = true;
                if let Some(call) = ended.call {
                    let calls = Arc::make_mut(&mut self.power.off_calls);
                    calls[call].took_effect = Some((self.now, ended.number.is_some()));
                    let asked = calls[call].at;
                    self.is_disturbed_by_call(asked);
                }
                let over = self.machines[target].boot;
                self.power_off(*target);
                self.power.off.insert(*target);
                self.power.over.insert(*target, over);
            }
            Switch::On => self.start(*target),
            Switch::Test => {}
        }
    }

    /// A machine starts: whoever has the button, presses it. Until it has what was decided without
    /// it, that counts as decided.
    pub(super) fn is_switched_on(&mut self, id: u64) {
        if self.power.off.remove(&id) {
            self.power.back.insert(id, self.now);
        }
    }

    /// Machines that count as off for what is decided without them.
    pub(super) fn count_as_off(&mut self) -> BTreeSet<u64> {
        // The newest entry that another node knows to be decided, as that one has it.
        let decided = |id: &u64| {
            let others = self.machines.iter().filter(|(other, _)| *other != id);
            let known = others.filter_map(|(_, m)| {
                let index = m.node.as_ref()?.consensus().committed().number();
                Some((index, m.disk.terms().get(&index).copied()))
            });
            known.max()
        };
        let has_it = |id: &u64| {
            let Some((index, term)) = decided(id) else { return false };
            let disk = &self.machines[id].disk;
            let newest = disk.get().snapshot.index;
            newest >= index || term.is_some() && disk.terms().get(&index).copied() == term
        };
        // Until it follows a leader, or its vote is taken, the other one may decide more.
        let newest = self.voters.values().next_back();
        let knows = |(id, since): (&u64, &u64)| {
            let leader = self.machines[id].node.as_ref().and_then(|n| n.consensus().leader());
            let follows = leader.is_some() && self.now - since > FOLLOWS_NS;
            follows || newest.is_some_and(|voters| !voters.contains(id))
        };
        let back = self.power.back.iter();
        let late = |(id, since): &(&u64, &u64)| !(has_it(id) && knows((id, since)));
        let late: BTreeMap<u64, u64> = back.filter(late).map(|(id, at)| (*id, *at)).collect();
        self.power.back = late;
        self.power.off.iter().chain(self.power.back.keys()).copied().collect()
    }

    /// The answer to who asked, if that one still runs.
    pub(super) fn switch_answered(&mut self, id: u64, ended: Switched) {
        if let Some(number) = ended.number {
            self.feed(id, Event::Done { id: number, result: ended.result });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Scenario, world::Sabotage};

    #[test]
    fn a_call_from_before_the_end_of_all_faults_is_one_of_them() {
        for late in [false, true] {
            let mut world = World::of(Scenario::fenced(false), 1, Sabotage::None);
            world.start_all();
            world.run_for(Millis(2_000)).unwrap();
            let ask = |world: &mut World| {
                let ask = ("lb2", Switch::Off, Millis(60_000));
                world.ask_device((1, u64::MAX), "bmc-lb2", ask);
            };
            if !late {
                ask(&mut world);
                world.run_for(Millis(100)).unwrap();
            }
            world.heals();
            if late {
                ask(&mut world);
            }
            assert!(world.is_healing());
            // Nobody gave an order: what the invariants say of that is not asked here.
            let _ = world.run_for(Millis(2_000));
            assert!(world.is_switched_off(2));
            assert_eq!(world.is_healing(), late);
        }
    }
}
