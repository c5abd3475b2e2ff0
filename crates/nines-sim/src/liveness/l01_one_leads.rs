//! L1: once all faults have ended, and from then on, no ten election timeouts pass in which no node
//! leads that a majority follows. A node of which two agents ran a moment ago has no vote yet.

use super::Goal;
use crate::observation::Observation;

/// Remembers when a node last led.
#[derive(Default)]
pub struct OneLeads {
    last_ns: u64,
}

/// Whether a node leads, and most voters by its log follow it.
fn somebody_leads(seen: &Observation) -> bool {
    let leads = |id: &u64| {
        let Some(node) = seen.nodes.get(id).filter(|node| node.leads.is_some()) else {
            return false;
        };
        let follows = |voter: &&u64| {
            let health = seen.nodes.get(voter).and_then(|node| node.health.as_ref());
            health.is_some_and(|health| health.follows == Some(*id))
        };
        node.voters.iter().filter(follows).count() * 2 > node.voters.len()
    };
    seen.nodes.keys().any(leads)
}

impl Goal for OneLeads {
    fn name(&self) -> &'static str {
        "L1-one-leads"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        let Some(healing) = seen.healing_ns else { return Ok(()) };
        let mut all = seen.nodes.values().filter_map(|node| node.health.as_ref());
        if somebody_leads(seen) || all.any(|health| health.doubts) {
            self.last_ns = seen.now;
        }
        let since = seen.now - self.last_ns.max(seen.now - healing);
        if since > 10 * seen.election_ns {
            let ms = since / 1_000_000;
            return Err(format!("L1: no node has led for {ms} ms, and nothing fails"));
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
        let mut l1 = OneLeads::default();
        let mut at = |s: u64, healing: Option<u64>, leads: Option<u64>, follow: u64| {
            let mut seen = Observation { now: s * 1_000_000_000, ..Observation::default() };
            seen.election_ns = 250_000_000;
            seen.healing_ns = healing.map(|s| s * 1_000_000_000);
            for id in 1..=3 {
                let follows = (id <= follow).then_some(1);
                let health = Some(Health { follows, ..Health::default() });
                let voters = Arc::new([1, 2, 3].into());
                let leads = leads.filter(|_| id == 1);
                seen.nodes.insert(id, NodeFacts { leads, voters, health, ..NodeFacts::default() });
            }
            l1.check(&seen)
        };
        assert_eq!(at(20, None, None, 0), Ok(()));
        assert_eq!(at(22, Some(2), None, 0), Ok(()));
        assert!(at(23, Some(3), Some(4), 1).unwrap_err().contains("for 3000 ms"), "alone");
        assert_eq!(at(23, Some(3), Some(4), 2), Ok(()));
        assert_eq!(at(25, Some(5), None, 3), Ok(()));
        assert!(at(26, Some(6), None, 3).is_err());
    }
}
