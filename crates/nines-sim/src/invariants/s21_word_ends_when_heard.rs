//! S21: that a person has seen a node off counts no more once the node is heard again: a leader
//! that can hear it takes that back.

use super::Invariant;
use crate::observation::Observation;

/// Needs no memory.
pub struct WordEndsWhenHeard;

/// What was under way when the machine went off may still arrive for 3 s; then it is written.
const LIMIT_NS: u64 = 6_000_000_000;

impl Invariant for WordEndsWhenHeard {
    fn name(&self) -> &'static str {
        "S21-word-ends-when-heard"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        for (id, node) in &seen.nodes {
            if node.leads.is_none() || node.deaf_ns > 0 || node.write_failed {
                continue;
            }
            for (target, incarnation) in node.confirmed.iter() {
                let heard = node.hears_confirmed.get(target).copied().unwrap_or_default();
                if heard > LIMIT_NS {
                    let ms = heard / 1_000_000;
                    return Err(format!(
                        "S21: by the state of node {id} a person has seen incarnation \
                         {incarnation} of node {target} off, which it could hear for {ms} ms"
                    ));
                }
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

    #[test]
    fn it_can_fail() {
        let mut node = NodeFacts {
            leads: Some(4),
            confirmed: Arc::new([(2, 7)].into()),
            hears_confirmed: [(2, 5_000_000_000)].into(),
            ..NodeFacts::default()
        };
        let check = |node: &NodeFacts| {
            let nodes = [(1, node.clone())].into();
            WordEndsWhenHeard.check(&Observation { nodes, ..Observation::default() })
        };
        assert_eq!(check(&node), Ok(()));
        node.hears_confirmed.insert(2, 7_000_000_000);
        assert!(check(&node).unwrap_err().contains("could hear for 7000 ms"));
        node.leads = None;
        assert_eq!(check(&node), Ok(()), "only a leader writes it");
    }
}
