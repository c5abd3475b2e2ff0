//! What the kernel's tables hold, and how that differs from what was last applied.
//!
//! Decides: what is another's change, to be put back, and what nobody's is and ends.

use std::collections::BTreeSet;

use nines_abi::{SERVICE_LIVE, SourceKey};

use super::Tables;
use crate::{
    Result,
    ebpf::{
        addresses,
        installed::{Installed, dead},
        map_error,
    },
};

impl Tables {
    /// Looks at the kernel afresh: how it differs from the last table applied.
    pub(in super::super) fn observe(&mut self) -> Result<Vec<String>> {
        let found = self.read()?;
        let mut differences = Vec::new();
        if found.services != self.installed.services || found.settings != self.installed.settings {
            differences.push("services were changed by someone else".to_owned());
        }
        if found.servers != self.installed.servers {
            differences.push("servers were changed by someone else".to_owned());
        }
        if found.picks != self.installed.picks {
            differences.push("pick tables were changed by someone else".to_owned());
        }
        if found.sources != self.installed.sources {
            differences.push("lists of clients were changed by someone else".to_owned());
        }
        if (&found.spread, &found.quic) != (&self.installed.spread, &self.installed.quic) {
            differences.push("ranges or ids were changed by someone else".to_owned());
        }
        if found.places != self.installed.places {
            differences.push("addresses that matter were changed by someone else".to_owned());
        }
        if !found.strays().is_empty() {
            differences.push("something of services that left is still there".to_owned());
        }
        if differences.is_empty() && !self.plan(&found, None, &self.table)?.0.is_empty() {
            differences.push("routes to servers changed".to_owned());
        }
        self.installed = found;
        if !differences.is_empty() {
            // The next apply looks at everything again.
            self.trusted = false;
        }
        Ok(differences)
    }

    /// The kernel's tables as they are.
    pub(super) fn read(&self) -> Result<Installed> {
        let mut found = Installed { cursor: self.installed.cursor, ..Installed::default() };
        let services = self.services.view()?;
        for entry in self.service_keys.iter() {
            let (key, id) = entry.map_err(map_error)?;
            if id < services.len() {
                found.services.insert(key.0, (id, services.get(id)));
            }
        }
        let servers = self.servers.view()?;
        for slot in 0..servers.len() {
            let server = servers.get(slot);
            if server.generation != 0 {
                found.place(slot, server);
            }
        }
        for entry in self.sources.iter() {
            let (key, said) = entry.map_err(map_error)?;
            let SourceKey { service, addr } = key.data().0;
            found.sources.insert((service, addr, (key.prefix_len() - 32) as u8), said);
        }
        for entry in self.spread.iter() {
            let (key, id) = entry.map_err(map_error)?;
            found.spread.insert((key.data().0, key.prefix_len() as u8), id);
        }
        for entry in self.quic.iter() {
            let (key, slot) = entry.map_err(map_error)?;
            found.quic.insert(key.0, slot);
        }
        found.settings = self.settings.get(&0, 0).map_err(map_error)?.0;
        for place in addresses::all(&self.places.view()?) {
            found.places.insert(place.addr, place.flags & !nines_abi::PLACE_USED);
        }
        for (_, service) in found.services.values().filter(|(_, s)| s.table_len() > 0) {
            let (base, len) = (service.table_base(), service.table_len());
            let pairs = self.picks.part(base / 2, len.div_ceil(2))?;
            let read = |i: u32| (pairs.get(i / 2) >> (i % 2 * 32)) as u32;
            found.picks.insert(base, (base..base + len).map(read).collect());
        }
        Ok(found)
    }

    /// Ends services that no key names, for packets may know them: whoever took the key away by
    /// hand, or died in the middle, has left them alive.
    pub(super) fn bury(&self) -> Result<()> {
        let named: BTreeSet<u32> = self.installed.services.values().map(|(id, _)| *id).collect();
        let services = self.services.view()?;
        for id in (0..services.len()).filter(|id| !named.contains(id)) {
            let service = services.get(id);
            if service.flags & SERVICE_LIVE != 0 {
                services.set(id, dead(service));
            }
        }
        Ok(())
    }
}
