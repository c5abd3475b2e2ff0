//! The packet core: one verdict for each packet, the same for tc and XDP.
//!
//! Decides: guard, service, flow, server. Does not change packets and knows no hook.
//! Order for a packet to a VIP: guard deadline, flow table, schedule. The guard comes first, so a
//! director whose lease ran out is silent also for flows it knows.

pub mod fragment;
pub mod insert;
pub mod new_flow;

use nines_abi::{
    clock_of, halves, state_of, Packet, Server, DROP_FRAGMENT, DROP_GUARD, DROP_MARTIAN,
    DROP_SOURCE_ROUTE, FORWARD_IPIP, FORWARD_NAT, PLACE_SERVER, PLACE_VIP, PROGRAM_UPDATE_NAT,
    SERVER_DOWN, STATE_ESTABLISHED, STATE_FIN_WAIT, STATE_SYN_ACK, STATE_TIME_WAIT, WORD_EARNED,
    WORD_FULL, WORD_REPLY,
};

use crate::{
    atomic::opaque,
    clock,
    flow::{entry::Seen, state, table, tcp_sequence},
    forward::deliver::deliver,
    guard::{self, addresses, martian},
    nat::{self, full_nat, matters, reply},
    parse::packet::{
        halves_of, is_advert, key, opens, ARP, ERROR, FRAGMENT, MARTIAN, NEIGHBOUR, ROUTED, RST,
        SYN, TCP, TRANSPORT,
    },
    schedule::{self, persistence::goes_on, Table},
    service::{
        has_marks,
        server::{is_full_nat, server},
        service_of,
    },
    verdict::Verdict,
};

/// A packet that comes in, as far as flows are known. `counts`: this hook has the last word; XDP
/// may still hand the packet to tc, so it counts by itself what it really sent.
#[inline(always)]
pub fn ingress(packet: &mut Packet, counts: bool) -> Verdict {
    // What claims an address is judged exactly.
    let now = if packet.kind <= NEIGHBOUR { clock::exact() } else { clock::recent(packet) };
    packet.clock = clock_of(now);
    let [low, high] = halves_of(&packet.dst);
    let guard_verdict = guard::guard_verdict(low, high, now, packet.mac);
    if guard_verdict & (guard::SILENT | guard::SERVES) != 0 && !is_advert(packet) {
        // The director has chosen this machine; here it would choose once more, perhaps another.
        return match guard_verdict {
            guard::SERVES => Verdict::Pass,
            _ => Verdict::Drop(DROP_GUARD),
        };
    }
    if packet.kind != TRANSPORT {
        return untransported(packet);
    }
    if guard_verdict != guard::ANSWERS && is_strange(packet) {
        return Verdict::Pass;
    }
    let flow = key(packet);
    packet.hash = table::hash_of(&flow);
    if let Some((entry, mut seen)) = table::find(&flow, packet.hash) {
        if seen.word & (WORD_REPLY | WORD_FULL) == WORD_REPLY | WORD_FULL {
            return full_nat::answer(packet, entry, &seen, counts);
        }
        if seen.word & WORD_REPLY != 0 {
            return reply(packet, entry, &seen, now, counts);
        }
        if let Some(server) = server(seen.server) {
            let clock = packet.clock;
            if stays(packet, &seen, server, clock) {
                if packet.flags != 0 {
                    tcp_sequence::follow(packet, entry, &seen);
                }
                if is_full_nat(server) {
                    return full_nat::onward(packet, entry, &seen, server, counts);
                }
                let state = state::next(packet, state::direction(server), state_of(seen.word));
                if server.forward == FORWARD_NAT {
                    if matters(packet, &seen, state, clock) {
                        return Verdict::Go(PROGRAM_UPDATE_NAT);
                    }
                } else {
                    // Its server's answers go past: a client that comes again later has got one.
                    seen.earn = earns(packet, &seen, state, clock);
                    goes_on(packet, entry, &seen, state, clock);
                }
                // Who sends it through a tunnel counts it.
                let counts = counts && server.forward < FORWARD_IPIP;
                return deliver(packet, seen.server, server, counts);
            }
        }
        table::retire(entry, seen);
    }
    packet.asked = 0;
    Verdict::New
}

/// What is no whole transport header.
#[inline(always)]
fn untransported(packet: &Packet) -> Verdict {
    if packet.kind == ERROR {
        return Verdict::Error;
    }
    if packet.kind < FRAGMENT || is_strange(packet) {
        return Verdict::Pass;
    }
    match packet.kind {
        FRAGMENT => Verdict::Fragment,
        ROUTED => Verdict::Drop(DROP_SOURCE_ROUTE),
        MARTIAN => Verdict::Drop(DROP_MARTIAN),
        _ => Verdict::Drop(DROP_FRAGMENT),
    }
}

