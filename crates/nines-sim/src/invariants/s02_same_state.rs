//! S2: the same log index gives the same state on every node, for ever.

use std::collections::BTreeMap;

use super::Invariant;
use crate::observation::Observation;

/// Remembers the state's hash at each applied index.
#[derive(Default)]
pub struct SameState {
    by_index: BTreeMap<u64, u64>,
}

impl Invariant for SameState {
    fn name(&self) -> &'static str {
        "S2-same-state"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        for (id, node) in &seen.nodes {
            let Some((index, hash)) = node.applied else { continue };
            if *self.by_index.entry(index).or_insert(hash) != hash {
                return Err(format!("S2: node {id} has another state at index {index}"));
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
        let at = |hash| Observation {
            nodes: [(1, NodeFacts { applied: Some((9, hash)), ..NodeFacts::default() })].into(),
            ..Observation::default()
        };
        let mut s2 = SameState::default();
        assert_eq!(s2.check(&at(5)), Ok(()));
        assert_eq!(s2.check(&at(5)), Ok(()));
        assert!(s2.check(&at(6)).unwrap_err().starts_with("S2"));
    }
}
