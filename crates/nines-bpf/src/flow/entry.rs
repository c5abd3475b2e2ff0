//! One place of the flow table, read and compared while other processors may be writing it.
//!
//! Decides: when what was read belongs together: the word has the same version before and after, so
//! a reader that meets an entry being replaced has a miss.

use core::mem::{offset_of, size_of};

use nines_abi::{Bucket, Entry, Flow, Tail, Via, WAYS, WORD_LIVE};

use crate::{
    atomic::opaque,
    maps::{buckets_mask, FLOWS},
};

/// The version in a word.
pub const VERSION: u64 = 0xfffe << 16;
pub const VERSION_STEP: u64 = 1 << 17;

#[inline(always)]
pub fn bucket(index: u32) -> Option<*mut Bucket> {
    FLOWS.get_ptr_mut(index & buckets_mask())
}

/// Ways are counted from 1, as tags are; the bucket's own head lies in the place of way 0.
#[inline(always)]
pub fn way(bucket: *mut Bucket, number: usize) -> *mut Entry {
    // The compiler knows the bound and would leave the mask out; the verifier needs it.
    let number = opaque(number as u64) as usize & 7;
    unsafe { bucket.cast::<u8>().add(number * size_of::<Entry>()) }.cast()
}
const _: () = assert!(offset_of!(Bucket, ways) == size_of::<Entry>());

#[inline(always)]
pub fn tail_of(entry: *mut Entry) -> *mut Tail {
    unsafe { core::ptr::addr_of_mut!((*entry).tail) }
}

#[inline(always)]
pub fn entry_at(tail: *mut Tail) -> *mut Entry {
    unsafe { tail.cast::<u8>().sub(offset_of!(Entry, tail)).cast() }
}

/// Whether a place has this key. Its words are read after what was read of it before, never
/// earlier: only so does a version that stays the same vouch for them.
#[inline(always)]
pub fn same(entry: *const Entry, key: &Flow) -> bool {
    let (a, b) = (entry.cast::<u64>(), (key as *const Flow).cast::<u64>());
    let differs = |i: usize| unsafe { core::ptr::read_volatile(a.add(i)) ^ *b.add(i) };
    // One branch instead of five: what differs is rare and costs the same.
    differs(0) | differs(1) | differs(2) | differs(3) | differs(4) == 0
}

/// A flow as one look saw it.
#[derive(Clone, Copy)]
pub struct Seen {
    pub word: u64,
    pub server: u32,
    pub generation: u32,
    /// What this packet adds to the word: [`WORD_EARNED`] or nothing.
    pub earn: u64,
}

/// Reads an entry that another processor may be replacing; `None`: it is.
#[inline(always)]
pub fn read(tail: *mut Tail) -> Option<Seen> {
    read_from(tail, unsafe { core::ptr::read_volatile(core::ptr::addr_of!((*tail).word)) })
}

/// The same by a word that was read a moment ago: what was read since then belongs to it if the
/// word has the same version afterwards.
#[inline(always)]
pub fn read_from(tail: *mut Tail, word: u64) -> Option<Seen> {
    unsafe {
        let server = core::ptr::read_volatile(core::ptr::addr_of!((*tail).server));
        let generation = core::ptr::read_volatile(core::ptr::addr_of!((*tail).generation));
        let after = core::ptr::read_volatile(core::ptr::addr_of!((*tail).word));
        let same = (word ^ after) & (VERSION | WORD_LIVE) == 0;
        (word & WORD_LIVE != 0 && same).then_some(Seen { word, server, generation, earn: 0 })
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
        let key = core::ptr::read_volatile(core::ptr::addr_of!((*entry_at(tail)).key));
        let after = core::ptr::read_volatile(core::ptr::addr_of!((*tail).word));
        ((seen.word ^ after) & (VERSION | WORD_LIVE) == 0).then_some(key)
    }
}

/// In a client's entry: the two numbers that it said last, as on the wire.
#[inline(always)]
pub fn numbers_of(tail: *mut Tail) -> *mut u64 {
    via_of(tail).cast_mut().cast()
}

#[inline(always)]
pub fn via_of(tail: *mut Tail) -> *const Via {
    unsafe { core::ptr::addr_of!((*entry_at(tail)).via) }
}
