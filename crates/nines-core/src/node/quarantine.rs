//! Nodes that fall silent and come back again and again.
//!
//! Such a node gets no VIP that another director could take, and not the lead, until it has been
//! heard without a break for a time that doubles with each return. How often it came back is in the
//! event log, so every leader knows it; how long it has been heard since, each node measures
//! itself, by the boot clock: a new leader has heard the same heartbeats. One that has just started
//! begins to measure then, and a person's `nines ready` ends it at once.
//!
//! Decides: which silences count, what is written of them, and who is quarantined for how long. A
//! quarantined node is alive: it votes, renews, and keeps what it holds.

use nines_model::{Millis, NodeId, Time};

use super::Node;
use crate::{
    event_log::EventKind,
    membership::quarantine::{FORGOTTEN, LONGEST, back_off},
};

/// How long a node is still kept out of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// How often it came back, each time within an hour of the one before.
    pub returns: usize,
    /// How long it must still be heard without a break.
    pub left: Millis,
}

impl Node {
    /// Whether a member is kept out of use because it was silent again and again, as this node
    /// knows; `None`: it is not.
    pub fn quarantine(&self, now: Time, id: NodeId) -> Option<Quarantine> {
        let name = &self.state.members.get(&id)?.name;
        let (returns, last_ms) = self.state.story.returns(name)?;
        if self.wall_ms(now).saturating_sub(last_ms) >= FORGOTTEN.0 {
            return None;
        }
        let heard = match self.majority_since {
            Some(since) if id == self.config.id => now.since(since),
            _ => self.membership.peer(id).map_or(0, |peer| peer.heard_for(now)),
        };
        let left = back_off(returns).ns().checked_sub(heard).filter(|left| *left > 0)?;
        Some(Quarantine { returns, left: Millis(left.div_ceil(1_000_000)) })
    }

    /// Notes since when this node hears a majority; `heard`: whom it has heard lately.
    pub(super) fn note_majority(&mut self, now: Time, heard: &[&[NodeId]]) {
        let me = self.config.id;
        let counts = |id: NodeId| id == me || heard.iter().any(|some| some.contains(&id));
        let since = self.majority_since.unwrap_or(now);
        self.majority_since = self.is_majority(counts).then_some(since);
    }

    /// What is said of a member that is heard now: again, or for the first time.
    pub(super) fn returned(&self, now: Time, id: NodeId) -> (EventKind, String) {
        let (me, name) = (&self.config.name, self.name_of(id));
        let again = format!("{me} hears {name} again");
        if !self.was_silent_by_itself(id) {
            return (EventKind::HeartbeatBack, again);
        }
        let fresh =
            |(_, last_ms): &(usize, u64)| self.wall_ms(now).saturating_sub(*last_ms) < FORGOTTEN.0;
        let before = self.state.story.returns(&name).filter(fresh);
        let count = before.map_or(0, |(count, _)| count) + 1;
        let wait = back_off(count).0 / 1_000;
        if wait == 0 {
            return (EventKind::Returned, again);
        }
        let text = format!(
            "{again}, {count} times within an hour: it gets no VIP that another can take until it \
             is heard for {wait} s"
        );
        (EventKind::Returned, text)
    }

    /// Whether this node writes of a member's silence, or of its return, in the event log: the
    /// leader does. Of a return from its own silence the leader knows nothing; it may have been so
    /// short that it still leads. Then the first of those that heard a majority does.
    pub(super) fn tells_of(&self, now: Time, id: NodeId, kind: EventKind) -> bool {
        let consensus = self.voter.consensus();
        if kind != EventKind::Returned {
            return consensus.leads();
        }
        if let Some(leader) = consensus.leader().filter(|leader| *leader != id) {
            return leader == self.config.id;
        }
        let heard = |voter: &NodeId| self.membership.alive(now, *voter, self.lease());
        let mut before_me = consensus.voters().into_iter().take_while(|of| *of < self.config.id);
        !before_me.any(|voter| voter != id && heard(&voter))
    }

    /// Whether the silence that has just ended was the member's own: this node heard a majority all
    /// the time. Where it did not, the fault may be on its own side.
    fn was_silent_by_itself(&self, id: NodeId) -> bool {
        let silent = self.membership.peer(id).and_then(|peer| peer.before_silence());
        silent.zip(self.majority_since).is_some_and(|(at, since)| since <= at)
    }

    /// Whether a silence or a return is written in the event log. Those of a quarantined node are
    /// not, but for returns that make its quarantine longer or keep it: a node that flaps for days
    /// must not push everything else out.
    pub(super) fn is_return_told(&self, now: Time, id: NodeId, back: bool) -> bool {
        let Some((count, last_ms)) = self.state.story.returns(&self.name_of(id)) else {
            return true;
        };
        let ago = self.wall_ms(now).saturating_sub(last_ms);
        if back { back_off(count) < LONGEST || ago >= LONGEST.0 } else { ago >= back_off(count).0 }
    }
}
