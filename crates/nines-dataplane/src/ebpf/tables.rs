//! The pinned tables: services, servers, picks, flows, counts. Needs no program: whoever may read
//! the pins may look at them and change them.
//!
//! Decides: that a failed update is taken back.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::Path,
};

use aya::maps::{
    Array, HashMap, Map, MapData, PerCpuArray,
    lpm_trie::{self, LpmTrie},
};
use nines_abi::{
    Addr, DROP_NAMES, Load, Place, QuicKey, Server, Service, ServiceKey, ServiceRangeKey, Settings,
    SourceKey, Stats,
};
use nines_model::{Counters, ForwardingTable, ServerRef, ServiceName, Tally};

use super::{
    Raw, addresses,
    installed::{dead, is_free},
    map_error,
    reconcile::{self, Installed, Write},
    rr_cursor::{self, Next},
    shared::{Shared, View},
    sizes::Sizes,
    wrong,
};
use crate::{
    Error, Result,
    address::{self, Way},
    pins,
};

/// The maps that [`Tables`] opens, and those it looks into.
const NAMES: [&str; 16] = [
    "SERVICE_RANGES",
    "QUIC_IDS",
    "SOURCES",
    "SERVICE_KEYS",
    "SERVICES",
    "ADDRESSES",
    "SERVERS",
    "LOOKUP",
    "LOADS",
    "SETTINGS",
    "SERVICE_STATS",
    "SERVER_STATS",
    "DROPS_SEEN",
    "RR_CURSOR",
    "FLOWS",
    "TEMPLATES",
];

mod drift;

/// The tables of one network namespace.
pub struct Tables {
    sizes: Sizes,
    service_keys: HashMap<MapData, Raw<ServiceKey>, u32>,
    services: Shared<Service>,
    places: Shared<Place>,
    servers: Shared<Server>,
    picks: Shared<u64>,
    pub(super) loads: Shared<Load>,
    turns: Shared<u64>,
    /// What was written there last, by service.
    turned: BTreeMap<u32, Next>,
    settings: Array<MapData, Raw<Settings>>,
    sources: LpmTrie<MapData, Raw<SourceKey>, u32>,
    spread: LpmTrie<MapData, Raw<ServiceRangeKey>, u32>,
    quic: HashMap<MapData, Raw<QuicKey>, u32>,
    pub(super) service_stats: PerCpuArray<MapData, Raw<Stats>>,
    pub(super) server_stats: PerCpuArray<MapData, Raw<Stats>>,
    drops: PerCpuArray<MapData, u64>,
    installed: Installed,
    table: ForwardingTable,
    /// The kernel holds `table`, and routes are those it was made with.
    trusted: bool,
}

/// The arrays as memory, for as long as updates take: as far as they are written, for each page
/// costs when it is mapped.
struct Views {
    services: View<Service>,
    places: View<Place>,
    servers: View<Server>,
    picks: View<u64>,
    loads: View<Load>,
    turns: View<u64>,
}

impl Views {
    fn write_picks(&self, base: u32, picks: &[u32]) {
        for (index, pair) in (base / 2..).zip(picks.chunks(2)) {
            let second = pair.get(1).copied().unwrap_or(0);
            self.picks.set(index, u64::from(pair[0]) | u64::from(second) << 32);
        }
    }

    fn write_place(&self, addr: Addr, flags: u32) -> Result<()> {
        if flags == 0 {
            addresses::remove(&self.places, addr);
        } else if !addresses::put(&self.places, Place { addr, flags, pad: 0 }) {
            let vip = address::unmapped(addr);
            let why = "the table of addresses has no room where it belongs";
            return Err(Error::new(format!("{vip} cannot be served"), why));
        }
        Ok(())
    }
}

/// What came of a removal: a key that is not there is gone, too.
fn gone(result: std::result::Result<(), aya::maps::MapError>) -> Result<()> {
    match result {
        Err(aya::maps::MapError::KeyNotFound) => Ok(()),
        other => other.map_err(map_error),
    }
}

/// First entry and number of entries that hold all these stretches; one if there are none.
fn span(stretches: impl Iterator<Item = (u32, u32)>) -> (u32, u32) {
    let ends = stretches.map(|(first, count)| (first, first + count));
    let (first, end) = ends.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or((0, 1));
    (first, end - first)
}

/// A map as an array that is memory here too.
pub(super) fn shared<T: Copy>(map: Map) -> Result<Shared<T>> {
    match map {
        Map::Array(data) => Ok(Shared::new(data)),
        _ => Err(Error::new("a pinned map is not ours", "it is no array")),
    }
}

