//! The flow table: an array of buckets, seven flows each.
//!
//! Decides: where a flow lives and when one gives way. A lookup costs the line that holds the
//! bucket's tags and the line of the flow; a full bucket spills into a second one; what is not
//! established gives way first, then what was silent longest. Expiry needs no daemon: it happens
//! where room is needed, and in one bucket more with every new flow, so that counts follow.
//!
//! Two processors: a flow's word changes by compare-and-swap only, so one of them counts; whoever
//! adds holds the bucket's lock, tried a bounded number of times. A reader that meets an entry
//! being replaced sees another version and has a miss.

use core::mem::{offset_of, size_of};

pub use nines_abi::hash_of;
use nines_abi::{
    is_active, limited, seen_of, state_of, Bucket, Entry, Flow, Tail, Via, EVICTED,
    STATE_ESTABLISHED, STATE_LISTEN, STATE_UDP, WAYS, WORD_FULL, WORD_LIVE, WORD_REPLY,
};

use crate::{
    atomic::{self, opaque},
    maps::{
        buckets_mask, count_drop, BELL, BELLS, CHANGED, FLOWS, LOADS, SERVERS, SETTINGS, SWEEP,
    },
};

/// The version in a word.
const VERSION: u64 = 0xffff << 16;
const VERSION_STEP: u64 = 1 << 16;
/// Idle for less, in units of `IDLE_SHIFT`: alive whatever its state (8.4 s; the shortest limit but
/// that of a flow that has shown no TCP flag is 10 s).
const SURELY_ALIVE: u32 = 500;

#[inline(always)]
fn bucket(index: u32) -> Option<*mut Bucket> {
    FLOWS.get_ptr_mut(index & buckets_mask())
}

/// Ways are counted from 1, as tags are; the bucket's own head lies in the place of way 0.
#[inline(always)]
fn way(bucket: *mut Bucket, number: usize) -> *mut Entry {
    // The compiler knows the bound and would leave the mask out; the verifier needs it.
    let number = opaque(number as u64) as usize & 7;
    unsafe { bucket.cast::<u8>().add(number * size_of::<Entry>()) }.cast()
}
const _: () = assert!(offset_of!(Bucket, ways) == size_of::<Entry>());

#[inline(always)]
fn tail_of(entry: *mut Entry) -> *mut Tail {
    unsafe { core::ptr::addr_of_mut!((*entry).tail) }
}

/// Whether a place has this key. Its words are read after what was read of it before, never
/// earlier: only so does a version that stays the same vouch for them.
#[inline(always)]
fn same(entry: *const Entry, key: &Flow) -> bool {
    let (a, b) = (entry.cast::<u64>(), (key as *const Flow).cast::<u64>());
    let differs = |i: usize| unsafe { core::ptr::read_volatile(a.add(i)) ^ *b.add(i) };
    // One branch instead of five: what differs is rare and costs the same.
    differs(0) | differs(1) | differs(2) | differs(3) | differs(4) == 0
}

#[inline(always)]
fn tag_of(hash: u64) -> u64 {
    hash >> 48 | 1
}

#[inline(always)]
fn second(hash: u64) -> u32 {
    (hash >> 20) as u32
}

/// Which ways have this tag: the lowest bit of a byte each; byte 2n is way n, byte 2n + 1 way
/// n + 4, and the head's never. Four tags in a word are compared at once: a zero lane of `x` sets
/// its top bit (and perhaps, after a true one, a false one, which the key's comparison finds out).
/// No branches: each would double what the verifier walks.
#[inline(always)]
fn matching(bucket: *const Bucket, tag: u64) -> u64 {
    const LOW: u64 = 0x0001_0001_0001_0001;
    const TOP: u64 = 0x8000_8000_8000_8000;
    let tags = unsafe { core::ptr::addr_of!((*bucket).tags) }.cast::<u64>();
    let wanted = tag.wrapping_mul(LOW);
    let zero = |word: u64| {
        let x = word ^ wanted;
        x.wrapping_sub(LOW) & !x & TOP
    };
    unsafe { (zero(*tags) >> 15 | zero(*tags.add(1)) >> 7) & !1 }
}

