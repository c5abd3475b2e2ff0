//! The log: what is proposed, what is applied, which events are recorded.

use std::sync::Arc;

use nines_model::{Millis, Spec, Time};
use prost::Message as _;

use super::Node;
use crate::{
    action::Action,
    batch,
    consensus::Committed,
    snapshot,
    wire::{Command, LogEvent, LogEvents, Persist, Snapshot, command::Kind},
};

/// The log is replaced by a snapshot after so many entries; a slow follower may lag by so many.
const COMPACT_AFTER: usize = 4_096;
const COMPACT_TAIL: u64 = 512;
/// Or after so many bytes of configs and of other commands; then few of them stay. A config counts
/// with its whole text, though only a piece of it is in the log: a start reads each of them.
pub(super) const COMPACT_BYTES: usize = 24 << 20;
const COMPACT_TAIL_OF_LARGE: u64 = 4;
/// Of what happened, in one entry.
const EVENTS_BYTES: usize = 900;

impl Node {
    /// The newest config in the log, in force or about to be: after a start entries are applied
    /// only once a majority is heard. For what is made before that, such as room in tables.
    pub fn newest_config(&self) -> Arc<Spec> {
        let mut at = self.state.following();
        let mut configs = self.read_ahead.configs.clone();
        for (_, command) in self.consensus.tail() {
            at.follow(&command, |text| configs.get(text));
        }
        at.spec
    }

    /// Writes a command; membership changes take the library's own way. False: nobody leads.
    pub(super) fn write(&mut self, command: &Command) -> bool {
        let bytes = command.encode_to_vec();
        if self.broken.is_some() {
            return false;
        }
        match &command.kind {
            // One that is in the log and lost its credentials on the way gets others.
            Some(Kind::Join(member)) if !self.state.members.contains_key(&member.id) => {
                self.consensus.propose_member(member.id, false, bytes)
            }
            Some(Kind::Remove(name)) => {
                let id = self.id_of(name);
                id != 0 && self.consensus.propose_removal(id, bytes)
            }
            _ => self.consensus.propose(bytes),
        }
    }

    /// Takes everything out of the consensus: messages leave, the disk is asked, entries applied.
    pub(super) fn pump(&mut self, now: Time) {
        while let Some(batch) = self.consensus.take() {
            if let Some((number, mut persist)) = batch.persist {
                if persist.snapshot.is_some() {
                    self.installs(number);
                    // What lease it names is not known yet.
                    persist.long_promise = self.bound_of_promises(now, Millis(0));
                }
                self.actions.push(Action::Persist(number, Box::new(persist)));
            }
            self.send_raft(now, batch.messages);
            if let Some(snapshot) = batch.snapshot {
                self.install(&snapshot);
            }
            self.read_ahead.entries.extend(batch.committed);
        }
        let grown = self.apply_committed(now);
        // A node that joins is given a snapshot only if that names it as member.
        let large = self.read_ahead.bytes > COMPACT_BYTES;
        if grown || large || self.consensus.log_length() > COMPACT_AFTER {
            let tail = if large { COMPACT_TAIL_OF_LARGE } else { COMPACT_TAIL };
            let snapshot = self.consensus.compact(snapshot::encode(&self.state), tail);
            if large {
                self.read_ahead.bytes = 0;
            }
            // Number 0 acknowledges nothing: the library does not wait for this.
            let long_promise = self.bound_of_promises(now, self.lease());
            let snapshot = Some(snapshot);
            let persist = Persist { snapshot, long_promise, ..Persist::default() };
            self.actions.push(Action::Persist(0, Box::new(persist)));
        }
    }

    fn install(&mut self, snapshot: &Snapshot) {
        // What waits is older than this.
        self.read_ahead.entries.clear();
        match snapshot::decode(&snapshot.data, &mut self.read_ahead.configs) {
            Some(state) => {
                self.read_ahead.configs.in_force(&state.text);
                self.state = state;
                self.state.applied = snapshot.index;
            }
            // Written by a version whose config this one cannot read: never guess (S27).
            None => self.broken = Some("a snapshot that this version cannot read".into()),
        }
        self.decided += 1;
        self.outside += 1;
        self.all_vips_changed();
    }

    pub(super) fn apply(&mut self, entry: &Committed) {
        if let Some(change) = entry.changes_member() {
            let valid = self.state.may_join(change, &entry.command);
            self.consensus.apply_change(entry, valid);
        }
        let applied = self.state.apply(
            entry.index,
            entry.changes_member(),
            &entry.command,
            &mut self.read_ahead.configs,
        );
        self.lease_kept();
        self.consensus.applied(entry.index);
        let Some((command, outcome)) = applied else { return };
        self.note_changes(command.kind.as_ref());
        if command.node == self.config.id
            && let Some((request, _)) = self.pending.remove(&command.number)
        {
            let result = outcome.map(|done| (entry.index, done));
            self.actions.push(Action::Reply { request, result });
        }
    }

    /// Notes what an applied command may have changed, so that nothing else is looked at.
    fn note_changes(&mut self, kind: Option<&Kind>) {
        match kind {
            None | Some(Kind::LogEvents(_)) => return,
            Some(Kind::Apply(_)) => self.all_vips_changed(),
            Some(kind @ (Kind::Give(_) | Kind::Move(_) | Kind::Released(_) | Kind::Batch(_))) => {
                for vip in batch::vips(kind) {
                    self.vip_changed(vip);
                }
                // Others are waited for as long as they may take.
                for vip in batch::given(kind) {
                    self.proposed.remove(&vip);
                }
                self.decided += 1;
                return;
            }
            Some(_) => {}
        }
        self.decided += 1;
        self.outside += 1;
    }

    /// Puts events that are not recorded yet, and what this node knows about itself, into the log.
    pub(super) fn flush_proposals(&mut self, now: Time) {
        if self.consensus.leader() == 0 {
            return;
        }
        for command in std::mem::take(&mut self.unwritten) {
            if !self.write(&command) {
                self.unwritten.push(command);
            }
        }
        if !self.unrecorded.is_empty() && now >= self.unrecorded_after {
            self.unrecorded_after = now.plus(Millis(20));
            // In entries that fit a datagram each: leases do not hang on TCP, nor does the log.
            while !self.unrecorded.is_empty() {
                let mut size = 0;
                let fits = |told: &&LogEvent| {
                    size += told.encoded_len() + 3;
                    size <= EVENTS_BYTES
                };
                let count = self.unrecorded.iter().take_while(fits).count().max(1);
                let told = self.unrecorded[..count].to_vec();
                if !self.propose_own(now, Kind::LogEvents(LogEvents { told }), String::new()) {
                    self.unrecorded_after = now.plus(Millis(200));
                    break;
                }
                self.unrecorded.drain(..count);
            }
        }
        let known = self.state.members.facts().get(&self.config.name);
        if now >= self.facts_after
            && self.facts.is_some()
            && self.facts.as_ref() != known
            && self.state.members.contains_key(&self.config.id)
        {
            self.facts_after = now.plus(Millis(1_000));
            let facts = self.facts.clone().expect("seen above");
            self.propose_own(now, Kind::Facts(facts), String::new());
        }
    }
}
