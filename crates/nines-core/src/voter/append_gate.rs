//! Consensus messages on their way in.
//!
//! Decides: which are refused, which wait. What cannot be true names its sender in our log and goes
//! no further; a state that cannot be read is not taken in; an entry that gives a promised VIP away
//! waits for the end of the promise.

use std::collections::BTreeMap;

use nines_model::{Incarnation, LogIndex, Millis, NodeId, Time};
use prost::Message as _;

use super::{Context, Voter, consensus};
use crate::{
    batch, peek, snapshot,
    wire::{self, Command, RaftMessage, command::Kind},
};

/// A sender of refused messages is named in our log so often.
const NAMED_EVERY: Millis = Millis(10_000);
/// A change of membership that comes while another is under way waits so long.
const QUEUED: Millis = Millis(20);
/// Messages that wait. More are dropped: the leader sends them again.
const HELD_MAX: usize = 256;

/// What the gate remembers.
#[derive(Default)]
pub(super) struct AppendGate {
    /// When each sender was last named, and how many of its messages were refused since.
    named: BTreeMap<NodeId, (Time, u64)>,
    /// Log messages that wait for a promise to end.
    held: Vec<(Time, RaftMessage)>,
    /// Raised when what waits there changes.
    changes: u64,
}

impl AppendGate {
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.held.iter().map(|(until, _)| *until).min()
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Entries that wait.
    pub(super) fn entries(&self) -> impl Iterator<Item = &wire::LogEntry> {
        self.held.iter().flat_map(|(_, message)| &message.entries)
    }
}

impl Voter {
    /// Log messages that wait for a promise to end.
    pub fn waiting(&self) -> usize {
        self.gate.held.len()
    }

    /// Whether a message can be true, and its sender may change this node's log. `newer`: the
    /// sender may be a member that joined after the end of what is known here.
    pub fn screen(&mut self, cx: &mut Context<'_>, message: &RaftMessage, newer: bool) -> bool {
        let from = message.sender();
        if !self.takes_part() {
            return false;
        }
        // Not before others have said what this node's log must have.
        if !self.may_learn(cx, from) {
            return false;
        }
        // One that left for good, and does not know it.
        let left = !cx.state.members.contains_key(&from) && !newer;
        if left && !cx.state.members.is_empty() {
            return false;
        }
        if self.has_forgotten_vote(message) {
            return false;
        }
        if let Err(why) = self.consensus.admits(message) {
            self.refuse(cx, from, &why);
            return false;
        }
        true
    }

    /// Takes a screened message in. One that brings an entry which gives a promised VIP away waits
    /// until the promise has ended: to the consensus that is a slow network, nothing more.
    pub fn receive(&mut self, cx: &mut Context<'_>, mut message: RaftMessage) {
        if let Some((until, late)) = self.take_early_change(cx, &mut message) {
            self.hold(until, late);
            if message == RaftMessage::default() {
                return;
            }
        }
        let mut until = None;
        if consensus::brings_entries(&message) {
            for entry in &message.entries {
                until = until.max(self.must_wait(cx, entry.index(), &entry.data));
            }
        }
        if self.consensus.must_queue(&message) {
            until = until.max(Some(cx.now.plus(QUEUED)));
        }
        match until {
            Some(until) => self.hold(until, message),
            None => {
                if let Err(why) = self.let_in(cx, &message) {
                    self.refuse(cx, message.sender(), &why);
                }
            }
        }
    }

    fn hold(&mut self, until: Time, message: RaftMessage) {
        if self.gate.held.len() < HELD_MAX {
            self.gate.held.push((until, message));
            self.gate.changes += 1;
        }
    }

    /// Messages that have waited long enough. They are screened again: a newer promise may have
    /// been given meanwhile.
    pub fn due(&mut self, now: Time) -> Vec<RaftMessage> {
        let mut due = Vec::new();
        self.gate.held.retain(|(until, message)| {
            if *until <= now {
                due.push(message.clone());
            }
            *until > now
        });
        self.gate.changes += due.len() as u64;
        due
    }

    /// Until when this voter's own promise forbids that `vip` is given to `to`; `None`: it does
    /// not.
    pub fn forbids(&self, now: Time, vip: std::net::IpAddr, to: Option<NodeId>) -> Option<Time> {
        self.promises.hold(now, vip, to, LogIndex::MAX)
    }

    /// Until when this voter's own promise forbids that the holder by `token` counts as gone;
    /// `None`: it does not.
    pub fn forbids_release(
        &self,
        now: Time,
        vip: std::net::IpAddr,
        token: LogIndex,
    ) -> Option<Time> {
        self.promises.hold_release(now, vip, token, Incarnation::NONE)
    }

    /// Until when an entry may not be appended here.
    fn must_wait(&self, cx: &Context<'_>, index: LogIndex, command: &[u8]) -> Option<Time> {
        if peek::applies_config(command) {
            return None;
        }
        let kind = Command::decode(command).ok()?.kind?;
        batch::singly(kind).iter().filter_map(|kind| self.one_must_wait(cx, index, kind)).max()
    }

    fn one_must_wait(&self, cx: &Context<'_>, index: LogIndex, kind: &Kind) -> Option<Time> {
        let give = match kind {
            Kind::Give(give) => give,
            Kind::Released(token) => {
                let (vip, index) = (wire::unpack(&token.vip)?, token.index());
                return self.promises.hold_release(cx.now, vip, index, token.incarnation());
            }
            _ => return None,
        };
        if give.from.is_empty() {
            // Nobody held it, by the log: its last holder, if any, has said that it stopped.
            return None;
        }
        let vip = wire::unpack(&give.vip)?;
        self.promises.hold(cx.now, vip, cx.id_of(&give.to), index)
    }

    fn let_in(&mut self, cx: &Context<'_>, message: &RaftMessage) -> Result<(), String> {
        self.consensus.admits(message)?;
        if let Some(state) = consensus::brings_state(message) {
            // Written by a version whose config this one cannot read: never guess (S27).
            let Some(read) = snapshot::decode(&state.data) else {
                return Err("this version cannot read its state: update this node".into());
            };
            // A build that skips what it does not know has dropped the level from it.
            let (here, there) = (cx.state.members.feature_level(), read.members.feature_level());
            if there < here {
                return Err(format!("its state is at feature level {there}, this node at {here}"));
            }
        }
        self.consensus.step(message)
    }

    fn refuse(&mut self, cx: &mut Context<'_>, from: NodeId, why: &str) {
        let now = cx.now;
        let (at, count) = self.gate.named.get(&from).copied().unwrap_or_default();
        if at != Time(0) && now.since(at) < NAMED_EVERY.ns() {
            self.gate.named.insert(from, (at, count + 1));
            return;
        }
        self.gate.named.insert(from, (now, 0));
        let more = if count > 0 { format!(" ({count} more since)") } else { String::new() };
        let name = cx.name_of(from);
        cx.log(format!("a consensus message of {name} is refused: {why}{more}"));
    }
}
