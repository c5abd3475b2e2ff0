//! What the world notes for invariants when something leaves a machine, is asked of its disk, or of
//! a fence device.
//!
//! Decides: which frames and entries tell something that invariants are about.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use nines_core::{
    Event, batch, feature_level, peek,
    voter::consensus,
    wire::{
        Command, FenceStep, Frame, Heartbeat, LogEntry, Persist, RaftMessage, Relay, command::Kind,
        frame, unpack,
    },
};
use nines_model::{Codes as _, Millis, NodeId, Switch};
use prost::Message as _;

use super::World;
use crate::{
    Planned,
    observation::{End, OffCall, Order, Steered},
    random::Random,
};

/// Fields of [`Frame`]: a heartbeat, a message of the consensus, a frame to be passed on.
const HEARTBEAT: u64 = 1;
const RAFT: u64 = 3;
const RELAY: u64 = 60;
/// Field of a heartbeat with the length of the lease that it asks for, ms.
const LEASE: u64 = 2;

/// What has left a machine, and what it has asked of its disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    /// Term and receiver of the last vote.
    pub(super) vote: Option<(u64, u64)>,
    /// Term and index of the last entry that it said to have.
    pub(super) ack: Option<(u64, u64)>,
    /// The last entry with an order of its own.
    pub(super) steered: Option<Steered>,
    /// A write will have failed, and none follows it.
    pub(super) writes_no_more: bool,
    /// A write has failed since the process started.
    pub(super) write_failed: bool,
    /// And a vote or an acknowledgement has left since.
    pub(super) told_after: Option<&'static str>,
    /// When the process started, true time.
    pub(super) started: u64,
    /// It has heard a majority since its machine booted.
    pub(super) heard_majority: bool,
    /// When it last asked for a lease that is longer than usual, true time.
    pub(super) asked_long: Option<u64>,
}

impl Sent {
    /// The process starts.
    pub(super) fn starts(&mut self, now: u64) {
        (self.write_failed, self.told_after, self.started) = (false, None, now);
        self.writes_no_more = false;
        self.asked_long = None;
    }
}

/// The message of the consensus that a frame of this node brings, passed on or not.
fn message(bytes: &[u8], of: u64) -> Option<RaftMessage> {
    // Most frames are heartbeats.
    let frame = if peek::field(bytes, RAFT).is_some() {
        Cow::Borrowed(bytes)
    } else {
        let relay = Relay::decode(peek::field(bytes, RELAY)?).ok()?;
        (relay.from == of).then_some(Cow::Owned(relay.frame))?
    };
    peek::field(&frame, RAFT)?;
    match Frame::decode(frame.as_ref()).ok()?.kind? {
        frame::Kind::Raft(message) => Some(message),
        _ => None,
    }
}

/// The command of an entry, if it may order something: no config, which is long.
fn command(entry: &LogEntry) -> Option<Kind> {
    let bytes = entry.command();
    if bytes.is_empty() || peek::applies_config(bytes) {
        return None;
    }
    Command::decode(bytes).ok()?.kind
}

/// Whether only a leader writes a command, by what it knows of the cluster.
fn steers(kind: &Kind) -> bool {
    match kind {
        Kind::Give(_) | Kind::Move(_) => true,
        Kind::Fence(fence) => FenceStep::from_code(&fence.step) == Some(FenceStep::Order),
        _ => false,
    }
}

impl World {
    /// A frame leaves a machine.
    pub(super) fn note_sent(&mut self, from: u64, bytes: &[u8]) {
        let lease = self.lease;
        let now = self.now;
        let machine = self.machines.get_mut(&from).expect("it sends");
        let beat = peek::field(bytes, HEARTBEAT);
        let asked = beat.and_then(|beat| peek::number(beat, LEASE)).unwrap_or_default();
        if Millis(asked) > lease {
            machine.sent.asked_long = Some(now);
        }
        let Some(message) = message(bytes, machine.identity) else { return };
        let vote = consensus::gives_vote(&message).map(|(term, to)| (term, to.number()));
        let ack = consensus::acknowledges(&message);
        self.changed |= vote.is_some() || ack.is_some();
        let sent = &mut machine.sent;
        (sent.vote, sent.ack) = (vote.or(sent.vote), ack.or(sent.ack));
        if sent.write_failed {
            let what = vote.map(|_| "a vote").or(ack.map(|_| "an acknowledgement"));
            sent.told_after = sent.told_after.or(what);
        }
    }

