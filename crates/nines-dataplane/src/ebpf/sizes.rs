//! How much room the kernel tables have.
//!
//! Decides: what a table of services needs, and whether tables that are there are enough.

use std::path::Path;

use aya::maps::MapData;
use nines_abi::WAYS;
use nines_model::{ForwardingTable, Traffic};

use super::{grow::Smaller, reconcile};
use crate::{Error, Result};

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
        Self { services, servers, picks: nines_abi::LOOKUP, buckets: nines_abi::BUCKETS }
    }
}

impl Sizes {
    /// Room for this table twice over, and so many flows.
    pub fn holding(table: &ForwardingTable, flows: u32) -> Self {
        let least = Self::default();
        let services = table.services.len() as u32;
        let servers: usize = table.services.values().map(|s| s.servers.len()).sum();
        let picks: u64 = table.services.values().map(reconcile::picks_of).sum();
        Self {
            services: (services * 2).next_power_of_two().max(least.services),
            servers: (servers as u32 * 2).max(least.servers),
            picks: u32::try_from(picks * 2).unwrap_or(u32::MAX / 2).max(least.picks),
            buckets: flows.div_ceil(WAYS as u32).next_power_of_two().max(least.buckets),
        }
    }

    /// Places for addresses: VIPs, and servers reached by NAT; a power of two.
    pub(super) fn places(self) -> u32 {
        let by_service = self.services * nines_abi::ADDRESSES_PER_SERVICE;
        by_service.max((self.servers * 2).next_power_of_two())
    }

    /// Entries of each map by this; LOOKUP has two picks in one.
    pub(super) fn of_maps(self) -> [(&'static str, u32); 14] {
        [
            ("SERVICES", self.services),
            ("SERVICE_KEYS", self.services),
            ("SERVICE_STATS", self.services),
            ("RR_CURSOR", self.services),
            ("COOKIE_RATE_USED", self.services),
            ("ADDRESSES", self.places()),
            ("SERVERS", self.servers),
            ("LOADS", self.servers),
            ("NEXT_HOPS", self.servers),
            ("QUIC_IDS", self.servers),
            ("SERVER_STATS", self.servers),
            ("LOOKUP", self.picks.div_ceil(2)),
            ("FLOWS", self.buckets),
            ("SYNC_CHANGED", self.buckets.div_ceil(64)),
        ]
    }

    /// Those of the maps that are pinned.
    pub(super) fn pinned(pins: &Path) -> Option<Self> {
        let entries = |name: &str| {
            let info = MapData::from_pin(pins.join(name)).ok()?.info().ok()?;
            Some(info.max_entries())
        };
        Some(Self {
            services: entries("SERVICES")?,
            servers: entries("SERVERS")?,
            picks: entries("LOOKUP")? * 2,
            buckets: entries("FLOWS")?,
        })
    }

    /// The larger of both, of each.
    pub fn max(self, other: Self) -> Self {
        Self {
            services: self.services.max(other.services),
            servers: self.servers.max(other.servers),
            picks: self.picks.max(other.picks),
            buckets: self.buckets.max(other.buckets),
        }
    }

    /// What is wanted and what is there already; maps that are too small lose their names.
    pub(super) fn settle(self, pins: &Path) -> (Self, Smaller) {
        let sizes = Self::pinned(pins).map_or(self, |found| self.max(found));
        let too_small = |(name, entries): &(&'static str, u32)| {
            let info = MapData::from_pin(pins.join(name)).ok().and_then(|data| data.info().ok());
            info.is_some_and(|info| info.max_entries() != *entries)
        };
        let small = sizes.of_maps().into_iter().filter(too_small).map(|(name, _)| name);
        (sizes, Smaller::take(pins, small))
    }

    /// Whether this table does not fit tables of these sizes.
    pub fn lacks_room(self, table: &ForwardingTable) -> bool {
        let servers: usize = table.services.values().map(|s| s.servers.len()).sum();
        let picks: u64 = table.services.values().map(reconcile::picks_of).sum();
        table.services.len() > self.services as usize
            || servers > self.servers as usize
            || picks > u64::from(self.picks)
    }

    /// Whether tables of these sizes have room for this one, and for another in its place.
    pub fn has_room(self, table: &ForwardingTable) -> bool {
        let wanted = Self { buckets: 0, ..Self::holding(table, 0) };
        wanted.max(self) == self
    }
}

/// Refuses what no tables have room for, however large they are made: `services` with the number
/// of their entries for clients.
pub fn can_hold(services: impl Iterator<Item = (Traffic, usize)>) -> Result<()> {
    let (mut names, mut clients) = (0, 0);
    for (traffic, sources) in services {
        names += reconcile::spread(traffic).len();
        clients += sources;
    }
    let refuse = |why: String, next: &str| {
        Err(Error::new("no director has room for these services", why).next(next))
    };
    let (most, half) =
        (nines_abi::SOURCES_MAX as usize, nines_abi::SERVICE_RANGES_MAX as usize / 2);
    if names > half {
        let why =
            format!("their ranges of addresses and ports have {names} prefixes; {half} at most");
        return refuse(why, "let ranges begin and end at powers of two, such as 8000-8191");
    }
    if clients > most {
        let why = format!("their lists allow and deny {clients} networks; {most} at most");
        return refuse(why, "write fewer, larger networks into \"allow\" and \"deny\"");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nines_model::{Forward, Listen, Proto, Scheduler, TableServer, TableService};

    use super::*;

    fn table(services: u16, servers: u16) -> ForwardingTable {
        let one = |port: u16| {
            let vip = std::net::SocketAddr::from(([10, 0, 0, 100], port));
            let traffic = Traffic::To(Listen::new(vip, Proto::Tcp));
            let mut service = TableService::new(traffic, Scheduler::Rr);
            for n in 0..servers {
                let addr = std::net::SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 80));
                service
                    .servers
                    .insert(format!("r{n}").into(), TableServer::new(addr, Forward::Nat));
            }
            (format!("s{port}").into(), service)
        };
        let services = (1..=services).map(one).collect();
        ForwardingTable { services, ..ForwardingTable::default() }
    }

    #[test]
    fn sizes_follow_the_table_and_never_shrink() {
        let usual = Sizes::default();
        assert!(usual.has_room(&table(500, 2)));
        for (services, servers) in [(1_500, 1), (10, 500), (5_000, 10), (3, 20_000)] {
            let wanted = table(services, servers);
            assert!(!usual.has_room(&wanted), "{services} of {servers}");
            let grown = Sizes::holding(&wanted, 0);
            assert!(grown.has_room(&wanted) && grown.max(usual) == grown);
            assert!(grown.services >= 2 * u32::from(services));
            assert!(grown.servers >= 2 * u32::from(services) * u32::from(servers));
        }
    }

    #[test]
    fn what_no_table_holds_is_refused_with_its_number() {
        let range = |last: u16| {
            let first = std::net::SocketAddr::from(([10, 0, 0, 100], 1));
            Traffic::To(Listen { last, ..Listen::new(first, Proto::Tcp) })
        };
        let one = table(1, 1).services["s1"].traffic;
        assert!(can_hold(std::iter::repeat_n((one, 1), 60_000)).is_ok());
        let why = can_hold(std::iter::repeat_n((one, 1), 70_000)).unwrap_err();
        assert!(why.why.contains("70000") && why.next.is_some(), "{why:?}");
        let why = can_hold(std::iter::repeat_n((range(65_534), 0), 2_000)).unwrap_err();
        assert!(why.why.contains("32768 at most"), "{why:?}");
    }
}
