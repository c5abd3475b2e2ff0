//! Connection sync, the receiving side: flows that another director has sent.
//!
//! Decides: which of two copies of a flow counts: the one with the later packet. A flow to a server
//! that this director does not have, or has added again since, is not taken.

use nines_abi::{
    call_of, clock_of, seen_of, state_of, Entry, Template, TemplateKey, Via, FORWARD_NAT,
    SERVICE_SIP, SYNC_IMPORT_MAX, WORDS_PROXY, WORD_EARNED, WORD_FULL, WORD_MIDDLE, WORD_REPLY,
};

use crate::{
    atomic::{opaque, Word},
    clock,
    flow::{
        entry::Seen,
        insert::{insert, New},
        table,
    },
    maps::{find_lru, SERVERS, SERVICES, SYNC_CURSOR, SYNC_IMPORT, TEMPLATES},
    nat::{self, full_nat},
    service::server::is_full_nat,
};

/// Takes the next entry of map `SYNC_IMPORT`.
#[inline(always)]
pub fn import_next() {
    let Some(cursor) = Word::in_array(&SYNC_CURSOR, 0) else {
        return;
    };
    let at = cursor.fetch_add(1) as u32 & (SYNC_IMPORT_MAX - 1);
    if let Some(entry) = SYNC_IMPORT.get(at) {
        import(entry);
    }
}

#[inline(always)]
fn import(entry: &Entry) {
    let told = &entry.tail;
    let Some(server) = SERVERS.get(told.server) else {
        return;
    };
    if server.generation != told.generation {
        return;
    }
    let now = clock_of(clock::exact());
    let (state, seen) = (state_of(told.word), seen_of(told.word));
    remember_client(entry, server.service, seen);
    // One that names a client only.
    if state == 0 {
        return;
    }
    let hash = table::hash_of(&entry.key);
    let mut word = u32::from(state) | (told.word & (WORD_EARNED | WORD_MIDDLE)) as u32;
    if is_full_nat(server) {
        word |= (WORD_FULL | told.word & WORDS_PROXY) as u32;
    }
    let mut new = New {
        hash,
        server: told.server,
        generation: told.generation,
        seen,
        now,
        word,
        syncs: 0,
        via: entry.via,
    };
    // What the client said last nobody told. No branch: the verifier would walk the rest twice.
    let kept = opaque(is_full_nat(server) as u64).wrapping_neg();
    // SAFETY: a `Via` is eight bytes of integers, for which any bits do.
    new.via = unsafe {
        core::mem::transmute::<u64, Via>(core::mem::transmute::<Via, u64>(new.via) & kept)
    };
    if let Some((tail, known)) = table::look_up(&entry.key, hash) {
        let later = seen.wrapping_sub(seen_of(known.word)) as i32 > 0;
        if known.word & WORD_REPLY != 0 {
            return;
        }
        let same = (known.server, known.generation) == (told.server, told.generation)
            && (!is_full_nat(server) || full_nat::is_same(tail, &known, told.word, &new.via));
        if same {
            // What was done is done, however late the word of it.
            table::add_bits(tail, &known, told.word & WORDS_PROXY);
        }
        if !later {
            return;
        }
        if same {
            if let Some(known) = tail.read() {
                let earn = told.word & WORD_EARNED & !known.word;
                table::change(tail, Seen { earn, ..known }, state, seen);
            }
        } else {
            table::retire(tail, known);
            insert(&entry.key, &new);
        }
    } else {
        insert(&entry.key, &new);
    }
    if is_full_nat(server) {
        full_nat::import(&entry.key, server, &mut new);
    }
    if server.forward == FORWARD_NAT {
        new.via = entry.via;
        nat::import_reply(&entry.key, server, &mut new);
    }
}

/// A service with persistence sends this client's next flow to the same server. A function of its
/// own: the caller's stack has no room for it.
#[inline(never)]
fn remember_client(entry: &Entry, service: u32, seen: u32) -> u32 {
    let Some(of) = SERVICES.get(service) else {
        return 0;
    };
    // A flow does not say of which call it is.
    let told = state_of(entry.tail.word) == 0;
    if of.persist == 0 || !told && of.flags & SERVICE_SIP != 0 {
        return 0;
    }
    let (a, m) = (&entry.key.src, &of.mask);
    let client = [a[0] & m[0], a[1] & m[1], a[2] & m[2], a[3] & m[3]];
    let call = if told { call_of(&entry.via) } else { 0 };
    let key = TemplateKey { client, service, call, pad: 0 };
    if let Some(known) = find_lru(&TEMPLATES, &key) {
        let generation = SERVERS.get(known.server).map_or(0, |server| server.generation);
        let later = seen.wrapping_sub(known.seen) as i32 > 0;
        // Of a server that has gone anything is later.
        if !later && generation == known.generation {
            return 0;
        }
    }
    let (server, generation) = (entry.tail.server, entry.tail.generation);
    let _ = TEMPLATES.insert(&key, &Template { server, generation, seen, pad: 0 }, 0);
    0
}
