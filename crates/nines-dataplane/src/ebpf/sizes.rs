//! How much room the kernel tables have.
//!
//! Decides: what a table of services needs, and whether tables that are there are enough.

use std::{fs, path::Path};

use aya::maps::MapData;
use nines_abi::WAYS;
use nines_model::ForwardingTable;

use super::{guard, writes};

/// Room in the kernel tables. It is made when they are; a binary that wants more makes new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Services; a power of two.
    pub services: u32,
    /// Real servers of all services.
    pub servers: u32,
    /// Entries of all pick tables.
    pub picks: u32,
    /// Buckets of the flow table; a power of two.
    pub buckets: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        let (services, servers) = (nines_abi::SERVICES, nines_abi::SERVERS);
        Self { services, servers, picks: nines_abi::PICKS, buckets: nines_abi::BUCKETS }
    }
}

impl Sizes {
    /// Room for this table twice over, and so many flows.
    pub fn holding(table: &ForwardingTable, flows: u32) -> Self {
        let least = Self::default();
        let services = table.services.len() as u32;
        let servers: usize = table.services.values().map(|s| s.servers.len()).sum();
        let picks: u64 = table.services.values().map(writes::picks_of).sum();
        Self {
            services: (services * 2).next_power_of_two().max(least.services),
            servers: (servers as u32 * 2).max(least.servers),
            picks: u32::try_from(picks * 2).unwrap_or(u32::MAX / 2).max(least.picks),
            buckets: flows.div_ceil(WAYS as u32).next_power_of_two().max(least.buckets),
        }
    }

    /// Places for addresses: VIPs, and servers reached by NAT; a power of two.
    pub(super) fn places(self) -> u32 {
        let by_service = self.services * nines_abi::PLACES_PER_SERVICE;
        by_service.max((self.servers * 2).next_power_of_two())
    }

    /// Entries of each map by this; PICKS has two picks in one.
    pub(super) fn of_maps(self) -> [(&'static str, u32); 14] {
        [
            ("SERVICES", self.services),
            ("SERVICE_KEYS", self.services),
            ("SERVICE_STATS", self.services),
            ("TURNS", self.services),
            ("COOKIE_PACES", self.services),
            ("PLACES", self.places()),
            ("SERVERS", self.servers),
            ("LOADS", self.servers),
            ("HOPS", self.servers),
            ("QUIC_IDS", self.servers),
            ("SERVER_STATS", self.servers),
            ("PICKS", self.picks.div_ceil(2)),
            ("FLOWS", self.buckets),
            ("CHANGED", self.buckets.div_ceil(64)),
        ]
    }

    /// What is pinned already, if it is enough; else what is wanted, and the smaller tables go. The
    /// guard's stay in any case.
    pub(super) fn settle(self, pins: &Path) -> Self {
        let entries = |name: &str| {
            let info = MapData::from_pin(pins.join(name)).ok()?.info().ok()?;
            Some(info.max_entries())
        };
        let Some(found) = (|| {
            Some(Self {
                services: entries("SERVICES")?,
                servers: entries("SERVERS")?,
                picks: entries("PICKS")? * 2,
                buckets: entries("FLOWS")?,
            })
        })() else {
            return self;
        };
        let enough = found.services >= self.services
            && found.servers >= self.servers
            && found.picks >= self.picks
            && found.buckets >= self.buckets;
        if enough {
            return found;
        }
        for name in fs::read_dir(pins).into_iter().flatten().flatten().map(|e| e.file_name()) {
            let name = name.to_string_lossy();
            if !name.starts_with("link-") && name != guard::TABLE {
                let _ = fs::remove_file(pins.join(&*name));
            }
        }
        Self {
            services: self.services.max(found.services),
            servers: self.servers.max(found.servers),
            picks: self.picks.max(found.picks),
            buckets: self.buckets.max(found.buckets),
        }
    }
}
