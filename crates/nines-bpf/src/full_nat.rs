//! Full NAT: the server takes the VIP for its client, so answers come back whatever its routes are.
//!
//! Decides: which port a flow has beside the VIP, or beside which source of a pool, and whose an
//! answer is. Two entries as with NAT:
//! the client's, which has the port; that of the answers, which says where the client's is.

use nines_abi::{
    halves, seen_of, source_at, state_of, Flow, Packet, Server, Tail, Via, DROP_GUARD,
    FORWARD_FULL_NAT, POOL_MAX, PROGRAM_DELIVER, PROGRAM_FULL_NAT, PROGRAM_INSERT_REPLY,
    PROGRAM_PROXY, PROGRAM_UPDATE_FULL_NAT, WORDS_PROXY, WORD_EARNED, WORD_FULL, WORD_MIDDLE,
    WORD_PROXY, WORD_REPLY,
};

use crate::{
    addresses,
    atomic::opaque,
    flow_table::{self, hash_of, New, Seen},
    maps::{BYTES, SERVERS, SERVICES},
    nat::{count_answer, earns, matters, port_of},
    packet::{halves_of, ERROR, TRANSPORT},
    pipeline::{again, deliver, goes_on, key, words, Verdict},
    proxy, states,
};

pub use self::snat_port::{choose_port, search};

mod snat_port;

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

/// What the server sees in place of the client; `None`: the address is no longer in the pool.
#[inline(always)]
fn source_of(server: &Server, via: &Via, vip: [u32; 4]) -> Option<[u32; 4]> {
    if via.source == 0 {
        return Some(vip);
    }
    let place = u32::from(via.source & 0xff) - 1;
    let addr = in_pool(server.service, place)?;
    (source_at(place, addr) == via.source).then_some(addr)
}

/// Puts it in place of the VIP, if there is one to put; false: there is none any more.
#[inline(always)]
fn seen_as(server: &Server, via: &Via, vip: &mut [u32; 4]) -> bool {
    via.source == 0 || put_source(server, via, vip) != 0
}

/// A function of its own, for the callers' stacks.
#[inline(never)]
fn put_source(server: &Server, via: &Via, vip: &mut [u32; 4]) -> u32 {
    match source_of(server, via, *vip) {
        Some(source) => {
            *vip = source;
            1
        }
        None => 0,
    }
}

#[inline(always)]
fn in_pool(service: u32, place: u32) -> Option<[u32; 4]> {
    let service = SERVICES.get(service)?;
    // The compiler knows the bound and would leave the mask out; the verifier needs it.
    let place = opaque(u64::from(place)) as usize & (POOL_MAX - 1);
    Some(words(&service.pool[place]))
}

/// Gives a new flow a source, of those in the pool that are this director's now, by hash; none: the
/// VIP. A program of its own, with its counts in memory that the verifier knows nothing of: it
/// walks each place once.
#[inline(always)]
pub fn choose_source(packet: &mut Packet) -> Verdict {
    packet.via.source = source_for(packet).unwrap_or(0);
    snat_port::search(packet)
}

#[inline(always)]
fn source_for(packet: &Packet) -> Option<u16> {
    let (service, now) = (packet.service, packet.read.now);
    let notes = BYTES.get_ptr_mut(0)?.cast::<[u64; 2]>();
    unsafe { notes.write_volatile([0; 2]) };
    for place in 0..POOL_MAX as u32 {
        if has(&in_pool(service, place)?, now) {
            let [here, count] = unsafe { notes.read_volatile() };
            unsafe { notes.write_volatile([here | 1 << place, count + 1]) };
        }
    }
    let [here, count] = unsafe { notes.read_volatile() };
    let mut left = (packet.hash >> 32 & 0xffff) * count >> 16;
    for place in 0..POOL_MAX as u32 {
        let one = here >> place & 1;
        if one != 0 && left == 0 {
            return Some(source_at(place, in_pool(service, place)?));
        }
        left = opaque(left.wrapping_sub(one));
    }
    None
}

/// Whether this director may speak for a source.
#[inline(always)]
fn has(addr: &[u32; 4], now: u64) -> bool {
    let [low, high] = halves(*addr);
    low | high != 0 && !addresses::silent([low, high], now)
}

