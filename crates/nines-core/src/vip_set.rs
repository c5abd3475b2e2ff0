//! The VIPs that one node holds, with their tokens, as one thing that has a name.
//!
//! A heartbeat names the set; its contents travel only when they change, in numbered parts that
//! fit a datagram each. The name is 128 bits that every pair adds its share to, so that a VIP
//! more or less changes it in one step, however many there are.
//!
//! Decides: names and bytes. What a name is worth is in `lease.rs`.

use std::{collections::BTreeMap, net::IpAddr};

use nines_model::LogIndex;

use crate::wire::{self, SetPart};

/// Bytes of contents in one part: a datagram has room for them and for a heartbeat.
pub const PART_BYTES: usize = 900;
/// Parts of one set at most; more are refused before they are kept.
pub const PARTS_MAX: u32 = 256;

/// Names the contents of a set.
pub type Name = (u64, u64);

/// VIPs and the log entries that gave them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VipSet {
    tokens: BTreeMap<IpAddr, LogIndex>,
    name: Name,
}

/// The finishing step of a well-known mixer: every bit of `word` changes half of the result.
pub(crate) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// What one pair adds to the name of its set.
fn share(vip: IpAddr, token: LogIndex) -> Name {
    let bytes = wire::pack(vip);
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let lane = |seed: u64| {
        [word(0), word(8), token.number()]
            .iter()
            .fold(seed, |hash, word| mix(hash.wrapping_add(mix(*word))))
    };
    (lane(0x9e37_79b9_7f4a_7c15), lane(0xd1b5_4a32_d192_ed03))
}

impl VipSet {
    /// Of these pairs.
    pub fn new(pairs: impl IntoIterator<Item = (IpAddr, LogIndex)>) -> Self {
        let mut set = Self::default();
        for (vip, token) in pairs {
            set.insert(vip, token);
        }
        set
    }

    /// Adds the VIP, or gives it another token; true if that changed anything.
    pub fn insert(&mut self, vip: IpAddr, token: LogIndex) -> bool {
        if self.tokens.get(&vip) == Some(&token) {
            return false;
        }
        self.remove(vip);
        self.tokens.insert(vip, token);
        let (a, b) = share(vip, token);
        self.name = (self.name.0.wrapping_add(a), self.name.1.wrapping_add(b));
        true
    }

    /// Takes the VIP out; true if it was in.
    pub fn remove(&mut self, vip: IpAddr) -> bool {
        let Some(token) = self.tokens.remove(&vip) else { return false };
        let (a, b) = share(vip, token);
        self.name = (self.name.0.wrapping_sub(a), self.name.1.wrapping_sub(b));
        true
    }

    /// What the contents are called.
    pub fn name(&self) -> Name {
        self.name
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// How many VIPs.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether the VIP is in it.
    pub fn contains(&self, vip: IpAddr) -> bool {
        self.tokens.contains_key(&vip)
    }

    /// The pairs, by address.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (IpAddr, LogIndex)> + '_ {
        self.tokens.iter().map(|(vip, token)| (*vip, *token))
    }

    /// The contents, in parts of [`PART_BYTES`] at most.
    pub fn parts(&self) -> Vec<SetPart> {
        let mut pieces = pack_all(self.iter(), PART_BYTES);
        if pieces.is_empty() {
            pieces.push(Vec::new());
        }
        let of = pieces.len() as u32;
        let named = |(number, contents)| SetPart {
            name_a: self.name.0,
            name_b: self.name.1,
            number,
            of,
            contents,
        };
        (0..).zip(pieces).map(named).collect()
    }
}

/// Pairs as compact bytes, in pieces of `most` bytes at most, each readable by itself: how many
/// leading bytes of an address are those of the one before, the other bytes, and how far its
/// token is from the one before.
pub fn pack_all(pairs: impl Iterator<Item = (IpAddr, LogIndex)>, most: usize) -> Vec<Vec<u8>> {
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    let mut before = ([0u8; 16], 0u64);
    for (vip, token) in pairs {
        let token = token.number();
        let addr: [u8; 16] = wire::pack(vip).try_into().expect("addresses are 16 bytes");
        let one = |(last, last_token): ([u8; 16], u64)| {
            let same = addr.iter().zip(last).take_while(|(a, b)| **a == *b).count();
            let mut bytes = vec![same as u8];
            bytes.extend(&addr[same..]);
            let apart = token.wrapping_sub(last_token) as i64;
            prost::encoding::encode_varint(((apart << 1) ^ (apart >> 63)) as u64, &mut bytes);
            bytes
        };
        let bytes = one(before);
        match pieces.last_mut() {
            Some(piece) if piece.len() + bytes.len() <= most => piece.extend(bytes),
            _ => pieces.push(one(([0; 16], 0))),
        }
        before = (addr, token);
    }
    pieces
}

/// Back from one piece; `None`: it makes no sense.
pub fn unpack_all(mut bytes: &[u8]) -> Option<Vec<(IpAddr, LogIndex)>> {
    let mut pairs = Vec::new();
    let (mut addr, mut token) = ([0u8; 16], 0u64);
    while let Some((same, rest)) = bytes.split_first() {
        let same = usize::from(*same);
        let own = rest.get(..16usize.checked_sub(same)?)?;
        addr[same..].copy_from_slice(own);
        bytes = &rest[own.len()..];
        let zigzag = prost::encoding::decode_varint(&mut bytes).ok()?;
        token = token.wrapping_add((zigzag >> 1) ^ (zigzag & 1).wrapping_neg());
        pairs.push((wire::unpack(&addr)?, LogIndex(token)));
    }
    Some(pairs)
}

