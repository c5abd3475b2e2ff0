//! Consensus messages on their way in.
//!
//! Decides: which are refused, which wait. What cannot be true names its sender in our log and goes
//! no further; a state that cannot be read is not taken in; an entry that gives a promised VIP away
//! waits for the end of the promise.

use std::collections::BTreeMap;

use nines_model::{Millis, Time};

use super::Node;
use crate::{consensus, snapshot, wire::RaftMessage};

/// A sender of refused messages is named in our log so often.
const NAMED_EVERY: Millis = Millis(10_000);

/// What the gate remembers.
#[derive(Default)]
pub struct AppendGate {
    /// When each sender was last named, and how many of its messages were refused since.
    named: BTreeMap<u64, (Time, u64)>,
    /// This build does not read what the log says.
    pub(super) outdated: bool,
}

impl Node {
    /// A consensus message. One that brings an entry which gives a promised VIP away waits until
    /// the promise has ended: to the consensus that is a slow network, nothing more.
    pub(super) fn log_message(&mut self, now: Time, message: RaftMessage) {
        let from = message.sender();
        // Not before others have said what this node's log must have.
        if !self.may_learn(now, from) {
            return;
        }
        // One that left for good, and does not know it.
        let left = !self.state.members.contains_key(&from) && !self.may_be_newer(from);
        if left && !self.state.members.is_empty() {
            return;
        }
        if let Err(why) = self.consensus.admits(&message) {
            self.refuse(now, from, &why);
            return;
        }
        if self.brings_unreadable(&message) {
            return;
        }
        let Some(message) = self.read_ahead(now, message) else { return };
        let mut until = None;
        if consensus::brings_entries(&message) {
            for entry in &message.entries {
                until = until.max(self.must_wait(now, entry.index, &entry.data));
            }
        }
        if self.consensus.must_queue(&message) {
            until = until.max(Some(now.plus(Millis(20))));
        }
        match until {
            Some(until) if self.held.len() < 256 => {
                self.held.push((until, message));
                self.held_changes += 1;
            }
            // Dropped: the leader sends it again.
            Some(_) => {}
            None => {
                if let Err(why) = self.let_in(&message) {
                    self.refuse(now, from, &why);
                }
            }
        }
    }

    fn let_in(&mut self, message: &RaftMessage) -> Result<(), String> {
        self.consensus.admits(message)?;
        if let Some(state) = consensus::brings_state(message) {
            // Written by a version whose config this one cannot read: never guess (S27).
            if snapshot::decode(&state.data, &mut self.read_ahead.configs).is_none() {
                return Err("this version cannot read its state: update this node".into());
            }
        }
        self.consensus.step(message)
    }

    fn refuse(&mut self, now: Time, from: u64, why: &str) {
        let (at, count) = self.append_gate.named.get(&from).copied().unwrap_or_default();
        if at != Time(0) && now.since(at) < NAMED_EVERY.ns() {
            self.append_gate.named.insert(from, (at, count + 1));
            return;
        }
        self.append_gate.named.insert(from, (now, 0));
        let more = if count > 0 { format!(" ({count} more since)") } else { String::new() };
        let name = self.name_of(from);
        self.log(format!("a consensus message of {name} is refused: {why}{more}"));
    }
}
