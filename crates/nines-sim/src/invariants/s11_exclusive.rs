//! S11: at no instant do two kernels answer for the same VIP.

use std::{collections::BTreeMap, net::IpAddr};

use super::Invariant;
use crate::observation::Observation;

/// Needs no memory.
pub struct Exclusive;

impl Invariant for Exclusive {
    fn name(&self) -> &'static str {
        "S11-exclusive"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        let mut owner: BTreeMap<IpAddr, u64> = BTreeMap::new();
        for (id, node) in &seen.nodes {
            for vip in node.answers.keys() {
                if let Some(other) = owner.insert(*vip, *id) {
                    return Err(format!("S11: nodes {other} and {id} both answer for {vip}"));
                }
                if seen.copy_answers.contains_key(vip) {
                    return Err(format!("S11: node {id} and a copy both answer for {vip}"));
                }
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
        let vip: IpAddr = "10.0.0.100".parse().unwrap();
        let answers = NodeFacts { answers: [(vip, 1)].into(), ..NodeFacts::default() };
        let mut seen = Observation::default();
        seen.nodes.insert(1, answers.clone());
        assert_eq!(Exclusive.check(&seen), Ok(()));
        seen.copy_answers = [(vip, 1)].into();
        assert!(Exclusive.check(&seen).unwrap_err().contains("copy"));
        seen.copy_answers.clear();
        seen.nodes.insert(2, answers);
        assert!(Exclusive.check(&seen).unwrap_err().starts_with("S11"));
    }
}
