//! Full NAT: the server takes the VIP for its client, so answers come back whatever its routes are.
//!
//! Decides: whose an answer is, and what a packet of either side gets in place of its addresses. A
//! flow has two entries as with NAT: the client's, which has the port; that of the answers, which
//! says where the client's is. Its source is found in `full_nat/source.rs`, its port in
//! `full_nat/snat_port.rs`.

pub mod snat_port;
pub mod source;

use nines_abi::{
    halves, seen_of, state_of, Flow, Packet, Server, Via, DROP_GUARD, PROGRAM_DELIVER,
    PROGRAM_INSERT_REPLY, PROGRAM_UPDATE_FULL_NAT, WORDS_PROXY, WORD_EARNED, WORD_FULL,
    WORD_MIDDLE, WORD_PROXY, WORD_REPLY,
};

use self::source::{answers_of, answers_to, seen_as, source_of, trouble, ELSEWHERE};
use super::{count_answer, earns, matters};
use crate::{
    flow::{
        entry::{EntryRef, Seen},
        insert::{insert, New},
        state, table,
        table::hash_of,
    },
    forward::deliver::{changer, deliver},
    guard,
    maps::SERVERS,
    parse::packet::{halves_of, key, words, Ends, ERROR, TRANSPORT},
    schedule::persistence::goes_on,
    service::server::port_of,
    verdict::{again, Verdict},
};

/// Whether the VIP of a flow is elsewhere; an answer to a source of the pool does not say it.
#[inline(never)]
fn may_not_answer(via: &Via, server: u32, now: u64) -> u32 {
    let Some((entry, seen)) = table::client_of(via.addr, via.name(), server) else {
        return 0;
    };
    let Some(flow) = entry.key(&seen) else {
        return 0;
    };
    guard::silent(halves(flow.dst), now) as u32
}

/// A new flow that has a port: the client's entry; false: it found no place. [`insert_reply`]
/// makes the other one.
#[inline(always)]
pub fn begin(flow: &Flow, server: &Server, new: &mut New) -> bool {
    new.word |= WORD_FULL as u32;
    if server.proxy != 0 {
        new.word |= WORD_PROXY as u32;
    }
    insert(flow, new) != 0
}

/// The entry of answers to the flow at `entry`, whose port `new` has.
#[inline(always)]
fn put_answers(key: &Flow, new: &mut New, entry: EntryRef) -> u32 {
    new.hash = hash_of(key);
    new.word |= (WORD_FULL | WORD_REPLY) as u32;
    new.syncs = 0;
    new.via.addr = entry.place();
    (insert(key, new) == 1) as u32
}

/// The same of a flow that another director told of and whose client's entry is there. Who has its
/// port here keeps it if he was heard of later.
#[inline(always)]
pub fn import(flow: &Flow, server: &Server, new: &mut New) {
    let Some((client, known)) = table::look_up(flow, new.hash) else {
        return;
    };
    let mut answers = answers_of(flow, server, new.via.port);
    if !seen_as(server, &new.via, &mut answers.dst) {
        table::retire(client, known);
        return;
    }
    new.word &= !(WORDS_PROXY ^ WORD_PROXY) as u32;
    if let Some((entry, seen)) = table::look_up(&answers, hash_of(&answers)) {
        if is_of(entry, &seen, client) {
            if (seen.word ^ u64::from(new.word)) & WORD_PROXY == 0 {
                table::change(entry, seen, new.word as u8, new.seen);
                return;
            }
            // They are an earlier connection's, whose server was told or was not.
            table::end(entry, &seen);
        } else {
            let later = new.seen.wrapping_sub(seen_of(seen.word)) as i32 > 0;
            if !later && !table::expired(seen.word, new.now) {
                table::retire(client, known);
                return;
            }
            table::retire(entry, seen);
        }
    }
    put_answers(&answers, new, client);
}

/// Whether a client's entry is of the connection that has this port and began like this.
#[inline(always)]
pub fn is_same(entry: EntryRef, seen: &Seen, word: u64, via: &Via) -> bool {
    let differs = (seen.word ^ word) & WORD_PROXY;
    // Else it is what the client said last, here.
    let first = |via: &Via| if word & WORD_PROXY != 0 { via.addr } else { 0 };
    entry
        .via(seen)
        .is_some_and(|known| (first(&known), known.name(), differs) == (first(via), via.name(), 0))
}

/// Whether these answers are of the flow whose client's entry is there.
#[inline(always)]
fn is_of(entry: EntryRef, seen: &Seen, client: EntryRef) -> bool {
    entry.via(seen).is_some_and(|via| via.addr == client.place())
}

/// A packet of a known flow, from the client.
#[inline(always)]
pub fn onward(
    packet: &mut Packet,
    entry: EntryRef,
    seen: &Seen,
    server: &'static Server,
    counts: bool,
) -> Verdict {
    let Some(via) = entry.via(seen) else {
        return Verdict::Pass;
    };
    if via.source != 0 {
        match trouble(server, &via, packet.read.now) {
            0 => {}
            ELSEWHERE => return Verdict::Drop(DROP_GUARD),
            _ => {
                table::retire(entry, *seen);
                packet.asked = 0;
                return Verdict::New;
            }
        }
    }
    let state = state::next(packet, state::BOTH, state_of(seen.word));
    if matters(packet, seen, state, packet.clock) {
        return Verdict::Go(PROGRAM_UPDATE_FULL_NAT);
    }
    belongs(packet, seen, via, 0);
    deliver(packet, seen.server, server, counts)
}

