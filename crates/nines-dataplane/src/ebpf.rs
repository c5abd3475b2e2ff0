//! The eBPF back end: pinned maps of one network namespace, programs on its interfaces.
//!
//! Decides: where things are pinned, and that a failed update is taken back. The pin directory is
//! `/sys/fs/bpf/nines/<network namespace>/v<ABI>`: a daemon that restarts finds its tables, flows
//! and programs at work; two namespaces, or two layouts, never share one.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, PerCpuArray},
};
use nines_abi::{ABI, DROP_NAMES, Load, Place, Server, Service, ServiceKey, Settings, Stats, WAYS};
use nines_model::{Counters, ForwardingTable, Tally};

use self::shared::Shared;
use self::writes::{Installed, Write};
pub use self::{
    attach::Hooks,
    guard::{EbpfGuard, deadline_of},
};
use crate::{
    DataPlane, Error, Result,
    address::{self, Way},
    sysctl,
};

mod attach;
mod extents;
mod guard;
pub mod object;
pub mod picks;
mod places;
mod shared;
pub mod testrun;
pub mod writes;

/// A value as the kernel has it.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Raw<T>(T);
// SAFETY: used only with the structs of nines-abi, which are repr(C), Copy, of fixed size and
// without implicit padding (asserted there); every bit pattern of them is valid.
unsafe impl<T: Copy + 'static> Pod for Raw<T> {}

/// Layout of the kernel tables.
pub const ABI_VERSION: u32 = ABI;

