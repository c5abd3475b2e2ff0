//! S31: a node whose watchdog is fed without an end holds nothing: its kernel answers for no VIP.

use super::Invariant;
use crate::observation::Observation;

/// Needs no memory.
pub struct FedHoldsNothing;

impl Invariant for FedHoldsNothing {
    fn name(&self) -> &'static str {
        "S31-fed-holds-nothing"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        for (id, node) in &seen.nodes {
            if let Some(vip) = node.answers.keys().next().filter(|_| node.holds_nothing) {
                return Err(format!(
                    "S31: node {id} says that it holds nothing, and answers {vip}"
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
        let mut node = NodeFacts { holds_nothing: true, ..NodeFacts::default() };
        let seen = |node: &NodeFacts| Observation {
            nodes: [(1, node.clone())].into(),
            ..Observation::default()
        };
        assert_eq!(FedHoldsNothing.check(&seen(&node)), Ok(()));
        node.answers.insert("10.0.0.100".parse().unwrap(), 1);
        assert!(FedHoldsNothing.check(&seen(&node)).unwrap_err().starts_with("S31"));
        node.holds_nothing = false;
        assert_eq!(FedHoldsNothing.check(&seen(&node)), Ok(()));
    }
}
