//! Every map, by the name the loader knows it. Layouts are in `nines-abi`.
//!
//! Those that user space walks are memory to it too.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray},
};
use nines_abi::{
    Addr, Bucket, Guard, Load, Server, Service, ServiceKey, Settings, Stats, Template, TemplateKey,
    BUCKETS, DROPS, GUARDS_MAX, PEERS_MAX, REGIONS_MAX, SERVERS_MAX, SERVICES_MAX, TABLE_LEN_MAX,
    TEMPLATES_MAX,
};

/// BPF_F_MMAPABLE (Linux 5.5): user space reads and writes such a map as memory.
const MAPPED: u32 = 1 << 10;

#[map]
pub static GUARD: HashMap<Addr, Guard> = HashMap::pinned(GUARDS_MAX, 0);
#[map]
pub static PEERS: HashMap<[u8; 8], u64> = HashMap::pinned(PEERS_MAX, 0);
#[map]
pub static SERVICES: HashMap<ServiceKey, Service> = HashMap::pinned(SERVICES_MAX, 0);
#[map]
pub static PICKS: Array<u32> = Array::pinned(REGIONS_MAX * TABLE_LEN_MAX, MAPPED);
#[map]
pub static SERVERS: Array<Server> = Array::pinned(SERVERS_MAX, MAPPED);
#[map]
pub static LOADS: Array<Load> = Array::pinned(SERVERS_MAX, MAPPED);
#[map]
pub static TURNS: Array<u64> = Array::pinned(SERVICES_MAX, 0);
#[map]
pub static FLOWS: Array<Bucket> = Array::pinned(BUCKETS, MAPPED);
/// Next bucket to sweep.
#[map]
pub static SWEEP: Array<u64> = Array::pinned(1, 0);
#[map]
pub static TEMPLATES: LruHashMap<TemplateKey, Template> = LruHashMap::pinned(TEMPLATES_MAX, 0);
#[map]
pub static SETTINGS: Array<Settings> = Array::pinned(1, 0);
#[map]
pub static SERVICE_STATS: PerCpuArray<Stats> = PerCpuArray::pinned(SERVICES_MAX, 0);
#[map]
pub static SERVER_STATS: PerCpuArray<Stats> = PerCpuArray::pinned(SERVERS_MAX, 0);
#[map]
pub static DROPS_SEEN: PerCpuArray<u64> = PerCpuArray::pinned(DROPS, 0);

#[inline(always)]
pub fn count_drop(reason: u32) {
    if let Some(count) = DROPS_SEEN.get_ptr_mut(reason) {
        unsafe { *count += 1 };
    }
}

/// Adds one packet to the counters of a server and its service.
#[inline(always)]
pub fn count(slot: u32, service: u32, bytes: u32, out: bool) {
    for stats in [SERVER_STATS.get_ptr_mut(slot), SERVICE_STATS.get_ptr_mut(service)] {
        if let Some(stats) = stats {
            let stats = unsafe { &mut *stats };
            if out {
                stats.packets_out += 1;
                stats.bytes_out += u64::from(bytes);
            } else {
                stats.packets_in += 1;
                stats.bytes_in += u64::from(bytes);
            }
        }
    }
}

/// Adds one new flow.
#[inline(always)]
pub fn count_connection(slot: u32, service: u32) {
    for stats in [SERVER_STATS.get_ptr_mut(slot), SERVICE_STATS.get_ptr_mut(service)] {
        if let Some(stats) = stats {
            unsafe { (*stats).connections += 1 };
        }
    }
}
