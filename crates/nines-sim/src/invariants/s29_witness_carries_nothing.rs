//! S29: a witness answers for no VIP.

use super::Invariant;
use crate::observation::Observation;

/// Needs no memory.
pub struct WitnessCarriesNothing;

impl Invariant for WitnessCarriesNothing {
    fn name(&self) -> &'static str {
        "S29-witness-carries-nothing"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        let mut witnesses = seen.nodes.iter().filter(|(_, node)| node.witness);
        match witnesses.find(|(_, node)| !node.answers.is_empty()) {
            Some((id, node)) => Err(format!("S29: witness {id} answers for {:?}", node.answers)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::NodeFacts;

    #[test]
    fn it_can_fail() {
        let answers = [("10.0.0.100".parse().unwrap(), 1)].into();
        let mut node = NodeFacts { answers, ..NodeFacts::default() };
        let check = |node: &NodeFacts| {
            let nodes = [(3, node.clone())].into();
            WitnessCarriesNothing.check(&Observation { nodes, ..Observation::default() })
        };
        assert_eq!(check(&node), Ok(()));
        node.witness = true;
        assert!(check(&node).unwrap_err().starts_with("S29"));
    }
}
