//! Buckets and entries of the flow table, read and written while other processors do the same.
//!
//! Decides: when what was read belongs together: the word has the same version before and after, so
//! a reader that meets an entry being replaced has a miss.

use core::mem::{offset_of, size_of};

use nines_abi::{Bucket, Entry, Flow, Via, WAYS, WORD_LIVE};

use crate::{
    atomic::{opaque, Word},
    maps::{buckets_mask, FLOWS},
};

/// The version in a word.
pub const VERSION: u64 = 0xfffe << 16;
pub const VERSION_STEP: u64 = 1 << 17;

/// A bucket of map `FLOWS`, whose memory stays as long as the map.
#[derive(Clone, Copy)]
pub struct BucketRef(*mut Bucket);

impl BucketRef {
    /// The bucket with this number, modulo how many there are.
    #[inline(always)]
    pub fn at(index: u32) -> Option<Self> {
        FLOWS.get_ptr_mut(index & buckets_mask()).map(Self)
    }

    /// The entry in a way. Ways are counted from 1, as tags are; the bucket's own head lies in the
    /// place of way 0.
    #[inline(always)]
    pub fn entry(self, number: usize) -> EntryRef {
        // The compiler knows the bound and would leave the mask out; the verifier needs it.
        let number = opaque(number as u64) as usize & 7;
        // SAFETY: a bucket is eight times as large as an entry, the first being its head, and 7 is
        // the most that `number` can be.
        EntryRef(unsafe { self.0.cast::<u8>().add(number * size_of::<Entry>()) }.cast())
    }

    /// The way that an entry of this bucket lies in.
    #[inline(always)]
    pub fn number_of(self, entry: EntryRef) -> usize {
        (entry.0 as usize - self.0 as usize) / size_of::<Entry>()
    }

    /// 1 while somebody adds a flow here.
    #[inline(always)]
    pub fn lock(self) -> Word {
        // SAFETY: a field of the bucket, of eight bytes at a multiple of eight.
        unsafe { Word::new(&raw mut (*self.0).lock) }
    }

    /// Whether flows that belong here lie in their second bucket.
    #[inline(always)]
    pub fn has_spilled(self) -> bool {
        // SAFETY: a field of the bucket. It is 0 or 1 and never goes back.
        unsafe { (*self.0).spilled != 0 }
    }

    /// From now on flows that belong here may lie in their second bucket.
    #[inline(always)]
    pub fn spill(self) {
        // SAFETY: as in `has_spilled`; volatile, so that it is there before the flow is.
        unsafe { (&raw mut (*self.0).spilled).write_volatile(1) }
    }

    /// All tags, four a word. The lane of a tag is its way's number.
    #[inline(always)]
    pub fn tags(self) -> [u64; 2] {
        // SAFETY: eight tags of two bytes are two words, at a multiple of eight in the bucket
        // (asserted below). A tag that is just being written is another flow's or this one's: the
        // key is compared afterwards.
        unsafe {
            let tags = (&raw const (*self.0).tags).cast::<u64>();
            [*tags, *tags.add(1)]
        }
    }

    /// Writes the tag of a way; the caller has the lock.
    #[inline(always)]
    pub fn set_tag(self, number: usize, tag: u16) {
        // SAFETY: there are eight tags, and 7 is the most that the number can be.
        unsafe {
            let tags = (&raw mut (*self.0).tags).cast::<u16>();
            tags.add(opaque(number as u64) as usize & 7).write_volatile(tag);
        }
    }
}
const _: () = assert!(offset_of!(Bucket, ways) == size_of::<Entry>());
const _: () = assert!(size_of::<Bucket>() == 8 * size_of::<Entry>());
const _: () = assert!(offset_of!(Bucket, tags) % 8 == 0 && offset_of!(Bucket, lock) % 8 == 0);

/// An entry of map `FLOWS`, whose memory stays as long as the map. What is in it may change at any
/// time.
#[derive(Clone, Copy)]
pub struct EntryRef(*mut Entry);

impl EntryRef {
    /// What is in a place now: see [`EntryRef::place`].
    #[inline(always)]
    pub fn at(place: u32) -> Option<Self> {
        // The bucket's head is no entry.
        if place & WAYS as u32 == 0 {
            return None;
        }
        Some(BucketRef::at(place >> 3)?.entry(place as usize))
    }

    /// Where an entry is: eight times the index of its bucket, and its way.
    #[inline(always)]
    pub fn place(self) -> u32 {
        let Some(base) = FLOWS.get_ptr_mut(0) else {
            return 0;
        };
        ((self.0 as u64 - base as u64) / size_of::<Entry>() as u64) as u32
    }

