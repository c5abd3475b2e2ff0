//! Which server a new flow gets.
//!
//! Decides: the pick by turn, by hash, or by what the servers carry at this moment. Definitions are
//! IPVS's (net/netfilter/ipvs/ip_vs_*.c); tables of picks are made in user space.

use nines_abi::{
    Server, Service, Template, TemplateKey, SCAN_MAX, SCHED_DH, SCHED_HASH, SCHED_LC, SCHED_OVF,
    SCHED_SH, SCHED_TURN, SERVER_UP,
};

use crate::{
    atomic,
    flows::Seen,
    maps::{LOADS, PICKS, SERVERS, TEMPLATES, TURNS},
    packet::Packet,
};

const NOBODY: u32 = u32::MAX;

/// The server for a packet that has no flow; `fresh`: it begins one (else it comes in the middle
/// of one that this director does not know). `None`: nobody takes it.
#[inline(always)]
pub fn choose(
    packet: &Packet,
    service: &Service,
    hash: u64,
    fresh: bool,
) -> Option<(u32, &'static Server)> {
    if service.table_len == 0 {
        return None;
    }
    let how = service.scheduler;
    let slot = if fresh && how >= SCHED_LC && how <= SCHED_OVF {
        scan(service.table_base, service.table_len, how)
    } else {
        let turn = match how {
            SCHED_TURN if fresh => atomic::fetch_add(TURNS.get_ptr_mut(service.id)?, 1) as u32,
            SCHED_DH => spread(fold(&packet.dst)),
            SCHED_SH => spread(fold(&packet.src)),
            // A TCP packet in mid-flow without an entry (this director took over, or the entry
            // was evicted) goes by hash under every scheduler: all directors agree, and with
            // Maglev it is the server that has the connection.
            SCHED_HASH | _ => hash as u32,
        };
        *PICKS.get(service.table_base + turn % service.table_len)?
    };
    let server = SERVERS.get(slot)?;
    // The region of a table that was replaced this instant may be written again: never leave the
    // service. Between two updates of the table a server may already be drained; the table, which
    // follows in microseconds, still names it: no new flow goes there.
    if server.service != service.id || (server.state != SERVER_UP && fresh) {
        return None;
    }
    Some((slot, server))
}

#[inline(always)]
fn template_of(packet: &Packet, service: &Service) -> TemplateKey {
    let (a, m) = (&packet.src, &service.mask);
    let client = [a[0] & m[0], a[1] & m[1], a[2] & m[2], a[3] & m[3]];
    TemplateKey { client, service: service.id, pad: 0 }
}

/// The server that a client's last flow went to, if the service remembers and it takes new flows:
/// one that is drained or down lets go of its clients (IPVS: expire_quiescent_template).
#[inline(always)]
pub fn held(packet: &Packet, service: &Service, now: u32) -> Option<(u32, &'static Server)> {
    if service.persist == 0 {
        return None;
    }
    let template = unsafe { TEMPLATES.get(&template_of(packet, service)) }?;
    let server = SERVERS.get(template.server)?;
    let valid = template.generation == server.generation
        && server.service == service.id
        && server.state == SERVER_UP
        // Another processor's reading of the clock may be a little ahead.
        && now.wrapping_add(2).wrapping_sub(template.seen) <= service.persist.saturating_add(2);
    valid.then_some((template.server, server))
}

/// A client is still there: one of its flows goes on. An old flow to a server that the client has
/// since left changes nothing.
#[inline(always)]
pub fn renew(packet: &Packet, service: &Service, flow: &Seen, now: u32) {
    if service.persist == 0 {
        return;
    }
    if let Some(template) = TEMPLATES.get_ptr_mut(&template_of(packet, service)) {
        let template = unsafe { &mut *template };
        if (template.server, template.generation) == (flow.server, flow.generation) {
            template.seen = now;
        }
    }
}

/// Remembers where a client's flow went.
#[inline(always)]
pub fn hold(packet: &Packet, service: &Service, server: u32, generation: u32, now: u32) {
    if service.persist != 0 {
        let template = Template { server, generation, seen: now, pad: 0 };
        // A full map forgets another client; a failed insert, this one.
        let _ = TEMPLATES.insert(&template_of(packet, service), &template, 0);
    }
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

/// The server with the smallest cost, the first of equals; compared without division.
#[inline(never)]
fn scan(base: u32, len: u32, how: u32) -> u32 {
    let [over, one_more, lacks, by_weight, idle_first, no_overflow] =
        WEIGHS[(atomic::opaque(u64::from(how)) & 7) as usize];
    let (mut best, mut least, mut share) = (NOBODY, 0u64, 0u64);
    for i in 0..SCAN_MAX {
        if i >= len {
            break;
        }
        let Some(&slot) = PICKS.get(base + i) else {
            break;
        };
        let (Some(server), Some(load)) = (SERVERS.get(slot), LOADS.get(slot)) else {
            continue;
        };
        let weight = u64::from(server.weight);
        if server.state != SERVER_UP || weight == 0 || no_overflow * load.active > weight {
            continue;
        }
        let overhead = (load.active << 8) + load.active + load.inactive;
        let mut cost =
            over * overhead + one_more * (load.active + 1) + lacks * (u64::from(u32::MAX) - weight);
        // No branch: see WEIGHS.
        cost *= 1 - atomic::opaque(idle_first & (load.active == 0) as u64);
        let by = 1 + by_weight * (weight - 1);
        if best == NOBODY || cost * share < least * by {
            (best, least, share) = (slot, cost, by);
        }
    }
    best
}
