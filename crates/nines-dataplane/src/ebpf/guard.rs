//! The guard's deadlines in the kernel.
//!
//! Decides: that an address, once guarded, is never unguarded by accident: not by a new binary, not
//! by forgetting it while it is still on an interface.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use aya::maps::{HashMap, MapData};
use nines_abi::{Addr, GUARD_SERVES};
use nines_model::Time;

use super::{Raw, map_error, other_layouts, pin_directory};
use crate::{Guard, Result, address};

/// A guarded address stays guarded, by its old deadline, when another binary takes over: an
/// address that is not in the map is not silent. The guard's layout has never changed.
pub fn inherit(pins: &Path, guard: &mut HashMap<MapData, Raw<Addr>, Raw<nines_abi::Guard>>) {
    const NOEXIST: u64 = 1;
    for other in other_layouts(pins) {
        let Ok(data) = MapData::from_pin(other.join("GUARD")) else { continue };
        let Ok(old) =
            HashMap::<_, Raw<Addr>, Raw<nines_abi::Guard>>::try_from(aya::maps::Map::HashMap(data))
        else {
            continue;
        };
        for (addr, deadline) in old.iter().flatten() {
            let _ = guard.insert(addr, deadline, NOEXIST);
        }
    }
}

/// The deadline that the kernel of this namespace holds for an address, read afresh; `None`: it is
/// not guarded.
pub fn deadline_of(vip: IpAddr) -> Option<Time> {
    let map = MapData::from_pin(pin_directory().ok()?.join("GUARD")).ok()?;
    let map: HashMap<MapData, Raw<Addr>, Raw<nines_abi::Guard>> =
        HashMap::try_from(aya::maps::Map::HashMap(map)).ok()?;
    map.get(&Raw(address::mapped(vip)), 0).ok().map(|g| Time(g.0.deadline_ns))
}

/// The guard's map.
pub struct EbpfGuard {
    map: HashMap<MapData, Raw<Addr>, Raw<nines_abi::Guard>>,
    serves: BTreeMap<IpAddr, bool>,
}

impl EbpfGuard {
    /// Over the pinned map.
    pub(super) fn new(map: HashMap<MapData, Raw<Addr>, Raw<nines_abi::Guard>>) -> Self {
        Self { map, serves: BTreeMap::new() }
    }

    fn put(&mut self, vip: IpAddr, deadline: Time) -> Result<()> {
        let serves = self.serves.get(&vip).copied().unwrap_or(false);
        let flags = if serves { GUARD_SERVES } else { 0 };
        let value = nines_abi::Guard { deadline_ns: deadline.0, flags, pad: 0 };
        self.map.insert(Raw(address::mapped(vip)), Raw(value), 0).map_err(map_error)
    }

    /// The deadline in the kernel.
    pub fn deadline(&self, vip: IpAddr) -> Option<Time> {
        self.map.get(&Raw(address::mapped(vip)), 0).ok().map(|g| Time(g.0.deadline_ns))
    }
}

impl Guard for EbpfGuard {
    fn set(&mut self, vip: IpAddr, deadline: Time) -> Result<()> {
        self.put(vip, deadline)
    }

    fn cover(&mut self, vips: &[(IpAddr, bool)]) -> Result<()> {
        self.serves = vips.iter().copied().collect();
        let have: Vec<Addr> =
            self.map.keys().map(|k| k.map(|k| k.0)).collect::<Result<_, _>>().map_err(map_error)?;
        for addr in have {
            let vip = address::unmapped(addr);
            if !self.serves.contains_key(&vip) {
                // An address that somebody left must not answer because it is forgotten here.
                for i in address::interfaces()?.iter().filter(|i| i.ethernet) {
                    for (_, prefix) in i.addresses.iter().filter(|(a, _)| *a == vip) {
                        address::remove(i.index, vip, *prefix)?;
                    }
                }
                self.map.remove(&Raw(addr)).map_err(map_error)?;
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
