//! The hash of everything that happens, in order.
//!
//! Decides: which changes of the code leave the hash as it is: all that change nothing of what
//! happens, be it a new name of a type or of a field. It hashes what `Debug` writes, without the
//! letters, and without making a text of it: that would take half of a run. Most of what happens is
//! frames, whose bytes it takes eight at a time.

use std::fmt::{self, Write as _};

use nines_core::Event;

use super::Happening;

/// FNV-1a of these bytes, which follow those that made `hash`.
pub(super) fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// The hash of a run so far.
pub(super) struct Trace(u64);

impl fmt::Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes().filter(|b| !b.is_ascii_alphabetic() && *b != b'_') {
            self.0 = fnv(self.0, &[byte]);
        }
        Ok(())
    }
}

impl Trace {
    pub(super) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(super) fn value(&self) -> u64 {
        self.0
    }

    /// Something happens to a machine.
    pub(super) fn add(&mut self, now: u64, id: u64, what: &Happening) {
        let Happening::Deliver(Event::Frame { from, link, bytes }) = what else {
            return write!(self, "{now} {id} {what:?}").expect("a hash takes everything");
        };
        for word in [now, id, from.number(), *link as u64, bytes.len() as u64] {
            self.add_word(word);
        }
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.add_word(u64::from_le_bytes(*word)));
        self.0 = fnv(self.0, rest);
    }

    /// Its high bits reach the low ones, too.
    fn add_word(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}

#[cfg(test)]
mod tests {
    use nines_model::NodeId;

    use super::*;

    fn hash(event: Event) -> u64 {
        let mut trace = Trace::new();
        trace.add(70, 2, &Happening::Deliver(event));
        trace.value()
    }

    #[test]
    fn every_byte_of_a_frame_counts_and_the_names_of_types_do_not() {
        let frame =
            |bytes: &[u8], link| Event::Frame { from: NodeId(3), link, bytes: bytes.into() };
        let bytes: Vec<u8> = (0..=60).collect();
        let mut hashes = vec![hash(frame(&bytes, 1)), hash(frame(&bytes, 2))];
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 0x80;
            hashes.extend([hash(frame(&other, 1)), hash(frame(&bytes[..at], 1))]);
        }
        let count = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), count);
        let mut text = format!("70 2 {:?}", Happening::Deliver(Event::Undelivered(NodeId(2))));
        text.retain(|c| !c.is_ascii_alphabetic() && c != '_');
        let written = fnv(Trace::new().value(), text.as_bytes());
        assert_eq!(hash(Event::Undelivered(NodeId(2))), written);
    }
}
