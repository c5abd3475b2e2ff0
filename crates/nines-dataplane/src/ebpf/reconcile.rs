//! From the tables in the kernel to the wanted ones: a list of map updates, in an order without a
//! hole, each with its inverse.
//!
//! Decides: slots, ids, order. Order: new servers, pick tables into unused room, one update a
//! service that switches to them, what packets find services by, then what left. At every step each
//! service points at a table whose servers are its own and take flows, and whoever was in the one
//! before can still be reached, for a packet that was given to him then; the property test below
//! walks all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use nines_abi::{
    self as abi, SERVER_UP, SETTING_MARKS, SETTING_NAT, SETTING_SPREAD, Server, Service,
    ServiceKey, ServiceRangeKey, Settings,
};
use nines_model::{
    Forward, ForwardingTable, IdleLimits, ServerState, ServiceName, TableServer, TableService,
    Traffic,
};

pub use self::entries::picks_of;
use self::entries::{check, service_of};
pub use super::installed::{Installed, Write, identity, key, scheduler_of, spread};
use super::{
    Sizes,
    extents::Free,
    installed::{freed, is_free},
    lookup_tables::{self, Candidate},
};
use crate::{Error, Result, address::Way};

/// Where packets to a server go.
pub type Route<'a> = &'a dyn Fn(IpAddr) -> Option<Way>;

/// What a plan goes by.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// The kernel's tables.
    pub installed: &'a Installed,
    /// The table they were made from, if routes are known to be as they were: services that are
    /// the same in it are skipped.
    pub before: Option<&'a ForwardingTable>,
    /// The wanted one.
    pub table: &'a ForwardingTable,
    /// Room that the kernel tables have.
    pub sizes: Sizes,
    /// Where packets to a server go.
    pub route: Route<'a>,
    /// Where marked packets come in again, if they do.
    pub detour: u32,
}

/// The updates that make the kernel hold the table.
pub fn plan(ask: Ask<'_>) -> Result<Vec<Write>> {
    plan_and_names(ask).map(|(writes, _)| writes)
}

/// The same, and the names of the services that are not as they were before.
pub fn plan_and_names(ask: Ask<'_>) -> Result<(Vec<Write>, Vec<ServiceName>)> {
    let Ask { table, sizes, .. } = ask;
    if table.services.len() > sizes.services as usize {
        let why =
            format!("{} services; there is room for {}", table.services.len(), sizes.services);
        return Err(no_room("services", &why));
    }
    let spread: usize = table.services.values().map(|s| spread(s.traffic).len()).sum();
    if spread * 2 > abi::SERVICE_RANGES_MAX as usize {
        let why = format!("{spread} prefixes of ports; {} at most", abi::SERVICE_RANGES_MAX / 2);
        return Err(no_room("services", &why));
    }
    let (changed, gone) = differences(ask);
    let mut planner = Planner::new(ask);
    // What only the changed services say is known without looking at the others.
    let addresses = ask.before.is_none_or(|old| {
        let translates = |s: &TableService| s.servers.values().any(|s| s.forward.translates());
        let at = |s: &TableServer| (s.addr.ip(), s.forward == Forward::Local);
        let plain = |(name, s): &(&ServiceName, &TableService)| {
            let before = old.services.get(*name);
            let same = before.is_some_and(|b| {
                let there = b.servers.values().map(at).eq(s.servers.values().map(at));
                b.traffic == s.traffic && !translates(b) && there
            });
            same && !translates(s) && s.traffic.vips().next().is_some()
        };
        !gone.is_empty() || !changed.iter().all(plain)
    });
    for key in gone {
        planner.remove(key);
    }
    if ask.before.is_none() {
        planner.strays();
    }
    for (_, service) in &changed {
        planner.service(key(service.traffic), service)?;
    }
    if addresses {
        planner.places();
        planner.flags();
    }
    let names = changed.iter().map(|(name, _)| (*name).clone()).collect();
    Ok((planner.finish()?, names))
}

