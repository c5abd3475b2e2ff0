//! The packet core: one verdict for each packet, the same for tc and XDP.
//!
//! Decides: guard, service, flow, server. Does not change packets and knows no hook.
//! Order for a packet to a VIP: guard deadline, flow table, schedule. The guard comes first, so a
//! director whose lease ran out is silent also for flows it knows.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use nines_abi::{
    clock_of, state_of, Addr, Flow, Server, Service, ServiceKey, Tail, DROP_GUARD, DROP_NO_ROUTE,
    DROP_NO_SERVER, FORWARD_DR, FORWARD_LOCAL, FORWARD_NAT, GUARD_SERVES, SERVER_DOWN,
    STATE_FIN_WAIT, STATE_SYN_ACK, STATE_TIME_WAIT, UNPLACED, WORD_REPLY,
};

use crate::{
    flows::{self, New, Seen},
    maps::{count, count_connection, count_drop, GUARD, PEERS, SERVERS, SERVICES},
    packet::{Packet, ACK, ARP, FIN, ND_ADVERT, NEIGHBOUR, RST, SYN, TCP, TRANSPORT},
    schedule, states,
};

/// What happens to a packet.
pub enum Verdict {
    /// Not ours, or for this machine: up the stack.
    Pass,
    /// `DROP_*` says why.
    Drop(u32),
    /// To the server in this slot, addresses kept.
    Direct(u32, &'static Server),
    /// To the server, destination rewritten.
    Nat(&'static Server),
    /// From the server to the client, source rewritten to the VIP.
    Reply(&'static Server),
}

/// A packet that comes in. `counts`: this hook has the last word; XDP may still hand the packet to
/// tc, so it counts by itself what it really sent.
#[inline(always)]
pub fn ingress(packet: &Packet, counts: bool) -> Verdict {
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if silent(&packet.dst, now, &packet.mac) && !is_advert(packet) {
        return Verdict::Drop(DROP_GUARD);
    }
    if packet.kind != TRANSPORT {
        return Verdict::Pass;
    }
    let flow = key(packet);
    let hash = flows::hash_of(&flow);
    if let Some((tail, seen)) = flows::find(&flow, hash) {
        if seen.word & WORD_REPLY != 0 {
            return if counts { reply(packet, tail, seen, now) } else { Verdict::Pass };
        }
        if let Some(server) = server(seen.server) {
            let clock = clock_of(now);
            if stays(packet, &seen, server, clock) {
                let state = states::next(packet, direction(server), state_of(seen.word));
                if server.forward == FORWARD_NAT && counts && matters(packet, &seen, state, clock) {
                    keep_other_half(packet, &seen, server, false, clock);
                }
                if flows::stale(seen.word, clock) {
                    // As long as a flow lives its client stays (IPVS: a template lives while
                    // it controls connections).
                    if let Some(service) = service_of(packet) {
                        schedule::renew(packet, service, &seen, clock);
                    }
                }
                flows::touch(tail, seen, state, clock);
                return deliver(packet, seen.server, server, counts);
            }
        }
        flows::retire(tail, seen);
    }
    match service_of(packet) {
        Some(service) => schedule(packet, service, hash, now, counts),
        None => Verdict::Pass,
    }
}

#[inline(always)]
fn service_of(packet: &Packet) -> Option<&'static Service> {
    let key =
        ServiceKey { addr: bytes(packet.dst), port: packet.dport, proto: packet.proto, pad: 0 };
    unsafe { SERVICES.get(&key) }
}

/// A packet that goes out: speaks it for a silent address?
#[inline(always)]
pub fn egress(packet: &Packet) -> Verdict {
    let speaks_for = match packet.kind {
        NEIGHBOUR if is_advert(packet) => packet.dst,
        _ => packet.src,
    };
    let Some(guard) = (unsafe { GUARD.get(&bytes(speaks_for)) }) else {
        return Verdict::Pass;
    };
    let now = unsafe { bpf_ktime_get_boot_ns() };
    // A real server on this node answers clients of another director with the VIP as source; it
    // still may not claim the address on the link.
    let claims = packet.kind == ARP || packet.kind == NEIGHBOUR;
    if now < guard.deadline_ns || (guard.flags & GUARD_SERVES != 0 && !claims) {
        return Verdict::Pass;
    }
    Verdict::Drop(DROP_GUARD)
}

/// Whether XDP may answer for this packet at all.
#[inline(always)]
pub fn xdp_takes(packet: &Packet) -> bool {
    packet.kind == TRANSPORT || packet.kind == ARP || packet.kind == NEIGHBOUR
}

#[inline(always)]
fn is_advert(packet: &Packet) -> bool {
    packet.kind == NEIGHBOUR && packet.flags == ND_ADVERT
}

#[inline(always)]
fn silent(addr: &[u32; 4], now: u64, mac: &[u8; 8]) -> bool {
    let Some(guard) = (unsafe { GUARD.get(&bytes(*addr)) }) else {
        return false;
    };
    if now < guard.deadline_ns {
        return false;
    }
    guard.flags & GUARD_SERVES == 0 || unsafe { PEERS.get(mac) }.is_none()
}

#[inline(always)]
pub fn bytes(words: [u32; 4]) -> Addr {
    unsafe { core::mem::transmute::<[u32; 4], Addr>(words) }
}

#[inline(always)]
fn key(packet: &Packet) -> Flow {
    Flow {
        src: packet.src,
        dst: packet.dst,
        sport: packet.sport,
        dport: packet.dport,
        proto: u32::from(packet.proto),
    }
}

#[inline(always)]
fn server(slot: u32) -> Option<&'static Server> {
    SERVERS.get(slot)
}

/// Which packets of a flow through this server pass here.
#[inline(always)]
fn direction(server: &Server) -> usize {
    if server.forward == FORWARD_NAT {
        states::BOTH
    } else {
        states::ONE_WAY
    }
}

#[inline(always)]
fn opens(packet: &Packet) -> bool {
    packet.proto == TCP && packet.flags & (SYN | ACK | RST) == SYN
}

/// Whether a known flow keeps its server for this packet.
#[inline(always)]
fn stays(packet: &Packet, seen: &Seen, server: &Server, now: u32) -> bool {
    if seen.generation != server.generation || flows::expired(seen.word, now) {
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

/// A packet to a service that is of no known flow.
#[inline(always)]
fn schedule(packet: &Packet, service: &Service, hash: u64, now: u64, counts: bool) -> Verdict {
    let fresh = opens(packet) || packet.proto != TCP;
    let clock = clock_of(now);
    let chosen = match schedule::held(packet, service, clock) {
        None => schedule::choose(packet, service, hash, fresh),
        held => held,
    };
    let Some((slot, server)) = chosen else {
        return Verdict::Drop(DROP_NO_SERVER);
    };
    schedule::hold(packet, service, slot, server.generation, clock);
    let new = New {
        hash,
        server: slot,
        generation: server.generation,
        now: clock,
        word: u32::from(states::first(packet, direction(server))),
    };
    if !flows::insert(&key(packet), &new) {
        // Its next packet is scheduled again; by hash that gives the same server.
        count_drop(UNPLACED);
    }
    if server.forward == FORWARD_NAT {
        remember_reply(packet, server, &new);
    }
    flows::sweep(clock);
    count_connection(slot, server.service);
    deliver(packet, slot, server, counts)
}

#[inline(always)]
fn words(addr: &Addr) -> [u32; 4] {
    unsafe { core::mem::transmute::<Addr, [u32; 4]>(*addr) }
}

/// The other half of a translated flow: answers, for a packet from the client; the client's
/// packets, for an answer.
#[inline(always)]
fn other_half(packet: &Packet, server: &Server, answer: bool) -> Flow {
    let proto = u32::from(packet.proto);
    if answer {
        Flow {
            src: packet.dst,
            sport: packet.dport,
            dst: words(&server.vip),
            dport: server.vip_port,
            proto,
        }
    } else {
        Flow {
            src: words(&server.addr),
            sport: server.port,
            dst: packet.src,
            dport: packet.sport,
            proto,
        }
    }
}

/// The entry by which the server's answers are known. An earlier flow of the same client and port
/// may have left one.
#[inline(always)]
fn remember_reply(packet: &Packet, server: &Server, flow: &New) {
    let half = other_half(packet, server, false);
    let hash = flows::hash_of(&half);
    if let Some((tail, seen)) = flows::find(&half, hash) {
        flows::retire(tail, seen);
    }
    if !flows::insert(&half, &New { hash, word: flow.word | WORD_REPLY as u32, ..*flow }) {
        count_drop(UNPLACED);
    }
}

/// Both entries of a translated flow live as long, and the state that counts (the client's entry
/// has it) follows what either side says.
#[inline(always)]
fn keep_other_half(packet: &Packet, seen: &Seen, server: &Server, answer: bool, clock: u32) {
    let half = other_half(packet, server, answer);
    if let Some((tail, other)) = flows::find(&half, flows::hash_of(&half)) {
        // A late answer of the server that had this port before says nothing of its successor's.
        if (other.server, other.generation) == (seen.server, seen.generation) {
            let side = if answer { states::ANSWER } else { states::BOTH };
            let state = states::next(packet, side, state_of(other.word));
            flows::touch(tail, other, state, clock);
        }
    }
}

/// Whether the other half has to know of this packet.
#[inline(always)]
fn matters(packet: &Packet, seen: &Seen, state: u8, clock: u32) -> bool {
    state != state_of(seen.word)
        || packet.flags & (SYN | FIN | RST) != 0
        || flows::stale(seen.word, clock)
}

#[inline(always)]
fn deliver(packet: &Packet, slot: u32, server: &'static Server, counts: bool) -> Verdict {
    if counts {
        count(slot, server.service, packet.bytes, false);
    }
    if server.forward == FORWARD_LOCAL {
        return Verdict::Pass;
    }
    if server.ifindex == 0 {
        return Verdict::Drop(DROP_NO_ROUTE);
    }
    if server.forward == FORWARD_DR {
        Verdict::Direct(slot, server)
    } else {
        Verdict::Nat(server)
    }
}

/// An answer of a real server behind NAT.
#[inline(always)]
fn reply(packet: &Packet, tail: *mut Tail, seen: Seen, now: u64) -> Verdict {
    let Some(server) = server(seen.server) else {
        return Verdict::Pass;
    };
    if seen.generation != server.generation || flows::expired(seen.word, clock_of(now)) {
        return Verdict::Pass;
    }
    if silent(&words(&server.vip), now, &[0; 8]) {
        return Verdict::Drop(DROP_GUARD);
    }
    let clock = clock_of(now);
    let state = states::next(packet, states::ANSWER, state_of(seen.word));
    if matters(packet, &seen, state, clock) {
        keep_other_half(packet, &seen, server, true, clock);
    }
    flows::touch(tail, seen, state, clock);
    count(seen.server, server.service, packet.bytes, true);
    Verdict::Reply(server)
}
