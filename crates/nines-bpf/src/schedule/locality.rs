//! Locality: the schedulers lblc and lblcr remember the servers of a destination.
//!
//! Decides: that a destination stays with its servers while they are not overloaded
//! (net/netfilter/ipvs/ip_vs_lblc.c, ip_vs_lblcr.c).

use nines_abi::{
    idle_units, Locality, Packet, Service, TemplateKey, LOCALITY_SET, SCAN_MAX, SCHED_LBLC,
};

use super::{hindrance, least, overhead, Table, NOBODY};
use crate::{
    atomic::opaque,
    maps::{pick, shared_lru, LOADS, LOCALITIES, SERVERS},
};

/// lblcr gives up the most loaded server of a set that did not change for so long
/// (sysctl lblcr_expiration).
const SET_SECONDS: u32 = 86_400;

/// More active flows than weight, while another server has less than half of its.
#[inline(never)]
fn crowded(slot: u32, table: Table) -> bool {
    let (base, len) = (table.base(), table.len());
    let (Some(server), Some(load)) = (SERVERS.get(slot), LOADS.get(slot)) else {
        return true;
    };
    if load.active <= u64::from(server.weight) {
        return false;
    }
    for i in 0..SCAN_MAX {
        if i >= len {
            break;
        }
        let Some(other) = pick(base + i) else { break };
        if let (Some(server), Some(load)) = (SERVERS.get(other), LOADS.get(other)) {
            if load.active * 2 < u64::from(server.weight) {
                return true;
            }
        }
    }
    false
}

/// The server of a destination.
#[inline(never)]
pub fn by_destination(packet: &Packet, service: &Service, table: Table) -> u32 {
    let (id, now) = (packet.service, packet.clock);
    let key = TemplateKey { client: packet.dst, service: id, call: 0, pad: 0 };
    let mut slot = NOBODY;
    if let Some(known) = shared_lru(&LOCALITIES, &key) {
        let shrinks = u32::from(service.scheduler != SCHED_LBLC);
        slot = lightest(known, id, shrinks, now);
    }
    if slot != NOBODY && !crowded(slot, table) {
        return slot;
    }
    let other = least(table);
    if other == NOBODY {
        return slot;
    }
    remember(&key, other, u32::from(service.scheduler == SCHED_LBLC), now);
    other
}
const _: () = assert!(LOCALITY_SET == 8);

/// Adds a server to the destination's, or makes it the only one.
#[inline(never)]
fn remember(key: &TemplateKey, slot: u32, only: u32, now: u32) -> u32 {
    let generation = SERVERS.get(slot).map_or(0, |server| server.generation);
    let Some(known) = shared_lru(&LOCALITIES, key) else {
        let mut new = Locality { servers: [[NOBODY, 0]; LOCALITY_SET], changed: now, count: 1 };
        new.servers[0] = [slot, generation];
        let _ = LOCALITIES.insert(key, &new, 0);
        return 0;
    };
    if only == 0 {
        // One that is there already stays where it is, and the set is as it was.
        let mut there = 0;
        for i in 0..LOCALITY_SET {
            let [a, b] = known.servers[i];
            there |= u64::from((a ^ slot) | (b ^ generation)).wrapping_sub(1) >> 63;
        }
        if there != 0 {
            return 0;
        }
    }
    let at = if only != 0 { 0 } else { known.count };
    known.servers[(opaque(u64::from(at)) & 7) as usize] = [slot, generation];
    known.count = at + 1;
    known.changed = now;
    0
}

/// The server of the set that has the least to do by weight. A set that did not change for a day
/// gives up the one that has the most, if `shrinks`.
#[inline(never)]
fn lightest(known: &mut Locality, id: u32, shrinks: u32, now: u32) -> u32 {
    let (mut best, mut least, mut share) = (NOBODY, 0u64, 0u64);
    // The newest first: of equals it wins (IPVS puts it at the head of its list).
    for i in 0..LOCALITY_SET as u32 {
        let at = known.count.wrapping_sub(1).wrapping_sub(i);
        let [slot, generation] = known.servers[(opaque(u64::from(at)) & 7) as usize];
        let (Some(server), Some(load)) = (SERVERS.get(slot), LOADS.get(slot)) else {
            continue;
        };
        let stranger = u64::from(server.generation ^ generation);
        if stranger | hindrance(server, load, id) != 0 || server.weight == 0 {
            continue;
        }
        let (cost, by) = (overhead(load), u64::from(server.weight));
        if best == NOBODY || cost * share < least * by {
            (best, least, share) = (slot, cost, by);
        }
    }
    // Another processor's reading of the clock may be a little ahead.
    let silent = now.wrapping_add(2).wrapping_sub(known.changed);
    if shrinks != 0 && known.count > 1 && silent > idle_units(SET_SECONDS) + 2 {
        shrink(known, now);
    }
    best
}

/// Takes the one out of the set that has the most to do.
#[inline(never)]
fn shrink(known: &mut Locality, now: u32) -> u32 {
    let mut most = 0u64;
    for i in 0..LOCALITY_SET {
        if let Some(load) = LOADS.get(known.servers[i][0]) {
            let cost = overhead(load) << 3 | i as u64;
            most = if cost > most { cost } else { most };
        }
    }
    known.servers[(opaque(most) & 7) as usize] = [NOBODY, 0];
    known.changed = now;
    0
}
