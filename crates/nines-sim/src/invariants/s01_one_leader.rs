//! S1: at most one leader a term, and what it calls committed is on a majority of disks.

use std::collections::BTreeMap;

use super::Invariant;
use crate::observation::Observation;

/// Remembers who led which term.
#[derive(Default)]
pub struct OneLeader {
    by_term: BTreeMap<u64, u64>,
}

impl Invariant for OneLeader {
    fn name(&self) -> &'static str {
        "S1-one-leader"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        for (id, node) in &seen.nodes {
            let Some(term) = node.leads else { continue };
            let first = *self.by_term.entry(term).or_insert(*id);
            if first != *id {
                return Err(format!("S1: nodes {first} and {id} both lead term {term}"));
            }
            if !seen.on_majority(node.committed) {
                return Err(format!(
                    "S1: {id} calls {} committed, which is on no majority of disks",
                    node.committed
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::observation::NodeFacts;

    fn leader(term: u64, committed: u64) -> NodeFacts {
        NodeFacts {
            leads: Some(term),
            committed,
            durable: Arc::new((1..=committed).map(|i| (i, 1)).collect()),
            ..NodeFacts::default()
        }
    }

    #[test]
    fn it_can_fail() {
        let lone = |id, node| Observation { nodes: [(id, node)].into(), ..Observation::default() };
        let mut s1 = OneLeader::default();
        assert_eq!(s1.check(&lone(1, leader(7, 1))), Ok(()));
        assert!(s1.check(&lone(2, leader(7, 1))).unwrap_err().contains("both lead term 7"));
        let mut two = lone(1, leader(8, 5));
        two.nodes.insert(2, NodeFacts::default());
        two.nodes.insert(3, NodeFacts::default());
        assert!(OneLeader::default().check(&two).unwrap_err().contains("no majority of disks"));
    }
}