impl Tables {
    /// Over these maps.
    pub(super) fn new(take: &mut dyn FnMut(&str) -> Result<Map>, sizes: Sizes) -> Result<Self> {
        let mut tables = Self {
            sizes,
            service_keys: HashMap::try_from(take("SERVICE_KEYS")?).map_err(wrong)?,
            services: shared(take("SERVICES")?)?,
            places: shared(take("ADDRESSES")?)?,
            servers: shared(take("SERVERS")?)?,
            picks: shared(take("LOOKUP")?)?,
            loads: shared(take("LOADS")?)?,
            turns: shared(take("RR_CURSOR")?)?,
            turned: BTreeMap::new(),
            settings: Array::try_from(take("SETTINGS")?).map_err(wrong)?,
            sources: LpmTrie::try_from(take("SOURCES")?).map_err(wrong)?,
            spread: LpmTrie::try_from(take("SERVICE_RANGES")?).map_err(wrong)?,
            quic: HashMap::try_from(take("QUIC_IDS")?).map_err(wrong)?,
            service_stats: PerCpuArray::try_from(take("SERVICE_STATS")?).map_err(wrong)?,
            server_stats: PerCpuArray::try_from(take("SERVER_STATS")?).map_err(wrong)?,
            drops: PerCpuArray::try_from(take("DROPS_SEEN")?).map_err(wrong)?,
            installed: Installed::default(),
            table: ForwardingTable::default(),
            trusted: false,
        };
        tables.installed = tables.read()?;
        Ok(tables)
    }

    /// Those of this namespace, without loading anything; `None`: there are none, or somebody is
    /// just making them.
    pub fn pinned() -> Result<Option<Self>> {
        let pins = pins::pin_directory()?;
        if !NAMES.iter().all(|name| pins.join(name).exists()) {
            return Ok(None);
        }
        let sizes = Sizes::pinned(&pins).unwrap_or_default();
        let mut take = |name: &str| pinned(&pins, name);
        Self::new(&mut take, sizes).map(Some)
    }

    /// Room in them.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// What the kernel holds.
    pub fn installed(&self) -> &Installed {
        &self.installed
    }

    /// Makes the kernel hold this table.
    pub fn apply(&mut self, table: &ForwardingTable) -> Result<()> {
        let before = self.trusted.then_some(&self.table);
        let (writes, changed) = self.plan(&self.installed, before, table)?;
        self.commit(&writes)?;
        if !self.trusted {
            self.bury()?;
        }
        // Only what changed is copied: of ten thousand services the rest would take longest.
        for name in changed {
            if let Some(service) = table.services.get(&name) {
                self.table.services.insert(name, service.clone());
            }
        }
        if self.table.services.len() > table.services.len() {
            self.table.services.retain(|name, _| table.services.contains_key(name));
        }
        self.table.duty.clone_from(&table.duty);
        self.table.director_macs.clone_from(&table.director_macs);
        self.trusted = true;
        Ok(())
    }

    /// One update. `undo`: a service that comes back has its counts and its turn.
    fn write(&mut self, views: &Views, write: &Write, undo: bool) -> Result<()> {
        match write {
            Write::Server(slot, server) => self.write_server(views, *slot, server),
            Write::Picks(base, picks) => {
                views.write_picks(*base, picks);
                Ok(())
            }
            Write::Service(key, Some((id, service))) => {
                self.write_service(views, key, *id, service, undo)
            }
            Write::Service(key, None) => self.remove_service(views, key),
            Write::Place(addr, flags) => views.write_place(*addr, *flags),
            Write::Source(service, addr, prefix, said) => {
                let data = Raw(SourceKey { service: *service, addr: *addr });
                let key = lpm_trie::Key::new(32 + u32::from(*prefix), data);
                match said {
                    0 => self.sources.remove(&key),
                    said => self.sources.insert(&key, said, 0),
                }
                .map_err(map_error)
            }
            Write::Spread(key, len, id) => {
                let key = lpm_trie::Key::new((*len).into(), Raw(*key));
                match id {
                    Some(id) => self.spread.insert(&key, id, 0),
                    None => self.spread.remove(&key),
                }
                .map_err(map_error)
            }
            Write::Quic(key, Some(slot)) => self.quic.insert(Raw(*key), slot, 0).map_err(map_error),
            Write::Quic(key, None) => gone(self.quic.remove(&Raw(*key))),
            Write::Settings(settings) => self.settings.set(0, Raw(*settings), 0).map_err(map_error),
        }
    }

