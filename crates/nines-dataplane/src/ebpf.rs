//! The eBPF back end: pinned maps of one network namespace, programs on its interfaces.
//!
//! Decides: that a failed update is taken back. Everything is pinned (`pins.rs`) in
//! `/sys/fs/bpf/nines/<network namespace>/v<ABI>`: a daemon that restarts finds its tables, flows
//! and programs at work; two namespaces, or two layouts, never share one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{HashMap, MapData},
};
use nines_abi::{ABI, DETOUR_MAC};
use nines_model::{Counters, ForwardingTable};

pub use self::{
    flow_sync::{FlowExport, FlowImport},
    guard::{EbpfGuard, deadline_of, release_all},
    hook::Hooks,
    programs::suffice,
    readback::{Claim, claim},
    sizes::{Sizes, can_hold},
    tables::Tables,
};
use self::{hook::Hook, tables::pinned};
use crate::{
    DataPlane, Error, Result, address, detour, new_interfaces,
    pins::{self, WHOSE, other_layouts, own_directory, pin_directory},
    sysctl,
};

mod addresses;
mod attach;
mod card;
pub mod decap;
mod extents;
mod flow_sync;
mod grow;
mod guard;
mod hook;
mod installed;
mod key;
pub mod lookup_tables;
pub mod object;
mod programs;
pub mod readback;
pub mod reconcile;
mod rr_cursor;
mod shared;
mod sizes;
pub mod tables;
pub mod testrun;
pub mod wrap;

/// A value as the kernel has it.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Raw<T>(T);
// SAFETY: used only with the structs of nines-abi, which are repr(C), Copy, of fixed size and
// without implicit padding (asserted there); every bit pattern of them is valid.
unsafe impl<T: Copy + 'static> Pod for Raw<T> {}

/// Layout of the kernel tables.
pub const ABI_VERSION: u32 = ABI;

/// The back end.
pub struct EbpfPlane {
    ebpf: Ebpf,
    pins: PathBuf,
    hooks: Hooks,
    tables: Tables,
    peers: HashMap<MapData, [u8; 8], u64>,
    /// Interfaces with programs, and through which hook.
    attached: BTreeMap<String, Hook>,
    /// What the programs were last put on for: interfaces wanted, and those that routes name.
    covered: Option<(BTreeSet<String>, BTreeSet<u32>)>,
    /// Interfaces that must have them beyond those that routes name.
    wanted: BTreeSet<String>,
    /// Interfaces that have tc's programs only, for the guard's sake.
    guarded: BTreeSet<String>,
    /// Of these, why one has none.
    unguarded: Option<Error>,
    /// Why XDP leaves some packets to tc.
    slow: Option<Error>,
    /// Rules for marked packets may be there.
    led: bool,
}

/// What a kernel must have that refuses something.
const NEEDS: &str = "nines needs Linux 6.1 or newer with BPF, and root (CAP_BPF, CAP_NET_ADMIN)";
/// What helps where our own part is not whole.
const INSTALL: &str = "install nines again";

/// Opens the tables of this namespace. Loads no program unless tables have to be made larger:
/// [`EbpfPlane::provide`] does. The guard is apart because another thread keeps it.
pub fn open(object: &[u8], hooks: Hooks, sizes: Sizes) -> Result<(EbpfPlane, EbpfGuard)> {
    let plane = open_plane(object, hooks, sizes, &ForwardingTable::default())?;
    let table = tables::shared(pinned(&plane.pins, guard::TABLE)?)?;
    let guard = EbpfGuard::new(table, &plane.pins)?;
    Ok((plane, guard))
}

fn open_plane(
    object: &[u8],
    hooks: Hooks,
    sizes: Sizes,
    table: &ForwardingTable,
) -> Result<EbpfPlane> {
    pins::ensure()?;
    let pins = pin_directory()?;
    pins::make(&pins)
        .map_err(|e| crate::privileged(format!("cannot make {}", pins.display()), &e))?;
    // Now there is a directory to say whose it is.
    own_directory()?;
    let (sizes, smaller) = sizes.settle(&pins);
    let loaded = load(object, &pins, sizes).and_then(|mut ebpf| {
        // What is poured is no longer changed where it was: the new programs are ready by then.
        if !smaller.is_empty() {
            programs::load(&mut ebpf, table, || smaller.pour(&pins))?;
        }
        Ok(ebpf)
    });
    let ebpf = loaded.inspect_err(|_| smaller.put_back(&pins))?;
    // By other handles: programs that are loaded later name those that `ebpf` has.
    let peers = HashMap::try_from(pinned(&pins, "PEERS")?).map_err(wrong)?;
    let tables = Tables::new(&mut |name| pinned(&pins, name), sizes)?;
    Ok(EbpfPlane {
        tables,
        peers,
        ebpf,
        pins,
        hooks,
        attached: BTreeMap::new(),
        covered: None,
        wanted: BTreeSet::new(),
        guarded: BTreeSet::new(),
        unguarded: None,
        slow: None,
        led: true,
    })
}

