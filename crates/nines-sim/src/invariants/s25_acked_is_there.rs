//! S25: what a node has said to have is on its disk, when it says so and after every crash: only a
//! newer leader's entries ever take its place.

use std::collections::BTreeMap;

use super::Invariant;
use crate::observation::{NodeFacts, Observation};

/// What one disk has shown.
#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    disk: u64,
    last: Option<(u64, u64)>,
    /// Term and index of the furthest entry that was acknowledged.
    most: (u64, u64),
}

/// Remembers what each disk has shown.
#[derive(Default)]
pub struct AckedIsThere {
    shown: BTreeMap<u64, Shown>,
}

/// Term and index of this entry on the disk, or of the state that has it in it.
fn on_disk(node: &NodeFacts, index: u64) -> Option<(u64, u64)> {
    let inside = || (node.durable_snapshot >= index).then_some((0, index));
    node.durable.get(&index).map(|term| (*term, index)).or_else(inside)
}

impl Invariant for AckedIsThere {
    fn name(&self) -> &'static str {
        "S25-acked-is-there"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        for (id, node) in &seen.nodes {
            let disk = node.kept.disk;
            let shown = self.shown.entry(*id).or_default();
            if shown.disk != disk {
                *shown = Shown { disk, ..Shown::default() };
            }
            if node.told_ack != shown.last {
                shown.last = node.told_ack;
                if let Some((term, index)) = node.told_ack {
                    let Some(there) = on_disk(node, index) else {
                        return Err(format!(
                            "S25: node {id} says in term {term} that it has entry {index}, which \
                             is not on its disk"
                        ));
                    };
                    shown.most = shown.most.max(there);
                }
            }
            if node.kept.end < shown.most {
                let (end, most) = (node.kept.end, shown.most);
                return Err(format!(
                    "S25: the disk of node {id} ends at {end:?}, and it has acknowledged {most:?}"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::observation::Kept;

    #[test]
    fn it_can_fail() {
        let node = |entries: u64, term, told_ack| NodeFacts {
            durable: Arc::new((1..=entries).map(|i| (i, term)).collect()),
            kept: Kept { end: (term, entries), ..Kept::default() },
            told_ack,
            ..NodeFacts::default()
        };
        let mut s25 = AckedIsThere::default();
        let mut see = |node: NodeFacts| {
            s25.check(&Observation { nodes: [(1, node)].into(), ..Observation::default() })
        };
        assert_eq!(see(node(9, 2, Some((2, 9)))), Ok(()));
        assert_eq!(see(node(7, 3, Some((2, 9)))), Ok(()), "a newer leader's entries");
        assert!(see(node(8, 2, Some((2, 9)))).unwrap_err().contains("ends at (2, 8)"));
        assert!(see(node(9, 2, Some((2, 10)))).unwrap_err().contains("not on its disk"));
        let mut other = node(1, 1, None);
        other.kept.disk = 1;
        assert_eq!(see(other), Ok(()), "another disk: that is S6");
    }
}
