//! Room in the array of picks.
//!
//! Decides: where a new pick table is written: behind the one written last, round and round, so
//! that a packet that has just read an old service never meets its table rewritten.

use std::collections::BTreeMap;

/// Stretches that nobody uses: length by beginning. Everything is a multiple of two, the picks of
/// one array entry.
pub struct Free {
    stretches: BTreeMap<u32, u32>,
}

const fn even(len: u32) -> u32 {
    len.next_multiple_of(2)
}

impl Free {
    /// What `used` (beginning, length) leaves of `whole`.
    pub fn new(whole: u32, used: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut used: Vec<(u32, u32)> = used.into_iter().filter(|(_, len)| *len > 0).collect();
        used.sort_unstable();
        let mut stretches = BTreeMap::new();
        let mut end = 0;
        for (base, len) in used {
            if base > end {
                stretches.insert(end, base - end);
            }
            end = end.max(base + even(len));
        }
        if whole > end {
            stretches.insert(end, whole - end);
        }
        Self { stretches }
    }

    /// Takes `len` at `from` or behind, or from the beginning; `None`: no stretch is so long.
    pub fn take(&mut self, len: u32, from: u32) -> Option<u32> {
        let (len, from) = (even(len), even(from));
        // A stretch that begins before `from` is used from there on, if that is enough.
        let across = self.stretches.range(..from).next_back().and_then(|(base, free)| {
            let skip = from - base;
            (skip < *free && free - skip >= len).then_some((*base, skip))
        });
        let behind = || self.stretches.range(from..).find(|(_, free)| **free >= len);
        let before = || self.stretches.iter().find(|(_, free)| **free >= len);
        let (base, skip) =
            across.or_else(|| behind().or_else(before).map(|(base, _)| (*base, 0)))?;
        let free = self.stretches.remove(&base)?;
        if skip > 0 {
            self.stretches.insert(base, skip);
        }
        if free > skip + len {
            self.stretches.insert(base + skip + len, free - skip - len);
        }
        Some(base + skip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_round_and_never_into_what_is_used() {
        let mut free = Free::new(20, [(4, 3), (10, 2)]);
        assert_eq!(free.take(4, 0), Some(0));
        assert_eq!(free.take(3, 9), Some(12), "8 and 9 are too few");
        assert_eq!(free.take(4, 16), Some(16));
        assert_eq!(free.take(2, 18), Some(8), "round to the beginning");
        assert_eq!(free.take(1, 0), None);
        let mut one = Free::new(8, []);
        assert_eq!((one.take(2, 3), one.take(2, 6), one.take(4, 0)), (Some(4), Some(6), Some(0)));
    }
}
