//! L4: where one machine fails, comes and goes, or is slow, the VIPs of the others go on being
//! answered for.

use std::{collections::BTreeMap, net::IpAddr};

use super::Goal;
use crate::observation::Observation;

/// Remembers who last answered for each VIP, and when.
#[derive(Default)]
pub struct OthersGoOn {
    last: BTreeMap<IpAddr, (u64, u64)>,
}

/// A planned move, to the machine that is back, takes less than this, ns.
const GAP_NS: u64 = 500_000_000;

impl Goal for OthersGoOn {
    fn name(&self) -> &'static str {
        "L4-others-go-on"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        let Some(victim) = seen.victim else { return Ok(()) };
        for (id, node) in &seen.nodes {
            for vip in node.answers.keys() {
                self.last.insert(*vip, (*id, seen.now));
            }
        }
        let silent = |(_, (by, at)): &(&IpAddr, &(u64, u64))| {
            *by != victim && seen.now - at > GAP_NS && seen.healing_ns.is_none()
        };
        match self.last.iter().find(silent) {
            Some((vip, (by, at))) => {
                let ms = (seen.now - at) / 1_000_000;
                Err(format!(
                    "L4: nobody answers for {vip} of node {by} for {ms} ms, and only node {victim} \
                     fails"
                ))
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
        let vip: IpAddr = "10.0.0.100".parse().unwrap();
        let mut l4 = OthersGoOn::default();
        let mut at = |ms: u64, holder: Option<u64>| {
            let answers = [(vip, 3)].into();
            let node = NodeFacts { answers, ..NodeFacts::default() };
            let nodes = holder.map(|id| (id, node)).into_iter().collect();
            let (now, victim) = (ms * 1_000_000, Some(2));
            l4.check(&Observation { now, nodes, victim, ..Observation::default() })
        };
        assert_eq!(at(100, Some(2)), Ok(()));
        assert_eq!(at(5_000, None), Ok(()), "it was the one that fails");
        assert_eq!(at(6_000, Some(1)), Ok(()));
        assert_eq!(at(6_400, None), Ok(()));
        assert!(at(6_600, None).unwrap_err().contains("of node 1 for 600 ms"));
    }
}
