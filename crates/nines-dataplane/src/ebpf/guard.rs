//! The guard's deadlines in the kernel.
//!
//! Decides: that an address, once guarded, is never unguarded by accident: not by a new binary, not
//! by forgetting it while it is still on an interface.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};

use aya::maps::{HashMap, MapData};
use nines_abi::{Addr, GUARD_SERVES, GUARDS_MAX};
use nines_model::Time;

use super::{
    Raw, addresses,
    shared::{Shared, View},
};
use crate::{
    Error, Guard, Result, address,
    pins::{other_layouts, pin_directory},
};

/// Name of the array.
pub(super) const TABLE: &str = "GUARD_TABLE";

/// Which word of an entry is its deadline.
const DEADLINE_WORD: usize = std::mem::offset_of!(nines_abi::Guard, deadline_ns) / 8;

/// Value of the hash map `GUARD` that layouts up to 3 had.
#[repr(C)]
#[derive(Clone, Copy)]
struct OldGuard {
    deadline_ns: u64,
    flags: u32,
    pad: u32,
}

/// A guarded address stays guarded, by its old deadline, when another binary takes over: an
/// address that is not in the table is not silent.
fn inherit(pins: &Path, table: &View<nines_abi::Guard>) {
    let take = |addr: Addr, deadline_ns: u64, flags: u32| {
        if addresses::find(table, addr).is_none() {
            let flags = flags & GUARD_SERVES;
            addresses::put(table, nines_abi::Guard { addr, deadline_ns, flags, pad: 0 });
        }
    };
    for other in other_layouts(pins) {
        if let Ok(data) = MapData::from_pin(other.join(TABLE))
            && let Ok(old) = Shared::new(data).view()
        {
            addresses::all(&old)
                .for_each(|g: nines_abi::Guard| take(g.addr, g.deadline_ns, g.flags));
        }
        let Ok(data) = MapData::from_pin(other.join("GUARD")) else { continue };
        let Ok(old) =
            HashMap::<_, Raw<Addr>, Raw<OldGuard>>::try_from(aya::maps::Map::HashMap(data))
        else {
            continue;
        };
        old.iter().flatten().for_each(|(addr, g)| take(addr.0, g.0.deadline_ns, g.0.flags));
    }
}

/// The deadline that the kernel of this namespace holds for an address, read afresh; `None`: it is
/// not guarded.
pub fn deadline_of(vip: IpAddr) -> Option<Time> {
    let data = MapData::from_pin(pin_directory().ok()?.join(TABLE)).ok()?;
    let view: View<nines_abi::Guard> = Shared::new(data).view().ok()?;
    addresses::find(&view, address::mapped(vip)).map(|at| Time(view.get(at).deadline_ns))
}

/// Takes every guarded address off this machine's interfaces, then ends the guard. For a machine
/// that nines leaves: an address that stays behind unguarded would answer beside its next holder.
pub fn release_all() -> Result<()> {
    let pins = pin_directory()?;
    let Ok(data) = MapData::from_pin(pins.join(TABLE)) else { return Ok(()) };
    EbpfGuard::new(Shared::new(data), &pins)?.cover(&[])
}

/// The guard's table.
pub struct EbpfGuard {
    /// Programs loaded later name the array by this descriptor.
    _map: Shared<nines_abi::Guard>,
    table: View<nines_abi::Guard>,
    serves: BTreeMap<IpAddr, bool>,
    /// Whose deadlines are renewed together, and where they are.
    follow: BTreeMap<IpAddr, u32>,
    /// What a real server needs for that.
    on_lo: BTreeSet<IpAddr>,
}

impl EbpfGuard {
    /// Over the pinned table.
    pub(super) fn new(map: Shared<nines_abi::Guard>, pins: &Path) -> Result<Self> {
        let table = map.view()?;
        inherit(pins, &table);
        // An earlier process may have put them there.
        let on_lo = address::on_lo()?;
        Ok(Self { _map: map, table, serves: BTreeMap::new(), follow: BTreeMap::new(), on_lo })
    }

    fn put(&mut self, vip: IpAddr, deadline: Time) -> Result<()> {
        let serves = self.serves.get(&vip).copied().unwrap_or(false) && self.on_lo.contains(&vip);
        let flags = if serves { GUARD_SERVES } else { 0 };
        let addr = address::mapped(vip);
        let entry = nines_abi::Guard { addr, deadline_ns: deadline.0, flags, pad: 0 };
        // What has no entry and gets no deadline need not have one.
        let silent = deadline == Time(0) && addresses::find(&self.table, addr).is_none();
        if addresses::put(&self.table, entry) || silent {
            return Ok(());
        }
        Err(Error::new(
            format!("{vip} cannot be guarded"),
            "the table has no room where it belongs",
        ))
    }

    /// The deadline in the kernel.
    pub fn deadline(&self, vip: IpAddr) -> Option<Time> {
        let at = addresses::find(&self.table, address::mapped(vip))?;
        Some(Time(self.table.get(at).deadline_ns))
    }
}

impl Guard for EbpfGuard {
    fn set(&mut self, vip: IpAddr, deadline: Time) -> Result<()> {
        self.follow.remove(&vip);
        self.put(vip, deadline)
    }

    fn follow(&mut self, vip: IpAddr, deadline: Time) -> Result<()> {
        self.put(vip, deadline)?;
        if let Some(at) = addresses::find(&self.table, address::mapped(vip)) {
            self.follow.insert(vip, at);
        }
        Ok(())
    }

    /// One word of mapped memory for each: a thousand take a few microseconds, and what a packet
    /// has to look at stays in one place.
    fn renew(&mut self, deadline: Time) -> Result<()> {
        for (vip, at) in &mut self.follow {
            let addr = address::mapped(*vip);
            // One that made room for another lies elsewhere.
            if self.table.get(*at).addr != addr {
                let Some(now_at) = addresses::find(&self.table, addr) else { continue };
                *at = now_at;
            }
            self.table.set_word(*at, DEADLINE_WORD, deadline.0);
        }
        Ok(())
    }

    fn serve(&mut self, on_lo: &BTreeSet<IpAddr>) -> Result<()> {
        self.on_lo.clone_from(on_lo);
        let guarded: Vec<IpAddr> = self.serves.keys().copied().collect();
        guarded.into_iter().try_for_each(|vip| match self.deadline(vip) {
            Some(deadline) => self.put(vip, deadline),
            None => Ok(()),
        })
    }

    fn cover(&mut self, vips: &[(IpAddr, bool)]) -> Result<()> {
        if vips.len() > GUARDS_MAX as usize {
            let why = format!("{} addresses; a node guards {GUARDS_MAX}", vips.len());
            return Err(Error::new("cannot guard the VIPs", why));
        }
        self.serves = vips.iter().copied().collect();
        let have: Vec<Addr> = addresses::all(&self.table).map(|g| g.addr).collect();
        for addr in have {
            let vip = address::unmapped(addr);
            if !self.serves.contains_key(&vip) {
                // An address that somebody left must not answer because it is forgotten here.
                for i in address::interfaces()?.iter().filter(|i| i.ethernet) {
                    for (_, prefix) in i.addresses.iter().filter(|(a, _)| *a == vip) {
                        address::remove(i.index, vip, *prefix)?;
                    }
                }
                self.follow.remove(&vip);
                addresses::remove(&self.table, addr);
            }
        }
        for (vip, _) in vips {
            // A deadline that an earlier process set still holds: it was promised to it.
            let deadline = self.deadline(*vip).unwrap_or_default();
            self.put(*vip, deadline)?;
        }
        Ok(())
    }
}