/// Loads maps, new or pinned.
fn load(object: &[u8], pins: &Path, sizes: Sizes) -> Result<Ebpf> {
    let buckets_mask = sizes.buckets - 1;
    let places_mask = sizes.places() - 1;
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(pins);
    loader.override_global("BUCKETS_MASK", &buckets_mask, true);
    loader.override_global("ADDRESSES_MASK", &places_mask, true);
    let flow_key = key::of(pins)?;
    loader.override_global("FLOW_KEY", &flow_key, true);
    for (map, entries) in sizes.of_maps() {
        loader.map_max_entries(map, entries);
    }
    let ebpf = loader.load(object).map_err(|e| {
        let mut why = e.to_string();
        let mut source = std::error::Error::source(&e);
        while let Some(inner) = source {
            why = format!("{why}: {inner}");
            source = inner.source();
        }
        let what = "the kernel refused the nines tables or programs";
        Error::new(what, why).next(NEEDS)
    })?;
    key::keep(pins, flow_key)?;
    Ok(ebpf)
}

fn wrong(e: aya::maps::MapError) -> Error {
    Error::new("a pinned map is not ours", e)
}

fn map_error(e: aya::maps::MapError) -> Error {
    Error::new("a kernel map cannot be read or written", e)
}

impl EbpfPlane {
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

    /// Programs on every Ethernet interface there is, and none taken off: where nobody says which.
    pub fn on_all(&mut self) -> Result<()> {
        let all = address::interfaces()?;
        let whole = all.into_iter().filter(|i| i.ethernet && !i.is_part);
        self.wanted = whole.map(|i| i.name).collect();
        self.covered = None;
        self.attach_all()
    }

    /// The tables, to be changed one by one.
    pub fn tables(&mut self) -> &mut Tables {
        &mut self.tables
    }

    /// Loads the programs that this table needs beyond those that are: before the table is there.
    pub fn provide(&mut self, table: &ForwardingTable) -> Result<()> {
        programs::provide(&mut self.ebpf, table)?;
        self.slow = programs::provide_xdp(&mut self.ebpf).err();
        match &self.slow {
            Some(why) if self.hooks == Hooks::Xdp => Err(why.clone()),
            _ => Ok(()),
        }
    }

    /// Interfaces on which guarded addresses, heartbeats or clients are; programs go there, and to
    /// those that routes to servers lead to.
    pub fn on(&mut self, interfaces: impl IntoIterator<Item = String>) {
        self.wanted = interfaces.into_iter().collect();
    }

    /// Whether a VLAN has come to a device whose XDP program would not see whose its packets are.
    fn is_blind(&self, interface: &address::Interface, all: &[address::Interface]) -> bool {
        self.hooks == Hooks::Auto
            && self.attached.get(&interface.name).is_some_and(Hook::has_xdp)
            && card::hides_vlans(interface, all)
    }