/// Number of the way that the lowest bit stands for.
#[inline(always)]
fn lowest(mask: u64) -> usize {
    let bit = mask & mask.wrapping_neg();
    // Bit 8n brings the n-th byte from the top to the top.
    (bit.wrapping_mul(0x0004_0105_0206_0307) >> 56) as usize
}

#[inline(always)]
fn in_bucket(bucket: *mut Bucket, tag: u64, key: &Flow) -> Option<(*mut Entry, u64)> {
    let mut mask = matching(bucket, tag);
    for _ in 0..2 {
        if mask == 0 {
            return None;
        }
        let entry = way(bucket, lowest(mask));
        // The word before the key: see [`read_from`].
        let word = unsafe { core::ptr::read_volatile(&(*tail_of(entry)).word) };
        if same(entry, key) {
            return Some((entry, word));
        }
        mask &= mask - 1;
    }
    None
}

/// A flow that lives, and what is known of it.
#[inline(always)]
pub fn find(key: &Flow, hash: u64) -> Option<(*mut Tail, Seen)> {
    let (entry, word) = entry_of(key, hash)?;
    let tail = tail_of(entry);
    Some((tail, read_from(tail, word)?))
}

#[inline(always)]
fn entry_of(key: &Flow, hash: u64) -> Option<(*mut Entry, u64)> {
    let tag = tag_of(hash);
    let first = bucket(hash as u32)?;
    if let Some((entry, word)) = in_bucket(first, tag, key) {
        // One that ended may lie before one that lives.
        if word & WORD_LIVE != 0 {
            return Some((entry, word));
        }
    }
    if unsafe { (*first).spilled } == 0 {
        return None;
    }
    in_bucket(bucket(second(hash))?, tag, key)
}

/// A flow as one look saw it.
#[derive(Clone, Copy)]
pub struct Seen {
    pub word: u64,
    pub server: u32,
    pub generation: u32,
}

/// Reads an entry that another processor may be replacing; `None`: it is.
#[inline(always)]
pub fn read(tail: *mut Tail) -> Option<Seen> {
    read_from(tail, unsafe { core::ptr::read_volatile(core::ptr::addr_of!((*tail).word)) })
}

/// The same by a word that was read a moment ago: what was read since then belongs to it if the
/// word has the same version afterwards.
#[inline(always)]
fn read_from(tail: *mut Tail, word: u64) -> Option<Seen> {
    unsafe {
        let server = core::ptr::read_volatile(core::ptr::addr_of!((*tail).server));
        let generation = core::ptr::read_volatile(core::ptr::addr_of!((*tail).generation));
        let after = core::ptr::read_volatile(core::ptr::addr_of!((*tail).word));
        let same = (word ^ after) & (VERSION | WORD_LIVE) == 0;
        (word & WORD_LIVE != 0 && same).then_some(Seen { word, server, generation })
    }
}

/// What the client calls the other end of this flow; `None`: the entry was replaced meanwhile.
#[inline(always)]
pub fn via(tail: *mut Tail, seen: &Seen) -> Option<Via> {
    unsafe {
        let via = core::ptr::read_volatile(via_of(tail));
        let after = core::ptr::read_volatile(core::ptr::addr_of!((*tail).word));
        ((seen.word ^ after) & (VERSION | WORD_LIVE) == 0).then_some(via)
    }
}

/// Where an entry is: eight times the index of its bucket, and its way.
#[inline(always)]
pub fn place_of(tail: *mut Tail) -> u32 {
    let Some(base) = FLOWS.get_ptr_mut(0) else {
        return 0;
    };
    ((tail as u64 - base as u64) / size_of::<Entry>() as u64) as u32
}

/// What is in a place now.
#[inline(always)]
pub fn at(place: u32) -> Option<*mut Tail> {
    // The bucket's head is no entry.
    if place & WAYS as u32 == 0 {
        return None;
    }
    Some(tail_of(way(bucket(place >> 3)?, place as usize)))
}

