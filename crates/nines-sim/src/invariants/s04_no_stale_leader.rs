//! S4: a leader orders something only while it can hear a majority, and only when it has applied an
//! entry of its own term: before that, what it knows may be old.

use std::collections::BTreeMap;

use super::Invariant;
use crate::{
    observation::{Observation, Steered},
    timing::DELAY_MAX_NS,
};

/// Remembers the last order of each node.
#[derive(Default)]
pub struct NoStaleLeader {
    last: BTreeMap<u64, Steered>,
}

impl Invariant for NoStaleLeader {
    fn name(&self) -> &'static str {
        "S4-no-stale-leader"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        for (id, node) in &seen.nodes {
            let Some(order) = node.steered else { continue };
            if self.last.insert(*id, order) == Some(order) {
                continue;
            }
            let Steered { term, index, .. } = order;
            if !order.knows_all {
                return Err(format!(
                    "S4: node {id} orders by entry {index}, and has applied nothing of term {term}"
                ));
            }
            // What was heard last counts for a lease; it may have been late, and by a third node.
            let long = if seen.long_lease { seen.longest_promise_ns } else { 0 };
            let limit = seen.lease_ns + seen.lease_ns / 250 + 2 * DELAY_MAX_NS + long;
            if node.deaf_ns > limit {
                return Err(format!(
                    "S4: node {id} orders by entry {index} of term {term}, and has heard no \
                     majority for {} ms",
                    node.deaf_ns / 1_000_000
                ));
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
        let mut s4 = NoStaleLeader::default();
        let mut orders = |index, deaf_ms: u64, knows_all| {
            let steered = Some(Steered { term: 3, index, at: 7, knows_all });
            let node = NodeFacts { steered, deaf_ns: deaf_ms * 1_000_000, ..NodeFacts::default() };
            let nodes = [(1, node)].into();
            s4.check(&Observation { nodes, lease_ns: 150_000_000, ..Observation::default() })
        };
        assert_eq!(orders(5, 0, true), Ok(()));
        assert_eq!(orders(5, 900, true), Ok(()), "that was before");
        assert!(orders(6, 0, false).unwrap_err().contains("nothing of term 3"));
        assert_eq!(orders(7, 200, true), Ok(()), "it has just heard one");
        assert!(orders(8, 300, true).unwrap_err().contains("no majority for 300 ms"));
    }
}
