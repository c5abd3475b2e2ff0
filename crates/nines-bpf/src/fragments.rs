//! Packets in fragments: those without ports go where the first one went.
//!
//! Decides: what is remembered of a first fragment, and for how long; that no byte of a packet goes
//! to its server twice (RFC 5722): where fragments overlap, one of them lies about what filters
//! saw. A fragment that comes before its first one goes up the stack, as those of packets that are
//! nobody's.

use nines_abi::{
    Fragment, FragmentKey, Packet, Server, Via, DROP_FRAGMENT, DROP_GUARD, FRAGMENT_FIRST,
    FRAGMENT_UNITS, PIECES, PROGRAM_FULL_NAT,
};

use crate::{
    addresses, full_nat,
    maps::{count, FRAGMENTS, SERVERS},
    nat::known_as,
    packet::halves_of,
    pipeline::{self, Verdict},
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
        None if full_nat::is(server) => packet.via,
        None => Via { addr: packet.dst[3], port: packet.dport, source: 0 },
    };
    let (reply, generation) = (reply.is_some() as u32, server.generation);
    let mut pieces = [0; PIECES];
    pieces[0] = packet.piece;
    let of = Fragment { server: slot, generation, clock: packet.clock, reply, via, pieces };
    // Without room its other fragments are nobody's.
    let _ = FRAGMENTS.insert(key(packet), of, 0);
}

/// Notes the bytes of a fragment beside those that went before; 0: some of them did, or too many
/// parts lie apart. A function of its own: the verifier forgets on return which it was.
#[inline(never)]
fn is_new(pieces: &mut [u32; PIECES], this: u32) -> u32 {
    let (from, to) = (this >> 16, this & 0xffff);
    let (mut before, mut behind, mut free) = (PIECES, PIECES, PIECES);
    for n in 0..PIECES {
        let (first, end) = (pieces[n] >> 16, pieces[n] & 0xffff);
        if from < end && first < to {
            return 0;
        }
        if end == 0 {
            free = n;
        } else if end == from {
            before = n;
        } else if first == to {
            behind = n;
        }
    }
    let (mut from, mut to) = (from, to);
    let mut place = free;
    if before < PIECES {
        (from, place) = (pieces[before] >> 16, before);
    }
    if behind < PIECES {
        to = pieces[behind] & 0xffff;
        if place == before && before < PIECES {
            pieces[behind] = 0;
        } else {
            place = behind;
        }
    }
    if place >= PIECES {
        return 0;
    }
    pieces[place] = from << 16 | to;
    1
}

/// A fragment without ports.
#[inline(always)]
pub fn follow(packet: &mut Packet, now: u64) -> Verdict {
    let Some(first) = FRAGMENTS.get_ptr_mut(key(packet)) else {
        return Verdict::Pass;
    };
    let first = unsafe { &mut *first };
    let Some(server) = SERVERS.get(first.server) else {
        return Verdict::Pass;
    };
    if first.generation != server.generation
        || packet.clock.wrapping_add(2).wrapping_sub(first.clock) > FRAGMENT_UNITS + 2
    {
        return Verdict::Pass;
    }
    if is_new(&mut first.pieces, packet.piece) == 0 {
        return Verdict::Drop(DROP_FRAGMENT);
    }
    if full_nat::is(server) {
        (packet.chosen, packet.via, packet.answer) = (first.server, first.via, first.reply);
        packet.proxied = 0;
    }
    if first.reply == 0 {
        return pipeline::deliver_to(packet, first.server, true);
    }
    if full_nat::is(server) {
        count(first.server, server.service, packet.bytes, true);
        return Verdict::Go(PROGRAM_FULL_NAT);
    }
    let via = first.via;
    if addresses::silent(nines_abi::halves(known_as(server, &via).0), now) {
        return Verdict::Drop(DROP_GUARD);
    }
    count(first.server, server.service, packet.bytes, true);
    Verdict::Reply(server, via)
}