/// The key of an entry; `None`: it was replaced meanwhile.
#[inline(always)]
pub fn key_of(tail: *mut Tail, seen: &Seen) -> Option<Flow> {
    unsafe {
        let entry = tail.cast::<u8>().sub(offset_of!(Entry, tail)).cast::<Entry>();
        let key = core::ptr::read_volatile(core::ptr::addr_of!((*entry).key));
        let after = core::ptr::read_volatile(core::ptr::addr_of!((*tail).word));
        ((seen.word ^ after) & (VERSION | WORD_LIVE) == 0).then_some(key)
    }
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
fn weigh(slot: u32, generation: u32, state: u8, by: u64) -> u32 {
    let (Some(server), Some(load)) = (SERVERS.get(slot), LOADS.get_ptr_mut(slot)) else {
        return 0;
    };
    if server.generation != generation {
        return 0;
    }
    let at = unsafe {
        if is_active(state) {
            core::ptr::addr_of_mut!((*load).active)
        } else {
            core::ptr::addr_of_mut!((*load).inactive)
        }
    };
    atomic::add(at, by);
    if server.upper != 0 {
        let load = unsafe { &mut *load };
        load.overloaded = limited(load, server.upper, server.lower);
    }
    0
}

const LESS: u64 = u64::MAX;

/// Ends a flow; false if another processor changed it meanwhile.
#[inline(always)]
pub fn retire(tail: *mut Tail, seen: Seen) -> bool {
    // Read before it ends: then it is this flow's.
    let via = unsafe { core::ptr::read_volatile(via_of(tail)) };
    let ended = end(tail, &seen);
    // By full NAT without its answers' entry another may be given its port.
    if ended && seen.word & (WORD_FULL | WORD_REPLY) == WORD_FULL | WORD_REPLY {
        end_client(via.addr, via.port, seen.server);
    }
    ended
}

#[inline(always)]
fn end(tail: *mut Tail, seen: &Seen) -> bool {
    let at = unsafe { core::ptr::addr_of_mut!((*tail).word) };
    // What remains is the version: the next user of this place raises it.
    let ended = atomic::swap_if(at, seen.word, seen.word & VERSION);
    if ended && seen.word & WORD_REPLY == 0 {
        weigh(seen.server, seen.generation, state_of(seen.word), LESS);
    }
    ended
}

/// Ends the client's entry of a flow by full NAT.
#[inline(never)]
fn end_client(place: u32, port: u16, server: u32) -> u32 {
    if let Some((tail, seen)) = client_of(place, port) {
        return (seen.server == server && end(tail, &seen)) as u32;
    }
    0
}

/// The client's entry of a flow by full NAT, if the place is still its own.
#[inline(always)]
pub fn client_of(place: u32, port: u16) -> Option<(*mut Tail, Seen)> {
    let tail = at(place)?;
    let seen = read(tail)?;
    let same = via(tail, &seen)?.port == port;
    (same && seen.word & (WORD_FULL | WORD_REPLY) == WORD_FULL).then_some((tail, seen))
}

#[inline(always)]
fn via_of(tail: *mut Tail) -> *const Via {
    unsafe {
        let entry = tail.cast::<u8>().sub(offset_of!(Entry, tail)).cast::<Entry>();
        core::ptr::addr_of!((*entry).via)
    }
}

/// Whether the time of the last packet is to be written again: at most every half second, for a
/// shared cache line costs more than the precision.
#[inline(always)]
pub fn stale(word: u64, now: u32) -> bool {
    now.wrapping_sub(seen_of(word)) >= 30
}

/// A packet of a known flow: its state, and that it was seen.
#[inline(always)]
pub fn touch(tail: *mut Tail, seen: Seen, state: u8, now: u32) {
    let before = state_of(seen.word);
    if state == before && !stale(seen.word, now) {
        return;
    }
    if !change(tail, seen, state, now) && state != before {
        // A refresh on another processor came between; what a FIN or RST says must not be lost.
        if let Some(again) = read(tail) {
            if (again.word ^ seen.word) & VERSION == 0 {
                change(tail, again, state, now);
            }
        }
    }
    if state != before && seen.word & WORD_REPLY == 0 {
        tell_of(tail);
    }
}

/// Other directors want to know of this flow.
#[inline(never)]
fn tell_of(tail: *mut Tail) -> u32 {
    let Some(base) = FLOWS.get_ptr_mut(0) else {
        return 0;
    };
    tell((tail as u64 - base as u64) as u32 / size_of::<Bucket>() as u32)
}

/// Other directors want to know of a flow in this bucket. The flow is there before its bit, the bit
/// before the bell: who clears the bell and then the bits misses none.
#[inline(always)]
fn tell(index: u32) -> u32 {
    let Some(word) = CHANGED.get_ptr_mut(index >> 6) else {
        return 0;
    };
    let bit = 1u64 << (index & 63);
    if unsafe { core::ptr::read_volatile(word) } & bit != 0 {
        return 0;
    }
    atomic::set_bits(word, bit);
    let Some(bell) = BELL.get_ptr_mut(0) else {
        return 0;
    };
    if unsafe { core::ptr::read_volatile(bell) } == 0 && atomic::swap_if(bell, 0, 1) {
        // A full ring wakes whoever reads it as well.
        let _ = BELLS.output::<u64>(&1, 0);
    }
    0
}

/// The same without telling anybody.
#[inline(always)]
pub fn change(tail: *mut Tail, seen: Seen, state: u8, now: u32) -> bool {
    let before = state_of(seen.word);
    let word = u64::from(now) << 32 | (seen.word & 0xffff_ff00) | u64::from(state);
    let at = unsafe { core::ptr::addr_of_mut!((*tail).word) };
    let changed = atomic::swap_if(at, seen.word, word);
    if changed && is_active(before) != is_active(state) && seen.word & WORD_REPLY == 0 {
        weigh(seen.server, seen.generation, before, LESS);
        weigh(seen.server, seen.generation, state, 1);
    }
    changed
}

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
    pub tells: u32,
    pub via: Via,
}

