//! S27: no build applies an entry that it takes for another one.

use super::Invariant;
use crate::observation::Observation;

/// Needs no memory.
pub struct NothingMisread;

impl Invariant for NothingMisread {
    fn name(&self) -> &'static str {
        "S27-nothing-misread"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        let misread = |(id, node): (&u64, &crate::observation::NodeFacts)| {
            node.misread.map(|index| (*id, index))
        };
        match seen.nodes.iter().find_map(misread) {
            Some((id, index)) => {
                Err(format!("S27: node {id} applies entry {index}, which its build misreads"))
            }
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
        let mut node = NodeFacts::default();
        let check = |node: &NodeFacts| {
            let nodes = [(1, node.clone())].into();
            NothingMisread.check(&Observation { nodes, ..Observation::default() })
        };
        assert_eq!(check(&node), Ok(()));
        node.misread = Some(7);
        assert!(check(&node).unwrap_err().contains("entry 7"));
    }
}
