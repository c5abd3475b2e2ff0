//! S6: two lives of one node never both vote in a term, and a node whose disk shows less than it
//! has acknowledged, on this disk or on one before, gives no vote.

use std::collections::BTreeMap;

use super::Invariant;
use crate::observation::{NodeFacts, Observation};

type Vote = (u64, u64);
/// Term and index of the last entry of a log.
type End = (u64, u64);

/// Remembers what each node has said, whichever disk it had.
#[derive(Default)]
pub struct OneLifeCounts {
    /// The last acknowledgement of each node, and the furthest end of a log that it rests on.
    acked: BTreeMap<u64, (Option<(u64, u64)>, End)>,
    /// The last vote of each machine, and all votes of each node by term.
    last: BTreeMap<(u64, bool), Vote>,
    votes: BTreeMap<(u64, u64), u64>,
}

/// Term and index of the entry that was acknowledged, as it is on the disk.
fn acked(node: &NodeFacts, index: u64) -> End {
    match node.durable.get(&index) {
        Some(term) => (*term, index),
        None => (0, 0),
    }
}

impl OneLifeCounts {
    /// A vote, if it is another one than before: an error if the node voted otherwise in this term.
    fn votes(&mut self, id: u64, copy: bool, vote: Option<Vote>) -> Result<bool, String> {
        let Some((term, to)) = vote else { return Ok(false) };
        if self.last.insert((id, copy), (term, to)) == Some((term, to)) {
            return Ok(false);
        }
        let first = *self.votes.entry((id, term)).or_insert(to);
        if first != to {
            return Err(format!("S6: node {id} votes for {to} in term {term}, and for {first}"));
        }
        Ok(true)
    }
}

impl Invariant for OneLifeCounts {
    fn name(&self) -> &'static str {
        "S6-one-life-counts"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        for (id, node) in &seen.nodes {
            let (last, most) = self.acked.entry(*id).or_default();
            if node.told_ack != *last {
                *last = node.told_ack;
                *most = node.told_ack.map_or(*most, |(_, at)| acked(node, at).max(*most));
            }
            let (most, end) = (*most, node.kept.end);
            if self.votes(*id, false, node.told_vote)? && end < most {
                return Err(format!(
                    "S6: node {id} votes with a log that ends at {end:?}, and has acknowledged \
                     {most:?}"
                ));
            }
        }
        if let Some(copy) = &seen.copy {
            self.votes(copy.of, true, copy.told_vote)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::observation::{CopyFacts, Kept};

    fn node(entries: u64, told_ack: Option<(u64, u64)>, told_vote: Option<Vote>) -> NodeFacts {
        NodeFacts {
            durable: Arc::new((1..=entries).map(|i| (i, 2)).collect()),
            kept: Kept { end: (2, entries), disk: entries, ..Kept::default() },
            told_ack,
            told_vote,
            ..NodeFacts::default()
        }
    }

    #[test]
    fn it_can_fail() {
        let mut s6 = OneLifeCounts::default();
        let mut see = |node, copy| {
            s6.check(&Observation { nodes: [(1, node)].into(), copy, ..Observation::default() })
        };
        assert_eq!(see(node(9, Some((2, 8)), Some((2, 1))), None), Ok(()));
        assert_eq!(see(node(8, None, Some((3, 2))), None), Ok(()), "what was acked is there");
        assert_eq!(see(node(6, None, None), None), Ok(()), "it is silent");
        let less = see(node(7, None, Some((4, 2))), None).unwrap_err();
        assert!(less.contains("ends at (2, 7), and has acknowledged (2, 8)"), "{less}");
        let copy = |vote| Some(CopyFacts { of: 1, told_vote: Some(vote) });
        assert_eq!(see(node(9, None, None), copy((3, 2))), Ok(()), "the same vote");
        let twice = see(node(9, None, None), copy((3, 3))).unwrap_err();
        assert!(twice.contains("votes for 3 in term 3, and for 2"), "{twice}");
    }
}
