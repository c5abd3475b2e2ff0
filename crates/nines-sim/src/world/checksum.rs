//! The hash of everything that happens, in order.
//!
//! Decides: which changes of the code leave the hash as it is: all that change nothing of what
//! happens, be it a new name of a type or of a field. It hashes what `Debug` writes, without the
//! letters, and without making a text of it: that would take half of a run.

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
        let written = match what {
            Happening::Deliver(Event::Frame { from, link, bytes }) => {
                let begun = write!(self, "{now} {id} ( {{ : {from:?}, : {link}, : [");
                self.add_numbers(bytes);
                begun.and_then(|()| self.write_str("] })"))
            }
            other => write!(self, "{now} {id} {other:?}"),
        };
        written.expect("a hash takes everything");
    }

    /// Bytes as numbers with commas between: most of what happens is frames.
    fn add_numbers(&mut self, bytes: &[u8]) {
        for (at, byte) in bytes.iter().enumerate() {
            if at > 0 {
                self.0 = fnv(self.0, b", ");
            }
            let digits = [b'0' + byte / 100, b'0' + byte / 10 % 10, b'0' + byte % 10];
            let zeros = usize::from(*byte < 100) + usize::from(*byte < 10);
            self.0 = fnv(self.0, &digits[zeros..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use nines_model::NodeId;

    use super::*;

    #[test]
    fn a_frame_is_hashed_as_it_is_written() {
        let bytes = (0..=255).collect();
        let frame = Event::Frame { from: NodeId(3), link: 1, bytes };
        for event in [frame, Event::Tick, Event::Undelivered(NodeId(2))] {
            let what = Happening::Deliver(event);
            let mut trace = Trace::new();
            trace.add(70, 2, &what);
            let mut text = format!("70 2 {what:?}");
            text.retain(|c| !c.is_ascii_alphabetic() && c != '_');
            assert_eq!(trace.value(), fnv(Trace::new().value(), text.as_bytes()), "{what:?}");
        }
    }
}
