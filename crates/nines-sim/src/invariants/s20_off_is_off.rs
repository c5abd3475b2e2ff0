//! S20: what the state calls off was off: a device had switched that machine off while or after
//! that incarnation ran, as long as no device lies.

use super::Invariant;
use crate::observation::Observation;

/// Remembers nothing.
pub struct OffIsOff;

impl Invariant for OffIsOff {
    fn name(&self) -> &'static str {
        "S20-off-is-off"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        if seen.device_has_lied {
            return Ok(());
        }
        for (id, node) in &seen.nodes {
            let over = |target| seen.over.get(target).copied().unwrap_or_default();
            let wrong = node.off.iter().find(|(target, off)| *off > over(target));
            if let Some((target, incarnation)) = wrong {
                return Err(format!(
                    "S20: by the state of node {id} incarnation {incarnation} of node {target} was \
                     switched off, which is not so"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use super::*;
    use crate::observation::NodeFacts;

    #[test]
    fn it_can_fail() {
        let off = Arc::new(BTreeSet::from([(2, 7)]));
        let node = NodeFacts { off, ..NodeFacts::default() };
        let mut seen = Observation { nodes: [(1, node)].into(), ..Observation::default() };
        assert!(OffIsOff.check(&seen).unwrap_err().starts_with("S20"));
        seen.over.insert(2, 6);
        assert!(OffIsOff.check(&seen).is_err(), "an earlier one");
        seen.over.insert(2, 8);
        assert_eq!(OffIsOff.check(&seen), Ok(()));
    }
}
