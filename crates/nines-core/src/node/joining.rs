//! Nodes that wait for the log, and those that send it to them.
//!
//! Decides: whom a node speaks to before the log names them, and when a state that was sent is sent
//! again. The consensus itself never sends it twice: it waits for ever for a follower that lost it.

use std::collections::BTreeMap;

use nines_model::{Incarnation, Millis, NodeId, Time};

use super::Node;

/// A follower that has not taken the state in after so long gets it again, also where no line said
/// that it was lost: 64 MB at 10 Mbit/s take 54 s.
const STATE_AGAIN: Millis = Millis(60_000);
/// Its answer is lost, if its heartbeats have said for a while that it has the state.
const ANSWERED: Millis = Millis(1_000);

/// States that are on their way: when each was sent, and to which incarnation of the receiver.
#[derive(Default)]
pub struct Sent(BTreeMap<NodeId, (Time, Incarnation)>);

impl Sent {
    /// A member has left.
    pub(super) fn forget(&mut self, id: NodeId) {
        self.0.remove(&id);
    }
}

impl Node {
    /// Whether this may be a member that joined later than what this node knows of the log: perhaps
    /// the leader, from whom the rest of the log comes. A number that is known to be given is that
    /// of a member, or of one that left for good.
    pub fn may_be_newer(&self, id: NodeId) -> bool {
        id > self.state.members.highest() && !self.state.members.contains_key(&id)
    }

    /// Whom this node speaks to though its log does not name them.
    pub(super) fn unnamed(&self) -> Vec<NodeId> {
        let mut ids = self.voter.consensus().learners();
        // Before it has the log: those it joined by.
        if self.state.members.is_empty() {
            ids.extend(&self.config.seeds);
        }
        ids.extend(self.membership.ever_heard().filter(|id| self.may_be_newer(*id)));
        ids
    }

    /// A line to this node broke with frames on it.
    pub(super) fn undelivered(&mut self, now: Time, id: NodeId) {
        self.note_undelivered(now, id);
        self.forget_state_sent(id);
    }

    fn forget_state_sent(&mut self, id: NodeId) {
        self.states_sent.0.remove(&id);
        self.voter.lost(id);
    }

    /// The leader's part: a state that did not arrive is sent again.
    pub(super) fn send_states_again(&mut self, now: Time) {
        let waiting = self.voter.consensus().awaits_state();
        self.states_sent.0.retain(|id, _| waiting.contains_key(id));
        for (id, index) in waiting {
            let peer = self.membership.peer(id);
            let has_it = peer.is_some_and(|peer| peer.beat.applied() >= index);
            let incarnation = peer.map_or(Incarnation::NONE, |p| p.beat.incarnation());
            let (at, to) = *self.states_sent.0.entry(id).or_insert((now, incarnation));
            // A process that started since has forgotten what was on its way to the one before.
            let again = if has_it { ANSWERED } else { STATE_AGAIN };
            if to != incarnation || now.since(at) > again.ns() {
                self.forget_state_sent(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use nines_model::{Incarnation, NodeId, Time};

    use super::super::{Config, Node};
    use crate::wire::Persisted;

    /// Two that ask for votes at the same time get half of them each, and ask again together.
    #[test]
    fn nodes_that_joined_ask_for_votes_at_different_times() {
        let ticks = |id: u64| {
            let name = format!("n{id}").into();
            let (id, boot, seeds) = (NodeId(id), Incarnation(7), vec![NodeId(1)]);
            let config = Config { id, name, boot, machine_boot: 1, place: 1, seeds };
            Node::new(config, Time(1), &Persisted::default()).voter.consensus().election_ticks()
        };
        let all: BTreeSet<usize> = (1..=8).map(ticks).collect();
        assert_eq!(all.len(), 8, "{all:?}");
    }
}
