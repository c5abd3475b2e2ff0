//! The packet core: one verdict for each packet, the same for tc and XDP.
//!
//! Decides: guard, service, flow, server. Does not change packets and knows no hook.
//! Order for a packet to a VIP: guard deadline, flow table, schedule. The guard comes first, so a
//! director whose lease ran out is silent also for flows it knows.

use nines_abi::{
    clock_of, halves, state_of, Addr, Flow, Packet, Server, Tail, Via, ASKED, DROP_FRAGMENT,
    DROP_GUARD, DROP_MARTIAN, DROP_MIDDLE, DROP_NO_PORT, DROP_NO_ROUTE, DROP_NO_SERVER,
    DROP_SOURCE_ROUTE, FORWARD_DR, FORWARD_FULL_NAT, FORWARD_IPIP, FORWARD_LOCAL, FORWARD_NAT,
    NAMED, PLACE_SERVER, PLACE_VIP, PROGRAM_DELIVER, PROGRAM_INSERT_NAT, PROGRAM_INSERT_REPLY,
    PROGRAM_SOURCE_ADDRESS, PROGRAM_UPDATE_NAT, SERVER_DOWN, SERVER_UP, SERVICE_ONE_PACKET,
    SERVICE_POOL, STATE_ESTABLISHED, STATE_FIN_WAIT, STATE_SYN_ACK, STATE_TIME_WAIT, UNPLACED,
    WORD_EARNED, WORD_FULL, WORD_MIDDLE, WORD_REPLY,
};

use crate::{
    addresses,
    atomic::opaque,
    clock,
    flow_table::{self, New, Seen},
    fragments, full_nat,
    maps::{count, count_connection, count_drop, SERVERS, SERVICES},
    martian,
    nat::{self, matters, remember_reply, reply},
    new_flow::{begins, opens},
    packet::{
        halves_of, ARP, ERROR, FRAGMENT, MARTIAN, ND_ADVERT, NEIGHBOUR, ROUTED, RST, SYN, TCP,
        TRANSPORT, UDP,
    },
    persistence,
    schedule::{self, Of, Table},
    services::{has_marks, service_of},
    states, tcp_sequence,
};

