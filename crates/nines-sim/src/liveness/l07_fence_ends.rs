//! L7: a node that is to be switched off is off in the end, or the leader says what keeps it from
//! that; none is forgotten.

use std::collections::BTreeMap;

use super::Goal;
use crate::observation::Observation;

/// Remembers since when nothing has been done or said about a node.
#[derive(Default)]
pub struct FenceEnds {
    idle: BTreeMap<u64, u64>,
}

/// Between two attempts a leader waits for 15 s; a new leader does so, too.
const LIMIT_NS: u64 = 20_000_000_000;

impl Goal for FenceEnds {
    fn name(&self) -> &'static str {
        "L7-fence-ends"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        let leaders = seen.nodes.values().filter(|node| node.leads.is_some() && node.deaf_ns == 0);
        let health = leaders.filter_map(|node| node.health.as_ref());
        // Nodes that are to be off, of which the leader neither has one switched nor says why not.
        let idle: Vec<u64> = health.flat_map(|health| health.unfenced.iter().copied()).collect();
        self.idle.retain(|id, _| idle.contains(id));
        for id in idle {
            let since = *self.idle.entry(id).or_insert(seen.now);
            if seen.now - since > LIMIT_NS {
                let s = (seen.now - since) / 1_000_000_000;
                return Err(format!(
                    "L7: node {id} is to be switched off, and for {s} s nothing is done or said"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{Health, NodeFacts};

    #[test]
    fn it_can_fail() {
        let mut l7 = FenceEnds::default();
        let mut at = |s: u64, unfenced: &[u64]| {
            let health = Some(Health { unfenced: unfenced.to_vec(), ..Health::default() });
            let node = NodeFacts { leads: Some(3), health, ..NodeFacts::default() };
            let (nodes, now) = ([(1, node)].into(), s * 1_000_000_000);
            l7.check(&Observation { now, nodes, ..Observation::default() })
        };
        assert_eq!(at(10, &[2]), Ok(()));
        assert_eq!(at(29, &[2]), Ok(()));
        assert_eq!(at(30, &[]), Ok(()), "an order was given");
        assert_eq!(at(31, &[2]), Ok(()));
        assert!(at(52, &[2]).unwrap_err().contains("for 21 s"));
    }
}
