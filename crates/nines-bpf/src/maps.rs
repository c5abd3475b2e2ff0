//! Every map, by the name the loader knows it. Layouts are in `nines-abi`.
//!
//! Those that user space walks are memory to it too.

use aya_ebpf::{
    macros::map,
    maps::{lpm_trie::LpmTrie, Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
};
use nines_abi::{
    Addr, Bucket, Entry, Fragment, FragmentKey, Guard, Hop, Load, Locality, Packet, Place, QuicKey,
    Server, Service, ServiceKey, ServiceRangeKey, Settings, SourceKey, Stats, Template,
    TemplateKey, ADDRESSES_PER_SERVICE, BUCKETS, BYTES_LEN, COOKIE_CLIENTS_MAX,
    DECAP_ADDRESSES_MAX, DROPS, FRAGMENTS_MAX, GUARDS, LOCALITIES_MAX, LOOKUP as LOOKUP_LEN,
    PEERS_MAX, PROGRAMS_MAX, RATE_USED_MAX, SERVERS as SERVERS_LEN, SERVICES as SERVICES_LEN,
    SERVICE_CACHE_MAX, SERVICE_RANGES_MAX, SOURCES_MAX, SYNC_EVENTS_BYTES, SYNC_IMPORT_MAX,
    TEMPLATES_MAX, XDP_OUT_MAX,
};

use crate::atomic::read_once;

/// BPF_F_MMAPABLE (Linux 5.5): user space reads and writes such a map as memory.
const MAPPED: u32 = 1 << 10;

/// BPF_F_NO_PREALLOC, which a trie wants.
const NO_PREALLOC: u32 = 1;

/// The loader makes some of these larger. Those whose size is a mask's say it here, for the
/// verifier folds a read-only constant.
#[no_mangle]
static BUCKETS_MASK: u32 = BUCKETS - 1;
#[no_mangle]
static ADDRESSES_MASK: u32 = SERVICES_LEN * ADDRESSES_PER_SERVICE - 1;

/// Drawn for the tables of this machine ([`nines_abi::Settings::flow_key`]).
#[no_mangle]
static FLOW_KEY: u64 = 0;

#[inline(always)]
pub fn flow_key() -> u64 {
    read_once(&FLOW_KEY)
}

#[inline(always)]
pub fn buckets_mask() -> u32 {
    read_once(&BUCKETS_MASK)
}

#[inline(always)]
pub fn places_mask() -> u32 {
    read_once(&ADDRESSES_MASK)
}

#[map]
pub static GUARD_TABLE: Array<Guard> = Array::pinned(GUARDS, MAPPED);
#[map]
pub static PEERS: HashMap<[u8; 8], u64> = HashMap::pinned(PEERS_MAX, 0);
#[map]
pub static ADDRESSES: Array<Place> = Array::pinned(SERVICES_LEN * ADDRESSES_PER_SERVICE, MAPPED);
#[map]
pub static SERVICE_KEYS: HashMap<ServiceKey, u32> = HashMap::pinned(SERVICES_LEN, 0);
#[map]
pub static SERVICES: Array<Service> = Array::pinned(SERVICES_LEN, MAPPED);
/// Which service was found last, by address, protocol and port mixed.
#[map]
pub static SERVICE_CACHE: Array<u32> = Array::pinned(SERVICE_CACHE_MAX, 0);
/// Two picks an entry: the kernel rounds values up to eight bytes anyway.
#[map]
pub static LOOKUP: Array<u64> = Array::pinned(LOOKUP_LEN / 2, MAPPED);
#[map]
pub static SERVERS: Array<Server> = Array::pinned(SERVERS_LEN, MAPPED);
#[map]
pub static LOADS: Array<Load> = Array::pinned(SERVERS_LEN, MAPPED);
#[map]
pub static RR_CURSOR: Array<u64> = Array::pinned(SERVICES_LEN, MAPPED);
#[map]
pub static FLOWS: Array<Bucket> = Array::pinned(BUCKETS, MAPPED);
/// Buckets whose flows changed in a way that other directors want to know: a bit each.
#[map]
pub static SYNC_CHANGED: Array<u64> = Array::pinned(BUCKETS / 64, MAPPED);
/// Whether somebody was told so.
#[map]
pub static SYNC_PENDING: Array<u64> = Array::pinned(1, MAPPED);
#[map]
pub static SYNC_EVENTS: RingBuf = RingBuf::pinned(SYNC_EVENTS_BYTES, 0);
/// Flows that other directors told of, and the next one to learn.
#[map]
pub static SYNC_IMPORT: Array<Entry> = Array::pinned(SYNC_IMPORT_MAX, MAPPED);
#[map]
pub static SYNC_CURSOR: Array<u64> = Array::pinned(1, MAPPED);
/// Next bucket to sweep.
#[map]
pub static SWEEP: Array<u64> = Array::pinned(1, 0);
#[map]
pub static TEMPLATES: LruHashMap<TemplateKey, Template> = LruHashMap::pinned(TEMPLATES_MAX, 0);
#[map]
pub static LOCALITIES: LruHashMap<TemplateKey, Locality> = LruHashMap::pinned(LOCALITIES_MAX, 0);
#[map]
pub static SETTINGS: Array<Settings> = Array::pinned(1, 0);
#[map]
pub static SERVICE_STATS: PerCpuArray<Stats> = PerCpuArray::pinned(SERVICES_LEN, 0);
#[map]
pub static SERVER_STATS: PerCpuArray<Stats> = PerCpuArray::pinned(SERVERS_LEN, 0);
#[map]
pub static DROPS_SEEN: PerCpuArray<u64> = PerCpuArray::pinned(DROPS, 0);

/// On a real server: addresses whose packets are taken out of tunnels, and UDP ports of tunnels in
/// the last two bytes of an address that is zero before.
#[map]
pub static DECAP_ADDRESSES: HashMap<Addr, u32> = HashMap::pinned(DECAP_ADDRESSES_MAX, 0);

/// Programs that go on where another one ends: `PROGRAM_*`.
#[map]
pub static PROGRAMS: ProgramArray = ProgramArray::pinned(PROGRAMS_MAX, 0);
/// The same of XDP.
#[map]
pub static XDP_PROGRAMS: ProgramArray = ProgramArray::pinned(PROGRAMS_MAX, 0);

/// Which clients may begin flows of a service.
#[map]
pub static SOURCES: LpmTrie<SourceKey, u32> = LpmTrie::pinned(SOURCES_MAX, NO_PREALLOC);
/// Services of many addresses and ports.
#[map]
pub static SERVICE_RANGES: LpmTrie<ServiceRangeKey, u32> =
    LpmTrie::pinned(SERVICE_RANGES_MAX, NO_PREALLOC);
/// Until when what a client may begin is used up, ns.
#[map]
pub static RATE_USED: LruHashMap<TemplateKey, u64> = LruHashMap::pinned(RATE_USED_MAX, 0);
/// The same of a service's clients without a cookie.
#[map]
pub static COOKIE_RATE_USED: Array<u64> = Array::pinned(SERVICES_LEN, 0);
/// Clients that have shown a cookie, and when.
#[map]
pub static COOKIE_CLIENTS: LruHashMap<[u32; 4], u32> = LruHashMap::pinned(COOKIE_CLIENTS_MAX, 0);
/// Servers by what connection ids say.
#[map]
pub static QUIC_IDS: HashMap<QuicKey, u32> = HashMap::pinned(SERVERS_LEN, NO_PREALLOC);
/// Where the first fragment of a packet went, for those that follow it.
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragment> = LruHashMap::pinned(FRAGMENTS_MAX, 0);
/// Devices that take frames from XDP: those our own program is on.
#[map]
pub static XDP_OUT: HashMap<u32, u32> = HashMap::pinned(XDP_OUT_MAX, 0);
#[map]
pub static NEXT_HOPS: PerCpuArray<Hop> = PerCpuArray::pinned(SERVERS_LEN, 0);
/// Until when what this processor may say to clients that nobody serves is used up, ns.
#[map]
pub static ICMP_RATE_USED: PerCpuArray<u64> = PerCpuArray::pinned(1, 0);
/// Parts of packets, and what is being done with them.
#[map]
pub static BYTES: PerCpuArray<[u8; BYTES_LEN]> = PerCpuArray::pinned(1, 0);
/// The packets being decided on this processor.
#[map]
pub static PACKETS: PerCpuArray<Packet> = PerCpuArray::pinned(2, 0);

/// This processor's value in a map, to be changed.
#[inline(always)]
pub fn own<T>(map: &'static PerCpuArray<T>, index: u32) -> Option<&'static mut T> {
    // SAFETY: no other processor has this value. Programs for packets run with softirqs off, so
    // none interrupts another one; a packet that leaves while another is being decided has an entry
    // of its own in `PACKETS`.
    map.get_ptr_mut(index).map(|value| unsafe { &mut *value })
}

/// Map `BYTES` of this processor: room for a packet's bytes, and two words. What a loop keeps in
/// those the verifier knows nothing of: it then walks each turn once, and not once for every way
/// there.
#[inline(always)]
pub fn scratch() -> Option<(&'static mut [u8; BYTES_LEN - 16], &'static mut [u64; 2])> {
    let bytes = BYTES.get_ptr_mut(0)?.cast::<u8>();
    // SAFETY: this processor's value, as in `own`, in two parts; the second begins at a multiple of
    // eight (asserted below) of a value that is aligned to eight.
    Some(unsafe { (&mut *bytes.cast(), &mut *bytes.add(BYTES_LEN - 16).cast()) })
}
const _: () = assert!(BYTES_LEN % 8 == 0);

/// The value of a key.
#[inline(always)]
pub fn find<K, V>(map: &'static HashMap<K, V>, key: &K) -> Option<&'static V> {
    // SAFETY: a deleted value's memory stays until the program ends (RCU). The kernel may give it
    // to another key meanwhile; values are integers, for which any bits do.
    unsafe { map.get(key) }
}

/// The value of a key that may be forgotten.
#[inline(always)]
pub fn find_lru<K, V>(map: &'static LruHashMap<K, V>, key: &K) -> Option<&'static V> {
    // SAFETY: as in `find`. Readers compare what the value says with the server that is there now.
    unsafe { map.get(key) }
}

/// The same, to be changed. Another processor may change it at the same time: one of them counts.
#[inline(always)]
pub fn shared_lru<K, V>(map: &'static LruHashMap<K, V>, key: &K) -> Option<&'static mut V> {
    // SAFETY: as in `find`. Fields are integers, each written by one instruction, and every
    // mixture of two processors' fields is one that the readers' comparisons find out or allow.
    map.get_ptr_mut(key).map(|value| unsafe { &mut *value })
}

/// An entry of an array, to be changed. Others may change it at the same time, too.
#[inline(always)]
pub fn shared<T>(map: &'static Array<T>, index: u32) -> Option<&'static mut T> {
    // SAFETY: an array's values stay as long as the map. Others may change them: see `shared_lru`.
    map.get_ptr_mut(index).map(|value| unsafe { &mut *value })
}

/// An entry of the pick tables.
#[inline(always)]
pub fn pick(index: u32) -> Option<u32> {
    let pair = *LOOKUP.get(index >> 1)?;
    Some((pair >> ((index & 1) * 32)) as u32)
}

#[inline(always)]
pub fn count_drop(reason: u32) {
    if let Some(count) = own(&DROPS_SEEN, reason) {
        *count += 1;
    }
}

/// Adds one packet to the counters of a server and its service.
#[inline(always)]
pub fn count(slot: u32, service: u32, bytes: u32, out: bool) {
    for stats in [own(&SERVER_STATS, slot), own(&SERVICE_STATS, service)] {
        if let Some(stats) = stats {
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
    for stats in [own(&SERVER_STATS, slot), own(&SERVICE_STATS, service)] {
        if let Some(stats) = stats {
            stats.connections += 1;
        }
    }
}
