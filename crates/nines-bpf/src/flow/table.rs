//! The flow table: an array of buckets, seven flows each.
//!
//! Decides: where a flow lives and when one gives way. A lookup costs the line of the flow, or also
//! that of its bucket's tags; a full bucket spills into a second one; what is not
//! established gives way first, then what was silent longest. Expiry needs no daemon: it happens
//! where room is needed, and in one bucket more with every new flow, so that counts follow.
//!
//! Two processors: a flow's word changes by compare-and-swap only, so one of them counts; whoever
//! adds holds the bucket's lock, tried a bounded number of times. A reader that meets an entry
//! being replaced sees another version and has a miss.

use nines_abi::{
    is_active, limited, seen_of, state_of, Flow, WAYS, WORD_EARNED, WORD_FULL, WORD_LIVE,
    WORD_MIDDLE, WORD_REPLY, WORD_SHOWN,
};

use super::entry::{BucketRef, EntryRef, Seen, VERSION};
use crate::{
    atomic::Word,
    maps::{flow_key, shared, LOADS, SERVERS, SETTINGS, SYNC_CHANGED, SYNC_EVENTS, SYNC_PENDING},
};

/// Where a flow lies. The key is each machine's own: directors tell one another flows by their
/// addresses, and choose servers by [`nines_abi::hash_of`].
#[inline(always)]
pub fn hash_of(key: &Flow) -> u64 {
    nines_abi::place_hash(key, flow_key())
}

/// Half a second, in units of `IDLE_SHIFT`.
const STALE: u32 = 30;
/// Idle for less, in units of `IDLE_SHIFT`: alive whatever its state (8.4 s; the shortest limit but
/// that of a flow that has shown no TCP flag is 10 s).
const SURELY_ALIVE: u32 = 500;

#[inline(always)]
pub fn tag_of(hash: u64) -> u64 {
    hash >> 48 | 1
}

/// The way that a flow lies in if it is free when the flow comes.
#[inline(always)]
pub fn preferred(hash: u64) -> usize {
    1 + ((hash >> 40 & 0xff) as usize * WAYS >> 8)
}

#[inline(always)]
pub fn second(hash: u64) -> u32 {
    (hash >> 20) as u32
}

/// Which ways have this tag: the lowest bit of a byte each; byte 2n is way n, byte 2n + 1 way
/// n + 4, and the head's never. Four tags in a word are compared at once: a zero lane of `x` sets
/// its top bit (and perhaps, after a true one, a false one, which the key's comparison finds out).
/// No branches: each would double what the verifier walks.
#[inline(always)]
fn matching(bucket: BucketRef, tag: u64) -> u64 {
    const LOW: u64 = 0x0001_0001_0001_0001;
    const TOP: u64 = 0x8000_8000_8000_8000;
    let [low, high] = bucket.tags();
    let wanted = tag.wrapping_mul(LOW);
    let zero = |word: u64| {
        let x = word ^ wanted;
        x.wrapping_sub(LOW) & !x & TOP
    };
    (zero(low) >> 15 | zero(high) >> 7) & !1
}

/// Number of the way that the lowest bit stands for.
#[inline(always)]
fn lowest(mask: u64) -> usize {
    let bit = mask & mask.wrapping_neg();
    // Bit 8n brings the n-th byte from the top to the top.
    (bit.wrapping_mul(0x0004_0105_0206_0307) >> 56) as usize
}

#[inline(always)]
pub fn in_bucket(bucket: BucketRef, tag: u64, key: &Flow) -> Option<(EntryRef, u64)> {
    let mut mask = matching(bucket, tag);
    for _ in 0..2 {
        if mask == 0 {
            return None;
        }
        let entry = bucket.entry(lowest(mask));
        // The word before the key: see [`EntryRef::read_from`].
        let word = entry.word().read();
        if entry.has(key) {
            return Some((entry, word));
        }
        mask &= mask - 1;
    }
    None
}

/// Whether flows that belong into this one's bucket lie in their second one.
#[inline(always)]
pub fn has_spilled(hash: u64) -> bool {
    BucketRef::at(hash as u32).is_none_or(BucketRef::has_spilled)
}

/// A flow that lives, and what is known of it.
#[inline(always)]
pub fn find(key: &Flow, hash: u64) -> Option<(EntryRef, Seen)> {
    let (entry, word) = entry_of(key, hash)?;
    Some((entry, entry.read_from(word)?))
}

