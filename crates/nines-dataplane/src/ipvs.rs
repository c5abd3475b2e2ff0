//! The kernel's own IPVS as a back end, over generic netlink (include/uapi/linux/ip_vs.h).
//!
//! Decides: which changes lead from what the kernel holds to a table, and that a failed update is
//! taken back. The whole table of the network namespace is ours: what other programs put there
//! goes. IPVS does not know the VIP guard; the director's programs keep it ([`crate::director`]).

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path};

use nines_model::{Counters, ForwardingTable, IdleLimits, ServerRef, Traffic};

pub use self::{
    convert::{Dest, Held, Service, State, held},
    kernel::{Ipvs as Kernel, Role, SyncDaemon},
    readback::{Counts, connections, shown},
};
use crate::{DataPlane, Error, Result};

mod convert;
mod kernel;
mod readback;

/// One change of IPVS's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A service without servers.
    Add(Traffic, Service),
    /// Another scheduler, time or flag of a service.
    Set(Traffic, Service),
    /// A service that has no servers left.
    Remove(Traffic),
    /// A server of a service.
    AddDest(Traffic, Dest),
    /// Its words; the kernel moves its connections along, which delete and add would not.
    SetDest(Traffic, Dest),
    /// A server; its connections end.
    RemoveDest(Traffic, Dest),
}

/// The tables of IPVS, where changes are carried out.
pub trait Tables: Send {
    /// What is there.
    fn list(&mut self) -> Result<State>;
    /// Settings that tables like ours want; `None`: the times that are there.
    fn prepare(&mut self, _idle: Option<IdleLimits>) -> Result<()> {
        Ok(())
    }
    /// Carries one change out.
    fn carry_out(&mut self, change: &Change) -> Result<()>;
}

/// Changes that lead from one state to another, each with the one that takes it back.
pub fn changes(have: &State, want: &State) -> Vec<(Change, Change)> {
    let mut all = Vec::new();
    for (traffic, wanted) in want {
        let empty = Held { service: wanted.service.clone(), dests: Vec::new() };
        let held = have.get(traffic).unwrap_or(&empty);
        if !have.contains_key(traffic) {
            let add = Change::Add(*traffic, wanted.service.clone());
            all.push((add, Change::Remove(*traffic)));
        }
        // New servers before old ones go: a service is never without.
        for dest in &wanted.dests {
            match held.dests.iter().find(|d| d.at == dest.at) {
                None => all.push((
                    Change::AddDest(*traffic, dest.clone()),
                    Change::RemoveDest(*traffic, dest.clone()),
                )),
                Some(before) if before != dest => all.push((
                    Change::SetDest(*traffic, dest.clone()),
                    Change::SetDest(*traffic, before.clone()),
                )),
                Some(_) => {}
            }
        }
        if held.service != wanted.service {
            all.push((
                Change::Set(*traffic, wanted.service.clone()),
                Change::Set(*traffic, held.service.clone()),
            ));
        }
        remove_dests(&mut all, *traffic, held, |d| wanted.dests.iter().all(|w| w.at != d.at));
    }
    for (traffic, held) in have.iter().filter(|(traffic, _)| !want.contains_key(traffic)) {
        remove_dests(&mut all, *traffic, held, |_| true);
        let add = Change::Add(*traffic, held.service.clone());
        all.push((Change::Remove(*traffic), add));
    }
    all
}

fn remove_dests(
    all: &mut Vec<(Change, Change)>,
    traffic: Traffic,
    held: &Held,
    goes: impl Fn(&Dest) -> bool,
) {
    for dest in held.dests.iter().filter(|d| goes(d)) {
        all.push((
            Change::RemoveDest(traffic, dest.clone()),
            Change::AddDest(traffic, dest.clone()),
        ));
    }
}

/// The back end.
pub struct IpvsPlane<T> {
    tables: T,
    wanted: ForwardingTable,
}

/// Whether the kernel has it now. Looks only: asking for it would load the module.
pub fn is_there() -> bool {
    Path::new("/proc/sys/net/ipv4/vs").exists()
}