const BPFFS: &str = "/sys/fs/bpf";

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

    /// Entries of each map by this; PICKS has two picks in one.
    fn of_maps(self) -> [(&'static str, u32); 10] {
        [
            ("SERVICES", self.services),
            ("SERVICE_KEYS", self.services),
            ("SERVICE_STATS", self.services),
            ("TURNS", self.services),
            ("PLACES", self.services * nines_abi::PLACES_PER_SERVICE),
            ("SERVERS", self.servers),
            ("LOADS", self.servers),
            ("SERVER_STATS", self.servers),
            ("PICKS", self.picks.div_ceil(2)),
            ("FLOWS", self.buckets),
        ]
    }

    /// What is pinned already, if it is enough; else what is wanted, and the smaller tables go. The
    /// guard's stay in any case.
    fn settle(self, pins: &Path) -> Self {
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

/// Where this namespace's maps are pinned.
pub fn pin_directory() -> Result<PathBuf> {
    let netns = fs::metadata("/proc/thread-self/ns/net")
        .map_err(|e| Error::new("cannot tell the network namespace", e))?;
    Ok(Path::new(BPFFS).join("nines").join(netns.ino().to_string()).join(format!("v{ABI}")))
}

/// Mounts the BPF file system if nobody has.
fn ensure_bpffs() -> Result<()> {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let failed = |e| {
        Error::new(format!("no BPF file system at {BPFFS}"), e).next("mount -t bpf bpf /sys/fs/bpf")
    };
    // SAFETY: all-zero bytes are a valid statfs.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a NUL-terminated path and a live struct.
    let rc = unsafe { libc::statfs(c"/sys/fs/bpf".as_ptr(), &raw mut found) };
    if rc == 0 && found.f_type as i64 == BPF_FS_MAGIC {
        return Ok(());
    }
    let bpf = c"bpf".as_ptr();
    // SAFETY: NUL-terminated strings; no data.
    let rc = unsafe { libc::mount(bpf, c"/sys/fs/bpf".as_ptr(), bpf, 0, std::ptr::null()) };
    if rc < 0 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    Ok(())
}

/// The back end.
pub struct EbpfPlane {
    ebpf: Ebpf,
    pins: PathBuf,
    hooks: Hooks,
    sizes: Sizes,
    service_keys: HashMap<MapData, Raw<ServiceKey>, u32>,
    services: Shared<Service>,
    places: Shared<Place>,
    servers: Shared<Server>,
    picks: Shared<u64>,
    loads: Shared<Load>,
    settings: Array<MapData, Raw<Settings>>,
    peers: HashMap<MapData, [u8; 8], u64>,
    service_stats: PerCpuArray<MapData, Raw<Stats>>,
    server_stats: PerCpuArray<MapData, Raw<Stats>>,
    drops: PerCpuArray<MapData, u64>,
    installed: Installed,
    table: ForwardingTable,
    /// The kernel holds `table`, and routes are those it was made with.
    trusted: bool,
    /// Interfaces with programs, and through which hook.
    attached: BTreeMap<String, String>,
    /// Interfaces that must have them beyond those that routes name.
    wanted: BTreeSet<String>,
}

/// Opens the tables of this namespace and loads the programs. The guard is apart because another
/// thread keeps it.
pub fn open(object: &[u8], hooks: Hooks, sizes: Sizes) -> Result<(EbpfPlane, EbpfGuard)> {
    ensure_bpffs()?;
    let pins = pin_directory()?;
    fs::create_dir_all(&pins)
        .map_err(|e| address::privileged(format!("cannot make {}", pins.display()), &e))?;
    let sizes = sizes.settle(&pins);
    let buckets_mask = sizes.buckets - 1;
    let places_mask = sizes.services * nines_abi::PLACES_PER_SERVICE - 1;
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(&pins);
    loader.override_global("BUCKETS_MASK", &buckets_mask, true);
    loader.override_global("PLACES_MASK", &places_mask, true);
    for (map, entries) in sizes.of_maps() {
        loader.map_max_entries(map, entries);
    }
    let mut ebpf = loader.load(object).map_err(|e| {
        let mut why = e.to_string();
        let mut source = std::error::Error::source(&e);
        while let Some(inner) = source {
            why = format!("{why}: {inner}");
            source = inner.source();
        }
        let what = "the kernel refused the nines tables or programs";
        Error::new(what, why)
            .next("nines needs Linux 6.1 or newer with BPF, and root (CAP_BPF, CAP_NET_ADMIN)")
    })?;
    attach::load(&mut ebpf)?;
    let mut take = |name: &str| {
        ebpf.take_map(name)
            .ok_or_else(|| Error::new("the kernel object is damaged", format!("no map {name}")))
    };
    let wrong = |e: aya::maps::MapError| Error::new("a pinned map is not ours", e);
    let guard = EbpfGuard::new(shared(take(guard::TABLE)?)?, &pins)?;
    let mut plane = EbpfPlane {
        sizes,
        service_keys: HashMap::try_from(take("SERVICE_KEYS")?).map_err(wrong)?,
        services: shared(take("SERVICES")?)?,
        places: shared(take("PLACES")?)?,
        servers: shared(take("SERVERS")?)?,
        picks: shared(take("PICKS")?)?,
        loads: shared(take("LOADS")?)?,
        settings: Array::try_from(take("SETTINGS")?).map_err(wrong)?,
        peers: HashMap::try_from(take("PEERS")?).map_err(wrong)?,
        service_stats: PerCpuArray::try_from(take("SERVICE_STATS")?).map_err(wrong)?,
        server_stats: PerCpuArray::try_from(take("SERVER_STATS")?).map_err(wrong)?,
        drops: PerCpuArray::try_from(take("DROPS_SEEN")?).map_err(wrong)?,
        ebpf,
        pins,
        hooks,
        installed: Installed::default(),
        table: ForwardingTable::default(),
        trusted: false,
        attached: BTreeMap::new(),
        wanted: BTreeSet::new(),
    };
    plane.installed = plane.read()?;
    Ok((plane, guard))
}

/// Other layouts' directories: what a binary before or after this one left.
fn other_layouts(pins: &Path) -> Vec<PathBuf> {
    let siblings = pins.parent().and_then(|p| fs::read_dir(p).ok());
    let paths = siblings.into_iter().flatten().flatten().map(|e| e.path());
    paths.filter(|p| p != pins).collect()
}

fn shared<T: Copy>(map: aya::maps::Map) -> Result<Shared<T>> {
    match map {
        aya::maps::Map::Array(data) => Ok(Shared::new(data)),
        _ => Err(Error::new("a pinned map is not ours", "it is no array")),
    }
}

fn map_error(e: aya::maps::MapError) -> Error {
    Error::new("a kernel map cannot be read or written", e)
}

impl EbpfPlane {
    /// The kernel's tables as they are.
    fn read(&self) -> Result<Installed> {
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
                found.servers.insert(slot, server);
            }
        }
        found.settings = self.settings.get(&0, 0).map_err(map_error)?.0;
        for place in places::all(&self.places.view()?) {
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

    fn write(&mut self, write: &Write) -> Result<()> {
        match write {
            Write::Server(slot, server) => {
                let servers = self.servers.view()?;
                // Another server in this slot, and not a freed one that an undo brings back.
                let old = servers.get(*slot);
                let next = old.generation.wrapping_add(1);
                let loads = self.loads.view()?;
                if server.generation == next && server.addr != [0; 16] {
                    loads.set(*slot, Load::default());
                } else if (server.upper, server.lower) != (old.upper, old.lower) {
                    let load = loads.get(*slot);
                    let overloaded = nines_abi::limited(&load, server.upper, server.lower);
                    loads.set_word(*slot, 2, overloaded);
                }
                servers.set(*slot, *server);
                Ok(())
            }
            Write::Picks(base, picks) => {
                let pairs = self.picks.part(base / 2, (picks.len() as u32).div_ceil(2))?;
                for (index, pair) in (base / 2..).zip(picks.chunks(2)) {
                    let second = pair.get(1).copied().unwrap_or(0);
                    pairs.set(index, u64::from(pair[0]) | u64::from(second) << 32);
                }
                Ok(())
            }
            Write::Service(key, Some((id, service))) => {
                self.services.view()?.set(*id, *service);
                self.service_keys.insert(Raw(*key), id, 0)
            }
            Write::Service(key, None) => match self.service_keys.remove(&Raw(*key)) {
                Err(aya::maps::MapError::KeyNotFound) => Ok(()),
                other => other,
            },
            Write::Place(addr, flags) => {
                let view = self.places.view()?;
                if *flags == 0 {
                    places::remove(&view, *addr);
                } else if !places::put(&view, Place { addr: *addr, flags: *flags, pad: 0 }) {
                    let vip = address::unmapped(*addr);
                    let why = "the table of addresses has no room where it belongs";
                    return Err(Error::new(format!("{vip} cannot be served"), why));
                }
                Ok(())
            }
            Write::Settings(settings) => self.settings.set(0, Raw(*settings), 0),
        }
        .map_err(map_error)
    }

    /// Many services may share a server's address: each is looked up once.
    fn plan(
        &self,
        installed: &Installed,
        before: Option<&ForwardingTable>,
        table: &ForwardingTable,
    ) -> Result<Vec<Write>> {
        let mtus: BTreeMap<u32, u32> =
            address::interfaces()?.iter().map(|i| (i.index, i.mtu)).collect();
        let known: RefCell<BTreeMap<IpAddr, Option<Way>>> = RefCell::default();
        let route = |addr: IpAddr| {
            *known.borrow_mut().entry(addr).or_insert_with(|| {
                let way = address::route(addr)?;
                Some(Way { mtu: way.mtu.or_else(|| mtus.get(&way.ifindex).copied()), ..way })
            })
        };
        writes::plan(writes::Ask { installed, before, table, sizes: self.sizes, route: &route })
    }

    /// Carries out all updates or none.
    fn commit(&mut self, writes: &[Write]) -> Result<()> {
        let mut done: Vec<Write> = Vec::new();
        for write in writes {
            if let Err(why) = self.write(write) {
                for inverse in done.iter().rev() {
                    // The old values fitted a moment ago; if even this fails, observe() sees it.
                    let _ = self.write(inverse);
                    self.installed.record(inverse);
                }
                return Err(why);
            }
            done.extend(self.installed.record(write));
        }
        self.installed.trim();
        Ok(())
    }

    fn cover_peers(&mut self, macs: &[[u8; 6]]) -> Result<()> {
        let wanted: BTreeSet<[u8; 8]> =
            macs.iter().map(|m| [m[0], m[1], m[2], m[3], m[4], m[5], 0, 0]).collect();
        let have: BTreeSet<[u8; 8]> =
            self.peers.keys().collect::<Result<_, _>>().map_err(map_error)?;
        for gone in have.difference(&wanted) {
            self.peers.remove(gone).map_err(map_error)?;
        }
        for new in wanted.difference(&have) {
            self.peers.insert(new, 1, 0).map_err(map_error)?;
        }
        Ok(())
    }

    /// Interfaces on which guarded addresses, beats or clients are; programs go there, and where
    /// routes to servers lead.
    pub fn on(&mut self, interfaces: impl IntoIterator<Item = String>) {
        self.wanted = interfaces.into_iter().collect();
    }

    fn attach_all(&mut self) -> Result<()> {
        let mut names = self.wanted.clone();
        let indices: BTreeSet<u32> =
            self.installed.servers.values().map(|s| s.ifindex).filter(|i| *i != 0).collect();
        let all = address::interfaces()?;
        names.extend(
            all.iter().filter(|i| indices.contains(&i.index) && i.ethernet).map(|i| i.name.clone()),
        );
        // A device has room for one XDP program; tc's live side by side for a moment.
        for other in other_layouts(&self.pins) {
            names
                .iter()
                .for_each(|name| drop(fs::remove_file(other.join(format!("link-{name}-xdp")))));
        }
        for name in &names {
            let whole = ["ingress", "egress"]
                .iter()
                .all(|s| self.pins.join(format!("link-{name}-{s}")).exists());
            // A tcx pin keeps its link; a clsact filter anyone may remove, so it is put again.
            if self.attached.get(name).is_some_and(|hook| hook.contains("tcx")) && whole {
                continue;
            }
            let hook = attach::attach(&mut self.ebpf, &self.pins, name, self.hooks)?;
            self.attached.insert(name.clone(), hook);
        }
        // An interface that is no longer ours, also one that an earlier process took.
        let pinned = fs::read_dir(&self.pins).map_err(|e| Error::new("cannot list pins", e))?;
        let mut old: BTreeSet<String> = self.attached.keys().cloned().collect();
        for entry in pinned.flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            let name = file.strip_prefix("link-").and_then(|f| f.rsplit_once('-'));
            old.extend(name.map(|(name, _)| name.to_owned()));
        }
        for gone in old.difference(&names) {
            attach::detach(&self.pins, gone);
            self.attached.remove(gone);
        }
        Ok(())
    }
}

impl EbpfPlane {
    /// Tables and programs that a binary with another layout left go when ours are at work. Their
    /// flows cannot be read; those that go by hash live on.
    fn take_over_from_other_layouts(&self) {
        for other in other_layouts(&self.pins) {
            // What stays does no harm but take memory.
            let _ = fs::remove_dir_all(other);
        }
    }
}

impl DataPlane for EbpfPlane {
    fn apply(&mut self, table: &ForwardingTable) -> Result<()> {
        let before = self.trusted.then_some(&self.table);
        let writes = self.plan(&self.installed, before, table)?;
        self.commit(&writes)?;
        self.cover_peers(&table.director_macs)?;
        self.attach_all()?;
        self.take_over_from_other_layouts();
        let nat = self.installed.settings.flags & nines_abi::SETTING_NAT != 0;
        if nat {
            // Replies find their way by the FIB, which wants forwarding on where they come in.
            sysctl::write("net/ipv4/ip_forward", "1")?;
            sysctl::write("net/ipv6/conf/all/forwarding", "1").ok();
        }
        self.table = table.clone();
        self.trusted = true;
        Ok(())
    }

    fn observe(&mut self) -> Result<Vec<String>> {
        let found = self.read()?;
        let mut differences = Vec::new();
        if found.services != self.installed.services || found.settings != self.installed.settings {
            differences.push("services were changed by someone else".to_owned());
        }
        let live = |i: &Installed| i.servers.clone();
        if live(&found) != live(&self.installed) {
            differences.push("servers were changed by someone else".to_owned());
        }
        if found.picks != self.installed.picks {
            differences.push("pick tables were changed by someone else".to_owned());
        }
        if found.places != self.installed.places {
            differences.push("addresses that matter were changed by someone else".to_owned());
        }
        if differences.is_empty() && !self.plan(&found, None, &self.table)?.is_empty() {
            differences.push("routes to servers changed".to_owned());
        }
        if !differences.is_empty() {
            // The next apply looks at everything again.
            self.trusted = false;
        }
        let names: BTreeSet<String> = address::interfaces()?.into_iter().map(|i| i.name).collect();
        for (name, hook) in &self.attached {
            let pinned = self.pins.join(format!("link-{name}-ingress")).exists();
            if names.contains(name) && hook.contains("tcx") && !pinned {
                differences.push(format!("the programs on {name} were removed by someone else"));
            }
        }
        self.installed = found;
        // Whether a clsact filter is still there cannot be asked as cheaply as it is put again.
        if self.attached.values().any(|hook| hook.contains("clsact")) {
            self.attach_all()?;
        }
        Ok(differences)
    }

    fn counters(&mut self) -> Result<Counters> {
        let sum = |values: aya::maps::PerCpuValues<Raw<Stats>>| {
            values.iter().fold(Tally::default(), |t, s| Tally {
                connections: t.connections + s.0.connections,
                packets_in: t.packets_in + s.0.packets_in,
                bytes_in: t.bytes_in + s.0.bytes_in,
                packets_out: t.packets_out + s.0.packets_out,
                bytes_out: t.bytes_out + s.0.bytes_out,
                ..Tally::default()
            })
        };
        let loads = self.loads.view()?;
        let mut counters = Counters::default();
        let mut slots: BTreeMap<(u32, SocketAddr), u32> = BTreeMap::new();
        for (slot, server) in &self.installed.servers {
            if server.addr != [0; 16] {
                slots.insert((server.service, writes::identity(server)), *slot);
            }
        }
        for (name, service) in &self.table.services {
            let Some((id, _)) = self.installed.services.get(&writes::key(service.traffic)) else {
                continue;
            };
            let mut whole = sum(self.service_stats.get(id, 0).map_err(map_error)?);
            for (server, wanted) in &service.servers {
                let Some(slot) = slots.get(&(*id, wanted.addr)) else { continue };
                let mut tally = sum(self.server_stats.get(slot, 0).map_err(map_error)?);
                let load = loads.get(*slot);
                (tally.active, tally.inactive) = (load.active, load.inactive);
                whole.active += tally.active;
                whole.inactive += tally.inactive;
                counters.servers.insert((name.clone(), server.clone()), tally);
            }
            counters.services.insert(name.clone(), whole);
        }
        for (reason, name) in DROP_NAMES.iter().enumerate() {
            let seen = self.drops.get(&(reason as u32), 0).map_err(map_error)?;
            counters.drops.insert((*name).to_owned(), seen.iter().sum());
        }
        Ok(counters)
    }

    fn describe(&self) -> String {
        let on: Vec<String> =
            self.attached.iter().map(|(name, hook)| format!("{hook} on {name}")).collect();
        if on.is_empty() { "ebpf".into() } else { format!("ebpf, {}", on.join(", ")) }
    }

    fn remove(&mut self) -> Result<()> {
        for name in std::mem::take(&mut self.attached).into_keys() {
            attach::detach(&self.pins, &name);
        }
        remove_pins()
    }
}

/// Takes everything nines pinned in this namespace out of the kernel.
pub fn remove_pins() -> Result<()> {
    let pins = pin_directory()?;
    let namespace = pins.parent().unwrap_or(&pins);
    for interface in address::interfaces()? {
        attach::detach(&pins, &interface.name);
    }
    match fs::remove_dir_all(namespace) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::new(format!("cannot remove {}", namespace.display()), e))
        }
        _ => Ok(()),
    }
}