/// Whether a client's packet says that it talks to a server whose answers are not seen here: one
/// more after the handshake, or after a first datagram, half a second later or more. A flood of
/// forged packets would have to keep as many flows alive as it forges.
#[inline(always)]
fn earns(packet: &Packet, seen: &Seen, state: u8, clock: u32) -> u64 {
    let (before, flags) = (state_of(seen.word), packet.flags & (SYN | RST));
    let lacks = (state ^ before) | (state & 7 ^ STATE_ESTABLISHED) | flags;
    // No branch: the verifier would walk what follows twice.
    let lacks = u64::from(lacks) | table::fresh(seen.word, clock);
    let all = opaque(lacks.wrapping_sub(1) >> 63).wrapping_neg();
    WORD_EARNED & !seen.word & all
}

/// Neither to an address of ours nor perhaps an answer. Where services go by marks every address
/// may be theirs; the mark itself comes later than a flow's packets do (crate nines-dataplane,
/// `detour.rs`).
#[inline(always)]
fn is_strange(packet: &Packet) -> bool {
    let flags_of = |addr: &[u32; 4]| {
        let [low, high] = halves_of(addr);
        addresses::flags_of(low, high)
    };
    flags_of(&packet.dst) & PLACE_VIP == 0
        && flags_of(&packet.src) & PLACE_SERVER == 0
        && !has_marks()
}

/// An error about a flow's packet: to where the flow goes. Changes no flow.
#[inline(always)]
pub fn error(packet: &mut Packet, mark: u32) -> Verdict {
    let now = clock::exact();
    if is_strange(packet) {
        return Verdict::Pass;
    }
    if martian::is_nobodys(&packet.from, packet.v6 != 0) {
        return Verdict::Drop(DROP_MARTIAN);
    }
    let flow = key(packet);
    let hash = table::hash_of(&flow);
    if let Some((entry, seen)) = table::find(&flow, hash) {
        if seen.word & (WORD_REPLY | WORD_FULL) == WORD_REPLY | WORD_FULL {
            return full_nat::answer(packet, entry, &seen, true);
        }
        if seen.word & WORD_REPLY != 0 {
            return nat::error(packet, entry, &seen, now);
        }
        if let Some(server) = server(seen.server) {
            if stays(packet, &seen, server, packet.clock) {
                let Some(via) = entry.via(&seen) else {
                    return Verdict::Pass;
                };
                full_nat::belongs(packet, &seen, via, 0);
                packet.proxied = 0;
                return deliver(packet, seen.server, server, true);
            }
        }
    }
    // Of a flow that this director does not know: where its packets go by hash.
    let Some(of) = service_of(packet, mark) else {
        return Verdict::Pass;
    };
    let table = Table::of(of.service);
    let slot = schedule::by_turn_or_hash(packet, of, table, false);
    match server(slot) {
        Some(server) if server.service == of.id && !is_full_nat(server) => {
            deliver(packet, slot, server, true)
        }
        _ => Verdict::Pass,
    }
}

/// A packet that goes out: speaks it for a silent address?
#[inline(always)]
pub fn egress(packet: &Packet) -> Verdict {
    let speaks_for = match packet.kind {
        NEIGHBOUR if is_advert(packet) => packet.dst,
        ERROR => packet.from,
        _ => packet.src,
    };
    let now = clock::exact();
    let claims = packet.kind == ARP || packet.kind == NEIGHBOUR;
    if guard::may_not_speak(halves(speaks_for), now, claims) {
        return Verdict::Drop(DROP_GUARD);
    }
    Verdict::Pass
}

/// Whether a known flow keeps its server for this packet.
#[inline(always)]
fn stays(packet: &Packet, seen: &Seen, server: &Server, now: u32) -> bool {
    if seen.generation != server.generation || table::expired(seen.word, now) {
        return false;
    }
    let opens = opens(packet);
    // A port used again after its flow has ended (IPVS: conn_reuse_mode).
    let state = state_of(seen.word);
    if opens && (state == STATE_FIN_WAIT || (state >= STATE_TIME_WAIT && state != STATE_SYN_ACK)) {
        return false;
    }
    // A dead server keeps established TCP (its check may be wrong), nothing else.
    server.state != SERVER_DOWN || (packet.proto == TCP && !opens)
}
