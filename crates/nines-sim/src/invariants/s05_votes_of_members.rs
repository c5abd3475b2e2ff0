//! S5: voters change one at a time, and a node leads by the durable votes of a majority of those
//! that vote by its own log: what anybody else has said counts for nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Invariant;
use crate::observation::{NodeFacts, Observation};

/// Remembers who has voted for whom, and who leads.
#[derive(Default)]
pub struct VotesOfMembers {
    /// By term and candidate.
    votes: BTreeMap<(u64, u64), BTreeSet<u64>>,
    /// Term that each node led when it was last looked at, and who voted by its log.
    before: BTreeMap<u64, (Option<u64>, Arc<BTreeSet<u64>>)>,
    /// Sets of voters that were compared with the one before them.
    compared: usize,
}

/// Whether most of these have voted so. Of two the one goes on alone when the other is off.
fn elect(voters: &BTreeSet<u64>, votes: &BTreeSet<u64>, seen: &Observation) -> bool {
    let given = voters.intersection(votes).count();
    let alone = voters.len() == 2 && given == 1;
    given * 2 > voters.len() || alone && voters.iter().any(|id| seen.switched_off.contains(id))
}

impl VotesOfMembers {
    fn check_leader(
        &mut self,
        id: u64,
        node: &NodeFacts,
        seen: &Observation,
    ) -> Result<(), String> {
        let Some(term) = node.leads else { return Ok(()) };
        let (led, before) = self.before.get(&id).cloned().unwrap_or_default();
        if led == Some(term) || node.voters.is_empty() {
            return Ok(());
        }
        let mut votes = self.votes.get(&(term, id)).cloned().unwrap_or_default();
        // Its own may be on the way to the disk; nobody else has heard of it then (S3).
        votes.insert(id);
        if elect(&node.voters, &votes, seen) || elect(&before, &votes, seen) {
            return Ok(());
        }
        let voters = &node.voters;
        Err(format!("S5: node {id} leads term {term} by the votes of {votes:?}, of {voters:?}"))
    }

    fn check_changes(&mut self, seen: &Observation) -> Result<(), String> {
        if seen.voters.len() == self.compared {
            return Ok(());
        }
        self.compared = seen.voters.len();
        let mut last: Option<&BTreeSet<u64>> = None;
        for (index, voters) in seen.voters.iter() {
            let changed = last.map_or(0, |last| last.symmetric_difference(voters).count());
            if let Some(last) = last.filter(|_| changed > 1) {
                return Err(format!("S5: entry {index} makes {voters:?} voters after {last:?}"));
            }
            last = Some(voters);
        }
        Ok(())
    }
}

impl Invariant for VotesOfMembers {
    fn name(&self) -> &'static str {
        "S5-votes-of-members"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        for (id, node) in seen.nodes.iter().filter(|(_, node)| node.kept.vote != 0) {
            let votes = self.votes.entry((node.kept.term, node.kept.vote)).or_default();
            votes.insert(*id);
        }
        for (id, node) in &seen.nodes {
            self.check_leader(*id, node, seen)?;
            let known = (node.leads, Arc::clone(&node.voters));
            self.before.insert(*id, known);
        }
        self.check_changes(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Kept;

    fn node(voters: &[u64], vote: u64, leads: Option<u64>) -> NodeFacts {
        let voters = Arc::new(voters.iter().copied().collect());
        let kept = Kept { term: 4, vote, ..Kept::default() };
        NodeFacts { leads, voters, kept, ..NodeFacts::default() }
    }

    #[test]
    fn it_can_fail() {
        let lead = |voters: &[u64]| {
            let nodes = [
                (1, node(voters, 1, Some(4))),
                (2, node(voters, 3, None)),
                (4, node(voters, 1, None)),
            ];
            Observation { nodes: nodes.into(), ..Observation::default() }
        };
        assert_eq!(VotesOfMembers::default().check(&lead(&[1, 4, 5])), Ok(()));
        let mut removed = lead(&[1, 2, 3]);
        let wrong = VotesOfMembers::default().check(&removed).unwrap_err();
        assert!(wrong.contains("by the votes of {1, 4}"), "{wrong}");
        removed.nodes.get_mut(&1).unwrap().leads = None;
        assert_eq!(VotesOfMembers::default().check(&removed), Ok(()));
        let mut two = lead(&[1, 2]);
        assert!(VotesOfMembers::default().check(&two).is_err());
        two.switched_off.insert(2);
        assert_eq!(VotesOfMembers::default().check(&two), Ok(()));
    }

    #[test]
    fn two_changes_at_once_are_one_too_many() {
        let all = |sets: &[&[u64]]| {
            let sets = sets.iter().map(|ids| ids.iter().copied().collect());
            let voters = Arc::new((0..).zip(sets).collect());
            let seen = Observation { voters, ..Observation::default() };
            VotesOfMembers::default().check(&seen)
        };
        assert_eq!(all(&[&[1, 2, 3], &[1, 2, 3, 4], &[1, 2, 4]]), Ok(()));
        assert!(all(&[&[1, 2, 3], &[1, 2, 4]]).unwrap_err().starts_with("S5"));
    }
}
