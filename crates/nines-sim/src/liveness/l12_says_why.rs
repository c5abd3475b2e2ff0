//! L12: while a VIP is answered for by nobody, some node that runs says why, in the product's own
//! words: that it hears too few votes, waits for something, votes no more, or that no director can
//! take the VIP.

use std::{collections::BTreeMap, net::IpAddr};

use super::Goal;
use crate::observation::Observation;

/// Remembers since when each VIP that was answered for is silent.
#[derive(Default)]
pub struct SaysWhy {
    silent: BTreeMap<IpAddr, u64>,
    /// Since when nobody says why one of them is.
    unexplained: Option<u64>,
}

/// What goes on by itself is over by then, and the rest is stuck, ns.
const STUCK_NS: u64 = 4_000_000_000;
/// For so long nobody need say anything of what is just going on, ns.
const GOES_ON_NS: u64 = 1_000_000_000;

impl Goal for SaysWhy {
    fn name(&self) -> &'static str {
        "L12-says-why"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        let running = || seen.nodes.values().filter_map(|node| node.health.as_ref());
        let answered = seen.nodes.values().flat_map(|node| node.answers.keys());
        // What the config does not have is missed by nobody.
        let answered: Vec<IpAddr> =
            answered.chain(running().flat_map(|health| &health.without)).copied().collect();
        self.silent.extend(answered.into_iter().map(|vip| (vip, seen.now)));
        let mut stuck = self.silent.iter().filter(|(_, at)| seen.now - **at > STUCK_NS);
        // Where nobody runs, nobody can say anything.
        if seen.quiet_ns <= STUCK_NS || running().next().is_none() {
            self.unexplained = None;
            return Ok(());
        }
        let unexplained = stuck.find(|(vip, _)| {
            let about = |(of, _): &(Option<IpAddr>, String)| of.is_none_or(|of| of == **vip);
            !running().any(|health| health.why.iter().any(about))
        });
        let Some((vip, at)) = unexplained else {
            self.unexplained = None;
            return Ok(());
        };
        if seen.now - *self.unexplained.get_or_insert(seen.now) < GOES_ON_NS {
            return Ok(());
        }
        let ms = (seen.now - at) / 1_000_000;
        Err(format!("L12: nobody answers for {vip} for {ms} ms, and no node says why"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{Health, NodeFacts};

    #[test]
    fn it_can_fail() {
        let vip: IpAddr = "10.0.0.100".parse().unwrap();
        let mut l12 = SaysWhy::default();
        let mut at = |s: u64, answers: bool, health: Option<Health>| {
            let mut node = NodeFacts { health, ..NodeFacts::default() };
            node.answers.extend(answers.then_some((vip, 4)));
            let (nodes, now, quiet_ns) = ([(1, node)].into(), s * 1_000_000_000, 9_000_000_000);
            l12.check(&Observation { now, nodes, quiet_ns, ..Observation::default() })
        };
        let silent = || Some(Health::default());
        let says = |of: Option<IpAddr>| {
            Some(Health { why: vec![(of, "1 of 3 votes heard".into())], ..Health::default() })
        };
        assert_eq!(at(1, true, silent()), Ok(()));
        assert_eq!(at(4, false, silent()), Ok(()));
        assert_eq!(at(9, false, says(None)), Ok(()));
        assert_eq!(at(9, false, says(Some(vip))), Ok(()));
        assert_eq!(at(9, false, None), Ok(()), "nobody runs");
        let other = says(Some("10.0.0.101".parse().unwrap()));
        assert_eq!(at(9, false, other.clone()), Ok(()), "it may have just begun");
        assert!(at(10, false, other).unwrap_err().contains("for 9000 ms, and no node says why"));
        assert!(at(10, false, silent()).is_err());
        let without = [vip].into();
        assert_eq!(at(19, false, Some(Health { without, ..Health::default() })), Ok(()));
    }
}
