//! The packet core: one verdict for each packet, the same for tc and XDP.
//!
//! Decides: guard, service, flow, server. Does not change packets and knows no hook.
//! Order for a packet to a VIP: guard deadline, flow table, schedule. The guard comes first, so a
//! director whose lease ran out is silent also for flows it knows.

use nines_abi::{
    clock_of, halves, state_of, Addr, Flow, Packet, Server, Service, Tail, Via, ASKED, DROP_DENIED,
    DROP_GUARD, DROP_MIDDLE, DROP_NO_PORT, DROP_NO_ROUTE, DROP_NO_SERVER, FORWARD_DR,
    FORWARD_FULL_NAT, FORWARD_IPIP, FORWARD_LOCAL, FORWARD_NAT, NAMED, PLACE_SERVER, PLACE_VIP,
    PROGRAM_ADMIT, PROGRAM_CHANCE, PROGRAM_DELIVER, PROGRAM_KEEP, PROGRAM_PUT_FULL,
    PROGRAM_REMEMBER, PROGRAM_SOURCE, PROGRAM_TELL, PROGRAM_WEIGH, SCHED_LBLC, SCHED_LBLCR,
    SCHED_LC, SCHED_TWOS, SERVER_DOWN, SERVER_UP, SERVICE_ONE_PACKET, SERVICE_POOL, SERVICE_SIP,
    SERVICE_SOURCES, STATE_FIN_WAIT, STATE_SYN_ACK, STATE_TIME_WAIT, UNPLACED, WORD_FULL,
    WORD_REPLY,
};

use crate::{
    admit::{is_denied, ASKS},
    clock,
    flows::{self, New, Seen},
    fragments, full,
    maps::{count, count_connection, count_drop, SERVERS, SERVICES},
    memory,
    nat::{self, matters, remember_reply, reply},
    packet::{
        halves_of, ACK, ARP, ERROR, FRAGMENT, ND_ADVERT, NEIGHBOUR, RST, SYN, TCP, TRANSPORT, UDP,
    },
    places,
    schedule::{self, Of, Table},
    services::{has_marks, service_of},
    states,
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
    /// Of no flow that is known: see [`new`].
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
    let stance = places::stance(low, high, now, packet.mac);
    if stance != 0 && !is_advert(packet) {
        // The director has chosen this machine; here it would choose once more, perhaps another.
        return match stance {
            places::SERVES => Verdict::Pass,
            _ => Verdict::Drop(DROP_GUARD),
        };
    }
    if packet.kind == ERROR {
        return Verdict::Error;
    }
    if packet.kind != TRANSPORT && packet.kind != FRAGMENT || is_strange(packet) {
        return Verdict::Pass;
    }
    if packet.kind == FRAGMENT {
        return Verdict::Fragment;
    }
    let flow = key(packet);
    packet.hash = flows::hash_of(&flow);
    if let Some((tail, seen)) = flows::find(&flow, packet.hash) {
        if seen.word & (WORD_REPLY | WORD_FULL) == WORD_REPLY | WORD_FULL {
            return full::answer(packet, tail, &seen, counts);
        }
        if seen.word & WORD_REPLY != 0 {
            return reply(packet, tail, &seen, now, counts);
        }
        if let Some(server) = server(seen.server) {
            let clock = packet.clock;
            if stays(packet, &seen, server, clock) {
                if full::is(server) {
                    return full::onward(packet, tail, &seen, server, counts);
                }
                let state = states::next(packet, direction(server), state_of(seen.word));
                if server.forward == FORWARD_NAT && matters(packet, &seen, state, clock) {
                    return Verdict::Go(PROGRAM_TELL);
                }
                goes_on(packet, tail, &seen, state, clock);
                // Who sends it through a tunnel counts it.
                let counts = counts && server.forward < FORWARD_IPIP;
                return deliver(packet, seen.server, server, counts);
            }
        }
        flows::retire(tail, seen);
    }
    packet.asked = 0;
    Verdict::New
}

/// Neither to an address of ours nor perhaps an answer. Where services go by marks every address
/// may be theirs; the mark itself comes later than a flow's packets do (crate nines-dataplane,
/// `detour.rs`).
#[inline(always)]
fn is_strange(packet: &Packet) -> bool {
    let flags_of = |addr: &[u32; 4]| {
        let [low, high] = halves_of(addr);
        places::flags_of(low, high)
    };
    flags_of(&packet.dst) & PLACE_VIP == 0
        && flags_of(&packet.src) & PLACE_SERVER == 0
        && !has_marks()
}

