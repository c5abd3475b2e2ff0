//! L3: once all faults have ended and the VIPs are where they belong, none of them moves or is
//! silent any more.

use std::{collections::BTreeMap, net::IpAddr};

use super::Goal;
use crate::observation::Observation;

/// Remembers who answered when that should have come to rest.
#[derive(Default)]
pub struct Calm {
    holders: Option<BTreeMap<IpAddr, u64>>,
}

/// By then everything is where it belongs, ns.
pub const SETTLED_NS: u64 = 12_000_000_000;

impl Goal for Calm {
    fn name(&self) -> &'static str {
        "L3-calm"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        if seen.healing_ns.is_none_or(|ns| ns < SETTLED_NS) {
            self.holders = None;
            return Ok(());
        }
        let answers = seen.nodes.iter().flat_map(|(id, n)| n.answers.keys().map(|vip| (*vip, *id)));
        let now: BTreeMap<IpAddr, u64> = answers.collect();
        let before = self.holders.get_or_insert_with(|| now.clone());
        if *before == now {
            return Ok(());
        }
        Err(format!("L3: VIPs go from {before:?} to {now:?}, and nothing fails"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::NodeFacts;

    #[test]
    fn it_can_fail() {
        let vip: IpAddr = "10.0.0.100".parse().unwrap();
        let mut l3 = Calm::default();
        let mut at = |healing: Option<u64>, holder: u64| {
            let node = NodeFacts { answers: [(vip, 3)].into(), ..NodeFacts::default() };
            let healing_ns = healing.map(|s| s * 1_000_000_000);
            let nodes = [(holder, node)].into();
            l3.check(&Observation { nodes, healing_ns, ..Observation::default() })
        };
        assert_eq!(at(Some(10), 1), Ok(()));
        assert_eq!(at(Some(12), 2), Ok(()));
        assert_eq!(at(Some(600), 2), Ok(()));
        assert!(at(Some(601), 1).unwrap_err().starts_with("L3"));
        assert_eq!(at(None, 1), Ok(()));
        assert_eq!(at(Some(13), 1), Ok(()), "it was disturbed again");
    }
}