/// Whether packets may go on from the source they have: [`GONE`], [`ELSEWHERE`] or 0.
#[inline(never)]
fn trouble(server: &Server, via: &Via, now: u64) -> u32 {
    match source_of(server, via, [0; 4]) {
        None => GONE,
        Some(addr) if has(&addr, now) => 0,
        Some(_) => ELSEWHERE,
    }
}
/// Whether the VIP of a flow is elsewhere; an answer to a source of the pool does not say it.
#[inline(never)]
fn may_not_answer(via: &Via, server: u32, now: u64) -> u32 {
    let Some((tail, seen)) = flow_table::client_of(via.addr, via.name(), server) else {
        return 0;
    };
    let Some(flow) = flow_table::key_of(tail, &seen) else {
        return 0;
    };
    addresses::silent(halves(flow.dst), now) as u32
}

const GONE: u32 = 1;
const ELSEWHERE: u32 = 2;

/// Key of the answers to a flow that asks for `dport` and has this source and port.
#[inline(always)]
fn answers(server: &Server, source: [u32; 4], dport: u16, proto: u32, port: u16) -> Flow {
    let sport = port_of(server, dport);
    Flow { src: words(&server.addr), dst: source, sport, dport: port, proto }
}

/// The same by its own key, which has the source as its destination.
#[inline(always)]
fn answers_of(flow: &Flow, server: &Server, port: u16) -> Flow {
    answers(server, flow.dst, flow.dport, flow.proto, port)
}

/// A new flow that has a port: the client's entry; false: it found no place. [`put`] makes the
/// other one.
#[inline(always)]
pub fn begin(flow: &Flow, server: &Server, new: &mut New) -> bool {
    new.word |= WORD_FULL as u32;
    if server.proxy != 0 {
        new.word |= WORD_PROXY as u32;
    }
    flow_table::insert(flow, new) != 0
}

/// The entry of answers to the flow at `tail`, whose port `new` has.
#[inline(always)]
fn put_answers(key: &Flow, new: &mut New, tail: *mut Tail) -> u32 {
    new.hash = hash_of(key);
    new.word |= (WORD_FULL | WORD_REPLY) as u32;
    new.tells = 0;
    new.via.addr = flow_table::place_of(tail);
    (flow_table::insert(key, new) == 1) as u32
}

/// The same of a flow that another director told of and whose client's entry is there. Who has its
/// port here keeps it if he was heard of later.
#[inline(always)]
pub fn learn(flow: &Flow, server: &Server, new: &mut New) {
    let Some((client, known)) = flow_table::look_up(flow, new.hash) else {
        return;
    };
    let mut answers = answers_of(flow, server, new.via.port);
    if !seen_as(server, &new.via, &mut answers.dst) {
        flow_table::retire(client, known);
        return;
    }
    new.word &= !(WORDS_PROXY ^ WORD_PROXY) as u32;
    if let Some((tail, seen)) = flow_table::look_up(&answers, hash_of(&answers)) {
        if is_of(tail, &seen, client) {
            if (seen.word ^ u64::from(new.word)) & WORD_PROXY == 0 {
                flow_table::change(tail, seen, new.word as u8, new.seen);
                return;
            }
            // They are an earlier connection's, whose server was told or was not.
            flow_table::end(tail, &seen);
        } else {
            let later = new.seen.wrapping_sub(seen_of(seen.word)) as i32 > 0;
            if !later && !flow_table::expired(seen.word, new.now) {
                flow_table::retire(client, known);
                return;
            }
            flow_table::retire(tail, seen);
        }
    }
    put_answers(&answers, new, client);
}

/// Whether a client's entry is of the connection that has this port and began like this.
#[inline(always)]
pub fn is_same(tail: *mut Tail, seen: &Seen, word: u64, via: &Via) -> bool {
    let differs = (seen.word ^ word) & WORD_PROXY;
    // Else it is what the client said last, here.
    let first = |via: &Via| if word & WORD_PROXY != 0 { via.addr } else { 0 };
    flow_table::via(tail, seen)
        .is_some_and(|known| (first(&known), known.name(), differs) == (first(via), via.name(), 0))
}

