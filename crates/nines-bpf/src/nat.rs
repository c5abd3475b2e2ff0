//! Translated flows: two entries, one for each direction, that live as long.
//!
//! Decides: which half belongs to which, and what an answer is.

pub mod full_nat;
pub mod proxy_protocol;

use nines_abi::{
    halves, state_of, Flow, Packet, Server, Via, DROP_GUARD, PROGRAM_DELIVER, PROGRAM_REPLY,
    PROGRAM_UPDATE_NAT, STATE_ESTABLISHED, UNPLACED, WORD_EARNED, WORD_MIDDLE, WORD_REPLY,
};

use crate::{
    clock,
    flow::{
        entry::{EntryRef, Seen},
        fragments,
        insert::{insert, New, ALREADY},
        state, table, tcp_sequence,
    },
    guard,
    maps::{count, count_drop, SERVERS},
    parse::packet::{key, words, FIN, RST, SYN, UDP},
    schedule::persistence::goes_on,
    service::server::{known_as, port_of},
    verdict::Verdict,
};

/// The other half of a translated flow: answers, for a packet from the client; the client's
/// packets, for an answer.
#[inline(always)]
fn other_half(packet: &Packet, server: &Server, answer: Option<&Via>) -> Flow {
    let proto = u32::from(packet.proto);
    match answer {
        Some(via) => {
            let (dst, dport) = known_as(server, via);
            Flow { src: packet.dst, sport: packet.dport, dst, dport, proto }
        }
        None => Flow {
            src: words(&server.addr),
            sport: port_of(server, packet.dport),
            dst: packet.src,
            dport: packet.sport,
            proto,
        },
    }
}

/// The entry by which the server's answers are known; `flow`, which is the client's, becomes it. An
/// earlier flow of the same client and port may have left one.
#[inline(always)]
pub fn remember_reply(packet: &Packet, server: &Server, flow: &mut New) {
    remember_half(other_half(packet, server, None), flow);
}

/// The same of a flow that another director told of.
#[inline(always)]
pub fn import_reply(key: &Flow, server: &Server, flow: &mut New) {
    let (sport, dst, dport) = (port_of(server, key.dport), key.src, key.sport);
    remember_half(Flow { src: words(&server.addr), sport, dst, dport, proto: key.proto }, flow);
}

#[inline(always)]
fn remember_half(half: Flow, new: &mut New) {
    let hash = table::hash_of(&half);
    // In place: the stack has no room for another.
    (new.hash, new.syncs) = (hash, 0);
    new.word |= WORD_REPLY as u32;
    // In its second bucket an insertion into the first would not see it.
    let mut placed = ALREADY;
    if !table::has_spilled(hash) {
        placed = insert(&half, new);
    }
    if placed == ALREADY {
        if let Some((entry, seen)) = table::look_up(&half, hash) {
            table::retire(entry, seen);
        }
        placed = insert(&half, new);
    }
    if placed == 0 {
        count_drop(UNPLACED);
    }
}

/// Both entries of a translated flow live as long, and the state that counts (the client's entry
/// has it) follows what either side says.
#[inline(always)]
pub fn keep_other_half(
    packet: &Packet,
    seen: &Seen,
    server: &Server,
    answer: Option<&Via>,
    clock: u32,
) {
    let half = other_half(packet, server, answer);
    let kept = seen.word & (WORD_EARNED | WORD_MIDDLE) | seen.earn;
    let hash = table::hash_of(&half);
    if let Some((entry, other)) = table::look_up(&half, hash) {
        // A late answer of the server that had this port before says nothing of its successor's.
        if (other.server, other.generation) == (seen.server, seen.generation) {
            let side = if answer.is_some() { state::ANSWER } else { state::BOTH };
            let state = state::next(packet, side, state_of(other.word));
            let earn = seen.earn & !other.word;
            table::touch(entry, Seen { earn, ..other }, state, clock);
        }
    } else if had_two(packet, seen, answer) {
        // It had to give way; one without the other leads nowhere.
        let side = if answer.is_some() { state::ANSWER } else { state::BOTH };
        let state = state::next(packet, side, state_of(seen.word));
        let here = Via { addr: packet.dst[3], port: packet.dport, source: 0 };
        // What the client said is in its own entry, and not known any more.
        let via = if answer.is_some() { Via { addr: 0, port: 0, source: 0 } } else { here };
        let word = u32::from(state) | (!seen.word & WORD_REPLY | kept) as u32;
        let (server, generation) = (seen.server, seen.generation);
        let new = New { hash, server, generation, seen: clock, word, now: clock, syncs: 0, via };
        insert(&half, &new);
    }
}

