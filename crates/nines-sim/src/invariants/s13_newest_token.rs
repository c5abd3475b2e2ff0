//! S13: once any node knows who holds a VIP by a later entry, or that nobody does, no other kernel
//! answers for it by an earlier one.

use std::{collections::BTreeMap, net::IpAddr};

use super::Invariant;
use crate::observation::Observation;

/// Remembers the newest entry about each VIP that any node has applied, and whom it names.
#[derive(Default)]
pub struct NewestToken {
    newest: BTreeMap<IpAddr, (u64, Option<u64>)>,
}

impl Invariant for NewestToken {
    fn name(&self) -> &'static str {
        "S13-newest-token"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        for (vip, holding) in seen.nodes.values().flat_map(|n| n.holdings.iter()) {
            let newest = self.newest.entry(*vip).or_insert(*holding);
            if newest.0 < holding.0 {
                *newest = *holding;
            }
        }
        for (id, node) in &seen.nodes {
            for (vip, token) in &node.answers {
                let Some((newest, holder)) = self.newest.get(vip) else { continue };
                if token < newest && *holder != Some(*id) {
                    return Err(format!(
                        "S13: node {id} answers for {vip} by entry {token}, which {newest} ended"
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
        let answers = [(vip, 4)].into();
        seen.nodes.insert(1, NodeFacts { answers, ..NodeFacts::default() });
        let mut s13 = NewestToken::default();
        let mut say = |holding| {
            let holdings = Arc::new([(vip, holding)].into());
            seen.nodes.insert(2, NodeFacts { holdings, ..NodeFacts::default() });
            s13.check(&seen)
        };
        assert_eq!(say((4, Some(1))), Ok(()));
        assert_eq!(say((5, Some(1))), Ok(()), "given to the same node again");
        assert!(say((6, None)).unwrap_err().starts_with("S13"));
        assert!(say((4, Some(1))).unwrap_err().contains("which 6 ended"), "what was known stays");
    }
}
