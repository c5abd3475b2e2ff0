//! What is remembered of packets in fragments.
//!
//! Decides: what is kept of a first fragment, and that no byte of a packet goes to its server twice
//! (RFC 5722): where fragments overlap, one of them lies about what filters saw.

use nines_abi::{Fragment, FragmentKey, Packet, Server, Via, FRAGMENT_FIRST, PIECES};

use crate::{maps::FRAGMENTS, parse::packet::halves_of, service::server::is_full_nat};

#[inline(always)]
pub fn key(packet: &Packet) -> FragmentKey {
    let ([a, b], [c, d]) = (halves_of(&packet.src), halves_of(&packet.dst));
    let words = [a, b, c, d, u64::from(packet.id) | u64::from(packet.proto) << 32];
    // SAFETY: a `FragmentKey` is 40 bytes of integers without padding: `nines-abi` asserts its
    // size.
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
        None if is_full_nat(server) => packet.via,
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
pub fn is_new(pieces: &mut [u32; PIECES], this: u32) -> u32 {
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
