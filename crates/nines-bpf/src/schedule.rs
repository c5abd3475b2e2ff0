//! Which server a new flow gets.
//!
//! Decides: the pick by turn, by hash, or by what the servers carry at this moment. Definitions are
//! IPVS's (net/netfilter/ipvs/ip_vs_*.c); tables of picks are made in user space. What clients had
//! before is in `schedule/persistence.rs`, what destinations had in `schedule/locality.rs`.

pub mod locality;
pub mod persistence;

use nines_abi::{
    hash_of, Load, Packet, Server, Service, SCAN_MAX, SCHED_DH, SCHED_MH, SCHED_SH, SCHED_WLC,
    SERVER_UP, SERVICE_LIVE, SERVICE_PORT,
};

use crate::{
    atomic::{opaque, read_once, write_once, Word},
    kernel,
    maps::{pick, LOADS, RR_CURSOR, SERVERS},
    parse::packet::key,
    service::ServiceRef,
};

pub const NOBODY: u32 = u32::MAX;
/// Entries looked at by turn, first one by one, then far apart, before nobody takes the flow; only
/// servers over their threshold are passed over.
const TURN_TRIES: u32 = 64;
const FAR_TRIES: u32 = 16;
/// Entries that sh and mh look at with fallback (ip_vs_sh.c looks at all of its 256).
const FALLBACK_TRIES: u32 = 64;

/// A service's table of picks as one look sees it: [`Service::table`].
#[derive(Clone, Copy)]
pub struct Table(u64);

impl Table {
    /// One load: halves of two tables would be no table.
    #[inline(always)]
    pub fn of(service: &Service) -> Self {
        Self(read_once(&service.table))
    }

    /// For a packet, which notes it: what a program keeps at hand while it walks through servers
    /// the verifier would tell apart for each of them.
    #[inline(always)]
    pub fn noted(service: &Service, packet: &mut Packet) -> Self {
        let table = Self::of(service);
        write_once(&mut packet.table, table.0);
        table
    }

    /// Whether the service has another one than the packet noted, or has left.
    #[inline(always)]
    pub fn is_replaced(service: &Service, packet: &Packet) -> bool {
        let (flags, noted) = (read_once(&service.flags), read_once(&packet.table));
        Self::of(service).0 != noted || flags & SERVICE_LIVE == 0
    }

    #[inline(always)]
    pub fn base(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline(always)]
    pub fn len(self) -> u32 {
        self.0 as u32
    }
}

/// The server in turn, or by a hash, for a packet that has no flow; `fresh`: it begins one. Every
/// TCP packet in mid-flow goes by hash, whatever the scheduler (this director took over, or the
/// entry was evicted): all directors agree.
#[inline(always)]
pub fn by_turn_or_hash(packet: &Packet, of: ServiceRef, table: Table, fresh: bool) -> u32 {
    let service = of.service;
    let (base, len, how) = (table.base(), table.len(), service.scheduler);
    if len == 0 {
        return NOBODY;
    }
    if how >= SCHED_DH {
        hashed(of.id, table, value_of(packet, service), how, fresh)
    } else if fresh {
        by_turn(base, len, of.id)
    } else {
        pick(base.wrapping_add(hash_of(&key(packet)) as u32 % len)).unwrap_or(NOBODY)
    }
}

/// What a packet's server is chosen by.
#[inline(always)]
fn value_of(packet: &Packet, service: &Service) -> u32 {
    let port =
        if service.flags & SERVICE_PORT != 0 { u32::from(u16::from_be(packet.sport)) } else { 0 };
    match service.scheduler {
        SCHED_DH => fold(&packet.dst),
        SCHED_SH | SCHED_MH => fold(&packet.src).wrapping_add(port),
        _ => hash_of(&key(packet)) as u32,
    }
}

/// The server of a packet's hash, or the next one that takes it.
#[inline(always)]
pub fn by_hash_or_next(packet: &Packet, service: &Service, table: Table) -> u32 {
    let (value, how) = (value_of(packet, service), service.scheduler);
    let slot = hashed(packet.service, table, value, how, true);
    if slot != NOBODY {
        return slot;
    }
    next(packet.service, table, value, how)
}