/// Whether a flow with one half is one that had two. Of single datagrams there never is a client's.
#[inline(always)]
fn had_two(packet: &Packet, seen: &Seen, answer: Option<&Via>) -> bool {
    let begun = state_of(seen.word) == STATE_ESTABLISHED;
    begun || packet.proto == UDP && answer.is_none()
}

/// Whether the other half has to know of this packet.
#[inline(always)]
pub fn matters(packet: &Packet, seen: &Seen, state: u8, clock: u32) -> bool {
    state != state_of(seen.word)
        || packet.flags & (SYN | FIN | RST) != 0
        || table::stale(seen.word, clock)
}

/// Whether an answer says that the server talks to its client: anything but a part of the
/// handshake, or a reset, which a server sends to strangers.
#[inline(always)]
pub fn earns(packet: &Packet, seen: &Seen) -> u64 {
    if packet.flags & (SYN | RST) == 0 {
        WORD_EARNED & !seen.word
    } else {
        0
    }
}

/// The server that sent an answer, and what its client calls it; or what becomes of the packet.
#[inline(always)]
fn sender(entry: EntryRef, seen: &Seen, now: u64) -> Result<(&'static Server, Via), Verdict> {
    let server = SERVERS.get(seen.server).ok_or(Verdict::Pass)?;
    if seen.generation != server.generation {
        return Err(Verdict::Pass);
    }
    let via = entry.via(seen).ok_or(Verdict::Pass)?;
    if guard::silent(halves(known_as(server, &via).0), now) {
        return Err(Verdict::Drop(DROP_GUARD));
    }
    Ok((server, via))
}

/// An answer of a real server behind NAT.
#[inline(always)]
pub fn reply(packet: &mut Packet, entry: EntryRef, seen: &Seen, now: u64, counts: bool) -> Verdict {
    if table::expired(seen.word, packet.clock) {
        return Verdict::Pass;
    }
    let state = state::next(packet, state::ANSWER, state_of(seen.word));
    if matters(packet, seen, state, packet.clock) || earns(packet, seen) != 0 {
        return Verdict::Go(PROGRAM_UPDATE_NAT);
    }
    let (server, via) = match sender(entry, seen, now) {
        Ok(found) => found,
        Err(instead) => return instead,
    };
    packet.chosen = seen.server;
    if counts {
        count_answer(packet, server, &via);
    }
    Verdict::Reply(server, via)
}

/// An answer, and where its fragments go.
#[inline(always)]
pub fn count_answer(packet: &Packet, server: &Server, via: &Via) {
    count(packet.chosen, server.service, packet.bytes, true);
    fragments::note(packet, packet.chosen, server, Some(via));
}

/// A packet that both entries must know, of either side. Another program sends it.
#[inline(always)]
pub fn update(packet: &mut Packet, counts: bool) -> Verdict {
    let Some((entry, mut seen)) = table::look_up(&key(packet), packet.hash) else {
        return Verdict::Pass;
    };
    let clock = packet.clock;
    packet.chosen = seen.server;
    if seen.word & WORD_REPLY != 0 {
        let now = clock::recent(packet);
        let (server, via) = match sender(entry, &seen, now) {
            Ok(found) => found,
            Err(instead) => return instead,
        };
        if packet.flags & (FIN | RST) != 0 {
            let client = other_half(packet, server, Some(&via));
            if let Some((client, _)) = table::look_up(&client, table::hash_of(&client)) {
                tcp_sequence::judge_server(packet, client);
            }
        }
        seen.earn = earns(packet, &seen);
        let state = state::next(packet, state::ANSWER, state_of(seen.word));
        keep_other_half(packet, &seen, server, Some(&via), clock);
        table::touch(entry, seen, state, clock);
        if counts {
            count_answer(packet, server, &via);
        }
        packet.via = via;
        return Verdict::Go(PROGRAM_REPLY);
    }
    let Some(server) = SERVERS.get(seen.server) else {
        return Verdict::Pass;
    };
    if packet.flags != 0 {
        tcp_sequence::judge(packet, entry, seen.word);
    }
    let state = state::next(packet, state::BOTH, state_of(seen.word));
    keep_other_half(packet, &seen, server, None, clock);
    goes_on(packet, entry, &seen, state, clock);
    Verdict::Go(PROGRAM_DELIVER)
}

/// An error about a packet that the server was sent.
#[inline(always)]
pub fn error(packet: &Packet, entry: EntryRef, seen: &Seen, now: u64) -> Verdict {
    if table::expired(seen.word, packet.clock) {
        return Verdict::Pass;
    }
    match sender(entry, seen, now) {
        Ok((server, via)) => Verdict::Reply(server, via),
        Err(instead) => instead,
    }
}
