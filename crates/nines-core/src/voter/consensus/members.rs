//! Who is in the consensus, by what is on disk.

use nines_model::NodeId;

use super::Consensus;

impl Consensus {
    /// Whether this node gets the log, with a vote or without.
    pub fn is_member(&self, id: NodeId) -> bool {
        self.is_voter(id) || self.raw.store().conf.get_learners().contains(&id.number())
    }

    /// Whether this node votes.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.raw.store().conf.get_voters().contains(&id.number())
    }
}
