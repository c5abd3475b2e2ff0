//! New flows whose server is chosen: they become known.
//!
//! Decides: whether the server still takes the flow, and what its entries say. Where entries lie
//! is decided in `crate::flow::insert`.

use nines_abi::{
    Packet, Server, Via, DROP_MIDDLE, DROP_NO_PORT, DROP_NO_SERVER, FORWARD_NAT, NAMED,
    PROGRAM_DELIVER, PROGRAM_INSERT_NAT, PROGRAM_INSERT_REPLY, PROGRAM_SOURCE_ADDRESS, SERVER_UP,
    SERVICE_ONE_PACKET, SERVICE_POOL, UNPLACED, WORD_MIDDLE,
};

use crate::{
    flow::{
        insert::{insert, sweep, New},
        state, tcp_sequence,
    },
    maps::{count_connection, count_drop, SERVICES},
    nat::{
        full_nat::{self, snat_port},
        remember_reply,
    },
    parse::packet::{begins, key, opens, RST, UDP},
    schedule::persistence,
    service::{
        server::{is_full_nat, owner, server},
        ServiceRef,
    },
    verdict::{again, Verdict},
};

/// A packet for which a server is chosen, and of whose flow nobody knows yet. `apart`: by NAT
/// [`insert_nat`] goes on, for two entries are much for the verifier to walk. At XDP the packet
/// counts more.
#[inline(always)]
pub fn insert_flow(packet: &mut Packet, apart: bool) -> Verdict {
    let (Some(server), Some(service)) = (server(packet.chosen), SERVICES.get(packet.service))
    else {
        return Verdict::Drop(DROP_NO_SERVER);
    };
    let of = ServiceRef { id: packet.service, service };
    let (generation, owner) = owner(server);
    let takes = server.state == SERVER_UP || packet.asked == NAMED;
    if owner != of.id || (!takes && begins(packet)) {
        return again(packet);
    }
    if is_full_nat(server) {
        if of.service.flags & SERVICE_POOL != 0 {
            return Verdict::Go(PROGRAM_SOURCE_ADDRESS);
        }
        packet.via.source = 0;
        return snat_port::search(packet);
    }
    let by_nat = server.forward == FORWARD_NAT;
    if apart && by_nat {
        return Verdict::Go(PROGRAM_INSERT_NAT);
    }
    enter(packet, of, server, generation, !apart && by_nat)
}

/// The same by NAT; [`insert_flow`] has looked.
#[inline(always)]
pub fn insert_nat(packet: &mut Packet) -> Verdict {
    let (Some(server), Some(service)) = (server(packet.chosen), SERVICES.get(packet.service))
    else {
        return Verdict::Drop(DROP_NO_SERVER);
    };
    let (generation, owner) = owner(server);
    if owner != packet.service || server.forward != FORWARD_NAT {
        return again(packet);
    }
    enter(packet, ServiceRef { id: packet.service, service }, server, generation, true)
}

/// The flow is in the table from now on; with `answers`, that of its server's answers, too.
#[inline(always)]
fn enter(
    packet: &mut Packet,
    of: ServiceRef,
    server: &Server,
    generation: u32,
    answers: bool,
) -> Verdict {
    let (clock, slot, flow) = (packet.clock, packet.chosen, key(packet));
    let mut new = New {
        hash: packet.hash,
        server: slot,
        generation,
        seen: clock,
        now: clock,
        syncs: 0,
        word: u32::from(state::first(packet, state::direction(server))),
        via: tcp_sequence::first(packet),
    };
    // One that has shown nothing: it takes no other's place, and nobody is told of it.
    let middle = packet.middle & 1;
    (new.word, new.syncs) = (new.word | middle * WORD_MIDDLE as u32, 1 - middle);
    if packet.middle == 0 {
        persistence::hold(packet, of, slot, generation, clock);
    } else if packet.flags & RST != 0 {
        // Nothing follows.
        return Verdict::Go(PROGRAM_DELIVER);
    }
    let one_packet = of.service.flags & SERVICE_ONE_PACKET != 0 && packet.proto == UDP;
    if !one_packet && insert(&flow, &new) == 0 {
        // Its next packet is scheduled again; by hash that gives the same server.
        count_drop(UNPLACED);
    }
    if answers {
        new.via = Via { addr: packet.dst[3], port: packet.dport, source: 0 };
        remember_reply(packet, server, &mut new);
    }
    sweep(clock);
    count_connection(slot, server.service);
    Verdict::Go(PROGRAM_DELIVER)
}

/// The same by full NAT; [`insert_flow`] has looked. `number`: reads its TCP sequence number.
#[inline(always)]
pub fn insert_full_nat(packet: &mut Packet, number: impl FnOnce(&Packet) -> u32) -> Verdict {
    let clock = packet.clock;
    let (Some(server), Some(service)) = (server(packet.chosen), SERVICES.get(packet.service))
    else {
        return Verdict::Drop(DROP_NO_SERVER);
    };
    let (generation, owner) = owner(server);
    if owner != packet.service {
        return again(packet);
    }
    let mut new = New {
        hash: packet.hash,
        server: packet.chosen,
        generation,
        seen: clock,
        now: clock,
        syncs: 0,
        word: u32::from(state::first(packet, state::BOTH)),
        via: Via { addr: tcp_sequence::first(packet).addr, ..packet.via },
    };
    let middle = packet.middle & 1;
    (new.word, new.syncs) = (new.word | middle * WORD_MIDDLE as u32, 1 - middle);
    if server.proxy != 0 {
        // In the middle nobody can say whether its server counts a header or not.
        if !opens(packet) {
            return Verdict::Drop(DROP_MIDDLE);
        }
        new.via.addr = number(packet);
    }
    if !full_nat::begin(&key(packet), server, &mut new) {
        return Verdict::Drop(DROP_NO_PORT);
    }
    if packet.middle == 0 {
        let of = ServiceRef { id: packet.service, service };
        persistence::hold(packet, of, packet.chosen, generation, clock);
    }
    sweep(clock);
    count_connection(packet.chosen, server.service);
    Verdict::Go(PROGRAM_INSERT_REPLY)
}
