//! S8: a minority starts nothing: when a node begins to answer for a VIP, the entry that gave it
//! the VIP is on a majority of disks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::Invariant;
use crate::observation::Observation;

/// Remembers who answers, to see who begins.
#[derive(Default)]
pub struct NoMinorityStart {
    answering: BTreeMap<u64, BTreeSet<(IpAddr, u64)>>,
}

impl Invariant for NoMinorityStart {
    fn name(&self) -> &'static str {
        "S8-no-minority-start"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        for (id, node) in &seen.nodes {
            let now: BTreeSet<(IpAddr, u64)> = node.answers.iter().map(|(v, t)| (*v, *t)).collect();
            let before = self.answering.insert(*id, now.clone()).unwrap_or_default();
            for (vip, token) in now.difference(&before) {
                if *token != 0 && !seen.on_majority(*token) {
                    return Err(format!(
                        "S8: node {id} answers for {vip} by entry {token}, which no majority has"
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::observation::NodeFacts;

    #[test]
    fn it_can_fail() {
        let vip: IpAddr = "10.0.0.100".parse().unwrap();
        let mut seen = Observation::default();
        for id in 1..=3 {
            let durable = Arc::new(BTreeMap::from([(4, 1)]));
            seen.nodes.insert(id, NodeFacts { durable, ..NodeFacts::default() });
        }
        seen.nodes.get_mut(&1).unwrap().answers.insert(vip, 4);
        assert_eq!(NoMinorityStart::default().check(&seen), Ok(()));
        seen.nodes.get_mut(&1).unwrap().answers.insert(vip, 5);
        Arc::make_mut(&mut seen.nodes.get_mut(&1).unwrap().durable).insert(5, 1);
        assert!(NoMinorityStart::default().check(&seen).unwrap_err().starts_with("S8"));
    }
}