/// A packet that [`ingress`] knew no flow for: its service, and who chooses its server.
#[inline(always)]
pub fn new(packet: &mut Packet, mark: u32, at_tc: bool) -> Verdict {
    // Nobody is his own client; the stack calls it a martian.
    let (src, dst) = (halves_of(&packet.src), halves_of(&packet.dst));
    if (src[0] ^ dst[0]) | (src[1] ^ dst[1]) == 0 {
        return Verdict::Pass;
    }
    let Some(of) = service_of(packet, mark) else {
        return Verdict::Pass;
    };
    if of.service.flags & SERVICE_SOURCES != 0 && is_denied(packet, of.id) {
        return Verdict::Drop(DROP_DENIED);
    }
    // XDP may not be able to finish, and no flow would tell tc who was chosen; nor does it read
    // calls.
    if !at_tc && of.service.flags & (SERVICE_ONE_PACKET | SERVICE_SIP) != 0 {
        return Verdict::Pass;
    }
    if packet.service != of.id {
        // What another service asked, which has left since, it did not ask.
        packet.asked = 0;
    }
    packet.service = of.id;
    if of.service.flags & ASKS != 0 && packet.asked == 0 {
        return Verdict::Go(PROGRAM_ADMIT);
    }
    if let Some((slot, _)) = memory::held(packet, of, packet.clock) {
        packet.chosen = slot;
        return Verdict::Go(PROGRAM_KEEP);
    }
    let how = of.service.scheduler;
    if begins(packet) && how >= SCHED_LC && how <= SCHED_TWOS {
        return Verdict::Go(match how {
            SCHED_TWOS => PROGRAM_CHANCE,
            SCHED_LBLC | SCHED_LBLCR => PROGRAM_REMEMBER,
            _ => PROGRAM_WEIGH,
        });
    }
    let table = Table::noted(of.service, packet);
    let slot = schedule::by_turn_or_hash(packet, of, table, packet.hash, begins(packet));
    take(packet, of.service, slot)
}

/// The schedulers that weigh what servers carry.
#[inline(always)]
pub fn weigh(packet: &mut Packet) -> Verdict {
    by(packet, |_, service, table| schedule::by_weighing(service, table))
}

/// Those that remember destinations.
#[inline(always)]
pub fn remember(packet: &mut Packet) -> Verdict {
    by(packet, memory::by_destination)
}

/// The one that draws lots.
#[inline(always)]
pub fn chance(packet: &mut Packet) -> Verdict {
    by(packet, |_, _, table| schedule::two_choices(table))
}

#[inline(always)]
fn by(packet: &mut Packet, choose: impl FnOnce(&Packet, &Service, Table) -> u32) -> Verdict {
    let Some(service) = SERVICES.get(packet.service) else {
        return Verdict::Drop(DROP_NO_SERVER);
    };
    let table = Table::noted(service, packet);
    let slot = choose(packet, service, table);
    take(packet, service, slot)
}

/// Nobody may have been found only because the table was replaced meanwhile, or the service left:
/// then look again.
#[inline(always)]
fn take(packet: &mut Packet, service: &Service, slot: u32) -> Verdict {
    if slot == schedule::NOBODY {
        if Table::is_replaced(service, packet) {
            return Verdict::New;
        }
        return Verdict::Drop(DROP_NO_SERVER);
    }
    packet.chosen = slot;
    Verdict::Go(PROGRAM_KEEP)
}