    /// A node has been told that a write of its disk failed. Its agent looks for room from then on.
    pub(super) fn note_failed_write(&mut self, id: u64) {
        self.machines.get_mut(&id).expect("it wrote").sent.write_failed = true;
        self.changed = true;
        if self.disk_error(id).is_none() {
            self.fill_disk(id, true);
            self.fill_disk(id, false);
        }
    }

    /// A node asks its disk to keep something.
    pub(super) fn note_asked(&mut self, id: u64, persist: &Persist) {
        let now = self.now;
        let machine = self.machines.get_mut(&id).expect("it writes");
        let Some(node) = machine.node.as_ref().filter(|node| node.consensus().is_leader()) else {
            return;
        };
        let term = node.consensus().term();
        let mut own = persist.entries.iter().filter(|entry| entry.term == term).rev();
        let orders = |entry: &&LogEntry| {
            command(entry).is_some_and(|kind| batch::singly(kind).iter().any(steers))
        };
        let Some(last) = own.find(orders) else { return };
        let applied = node.consensus().applied_index().number();
        let disk = &machine.disk;
        let snapshot = &disk.get().snapshot;
        let of = disk.terms().get(&applied).copied();
        let of = of.or((snapshot.index >= applied).then_some(snapshot.term));
        let knows_all = of.is_some_and(|of| of >= term);
        let order = Steered { term, index: last.index, at: now, knows_all };
        machine.sent.steered = Some(order);
        self.changed = true;
    }

    /// The number of a node of this name.
    fn number_of(&self, name: &str) -> Option<u64> {
        let founder = (1..).zip(&self.scenario.nodes).find(|(_, known)| *known == name);
        let joined = || name.strip_prefix("lb")?.parse().ok();
        founder.map(|(id, _)| id).or_else(joined)
    }

    /// Whose answering for a VIP the entries of a write end.
    pub(super) fn ends_of(&self, persist: &Persist) -> Vec<(u64, Vec<End>)> {
        let mut all = Vec::new();
        for entry in &persist.entries {
            let kinds = command(entry).map(batch::singly).unwrap_or_default();
            let ends: Vec<End> =
                kinds.iter().filter_map(|kind| self.end_of(entry.index, kind)).collect();
            if !ends.is_empty() {
                all.push((entry.index, ends));
            }
        }
        all
    }

    fn end_of(&self, index: u64, kind: &Kind) -> Option<End> {
        match kind {
            // Of what nobody holds there is nothing to wait for.
            Kind::Give(give) if !give.from.is_empty() => {
                let (vip, to) = (unpack(&give.vip)?, self.number_of(&give.to));
                Some(End { vip, tokens: (0, index.saturating_sub(1)), to })
            }
            Kind::Released(token) => {
                let vip: IpAddr = unpack(&token.vip)?;
                Some(End { vip, tokens: (token.index, token.index), to: None })
            }
            _ => None,
        }
    }

    /// For how long a machine has been able to hear the process that runs on another one, ns.
    pub(super) fn could_hear_ns(&self, id: u64, other: u64) -> u64 {
        let up = |id: u64| {
            let machine = &self.machines[&id];
            let runs = machine.node.is_some() && machine.paused_until <= self.now;
            runs.then_some(machine.sent.started.max(machine.paused_until))
        };
        let (Some(mine), Some(its)) = (up(id), up(other)) else { return 0 };
        if !self.hears_from(id, other) {
            return 0;
        }
        let link = self.hears_since.get(&(id, other)).copied().unwrap_or_default();
        self.now.saturating_sub(link.max(mine).max(its))
    }

