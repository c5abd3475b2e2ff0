//! What a disk gives back at the start of a node, and a leader whose disk takes nothing more.
//!
//! Decides: whether it can be the log of a node at all. The library believes its log and stops the
//! process where two parts of it contradict each other; a node that guessed would vote by a log
//! that nobody wrote.

use raft::StateRole;

use super::Consensus;
use crate::wire::Persisted;

/// Terms and indexes end here. No cluster gets so far, and sums of two of them fit a number.
pub const NUMBER_MAX: u64 = 1 << 62;

/// Whether this can be a node's log; an error says what is wrong with it.
pub fn sound(kept: &Persisted) -> Result<(), String> {
    let (snapshot, hard_state) = (&kept.snapshot, &kept.hard_state);
    let entries = &kept.entries;
    if snapshot.index == 0 {
        // A node that waits for the log has voted for nobody, but may have heard of a term.
        if entries.is_empty() && hard_state.commit == 0 && hard_state.vote == 0 {
            return Ok(());
        }
        return Err("the state that its entries follow is missing".into());
    }
    members(&snapshot.voters, &snapshot.learners)?;
    let (mut index, mut term) = (snapshot.index, snapshot.term);
    if term == 0 || index >= NUMBER_MAX {
        return Err(format!("its state has term {term} and index {index}"));
    }
    for entry in entries {
        if entry.index != index + 1 || entry.index >= NUMBER_MAX {
            return Err(format!("entry {} is missing, {} is there", index + 1, entry.index));
        }
        if entry.term < term {
            return Err(format!("entry {} is older than the one before it", entry.index));
        }
        (index, term) = (entry.index, entry.term);
    }
    if hard_state.term < term || hard_state.term >= NUMBER_MAX {
        return Err(format!("term {} is kept, and entry {index} is of {term}", hard_state.term));
    }
    if hard_state.commit > index {
        return Err(format!(
            "it ends at entry {index}, and a majority has had {}: its end is lost",
            hard_state.commit
        ));
    }
    Ok(())
}

impl Consensus {
    /// Leads no more. The term stays, so nothing has to be on the disk for that.
    pub fn step_down(&mut self) {
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Leader {
            raft.become_follower(raft.term, 0);
        }
    }
}

/// Whether these can be the members of a cluster.
pub fn members(voters: &[u64], learners: &[u64]) -> Result<(), String> {
    if voters.is_empty() {
        return Err("it names no voters".into());
    }
    let mut all: Vec<u64> = voters.iter().chain(learners).copied().collect();
    all.sort_unstable();
    let count = all.len();
    all.dedup();
    if all.len() != count || all[0] == 0 {
        return Err("it names a member twice, or one without a number".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nines_model::NodeId;

    use super::*;
    use crate::{
        voter::consensus::Consensus,
        wire::{HardState, LogEntry, Persist, RaftMessage, Snapshot},
    };

    fn entry(index: u64, term: u64) -> LogEntry {
        LogEntry { term, index, ..LogEntry::default() }
    }

    fn kept(entries: &[(u64, u64)], commit: u64) -> Persisted {
        Persisted {
            hard_state: HardState { term: 3, vote: 1, commit },
            snapshot: Snapshot { index: 3, term: 1, voters: vec![1, 2, 3], ..Snapshot::default() },
            entries: entries.iter().map(|(i, t)| entry(*i, *t)).collect(),
            ..Persisted::default()
        }
    }

    #[test]
    fn a_log_that_contradicts_itself_is_refused() {
        let why = |kept: &Persisted| sound(kept).unwrap_err();
        assert_eq!(sound(&Persisted::default()), Ok(()));
        assert_eq!(sound(&kept(&[(4, 1), (5, 3)], 4)), Ok(()));
        assert_eq!(sound(&kept(&[], 3)), Ok(()));
        assert!(why(&kept(&[(4, 1), (6, 1)], 4)).contains("entry 5 is missing"));
        assert!(why(&kept(&[(4, 2), (5, 1)], 4)).contains("older"));
        assert!(why(&kept(&[(4, 4)], 4)).contains("term 3 is kept"));
        assert!(why(&kept(&[(4, 1)], 9)).contains("its end is lost"));
        let mut lone = kept(&[(1, 1)], 1);
        lone.snapshot = Snapshot::default();
        assert!(why(&lone).contains("missing"));
        for (voters, learners) in [(vec![], vec![]), (vec![1, 1], vec![]), (vec![1], vec![1])] {
            let mut odd = kept(&[], 3);
            (odd.snapshot.voters, odd.snapshot.learners) = (voters, learners);
            assert!(sound(&odd).is_err());
        }
        let mut far = kept(&[], 3);
        far.hard_state.term = u64::MAX;
        assert!(sound(&far).is_err());
    }

    /// The disk of a node, which goes by the rule or, as it once was, keeps the old end of the log.
    fn write(disk: &mut Persisted, persist: &Persist, by_rule: bool) {
        let mut stay = persist.keeps();
        if !by_rule && persist.received {
            stay.end = persist.entries.first().map_or(u64::MAX, |e| e.index);
        }
        disk.entries.retain(|e| stay.contains(&e.index));
        disk.entries.extend(persist.entries.iter().cloned());
        disk.snapshot = persist.snapshot.clone().unwrap_or(std::mem::take(&mut disk.snapshot));
        if let Some(hard_state) = &persist.hard_state {
            disk.hard_state = hard_state.clone();
        }
    }

    fn step(node: &mut Consensus, disk: &mut Persisted, by_rule: bool, message: &RaftMessage) {
        node.step(message).unwrap();
        while let Some(batch) = node.take() {
            if let Some((number, persist)) = batch.persist {
                write(disk, &persist, by_rule);
                node.persisted(number);
            }
        }
    }

    /// Of five nodes 1 and 3 have entries 4 to 9 of term 2. The others have committed entries of
    /// term 3 in their place; the state at 6 comes to node 1. It takes that in and starts anew.
    /// Then node 3, which has none of term 3, asks for its vote.
    fn votes_for_one_that_lacks_what_is_committed(by_rule: bool) -> bool {
        let old: Vec<(u64, u64)> = (4..=9).map(|i| (i, 2)).collect();
        let mut disk = kept(&old, 3);
        disk.snapshot.voters = vec![1, 2, 3, 4, 5];
        let mut node = Consensus::new(NodeId(1), 0, 100, &disk);
        let snapshot = Snapshot { index: 6, term: 3, ..disk.snapshot.clone() };
        let to_1 = |kind, from, term| RaftMessage { kind, to: 1, from, term, ..Default::default() };
        let state = RaftMessage { snapshot: Some(snapshot), ..to_1(7, 2, 3) };
        step(&mut node, &mut disk, by_rule, &state);
        assert_eq!(disk.snapshot.index, 6);
        let mut node = Consensus::new(NodeId(1), 0, 100, &disk);
        let asks = RaftMessage { log_term: 2, index: 9, ..to_1(5, 3, 4) };
        step(&mut node, &mut disk, by_rule, &asks);
        disk.hard_state.vote == 3
    }

    #[test]
    fn the_end_of_an_old_log_does_not_vote() {
        assert!(votes_for_one_that_lacks_what_is_committed(false), "the fault can be seen");
        assert!(!votes_for_one_that_lacks_what_is_committed(true));
    }
}
