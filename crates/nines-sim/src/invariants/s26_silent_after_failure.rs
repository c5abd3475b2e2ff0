//! S26: once a write has failed, a process acknowledges nothing and votes no more, and leads no
//! more.

use super::Invariant;
use crate::observation::Observation;

/// Needs no memory.
pub struct SilentAfterFailure;

impl Invariant for SilentAfterFailure {
    fn name(&self) -> &'static str {
        "S26-silent-after-failure"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        for (id, node) in seen.nodes.iter().filter(|(_, node)| node.write_failed) {
            if let Some(what) = node.told_after {
                return Err(format!("S26: {what} has left node {id} after a write failed"));
            }
            if let Some(term) = node.leads {
                return Err(format!("S26: node {id} leads term {term} after a write failed"));
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
        let mut node = NodeFacts { leads: Some(3), ..NodeFacts::default() };
        let check = |node: &NodeFacts| {
            let nodes = [(1, node.clone())].into();
            SilentAfterFailure.check(&Observation { nodes, ..Observation::default() })
        };
        assert_eq!(check(&node), Ok(()));
        node.write_failed = true;
        assert!(check(&node).unwrap_err().contains("leads term 3"));
        node.leads = None;
        assert_eq!(check(&node), Ok(()));
        node.told_after = Some("a vote");
        assert!(check(&node).unwrap_err().contains("a vote has left node 1"));
    }
}
