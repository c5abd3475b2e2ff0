//! S30: a node that runs and hears too few others for a majority neither goes on leading nor raises
//! its term: the first would keep the others from electing one that hears them, the second would
//! cost them their leader when it is heard again.

use std::collections::BTreeMap;

use super::Invariant;
use crate::{observation::Observation, timing::DELAY_MAX_NS};

/// Remembers the term in which each deaf node has come to rest.
#[derive(Default)]
pub struct DeafIsQuiet {
    terms: BTreeMap<u64, u64>,
}

impl Invariant for DeafIsQuiet {
    fn name(&self) -> &'static str {
        "S30-deaf-is-quiet"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        // A leader looks once in an election timeout whom it has heard since it last looked.
        let leads_until = 2 * seen.election_ns + seen.election_ns / 2 + DELAY_MAX_NS;
        for (id, node) in &seen.nodes {
            let ms = node.deaf_ns / 1_000_000;
            if node.leads.is_some() && node.deaf_ns > leads_until {
                return Err(format!("S30: node {id} leads, and has heard nobody for {ms} ms"));
            }
            // What it heard before may have waited for the end of a promise.
            if !node.hears_nobody || node.deaf_ns <= leads_until + seen.longest_promise_ns {
                self.terms.remove(id);
                continue;
            }
            let term = self.terms.entry(*id).or_insert(node.term);
            // A process that takes another one's place goes by the disk, which may be behind.
            *term = node.term.min(*term);
            if node.term > *term {
                let now = node.term;
                return Err(format!("S30: node {id} went from term {term} to {now} by itself"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::NodeFacts;

    fn alone() -> NodeFacts {
        NodeFacts { hears_nobody: true, ..NodeFacts::default() }
    }

    #[test]
    fn it_can_fail() {
        let mut s30 = DeafIsQuiet::default();
        let mut check = |deaf_ms: u64, term, leads| {
            let node = NodeFacts { deaf_ns: deaf_ms * 1_000_000, term, leads, ..alone() };
            s30.check(&Observation {
                nodes: [(1, node)].into(),
                election_ns: 250_000_000,
                longest_promise_ns: 2_000_000_000,
                ..Observation::default()
            })
        };
        assert_eq!(check(600, 4, Some(4)), Ok(()));
        assert!(check(700, 4, Some(4)).unwrap_err().contains("heard nobody for 700 ms"));
        assert_eq!(check(2_000, 4, None), Ok(()));
        assert_eq!(check(2_600, 5, None), Ok(()), "a message had waited");
        assert_eq!(check(2_700, 5, None), Ok(()));
        assert_eq!(check(2_800, 4, None), Ok(()), "it has been replaced in place");
        assert!(check(3_000, 6, None).unwrap_err().contains("from term 4 to 6"));
        assert_eq!(check(0, 7, None), Ok(()));
        assert_eq!(check(2_700, 8, None), Ok(()));
    }
}
