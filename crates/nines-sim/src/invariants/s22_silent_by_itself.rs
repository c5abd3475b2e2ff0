//! S22: a director that does not run, or hears too few others for a majority, is silent within a
//! lease, by its kernel alone.

use super::Invariant;
use crate::{observation::Observation, timing::DELAY_MAX_NS};

/// Needs no memory.
pub struct SilentByItself;

impl Invariant for SilentByItself {
    fn name(&self) -> &'static str {
        "S22-silent-by-itself"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        // Clocks may run 2000 ppm slow; messages that were under way may still renew.
        let limit = seen.lease_ns + seen.lease_ns / 250 + DELAY_MAX_NS;
        for (id, node) in &seen.nodes {
            if node.alone_ns > limit && !node.answers.is_empty() {
                return Err(format!(
                    "S22: node {id} still answers {} ms after it was cut off or stopped",
                    node.alone_ns / 1_000_000
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
        let mut node = NodeFacts { alone_ns: 100_000_000, ..NodeFacts::default() };
        node.answers.insert("10.0.0.100".parse().unwrap(), 1);
        let mut seen = Observation { lease_ns: 140_000_000, ..Observation::default() };
        seen.nodes.insert(1, node);
        assert_eq!(SilentByItself.check(&seen), Ok(()));
        seen.nodes.get_mut(&1).unwrap().alone_ns = 400_000_000;
        assert!(SilentByItself.check(&seen).unwrap_err().starts_with("S22"));
    }
}