/// Whether the kernel has it, or a module of it.
pub fn can_be() -> bool {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let modules = Path::new("/lib/modules").join(kernel.trim());
    let lists = |list: &str| fs::read_to_string(modules.join(list)).unwrap_or_default();
    is_there() || ["modules.dep", "modules.builtin"].iter().any(|l| lists(l).contains("/ip_vs.ko"))
}

/// Why a table is none that IPVS can hold, whatever the kernel.
pub fn can_hold(table: &ForwardingTable) -> Result<()> {
    convert::state(table).map(drop)
}

impl IpvsPlane<Kernel> {
    /// Over the kernel of this network namespace; it loads the module if it can.
    pub fn open() -> Result<Self> {
        Ok(Self::over(Kernel::open()?))
    }

    /// Starts or stops the kernel's sync daemons, as [`Kernel::synchronise`] does.
    pub fn synchronise(&self, on: Option<&str>) -> Result<()> {
        self.tables.synchronise(on)
    }
}

impl<T: Tables> IpvsPlane<T> {
    /// Over these tables.
    pub fn over(tables: T) -> Self {
        Self { tables, wanted: ForwardingTable::default() }
    }

    /// Servers that get new clients.
    pub fn serving(&mut self) -> Result<Vec<(Traffic, SocketAddr)>> {
        let mut serving = Vec::new();
        for (traffic, held) in self.tables.list()? {
            let up = held.dests.into_iter().filter(|dest| dest.weight > 0);
            serving.extend(up.map(|dest| (traffic, dest.at)));
        }
        Ok(serving)
    }

    /// Carries out all of them, or, if one fails, none.
    fn carry_out(&mut self, changes: Vec<(Change, Change)>) -> Result<()> {
        let mut undo = Vec::new();
        for (change, inverse) in changes {
            if let Err(why) = self.tables.carry_out(&change) {
                for back in undo.iter().rev() {
                    // What cannot be taken back shows in the next look.
                    let _ = self.tables.carry_out(back);
                }
                return Err(why);
            }
            undo.push(inverse);
        }
        Ok(())
    }
}

impl<T: Tables> DataPlane for IpvsPlane<T> {
    fn apply(&mut self, table: &ForwardingTable) -> Result<()> {
        let want = convert::state(table)?;
        let have = self.tables.list()?;
        self.tables.prepare(table.idle)?;
        self.carry_out(changes(&have, &want))?;
        self.wanted = table.clone();
        Ok(())
    }

    fn observe(&mut self) -> Result<Vec<String>> {
        let changes = changes(&self.tables.list()?, &convert::state(&self.wanted)?);
        Ok(changes
            .iter()
            .map(|(change, _)| format!("IPVS was changed by someone else ({change})"))
            .collect())
    }

    fn counters(&mut self) -> Result<Counters> {
        let held = self.tables.list()?;
        let mut counters = Counters::default();
        for (name, service) in &self.wanted.services {
            let Some(found) = held.get(&service.traffic) else { continue };
            let mut whole = found.service.tally.0;
            (whole.active, whole.inactive) = (0, 0);
            for (server, wanted) in &service.servers {
                let at = convert::at(service, wanted);
                let Some(dest) = found.dests.iter().find(|d| d.at == at) else { continue };
                whole.active += dest.tally.0.active;
                whole.inactive += dest.tally.0.inactive;
                let server = ServerRef::new(name.clone(), server.clone());
                counters.servers.insert(server, dest.tally.0);
            }
            counters.services.insert(name.clone(), whole);
        }
        Ok(counters)
    }

    fn describe(&self) -> String {
        "ipvs".into()
    }

    fn remove(&mut self) -> Result<()> {
        let have = self.tables.list()?;
        self.carry_out(changes(&have, &BTreeMap::new()))
    }
}

/// Counts ride with what they belong to and make no difference between two.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uncompared<T>(pub T);

impl<T> PartialEq for Uncompared<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<T> Eq for Uncompared<T> {}

fn refused(what: impl Into<String>, why: impl std::fmt::Display) -> Error {
    Error::new(what, why)
}

#[cfg(test)]
mod tests;
