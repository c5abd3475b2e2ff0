//! The vote of a node that is known to be off.
//!
//! Of two voters one can decide nothing. With proof that the other is off (`node/alone.rs`) it
//! casts that one's vote, too, and acknowledges entries in its place, until the change is through
//! that takes the vote away. What the library believes of the other's log then is not true, so
//! this node is elected once more.
//!
//! Decides: when each of the three may be said. A candidate's term and own vote, and a leader's
//! entries, are on this node's disk first.

use nines_model::NodeId;
use raft::{
    StateRole,
    eraftpb::{Message, MessageType},
};

use super::{Change, Consensus};

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
        }
        let _ = self.raw.step(message);
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
