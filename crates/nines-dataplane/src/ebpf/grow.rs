//! From smaller tables to larger ones.
//!
//! Decides: what moves along: services, servers, picks, addresses and counts keep their places, so
//! flows that name them live on. The programs at work go on with the smaller tables until the new
//! ones take over.

use std::{fs, path::Path};

use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use nines_abi::{Load, Place, QuicKey, Server, Service, ServiceKey, Stats};

use super::{Raw, addresses, map_error, shared::Shared, wrong};
use crate::{Error, Result};

/// Maps that were too small, as they were.
pub(super) struct Smaller(Vec<(&'static str, MapData)>);

impl Smaller {
    /// Takes these maps out of the pins: the next ones of these names are made anew.
    pub fn take(pins: &Path, names: impl Iterator<Item = &'static str>) -> Self {
        let mut all = Vec::new();
        for name in names {
            if let Ok(data) = MapData::from_pin(pins.join(name)) {
                all.push((name, data));
            }
            let _ = fs::remove_file(pins.join(name));
        }
        Self(all)
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts what lies in them into those that took their names.
    pub fn pour(&self, pins: &Path) -> Result<()> {
        // Another flow table begins empty, and what servers carry with it.
        let flows = self.0.iter().any(|(name, _)| *name == "FLOWS");
        for (name, old) in &self.0 {
            let failed = |e| Error::new(format!("cannot open map {name}"), e);
            let new = MapData::from_pin(pins.join(name)).map_err(failed)?;
            let id = old.info().map_err(failed)?.id();
            let old = MapData::from_id(id).map_err(failed)?;
            match *name {
                "ADDRESSES" => addresses(old, new)?,
                "SERVICES" => copy::<Service>(old, new)?,
                "SERVERS" => copy::<Server>(old, new)?,
                "LOOKUP" | "RR_CURSOR" => copy::<u64>(old, new)?,
                "LOADS" if !flows => copy::<Load>(old, new)?,
                "SERVICE_KEYS" => keys::<ServiceKey>(old, new)?,
                "QUIC_IDS" => keys::<QuicKey>(old, new)?,
                "SERVICE_STATS" | "SERVER_STATS" => counts(old, new)?,
                // Flows, and what the programs find out again.
                _ => {}
            }
        }
        Ok(())
    }
}

impl Smaller {
    /// They go on: nothing took their place.
    pub fn put_back(&self, pins: &Path) {
        for (name, old) in &self.0 {
            let _ = fs::remove_file(pins.join(name));
            // Without its name a map is at work all the same; the next process makes another.
            let again = old.info().and_then(|info| MapData::from_id(info.id()));
            let _ = again.map(|map| map.pin(pins.join(name)));
        }
    }
}

fn copy<T: Copy>(old: MapData, new: MapData) -> Result<()> {
    let (old, new) = (Shared::<T>::new(old), Shared::<T>::new(new));
    let (from, to) = (old.view()?, new.view()?);
    for index in 0..from.len().min(to.len()) {
        to.set(index, from.get(index));
    }
    Ok(())
}

/// Their places follow from how many there are.
fn addresses(old: MapData, new: MapData) -> Result<()> {
    let (old, new) = (Shared::<Place>::new(old), Shared::<Place>::new(new));
    let (from, to) = (old.view()?, new.view()?);
    // Those that do not fit are put again with the next table, or that one is refused.
    for place in addresses::all(&from) {
        let _ = addresses::put(&to, place);
    }
    Ok(())
}

fn keys<K: Copy>(old: MapData, new: MapData) -> Result<()>
where
    Raw<K>: aya::Pod,
{
    let hash = |data| HashMap::<_, Raw<K>, u32>::try_from(Map::HashMap(data)).map_err(wrong);
    let (old, mut new) = (hash(old)?, hash(new)?);
    for entry in old.iter() {
        let (key, value) = entry.map_err(map_error)?;
        new.insert(key, value, 0).map_err(map_error)?;
    }
    Ok(())
}

fn counts(old: MapData, new: MapData) -> Result<()> {
    let array =
        |data| PerCpuArray::<_, Raw<Stats>>::try_from(Map::PerCpuArray(data)).map_err(wrong);
    let (old, mut new) = (array(old)?, array(new)?);
    for index in 0..old.len().min(new.len()) {
        let counts = old.get(&index, 0).map_err(map_error)?;
        if counts.iter().any(|s| s.0.packets_in + s.0.connections > 0) {
            new.set(index, counts, 0).map_err(map_error)?;
        }
    }
    Ok(())
}
