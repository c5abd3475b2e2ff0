//! S9: a witness gives one vote a term, to one side, over all restarts and on every disk that it
//! ever had; and what it votes for it has on its disk.

use std::collections::BTreeMap;

use super::Invariant;
use crate::observation::Observation;

/// Remembers each vote of each witness by term.
#[derive(Default)]
pub struct WitnessVotesOnce {
    votes: BTreeMap<(u64, u64), u64>,
}

impl Invariant for WitnessVotesOnce {
    fn name(&self) -> &'static str {
        "S9-witness-votes-once"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        for (id, node) in seen.nodes.iter().filter(|(_, node)| node.witness) {
            let Some((term, to)) = node.told_vote else { continue };
            let first = *self.votes.entry((*id, term)).or_insert(to);
            if first != to {
                return Err(format!(
                    "S9: witness {id} votes for {to} in term {term}, and for {first}"
                ));
            }
            let kept = &node.kept;
            if kept.term < term || (kept.term == term && kept.vote != to) {
                return Err(format!(
                    "S9: witness {id} votes for {to} in term {term}, and would forget it"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{Kept, NodeFacts};

    #[test]
    fn it_can_fail() {
        let mut s9 = WitnessVotesOnce::default();
        let mut vote = |(term, to), (kept_term, kept_vote), disk| {
            let kept = Kept { term: kept_term, vote: kept_vote, disk, ..Kept::default() };
            let told_vote = Some((term, to));
            let node = NodeFacts { witness: true, told_vote, kept, ..NodeFacts::default() };
            s9.check(&Observation { nodes: [(3, node)].into(), ..Observation::default() })
        };
        assert_eq!(vote((5, 1), (5, 1), 0), Ok(()));
        assert_eq!(vote((5, 1), (6, 0), 0), Ok(()));
        assert!(vote((6, 2), (6, 0), 0).unwrap_err().contains("would forget it"));
        let again = vote((5, 2), (5, 2), 1).unwrap_err();
        assert!(again.contains("votes for 2 in term 5, and for 1"), "{again}");
    }
}
