//! The simulated kernels: deadlines as the data plane keeps them, and addresses.

use std::net::IpAddr;

use nines_core::{Event, Node, action::Operation};
use nines_model::Time;

use super::{Happening, World};

/// Whether a kernel answers now and did not before, or the other way round.
fn changes(before: Option<Time>, deadline: Time, now: Time) -> bool {
    before.is_some_and(|before| now < before) != (now < deadline)
}

impl World {
    pub(super) fn guard(&mut self, id: u64, vip: IpAddr, deadline: Time, follows: bool) {
        let now = self.local(id);
        let machine = self.machines.get_mut(&id).expect("a machine");
        let held = machine.node.as_ref().and_then(|n| n.vips().get(&vip));
        let token = held.map_or(0, |v| v.token.number());
        let before = machine.kernel.guards.insert(vip, deadline);
        let token_before = machine.kernel.tokens.insert(vip, token);
        self.changed |= changes(before, deadline, now) || token_before != Some(token);
        if follows {
            machine.kernel.follow.insert(vip);
        } else {
            machine.kernel.follow.remove(&vip);
        }
    }

    /// Every VIP that follows gets this deadline.
    pub(super) fn renew_guards(&mut self, id: u64, deadline: Time) {
        let now = self.local(id);
        let kernel = &mut self.machines.get_mut(&id).expect("a machine").kernel;
        for vip in &kernel.follow {
            let before = kernel.guards.insert(*vip, deadline);
            self.changed |= changes(before, deadline, now);
        }
    }

    /// Carries an operation out; gives its number if it has ended already.
    pub(super) fn perform(&mut self, id: u64, number: u64, operation: Operation) -> Option<u64> {
        match operation {
            Operation::Guard(vip, deadline) => self.guard(id, vip, deadline, false),
            Operation::Follow(vip, deadline) => self.guard(id, vip, deadline, true),
            Operation::Renew(deadline) => self.renew_guards(id, deadline),
            Operation::Address { vip, up } => {
                let time = 100_000 + self.random.below(900_000);
                self.schedule(time, id, Happening::Done(number, vip, up));
                return None;
            }
            Operation::Forward(_) => {
                let done = Event::Done { id: number, result: Ok(()) };
                self.schedule(50_000, id, Happening::Deliver(done));
                return None;
            }
            Operation::Fence { device, config, node, switch, until: _ } => {
                let what = (node.as_str(), switch, config.timeout);
                self.ask_device((id, number), device.as_str(), what);
                return None;
            }
            Operation::Cover(_)
            | Operation::Serve(_)
            | Operation::Announce(_)
            | Operation::Watch(_) => {}
        }
        Some(number)
    }

    /// Carries everything out that a node asks for, until it asks for nothing.
    pub(super) fn carry_all_out(&mut self, id: u64, now: Time) {
        let incarnation = self.machines[&id].incarnation;
        loop {
            let node = self.machines.get_mut(&id).and_then(|m| m.node.as_mut());
            let actions = node.map_or_else(Vec::new, Node::take_actions);
            if actions.is_empty() {
                return;
            }
            let ended = self.carry_out(id, actions);
            let machine = self.machines.get_mut(&id).expect("a machine");
            if machine.incarnation != incarnation {
                return;
            }
            let Some(node) = &mut machine.node else { return };
            for number in ended {
                node.handle(now, Event::Done { id: number, result: Ok(()) });
            }
        }
    }
}