/// The one that costs least.
#[inline(always)]
pub fn by_weighing(service: &Service, table: Table) -> u32 {
    scan(table, service.scheduler)
}

/// Zero if the server takes a new flow of this service. One number, for each condition of its own
/// would double what the verifier walks in a loop over servers.
#[inline(always)]
pub fn hindrance(server: &Server, load: &Load, id: u32) -> u64 {
    const _: () = assert!(SERVER_UP == 0);
    u64::from(server.service ^ id) | u64::from(server.state) | load.overloaded
}

#[inline(always)]
fn known(slot: u32) -> Option<(&'static Server, &'static Load)> {
    Some((SERVERS.get(slot)?, LOADS.get(slot)?))
}

#[inline(never)]
fn by_turn(base: u32, len: u32, id: u32) -> u32 {
    let Some(turns) = Word::in_array(&RR_CURSOR, id) else {
        return NOBODY;
    };
    if len == 0 {
        return NOBODY;
    }
    let turn = turns.fetch_add(1);
    for i in 0..TURN_TRIES + FAR_TRIES {
        // Far ahead at last, for a heavy server has long runs of entries.
        let far = i.saturating_sub(TURN_TRIES) * (len / FAR_TRIES + 1);
        let passed = u64::from(i) + u64::from(far);
        let at = turn.wrapping_add(passed) % u64::from(len);
        let Some(slot) = pick(base.wrapping_add(at as u32)) else {
            return NOBODY;
        };
        let Some((server, load)) = known(slot) else {
            return NOBODY;
        };
        if hindrance(server, load, id) == 0 {
            if passed > 0 {
                turns.fetch_add(passed);
            }
            return slot;
        }
    }
    // Nothing was taken: the turn stays where it was, as there.
    turns.fetch_add(u64::MAX);
    NOBODY
}

#[inline(always)]
fn fold(addr: &[u32; 4]) -> u32 {
    // IPv4 is mapped: the words before it would disturb IPVS's value.
    if addr[0] == 0 && addr[1] == 0 && addr[2] == 0xffffu32.to_be() {
        return u32::from_be(addr[3]);
    }
    u32::from_be(addr[0] ^ addr[1] ^ addr[2] ^ addr[3])
}

/// hash_32 to eight bits (include/linux/hash.h).
#[inline(always)]
fn spread(value: u32) -> u32 {
    value.wrapping_mul(0x61c8_8647) >> 24
}

/// Entry of a hash; `offset`: of those behind it, by the scheduler's own order.
#[inline(always)]
fn entry(how: u32, value: u32, offset: u32) -> u32 {
    match how {
        SCHED_SH => offset.wrapping_add(spread(value)) & 255,
        SCHED_DH => spread(value),
        SCHED_MH => nines_abi::hsiphash(value.wrapping_add(offset), nines_abi::MH_KEY_1),
        _ => value,
    }
}

/// The server of a hash's entry, if it takes the flow or the flow is not fresh.
#[inline(never)]
fn hashed(id: u32, table: Table, value: u32, how: u32, fresh: bool) -> u32 {
    let (base, len) = (table.base(), table.len());
    if len == 0 {
        return NOBODY;
    }
    let Some(slot) = pick(base.wrapping_add(entry(how, value, 0) % len)) else {
        return NOBODY;
    };
    let Some((server, load)) = known(slot) else {
        return NOBODY;
    };
    if fresh && hindrance(server, load, id) != 0 {
        return NOBODY;
    }
    slot
}

/// The next one behind it whose server takes the flow.
#[inline(never)]
fn next(id: u32, table: Table, value: u32, how: u32) -> u32 {
    let (base, len) = (table.base(), table.len());
    if len == 0 {
        return NOBODY;
    }
    let first = entry(how, value, 0) % len;
    for offset in 0..FALLBACK_TRIES {
        let at = entry(how, value, first.wrapping_add(offset) % len) % len;
        let Some(slot) = pick(base.wrapping_add(at)) else {
            return NOBODY;
        };
        let Some((server, load)) = known(slot) else {
            return NOBODY;
        };
        if hindrance(server, load, id) == 0 {
            return slot;
        }
    }
    NOBODY
}

