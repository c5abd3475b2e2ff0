//! From the tables in the kernel to the wanted ones: a list of map updates, in an order without a
//! hole, each with its inverse.
//!
//! Decides: slots, regions, order. Order: new servers, pick tables into unused regions, one update
//! a service that switches to them, then what left. At every step each service points at a table
//! whose servers are its own and take flows; the property test below walks all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use nines_abi::{
    self as abi, FORWARD_DR, FORWARD_LOCAL, FORWARD_NAT, REGIONS_MAX, SCHED_HASH, SCHED_TURN,
    SERVER_DOWN, SERVER_DRAIN, SERVER_UP, SERVERS_MAX, SERVICES_MAX, SETTING_NAT, Server, Service,
    ServiceKey, Settings, TABLE_LEN_MAX,
};
use nines_model::{
    Forward, ForwardingTable, Listen, Scheduler, ServerState, TableServer, TableService,
};

use super::picks::{self, Candidate};
use crate::{Error, Result, address};

/// What the kernel's maps hold, as read or as last written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Map SERVICES.
    pub services: BTreeMap<ServiceKey, Service>,
    /// Map SERVERS, every slot ever used; a free slot has address zero and keeps its generation.
    pub servers: BTreeMap<u32, Server>,
    /// Pick tables by region, those in use.
    pub picks: BTreeMap<u32, Vec<u32>>,
    /// Map SETTINGS.
    pub settings: Settings,
    /// Region written last: the next one is taken from there on, so that a packet that has just
    /// read the old service never sees its table rewritten.
    pub cursor: u32,
}

/// One map update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Slot of SERVERS.
    Server(u32, Server),
    /// Region of PICKS.
    Picks(u32, Vec<u32>),
    /// Entry of SERVICES; `None` deletes it.
    Service(ServiceKey, Option<Service>),
    /// SETTINGS.
    Settings(Settings),
}

/// Where packets to a server go: interface index and next hop.
pub type Route<'a> = &'a dyn Fn(IpAddr) -> Option<(u32, IpAddr)>;

/// Key of a service in the kernel.
pub fn key(listen: Listen) -> ServiceKey {
    ServiceKey {
        addr: address::mapped(listen.addr.ip()),
        port: listen.addr.port().to_be(),
        proto: listen.proto.number(),
        pad: 0,
    }
}

/// Identity of a server of a service in the kernel.
pub fn identity(server: &Server) -> SocketAddr {
    SocketAddr::new(address::unmapped(server.addr), u16::from_be(server.port))
}

fn is_free(server: &Server) -> bool {
    server.addr == [0; 16]
}

impl Installed {
    /// Applies one update to this picture and gives the update that takes it back; `None` where
    /// nothing needs to be taken back.
    pub fn record(&mut self, write: &Write) -> Option<Write> {
        match write {
            Write::Server(slot, server) => {
                let old = self.servers.insert(*slot, *server);
                let free = Server { generation: server.generation, ..free_slot() };
                Some(Write::Server(*slot, old.unwrap_or(free)))
            }
            Write::Picks(region, picks) => {
                self.cursor = *region;
                self.picks.insert(*region, picks.clone());
                None
            }
            Write::Service(key, service) => {
                let old = match service {
                    Some(service) => self.services.insert(*key, *service),
                    None => self.services.remove(key),
                };
                Some(Write::Service(*key, old))
            }
            Write::Settings(settings) => {
                Some(Write::Settings(std::mem::replace(&mut self.settings, *settings)))
            }
        }
    }

    /// Forgets regions that no service uses.
    pub fn trim(&mut self) {
        let used: BTreeSet<u32> = self.services.values().map(region).collect();
        self.picks.retain(|region, _| used.contains(region));
    }
}

const fn free_slot() -> Server {
    Server {
        addr: [0; 16],
        nexthop: [0; 16],
        vip: [0; 16],
        ifindex: 0,
        generation: 0,
        service: 0,
        port: 0,
        vip_port: 0,
        forward: 0,
        state: SERVER_DOWN,
        pad: [0; 2],
        weight: 0,
    }
}

fn region(service: &Service) -> u32 {
    service.table_base / TABLE_LEN_MAX
}

/// The updates that make the kernel hold `table`.
pub fn plan(
    installed: &Installed,
    table: &ForwardingTable,
    route: Route<'_>,
) -> Result<Vec<Write>> {
    let mut planner = Planner {
        now: installed.clone(),
        before: Vec::new(),
        switch: Vec::new(),
        after: Vec::new(),
        nat: false,
        ids_before: installed.services.values().map(|s| s.id).collect(),
        regions_before: installed.services.values().map(region).collect(),
    };
    if table.services.len() > SERVICES_MAX as usize {
        let why =
            format!("{} services; the kernel tables hold {SERVICES_MAX}", table.services.len());
        return Err(Error::new("cannot apply the forwarding table", why));
    }
    let wanted: BTreeMap<ServiceKey, &TableService> =
        table.services.values().map(|s| (key(s.listen), s)).collect();
    planner.remove_services(&wanted);
    for (key, service) in &wanted {
        planner.service(*key, service, route)?;
    }
    Ok(planner.finish())
}