/// Whether these answers are of the flow whose client's entry is there.
#[inline(always)]
fn is_of(tail: *mut Tail, seen: &Seen, client: *mut Tail) -> bool {
    flow_table::via(tail, seen).is_some_and(|via| via.addr == flow_table::place_of(client))
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
    let Some(via) = flow_table::via(tail, seen) else {
        return Verdict::Pass;
    };
    if via.source != 0 {
        match trouble(server, &via, packet.read.now) {
            0 => {}
            ELSEWHERE => return Verdict::Drop(DROP_GUARD),
            _ => {
                flow_table::retire(tail, *seen);
                packet.asked = 0;
                return Verdict::New;
            }
        }
    }
    let state = states::next(packet, states::BOTH, state_of(seen.word));
    if matters(packet, seen, state, packet.clock) {
        return Verdict::Go(PROGRAM_UPDATE_FULL_NAT);
    }
    belongs(packet, seen, via, 0);
    deliver(packet, seen.server, server, counts)
}

/// A packet that both entries must know, of either side.
#[inline(always)]
pub fn tell(packet: &mut Packet, counts: bool) -> Verdict {
    packet.asked = 0;
    let Some((tail, mut seen)) = flow_table::look_up(&key(packet), packet.hash) else {
        return Verdict::Pass;
    };
    let (Some(via), Some(server)) = (flow_table::via(tail, &seen), SERVERS.get(seen.server)) else {
        return Verdict::Pass;
    };
    let clock = packet.clock;
    let answer = seen.word & WORD_REPLY != 0;
    let side = if answer { states::ANSWER } else { states::BOTH };
    let state = states::next(packet, side, state_of(seen.word));
    belongs(packet, &seen, via, u32::from(answer));
    if answer {
        seen.earn = earns(packet, &seen);
        keep_client(packet, &via, &seen, clock);
        flow_table::touch(tail, seen, state, clock);
        if counts {
            count_answer(packet, server, &via);
        }
        return Verdict::Go(changer(packet));
    }
    let mut key = answers_to(packet, server, via.port);
    if !seen_as(server, &via, &mut key.dst) {
        flow_table::retire(tail, seen);
        return Verdict::New;
    }
    let Some((there, other)) = flow_table::look_up(&key, hash_of(&key)) else {
        return Verdict::Go(PROGRAM_INSERT_REPLY);
    };
    if !is_of(there, &other, tail) {
        // Its port is another flow's by now.
        flow_table::retire(tail, seen);
        return Verdict::New;
    }
    let theirs = states::next(packet, states::BOTH, state_of(other.word));
    flow_table::touch(there, other, theirs, clock);
    goes_on(packet, tail, &seen, state, clock);
    Verdict::Go(PROGRAM_DELIVER)
}

/// The answers' entry of a flow that has none: it is new, or the entry had to give way.
#[inline(always)]
pub fn put(packet: &mut Packet) -> Verdict {
    let Some((tail, seen)) = flow_table::look_up(&key(packet), packet.hash) else {
        return Verdict::Pass;
    };
    let (Some(via), Some(server)) = (flow_table::via(tail, &seen), SERVERS.get(seen.server)) else {
        return Verdict::Pass;
    };
    let mut new = New {
        hash: 0,
        server: seen.server,
        generation: seen.generation,
        seen: packet.clock,
        now: packet.clock,
        tells: 0,
        word: u32::from(state_of(seen.word))
            | (seen.word & (WORD_PROXY | WORD_EARNED | WORD_MIDDLE)) as u32,
        via,
    };
    let mut key = answers_to(packet, server, via.port);
    if !seen_as(server, &via, &mut key.dst) {
        flow_table::retire(tail, seen);
        return again(packet);
    }
    if put_answers(&key, &mut new, tail) == 0 {
        // A packet of the same flow on another processor may have put it there.
        let found = flow_table::look_up(&key, hash_of(&key));
        if !found.is_some_and(|(there, other)| is_of(there, &other, tail)) {
            flow_table::retire(tail, seen);
            return again(packet);
        }
    }
    belongs(packet, &seen, via, 0);
    Verdict::Go(PROGRAM_DELIVER)
}

