//! S22: a director that does not run, or hears too few others for a majority, is silent within a
//! lease, by its kernel alone.
//!
//! A majority need not renew at one time: one voter that is gone now and one that is back may both
//! have answered the same heartbeat. That lasts for a lease, too.

use std::collections::BTreeMap;

use super::Invariant;
use crate::{observation::Observation, timing::DELAY_MAX_NS};

/// Remembers since when each node that should be silent is seen to answer.
#[derive(Default)]
pub struct SilentByItself {
    since: BTreeMap<u64, u64>,
}

impl Invariant for SilentByItself {
    fn name(&self) -> &'static str {
        "S22-silent-by-itself"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        // Clocks may run 2000 ppm slow; messages that were under way may still renew.
        let limit = seen.lease_ns + seen.lease_ns / 250 + DELAY_MAX_NS;
        for (id, node) in &seen.nodes {
            if node.alone_ns <= limit {
                self.since.remove(id);
            } else if !node.answers.is_empty()
                && seen.now - *self.since.entry(*id).or_insert(seen.now) > limit
            {
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
        let mut s22 = SilentByItself::default();
        assert_eq!(s22.check(&seen), Ok(()));
        let mut at = |ms: u64, alone_ms: u64| {
            seen.now = ms * 1_000_000;
            seen.nodes.get_mut(&1).unwrap().alone_ns = alone_ms * 1_000_000;
            s22.check(&seen)
        };
        assert_eq!(at(1_000, 400), Ok(()), "two may have renewed it one after the other");
        assert!(at(1_300, 700).unwrap_err().starts_with("S22"));
        assert_eq!(at(1_400, 0), Ok(()));
        assert_eq!(at(1_900, 400), Ok(()), "that is another time");
    }
}
