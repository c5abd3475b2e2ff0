//! L9: while all nodes are upgraded one by one, each by a planned restart, no VIP moves and none is
//! silent.

use std::{collections::BTreeMap, net::IpAddr};

use super::Goal;
use crate::observation::Observation;

/// Remembers who answered for each VIP before the first upgrade.
#[derive(Default)]
pub struct UpgradeMovesNothing {
    holders: BTreeMap<IpAddr, u64>,
}

impl Goal for UpgradeMovesNothing {
    fn name(&self) -> &'static str {
        "L9-upgrade-moves-nothing"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        let answers = seen.nodes.iter().flat_map(|(id, n)| n.answers.keys().map(|vip| (*vip, *id)));
        let now: BTreeMap<IpAddr, u64> = answers.collect();
        if !seen.upgrades || self.holders.is_empty() {
            self.holders = if seen.upgrades { now } else { BTreeMap::new() };
            return Ok(());
        }
        if self.holders == now {
            return Ok(());
        }
        let before = &self.holders;
        Err(format!("L9: VIPs go from {before:?} to {now:?}, and nodes are only upgraded"))
    }
}

#[cfg(test)]
mod tests {
    use nines_core::feature_level::BUILD;
    use nines_model::Millis;

    use super::*;
    use crate::{Sabotage, Scenario, World, observation::NodeFacts};

    #[test]
    fn it_can_fail() {
        let vip: IpAddr = "10.0.0.100".parse().unwrap();
        let mut l9 = UpgradeMovesNothing::default();
        let mut at = |upgrades, holder| {
            let answers = [(vip, 3)].into();
            let nodes = [(holder, NodeFacts { answers, ..NodeFacts::default() })].into();
            l9.check(&Observation { nodes, upgrades, ..Observation::default() })
        };
        assert_eq!(at(false, 1), Ok(()));
        assert_eq!(at(true, 2), Ok(()));
        assert_eq!(at(true, 2), Ok(()));
        assert!(at(true, 1).unwrap_err().starts_with("L9"));
        assert_eq!(at(false, 1), Ok(()));
    }

    /// Clusters of several sizes, from each older build.
    #[test]
    fn nodes_are_upgraded_one_by_one() {
        for seed in 0..u64::from(2 * BUILD) {
            let witnesses = (seed % 2) as u8;
            let scenario = Scenario::sized(3 - witnesses, witnesses, 2, 1);
            let mut world = World::of(scenario, seed, Sabotage::None);
            world.with_older_builds(seed as u32 / 2);
            world.start_all();
            world.run_for(Millis(4_000)).unwrap();
            assert!(world.serves_everything());
            world.only_upgrades();
            for id in [2, 3, 1] {
                world.upgrade_in_place(id);
                world.run_for(Millis(4_000)).unwrap_or_else(|why| panic!("{seed}: {why}"));
                assert!(!world.is_older(id), "seed {seed}: node {id} was not upgraded");
            }
            assert_eq!(world.feature_levels(), [BUILD].into(), "seed {seed}");
        }
    }
}