/// The same, for programs that few packets need: the verifier forgets on return in which of its
/// places the search ended, and walks what follows once.
#[inline(always)]
pub fn look_up(key: &Flow, hash: u64) -> Option<(EntryRef, Seen)> {
    let entry = EntryRef::at(place_by(key, hash))?;
    let word = entry.word().read();
    // Another processor may have replaced it since.
    if !entry.has(key) {
        return None;
    }
    Some((entry, entry.read_from(word)?))
}

#[inline(never)]
fn place_by(key: &Flow, hash: u64) -> u32 {
    entry_of(key, hash).map_or(0, |(entry, _)| entry.place())
}

#[inline(always)]
fn entry_of(key: &Flow, hash: u64) -> Option<(EntryRef, u64)> {
    let tag = tag_of(hash);
    let first = BucketRef::at(hash as u32)?;
    // Most lie where they would like to: one line of memory, and no tags.
    let entry = first.entry(preferred(hash));
    let word = entry.word().read();
    if word & WORD_LIVE != 0 && entry.has(key) {
        return Some((entry, word));
    }
    if let Some((entry, word)) = in_bucket(first, tag, key) {
        // One that ended may lie before one that lives.
        if word & WORD_LIVE != 0 {
            return Some((entry, word));
        }
    }
    if !first.has_spilled() {
        return None;
    }
    in_bucket(BucketRef::at(second(hash))?, tag, key)
}

/// Whether a flow was silent for longer than its state allows.
#[inline(always)]
pub fn expired(word: u64, now: u32) -> bool {
    let idle = now.wrapping_sub(seen_of(word));
    if idle < SURELY_ALIVE || idle > u32::MAX / 2 {
        return false;
    }
    let Some(settings) = SETTINGS.get(0) else {
        return false;
    };
    idle > settings.idle[(state_of(word) & 15) as usize]
}

/// Adds a flow to what a server carries, or takes it off. A server is overloaded from its upper
/// threshold until below its lower one, which is three quarters of that if not set (ip_vs_conn.c,
/// ip_vs_bind_dest, ip_vs_unbind_dest). A function of its own, or the verifier would walk what
/// follows once for each outcome.
#[inline(never)]
pub fn weigh(slot: u32, generation: u32, state: u8, by: u64) -> u32 {
    let (Some(server), Some(load)) = (SERVERS.get(slot), shared(&LOADS, slot)) else {
        return 0;
    };
    if server.generation != generation {
        return 0;
    }
    let at = if is_active(state) { &raw mut load.active } else { &raw mut load.inactive };
    // SAFETY: a field of an array's value, of eight bytes at a multiple of eight.
    unsafe { Word::new(at) }.add(by);
    if server.upper != 0 {
        load.overloaded = limited(load, server.upper, server.lower);
    }
    0
}

const LESS: u64 = u64::MAX;

/// Whether an entry is one of those that servers carry: a client's, of a flow that began here or
/// has shown that it is one.
#[inline(always)]
pub fn counts(word: u64) -> bool {
    word & WORD_REPLY == 0 && word & (WORD_MIDDLE | WORD_EARNED) != WORD_MIDDLE
}

/// Ends a flow; false if another processor changed it meanwhile.
#[inline(always)]
pub fn retire(entry: EntryRef, seen: Seen) -> bool {
    // Read before it ends: then it is this flow's.
    let via = entry.via_now();
    let ended = end(entry, &seen);
    // By full NAT without its answers' entry another may be given its port.
    if ended && seen.word & (WORD_FULL | WORD_REPLY) == WORD_FULL | WORD_REPLY {
        end_client(via.addr, via.name(), seen.server);
    }
    ended
}

/// The same of this entry only.
#[inline(always)]
pub fn end(entry: EntryRef, seen: &Seen) -> bool {
    // What remains is the version: the next user of this place raises it.
    let ended = entry.word().swap_if(seen.word, seen.word & VERSION);
    if ended && counts(seen.word) {
        weigh(seen.server, seen.generation, state_of(seen.word), LESS);
    }
    ended
}

