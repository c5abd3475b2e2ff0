//! L10: a witness that is back is used again, unaided: it votes by its own log and by the leader's,
//! and follows that one.

use super::Goal;
use crate::observation::Observation;

/// Needs no memory.
pub struct WitnessIsBack;

/// By then, ns.
const LIMIT_NS: u64 = super::l05_all_take_part::LIMIT_NS;

impl Goal for WitnessIsBack {
    fn name(&self) -> &'static str {
        "L10-witness-is-back"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        let leader = seen.nodes.iter().find(|(_, node)| node.leads.is_some());
        let (Some((by, leader)), true) = (leader, seen.healing_ns.is_some_and(|ns| ns >= LIMIT_NS))
        else {
            return Ok(());
        };
        let witnesses = seen.nodes.iter().filter(|(_, node)| node.witness);
        for (id, node) in witnesses {
            let Some(health) = node.health.as_ref().filter(|health| health.member) else {
                continue;
            };
            // Seven vote at most; the others are there in case one of these leaves.
            let spare = !leader.voters.contains(id) && leader.voters.len() >= 7;
            let votes = node.voters.contains(id) && leader.voters.contains(id);
            let used = votes && health.follows == Some(*by);
            if !spare && !used {
                return Err(format!("L10: witness {id} is back, and node {by} leads without it"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::observation::{Health, NodeFacts};

    #[test]
    fn it_can_fail() {
        let check = |s: u64, voters: &[u64], follows| {
            let voters = Arc::new(voters.iter().copied().collect());
            let leader = NodeFacts { leads: Some(4), voters, ..NodeFacts::default() };
            let health = Some(Health { member: true, follows, ..Health::default() });
            let own = Arc::new([1, 2, 3].into());
            let witness = NodeFacts { witness: true, health, voters: own, ..NodeFacts::default() };
            let (nodes, healing_ns) = ([(1, leader), (3, witness)].into(), Some(s * 1_000_000_000));
            WitnessIsBack.check(&Observation { nodes, healing_ns, ..Observation::default() })
        };
        assert_eq!(check(12, &[1, 2, 3], Some(1)), Ok(()));
        assert_eq!(check(2, &[1, 2], None), Ok(()));
        assert!(check(12, &[1, 2], Some(1)).unwrap_err().contains("leads without it"));
        assert!(check(12, &[1, 2, 3], Some(2)).is_err());
    }
}
