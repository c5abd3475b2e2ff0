//! L5: once all faults have ended every machine that runs takes part again, unaided: it follows a
//! leader, and nothing keeps it from voting that ends by itself.

use super::Goal;
use crate::observation::Observation;

/// Needs no memory.
pub struct AllTakePart;

/// By then, ns; a node whose disk was copied waits for most of it.
pub const LIMIT_NS: u64 = 11_000_000_000;

impl Goal for AllTakePart {
    fn name(&self) -> &'static str {
        "L5-all-take-part"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        if seen.healing_ns.is_none_or(|ns| ns < LIMIT_NS) {
            return Ok(());
        }
        for (id, node) in &seen.nodes {
            let Some(health) = node.health.as_ref().filter(|health| health.member) else {
                continue;
            };
            if let Some(why) = &health.out {
                return Err(format!("L5: node {id} takes no part again: {why}"));
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
        let check = |s: u64, out: Option<&str>, member| {
            let health = Health { out: out.map(str::to_owned), member, ..Health::default() };
            let node = NodeFacts { health: Some(health), ..NodeFacts::default() };
            let (nodes, healing_ns) = ([(1, node)].into(), Some(s * 1_000_000_000));
            AllTakePart.check(&Observation { nodes, healing_ns, ..Observation::default() })
        };
        assert_eq!(check(12, None, true), Ok(()));
        assert_eq!(check(2, Some("waits"), true), Ok(()));
        assert!(check(12, Some("waits"), true).unwrap_err().contains("takes no part again: waits"));
        assert_eq!(check(12, Some("removed"), false), Ok(()));
    }
}
