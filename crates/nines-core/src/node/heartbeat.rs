//! Heartbeats and their answers: who lives, and the renewal of leases.

use std::collections::BTreeMap;

use nines_model::{Millis, NodeId, Time};
use prost::Message as _;

use super::{Node, bulk::Way};
use crate::{
    action::Action,
    event_log::EventKind,
    incarnations::Standing,
    vip_set::{self, Name},
    voter::{Granted, consensus},
    wire::{Ack, Frame, Heartbeat, RaftMessage, SetPart, frame, numbers},
};

/// When the parts of a set are sent again to a peer that does not know it yet.
const PARTS_AGAIN: Millis = Millis(40);

/// Frames larger than this do not fit a datagram on a 1500-byte link with our seal around them.
pub(super) const DATAGRAM_MAX: usize = 1_350;

/// Frames that wait for the next heartbeat to one peer: some more than the heartbeats and answers
/// of consensus between two of ours. What is dropped comes again with the next ones.
const ALONG_MAX: usize = 8;

/// Bytes that the encoding adds to a frame within a frame, at most: its tag and its length.
const FRAME_OVERHEAD: usize = 8;

/// Frames on their way to peers.
pub(super) struct Mail {
    /// The next heartbeat is sent then.
    next_beat: Time,
    /// What it takes along, by peer.
    along: BTreeMap<NodeId, Vec<Frame>>,
    /// Number of the last heartbeat.
    number: u64,
}

impl Mail {
    pub(super) fn new(now: Time) -> Self {
        Self { next_beat: now, along: BTreeMap::new(), number: 0 }
    }

    pub(super) fn next_beat(&self) -> Time {
        self.next_beat
    }

    /// The next heartbeat is sent at that time.
    pub(super) fn beat_next(&mut self, at: Time) {
        self.next_beat = at;
    }

    /// A heartbeat was sent. The next one follows on schedule, so that heartbeats and ticks share
    /// their wake-ups; after a pause it counts from now.
    pub(super) fn beaten(&mut self, now: Time, beat: Millis) {
        let next = self.next_beat.plus(beat);
        self.next_beat = if next > now { next } else { now.plus(beat) };
    }

    /// Nodes send their heartbeats together: one wake-up hears and answers. The first heartbeat
    /// leads; others pull theirs forward, never back.
    fn pull_forward(&mut self, now: Time, beat: Millis) {
        if self.next_beat.0.saturating_sub(now.0) <= beat.ns() / 2 {
            self.next_beat = self.next_beat.min(now);
        }
    }
}

