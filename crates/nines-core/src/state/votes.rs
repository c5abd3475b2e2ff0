//! Members that lose their vote and stay members.
//!
//! Decides: which change of the consensus takes a vote, and which one begins the log of a member
//! that has lost it. Who loses a vote, and when, is the leader's to say (`node/rebuild.rs`).

use std::collections::BTreeMap;

use nines_model::{LogIndex, NodeId, NodeName};

use super::{Members, events::Event};
use crate::{
    event_log::EventKind,
    voter::consensus::Change,
    wire::{AnewOrder, VoteChange},
};

impl Members {
    /// The same with members that begin anew, as a snapshot has them.
    pub(crate) fn with_anew(mut self, anew: &[AnewOrder]) -> Self {
        let one = |order: &AnewOrder| (NodeId(order.node), LogIndex(order.index));
        self.anew = anew.iter().map(one).collect();
        self
    }

    /// Members that have lost their logs and begin anew, by the entry that took the vote of each.
    pub fn anew(&self) -> &BTreeMap<NodeId, LogIndex> {
        &self.anew
    }

    /// Name of a member.
    pub(super) fn name(&self, id: NodeId) -> NodeName {
        self.get(&id).map_or("", |member| member.name.as_str()).into()
    }

    /// One that begins anew leaves the consensus: nothing that it acknowledged counts any more. One
    /// that has its log goes on getting it.
    pub(super) fn may_take_vote(&self, change: (NodeId, Change), taken: &VoteChange) -> bool {
        let kind = if taken.anew { Change::Leaves } else { Change::Learns };
        change == (taken.member(), kind) && self.contains_key(&taken.member())
    }

    /// Only one whose vote was taken for that gets the log anew.
    pub(super) fn may_learn_again(&self, change: (NodeId, Change), again: &VoteChange) -> bool {
        change == (again.member(), Change::Learns) && self.anew.contains_key(&again.member())
    }
}

fn of(kind: EventKind, name: &NodeName, text: String, answer: &str) -> (Option<Event>, String) {
    let subject = name.to_string();
    (Some(Event { kind, subject, text }), format!("{name} {answer}"))
}

/// The event of a vote that was taken, and the answer to its proposer.
pub(super) fn lost(name: &NodeName, anew: bool, why: &str) -> (Option<Event>, String) {
    let then = if anew { "loses its vote and begins anew" } else { "loses its vote" };
    of(EventKind::NoVote, name, format!("{name} {then}: {why}"), "has no vote any more")
}

/// The same of a member that gets the log anew.
pub(super) fn learns(name: &NodeName) -> (Option<Event>, String) {
    of(EventKind::Join, name, format!("{name} began anew, and gets the log"), "gets the log")
}

#[cfg(test)]
mod tests {
    use Change::{Learns, Leaves, Votes};

    use super::*;
    use crate::{
        state::tests::{state, tried},
        wire::command::Kind,
    };

    fn take(node: u64, anew: bool) -> Kind {
        Kind::TakeVote(VoteChange { node, anew, why: "it is silent".into() })
    }

    /// Each way to take the vote of lb2 (2) or of nobody, with each change of the consensus.
    #[test]
    fn a_vote_is_taken_by_the_change_that_the_command_is_about() {
        for (node, anew) in [(2, false), (2, true), (9, false), (9, true)] {
            for kind in [Learns, Leaves, Votes] {
                for id in [2, 3] {
                    let mut state = state();
                    let change = Some((NodeId(id), kind));
                    let done = tried(&mut state, 20, change, take(node, anew)).is_ok();
                    let wanted = if anew { Leaves } else { Learns };
                    assert_eq!(done, (node, id, kind) == (2, 2, wanted), "{node} {anew} {kind:?}");
                    assert!(state.members.contains_key(&NodeId(2)), "it stays a member");
                    assert_eq!(state.members.anew().len(), usize::from(done && anew));
                }
            }
            assert!(tried(&mut state(), 20, None, take(node, anew)).is_err());
        }
    }

    #[test]
    fn only_one_that_begins_anew_learns_again_and_once() {
        let again = || Kind::LearnAgain(VoteChange { node: 2, anew: true, why: String::new() });
        let mut state = state();
        assert!(tried(&mut state, 20, Some((NodeId(2), Learns)), again()).is_err());
        assert!(tried(&mut state, 21, Some((NodeId(2), Leaves)), take(2, true)).is_ok());
        assert_eq!(state.members.anew(), &[(NodeId(2), LogIndex(21))].into());
        assert!(tried(&mut state, 22, Some((NodeId(2), Votes)), again()).is_err());
        assert!(tried(&mut state, 23, Some((NodeId(2), Learns)), again()).is_ok());
        assert!(tried(&mut state, 24, Some((NodeId(2), Learns)), again()).is_err());
        assert!(state.members.anew().is_empty());
    }
}
