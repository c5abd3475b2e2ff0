//! Full NAT: the server takes the VIP for its client, so answers come back whatever its routes are.
//!
//! Decides: which port a flow has beside the VIP, and whose an answer is. Two entries as with NAT:
//! the client's, which has the port; that of the answers, which says where the client's is.

use nines_abi::{
    hash_of, state_of, Flow, Packet, Server, Tail, Via, FORWARD_FULL_NAT, FULL_NAT_PORTS,
    PROGRAM_FULL, PROGRAM_TELL_FULL, WORD_FULL, WORD_REPLY,
};

use crate::{
    decide::{deliver, goes_on, key, words, Verdict},
    flows::{self, New, Seen},
    fragments,
    maps::{count, SERVERS},
    nat::{matters, port_of},
    packet::ERROR,
    states,
};

/// Ports tried for a flow.
const TRIES: u32 = 16;

/// What a packet gets in place of its addresses and ports.
pub struct Ends {
    pub src: [u32; 4],
    pub dst: [u32; 4],
    pub sport: u16,
    pub dport: u16,
}

#[inline(always)]
pub fn is(server: &Server) -> bool {
    server.forward == FORWARD_FULL_NAT
}

/// Key of the answers to a flow that has this port.
#[inline(always)]
fn answers(flow: &Flow, server: &Server, port: u16) -> Flow {
    let sport = port_of(server, flow.dport);
    Flow { src: words(&server.addr), dst: flow.dst, sport, dport: port, proto: flow.proto }
}

/// Whether a flow that lives has these answers.
#[inline(never)]
fn taken(answers: &Flow, clock: u32) -> u32 {
    match flows::find(answers, hash_of(answers)) {
        Some((_, seen)) if !flows::expired(seen.word, clock) => 1,
        Some((tail, seen)) => !flows::retire(tail, seen) as u32,
        None => 0,
    }
}

/// A port beside the VIP that no other flow to this server has, network byte order; 0: none found.
#[inline(never)]
fn free_port(flow: &Flow, server: &Server, hash: u64, clock: u32) -> u32 {
    const PORTS: u32 = 65_536 - FULL_NAT_PORTS as u32;
    let mut draw = (hash >> 16) as u32;
    for _ in 0..TRIES {
        let port = (u32::from(FULL_NAT_PORTS) + draw % PORTS) as u16;
        if taken(&answers(flow, server, port.to_be()), clock) == 0 {
            return u32::from(port.to_be());
        }
        draw = draw.wrapping_mul(0x9e37_79b1).wrapping_add(0x7f4a_7c15);
    }
    0
}

/// A new flow: the client's entry, with a port; 0: it found no place or no port. [`tell`] makes the
/// other one.
#[inline(always)]
pub fn begin(flow: &Flow, server: &Server, new: &mut New) -> u32 {
    let port = free_port(flow, server, new.hash, new.now) as u16;
    new.word |= WORD_FULL as u32;
    new.via = Via { addr: 0, port, pad: 0 };
    (port != 0 && flows::insert(flow, new) != 0) as u32
}

/// The entry of answers to the flow at `tail`, whose port `new` has.
#[inline(always)]
fn put_answers(key: &Flow, new: &mut New, tail: *mut Tail) -> u32 {
    new.hash = hash_of(key);
    new.word |= (WORD_FULL | WORD_REPLY) as u32;
    new.tells = 0;
    new.via.addr = flows::place_of(tail);
    (flows::insert(key, new) == 1) as u32
}

/// The same of a flow that another director told of: whatever had its port here is older.
#[inline(always)]
pub fn learn(flow: &Flow, server: &Server, new: &mut New) {
    let answers = answers(flow, server, new.via.port);
    if let Some((tail, seen)) = flows::find(&answers, hash_of(&answers)) {
        flows::retire(tail, seen);
    }
    if let Some((tail, _)) = flows::find(flow, new.hash) {
        put_answers(&answers, new, tail);
    }
}

/// A packet of a known flow, from the client.
#[inline(always)]
pub fn onward(
    packet: &mut Packet,
    tail: *mut Tail,
    seen: &Seen,
    server: &'static Server,
    counts: bool,
) -> Verdict {
    let Some(via) = flows::via(tail, seen) else {
        return Verdict::Pass;
    };
    let state = states::next(packet, states::BOTH, state_of(seen.word));
    if matters(packet, seen, state, packet.clock) {
        return Verdict::Go(PROGRAM_TELL_FULL);
    }
    (packet.chosen, packet.via, packet.answer) = (seen.server, via, 0);
    deliver(packet, seen.server, server, counts)
}