/// A packet that both entries must know, of either side.
#[inline(always)]
pub fn update(packet: &mut Packet, counts: bool) -> Verdict {
    packet.asked = 0;
    let Some((entry, mut seen)) = table::look_up(&key(packet), packet.hash) else {
        return Verdict::Pass;
    };
    let (Some(via), Some(server)) = (entry.via(&seen), SERVERS.get(seen.server)) else {
        return Verdict::Pass;
    };
    let clock = packet.clock;
    let answer = seen.word & WORD_REPLY != 0;
    let side = if answer { state::ANSWER } else { state::BOTH };
    let state = state::next(packet, side, state_of(seen.word));
    belongs(packet, &seen, via, u32::from(answer));
    if answer {
        seen.earn = earns(packet, &seen);
        keep_client(packet, &via, &seen, clock);
        table::touch(entry, seen, state, clock);
        if counts {
            count_answer(packet, server, &via);
        }
        return Verdict::Go(changer(packet));
    }
    let mut key = answers_to(packet, server, via.port);
    if !seen_as(server, &via, &mut key.dst) {
        table::retire(entry, seen);
        return Verdict::New;
    }
    let Some((there, other)) = table::look_up(&key, hash_of(&key)) else {
        return Verdict::Go(PROGRAM_INSERT_REPLY);
    };
    if !is_of(there, &other, entry) {
        // Its port is another flow's by now.
        table::retire(entry, seen);
        return Verdict::New;
    }
    let theirs = state::next(packet, state::BOTH, state_of(other.word));
    table::touch(there, other, theirs, clock);
    goes_on(packet, entry, &seen, state, clock);
    Verdict::Go(PROGRAM_DELIVER)
}

/// The answers' entry of a flow that has none: it is new, or the entry had to give way.
#[inline(always)]
pub fn insert_reply(packet: &mut Packet) -> Verdict {
    let Some((entry, seen)) = table::look_up(&key(packet), packet.hash) else {
        return Verdict::Pass;
    };
    let (Some(via), Some(server)) = (entry.via(&seen), SERVERS.get(seen.server)) else {
        return Verdict::Pass;
    };
    let mut new = New {
        hash: 0,
        server: seen.server,
        generation: seen.generation,
        seen: packet.clock,
        now: packet.clock,
        syncs: 0,
        word: u32::from(state_of(seen.word))
            | (seen.word & (WORD_PROXY | WORD_EARNED | WORD_MIDDLE)) as u32,
        via,
    };
    let mut key = answers_to(packet, server, via.port);
    if !seen_as(server, &via, &mut key.dst) {
        table::retire(entry, seen);
        return again(packet);
    }
    if put_answers(&key, &mut new, entry) == 0 {
        // A packet of the same flow on another processor may have put it there.
        let found = table::look_up(&key, hash_of(&key));
        if !found.is_some_and(|(there, other)| is_of(there, &other, entry)) {
            table::retire(entry, seen);
            return again(packet);
        }
    }
    belongs(packet, &seen, via, 0);
    Verdict::Go(PROGRAM_DELIVER)
}

/// An answer of a server, or an error about a packet that the server was sent.
#[inline(always)]
pub fn answer(packet: &mut Packet, entry: EntryRef, seen: &Seen, counts: bool) -> Verdict {
    let Some(server) = SERVERS.get(seen.server) else {
        return Verdict::Pass;
    };
    if seen.generation != server.generation || table::expired(seen.word, packet.clock) {
        return Verdict::Pass;
    }
    let Some(via) = entry.via(seen) else {
        return Verdict::Pass;
    };
    if via.source != 0 && may_not_answer(&via, seen.server, packet.read.now) != 0 {
        return Verdict::Drop(DROP_GUARD);
    }
    belongs(packet, seen, via, 1);
    if packet.kind != ERROR {
        let state = state::next(packet, state::ANSWER, state_of(seen.word));
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

/// The state that counts (the client's entry has it) follows what the server says.
#[inline(always)]
fn keep_client(packet: &Packet, via: &Via, answer: &Seen, clock: u32) {
    if let Some((entry, seen)) = table::client_of(via.addr, via.name(), answer.server) {
        let state = state::next(packet, state::ANSWER, state_of(seen.word));
        let earn = answer.earn & !seen.word;
        table::touch(entry, Seen { earn, ..seen }, state, clock);
    }
}

/// A client's packet whose flow has just lost its source, or its server: it begins another.
#[inline(always)]
pub fn lost(packet: &mut Packet) -> Verdict {
    if packet.answer != 0 || packet.kind != TRANSPORT {
        return Verdict::Pass;
    }
    if let Some((entry, seen)) = table::look_up(&key(packet), packet.hash) {
        table::retire(entry, seen);
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
    let (entry, seen) = table::client_of(packet.via.addr, packet.via.name(), packet.chosen)?;
    let flow = entry.key(&seen)?;
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
