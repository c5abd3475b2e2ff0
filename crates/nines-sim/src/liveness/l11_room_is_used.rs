//! L11: a node whose disk was full takes part again, unaided, once there is room.

use super::Goal;
use crate::observation::Observation;

/// Needs no memory.
pub struct RoomIsUsed;

/// An agent looks for room every 2 s, starts anew, and waits for what it has missed.
const LIMIT_NS: u64 = 8_000_000_000;

impl Goal for RoomIsUsed {
    fn name(&self) -> &'static str {
        "L11-room-is-used"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        if seen.healing_ns.is_none_or(|ns| ns < LIMIT_NS) {
            return Ok(());
        }
        let full = |(_, node): &(&u64, &crate::observation::NodeFacts)| {
            node.health.as_ref().is_some_and(|health| health.says_full)
        };
        match seen.nodes.iter().find(full) {
            Some((id, _)) => Err(format!("L11: node {id} has room again, and takes no part")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{Health, NodeFacts};

    #[test]
    fn it_can_fail() {
        let check = |s: Option<u64>, says_full| {
            let health = Some(Health { says_full, ..Health::default() });
            let nodes = [(2, NodeFacts { health, ..NodeFacts::default() })].into();
            let healing_ns = s.map(|s| s * 1_000_000_000);
            RoomIsUsed.check(&Observation { nodes, healing_ns, ..Observation::default() })
        };
        assert_eq!(check(None, true), Ok(()));
        assert_eq!(check(Some(9), false), Ok(()));
        assert!(check(Some(9), true).unwrap_err().contains("node 2 has room again"));
    }
}