    fn write_server(&mut self, views: &Views, slot: u32, server: &Server) -> Result<()> {
        // Another server in this slot, and not a freed one that an undo brings back.
        let old = views.servers.get(slot);
        let next = old.generation.wrapping_add(1);
        let loads = &views.loads;
        if server.generation == next && !is_free(server) {
            loads.set(slot, Load::default());
            self.server_stats.set(slot, zeros()?, 0).map_err(map_error)?;
        } else if (server.upper, server.lower) != (old.upper, old.lower) {
            let load = loads.get(slot);
            let overloaded = nines_abi::limited(&load, server.upper, server.lower);
            loads.set_word(slot, 2, overloaded);
        }
        views.servers.set(slot, *server);
        Ok(())
    }

    fn write_service(
        &mut self,
        views: &Views,
        key: &ServiceKey,
        id: u32,
        service: &Service,
        undo: bool,
    ) -> Result<()> {
        let old = self.installed.services.get(key).map(|(_, old)| *old);
        if old.is_none() && !undo {
            self.service_stats.set(id, zeros()?, 0).map_err(map_error)?;
        }
        if !undo || old.is_some() {
            self.turn(views, key, id, service);
        }
        views.services.set(id, *service);
        self.service_keys.insert(Raw(*key), id, 0).map_err(|why| {
            views.services.set(id, old.unwrap_or(dead(*service)));
            map_error(why)
        })
    }

    fn remove_service(&mut self, views: &Views, key: &ServiceKey) -> Result<()> {
        // Packets may find it without its key: that goes last.
        let id = self.installed.services.get(key).map(|(id, _)| *id);
        let there = id.map(|id| (id, views.services.get(id)));
        let there = there.filter(|(_, service)| service.key == *key);
        if let Some((id, service)) = there {
            views.services.set(id, dead(service));
        }
        gone(self.service_keys.remove(&Raw(*key))).inspect_err(|_| {
            if let Some((id, service)) = there {
                views.services.set(id, service);
            }
        })
    }

    /// A table of turns that takes another's place goes on where that one was.
    fn turn(&mut self, views: &Views, key: &ServiceKey, id: u32, service: &Service) {
        let (now, said) = (views.turns.get(id), self.turned.get(&id).copied());
        if let Some(next) = rr_cursor::of_change(&self.installed, key, service, now, said) {
            self.turned.insert(id, next);
            views.turns.set_word(id, 0, next.turn);
        }
    }

    /// Many services may share a server's address: each is looked up once.
    fn plan(
        &self,
        installed: &Installed,
        before: Option<&ForwardingTable>,
        table: &ForwardingTable,
    ) -> Result<(Vec<Write>, Vec<ServiceName>)> {
        let interfaces = address::interfaces()?;
        let mtus: BTreeMap<u32, u32> = interfaces.iter().map(|i| (i.index, i.mtu)).collect();
        let detour = interfaces.iter().find(|i| i.name == address::DETOUR_INNER);
        let known: RefCell<BTreeMap<IpAddr, Option<Way>>> = RefCell::default();
        let route = |addr: IpAddr| {
            *known.borrow_mut().entry(addr).or_insert_with(|| {
                let way = address::route(addr)?;
                Some(Way { mtu: way.mtu.or_else(|| mtus.get(&way.ifindex).copied()), ..way })
            })
        };
        reconcile::plan_and_names(reconcile::Ask {
            installed,
            before,
            table,
            sizes: self.sizes,
            route: &route,
            detour: detour.map_or(0, |i| i.index),
        })
    }

    /// Carries out all updates or none.
    pub(super) fn commit(&mut self, writes: &[Write]) -> Result<()> {
        if writes.is_empty() {
            return Ok(());
        }
        let of = |at: &dyn Fn(&Write) -> Option<(u32, u32)>| span(writes.iter().filter_map(at));
        let (slot, slots) = of(&|w| match w {
            Write::Server(slot, _) => Some((*slot, 1)),
            _ => None,
        });
        let (id, ids) = of(&|w| match w {
            Write::Service(_, Some((id, _))) => Some((*id, 1)),
            // An undo brings it back.
            Write::Service(key, None) => self.installed.services.get(key).map(|(id, _)| (*id, 1)),
            _ => None,
        });
        let (pair, pairs) = of(&|w| match w {
            Write::Picks(base, picks) => Some((base / 2, picks.len().div_ceil(2) as u32)),
            _ => None,
        });
        let anywhere = writes.iter().any(|w| matches!(w, Write::Place(..)));
        let views = Views {
            services: self.services.part(id, ids)?,
            // Where an address lies its hash says.
            places: self.places.part(0, if anywhere { u32::MAX } else { 1 })?,
            servers: self.servers.part(slot, slots)?,
            picks: self.picks.part(pair, pairs)?,
            loads: self.loads.part(slot, slots)?,
            turns: self.turns.part(id, ids)?,
        };
        let mut done: Vec<Write> = Vec::new();
        for write in writes {
            if let Err(why) = self.write(&views, write, false) {
                for inverse in done.iter().rev() {
                    // The old values fitted a moment ago; if even this fails, observe() sees it.
                    let _ = self.write(&views, inverse, true);
                    self.installed.record(inverse);
                }
                self.installed.trim();
                return Err(why);
            }
            done.extend(self.installed.record(write));
        }
        self.installed.forget(&done);
        Ok(())
    }

