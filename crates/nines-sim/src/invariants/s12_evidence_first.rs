//! S12: an entry that gives a VIP to another node, or says that its holder has let go, is on a
//! majority of disks only once the holder's kernel is silent: by its own word, by the end of its
//! lease, or because it is off.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Invariant;
use crate::observation::{End, NodeFacts, Observation};

/// Remembers which entries were judged, and which are on no majority of disks yet.
#[derive(Default)]
pub struct EvidenceFirst {
    /// What each disk had when it was last looked at.
    known: BTreeMap<u64, Arc<BTreeMap<u64, Vec<End>>>>,
    waits: BTreeSet<u64>,
    judged: BTreeSet<u64>,
}

/// Who still answers for what an entry ends.
fn answers(ends: &[End], nodes: &BTreeMap<u64, NodeFacts>) -> Option<(u64, End)> {
    let one = |end: &End| {
        let still = |(id, node): (&u64, &NodeFacts)| {
            let (low, high) = end.tokens;
            let token = node.answers.get(&end.vip)?;
            (Some(*id) != end.to && (low..=high).contains(token)).then_some(*id)
        };
        Some((nodes.iter().find_map(still)?, end.clone()))
    };
    ends.iter().find_map(one)
}

impl Invariant for EvidenceFirst {
    fn name(&self) -> &'static str {
        "S12-evidence-first"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        for (id, node) in &seen.nodes {
            if self.known.get(id).is_none_or(|known| !Arc::ptr_eq(known, &node.ends)) {
                let new = node.ends.keys().filter(|index| !self.judged.contains(index));
                self.waits.extend(new.copied());
                self.known.insert(*id, Arc::clone(&node.ends));
            }
        }
        let decided = |index: &u64| seen.on_majority(*index);
        let decided: Vec<u64> = self.waits.iter().copied().filter(decided).collect();
        for index in decided {
            self.waits.remove(&index);
            self.judged.insert(index);
            // Nodes that have another entry there will lose it.
            let mut by_term: BTreeMap<u64, usize> = BTreeMap::new();
            for term in seen.nodes.values().filter_map(|node| node.durable.get(&index)) {
                *by_term.entry(*term).or_default() += 1;
            }
            let most = by_term.iter().max_by_key(|(_, count)| **count).map(|(term, _)| *term);
            let mut have = seen.nodes.values().filter(|n| n.durable.get(&index).copied() == most);
            let ends = have.find_map(|node| node.ends.get(&index));
            if let Some((id, end)) = ends.and_then(|ends| answers(ends, &seen.nodes)) {
                let End { vip, to, .. } = end;
                let to = to.map_or_else(|| "nobody".to_owned(), |to| format!("node {to}"));
                return Err(format!(
                    "S12: node {id} still answers for {vip}, which entry {index} has given to {to}"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_can_fail() {
        let vip: std::net::IpAddr = "10.0.0.100".parse().unwrap();
        let give = End { vip, tokens: (0, 8), to: Some(2) };
        let mut seen = Observation::default();
        for id in 1..=3 {
            let durable = Arc::new(BTreeMap::from([(9, 4)]));
            let ends = Arc::new(BTreeMap::from([(9, vec![give.clone()])]));
            let node = NodeFacts { ends, durable, ..NodeFacts::default() };
            seen.nodes.insert(id, if id == 1 { node } else { NodeFacts::default() });
        }
        seen.nodes.get_mut(&1).unwrap().answers.insert(vip, 5);
        let mut s12 = EvidenceFirst::default();
        assert_eq!(s12.check(&seen), Ok(()), "one disk decides nothing");
        let ends = |seen: &Observation| {
            let (durable, ends) = (seen.nodes[&1].durable.clone(), seen.nodes[&1].ends.clone());
            NodeFacts { ends, durable, ..NodeFacts::default() }
        };
        let second = ends(&seen);
        seen.nodes.insert(2, second);
        let wrong = s12.check(&seen).unwrap_err();
        assert!(wrong.contains("node 1 still answers for 10.0.0.100, which entry 9"), "{wrong}");
        assert_eq!(s12.check(&seen), Ok(()), "it is told once");
        for (id, token, fails) in [(1, 9, false), (2, 5, false), (3, 8, true)] {
            let mut seen = seen.clone();
            seen.nodes.get_mut(&1).unwrap().answers.clear();
            seen.nodes.get_mut(&id).unwrap().answers.insert(vip, token);
            assert_eq!(EvidenceFirst::default().check(&seen).is_err(), fails, "{id} {token}");
        }
    }
}