    fn attach_all(&mut self) -> Result<()> {
        let mut names = self.wanted.clone();
        if self.tables.installed().settings.flags & nines_abi::SETTING_MARKS != 0 {
            names.insert(address::DETOUR_INNER.into());
        }
        let indices = self.tables.installed().interfaces.clone();
        let asked = names.clone();
        if self.covered.as_ref() == Some(&(asked.clone(), indices.clone())) {
            return Ok(());
        }
        self.provide(&ForwardingTable::default())?;
        let all = address::interfaces()?;
        names.extend(
            all.iter().filter(|i| indices.contains(&i.index) && i.ethernet).map(|i| i.name.clone()),
        );
        // The guard is wherever this machine may answer: a second card on the same segment would
        // answer for a VIP of the first, and packets for it may come in by any.
        let others = all.iter().filter(|i| i.may_answer() && !names.contains(&i.name));
        let others: BTreeSet<String> = others.map(|i| i.name.clone()).collect();
        names.extend(others.iter().cloned());
        self.unguarded = None;
        // A device has room for one XDP program; tc's live side by side for a moment.
        for other in other_layouts(&self.pins) {
            names.iter().for_each(|name| attach::forget_xdp(&other, name));
        }
        for name in &names {
            let there = all.iter().find(|i| i.name == *name);
            let whole = there.is_some_and(|i| attach::is_on(&self.pins, i));
            let blind = there.is_some_and(|i| self.is_blind(i, &all));
            let least = others.contains(name);
            // A tcx pin keeps its link; a clsact filter anyone may remove, so it is put again.
            let linked = self.attached.get(name).is_some_and(Hook::is_linked);
            if linked && whole && !blind && least == self.guarded.contains(name) {
                continue;
            }
            let hooks = if least { Hooks::Tc } else { self.hooks };
            match attach::attach(&mut self.ebpf, &self.pins, name, hooks, &all) {
                Ok(hook) => drop(self.attached.insert(name.clone(), hook)),
                // Where nothing is forwarded, nothing else stops for it.
                Err(why) if least => self.refused_guard(name, why),
                Err(why) => return Err(why),
            }
        }
        self.guarded = others;
        new_interfaces::guarded(all.iter().filter(|i| self.attached.contains_key(&i.name)));
        // An interface that is no longer ours, also one that an earlier process took.
        let pinned = fs::read_dir(&self.pins).map_err(|e| Error::new("cannot list pins", e))?;
        let mut old: BTreeSet<String> = self.attached.keys().cloned().collect();
        for entry in pinned.flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            let name = file.strip_prefix("link-").and_then(|f| f.rsplit_once('-'));
            old.extend(name.map(|(name, _)| name.replace(':', ".")));
        }
        let express = |i: &&address::Interface| {
            names.contains(&i.name)
                && !self.guarded.contains(&i.name)
                && self.attached.get(&i.name).is_some_and(Hook::has_xdp)
                && card::takes_frames(i)
        };
        if self.hooks != Hooks::Tc {
            let express = all.iter().filter(express).map(|i| i.index).collect();
            attach::tell_express(&mut self.ebpf, &express)?;
        }
        for gone in old.difference(&names) {
            attach::detach(&self.pins, gone);
            self.attached.remove(gone);
        }
        self.covered = Some((asked, indices));
        Ok(())
    }

    /// Keeps for people that an interface has no guard, unless it has gone meanwhile.
    fn refused_guard(&mut self, name: &str, why: Error) {
        self.attached.remove(name);
        if address::interfaces().is_ok_and(|all| all.iter().any(|i| i.name == name)) {
            let what = format!("{name} has no guard and may answer for VIPs of others");
            self.unguarded = Some(Error { what, why: why.to_string(), next: why.next });
        }
    }
}

/// Answers of NAT servers find their way by the FIB, which wants forwarding on where they come in;
/// what has a mark, by a rule, which wants the same.
pub(crate) fn answers_pass() -> Result<()> {
    sysctl::write("net/ipv4/ip_forward", "1")?;
    sysctl::write("net/ipv6/conf/all/forwarding", "1").ok();
    Ok(())
}

impl EbpfPlane {
    /// Tables and programs that a binary with another layout left go when ours are at work. Their
    /// flows cannot be read; those that go by the same hash live on.
    fn take_over_from_other_layouts(&self) {
        for other in other_layouts(&self.pins) {
            // What stays does no harm but take memory.
            let _ = fs::remove_dir_all(other);
        }
    }
}

impl DataPlane for EbpfPlane {
    fn apply(&mut self, table: &ForwardingTable) -> Result<()> {
        let marks = detour::marks_of(table);
        if !marks.is_empty() {
            detour::build()?;
        }
        self.provide(table)?;
        self.tables.apply(table)?;
        let mut peers = table.director_macs.clone();
        // What another director sent here may have got a mark on its way up.
        peers.extend((!marks.is_empty()).then_some(DETOUR_MAC));
        self.cover_peers(&peers)?;
        self.attach_all()?;
        // An earlier process may have left one.
        if !marks.is_empty() || self.led {
            detour::lead(&marks)?;
            self.led = !marks.is_empty();
        }
        self.take_over_from_other_layouts();
        let flags = self.tables.installed().settings.flags;
        if flags & (nines_abi::SETTING_NAT | nines_abi::SETTING_MARKS) != 0 {
            answers_pass()?;
        }
        Ok(())
    }