    /// A node asks a device to switch a machine off; gives the number of the call.
    pub(super) fn note_off_call(&mut self, by: u64, target: u64) -> usize {
        self.changed = true;
        let machine = &self.machines[&by];
        let node = machine.node.as_ref();
        let power = node.map(|node| node.state().fencing.of(NodeId(target))).unwrap_or_default();
        let order = power.order.filter(|order| order.switch() == Switch::Off);
        let order = order.map(|order| Order {
            index: order.index,
            incarnation: order.incarnation().number(),
            by: order.by().number(),
            by_incarnation: order.by_incarnation().number(),
        });
        let call = OffCall {
            at: self.now,
            by,
            by_incarnation: machine.boot,
            target,
            target_incarnation: self.machines[&target].boot,
            order,
            off: power.off.map(|off| off.incarnation),
            heard_ns: self.could_hear_ns(by, target),
            by_heard_majority: machine.sent.heard_majority,
            voters: node.map_or(0, |node| node.consensus().voters().len()),
            took_effect: None,
        };
        let calls = Arc::make_mut(&mut self.power.off_calls);
        calls.push(call);
        calls.len() - 1
    }

    /// A fault of a plan happens.
    pub(crate) fn tell_fault(&mut self, planned: &Planned) {
        if let Some(story) = &mut self.story {
            story.fails(self.now, planned);
        }
    }

    /// A frame of somebody who is no member comes to a node: nothing may follow from it.
    pub fn forge(&mut self, id: u64, stranger: u64, bytes: Vec<u8>) {
        // What is due by now comes first.
        self.feed(id, Event::Tick);
        let before = self.shown(id);
        self.feed(id, Event::Frame { from: NodeId(stranger), link: 0, bytes });
        let after = self.shown(id);
        if before != after && self.forged.is_none() {
            self.forged = Some(format!("node {id} had {before:?} and has {after:?}"));
        }
    }

    /// What of a node's knowledge a frame could change.
    fn shown(&self, id: u64) -> Option<Vec<u64>> {
        let node = self.machines[&id].node.as_ref()?;
        let c = node.consensus();
        let (last, last_term) = c.last();
        let leader = c.leader().map_or(0, NodeId::number);
        let mut shown = vec![c.term(), leader, last.number(), last_term, c.committed().number()];
        shown.extend([c.applied_index().number(), u64::from(c.is_leader())]);
        shown.extend(c.voters().into_iter().map(NodeId::number));
        Some(shown)
    }

    /// A heartbeat that would renew a lease.
    pub(super) fn heartbeat_of(&self, stranger: u64, random: &mut Random) -> Vec<u8> {
        let beat = Heartbeat {
            sent_ns: random.draw() >> 8,
            lease_ms: self.lease.0,
            ready: true,
            incarnation: stranger << 40,
            number: 1,
            hears: self.founders().collect(),
            term: random.below(100),
            feature_level: feature_level::BUILD,
            ..Heartbeat::default()
        };
        framed(stranger, frame::Kind::Heartbeat(beat))
    }

    /// A message of the consensus, of any kind, for a high term.
    pub(super) fn message_of(stranger: u64, to: u64, random: &mut Random) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Fields of a message: kind, receiver, sender, term, term of the log, index.
        let values = [random.below(19), to, stranger, 50 + random.below(100), 1, random.below(40)];
        for (field, value) in (1..).zip(values) {
            prost::encoding::uint64::encode(field, &value, &mut bytes);
        }
        let message = RaftMessage::decode(bytes.as_slice()).expect("it was just encoded");
        framed(stranger, frame::Kind::Raft(message))
    }
}

/// A frame of somebody's first incarnation.
fn framed(by: u64, kind: frame::Kind) -> Vec<u8> {
    Frame { kind: Some(kind), incarnation: by << 40, starts: 1, ..Frame::default() }.encode_to_vec()
}