/// Whether a packet of no known flow begins one; else it comes in the middle of one that this
/// director does not know.
#[inline(always)]
pub fn begins(packet: &Packet) -> bool {
    opens(packet) || packet.proto == UDP
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
    let flow = key(packet);
    let hash = flows::hash_of(&flow);
    if let Some((tail, seen)) = flows::find(&flow, hash) {
        if seen.word & (WORD_REPLY | WORD_FULL) == WORD_REPLY | WORD_FULL {
            return full::answer(packet, tail, &seen, true);
        }
        if seen.word & WORD_REPLY != 0 {
            return nat::error(packet, tail, &seen, now);
        }
        if let Some(server) = server(seen.server) {
            if stays(packet, &seen, server, packet.clock) {
                let Some(via) = flows::via(tail, &seen) else {
                    return Verdict::Pass;
                };
                full::belongs(packet, &seen, via, 0);
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
    let slot = schedule::by_turn_or_hash(packet, of, table, hash, false);
    match server(slot) {
        Some(server) if server.service == of.id && !full::is(server) => {
            deliver(packet, slot, server, true)
        }
        _ => Verdict::Pass,
    }
}

/// A packet of a flow that is known.
#[inline(always)]
pub fn goes_on(packet: &Packet, tail: *mut Tail, seen: &Seen, state: u8, clock: u32) {
    if flows::stale(seen.word, clock) {
        // As long as a flow lives its client stays (IPVS: a template lives while it controls
        // connections).
        let id = server(seen.server).map_or(u32::MAX, |server| server.service);
        if let Some(service) = SERVICES.get(id) {
            memory::renew(packet, Of { id, service }, seen, clock);
        }
    }
    flows::touch(tail, *seen, state, clock);
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
    if places::may_not_speak(halves(speaks_for), now, claims) {
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
    if server.forward == FORWARD_NAT || full::is(server) {
        states::BOTH
    } else {
        states::ONE_WAY
    }
}

#[inline(always)]
pub fn opens(packet: &Packet) -> bool {
    packet.kind == TRANSPORT && packet.proto != UDP && packet.flags & (SYN | ACK | RST) == SYN
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

/// Whoever was chosen left, or is drained, since then: somebody else. The kernel lets so many
/// programs follow one another and no more.
#[inline(always)]
pub fn again(packet: &mut Packet) -> Verdict {
    if packet.asked == NAMED {
        packet.asked = ASKED;
    }
    Verdict::New
}

/// A packet for which a server is chosen, and of whose flow nobody knows yet.
#[inline(always)]
pub fn keep(packet: &mut Packet) -> Verdict {
    let clock = packet.clock;
    let flow = key(packet);
    let hash = packet.hash;
    let slot = packet.chosen;
    let (Some(server), Some(service)) = (server(slot), SERVICES.get(packet.service)) else {
        return Verdict::Drop(DROP_NO_SERVER);
    };
    let of = Of { id: packet.service, service };
    let (generation, owner) = schedule::owner(server);
    let takes = server.state == SERVER_UP || packet.asked == NAMED;
    if owner != of.id || (!takes && begins(packet)) {
        return again(packet);
    }
    if full::is(server) {
        if of.service.flags & SERVICE_POOL != 0 {
            return Verdict::Go(PROGRAM_SOURCE);
        }
        packet.via.source = 0;
        return full::search(packet);
    }
    let mut new = New {
        hash,
        server: slot,
        generation,
        seen: clock,
        now: clock,
        tells: 1,
        word: u32::from(states::first(packet, direction(server))),
        via: Via { addr: packet.dst[3], port: packet.dport, source: 0 },
    };
    let one_packet = of.service.flags & SERVICE_ONE_PACKET != 0 && packet.proto == UDP;
    memory::hold(packet, of, slot, generation, clock);
    if !one_packet && flows::insert(&flow, &new) == 0 {
        // Its next packet is scheduled again; by hash that gives the same server.
        count_drop(UNPLACED);
    }
    if server.forward == FORWARD_NAT {
        remember_reply(packet, server, &mut new);
    }
    flows::sweep(clock);
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
        tells: 1,
        word: u32::from(states::first(packet, states::BOTH)),
        via: Via { addr: 0, ..packet.via },
    };
    if server.proxy != 0 {
        // In the middle nobody can say whether its server counts a header or not.
        if !opens(packet) {
            return Verdict::Drop(DROP_MIDDLE);
        }
        new.via.addr = number(packet);
    }
    if !full::begin(&key(packet), server, &mut new) {
        return Verdict::Drop(DROP_NO_PORT);
    }
    let of = Of { id: packet.service, service };
    memory::hold(packet, of, packet.chosen, generation, clock);
    flows::sweep(clock);
    count_connection(packet.chosen, server.service);
    Verdict::Go(PROGRAM_PUT_FULL)
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
        FORWARD_FULL_NAT => Verdict::Go(full::changer(packet)),
        _ => Verdict::Tunnel(slot, server),
    }
}