/// A set of another node, as far as its parts have come.
#[derive(Clone, Debug, Default)]
pub struct Arriving {
    name: Name,
    of: u32,
    parts: BTreeMap<u32, Vec<(IpAddr, LogIndex)>>,
}

impl Arriving {
    /// Takes a part in; the whole set when it was the last one and the contents bear the name.
    pub fn take(&mut self, part: &SetPart) -> Option<VipSet> {
        if part.of == 0 || part.of > PARTS_MAX || part.number >= part.of {
            return None;
        }
        let pairs = unpack_all(&part.contents)?;
        let name = (part.name_a, part.name_b);
        if (self.name, self.of) != (name, part.of) {
            *self = Self { name, of: part.of, parts: BTreeMap::new() };
        }
        self.parts.insert(part.number, pairs);
        if self.parts.len() < part.of as usize {
            return None;
        }
        let parts = std::mem::take(self).parts;
        let set = VipSet::new(parts.into_values().flatten());
        (set.name() == name).then_some(set)
    }
}

/// Which of `all` are meant: one bit each, in their order.
pub fn marks(
    all: impl ExactSizeIterator<Item = IpAddr>,
    meant: impl Fn(IpAddr) -> bool,
) -> Vec<u8> {
    let mut bits = vec![0u8; all.len().div_ceil(8)];
    for (at, _) in all.enumerate().filter(|(_, vip)| meant(*vip)) {
        bits[at / 8] |= 1 << (at % 8);
    }
    bits
}

/// Back from [`marks`] of `all`, in the same order.
pub fn marked(all: impl Iterator<Item = IpAddr>, bits: &[u8]) -> Vec<IpAddr> {
    let is = |at: usize| bits.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1);
    all.enumerate().filter(|(at, _)| is(*at)).map(|(_, vip)| vip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(n: u32) -> IpAddr {
        IpAddr::from((0x0a61_0000 + n).to_be_bytes())
    }

    fn v6(n: u128) -> IpAddr {
        IpAddr::from(((0x2001_0db8 << 96) + n).to_be_bytes())
    }

    fn sets() -> Vec<VipSet> {
        vec![
            VipSet::default(),
            VipSet::new([(v4(7), LogIndex(12))]),
            VipSet::new((0..1_000).map(|n| (v4(n * 3), LogIndex(5 + u64::from(n) / 200)))),
            VipSet::new((0..300).map(|n| (v6(n << 64), LogIndex::MAX.minus(n as u64)))),
            VipSet::new(
                (0..200).map(|n| (if n % 2 == 0 { v4(n) } else { v6(n.into()) }, LogIndex(9))),
            ),
        ]
    }

    #[test]
    fn the_parts_of_a_set_make_the_set_in_any_order() {
        for set in sets() {
            let parts = set.parts();
            assert!(parts.iter().all(|p| p.contents.len() <= PART_BYTES));
            let mut arriving = Arriving::default();
            let mut whole = None;
            for part in parts.iter().rev() {
                assert_eq!(whole, None);
                whole = arriving.take(part);
            }
            assert_eq!(whole, Some(set));
        }
        let thousand = &sets()[2];
        assert!(thousand.parts().len() <= 5, "{} datagrams", thousand.parts().len());
    }

    #[test]
    fn a_name_follows_from_the_contents_alone() {
        let mut set = VipSet::new([(v4(1), LogIndex(5)), (v6(2), LogIndex(6))]);
        let name = set.name();
        assert!(
            set.insert(v4(3), LogIndex(7)) && set.insert(v4(1), LogIndex(8)) && set.remove(v4(3))
        );
        assert_ne!(set.name(), name, "another token");
        assert!(
            !set.remove(v4(3)) && set.insert(v4(1), LogIndex(5)) && !set.insert(v4(1), LogIndex(5))
        );
        assert_eq!(set.name(), name);
        let names: std::collections::BTreeSet<Name> = (0..1_000)
            .flat_map(|n| {
                [
                    VipSet::new([(v4(n), LogIndex(1))]),
                    VipSet::new([(v4(1), LogIndex(2 + u64::from(n)))]),
                ]
            })
            .map(|set| set.name())
            .collect();
        assert_eq!(names.len(), 2_000);
    }

    #[test]
    fn parts_that_do_not_make_what_they_name_are_no_set() {
        let set = sets().remove(2);
        let mut parts = set.parts();
        let mut arriving = Arriving::default();
        let other = VipSet::new([(v4(9), LogIndex(9))]).parts().remove(0).contents;
        parts[1].contents = other;
        assert!(parts.iter().all(|part| arriving.take(part).is_none()));
        for (number, of) in [(0, 0), (1, 1), (0, PARTS_MAX + 1), (u32::MAX, u32::MAX)] {
            let part = SetPart { number, of, ..SetPart::default() };
            assert_eq!(Arriving::default().take(&part), None);
        }
        for contents in [&[17][..], &[0, 1, 2], &[0xff; 40], &[16], &[0; 17]] {
            let part = SetPart { of: 1, contents: contents.to_vec(), ..SetPart::default() };
            assert_eq!(Arriving::default().take(&part), None, "{contents:?}");
        }
    }

    #[test]
    fn marks_say_which() {
        for set in sets() {
            let meant = |vip: IpAddr| wire::pack(vip)[15].is_multiple_of(3);
            let all = || set.iter().map(|(vip, _)| vip);
            let found = marked(all(), &marks(all(), meant));
            assert_eq!(found, all().filter(|vip| meant(*vip)).collect::<Vec<_>>());
        }
        assert!(marked([v4(1), v4(2)].into_iter(), &[]).is_empty());
    }
}
