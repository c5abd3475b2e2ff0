//! S10: where nothing fails but the witness, no VIP moves and none is silent.

use std::{collections::BTreeMap, net::IpAddr};

use super::Invariant;
use crate::observation::Observation;

/// Remembers who answers for each VIP since all of them were first answered for.
#[derive(Default)]
pub struct WitnessAlone {
    holders: BTreeMap<IpAddr, u64>,
    since: Option<u64>,
}

/// After its start a cluster may still put VIPs where they belong.
const SETTLED_NS: u64 = 1_500_000_000;

impl Invariant for WitnessAlone {
    fn name(&self) -> &'static str {
        "S10-witness-alone"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        let victim = seen.victim.and_then(|id| seen.nodes.get(&id));
        if !victim.is_some_and(|node| node.witness) {
            return Ok(());
        }
        let answers = seen.nodes.iter().flat_map(|(id, n)| n.answers.keys().map(|vip| (*vip, *id)));
        let holders: BTreeMap<IpAddr, u64> = answers.collect();
        if holders == self.holders {
            return Ok(());
        }
        if seen.now < *self.since.get_or_insert(seen.now) + SETTLED_NS {
            self.holders = holders;
            return Ok(());
        }
        let changed = self.holders.iter().find(|(vip, id)| holders.get(*vip) != Some(*id));
        let Some((vip, id)) = changed else {
            self.holders = holders;
            return Ok(());
        };
        Err(match holders.get(vip) {
            Some(now) => format!("S10: {vip} goes from {id} to {now}, and only the witness fails"),
            None => format!("S10: {id} answers for {vip} no more, and only the witness fails"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::NodeFacts;

    #[test]
    fn it_can_fail() {
        let vip: IpAddr = "10.0.0.100".parse().unwrap();
        let mut s10 = WitnessAlone::default();
        let mut at = |ms: u64, holder: Option<u64>, victim| {
            let mut seen = Observation { now: ms * 1_000_000, victim, ..Observation::default() };
            for id in 1..=3 {
                let mut node = NodeFacts { witness: id == 3, ..NodeFacts::default() };
                node.answers.extend((holder == Some(id)).then_some((vip, 5)));
                seen.nodes.insert(id, node);
            }
            s10.check(&seen)
        };
        assert_eq!(at(10, None, Some(3)), Ok(()));
        assert_eq!(at(20, Some(1), Some(3)), Ok(()));
        assert_eq!(at(800, Some(2), Some(3)), Ok(()), "it has just started");
        assert_eq!(at(9_000, Some(2), Some(3)), Ok(()));
        assert!(at(9_001, None, Some(3)).unwrap_err().contains("2 answers for 10.0.0.100 no more"));
        assert!(at(9_001, Some(1), Some(3)).unwrap_err().contains("goes from 2 to 1"));
        assert_eq!(at(9_001, Some(1), Some(2)), Ok(()), "a director fails");
    }
}