/// What a scheduler weighs: factors of overhead, of active flows and this one, of what the weight
/// lacks; whether the sum is by weight; whether an idle server costs nothing; whether one with more
/// active flows than its weight is passed over. A table, not a `match`: the verifier would walk the
/// loop below once for every scheduler.
const WEIGHS: [[u64; 6]; 8] = [
    [0; 6],
    [0; 6],
    // lc, wlc
    [1, 0, 0, 0, 0, 0],
    [1, 0, 0, 1, 0, 0],
    // sed, nq
    [0, 1, 0, 1, 0, 0],
    [0, 1, 0, 1, 1, 0],
    // fo, ovf
    [0, 0, 1, 0, 0, 0],
    [0, 0, 1, 0, 0, 1],
];

/// What a flow more costs there (include/net/ip_vs.h, ip_vs_dest_conn_overhead).
#[inline(always)]
pub fn overhead(load: &Load) -> u64 {
    (load.active << 8) + load.active + load.inactive
}

/// The server with the smallest cost, the first of equals; compared without division.
#[inline(never)]
fn scan(table: Table, how: u32) -> u32 {
    let (base, len) = (table.base(), table.len());
    let [over, one_more, lacks, by_weight, idle_first, no_overflow] =
        WEIGHS[(opaque(u64::from(how)) & 7) as usize];
    let (mut best, mut least, mut share) = (NOBODY, 0u64, 0u64);
    for i in 0..SCAN_MAX {
        if i >= len {
            break;
        }
        let Some(slot) = pick(base + i) else {
            break;
        };
        let Some((server, load)) = known(slot) else {
            continue;
        };
        let weight = u64::from(server.weight);
        if hindrance(server, load, server.service) != 0
            || weight == 0
            || no_overflow * load.active > weight
        {
            continue;
        }
        let mut cost = over * overhead(load)
            + one_more * (load.active + 1)
            + lacks * (u64::from(u32::MAX) - weight);
        // No branch: see WEIGHS.
        cost *= 1 - opaque(idle_first & (load.active == 0) as u64);
        let by = 1 + by_weight * (weight - 1);
        if best == NOBODY || cost * share < least * by {
            (best, least, share) = (slot, cost, by);
        }
    }
    best
}

/// Weighted least connection, for the schedulers that fall back on it.
#[inline(always)]
pub fn least(table: Table) -> u32 {
    scan(table, SCHED_WLC)
}

/// Two servers at random by weight, the one with less to do (ip_vs_twos.c).
#[inline(always)]
pub fn two_choices(table: Table) -> u32 {
    let drawn = draw_two(table);
    let (one, two) = (drawn as u32, (drawn >> 32) as u32);
    let (Some((first, load)), Some((second, other))) = (known(one), known(two)) else {
        return one;
    };
    let (first, second) = (u64::from(first.weight), u64::from(second.weight));
    if second * overhead(load) > first * overhead(other) {
        two
    } else {
        one
    }
}

/// Two draws in one walk, a half each: a server takes the place of who was drawn before it as often
/// as its weight is of all weights so far, which gives each its share of the whole. The first has
/// one more, as there, where the random number may be the sum itself.
#[inline(never)]
fn draw_two(table: Table) -> u64 {
    let (base, len) = (table.base(), table.len());
    let (mut drawn, mut total, mut more) = (u64::MAX, 0u64, 1u64);
    for i in 0..SCAN_MAX {
        if i >= len {
            break;
        }
        let Some(slot) = pick(base + i) else { break };
        let Some((server, load)) = known(slot) else { break };
        if hindrance(server, load, server.service) != 0 {
            continue;
        }
        let share = u64::from(server.weight) + more;
        more = 0;
        total += share;
        // No branch: see WEIGHS. Weights of 32 bits and as many servers leave 24 for the draw.
        let takes = || {
            let random = u64::from(kernel::random()) >> 8;
            let ahead = (random.wrapping_mul(total) >> 24).wrapping_sub(share);
            opaque((ahead as i64 >> 63) as u64)
        };
        let replaced = takes() >> 32 | takes() << 32;
        drawn = drawn & !replaced | (u64::from(slot) << 32 | u64::from(slot)) & replaced;
    }
    drawn
}