/// The same by a packet of its client.
#[inline(always)]
fn answers_to(packet: &Packet, server: &Server, port: u16) -> Flow {
    answers(server, packet.dst, packet.dport, u32::from(packet.proto), port)
}

/// An answer of a server, or an error about a packet that the server was sent.
#[inline(always)]
pub fn answer(packet: &mut Packet, tail: *mut Tail, seen: &Seen, counts: bool) -> Verdict {
    let Some(server) = SERVERS.get(seen.server) else {
        return Verdict::Pass;
    };
    if seen.generation != server.generation || flow_table::expired(seen.word, packet.clock) {
        return Verdict::Pass;
    }
    let Some(via) = flow_table::via(tail, seen) else {
        return Verdict::Pass;
    };
    if via.source != 0 && may_not_answer(&via, seen.server, packet.read.now) != 0 {
        return Verdict::Drop(DROP_GUARD);
    }
    belongs(packet, seen, via, 1);
    if packet.kind != ERROR {
        let state = states::next(packet, states::ANSWER, state_of(seen.word));
        if matters(packet, seen, state, packet.clock) || earns(packet, seen) != 0 {
            return Verdict::Go(PROGRAM_UPDATE_FULL_NAT);
        }
        if counts {
            count_answer(packet, server, &via);
        }
    }
    Verdict::Go(changer(packet))
}

/// Of which flow the packet is.
#[inline(always)]
pub fn belongs(packet: &mut Packet, seen: &Seen, via: Via, answer: u32) {
    (packet.chosen, packet.via, packet.answer) = (seen.server, via, answer);
    let proxied = seen.word & WORD_PROXY != 0;
    packet.proxied = if proxied { seen.word as u32 & 0xffff } else { 0 };
}

/// Who changes the packet.
#[inline(always)]
pub fn changer(packet: &Packet) -> u32 {
    if packet.proxied != 0 && proxy::concerns(packet) {
        PROGRAM_PROXY
    } else {
        PROGRAM_FULL_NAT
    }
}

/// The state that counts (the client's entry has it) follows what the server says.
#[inline(always)]
fn keep_client(packet: &Packet, via: &Via, answer: &Seen, clock: u32) {
    if let Some((tail, seen)) = flow_table::client_of(via.addr, via.name(), answer.server) {
        let state = states::next(packet, states::ANSWER, state_of(seen.word));
        let earn = answer.earn & !seen.word;
        flow_table::touch(tail, Seen { earn, ..seen }, state, clock);
    }
}

/// A client's packet whose flow has just lost its source, or its server: it begins another.
#[inline(always)]
pub fn lost(packet: &mut Packet) -> Verdict {
    if packet.answer != 0 || packet.kind != TRANSPORT {
        return Verdict::Pass;
    }
    if let Some((tail, seen)) = flow_table::look_up(&key(packet), packet.hash) {
        flow_table::retire(tail, seen);
    }
    packet.asked = 0;
    Verdict::New
}

/// What the packet gets; `None`: its flow has just ended.
#[inline(always)]
pub fn ends(packet: &Packet, server: &Server) -> Option<Ends> {
    if packet.answer == 0 {
        return Some(Ends {
            src: source_of(server, &packet.via, packet.dst)?,
            dst: words(&server.addr),
            sport: packet.via.port,
            dport: port_of(server, packet.dport),
        });
    }
    let (tail, seen) = flow_table::client_of(packet.via.addr, packet.via.name(), packet.chosen)?;
    let flow = flow_table::key_of(tail, &seen)?;
    // That is what the server answered to: another flow has the place otherwise.
    let source = source_of(server, &packet.via, flow.dst)?;
    let (asked, came) = (halves(source), halves_of(&packet.dst));
    let differs = asked[0] ^ came[0] | asked[1] ^ came[1];
    (differs == 0).then_some(Ends {
        src: flow.dst,
        dst: flow.src,
        sport: flow.dport,
        dport: flow.sport,
    })
}
