//! Fragments without ports go where the first one went.
//!
//! Decides: for how long what is remembered of a first fragment counts. A fragment that comes
//! before its first one goes up the stack, as those of packets that are nobody's.

use nines_abi::{Packet, DROP_FRAGMENT, DROP_GUARD, FRAGMENT_UNITS, PROGRAM_FULL_NAT};

use crate::{
    flow::fragments::{is_new, key},
    forward::deliver::deliver_to,
    guard,
    maps::{count, shared_lru, FRAGMENTS, SERVERS},
    service::server::{is_full_nat, known_as},
    verdict::Verdict,
};

/// A fragment without ports.
#[inline(always)]
pub fn follow(packet: &mut Packet, now: u64) -> Verdict {
    let Some(first) = shared_lru(&FRAGMENTS, &key(packet)) else {
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
    if is_new(&mut first.pieces, packet.piece) == 0 {
        return Verdict::Drop(DROP_FRAGMENT);
    }
    if is_full_nat(server) {
        (packet.chosen, packet.via, packet.answer) = (first.server, first.via, first.reply);
        packet.proxied = 0;
    }
    if first.reply == 0 {
        return deliver_to(packet, first.server, true);
    }
    if is_full_nat(server) {
        count(first.server, server.service, packet.bytes, true);
        return Verdict::Go(PROGRAM_FULL_NAT);
    }
    let via = first.via;
    if guard::silent(nines_abi::halves(known_as(server, &via).0), now) {
        return Verdict::Drop(DROP_GUARD);
    }
    count(first.server, server.service, packet.bytes, true);
    Verdict::Reply(server, via)
}