/// How far another processor's reading of the clock may be ahead, in units of `IDLE_SHIFT` (1 s).
const AHEAD: u32 = 60;

/// The way that ranks first, and its rank (at most 60 bits), by word, time silent and all ones
/// where nothing lives. No branch: the verifier would walk each combination.
#[inline(always)]
fn first_by(bucket: *mut Bucket, now: u32, rank: impl Fn(u64, u64, u64) -> u64) -> (usize, u64) {
    // Rank and way in one number, and the greatest of them.
    let mut best = 0u64;
    let now = now.wrapping_add(AHEAD);
    for number in 1..=WAYS {
        let word = unsafe { core::ptr::read_volatile(&(*tail_of(way(bucket, number))).word) };
        let silent = u64::from(now.wrapping_sub(seen_of(word)));
        let dead = opaque((word >> 8 & 1).wrapping_sub(1));
        let this = rank(word, silent, dead) << 3 | number as u64;
        let less = opaque(((best as i64 - this as i64) >> 63) as u64);
        best = (this & less) | (best & !less);
    }
    (best as usize & 7, best >> 3)
}

/// What a new flow may take: nothing's place, then, with `force`, that of a flow which is not
/// established, or no more (so whoever sends SYNs by the million takes his own places), then whose
/// silence is longest.
#[inline(always)]
fn to_reuse(bucket: *mut Bucket, now: u32, force: u32) -> (usize, u64) {
    let counts = u64::from(force) << 3;
    const _: () = assert!(STATE_ESTABLISHED == 1 && STATE_UDP & 7 == 1 && STATE_LISTEN & 7 != 1);
    first_by(bucket, now, |word, silent, dead| {
        let passing = ((word & 7 ^ 1) + 7) & counts;
        silent | passing << 30 | dead & FREE
    })
}

/// The flow that was silent longest.
#[inline(always)]
fn to_end(bucket: *mut Bucket, now: u32) -> usize {
    first_by(bucket, now, |_, silent, dead| silent & !dead).0
}