/// Services that are not as the kernel has them, and keys of those that are to go.
fn differences<'a>(ask: Ask<'a>) -> (Vec<(&'a ServiceName, &'a TableService)>, Vec<ServiceKey>) {
    let Ask { installed, table, .. } = ask;
    let changed: Vec<_> = match ask.before {
        // Both in order of names: one walk along the two.
        Some(old) => {
            let mut left = old.services.iter().peekable();
            let mut same = |name: &ServiceName, s: &TableService| {
                while left.next_if(|(other, _)| *other < name).is_some() {}
                left.peek().is_some_and(|(other, old)| *other == name && *old == s)
            };
            table.services.iter().filter(|(name, s)| !same(name, s)).collect()
        }
        None => table.services.iter().collect(),
    };
    let maybe: Vec<ServiceKey> = match ask.before {
        Some(old) if changed.is_empty() && old.services.len() == table.services.len() => Vec::new(),
        Some(old) => {
            let known = changed.iter().filter(|(name, _)| old.services.contains_key(*name)).count();
            let fewer = old.services.len() + changed.len() - known > table.services.len();
            let left = old
                .services
                .iter()
                .filter(|(name, _)| fewer && !table.services.contains_key(*name));
            let moved = changed.iter().filter_map(|(name, s)| {
                old.services.get(*name).filter(|old| old.traffic != s.traffic)
            });
            left.map(|(_, s)| s).chain(moved).map(|s| key(s.traffic)).collect()
        }
        None => installed.services.keys().copied().collect(),
    };
    if maybe.is_empty() {
        return (changed, maybe);
    }
    let wanted: BTreeSet<ServiceKey> = table.services.values().map(|s| key(s.traffic)).collect();
    let gone = maybe.into_iter().filter(|key| !wanted.contains(key));
    (changed, gone.filter(|key| installed.services.contains_key(key)).collect())
}

fn no_room(what: &str, why: &str) -> Error {
    Error::new(format!("no room for these {what} in the kernel tables"), why)
        .next("nines status   shows when there is room: the agent makes more by itself")
}

/// A key of cookies.
fn draw() -> Result<[u64; 2]> {
    let word = || getrandom::u64().map_err(|e| Error::new("cannot draw a secret", e.to_string()));
    Ok([word()?, word()?])
}

struct Planner<'a> {
    ask: Ask<'a>,
    before: Vec<Write>,
    switch: Vec<Write>,
    gone: Vec<Write>,
    after: Vec<Write>,
    /// Free slots with the generation their next server gets, the last first; looked for when one
    /// is needed.
    free_slots: Option<Vec<(u32, u32)>>,
    /// Ids that no service has or had before this plan: so every update can be taken back, and no
    /// server is taken for one of a service that left.
    free_ids: Option<Vec<u32>>,
    /// Room for picks that was free before this plan.
    room: Option<Free>,
    /// What becomes of names of many addresses and ports: whoever gets one has it at once.
    spread: BTreeMap<(ServiceRangeKey, u8), Option<u32>>,
    /// `SETTING_*`, if they were looked at.
    flags: Option<u32>,
    /// [`Settings::named`], if addresses were looked at.
    named: Option<u32>,
    cursor: u32,
}

impl<'a> Planner<'a> {
    fn new(ask: Ask<'a>) -> Self {
        Self {
            ask,
            before: Vec::new(),
            switch: Vec::new(),
            gone: Vec::new(),
            after: Vec::new(),
            free_slots: None,
            free_ids: None,
            room: None,
            spread: BTreeMap::new(),
            flags: None,
            named: None,
            cursor: ask.installed.cursor,
        }
    }

    fn free_slot(&mut self) -> Option<(u32, u32)> {
        let (installed, sizes) = (self.ask.installed, self.ask.sizes);
        let slots = self.free_slots.get_or_insert_with(|| {
            let mut free = Vec::new();
            let mut next = 0;
            for (slot, server) in &installed.servers {
                free.extend((next..*slot).map(|never| (never, 1)));
                next = slot + 1;
                if is_free(server) {
                    free.push((*slot, server.generation.wrapping_add(1)));
                }
            }
            free.extend((next..sizes.servers).map(|never| (never, 1)));
            free.reverse();
            free
        });
        slots.pop()
    }

    fn free_id(&mut self) -> Option<u32> {
        let (installed, sizes) = (self.ask.installed, self.ask.sizes);
        let ids = self.free_ids.get_or_insert_with(|| {
            let named = installed.services.values().map(|(id, _)| *id);
            let used: BTreeSet<u32> = named.chain(installed.strays()).collect();
            (0..sizes.services).rev().filter(|id| !used.contains(id)).collect()
        });
        ids.pop()
    }

    fn room(&mut self, len: u32) -> Option<u32> {
        let (installed, sizes) = (self.ask.installed, self.ask.sizes);
        let room = self.room.get_or_insert_with(|| {
            let tables = installed.services.values().map(|(_, s)| (s.table_base(), s.table_len()));
            Free::new(sizes.picks, tables)
        });
        room.take(len, self.cursor)
    }