/// Ends the client's entry of a flow by full NAT.
#[inline(never)]
fn end_client(place: u32, name: u32, server: u32) -> u32 {
    client_of(place, name, server).is_some_and(|(entry, seen)| end(entry, &seen)) as u32
}

/// The client's entry of a flow by full NAT to this server, if the place is still its own. `name`:
/// [`Via::name`].
#[inline(always)]
pub fn client_of(place: u32, name: u32, server: u32) -> Option<(EntryRef, Seen)> {
    let entry = EntryRef::at(place)?;
    let seen = entry.read()?;
    let same = entry.via(&seen)?.name() == name && seen.server == server;
    (same && seen.word & (WORD_FULL | WORD_REPLY) == WORD_FULL).then_some((entry, seen))
}

/// Whether the time of the last packet is to be written again: at most every half second, for a
/// shared cache line costs more than the precision.
#[inline(always)]
pub fn stale(word: u64, now: u32) -> bool {
    now.wrapping_sub(seen_of(word)) >= STALE
}

/// The opposite as a number, 1 or 0.
#[inline(always)]
pub fn fresh(word: u64, now: u32) -> u64 {
    u64::from(now.wrapping_sub(seen_of(word))).wrapping_sub(u64::from(STALE)) >> 63
}

/// A packet of a known flow: its state, and that it was seen.
#[inline(always)]
pub fn touch(entry: EntryRef, seen: Seen, state: u8, now: u32) {
    let before = state_of(seen.word);
    if state == before && !stale(seen.word, now) && seen.earn == 0 {
        return;
    }
    if !change(entry, seen, state, now) && state != before {
        // A refresh on another processor came between; what a FIN or RST says must not be lost.
        if let Some(again) = entry.read() {
            if (again.word ^ seen.word) & VERSION == 0 {
                change(entry, Seen { earn: seen.earn, ..again }, state, now);
            }
        }
    }
    if counts(seen.word | seen.earn) && (state != before || !counts(seen.word)) {
        mark_changed_of(entry);
    }
}

/// Other directors want to know of this flow.
#[inline(never)]
fn mark_changed_of(entry: EntryRef) -> u32 {
    entry.bucket_index().map_or(0, mark_changed)
}

/// Other directors want to know of a flow in this bucket. The flow is there before its bit, the bit
/// before the bell: who clears the bell and then the bits misses none.
#[inline(always)]
pub fn mark_changed(index: u32) -> u32 {
    let Some(word) = Word::in_array(&SYNC_CHANGED, index >> 6) else {
        return 0;
    };
    let bit = 1u64 << (index & 63);
    if word.read() & bit != 0 {
        return 0;
    }
    word.set_bits(bit);
    let Some(bell) = Word::in_array(&SYNC_PENDING, 0) else {
        return 0;
    };
    if bell.read() == 0 && bell.swap_if(0, 1) {
        // A full ring wakes whoever reads it as well.
        let _ = SYNC_EVENTS.output::<u64>(&1, 0);
    }
    0
}

/// Sets bits of a flow's word that nobody takes away again; whether they are set.
#[inline(always)]
pub fn add_bits(entry: EntryRef, seen: &Seen, bits: u64) -> bool {
    let at = entry.word();
    let mut word = seen.word;
    for _ in 0..2 {
        if word & bits == bits || at.swap_if(word, word | bits) {
            return true;
        }
        match entry.read() {
            Some(again) if (again.word ^ seen.word) & VERSION == 0 => word = again.word,
            _ => return false,
        }
    }
    false
}

/// The server knows who the client is; other directors want to know that.
#[inline(always)]
pub fn show(entry: EntryRef, seen: &Seen) {
    if add_bits(entry, seen, WORD_SHOWN) {
        mark_changed_of(entry);
    }
}

/// The same without telling anybody.
#[inline(always)]
pub fn change(entry: EntryRef, seen: Seen, state: u8, now: u32) -> bool {
    let before = state_of(seen.word);
    let word = u64::from(now) << 32 | (seen.word & 0xffff_ff00) | seen.earn | u64::from(state);
    let changed = entry.word().swap_if(seen.word, word);
    let counted = counts(seen.word);
    if changed && counts(word) && !(counted && is_active(before) == is_active(state)) {
        if counted {
            weigh(seen.server, seen.generation, before, LESS);
        }
        weigh(seen.server, seen.generation, state, 1);
    }
    changed
}