/// A packet that both entries must know, of either side.
#[inline(always)]
pub fn tell(packet: &mut Packet, mark: u32, counts: bool) -> Verdict {
    let Some((tail, seen)) = flows::find(&key(packet), packet.hash) else {
        return Verdict::Pass;
    };
    let (Some(via), Some(server)) = (flows::via(tail, &seen), SERVERS.get(seen.server)) else {
        return Verdict::Pass;
    };
    let clock = packet.clock;
    let answer = seen.word & WORD_REPLY != 0;
    let side = if answer { states::ANSWER } else { states::BOTH };
    let state = states::next(packet, side, state_of(seen.word));
    (packet.chosen, packet.via, packet.answer) = (seen.server, via, u64::from(answer));
    if answer {
        keep_client(packet, &via, clock);
        flows::touch(tail, seen, state, clock);
        if counts {
            return answers_with(packet, server, &via);
        }
        return Verdict::Go(PROGRAM_FULL);
    }
    if keep_answers(packet, tail, &seen, via.port) == 0 {
        flows::retire(tail, seen);
        return Verdict::New;
    }
    goes_on(packet, mark, tail, &seen, state, clock);
    deliver(packet, seen.server, server, counts)
}

/// Both entries live as long. One that had to give way comes back; 0: its port is another flow's by
/// now.
#[inline(always)]
fn keep_answers(packet: &Packet, tail: *mut Tail, seen: &Seen, port: u16) -> u32 {
    let Some(server) = SERVERS.get(seen.server) else {
        return 0;
    };
    let (sport, clock) = (port_of(server, packet.dport), packet.clock);
    let proto = u32::from(packet.proto);
    let key = Flow { src: words(&server.addr), dst: packet.dst, sport, dport: port, proto };
    let Some((there, other)) = flows::find(&key, hash_of(&key)) else {
        let mut new = New {
            hash: 0,
            server: seen.server,
            generation: seen.generation,
            seen: clock,
            now: clock,
            tells: 0,
            word: u32::from(states::next(packet, states::BOTH, state_of(seen.word))),
            via: Via { addr: 0, port, pad: 0 },
        };
        return put_answers(&key, &mut new, tail);
    };
    let ours = flows::via(there, &other).is_some_and(|via| via.addr == flows::place_of(tail));
    if ours {
        let state = states::next(packet, states::BOTH, state_of(other.word));
        flows::touch(there, other, state, clock);
    }
    ours as u32
}

/// An answer of a server, or an error about a packet that the server was sent.
#[inline(always)]
pub fn answer(packet: &mut Packet, tail: *mut Tail, seen: &Seen, counts: bool) -> Verdict {
    let Some(server) = SERVERS.get(seen.server) else {
        return Verdict::Pass;
    };
    if seen.generation != server.generation || flows::expired(seen.word, packet.clock) {
        return Verdict::Pass;
    }
    let Some(via) = flows::via(tail, seen) else {
        return Verdict::Pass;
    };
    (packet.chosen, packet.via, packet.answer) = (seen.server, via, 1);
    if packet.kind != ERROR {
        let state = states::next(packet, states::ANSWER, state_of(seen.word));
        if matters(packet, seen, state, packet.clock) {
            return Verdict::Go(PROGRAM_TELL_FULL);
        }
        if counts {
            return answers_with(packet, server, &via);
        }
    }
    Verdict::Go(PROGRAM_FULL)
}

#[inline(always)]
fn answers_with(packet: &Packet, server: &Server, via: &Via) -> Verdict {
    count(packet.chosen, server.service, packet.bytes, true);
    fragments::note(packet, packet.chosen, server.generation, Some(via));
    Verdict::Go(PROGRAM_FULL)
}

/// The state that counts (the client's entry has it) follows what the server says.
#[inline(always)]
fn keep_client(packet: &Packet, via: &Via, clock: u32) -> u32 {
    let Some((tail, seen)) = flows::client_of(via.addr, via.port) else {
        return 0;
    };
    let state = states::next(packet, states::ANSWER, state_of(seen.word));
    flows::touch(tail, seen, state, clock);
    1
}

/// What the packet gets; `None`: its flow has just ended.
#[inline(always)]
pub fn ends(packet: &Packet, server: &Server) -> Option<Ends> {
    if packet.answer == 0 {
        return Some(Ends {
            src: packet.dst,
            dst: words(&server.addr),
            sport: packet.via.port,
            dport: port_of(server, packet.dport),
        });
    }
    let (tail, seen) = flows::client_of(packet.via.addr, packet.via.port)?;
    let flow = flows::key_of(tail, &seen)?;
    // The VIP is what the server answered to: another flow has the place otherwise.
    let same = flow.dst[0] ^ packet.dst[0] | flow.dst[3] ^ packet.dst[3];
    (same == 0 && seen.server == packet.chosen).then_some(Ends {
        src: flow.dst,
        dst: flow.src,
        sport: flow.dport,
        dport: flow.sport,
    })
}
