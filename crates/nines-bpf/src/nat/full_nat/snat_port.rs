//! A source and a port for a new flow by full NAT.
//!
//! Decides: which port, and whose flow ends for it.

use nines_abi::{
    seen_of, state_of, Flow, Packet, Search, DROP_NO_PORT, EVICTED, FULL_NAT_PORTS,
    PROGRAM_INSERT_FULL_NAT, PROGRAM_SOURCE_PORT, STATE_ESTABLISHED, WORD_EARNED, WORD_MIDDLE,
};

use super::source::{answers_of, seen_as, source_for};
use crate::{
    flow::table::{self, hash_of},
    maps::{count_drop, SERVERS},
    parse::packet::key,
    verdict::{again, Verdict},
};

/// Ports tried for a flow. The kernel lets 33 programs follow one another (MAX_TAIL_CALL_CNT), each
/// try is one, and a flow begins and ends with others.
const TRIES: u32 = 16;

/// Worth of a flow whose time is over, or more; see [`in_the_way`].
const OVER: u32 = 1 << 31;
/// Worth of a port that no flow has.
const NOBODYS: u32 = u32::MAX;

/// How little the flow that has these answers is worth: not established, or no more, is less than
/// all; then what was silent for long. [`OVER`] and more: its time is over; [`NOBODYS`]: no flow
/// has them.
#[inline(always)]
fn in_the_way(answers: &Flow, clock: u32) -> u32 {
    let Some((_, seen)) = table::look_up(answers, hash_of(answers)) else {
        return NOBODYS;
    };
    let silent = clock.wrapping_sub(seen_of(seen.word)) & 0x0fff_ffff;
    let unearned = seen.word & WORD_EARNED == 0;
    let passing = state_of(seen.word) & 7 != STATE_ESTABLISHED;
    let idle = unearned && seen.word & WORD_MIDDLE != 0;
    let over = table::expired(seen.word, clock);
    let less = u32::from(unearned) | u32::from(passing) << 1;
    silent | less << 28 | u32::from(idle) << 30 | u32::from(over) << 31
}

/// Whether the flow in the way keeps its port from one that came in the middle.
#[inline(always)]
fn keeps(packet: &Packet, worth: u32) -> bool {
    packet.middle != 0 && worth < OVER && worth >> 30 == 0
}

/// Gives a new flow a source, of those in the pool that are this director's now, by hash; none: the
/// VIP. A program of its own, with its counts in memory that the verifier knows nothing of: it
/// walks each place once.
#[inline(always)]
pub fn choose_source(packet: &mut Packet) -> Verdict {
    packet.via.source = source_for(packet).unwrap_or(0);
    search(packet)
}

/// Begins to look for a port.
#[inline(always)]
pub fn search(packet: &mut Packet) -> Verdict {
    packet.search = Search { best: 0, draw: (packet.hash >> 16) as u32, left: TRIES };
    Verdict::Go(PROGRAM_SOURCE_PORT)
}

/// Tries a port beside the source for a new flow: it gets one that is nobody's, else of those tried
/// the one that is worth least, whose flow ends. A program that calls itself: the verifier walks
/// one try, and not all of them.
#[inline(always)]
pub fn choose_port(packet: &mut Packet) -> Verdict {
    const PORTS: u32 = 65_536 - FULL_NAT_PORTS as u32;
    let Some(server) = SERVERS.get(packet.chosen) else {
        return Verdict::Drop(DROP_NO_PORT);
    };
    let mut flow = key(packet);
    if !seen_as(server, &packet.via, &mut flow.dst) {
        // Its source, or its server with it, has just left.
        return again(packet);
    }
    let Search { mut best, draw, left } = packet.search;
    let port = ((u32::from(FULL_NAT_PORTS) + draw % PORTS) as u16).to_be();
    let worth = in_the_way(&answers_of(&flow, server, port), packet.clock);
    let this = u64::from(worth) << 16 | u64::from(port);
    if this > best {
        best = this;
    }
    let next = draw.wrapping_mul(0x9e37_79b1).wrapping_add(0x7f4a_7c15);
    if worth < OVER && left > 1 {
        packet.search = Search { best, draw: next, left: left - 1 };
        return Verdict::Go(PROGRAM_SOURCE_PORT);
    }
    let (worth, port) = ((best >> 16) as u32, best as u16);
    packet.via.port = port;
    if keeps(packet, worth) {
        return Verdict::Drop(DROP_NO_PORT);
    }
    if worth != NOBODYS {
        let answers = answers_of(&flow, server, port);
        if let Some((entry, seen)) = table::look_up(&answers, hash_of(&answers)) {
            if !table::retire(entry, seen) {
                // Another processor has it.
                if left <= 1 {
                    return Verdict::Drop(DROP_NO_PORT);
                }
                packet.search = Search { best: 0, draw: next, left: left - 1 };
                return Verdict::Go(PROGRAM_SOURCE_PORT);
            }
            if worth < OVER {
                count_drop(EVICTED);
            }
        }
    }
    Verdict::Go(PROGRAM_INSERT_FULL_NAT)
}
