//! Frames that go through a third node, where two nodes do not hear each other and both hear it.
//!
//! ```text
//! A --x--> B      A and C hear each other, C hears B:
//!  \--> C -->/    A also sends to C what it sends to B, and C passes it on, once
//! ```
//!
//! A frame that was passed on counts as one of its own sender: it names the incarnation of that
//! one, it renews what it would have renewed, and the deadline of a lease counts from the time of
//! its own sender's heartbeat. So no lease gets longer on the way. C is believed about A, as it is
//! about its own log: all members have the key of the cluster, and none of them lies. Large frames
//! are not passed on.
//!
//! Decides: which frames go through whom, and how many this node passes on.

use std::collections::BTreeMap;

use nines_model::{Millis, NodeId, Time};
use prost::Message as _;

use super::{Node, heartbeat::DATAGRAM_MAX};
use crate::{
    action::Action,
    feature_level::LINKS,
    membership::THROUGH_OTHERS,
    wire::{Frame, Relay, frame},
};

/// Bytes around a frame that is passed on, at most.
const OVERHEAD: usize = 80;
/// Frames of one node to another that are passed on within [`COUNTED`]: some times what a node at
/// work sends to another one with the fastest heartbeats.
const PASSED_MAX: u32 = 1_000;
const COUNTED: Millis = Millis(1_000);

/// Who passes what on.
#[derive(Default)]
pub(super) struct Relays {
    /// By node that is not reached: the one that passes frames on to it.
    via: BTreeMap<NodeId, NodeId>,
    /// Since when frames of a node to another that are passed on are counted, and how many.
    passed: BTreeMap<(NodeId, NodeId), (Time, u32)>,
}

impl Relays {
    /// Whether one more frame of one member to another is passed on.
    fn passes(&mut self, now: Time, from: NodeId, to: NodeId) -> bool {
        let (since, count) = self.passed.entry((from, to)).or_default();
        if now.since(*since) >= COUNTED.ns() {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= PASSED_MAX
    }
}

impl Node {
    /// Finds for each member that does not hear this node one that passes frames on to it.
    pub(super) fn find_relays(&mut self, now: Time) {
        self.relays.via.clear();
        let members = &self.state.members;
        let me = self.config.id;
        let silent = self.broken().is_some() || !members.contains_key(&me);
        if silent || members.feature_level() < LINKS {
            return;
        }
        let others = members.keys().filter(|id| **id != me && self.needs_relay(now, **id));
        let via = others.filter_map(|id| Some((*id, self.relay_to(now, *id)?)));
        self.relays.via = via.collect();
    }

    /// Whether a member was heard over a link within a third of a lease: time is left for a renewal
    /// that goes through another node, and for its answer, which waits for a heartbeat.
    fn hears_now(&self, now: Time, id: NodeId) -> bool {
        let patience = Millis((self.lease().0 / 3).max(2 * self.state.spec.timing.beat.0)).ns();
        let direct = self.membership.peer(id).map_or(Time(0), |peer| peer.direct);
        direct != Time(0) && now.since(direct) < patience
    }

    /// Whether a member that lives may not hear this node: this one does not hear it, or it says
    /// so. Of one that has just started nothing is known.
    fn needs_relay(&self, now: Time, id: NodeId) -> bool {
        let Some(peer) = self.membership.peer(id) else { return true };
        let heard = self.hears_now(now, id);
        let says = peer.beat.hears(self.config.id) || peer.beat.hears.is_empty();
        !(heard && says)
    }

    /// A node that hears this one and the other, and is heard by this one.
    fn relay_to(&self, now: Time, to: NodeId) -> Option<NodeId> {
        let me = self.config.id;
        let passes = |id: &&NodeId| {
            let beat = self.membership.peer(**id).map(|peer| &peer.beat);
            let hears_both =
                beat.is_some_and(|beat| beat.broken.is_empty() && beat.hears(me) && beat.hears(to));
            **id != to && hears_both && self.hears_now(now, **id) && self.may_ask(now, **id)
        };
        // One that the other hears, too, where that is known.
        let heard = self.membership.peer(to).map(|peer| &peer.beat);
        let rank = |id: &&NodeId| (!heard.is_some_and(|beat| beat.hears(**id)), **id);
        self.state.members.keys().filter(|id| **id != me).filter(passes).min_by_key(rank).copied()
    }

    /// A frame for a node that does not hear this one, as it goes to the one that passes it on.
    pub(super) fn relayed(&self, to: NodeId, bytes: &[u8]) -> Option<Action> {
        let via = *self.relays.via.get(&to)?;
        let (from, frame) = (self.config.id.number(), bytes.to_vec());
        let relay = frame::Kind::Relay(Relay { from, to: to.number(), frame });
        let bytes = self.voter.frame(relay).encode_to_vec();
        (bytes.len() <= DATAGRAM_MAX).then_some(Action::Send { to: via, bytes, bulk: false })
    }

    /// Bytes that a frame for this node must leave free.
    pub(super) fn relay_overhead(&self, to: NodeId) -> usize {
        if self.relays.via.contains_key(&to) { OVERHEAD } else { 0 }
    }

    /// A frame to be passed on, or one that was passed on to this node. False if it changed nothing
    /// that anything is decided by.
    pub(super) fn relay(&mut self, now: Time, by: NodeId, relay: Relay) -> bool {
        let (from, to, me) = (NodeId(relay.from), NodeId(relay.to), self.config.id);
        let members = &self.state.members;
        let among_members = members.contains_key(&from) && members.contains_key(&to);
        if !among_members || from == me || from == to || self.broken().is_some() {
            return false;
        }
        if to == me {
            return match Frame::decode(relay.frame.as_slice()) {
                Ok(Frame { kind: Some(frame::Kind::Relay(_)), .. }) | Err(_) => false,
                Ok(frame) => self.whole_frame(now, from, THROUGH_OTHERS, frame),
            };
        }
        // Once: only its own sender has it passed on.
        if by == from && self.relays.passes(now, from, to) && self.voter.may_speak() {
            let bytes = self.voter.frame(frame::Kind::Relay(relay)).encode_to_vec();
            if bytes.len() <= DATAGRAM_MAX {
                self.actions.push(Action::Send { to, bytes, bulk: false });
            }
        }
        false
    }

    /// Whether a member is heard, and only through others.
    pub fn heard_through_others(&self, now: Time, id: NodeId) -> bool {
        let peer =
            self.membership.peer(id).filter(|_| self.membership.speaks(now, id, self.lease()));
        peer.is_some_and(|p| now.since(p.direct) >= crate::lease::promise_ns(self.lease()))
    }
}
