//! Adds flows.
//!
//! Decides: which place a new one gets, and who gives way for it.

use nines_abi::{
    seen_of, Flow, Via, EVICTED, STATE_ESTABLISHED, STATE_LISTEN, STATE_UDP, WAYS, WORD_EARNED,
    WORD_LIVE, WORD_MIDDLE,
};

use super::{
    entry::{BucketRef, VERSION, VERSION_STEP},
    table::{counts, expired, in_bucket, mark_changed, preferred, retire, second, tag_of, weigh},
};
use crate::{
    atomic::{opaque, Word},
    maps::{buckets_mask, count_drop, SWEEP},
};

/// What a new flow brings.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct New {
    pub hash: u64,
    pub server: u32,
    pub generation: u32,
    /// When its last packet came.
    pub seen: u32,
    /// State and `WORD_*`.
    pub word: u32,
    pub now: u32,
    /// Whether other directors want to know.
    pub syncs: u32,
    pub via: Via,
}

/// How far another processor's reading of the clock may be ahead, in units of `IDLE_SHIFT` (1 s).
const AHEAD: u32 = 60;

/// The way that ranks first, and its rank (at most 60 bits), by word, time silent and all ones
/// where nothing lives. No branch: the verifier would walk each combination.
#[inline(always)]
fn first_by(bucket: BucketRef, now: u32, rank: impl Fn(u64, u64, u64) -> u64) -> (usize, u64) {
    // Rank and way in one number, and the greatest of them.
    let mut best = 0u64;
    let now = now.wrapping_add(AHEAD);
    for number in 1..=WAYS {
        let word = bucket.entry(number).word().read();
        let silent = u64::from(now.wrapping_sub(seen_of(word)));
        let dead = opaque((word >> 8 & 1).wrapping_sub(1));
        let this = rank(word, silent, dead) << 3 | number as u64;
        let less = opaque(((best as i64 - this as i64) >> 63) as u64);
        best = (this & less) | (best & !less);
    }
    (best as usize & 7, best >> 3)
}

/// What a new flow may take: nothing's place, then, with `force`, that of one which came in the
/// middle and has shown nothing since; of one which is not established, or no more (so whoever
/// sends SYNs by the million takes his own places); of one that has not earned its place; of
/// datagrams; then whose silence is longest. Of TCP that has not earned its place it is the
/// shortest: where answers go past, who has been there for long is the less likely forged.
#[inline(always)]
fn to_reuse(bucket: BucketRef, now: u32, force: u32) -> (usize, u64) {
    const _: () = assert!(STATE_ESTABLISHED == 1 && STATE_UDP == 9 && STATE_LISTEN & 7 != 1);
    const _: () = assert!(WORD_EARNED == 1 << 15 && WORD_MIDDLE == 1 << 16);
    // The verifier knows which of them it is, and walks one.
    if force == 0 {
        return first_by(bucket, now, |_, silent, dead| silent | dead & FREE);
    }
    first_by(bucket, now, |word, silent, dead| {
        let passing = ((word & 7 ^ 1) + 7) >> 3 & 1;
        let unearned = word >> 15 & 1 ^ 1;
        let idle = unearned & word >> 16;
        // Established TCP, and nothing below it.
        let new = unearned & !(passing | word >> 16 | word >> 3) & 1;
        let worth = (word >> 3 & 1) << 33 | unearned << 34 | passing << 35 | idle << 36;
        silent ^ opaque(new).wrapping_neg() & 0xffff_ffff | worth | dead & FREE
    })
}

/// The flow that was silent longest; if none lives, a way that holds nothing.
#[inline(always)]
fn to_end(bucket: BucketRef, now: u32) -> usize {
    // Time silent and way in one number; what is below the time in a word moves it by one at most.
    let now = u64::from(now.wrapping_add(AHEAD)) << 32;
    let mut best = 1;
    for number in 1..=WAYS {
        let word = bucket.entry(number).word().read();
        if word & WORD_LIVE != 0 {
            let this = now.wrapping_sub(word) & !7 | number as u64;
            if this > best {
                best = this;
            }
        }
    }
    best as usize & 7
}