/// What [`put`] says of a flow that is there already.
const ALREADY: u32 = 2;

/// Rank of ways that hold nothing.
const FREE: u64 = (1 << 40) - 1;

/// Puts a flow into a bucket that has room, or, with `force`, in the place of the one that was
/// silent longest.
#[inline(never)]
fn put(index: u32, key: &Flow, new: &New, force: u32) -> u32 {
    let Some(bucket) = bucket(index) else {
        return 0;
    };
    let lock = unsafe { core::ptr::addr_of_mut!((*bucket).lock) };
    let mut tries = 0;
    while !atomic::swap_if(lock, 0, 1) {
        tries += 1;
        if tries == 8 {
            return 0;
        }
    }
    let (mut number, mut rank) = to_reuse(bucket, new.now, force);
    // A flow has one place in a bucket: where it lay before, if it did, or a lookup would find the
    // ended one first.
    if let Some((before, word)) = in_bucket(bucket, tag_of(new.hash), key) {
        if word & WORD_LIVE != 0 {
            // Another processor was faster.
            atomic::publish(lock, 0);
            return ALREADY;
        }
        number = (before as usize - bucket as usize) / size_of::<Entry>();
        rank = FREE;
    }
    let entry = way(bucket, number);
    let tail = tail_of(entry);
    let mut may = rank == FREE;
    if !may {
        if let Some(seen) = read(tail) {
            let over = expired(seen.word, new.now);
            may = (over || force != 0) && retire(tail, seen);
            if may && !over {
                count_drop(EVICTED);
            }
        }
    }
    if may {
        unsafe {
            let version = core::ptr::read_volatile(&(*tail).word).wrapping_add(VERSION_STEP);
            core::ptr::write_volatile(core::ptr::addr_of_mut!((*entry).key), *key);
            core::ptr::write_volatile(core::ptr::addr_of_mut!((*entry).via), new.via);
            core::ptr::write_volatile(core::ptr::addr_of_mut!((*tail).server), new.server);
            core::ptr::write_volatile(core::ptr::addr_of_mut!((*tail).generation), new.generation);
            let tags = core::ptr::addr_of_mut!((*bucket).tags).cast::<u16>();
            core::ptr::write_volatile(
                tags.add(opaque(number as u64) as usize & 7),
                tag_of(new.hash) as u16,
            );
            let word =
                u64::from(new.seen) << 32 | (version & VERSION) | u64::from(new.word) | WORD_LIVE;
            atomic::publish(core::ptr::addr_of_mut!((*tail).word), word);
        }
    }
    atomic::publish(lock, 0);
    if may && new.tells != 0 {
        tell(index & buckets_mask());
    }
    may as u32
}

/// Adds a flow and what it weighs; 0 if it found no place.
#[inline(never)]
pub fn insert(key: &Flow, new: &New) -> u32 {
    let (first, other) = (new.hash as u32, second(new.hash));
    let mut placed = put(first, key, new, 0);
    if placed == 0 {
        // Told before it is there: whoever looks for it then looks there too.
        if let Some(first) = bucket(first) {
            unsafe { core::ptr::write_volatile(core::ptr::addr_of_mut!((*first).spilled), 1) };
        }
        placed = put(other, key, new, 1);
    }
    if placed == 1 && u64::from(new.word) & WORD_REPLY == 0 {
        weigh(new.server, new.generation, new.word as u8, 1);
    }
    placed
}

/// Ends the longest silent flow of the next bucket if it is idle; every new flow pays for one, so
/// the counts of flows follow the more closely the more depends on them.
#[inline(never)]
pub fn sweep(now: u32) -> u32 {
    let Some(cursor) = SWEEP.get_ptr_mut(0) else {
        return 0;
    };
    let Some(bucket) = bucket(atomic::fetch_add(cursor, 1) as u32) else {
        return 0;
    };
    let tail = tail_of(way(bucket, to_end(bucket, now)));
    if let Some(seen) = read(tail) {
        if expired(seen.word, now) {
            retire(tail, seen);
        }
    }
    0
}
