//! The vote of a node that is known to be off.
//!
//! Of two voters one can decide nothing. With proof that the other is off (`node/alone.rs`) it
//! casts that one's vote, too, and acknowledges entries in its place, until the change is through
//! that takes the vote away. What the library believes of the other's log then is not true, so
//! this node is elected once more.
//! Until then it sends the other one nothing.
//!
//! Decides: when each of the three may be said. A candidate's term and own vote, and a leader's
//! entries, are on this node's disk first.

use nines_model::NodeId;
use raft::{
    StateRole,
    eraftpb::{Message, MessageType},
};

use super::{Change, Consensus};
use crate::wire::RaftMessage;

impl Consensus {
    /// Changes of membership in the log that are not applied, each with its node.
    pub fn changes_ahead(&self) -> Vec<(NodeId, Change)> {
        let entries = self.unapplied(u64::MAX);
        entries.iter().filter_map(|entry| super::committed(entry).changes_member()).collect()
    }

    /// Whether the log has a change of membership that is not applied, or one is under way.
    pub fn has_change_ahead(&self) -> bool {
        let leads = self.is_leader() && self.raw.raft.has_pending_conf();
        leads || !self.changes_ahead().is_empty()
    }

    /// Says in place of `other`, which is off, what this node needs to hear of it now.
    pub fn vote_for(&mut self, other: NodeId) {
        if !self.is_durable() {
            return;
        }
        let term = self.raw.raft.term;
        let (kind, term) = match self.raw.raft.state {
            StateRole::Follower => {
                let _ = self.raw.campaign();
                return;
            }
            StateRole::PreCandidate => (MessageType::MsgRequestPreVoteResponse, term + 1),
            StateRole::Candidate if self.durable.0 != term || !self.waiting.is_empty() => return,
            StateRole::Candidate => (MessageType::MsgRequestVoteResponse, term),
            StateRole::Leader => (MessageType::MsgAppendResponse, term),
        };
        let mut message = Message::default();
        message.set_msg_type(kind);
        message.to = self.raw.raft.id;
        message.from = other.number();
        message.term = term;
        if kind == MessageType::MsgAppendResponse {
            message.index = self.durable.1;
            self.borrowed = Some((other.number(), term));
        }
        let _ = self.raw.step(message);
    }

    /// What leaves of these messages. Nothing goes to a node whose acknowledgements were said for
    /// it in that term: the library tells it that so much is committed, and it would take what its
    /// own log has there for that. It may start, or turn out to be on, before this node is elected
    /// once more.
    pub(super) fn let_out(&mut self, mut messages: Vec<RaftMessage>) -> Vec<RaftMessage> {
        messages.retain(|message| self.borrowed != Some((message.to, message.term)));
        for (term, index) in messages.iter().filter_map(super::acknowledges) {
            self.told = self.told.max((term, index));
        }
        messages
    }

    /// What was said for another node is forgotten: nobody leads until this node is elected anew.
    /// False: the disk has not the whole log yet, and it is not forgotten.
    pub fn forget_borrowed(&mut self) -> bool {
        if !self.is_durable() {
            return false;
        }
        if self.is_leader() {
            let raft = &mut self.raw.raft;
            raft.become_follower(raft.term, 0);
            let _ = self.raw.campaign();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{HardState, Persisted, Snapshot};

    /// Messages for node 2, by term, in so many ticks after this node went on in its place.
    fn told(rounds: u32, anew: u32) -> Vec<u64> {
        let kept = Persisted {
            snapshot: Snapshot { index: 1, term: 1, voters: vec![1, 2], ..Snapshot::default() },
            hard_state: HardState { term: 1, vote: 0, commit: 1 },
            ..Persisted::default()
        };
        let mut one = Consensus::new(NodeId(1), 0, 100, &kept);
        let (mut told, mut led) = (Vec::new(), 0);
        for round in 0..rounds {
            one.tick();
            if round == anew {
                assert!(one.forget_borrowed());
            }
            if round < anew {
                one.vote_for(NodeId(2));
            }
            while let Some(batch) = one.take() {
                let later = batch.persist.map(|(number, _)| one.persisted(number));
                let all = batch.messages.into_iter().chain(later.into_iter().flatten());
                let term = one.term();
                told.extend(all.filter(|m| led > 0 && m.to == 2).map(|m| m.term.min(term)));
                batch.committed.iter().for_each(|entry| one.applied(entry.index));
            }
            led += u32::from(one.leads());
        }
        assert!(led > 2 && one.raw.raft.raft_log.committed > 1, "it went on alone");
        told
    }

    #[test]
    fn who_was_spoken_for_hears_nothing_before_the_next_election() {
        assert_eq!(told(20, 20), []);
        assert!(!told(40, 20).is_empty(), "then it is asked for its vote");
    }
}