/// Whether a flow lives there.
#[inline(always)]
fn is_taken(bucket: BucketRef, number: usize) -> bool {
    let word = bucket.entry(number).word().read();
    word & WORD_LIVE != 0
}

/// What [`insert`] says of a flow that is there already.
pub const ALREADY: u32 = 2;

/// Rank of ways that hold nothing.
const FREE: u64 = (1 << 40) - 1;

/// Puts a flow into a bucket that has room, or, with `force`, in the place of the one that was
/// silent longest.
#[inline(never)]
fn put(index: u32, key: &Flow, new: &New, force: u32) -> u32 {
    let Some(bucket) = BucketRef::at(index) else {
        return 0;
    };
    let lock = bucket.lock();
    let mut tries = 0;
    while !lock.swap_if(0, 1) {
        tries += 1;
        if tries == 8 {
            return 0;
        }
    }
    let (mut number, mut rank) = (preferred(new.hash), FREE);
    // A flow has one place in a bucket: where it lay before, if it did, or a lookup would find the
    // ended one first.
    if let Some((before, word)) = in_bucket(bucket, tag_of(new.hash), key) {
        if word & WORD_LIVE != 0 {
            // Another processor was faster.
            lock.publish(0);
            return ALREADY;
        }
        number = bucket.number_of(before);
    } else if is_taken(bucket, number) {
        (number, rank) = to_reuse(bucket, new.now, force);
    }
    let entry = bucket.entry(number);
    let mut may = rank == FREE;
    if !may {
        if let Some(seen) = entry.read() {
            let over = expired(seen.word, new.now);
            // What comes in the middle takes a place of its own kind only: it may be forged.
            let lent = opaque((!u64::from(new.word) >> 16 | rank >> 36) & u64::from(force) & 1);
            may = (over || lent != 0) && retire(entry, seen);
            if may && !over {
                count_drop(EVICTED);
            }
        }
    }
    if may {
        let version = entry.word().read().wrapping_add(VERSION_STEP);
        entry.fill(key, new.via, new.server, new.generation);
        bucket.set_tag(number, tag_of(new.hash) as u16);
        let word =
            u64::from(new.seen) << 32 | (version & VERSION) | u64::from(new.word) | WORD_LIVE;
        entry.word().publish(word);
    }
    lock.publish(0);
    if may && new.syncs != 0 {
        mark_changed(index & buckets_mask());
    }
    may as u32
}

/// Adds a flow and what it weighs; 0 if it found no place, [`ALREADY`] if it is there.
#[inline(never)]
pub fn insert(key: &Flow, new: &New) -> u32 {
    let (first, other) = (new.hash as u32, second(new.hash));
    let mut placed = put(first, key, new, 0);
    if placed == 0 {
        // Told before it is there: whoever looks for it then looks there too.
        if let Some(first) = BucketRef::at(first) {
            first.spill();
        }
        placed = put(other, key, new, 1);
    }
    if placed == 1 && counts(u64::from(new.word)) {
        weigh(new.server, new.generation, new.word as u8, 1);
    }
    placed
}

/// Ends the longest silent flow of the next bucket if it is idle; every new flow pays for one, so
/// the counts of flows follow the more closely the more depends on them.
#[inline(never)]
pub fn sweep(now: u32) -> u32 {
    let Some(cursor) = Word::in_array(&SWEEP, 0) else {
        return 0;
    };
    let Some(bucket) = BucketRef::at(cursor.fetch_add(1) as u32) else {
        return 0;
    };
    let entry = bucket.entry(to_end(bucket, now));
    if let Some(seen) = entry.read() {
        if expired(seen.word, now) {
            retire(entry, seen);
        }
    }
    0
}
