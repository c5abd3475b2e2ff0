//! Virtual services, and how a packet finds its own.
//!
//! Decides: which of several services a packet belongs to. A mark goes before an address, one port
//! before a range, a range before every port.

pub mod admit;
pub mod server;

use aya_ebpf::maps::lpm_trie::Key;
use nines_abi::{
    Packet, Service, ServiceKey, ServiceRangeKey, KEY_ADDRESS, KEY_MARK_V4, KEY_MARK_V6,
    SERVICE_CACHE_MAX, SERVICE_LIVE, SETTING_MARKS, SETTING_SPREAD, SPREAD_BITS,
};

use crate::{
    atomic::read_once,
    maps::{find, shared, SERVICES, SERVICE_CACHE, SERVICE_KEYS, SERVICE_RANGES, SETTINGS},
    parse::packet::{bytes, halves_of},
};

/// A service and its number.
#[derive(Clone, Copy)]
pub struct ServiceRef {
    pub id: u32,
    pub service: &'static Service,
}

/// Whether services go by marks, which XDP does not see.
#[inline(always)]
pub fn has_marks() -> bool {
    SETTINGS.get(0).is_some_and(|s| s.flags & SETTING_MARKS != 0)
}

/// The service of a packet: by its mark, by address and port, by range, by address alone (IPVS's
/// order, where there are no ranges).
#[inline(never)]
fn find_service(packet: &Packet, mark: u32) -> u32 {
    if mark != 0 {
        let kind = if packet.v6 != 0 { KEY_MARK_V6 } else { KEY_MARK_V4 };
        let addr = bytes([0, 0, 0, mark.to_be()]);
        let key = ServiceKey { addr, port: 0, proto: 0, kind };
        if let Some(id) = there(find(&SERVICE_KEYS, &key)) {
            return id;
        }
    }
    let mut found = shared(&SERVICE_CACHE, mixed(packet));
    if let Some(found) = &found {
        let id = **found;
        if SERVICES.get(id).is_some_and(|service| is_of(service, packet)) {
            return id;
        }
    }
    let mut key = ServiceKey {
        addr: bytes(packet.dst),
        port: packet.dport,
        proto: packet.proto,
        kind: KEY_ADDRESS,
    };
    if let Some(id) = there(find(&SERVICE_KEYS, &key)) {
        if let Some(found) = &mut found {
            **found = id;
        }
        return id;
    }
    if SETTINGS.get(0).is_some_and(|s| s.flags & SETTING_SPREAD != 0) {
        let (proto, addr, port) = (u32::from(packet.proto), key.addr, packet.dport);
        let data = ServiceRangeKey { proto, addr, port, pad: 0 };
        if let Some(id) = there(SERVICE_RANGES.get(Key::new(SPREAD_BITS + 32, data))) {
            return id;
        }
    }
    key.port = 0;
    find(&SERVICE_KEYS, &key).map_or(u32::MAX, |id| *id)
}

/// The packets of a service that is leaving are others' already.
#[inline(always)]
fn there(id: Option<&u32>) -> Option<u32> {
    let id = *id?;
    SERVICES.get(id).is_some_and(is_live).then_some(id)
}

/// Index into map SERVICE_CACHE for the address, protocol and port of a packet: most packets are
/// for few services.
#[inline(always)]
fn mixed(packet: &Packet) -> u32 {
    let mixed = packet.dst[3] ^ packet.dst[3] >> 16 ^ u32::from(packet.dport);
    (mixed ^ mixed >> 8 ^ u32::from(packet.proto)) & (SERVICE_CACHE_MAX - 1)
}

/// Whether it is there still: user space says so here before its key leaves the map.
#[inline(always)]
fn is_live(service: &Service) -> bool {
    read_once(&service.flags) & SERVICE_LIVE != 0
}

/// Whether a service goes by this packet's address and port, and is there still.
#[inline(always)]
fn is_of(service: &Service, packet: &Packet) -> bool {
    // First: an id that gets another key has been dead before.
    if !is_live(service) {
        return false;
    }
    let [low, high] = halves_of(&packet.dst);
    let names = u32::from(packet.dport) | u32::from(packet.proto) << 16;
    let key = core::ptr::from_ref(&service.key).cast::<u64>();
    // SAFETY: a key is an address of two words, then four bytes of port, protocol and kind. It lies
    // at a multiple of eight in a `Service` (asserted below), and so in map `SERVICES`. Volatile,
    // for user space may be replacing it.
    let (have_low, have_high, have_names) = unsafe {
        (key.read_volatile(), key.add(1).read_volatile(), key.add(2).cast::<u32>().read_volatile())
    };
    const _: () = assert!(KEY_ADDRESS == 0 && core::mem::offset_of!(Service, key) % 8 == 0);
    (have_low ^ low) | (have_high ^ high) | u64::from(have_names ^ names) == 0
}

#[inline(always)]
pub fn service_of(packet: &Packet, mark: u32) -> Option<ServiceRef> {
    let id = find_service(packet, mark);
    let service = SERVICES.get(id)?;
    is_live(service).then_some(ServiceRef { id, service })
}