/// The leading bits of a client's address of the service's family, as four words on the wire.
fn prefix_mask(service: ServiceKey, prefix: u8) -> [u32; 4] {
    let whole = if address::unmapped(service.addr).is_ipv4() { 32 } else { 128 };
    let bits = 128 - u32::from(whole - prefix.min(whole));
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0).to_be_bytes();
    std::array::from_fn(|i| {
        u32::from_ne_bytes([mask[4 * i], mask[4 * i + 1], mask[4 * i + 2], mask[4 * i + 3]])
    })
}

/// The kernel's word for a scheduler.
const fn scheduler_word(scheduler: Scheduler) -> u32 {
    match scheduler {
        Scheduler::Maglev => SCHED_HASH,
        Scheduler::Rr | Scheduler::Wrr => SCHED_TURN,
        Scheduler::Lc => abi::SCHED_LC,
        Scheduler::Wlc => abi::SCHED_WLC,
        Scheduler::Sed => abi::SCHED_SED,
        Scheduler::Nq => abi::SCHED_NQ,
        Scheduler::Fo => abi::SCHED_FO,
        Scheduler::Ovf => abi::SCHED_OVF,
        Scheduler::Dh => abi::SCHED_DH,
        Scheduler::Sh => abi::SCHED_SH,
    }
}

struct Planner {
    /// The picture as it will be; slots and regions are taken from it.
    now: Installed,
    before: Vec<Write>,
    switch: Vec<Write>,
    after: Vec<Write>,
    nat: bool,
    /// In use before this plan: not given to others in it, so that every update can be taken back
    /// and no server is taken for one of a service that left.
    ids_before: BTreeSet<u32>,
    regions_before: BTreeSet<u32>,
}

impl Planner {
    fn remove_services(&mut self, wanted: &BTreeMap<ServiceKey, &TableService>) {
        let gone: Vec<(ServiceKey, Service)> = self
            .now
            .services
            .iter()
            .filter(|(key, _)| !wanted.contains_key(key))
            .map(|(key, service)| (*key, *service))
            .collect();
        for (key, service) in gone {
            self.before.push(Write::Service(key, None));
            self.now.services.remove(&key);
            for (slot, server) in self.slots_of(service.id) {
                self.free(slot, server);
            }
        }
    }

    fn slots_of(&self, id: u32) -> Vec<(u32, Server)> {
        let live = self.now.servers.iter().filter(|(_, s)| !is_free(s) && s.service == id);
        live.map(|(slot, server)| (*slot, *server)).collect()
    }

    fn free(&mut self, slot: u32, server: Server) {
        let free = Server { generation: server.generation.wrapping_add(1), ..free_slot() };
        self.after.push(Write::Server(slot, free));
    }

    fn service(&mut self, key: ServiceKey, wanted: &TableService, route: Route<'_>) -> Result<()> {
        let old = self.now.services.get(&key).copied();
        let id = match old {
            Some(service) => service.id,
            None => self.unused_id()?,
        };
        let have: BTreeMap<SocketAddr, (u32, Server)> =
            self.slots_of(id).into_iter().map(|(slot, s)| (identity(&s), (slot, s))).collect();
        let mut candidates = Vec::new();
        for server in wanted.servers.values() {
            self.nat |= server.forward == Forward::Nat;
            let slot = self.server(key, id, server, have.get(&server.addr), route)?;
            if server.takes_new() {
                candidates.push(Candidate {
                    slot,
                    identity: server.addr.to_string(),
                    weight: server.weight,
                });
            }
        }
        let weighed = (abi::SCHED_LC..=abi::SCHED_OVF).contains(&scheduler_word(wanted.scheduler));
        if weighed && candidates.len() > abi::SCAN_MAX as usize {
            let why = format!(
                "{} weighs every server for each new flow, {} at most; here are {}",
                wanted.scheduler,
                abi::SCAN_MAX,
                candidates.len()
            );
            return Err(Error::new("cannot apply the forwarding table", why)
                .next("use maglev, rr, wrr, sh or dh, or several services"));
        }
        for (addr, (slot, server)) in &have {
            if !wanted.servers.values().any(|s| s.addr == *addr) {
                self.free(*slot, *server);
            }
        }
        self.picks(key, id, old, picks::table(wanted.scheduler, &candidates), wanted)
    }

