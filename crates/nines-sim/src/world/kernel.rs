//! The deadlines in the simulated kernels, as the data plane keeps them.

use std::net::IpAddr;

use nines_model::Time;

use super::World;

impl World {
    pub(super) fn guard(&mut self, id: u64, vip: IpAddr, deadline: Time, follows: bool) {
        self.changed = true;
        let machine = self.machines.get_mut(&id).expect("a machine");
        let held = machine.node.as_ref().and_then(|n| n.vips().get(&vip));
        let token = held.map_or(0, |v| v.token);
        machine.kernel.guards.insert(vip, deadline);
        machine.kernel.tokens.insert(vip, token);
        if follows {
            machine.kernel.follow.insert(vip);
        } else {
            machine.kernel.follow.remove(&vip);
        }
    }

    /// Every VIP that follows gets this deadline.
    pub(super) fn renew_guards(&mut self, id: u64, deadline: Time) {
        self.changed = true;
        let kernel = &mut self.machines.get_mut(&id).expect("a machine").kernel;
        for vip in &kernel.follow {
            kernel.guards.insert(*vip, deadline);
        }
    }
}
