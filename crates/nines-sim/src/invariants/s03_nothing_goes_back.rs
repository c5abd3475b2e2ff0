//! S3: term, vote and commit index of a node never go back, over crashes too; and a vote that has
//! left is on the disk.

use std::collections::BTreeMap;

use super::Invariant;
use crate::observation::{Kept, Observation};

/// Remembers what the disk of each node had.
#[derive(Default)]
pub struct NothingGoesBack {
    kept: BTreeMap<u64, Kept>,
}

/// What is wrong with a disk that had `before`.
fn went_back(before: &Kept, now: &Kept) -> Option<String> {
    if before.disk != now.disk {
        return None;
    }
    if now.term < before.term || now.commit < before.commit {
        return Some(format!("its disk has {now:?} and had {before:?}"));
    }
    let again = now.term == before.term && now.vote != before.vote && before.vote != 0;
    again.then(|| format!("it votes for {} and for {} in term {}", before.vote, now.vote, now.term))
}

impl Invariant for NothingGoesBack {
    fn name(&self) -> &'static str {
        "S3-nothing-goes-back"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        for (id, node) in &seen.nodes {
            let now = &node.kept;
            let before = self.kept.insert(*id, now.clone());
            let mut wrong = before.and_then(|before| went_back(&before, now));
            if node.applied.is_some() && (node.term < now.term || node.committed < now.commit) {
                let (term, commit) = (node.term, node.committed);
                wrong =
                    Some(format!("it knows term {term}, commit {commit}, its disk has {now:?}"));
            }
            if let Some((term, vote)) = node.told_vote
                && (now.term < term || (now.term == term && now.vote != vote))
            {
                wrong = Some(format!("it voted for {vote} in term {term}, its disk has {now:?}"));
            }
            if let Some(wrong) = wrong {
                return Err(format!("S3: node {id}: {wrong}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::NodeFacts;

    #[test]
    fn it_can_fail() {
        let kept = Kept { term: 5, vote: 2, commit: 9, ..Kept::default() };
        let good = NodeFacts {
            applied: Some((9, 1)),
            term: 5,
            committed: 9,
            told_vote: Some((5, 2)),
            kept: kept.clone(),
            ..NodeFacts::default()
        };
        let after = |node: NodeFacts| {
            let mut s3 = NothingGoesBack::default();
            let seen = |node| Observation { nodes: [(1, node)].into(), ..Observation::default() };
            assert_eq!(s3.check(&seen(good.clone())), Ok(()));
            s3.check(&seen(node))
        };
        assert_eq!(after(good.clone()), Ok(()));
        assert_eq!(
            after(NodeFacts { applied: None, term: 0, committed: 0, ..good.clone() }),
            Ok(())
        );
        for (bad, why) in [
            (NodeFacts { committed: 8, ..good.clone() }, "commit 8"),
            (NodeFacts { term: 4, ..good.clone() }, "knows term 4"),
            (NodeFacts { told_vote: Some((5, 3)), ..good.clone() }, "voted for 3 in term 5"),
            (NodeFacts { told_vote: Some((6, 2)), ..good.clone() }, "voted for 2 in term 6"),
            (NodeFacts { kept: Kept { commit: 8, ..kept.clone() }, ..good.clone() }, "commit: 8"),
            (NodeFacts { kept: Kept { vote: 3, ..kept.clone() }, ..good.clone() }, "S3"),
        ] {
            assert!(after(bad).unwrap_err().contains(why), "{why}");
        }
        let other = Kept { disk: 1, term: 1, commit: 1, ..Kept::default() };
        let other = NodeFacts { kept: other, told_vote: None, ..good.clone() };
        assert_eq!(after(other), Ok(()), "an older disk was put in");
    }
}
