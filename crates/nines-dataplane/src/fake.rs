//! A data plane in memory: what was asked is what is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex},
};

use nines_model::{Counters, ForwardingTable, Time};

use crate::{DataPlane, Guard, Result};

pub mod addresses;

/// What a fake kernel holds; tests look at it and change it behind the product's back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The table in force.
    pub table: ForwardingTable,
    /// Deadline until which each address may answer.
    pub guards: BTreeMap<IpAddr, Time>,
    /// Whose deadlines are renewed together.
    pub follow: BTreeSet<IpAddr>,
}

/// The fake; clones share one kernel.
#[derive(Clone, Default)]
pub struct Fake {
    /// What the kernel holds.
    pub held: Arc<Mutex<Held>>,
    wanted: ForwardingTable,
}

impl DataPlane for Fake {
    fn apply(&mut self, table: &ForwardingTable) -> Result<()> {
        self.wanted = table.clone();
        self.held.lock().expect("no panic holds it").table = table.clone();
        Ok(())
    }

    fn observe(&mut self) -> Result<Vec<String>> {
        let held = self.held.lock().expect("no panic holds it");
        if held.table == self.wanted {
            return Ok(Vec::new());
        }
        Ok(vec!["the table was changed by someone else".into()])
    }

    fn counters(&mut self) -> Result<Counters> {
        Ok(Counters::default())
    }

    fn describe(&self) -> String {
        "fake".into()
    }

    fn remove(&mut self) -> Result<()> {
        *self.held.lock().expect("no panic holds it") = Held::default();
        Ok(())
    }
}

impl Guard for Fake {
    fn set(&mut self, vip: IpAddr, deadline: Time) -> Result<()> {
        let mut held = self.held.lock().expect("no panic holds it");
        held.guards.insert(vip, deadline);
        held.follow.remove(&vip);
        Ok(())
    }

    fn follow(&mut self, vip: IpAddr, deadline: Time) -> Result<()> {
        let mut held = self.held.lock().expect("no panic holds it");
        held.guards.insert(vip, deadline);
        held.follow.insert(vip);
        Ok(())
    }

    fn renew(&mut self, deadline: Time) -> Result<()> {
        let held = &mut *self.held.lock().expect("no panic holds it");
        for vip in &held.follow {
            held.guards.insert(*vip, deadline);
        }
        Ok(())
    }

    fn cover(&mut self, vips: &[(IpAddr, bool)]) -> Result<()> {
        let mut held = self.held.lock().expect("no panic holds it");
        let vips_only: BTreeSet<IpAddr> = vips.iter().map(|(vip, _)| *vip).collect();
        held.guards.retain(|vip, _| vips_only.contains(vip));
        held.follow.retain(|vip| vips_only.contains(vip));
        for (vip, _) in vips {
            held.guards.entry(*vip).or_default();
        }
        Ok(())
    }
}