    /// Counts since the tables were made.
    pub fn counters(&self) -> Result<Counters> {
        self.counts(true)
    }

    /// The same; `all`: also of servers that counted nothing.
    pub(super) fn counts(&self, all: bool) -> Result<Counters> {
        let loads = self.loads.view()?;
        let places = u64::from(self.sizes.buckets) * nines_abi::WAYS as u64;
        let mut counters = Counters { places, ..Counters::default() };
        let mut services = Vec::with_capacity(self.table.services.len());
        // Services that counted anything: what counts for a server counts for its service, too.
        let mut counted = BTreeSet::new();
        for (name, service) in &self.table.services {
            let Some((id, _)) = self.installed.services.get(&reconcile::key(service.traffic))
            else {
                continue;
            };
            let whole = sum(self.service_stats.get(id, 0).map_err(map_error)?);
            if whole != Tally::default() {
                counted.insert(*id);
            }
            services.push((name, service, *id, whole));
        }
        let mut slots: BTreeMap<(u32, SocketAddr), u32> = BTreeMap::new();
        let mut worth_a_look = BTreeSet::new();
        for (slot, server) in self.installed.servers.iter().filter(|(_, s)| !is_free(s)) {
            let load = loads.get(*slot);
            if all || load.active | load.inactive != 0 || counted.contains(&server.service) {
                worth_a_look.insert(server.service);
                slots.insert((server.service, reconcile::identity(server)), *slot);
            }
        }
        for (name, service, id, mut whole) in services {
            let none = !counted.contains(&id);
            let servers = service.servers.iter().filter(|_| worth_a_look.contains(&id));
            for (server, wanted) in servers {
                let Some(slot) = slots.get(&(id, wanted.addr)) else { continue };
                let mut tally = match none {
                    true => Tally::default(),
                    false => sum(self.server_stats.get(slot, 0).map_err(map_error)?),
                };
                let load = loads.get(*slot);
                (tally.active, tally.inactive) = (load.active, load.inactive);
                whole.active += tally.active;
                whole.inactive += tally.inactive;
                // A translated flow has a place for its answers, too.
                let each = 1 + u64::from(wanted.forward.translates());
                counters.taken += (tally.active + tally.inactive) * each;
                if all || tally != Tally::default() {
                    counters.servers.insert(ServerRef::new(name.clone(), server.clone()), tally);
                }
            }
            counters.services.insert(name.clone(), whole);
        }
        for (reason, name) in DROP_NAMES.iter().enumerate() {
            let seen = self.drops.get(&(reason as u32), 0).map_err(map_error)?;
            counters.drops.insert((*name).to_owned(), seen.iter().sum());
        }
        Ok(counters)
    }
}

/// No counts, on every processor.
pub(super) fn zeros() -> Result<aya::maps::PerCpuValues<Raw<Stats>>> {
    let cpus = aya::util::nr_cpus().map_err(|(_, e)| Error::new("cannot count processors", e))?;
    aya::maps::PerCpuValues::try_from(vec![Raw(Stats::default()); cpus])
        .map_err(|e| Error::new("cannot reset counts", e))
}

/// Counts of all processors.
pub(super) fn sum(values: aya::maps::PerCpuValues<Raw<Stats>>) -> Tally {
    values.iter().fold(Tally::default(), |t, s| Tally {
        connections: t.connections + s.0.connections,
        packets_in: t.packets_in + s.0.packets_in,
        bytes_in: t.bytes_in + s.0.bytes_in,
        packets_out: t.packets_out + s.0.packets_out,
        bytes_out: t.bytes_out + s.0.bytes_out,
        ..Tally::default()
    })
}

/// A pinned map as what it is.
pub(super) fn pinned(pins: &Path, name: &str) -> Result<Map> {
    let failed = |e: aya::maps::MapError| Error::new(format!("cannot open map {name}"), e);
    let data = MapData::from_pin(pins.join(name)).map_err(failed)?;
    Map::from_map_data(data).map_err(failed)
}