    fn remove(&mut self, key: ServiceKey) {
        let installed = self.ask.installed;
        let Some((id, _)) = installed.services.get(&key) else { return };
        self.gone.push(Write::Service(key, None));
        self.forget(*id);
    }

    /// All that goes by this id.
    fn forget(&mut self, id: u32) {
        let installed = self.ask.installed;
        for (slot, server) in installed.servers_of(id) {
            self.free(slot, *server);
        }
        let forget = |(addr, prefix, _)| Write::Source(id, addr, prefix, 0);
        self.after.extend(installed.sources_of(id).map(forget));
        self.after.extend(installed.quic_of(id).map(|(key, _)| Write::Quic(key, None)));
        self.forget_spread(id);
    }

    /// What is there of services that no key names: somebody took the key by hand, or died in the
    /// middle of an update.
    fn strays(&mut self) {
        for id in self.ask.installed.strays() {
            self.forget(id);
        }
    }

    fn free(&mut self, slot: u32, server: Server) {
        self.after.push(Write::Server(slot, freed(&server, server.generation.wrapping_add(1))));
    }

    fn service(&mut self, key: ServiceKey, wanted: &TableService) -> Result<()> {
        let old = self.ask.installed.services.get(&key).copied();
        let id = match old {
            Some((id, _)) => id,
            None => self.free_id().ok_or_else(|| {
                let next = "remove services first, add the new ones with a second apply";
                no_room("services", "all are in use until this change").next(next)
            })?,
        };
        let installed = self.ask.installed;
        let have: BTreeMap<SocketAddr, (u32, Server)> = match old {
            Some(_) => {
                installed.servers_of(id).map(|(slot, s)| (identity(s), (slot, *s))).collect()
            }
            None => BTreeMap::new(),
        };
        let (mut candidates, mut slots) = (Vec::new(), BTreeMap::new());
        for (order, server) in wanted.servers.values().enumerate() {
            let (slot, last_weight) =
                self.server(wanted.traffic, id, server, have.get(&server.addr), order as u32)?;
            slots.insert(server.addr, slot);
            let stays =
                lookup_tables::keeps_places(wanted.scheduler) && server.state == ServerState::Up;
            if server.takes_new() || stays {
                let (addr, weight) = (server.addr, server.weight);
                candidates.push(Candidate { slot, addr, weight, last_weight });
            }
        }
        check(wanted, candidates.len())?;
        self.sources(id, wanted);
        self.quic(id, wanted, &slots);
        self.forget_spread(id);
        self.spread.extend(spread(wanted.traffic).into_iter().map(|place| (place, Some(id))));
        let kept: BTreeSet<SocketAddr> = wanted.servers.values().map(|s| s.addr).collect();
        for (addr, (slot, server)) in &have {
            if !kept.contains(addr) {
                self.free(*slot, *server);
            }
        }
        self.picks(
            key,
            id,
            old.map(|(_, s)| s),
            lookup_tables::table(wanted.scheduler, &candidates, lookup_tables::maglev_len(wanted)),
            wanted,
        )
    }

    fn server(
        &mut self,
        traffic: Traffic,
        id: u32,
        wanted: &TableServer,
        have: Option<&(u32, Server)>,
        order: u32,
    ) -> Result<(u32, u32)> {
        let (slot, generation) = self.slot_of(wanted, have)?;
        let way = match wanted.forward {
            Forward::Local => None,
            _ => (self.ask.route)(wanted.addr.ip()),
        };
        let last_weight = match have {
            Some((_, old)) if wanted.weight == 0 => old.last_weight,
            _ => wanted.weight,
        };
        let entry = entries::server_of(traffic, wanted, way, self.ask.detour);
        let server = Server { generation, service: id, last_weight, order, ..entry };
        self.update_server(slot, server, have.map(|(_, old)| *old));
        Ok((slot, last_weight))
    }

    /// The slot of a server, and the generation that it gets there.
    fn slot_of(
        &mut self,
        wanted: &TableServer,
        have: Option<&(u32, Server)>,
    ) -> Result<(u32, u32)> {
        let translation = entries::translation(entries::forward_word(wanted.forward));
        match have {
            // Flows that were not translated have no way for answers, or another: they end.
            Some((slot, old)) if entries::translation(old.forward) != translation => {
                Ok((*slot, old.generation.wrapping_add(1)))
            }
            Some((slot, server)) => Ok((*slot, server.generation)),
            None => self.free_slot().ok_or_else(|| {
                no_room("servers", &format!("there is room for {}", self.ask.sizes.servers))
            }),
        }
    }

