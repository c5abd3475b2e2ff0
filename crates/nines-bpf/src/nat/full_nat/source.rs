//! What a server sees in place of its client by full NAT.
//!
//! Decides: which address: the VIP, or one of the service's pool; so also what the server's answers
//! look like.

use nines_abi::{halves, source_at, Flow, Packet, Server, Via, POOL_MAX};

use crate::{
    atomic::{opaque, read_once, write_once},
    guard,
    maps::{scratch, SERVICES},
    parse::packet::words,
    service::server::port_of,
};

/// What the server sees in place of the client; `None`: the address is no longer in the pool.
#[inline(always)]
pub fn source_of(server: &Server, via: &Via, vip: [u32; 4]) -> Option<[u32; 4]> {
    if via.source == 0 {
        return Some(vip);
    }
    let place = u32::from(via.source & 0xff) - 1;
    let addr = in_pool(server.service, place)?;
    (source_at(place, addr) == via.source).then_some(addr)
}

/// Puts the flow's source in place of the VIP, if it has one from the pool; false: that address is
/// no longer in the pool.
#[inline(always)]
pub fn seen_as(server: &Server, via: &Via, vip: &mut [u32; 4]) -> bool {
    via.source == 0 || put_source(server, via, vip) != 0
}

/// A function of its own, for the callers' stacks.
#[inline(never)]
fn put_source(server: &Server, via: &Via, vip: &mut [u32; 4]) -> u32 {
    match source_of(server, via, *vip) {
        Some(source) => {
            *vip = source;
            1
        }
        None => 0,
    }
}

/// An address of a service's pool.
#[inline(always)]
fn in_pool(service: u32, place: u32) -> Option<[u32; 4]> {
    let service = SERVICES.get(service)?;
    // The compiler knows the bound and would leave the mask out; the verifier needs it.
    let place = opaque(u64::from(place)) as usize & (POOL_MAX - 1);
    Some(words(&service.pool[place]))
}

/// The source of a new flow, as [`Via::source`]; `None`: no address of the pool is this director's
/// now.
#[inline(always)]
pub fn source_for(packet: &Packet) -> Option<u16> {
    let (service, now) = (packet.service, packet.read.now);
    let (_, notes) = scratch()?;
    write_once(notes, [0; 2]);
    for place in 0..POOL_MAX as u32 {
        if has(&in_pool(service, place)?, now) {
            let [here, count] = read_once(notes);
            write_once(notes, [here | 1 << place, count + 1]);
        }
    }
    let [here, count] = read_once(notes);
    let mut left = (packet.hash >> 32 & 0xffff) * count >> 16;
    for place in 0..POOL_MAX as u32 {
        let one = here >> place & 1;
        if one != 0 && left == 0 {
            return Some(source_at(place, in_pool(service, place)?));
        }
        left = opaque(left.wrapping_sub(one));
    }
    None
}

/// Whether this director may speak for a source.
#[inline(always)]
fn has(addr: &[u32; 4], now: u64) -> bool {
    let [low, high] = halves(*addr);
    low | high != 0 && !guard::silent([low, high], now)
}

/// Whether packets may go on from the source they have: [`GONE`], [`ELSEWHERE`] or 0.
#[inline(never)]
pub fn trouble(server: &Server, via: &Via, now: u64) -> u32 {
    match source_of(server, via, [0; 4]) {
        None => GONE,
        Some(addr) if has(&addr, now) => 0,
        Some(_) => ELSEWHERE,
    }
}

/// [`trouble`]: the address is no longer in the pool.
const GONE: u32 = 1;
/// [`trouble`]: another director speaks for the address.
pub const ELSEWHERE: u32 = 2;

/// Key of the answers to a flow that asks for `dport` and has this source and port.
#[inline(always)]
fn answers(server: &Server, source: [u32; 4], dport: u16, proto: u32, port: u16) -> Flow {
    let sport = port_of(server, dport);
    Flow { src: words(&server.addr), dst: source, sport, dport: port, proto }
}

/// Key of the answers to a flow whose key has the source as its destination.
#[inline(always)]
pub fn answers_of(flow: &Flow, server: &Server, port: u16) -> Flow {
    answers(server, flow.dst, flow.dport, flow.proto, port)
}

/// Key of the answers to a client's packet, with the VIP as source.
#[inline(always)]
pub fn answers_to(packet: &Packet, server: &Server, port: u16) -> Flow {
    answers(server, packet.dst, packet.dport, u32::from(packet.proto), port)
}
