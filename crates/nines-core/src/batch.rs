//! Commands about many VIPs in one entry of the log: a takeover of a thousand VIPs is a few
//! entries, each of which fits a datagram.
//!
//! Decides: how commands about one VIP each are put together, and what they mean: the same as one
//! after the other.

use std::net::IpAddr;

use nines_model::LogIndex;

use crate::{
    vip_set::{PART_BYTES, pack_all, unpack_all},
    wire::{self, Batch, Give, Move, Token, command::Kind},
};

const GIVEN: u32 = 0;
const MOVED: u32 = 1;
const RELEASED: u32 = 2;

/// What all of one entry have in common.
fn common(kind: &Kind) -> Option<(Batch, (IpAddr, LogIndex))> {
    let (many, vip, token) = match kind {
        Kind::Give(Give { vip, to, from, why, silent_ms, .. }) => {
            let (to, from, why) = (to.clone(), from.clone(), why.clone());
            let silent_ms = *silent_ms;
            let many = Batch { what: GIVEN, to, from, why, silent_ms, ..Batch::default() };
            (many, vip, LogIndex::ZERO)
        }
        Kind::Move(Move { vip, from, to, why }) => {
            let (to, from, why) = (to.clone(), from.clone(), why.clone());
            (Batch { what: MOVED, to, from, why, ..Batch::default() }, vip, LogIndex::ZERO)
        }
        Kind::Released(token) => {
            let incarnation = token.incarnation;
            let many = Batch { what: RELEASED, incarnation, ..Batch::default() };
            (many, &token.vip, token.index())
        }
        _ => return None,
    };
    Some((many, (wire::unpack(vip)?, token)))
}

/// Puts commands together that say the same of several VIPs; others stay as they are.
pub fn together(kinds: Vec<Kind>) -> Vec<Kind> {
    let mut groups: Vec<(Batch, Vec<(IpAddr, LogIndex)>, Kind)> = Vec::new();
    let mut out = Vec::new();
    for kind in kinds {
        let Some((many, pair)) = common(&kind) else {
            out.push(kind);
            continue;
        };
        match groups.iter_mut().find(|(group, ..)| *group == many) {
            Some((_, pairs, _)) => pairs.push(pair),
            None => groups.push((many, vec![pair], kind)),
        }
    }
    for (many, pairs, first) in groups {
        if pairs.len() == 1 {
            out.push(first);
            continue;
        }
        // The names and the reason are in each of them.
        let words = many.to.len() + many.from.len() + many.why.len();
        let room = PART_BYTES.saturating_sub(words).max(100);
        let pieces = pack_all(pairs.into_iter(), room);
        out.extend(pieces.into_iter().map(|vips| Kind::Batch(Batch { vips, ..many.clone() })));
    }
    out
}

/// A command as commands about one VIP each.
pub fn singly(kind: Kind) -> Vec<Kind> {
    let Kind::Batch(many) = kind else { return vec![kind] };
    let Batch { what, to, from, why, silent_ms, incarnation, vips } = many;
    let one = |(vip, index): (IpAddr, LogIndex)| {
        let vip = wire::pack(vip);
        let (to, from, why) = (to.clone(), from.clone(), why.clone());
        match what {
            GIVEN => Kind::Give(Give { vip, to, from, why, silent_ms, ..Give::default() }),
            MOVED => Kind::Move(Move { vip, from, to, why }),
            _ => Kind::Released(Token { vip, index: index.number(), incarnation }),
        }
    };
    // What makes no sense says nothing, on every node alike.
    unpack_all(&vips)
        .unwrap_or_default()
        .into_iter()
        .filter(|_| what <= RELEASED)
        .map(one)
        .collect()
}

/// The VIPs that a command gives, moves or releases.
pub fn vips(kind: &Kind) -> Vec<IpAddr> {
    match kind {
        Kind::Batch(many) => {
            unpack_all(&many.vips).unwrap_or_default().into_iter().map(|(vip, _)| vip).collect()
        }
        other => common(other).map(|(_, (vip, _))| vip).into_iter().collect(),
    }
}

/// Those that a command gives, not by a release.
pub fn given(kind: &Kind) -> Vec<IpAddr> {
    let gives = matches!(kind, Kind::Give(_)) || matches!(kind, Kind::Batch(m) if m.what == GIVEN);
    if gives { vips(kind) } else { Vec::new() }
}

/// Those whose holder, if any, holds them no more once the command is in force.
pub fn gives(kind: &Kind) -> Vec<IpAddr> {
    let moves = matches!(kind, Kind::Move(_)) || matches!(kind, Kind::Batch(m) if m.what == MOVED);
    if moves { Vec::new() } else { vips(kind) }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn vip(n: u32) -> Vec<u8> {
        wire::pack(IpAddr::from((0x0a61_0000 + n).to_be_bytes()))
    }

    #[test]
    fn many_are_few_entries_that_mean_the_same() {
        let (to, from, why) = ("lb2", "lb1", "lb1 is silent".to_owned());
        let give = |n| {
            let (to, from, why) = (to.to_owned(), from.to_owned(), why.clone());
            Kind::Give(Give { vip: vip(n), to, from, why, silent_ms: 140, ..Give::default() })
        };
        let mut kinds: Vec<Kind> = (0..1_000).map(give).collect();
        let released =
            |n| Kind::Released(Token { vip: vip(n), index: 7 + u64::from(n), incarnation: 3 });
        kinds.extend((0..500).map(released));
        let alone = Move { vip: vip(9), from: "lb2".into(), to: "lb1".into(), why: why.clone() };
        kinds.push(Kind::Move(alone));
        let packed = together(kinds.clone());
        assert!(packed.len() < 12, "{} entries", packed.len());
        for kind in &packed {
            let command = wire::Command { kind: Some(kind.clone()), ..wire::Command::default() };
            assert!(command.encoded_len() < 1_000, "{}", command.encoded_len());
        }
        let about: usize = packed.iter().map(|kind| vips(kind).len()).sum();
        assert_eq!(about, kinds.len());
        assert_eq!(packed.into_iter().flat_map(singly).collect::<Vec<_>>(), kinds);
    }

    #[test]
    fn one_stays_one_and_nonsense_says_nothing() {
        let one = vec![Kind::Give(Give { vip: vip(1), ..Give::default() })];
        assert_eq!(together(one.clone()), one);
        let strange = |what, vips| singly(Kind::Batch(Batch { what, vips, ..Batch::default() }));
        assert_eq!(strange(GIVEN, vec![1, 2, 3]), []);
        let real =
            pack_all([(IpAddr::from([10, 0, 0, 1]), LogIndex(1))].into_iter(), 900).remove(0);
        assert_eq!(strange(9, real), []);
    }
}
