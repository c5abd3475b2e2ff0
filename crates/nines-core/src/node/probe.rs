//! Probes of full size, and what is told of frames that do not pass.
//!
//! Decides: when a probe goes to a peer, when frames over TCP count as lost, and which links are
//! better for large frames. Datagrams go over every link anyway; a connection takes one.

use std::collections::{BTreeMap, BTreeSet};

use nines_model::{Millis, NodeId, Time};
use prost::Message as _;

use super::{Node, heartbeat::DATAGRAM_MAX};
use crate::{
    action::Action,
    event_log::EventKind,
    membership::probe::PROBE_EVERY,
    wire::{Probe, frame},
};

/// Lost connections to a peer are one trouble while they come so soon after each other.
const ONE_TROUBLE: Millis = Millis(15_000);
/// So long, and it is no moment.
const TROUBLE: Millis = Millis(3_000);
/// Bytes of the padding's tag and length.
const PADDING_HEAD: usize = 3;

/// What is known of large frames to and from peers.
#[derive(Default)]
pub(super) struct Probes {
    /// The next round is sent then.
    next: Time,
    /// How many each peer was sent.
    sent: BTreeMap<NodeId, u64>,
    /// Links that do not bring large datagrams, as was told.
    told: BTreeSet<(NodeId, usize)>,
    /// Peers that frames over TCP did not reach: the first and the last time, and whether that was
    /// told.
    undelivered: BTreeMap<NodeId, (Time, Time, bool)>,
}

impl Probes {
    /// How many a peer was sent.
    pub(super) fn sent_to(&self, id: NodeId) -> u64 {
        self.sent.get(&id).copied().unwrap_or(0)
    }

    /// A member has left.
    pub(super) fn forget(&mut self, id: NodeId) {
        self.sent.remove(&id);
        self.told.retain(|(of, _)| *of != id);
        self.undelivered.remove(&id);
    }
}

impl Node {
    /// Sends each peer that is heard a datagram of full size, if it is time for that.
    pub(super) fn send_probes(&mut self, now: Time, peers: &[NodeId]) {
        if now < self.probes.next {
            return;
        }
        self.probes.next = now.plus(PROBE_EVERY);
        for to in peers {
            if !self.membership.speaks(now, *to, self.lease()) {
                continue;
            }
            let sent = self.probes.sent.entry(*to).or_default();
            *sent += 1;
            let number = *sent;
            let empty = self.voter.frame(frame::Kind::Probe(Probe { number, ..Probe::default() }));
            let room = DATAGRAM_MAX.saturating_sub(empty.encoded_len() + 2 * PADDING_HEAD);
            let frame = frame::Kind::Probe(Probe { number, padding: vec![0; room] });
            // Over the links between the two, and through nobody else.
            if self.voter.may_speak() {
                let bytes = self.voter.frame(frame).encode_to_vec();
                self.actions.push(Action::Send { to: *to, bytes, bulk: false });
            }
        }
    }

    /// Tells which links began or ceased to lose large datagrams.
    pub(super) fn tell_large(&mut self, now: Time) {
        let members = self.state.members.keys().copied();
        let lost: BTreeSet<(NodeId, usize)> = members
            .filter_map(|id| Some((id, self.membership.peer(id)?)))
            .flat_map(|(id, peer)| peer.loses_large().map(move |link| (id, link)))
            .collect();
        if lost != self.probes.told {
            let told = std::mem::replace(&mut self.probes.told, lost.clone());
            for (id, link) in lost.symmetric_difference(&told) {
                let (name, me, link) = (self.name_of(*id), self.config.name.clone(), link + 1);
                let (kind, text) = if lost.contains(&(*id, link - 1)) {
                    let what = "do not arrive, though heartbeats do: see the MTU between them";
                    let text =
                        format!("large datagrams from {name} to {me} over link {link} {what}");
                    (EventKind::LargeLost, text)
                } else {
                    let text =
                        format!("large datagrams from {name} to {me} over link {link} arrive");
                    (EventKind::LargeBack, text)
                };
                self.record_event(now, kind, name, text, "auto", String::new());
            }
        }
    }

    /// A connection to a peer broke with frames on it.
    pub(super) fn note_undelivered(&mut self, now: Time, id: NodeId) {
        let lost = self.probes.undelivered.entry(id).or_insert((now, now, false));
        if now.since(lost.1) >= ONE_TROUBLE.ns() {
            *lost = (now, now, false);
        }
        lost.1 = now;
        if self.undelivered_for(now, id).is_none() || self.probes.undelivered[&id].2 {
            return;
        }
        if let Some(lost) = self.probes.undelivered.get_mut(&id) {
            lost.2 = true;
        }
        let (name, me) = (self.name_of(id), &self.config.name);
        let text = format!("large frames from {me} to {name} do not arrive over TCP");
        self.record_event(now, EventKind::LargeLost, name, text, "auto", String::new());
    }

    /// How long frames over TCP have not reached a peer that is heard; `None`: they do, or none
    /// were sent.
    pub fn undelivered_for(&self, now: Time, id: NodeId) -> Option<Millis> {
        let (first, last, _) = self.probes.undelivered.get(&id)?;
        let lasts = last.since(*first) >= TROUBLE.ns() && now.since(*last) < ONE_TROUBLE.ns();
        let heard = self.membership.speaks(now, id, self.lease());
        (lasts && heard).then(|| Millis(last.since(*first) / 1_000_000))
    }

    /// Heartbeats of a peer by link: up or not. One that flaps is not.
    pub fn links(&self, now: Time, id: NodeId) -> BTreeMap<usize, bool> {
        let heard = self.membership.peer(id).map(|p| p.heard.keys().copied().collect::<Vec<_>>());
        heard
            .unwrap_or_default()
            .into_iter()
            .filter_map(|l| {
                let quarantine = self.membership.peer(id)?.link_quarantine(now, l);
                let up = self.membership.link_up(now, id, l, self.lease())?;
                Some((l, up && quarantine.is_none()))
            })
            .collect()
    }

    /// Places of the addresses of a peer, those first over which a connection works best: heard,
    /// then bringing large datagrams both ways.
    pub fn best_links(&self, now: Time, id: NodeId, of: usize) -> Vec<usize> {
        let up = self.links(now, id);
        let peer = self.membership.peer(id);
        let mut links: Vec<usize> = (0..of).collect();
        links.sort_by_key(|link| {
            let large = peer.and_then(|peer| peer.large(*link));
            let loses = large.is_some_and(|of| of.are_lost() || of.are_lost_there());
            (!up.get(link).copied().unwrap_or(false), loses, *link)
        });
        links
    }
}