    /// The index of its bucket; `None` is never, but the verifier asks.
    #[inline(always)]
    pub fn bucket_index(self) -> Option<u32> {
        let base = FLOWS.get_ptr_mut(0)?;
        Some((self.0 as u64 - base as u64) as u32 / size_of::<Bucket>() as u32)
    }

    /// Its state, time and version; whoever changes it swaps it.
    #[inline(always)]
    pub fn word(self) -> Word {
        // SAFETY: a field of the entry, of eight bytes at a multiple of eight (asserted below).
        unsafe { Word::new(&raw mut (*self.0).tail.word) }
    }

    /// In a client's entry: the two numbers that it said last, as on the wire.
    #[inline(always)]
    pub fn numbers(self) -> Word {
        // SAFETY: a `Via` is eight bytes, at a multiple of eight in the entry (asserted below).
        unsafe { Word::new((&raw mut (*self.0).via).cast()) }
    }

    /// A field, read once.
    #[inline(always)]
    fn get<T: Copy>(self, offset: usize) -> T {
        // SAFETY: the callers below give a field's offset and type. Volatile, for others write it;
        // the version says whether all that was read is of one flow.
        unsafe { self.0.cast::<u8>().add(offset).cast::<T>().read_volatile() }
    }

    /// Writes a field, in the order of the calls.
    #[inline(always)]
    fn set<T: Copy>(self, offset: usize, value: T) {
        // SAFETY: as in `get`. Only the holder of the bucket's lock comes here, and the entry's
        // word says that nothing lives in it.
        unsafe { self.0.cast::<u8>().add(offset).cast::<T>().write_volatile(value) }
    }

    /// Whether it has this key. The words are read after what was read of it before, never earlier:
    /// only so does a version that stays the same vouch for them.
    #[inline(always)]
    pub fn has(self, key: &Flow) -> bool {
        let wanted = core::ptr::from_ref(key).cast::<u64>();
        // SAFETY: a key is five words, in the argument as in the entry. The argument is on the
        // stack or in a map value; the verifier refuses a program that reads eight bytes of the
        // stack from another place than a multiple of eight, and elsewhere the CPU does not mind.
        let differs = |i: usize| self.get::<u64>(8 * i) ^ unsafe { *wanted.add(i) };
        // One branch instead of five: what differs is rare and costs the same.
        differs(0) | differs(1) | differs(2) | differs(3) | differs(4) == 0
    }

    /// Reads an entry that another processor may be replacing; `None`: it is.
    #[inline(always)]
    pub fn read(self) -> Option<Seen> {
        self.read_from(self.word().read())
    }

    /// The same by a word that was read a moment ago: what was read since then belongs to it if the
    /// word has the same version afterwards.
    #[inline(always)]
    pub fn read_from(self, word: u64) -> Option<Seen> {
        let server = self.get(offset_of!(Entry, tail.server));
        let generation = self.get(offset_of!(Entry, tail.generation));
        let same = self.is_still(word);
        (word & WORD_LIVE != 0 && same).then_some(Seen { word, server, generation, earn: 0 })
    }

    /// Whether nobody replaced the entry since its word was this one.
    #[inline(always)]
    fn is_still(self, word: u64) -> bool {
        (word ^ self.word().read()) & (VERSION | WORD_LIVE) == 0
    }

    /// What the client calls the other end of this flow; `None`: the entry was replaced meanwhile.
    #[inline(always)]
    pub fn via(self, seen: &Seen) -> Option<Via> {
        let via = self.via_now();
        self.is_still(seen.word).then_some(via)
    }

    /// The same of whatever flow the entry has now.
    #[inline(always)]
    pub fn via_now(self) -> Via {
        self.get(offset_of!(Entry, via))
    }

    /// The key of an entry; `None`: it was replaced meanwhile.
    #[inline(always)]
    pub fn key(self, seen: &Seen) -> Option<Flow> {
        let key = self.get(offset_of!(Entry, key));
        self.is_still(seen.word).then_some(key)
    }

    /// Puts another flow into it, but for its word, which makes it one. The caller has the lock.
    #[inline(always)]
    pub fn fill(self, key: &Flow, via: Via, server: u32, generation: u32) {
        self.set(offset_of!(Entry, key), *key);
        self.set(offset_of!(Entry, via), via);
        self.set(offset_of!(Entry, tail.server), server);
        self.set(offset_of!(Entry, tail.generation), generation);
    }
}
const _: () = assert!(offset_of!(Entry, key) == 0 && offset_of!(Entry, via) % 8 == 0);
const _: () = assert!(offset_of!(Entry, tail.word) % 8 == 0 && size_of::<Via>() == 8);

/// A flow as one look saw it.
#[derive(Clone, Copy)]
pub struct Seen {
    pub word: u64,
    pub server: u32,
    pub generation: u32,
    /// What this packet adds to the word: [`nines_abi::WORD_EARNED`] or nothing.
    pub earn: u64,
}