    fn unused_id(&self) -> Result<u32> {
        let used: BTreeSet<u32> = self.now.services.values().map(|s| s.id).collect();
        (0..SERVICES_MAX).find(|id| !used.contains(id) && !self.ids_before.contains(id)).ok_or_else(
            || {
                Error::new("cannot add a service", "all kernel slots are in use until this change")
                    .next("remove services first, add the new ones with a second apply")
            },
        )
    }

    fn server(
        &mut self,
        key: ServiceKey,
        id: u32,
        wanted: &TableServer,
        have: Option<&(u32, Server)>,
        route: Route<'_>,
    ) -> Result<u32> {
        let (slot, generation) = match have {
            Some((slot, server)) => (*slot, server.generation),
            None => self.unused_slot()?,
        };
        let (ifindex, nexthop) = match wanted.forward {
            Forward::Local => (0, wanted.addr.ip()),
            _ => route(wanted.addr.ip()).unwrap_or((0, wanted.addr.ip())),
        };
        let server = Server {
            addr: address::mapped(wanted.addr.ip()),
            nexthop: address::mapped(nexthop),
            vip: key.addr,
            ifindex,
            generation,
            service: id,
            port: wanted.addr.port().to_be(),
            vip_port: key.port,
            forward: match wanted.forward {
                Forward::Dr => FORWARD_DR,
                Forward::Nat => FORWARD_NAT,
                Forward::Local => FORWARD_LOCAL,
            },
            state: match wanted.state {
                ServerState::Down => SERVER_DOWN,
                _ if wanted.takes_new() => SERVER_UP,
                _ => SERVER_DRAIN,
            },
            pad: [0; 2],
            weight: wanted.weight,
        };
        match have {
            Some((_, old)) if *old == server => {}
            // It leaves the table first and its state follows; its route is mended at once.
            Some((_, old)) if server.state != SERVER_UP && old.state == SERVER_UP => {
                let mended = Server { state: old.state, ..server };
                if mended != *old {
                    self.before.push(Write::Server(slot, mended));
                }
                self.after.push(Write::Server(slot, server));
            }
            _ => self.before.push(Write::Server(slot, server)),
        }
        self.now.servers.insert(slot, server);
        Ok(slot)
    }

    fn unused_slot(&mut self) -> Result<(u32, u32)> {
        // Never one that is freed in this plan: its old flows end only with the plan.
        let free = (0..SERVERS_MAX)
            .find(|slot| self.now.servers.get(slot).is_none_or(is_free))
            .ok_or_else(|| Error::new("cannot add a server", "all kernel slots are in use"))?;
        let generation = self.now.servers.get(&free).map_or(1, |s| s.generation.wrapping_add(1));
        Ok((free, generation))
    }

    fn picks(
        &mut self,
        key: ServiceKey,
        id: u32,
        old: Option<Service>,
        picks: Vec<u32>,
        wanted: &TableService,
    ) -> Result<()> {
        let scheduler = scheduler_word(wanted.scheduler);
        let (persist, mask) = wanted.persist.map_or((0, [0; 4]), |p| {
            let units = abi::idle_units((p.time.0 / 1_000) as u32).max(1);
            (units, prefix_mask(key, p.prefix))
        });
        let same = old.filter(|service| {
            service.scheduler == scheduler
                && (service.persist, service.mask) == (persist, mask)
                && service.table_len as usize == picks.len()
                && (picks.is_empty() || self.now.picks.get(&region(service)) == Some(&picks))
        });
        if same.is_some() {
            return Ok(());
        }
        let used: BTreeSet<u32> = self.now.services.values().map(region).collect();
        let free = (1..=REGIONS_MAX)
            .map(|step| (self.now.cursor + step) % REGIONS_MAX)
            .find(|region| !used.contains(region) && !self.regions_before.contains(region))
            .ok_or_else(|| Error::new("cannot write a pick table", "all regions are in use"))?;
        let service = Service {
            id,
            table_base: free * TABLE_LEN_MAX,
            table_len: picks.len() as u32,
            scheduler,
            persist,
            pad: 0,
            mask,
        };
        if !picks.is_empty() {
            self.before.push(Write::Picks(free, picks.clone()));
        }
        self.now.cursor = free;
        self.now.picks.insert(free, picks);
        self.switch.push(Write::Service(key, Some(service)));
        self.now.services.insert(key, service);
        Ok(())
    }

    fn finish(mut self) -> Vec<Write> {
        let mut idle = [0; 16];
        for (units, seconds) in idle.iter_mut().zip(abi::IDLE_SECONDS) {
            *units = abi::idle_units(seconds);
        }
        let settings = Settings { flags: if self.nat { SETTING_NAT } else { 0 }, pad: 0, idle };
        if settings != self.now.settings {
            let write = Write::Settings(settings);
            if self.nat { self.before.push(write) } else { self.after.push(write) }
        }
        let mut all = self.before;
        all.extend(self.switch);
        all.extend(self.after);
        all
    }
}

#[cfg(test)]
mod tests;
