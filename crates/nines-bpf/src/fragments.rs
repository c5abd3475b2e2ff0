//! Packets in fragments: those without ports go where the first one went.
//!
//! Decides: what is remembered of a first fragment, and for how long. A fragment that comes before
//! its first one goes up the stack, as those of packets that are nobody's.

use nines_abi::{
    Fragment, FragmentKey, Packet, Server, Via, DROP_GUARD, FRAGMENT_FIRST, FRAGMENT_UNITS,
    PROGRAM_FULL,
};

use crate::{
    decide::{self, Verdict},
    full,
    maps::{count, FRAGMENTS, SERVERS},
    nat::known_as,
    packet::halves_of,
    places,
};

#[inline(always)]
fn key(packet: &Packet) -> FragmentKey {
    let ([a, b], [c, d]) = (halves_of(&packet.src), halves_of(&packet.dst));
    let words = [a, b, c, d, u64::from(packet.id) | u64::from(packet.proto) << 32];
    unsafe { core::mem::transmute::<[u64; 5], FragmentKey>(words) }
}

/// A packet goes to (or, `reply`, comes from) the server in this slot.
#[inline(always)]
pub fn note(packet: &Packet, slot: u32, server: &Server, reply: Option<&Via>) {
    if packet.fragment == FRAGMENT_FIRST {
        remember(packet, slot, server, reply);
    }
}

#[inline(always)]
fn remember(packet: &Packet, slot: u32, server: &Server, reply: Option<&Via>) {
    let via = match reply {
        Some(via) => *via,
        None if full::is(server) => packet.via,
        None => Via { addr: packet.dst[3], port: packet.dport, source: 0 },
    };
    let (reply, generation) = (reply.is_some() as u32, server.generation);
    let of = Fragment { server: slot, generation, clock: packet.clock, reply, via };
    // Without room its other fragments are nobody's.
    let _ = FRAGMENTS.insert(key(packet), of, 0);
}

/// A fragment without ports.
#[inline(always)]
pub fn follow(packet: &mut Packet, now: u64) -> Verdict {
    let Some(first) = (unsafe { FRAGMENTS.get(key(packet)) }) else {
        return Verdict::Pass;
    };
    let Some(server) = SERVERS.get(first.server) else {
        return Verdict::Pass;
    };
    if first.generation != server.generation
        || packet.clock.wrapping_add(2).wrapping_sub(first.clock) > FRAGMENT_UNITS + 2
    {
        return Verdict::Pass;
    }
    if full::is(server) {
        (packet.chosen, packet.via, packet.answer) = (first.server, first.via, first.reply);
        packet.proxied = 0;
    }
    if first.reply == 0 {
        return decide::deliver_to(packet, first.server, true);
    }
    if full::is(server) {
        count(first.server, server.service, packet.bytes, true);
        return Verdict::Go(PROGRAM_FULL);
    }
    let via = first.via;
    if places::silent(nines_abi::halves(known_as(server, &via).0), now) {
        return Verdict::Drop(DROP_GUARD);
    }
    count(first.server, server.service, packet.bytes, true);
    Verdict::Reply(server, via)
}