    /// The updates of one slot, in an order in which no service points at a server that takes no
    /// new flows.
    fn update_server(&mut self, slot: u32, server: Server, have: Option<Server>) {
        match have {
            Some(old) if old == server => {}
            // It leaves the table first and its state follows; its route is mended at once.
            Some(old) if server.state != SERVER_UP && old.state == SERVER_UP => {
                let mended = Server { state: old.state, ..server };
                if mended != old {
                    self.before.push(Write::Server(slot, mended));
                }
                self.after.push(Write::Server(slot, server));
            }
            _ => self.before.push(Write::Server(slot, server)),
        }
    }

    fn picks(
        &mut self,
        key: ServiceKey,
        id: u32,
        old: Option<Service>,
        picks: Vec<u32>,
        wanted: &TableService,
    ) -> Result<()> {
        let mut service = service_of(key, wanted);
        service.pool = entries::pool(&old.map_or(service.pool, |old| old.pool), wanted);
        if let Some(old) = old {
            let in_place = self.ask.installed.picks.get(&old.table_base());
            let same = old.table_len() as usize == picks.len()
                && (picks.is_empty() || in_place == Some(&picks));
            service.order = old.order;
            service.table = old.table;
            if same && service == old {
                return Ok(());
            }
            if same {
                self.switch.push(Write::Service(key, Some((id, service))));
                return Ok(());
            }
        }
        let len = picks.len() as u32;
        let base = match if len == 0 { Some(0) } else { self.room(len) } {
            Some(base) => base,
            None => {
                let why = format!(
                    "{} picks of a {} table; {} in all, and a changed table lies beside the old one",
                    len, wanted.scheduler, self.ask.sizes.picks
                );
                return Err(no_room("services", &why));
            }
        };
        service.table = u64::from(base) << 32 | u64::from(len);
        if len > 0 {
            self.cursor = base + len;
            self.before.push(Write::Picks(base, picks));
        }
        self.switch.push(Write::Service(key, Some((id, service))));
        Ok(())
    }

    /// What the table as a whole needs.
    fn flags(&mut self) {
        let mut flags = 0;
        for service in self.ask.table.services.values() {
            match service.traffic {
                Traffic::Marked { .. } => flags |= SETTING_MARKS,
                Traffic::To(listen) if !listen.is_one() => flags |= SETTING_SPREAD,
                Traffic::To(_) => {}
            }
            if flags & SETTING_NAT == 0 && service.servers.values().any(|s| s.forward.translates())
            {
                flags |= SETTING_NAT;
            }
        }
        self.flags = Some(flags);
    }

    fn finish(mut self) -> Result<Vec<Write>> {
        let old = self.ask.installed.settings;
        let mut idle = old.idle;
        if idle == [0; 16] {
            for (units, seconds) in idle.iter_mut().zip(abi::IDLE_SECONDS) {
                *units = abi::idle_units(seconds);
            }
        }
        if let Some(IdleLimits { tcp, fin, udp }) = self.ask.table.idle {
            for (state, seconds) in abi::IDLE_SET.into_iter().zip([tcp, fin, udp]) {
                idle[usize::from(state)] = abi::idle_units(seconds);
            }
        }
        let flags = self.flags.unwrap_or(old.flags);
        let secret = if old.secret == [0; 2] { draw()? } else { old.secret };
        let flow_key = old.flow_key;
        let named = self.named.unwrap_or(old.named);
        let settings = Settings { flags, named, idle, secret, flow_key };
        if settings != old {
            let both = Settings { flags: flags | old.flags, named: named | old.named, ..settings };
            if both == settings {
                self.before.push(Write::Settings(settings));
            } else {
                if both != old {
                    self.before.push(Write::Settings(both));
                }
                self.after.push(Write::Settings(settings));
            }
        }
        let mut all = self.before;
        all.extend(self.switch);
        let known = &self.ask.installed.spread;
        let news = self.spread.into_iter().filter(|(place, id)| known.get(place) != id.as_ref());
        // Whoever gets something has it before anybody loses what lay around it.
        let (there, gone): (Vec<_>, Vec<_>) = news.partition(|(_, id)| id.is_some());
        let names = there.into_iter().chain(gone);
        all.extend(names.map(|((key, len), id)| Write::Spread(key, len, id)));
        all.extend(self.gone);
        all.extend(self.after);
        Ok(all)
    }
}

mod entries;
mod names;
#[cfg(test)]
mod tests;