    fn observe(&mut self) -> Result<Vec<String>> {
        // Whatever the last apply found in place, the next one looks again.
        self.covered = None;
        let mut differences = self.tables.observe()?;
        let all = address::interfaces()?;
        for (name, hook) in self.attached.iter().filter(|(_, hook)| hook.is_linked()) {
            if all.iter().any(|i| i.name == *name && !attach::is_on(&self.pins, i)) {
                differences.push(format!("{hook} is no longer on {name}"));
            }
        }
        for i in all.iter().filter(|i| self.is_blind(i, &all)) {
            differences.push(format!("a VLAN came to {}", i.name));
        }
        // Whether a clsact filter is still there cannot be asked as cheaply as it is put again.
        let missing =
            |i: &address::Interface| i.may_answer() && !self.attached.contains_key(&i.name);
        if all.iter().any(missing) || self.attached.values().any(|hook| !hook.is_linked()) {
            self.attach_all()?;
        }
        Ok(differences)
    }

    fn grow(&mut self, table: &ForwardingTable) -> Result<bool> {
        let sizes = self.tables.sizes();
        if sizes.has_room(table) {
            return Ok(false);
        }
        let sizes = Sizes::holding(table, 0).max(sizes);
        let mut larger = open_plane(object::BYTES, self.hooks, sizes, table)?;
        larger.wanted = std::mem::take(&mut self.wanted);
        // Their programs and those before are at work beside each other until all are replaced.
        *self = larger;
        self.attach_all()?;
        Ok(true)
    }

    fn devices(&mut self) -> Result<()> {
        self.covered = None;
        self.attach_all()
    }

    fn trouble(&self) -> Option<Error> {
        self.unguarded.clone().or_else(|| self.slow.clone())
    }

    fn counters(&mut self) -> Result<Counters> {
        self.tables.counters()
    }

    fn busy(&mut self) -> Result<Counters> {
        self.tables.counts(false)
    }

    fn describe(&self) -> String {
        match hook::words(&self.attached) {
            none if none.is_empty() => "ebpf".into(),
            on => format!("ebpf, {on}"),
        }
    }

    fn remove(&mut self) -> Result<()> {
        for name in std::mem::take(&mut self.attached).into_keys() {
            attach::detach(&self.pins, &name);
        }
        remove_pins()
    }
}

/// MAC addresses of other directors, as the tables of this namespace have them.
pub fn director_macs() -> Result<Vec<[u8; 6]>> {
    let peers: HashMap<_, [u8; 8], u64> =
        HashMap::try_from(pinned(&pin_directory()?, "PEERS")?).map_err(wrong)?;
    let known = peers.keys().filter_map(std::result::Result::ok);
    let known = known.map(|[a, b, c, d, e, f, ..]| [a, b, c, d, e, f]);
    Ok(known.filter(|mac| *mac != DETOUR_MAC).collect())
}

/// Takes everything nines pinned in this namespace out of the kernel.
pub fn remove_pins() -> Result<()> {
    let pins = pin_directory()?;
    let namespace = pins.parent().unwrap_or(&pins);
    new_interfaces::restore()?;
    detour::lead(&detour::Marks::new())?;
    for interface in address::interfaces()? {
        attach::detach(&pins, &interface.name);
    }
    for layout in other_layouts(&pins).into_iter().chain([pins.clone()]) {
        match fs::remove_dir_all(&layout) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::new(format!("cannot remove {}", layout.display()), e));
            }
            _ => {}
        }
    }
    // The process that follows devices for ipvsadm ends with it.
    let _ = fs::remove_dir(namespace.join("later"));
    // What a real server has there stays, and whose it is.
    let others = |name: &str| !name.starts_with(WHOSE);
    let mut left = fs::read_dir(namespace).into_iter().flatten().flatten();
    if !left.any(|entry| others(&entry.file_name().to_string_lossy())) {
        let _ = fs::remove_dir_all(namespace);
    }
    Ok(())
}