impl Node {
    fn others(&self) -> Vec<NodeId> {
        let me = self.config.id;
        if self.voter.is_removed() {
            return Vec::new();
        }
        let mut ids: Vec<NodeId> = self.state.members.keys().copied().collect();
        ids.extend(self.unnamed());
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| *id != me);
        ids
    }

    pub(super) fn send(&mut self, to: NodeId, kind: frame::Kind) {
        let frame = self.framed(kind);
        self.send_frame(to, &frame);
    }

    fn framed(&self, kind: frame::Kind) -> Frame {
        self.voter.frame(kind)
    }

    fn send_frame(&mut self, to: NodeId, frame: &Frame) {
        self.send_by(to, frame, false);
    }

    fn send_by(&mut self, to: NodeId, frame: &Frame, bulk: bool) {
        if !self.voter.may_speak() {
            return;
        }
        let bytes = frame.encode_to_vec();
        let bulk = bulk || bytes.len() > DATAGRAM_MAX;
        if !bulk && let Some(relay) = self.relayed(to, &bytes) {
            self.actions.push(relay);
        }
        self.actions.push(Action::Send { to, bytes, bulk });
    }

    /// Sends with the next heartbeat. Half of what an idle cluster says can wait so long, and a
    /// datagram costs more than what is in it.
    fn send_later(&mut self, to: NodeId, kind: frame::Kind) {
        let waiting = self.mail.along.entry(to).or_default();
        // A peer that is no longer one of the others gets no heartbeat.
        if waiting.len() < ALONG_MAX {
            // Its incarnation is that of the heartbeat.
            waiting.push(Frame { kind: Some(kind), ..Frame::default() });
        }
    }

    pub(super) fn send_raft(&mut self, now: Time, messages: Vec<RaftMessage>) {
        if !self.voter.takes_part() {
            return;
        }
        for message in messages {
            if consensus::may_wait(&message) {
                self.send_later(message.receiver(), frame::Kind::Raft(message));
            } else {
                let (to, way) = (message.receiver(), self.way(now, &message, DATAGRAM_MAX));
                let frame = self.framed(frame::Kind::Raft(message));
                if way != Way::None {
                    self.send_by(to, &frame, way == Way::Bulk);
                }
            }
        }
    }

    /// Tells everybody that this node lives, and renews what it holds, here first of all.
    pub(super) fn beat(&mut self, now: Time) {
        let length = self.leaving.restarts().unwrap_or_else(|| self.lease());
        let sent = now.max(Time(self.own_vips.sent.0 + 1));
        self.own_vips.named(sent);
        let (name, size) = self.named_set();
        let (term, acked, _) = self.voter.consensus().shown();
        let shortened = self.leaving.restarts().is_none() && self.guards_end_by(now.plus(length));
        self.mail.number += 1;
        let (direct, through) = self.hears_how(now);
        self.note_majority(now, &[&direct, &through]);
        self.find_relays(now);
        let beat = Heartbeat {
            sent_ns: sent.0,
            number: self.mail.number,
            lease_ms: length.0,
            ready: self.is_ready() && !self.voter.disk_lags(now),
            lags: self.voter.disk_lags(now),
            alone: self.voter.is_alone(),
            behind: numbers(self.behind().iter().copied()),
            leaving: self.leaving.stops(),
            unable: self.unable_bits(),
            revision: self.state.revision,
            config: self.state.digest,
            shortened,
            applied: self.state.applied.number(),
            incarnation: self.config.boot.number(),
            heir_of: self.voter.heir_of().number(),
            double: numbers(self.hears_double(now)),
            confirmed: self.confirmed_lives(),
            hears: numbers(direct),
            through: numbers(through),
            set_a: name.0,
            set_b: name.1,
            set_size: size as u32,
            part: None,
            awaits: self.awaits(now).into(),
            term,
            acked: acked.number(),
            ..self.own_build_and_vote()
        };
        self.voter.learn_own(&self.own_vips.held);
        let id = self.config.id;
        let (voter, mut cx) = self.voter(now);
        if let Granted::But { refused, .. } = voter.grant(&mut cx, id, &beat) {
            let me = (self.config.id, self.config.boot);
            self.renewed(me, sent, sent.plus(length), &refused);
        }
        self.send_beat(now, &beat);
    }

    /// Sends a heartbeat to everybody, with what waited for it.
    fn send_beat(&mut self, now: Time, beat: &Heartbeat) {
        let mut parts = Vec::new();
        let others = self.others();
        self.send_probes(now, &others);
        for to in others {
            let mut rest = self.mail.along.remove(&to).unwrap_or_default();
            for frame in &mut rest {
                if let Some(frame::Kind::Ack(ack)) = &mut frame.kind {
                    ack.waited_ns = now.0.saturating_sub(ack.waited_ns);
                }
            }
            let echoes = self.membership.echoes_for(now, to);
            let probes = self.probes.sent_to(to);
            let mut beat = Heartbeat { echoes, probes, ..beat.clone() };
            self.tell_set(now, to, &mut beat, &mut parts);
            let mut frame = self.framed(frame::Kind::Heartbeat(beat));
            // A heartbeat must fit a datagram, which goes over every link; what does not, goes
            // alone.
            let room = DATAGRAM_MAX - self.relay_overhead(to);
            for more in rest {
                if frame.encoded_len() + more.encoded_len() + FRAME_OVERHEAD > room {
                    self.send(to, more.kind.expect("made by send_later"));
                } else {
                    frame.rest.push(more);
                }
            }
            self.send_frame(to, &frame);
        }
        self.mail.along.clear();
    }

    /// Name and size of the set that heartbeats name. One that votes no more, or whose clock is
    /// wrong, holds nothing, whatever its set still contains.
    fn named_set(&self) -> (Name, usize) {
        match self.broken() {
            None if !self.clock_is_off() => (self.own_vips.held.name(), self.own_vips.held.len()),
            _ => ((0, 0), 0),
        }
    }

    /// What a heartbeat says of the sender's build, and why it votes no more.
    fn own_build_and_vote(&self) -> Heartbeat {
        Heartbeat {
            broken: self.broken().unwrap_or_default().to_owned(),
            retired: self.is_retired(),
            disk_full: self.disk_full,
            feature_level: crate::feature_level::BUILD,
            outdated: self.outdated,
            differs: self.differs,
            watchdog: self.own_watchdog.clone(),
            anew: self.anew(),
            clock_ppm: self.clock_ppm(),
            ..Heartbeat::default()
        }
    }

    /// What this node could not start, by the VIPs of the config.
    fn unable_bits(&self) -> Vec<u8> {
        if self.own_vips.unable.is_empty() {
            return Vec::new();
        }
        vip_set::marks(self.state.spec.vips.keys().copied(), |vip| {
            self.own_vips.unable.contains(&vip)
        })
    }

    /// Tells a peer that hears us what the set of our heartbeats contains, until it says that it
    /// knows: in the heartbeat itself where it is little, else in datagrams before it.
    fn tell_set(&mut self, now: Time, to: NodeId, beat: &mut Heartbeat, parts: &mut Vec<SetPart>) {
        let (held, lease) = (&self.own_vips.held, self.lease());
        let told = self.own_vips.told.entry(to).or_default();
        // Heartbeats that name no set renew nothing.
        if held.is_empty()
            || beat.set_size == 0
            || told.known == Some(held.name())
            || !self.membership.alive(now, to, lease)
        {
            return;
        }
        if parts.is_empty() {
            *parts = held.parts();
        }
        match parts.as_slice() {
            [only] => beat.part = Some(only.clone()),
            several if now >= told.again => {
                told.again = now.plus(PARTS_AGAIN);
                for part in several {
                    self.send(to, frame::Kind::Part(part.clone()));
                }
            }
            _ => {}
        }
    }

    /// Takes a datagram in; false if it changed nothing that anything is decided by.
    pub(super) fn frame(&mut self, now: Time, from: NodeId, link: usize, bytes: &[u8]) -> bool {
        let Ok(frame) = Frame::decode(bytes) else { return false };
        self.whole_frame(now, from, link, frame)
    }

    /// Takes a frame in, which came over a link or through another node.
    pub(super) fn whole_frame(
        &mut self,
        now: Time,
        from: NodeId,
        link: usize,
        mut frame: Frame,
    ) -> bool {
        let (Some(kind), rest) = (frame.kind.take(), std::mem::take(&mut frame.rest)) else {
            return false;
        };
        if self.has_left(from) {
            self.tell_left(now, from, &kind);
            return false;
        }
        let standing = self.standing(now, from, &frame);
        let beat = matches!(kind, frame::Kind::Heartbeat(_));
        match standing {
            Standing::Ended => return false,
            // It is heard, and nothing that it says decides.
            Standing::Moved if !beat => return false,
            Standing::Moved => return self.take(now, from, link, kind),
            Standing::Counts | Standing::New => {
                if let frame::Kind::Heartbeat(beat) = &kind {
                    self.told_to_begin_anew(now, beat);
                }
            }
        }
        if !beat && self.is_double(now, from) {
            return false;
        }
        match kind {
            frame::Kind::Relay(relay) => return self.relay(now, from, relay),
            frame::Kind::Probe(probe) => {
                self.membership.note_probe(now, from, link, probe.number);
                return false;
            }
            _ => {}
        }
        let mut news = self.take(now, from, link, kind);
        for kind in rest.into_iter().filter_map(|f| f.kind) {
            if self.is_double(now, from) {
                break;
            }
            news |= self.take(now, from, link, kind);
        }
        news
    }

    fn take(&mut self, now: Time, from: NodeId, link: usize, kind: frame::Kind) -> bool {
        if self.broken().is_some() {
            // It still says so to everybody it hears of.
            if let frame::Kind::Heartbeat(beat) = kind {
                self.membership.heard(now, from, link, beat.bare());
                self.membership.note_link(now, from, link, &beat);
            }
            return false;
        }
        match kind {
            frame::Kind::Heartbeat(beat) => {
                let peer = self.membership.peer(from);
                let new_life = peer.is_none_or(|p| p.beat.incarnation() != beat.incarnation());
                self.remember(now, from, &beat);
                if beat.alone && self.voter.is_alone() {
                    self.split_from(from);
                }
                let bare = beat.bare();
                let same = self.membership.peer(from).is_some_and(|p| {
                    p.was_alive && p.beat == Heartbeat { sent_ns: p.beat.sent_ns, ..bare.clone() }
                });
                self.mail.pull_forward(now, self.state.spec.timing.beat);
                // A heartbeat that renews nothing is answered now and then, for the round trip.
                // One that has just started waits for the answer.
                let answer =
                    beat.set_size != 0 || new_life || self.membership.owes_answer(now, from);
                let newest = self.membership.heard(now, from, link, bare);
                self.membership.note_link(now, from, link, &beat);
                if newest && answer {
                    let may = self.may_ask(now, from) && !self.is_deaf(now, from);
                    let (voter, mut cx) = self.voter(now);
                    let (mut ack, urgent) = voter.answer(&mut cx, from, &beat, may);
                    if urgent || new_life {
                        self.send(from, frame::Kind::Ack(ack));
                    } else {
                        ack.waited_ns = now.0;
                        self.send_later(from, frame::Kind::Ack(ack));
                    }
                }
                !same
            }
            frame::Kind::Ack(ack) => {
                // Sent by this incarnation of this node and not in the future.
                if ack.incarnation() != self.config.boot || ack.sent_ns > self.own_vips.sent.0 {
                    return false;
                }
                self.told_of_members(now, from, &ack);
                if ack.left {
                    return self.voter.is_removed();
                }
                let trip = now.0.saturating_sub(ack.sent_ns).saturating_sub(ack.waited_ns);
                self.membership.round_trip(from, trip);
                self.reminded(now, from, &ack);
                ack.membership() <= self.state.members.newest_change() && self.acked(from, &ack)
            }
            frame::Kind::Part(part) => {
                self.voter.learn(from, &part);
                false
            }
            frame::Kind::Raft(_) if self.voter.is_moved() => false,
            frame::Kind::Raft(message) if message.sender() == from => {
                self.log_message(now, message);
                true
            }
            // What travels with other frames is not passed on.
            frame::Kind::Raft(_) | frame::Kind::Relay(_) | frame::Kind::Probe(_) => false,
        }
    }

    /// What an ack of this node's heartbeat renews. True if it matters.
    fn acked(&mut self, voter: NodeId, ack: &Ack) -> bool {
        let name: Name = (ack.set_a, ack.set_b);
        if ack.unknown {
            self.own_vips.told.remove(&voter);
            return false;
        }
        if name == (0, 0) {
            return false;
        }
        let held = &self.own_vips.held;
        let refused = if ack.refused.is_empty() {
            Vec::new()
        } else if name == held.name() {
            vip_set::marked(held.iter().map(|(vip, _)| vip), &ack.refused)
        } else {
            // Which are refused cannot be told any more; the next ack says it again.
            return false;
        };
        if !refused.is_empty() && !self.voter.consensus().is_voter(voter) {
            // It promises before it has a vote; what it refuses stops nobody.
            return false;
        }
        self.own_vips.told.entry(voter).or_default().known = Some(name);
        let sent = Time(ack.sent_ns);
        let incarnation = self.incarnation.current(voter);
        self.renewed((voter, incarnation), sent, sent.plus(Millis(ack.lease_ms)), &refused)
    }

    /// A consensus message.
    pub(super) fn log_message(&mut self, now: Time, message: RaftMessage) {
        let newer = self.may_be_newer(message.sender());
        let (voter, mut cx) = self.voter(now);
        if !voter.screen(&mut cx, &message, newer) {
            return;
        }
        if self.brings_unreadable(now, &message) {
            return;
        }
        let (voter, mut cx) = self.voter(now);
        voter.receive(&mut cx, message);
    }

    pub(super) fn watch_peers(&mut self, now: Time) {
        let lease = self.lease();
        for (id, alive) in self.membership.changes(now, lease) {
            if !alive && self.broken_of(id).is_some() {
                // It speaks, and says more than that it is gone.
                continue;
            }
            let name = self.name_of(id);
            if alive {
                self.announce_all(now);
            }
            let holds = self.state.vips.values().any(|h| *h.node() == name);
            let me = &self.config.name;
            let (kind, text) = if alive {
                self.returned(now, id)
            } else {
                let ms = self.membership.peer(id).map_or(0, |p| now.since(p.at) / 1_000_000);
                let links = self.membership.peer(id).map_or(0, |p| p.heard.len());
                let links = if links == 1 { "1 link".into() } else { format!("{links} links") };
                (
                    EventKind::HeartbeatLost,
                    format!("{me} heard nothing from {name} for {ms} ms on {links}"),
                )
            };
            // The entry that gives its VIPs away tells the silence of a holder.
            let counts = self.is_return_told(now, id, alive);
            if self.tells_of(now, id, kind) && counts && (alive || !holds) {
                self.record_event(now, kind, name, text, "auto", String::new());
            } else {
                self.log(text);
            }
        }
        self.tell_broken(now);
        self.tell_large(now);
    }
}