/// What happens to a packet.
pub enum Verdict {
    /// Not ours, or for this machine: up the stack.
    Pass,
    /// `DROP_*` says why.
    Drop(u32),
    /// To the server in this slot, addresses kept.
    Direct(u32, &'static Server),
    /// To the server in this slot, in another header.
    Tunnel(u32, &'static Server),
    /// To this host, by the device that the server names.
    Home(u32, &'static Server),
    /// To the server, destination rewritten.
    Nat(u32, &'static Server),
    /// From the server to the client, source rewritten to what the client knows.
    Reply(&'static Server, Via),
    /// Of no flow that is known: see [`crate::new_flow`].
    New,
    /// Another program says the rest: `PROGRAM_*`.
    Go(u32),
    /// An ICMP error: see [`error`].
    Error,
    /// A fragment without ports: see [`crate::fragments`].
    Fragment,
}

/// A packet that comes in, as far as flows are known. `counts`: this hook has the last word; XDP
/// may still hand the packet to tc, so it counts by itself what it really sent.
#[inline(always)]
pub fn ingress(packet: &mut Packet, counts: bool) -> Verdict {
    // What claims an address is judged exactly.
    let now = if packet.kind <= NEIGHBOUR { clock::exact() } else { clock::recent(packet) };
    packet.clock = clock_of(now);
    let [low, high] = halves_of(&packet.dst);
    let stance = addresses::stance(low, high, now, packet.mac);
    if stance & (addresses::SILENT | addresses::SERVES) != 0 && !is_advert(packet) {
        // The director has chosen this machine; here it would choose once more, perhaps another.
        return match stance {
            addresses::SERVES => Verdict::Pass,
            _ => Verdict::Drop(DROP_GUARD),
        };
    }
    if packet.kind != TRANSPORT {
        return untransported(packet);
    }
    if stance != addresses::ANSWERS && is_strange(packet) {
        return Verdict::Pass;
    }
    let flow = key(packet);
    packet.hash = flow_table::hash_of(&flow);
    if let Some((tail, mut seen)) = flow_table::find(&flow, packet.hash) {
        if seen.word & (WORD_REPLY | WORD_FULL) == WORD_REPLY | WORD_FULL {
            return full_nat::answer(packet, tail, &seen, counts);
        }
        if seen.word & WORD_REPLY != 0 {
            return reply(packet, tail, &seen, now, counts);
        }
        if let Some(server) = server(seen.server) {
            let clock = packet.clock;
            if stays(packet, &seen, server, clock) {
                if packet.flags != 0 {
                    tcp_sequence::follow(packet, tail, &seen);
                }
                if full_nat::is(server) {
                    return full_nat::onward(packet, tail, &seen, server, counts);
                }
                let state = states::next(packet, direction(server), state_of(seen.word));
                if server.forward == FORWARD_NAT {
                    if matters(packet, &seen, state, clock) {
                        return Verdict::Go(PROGRAM_UPDATE_NAT);
                    }
                } else {
                    // Its server's answers go past: a client that comes again later has got one.
                    seen.earn = earns(packet, &seen, state, clock);
                    goes_on(packet, tail, &seen, state, clock);
                }
                // Who sends it through a tunnel counts it.
                let counts = counts && server.forward < FORWARD_IPIP;
                return deliver(packet, seen.server, server, counts);
            }
        }
        flow_table::retire(tail, seen);
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
    let lacks = u64::from(lacks) | flow_table::fresh(seen.word, clock);
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

/// A packet for which a server is chosen.
#[inline(always)]
pub fn deliver_to(packet: &Packet, slot: u32, counts: bool) -> Verdict {
    match server(slot) {
        Some(server) => deliver(packet, slot, server, counts),
        None => Verdict::Pass,
    }
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
    let hash = flow_table::hash_of(&flow);
    if let Some((tail, seen)) = flow_table::find(&flow, hash) {
        if seen.word & (WORD_REPLY | WORD_FULL) == WORD_REPLY | WORD_FULL {
            return full_nat::answer(packet, tail, &seen, true);
        }
        if seen.word & WORD_REPLY != 0 {
            return nat::error(packet, tail, &seen, now);
        }
        if let Some(server) = server(seen.server) {
            if stays(packet, &seen, server, packet.clock) {
                let Some(via) = flow_table::via(tail, &seen) else {
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
        Some(server) if server.service == of.id && !full_nat::is(server) => {
            deliver(packet, slot, server, true)
        }
        _ => Verdict::Pass,
    }
}

/// A packet of a flow that is known.
#[inline(always)]
pub fn goes_on(packet: &Packet, tail: *mut Tail, seen: &Seen, state: u8, clock: u32) {
    if flow_table::stale(seen.word, clock) {
        // As long as a flow lives its client stays (IPVS: a template lives while it controls
        // connections).
        let id = server(seen.server).map_or(u32::MAX, |server| server.service);
        if let Some(service) = SERVICES.get(id) {
            persistence::renew(packet, Of { id, service }, seen, clock);
        }
    }
    flow_table::touch(tail, *seen, state, clock);
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
    if addresses::may_not_speak(halves(speaks_for), now, claims) {
        return Verdict::Drop(DROP_GUARD);
    }
    Verdict::Pass
}

/// Whether XDP may answer for this packet at all.
#[inline(always)]
pub fn xdp_takes(packet: &Packet) -> bool {
    let whole = packet.kind == TRANSPORT && packet.fragment == 0;
    whole || packet.kind == ARP || packet.kind == NEIGHBOUR
}

#[inline(always)]
fn is_advert(packet: &Packet) -> bool {
    packet.kind == NEIGHBOUR && packet.flags == ND_ADVERT
}

#[inline(always)]
pub fn bytes(words: [u32; 4]) -> Addr {
    unsafe { core::mem::transmute::<[u32; 4], Addr>(words) }
}

#[inline(always)]
pub fn words(addr: &Addr) -> [u32; 4] {
    unsafe { core::mem::transmute::<Addr, [u32; 4]>(*addr) }
}

#[inline(always)]
pub fn key(packet: &Packet) -> Flow {
    let ([a, b], [c, d]) = (halves_of(&packet.src), halves_of(&packet.dst));
    let ports = u64::from(packet.sport) | u64::from(packet.dport) << 16;
    // The fields in their order.
    let words = [a, b, c, d, ports | u64::from(packet.proto) << 32];
    unsafe { core::mem::transmute::<[u64; 5], Flow>(words) }
}

#[inline(always)]
fn server(slot: u32) -> Option<&'static Server> {
    SERVERS.get(slot)
}

/// Which packets of a flow through this server pass here.
#[inline(always)]
fn direction(server: &Server) -> usize {
    if server.forward == FORWARD_NAT || full_nat::is(server) {
        states::BOTH
    } else {
        states::ONE_WAY
    }
}

/// Whether a known flow keeps its server for this packet.
#[inline(always)]
fn stays(packet: &Packet, seen: &Seen, server: &Server, now: u32) -> bool {
    if seen.generation != server.generation || flow_table::expired(seen.word, now) {
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

/// Whoever was chosen left, or is drained, since then: somebody else. The kernel lets so many
/// programs follow one another and no more.
#[inline(always)]
pub fn again(packet: &mut Packet) -> Verdict {
    if packet.asked == NAMED {
        packet.asked = ASKED;
    }
    Verdict::New
}

/// A packet for which a server is chosen, and of whose flow nobody knows yet. `apart`: by NAT
/// [`keep_nat`] goes on, for two entries are much for the verifier to walk. At XDP the packet
/// counts more.
#[inline(always)]
pub fn keep(packet: &mut Packet, apart: bool) -> Verdict {
    let (Some(server), Some(service)) = (server(packet.chosen), SERVICES.get(packet.service))
    else {
        return Verdict::Drop(DROP_NO_SERVER);
    };
    let of = Of { id: packet.service, service };
    let (generation, owner) = schedule::owner(server);
    let takes = server.state == SERVER_UP || packet.asked == NAMED;
    if owner != of.id || (!takes && begins(packet)) {
        return again(packet);
    }
    if full_nat::is(server) {
        if of.service.flags & SERVICE_POOL != 0 {
            return Verdict::Go(PROGRAM_SOURCE_ADDRESS);
        }
        packet.via.source = 0;
        return full_nat::search(packet);
    }
    let by_nat = server.forward == FORWARD_NAT;
    if apart && by_nat {
        return Verdict::Go(PROGRAM_INSERT_NAT);
    }
    enter(packet, of, server, generation, !apart && by_nat)
}

/// The same by NAT; [`keep`] has looked.
#[inline(always)]
pub fn keep_nat(packet: &mut Packet) -> Verdict {
    let (Some(server), Some(service)) = (server(packet.chosen), SERVICES.get(packet.service))
    else {
        return Verdict::Drop(DROP_NO_SERVER);
    };
    let (generation, owner) = schedule::owner(server);
    if owner != packet.service || server.forward != FORWARD_NAT {
        return again(packet);
    }
    enter(packet, Of { id: packet.service, service }, server, generation, true)
}

/// The flow is in the table from now on; with `answers`, that of its server's answers, too.
#[inline(always)]
fn enter(packet: &mut Packet, of: Of, server: &Server, generation: u32, answers: bool) -> Verdict {
    let (clock, slot, flow) = (packet.clock, packet.chosen, key(packet));
    let mut new = New {
        hash: packet.hash,
        server: slot,
        generation,
        seen: clock,
        now: clock,
        tells: 0,
        word: u32::from(states::first(packet, direction(server))),
        via: tcp_sequence::first(packet),
    };
    // One that has shown nothing: it takes no other's place, and nobody is told of it.
    let middle = packet.middle & 1;
    (new.word, new.tells) = (new.word | middle * WORD_MIDDLE as u32, 1 - middle);
    if packet.middle == 0 {
        persistence::hold(packet, of, slot, generation, clock);
    } else if packet.flags & RST != 0 {
        // Nothing follows.
        return Verdict::Go(PROGRAM_DELIVER);
    }
    let one_packet = of.service.flags & SERVICE_ONE_PACKET != 0 && packet.proto == UDP;
    if !one_packet && flow_table::insert(&flow, &new) == 0 {
        // Its next packet is scheduled again; by hash that gives the same server.
        count_drop(UNPLACED);
    }
    if answers {
        new.via = Via { addr: packet.dst[3], port: packet.dport, source: 0 };
        remember_reply(packet, server, &mut new);
    }
    flow_table::sweep(clock);
    count_connection(slot, server.service);
    Verdict::Go(PROGRAM_DELIVER)
}

/// The same by full NAT; [`keep`] has looked. `number`: reads its TCP sequence number.
#[inline(always)]
pub fn keep_full(packet: &mut Packet, number: impl FnOnce(&Packet) -> u32) -> Verdict {
    let clock = packet.clock;
    let (Some(server), Some(service)) = (server(packet.chosen), SERVICES.get(packet.service))
    else {
        return Verdict::Drop(DROP_NO_SERVER);
    };
    let (generation, owner) = schedule::owner(server);
    if owner != packet.service {
        return again(packet);
    }
    let mut new = New {
        hash: packet.hash,
        server: packet.chosen,
        generation,
        seen: clock,
        now: clock,
        tells: 0,
        word: u32::from(states::first(packet, states::BOTH)),
        via: Via { addr: tcp_sequence::first(packet).addr, ..packet.via },
    };
    let middle = packet.middle & 1;
    (new.word, new.tells) = (new.word | middle * WORD_MIDDLE as u32, 1 - middle);
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
        let of = Of { id: packet.service, service };
        persistence::hold(packet, of, packet.chosen, generation, clock);
    }
    flow_table::sweep(clock);
    count_connection(packet.chosen, server.service);
    Verdict::Go(PROGRAM_INSERT_REPLY)
}

/// A packet goes to this server, and its fragments after it.
#[inline(always)]
pub fn arrived(packet: &Packet, slot: u32, server: &Server) {
    count(slot, server.service, packet.bytes, false);
    fragments::note(packet, slot, server, None);
}

#[inline(always)]
pub fn deliver(packet: &Packet, slot: u32, server: &'static Server, counts: bool) -> Verdict {
    if server.forward == FORWARD_LOCAL && server.ifindex != 0 {
        return Verdict::Home(slot, server);
    }
    if counts {
        arrived(packet, slot, server);
    }
    if server.forward == FORWARD_LOCAL {
        return Verdict::Pass;
    }
    if server.ifindex == 0 {
        return Verdict::Drop(DROP_NO_ROUTE);
    }
    match server.forward {
        FORWARD_DR => Verdict::Direct(slot, server),
        FORWARD_NAT => Verdict::Nat(slot, server),
        FORWARD_FULL_NAT => Verdict::Go(full_nat::changer(packet)),
        _ => Verdict::Tunnel(slot, server),
    }
}
