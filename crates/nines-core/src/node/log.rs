//! The log: what comes out of the consensus is applied, and the log is cut.

use std::sync::Arc;

use nines_model::{Spec, Time};

use super::Node;
use crate::{
    action::{Action, Refusal},
    batch, feature_level, snapshot,
    voter::consensus::{Change, Committed},
    wire::{Command, Snapshot, command::Kind},
};

/// The log is replaced by a snapshot after so many entries; a slow follower may lag by so many.
const COMPACT_AFTER: usize = 4_096;
const COMPACT_TAIL: u64 = 512;
/// Or after so many bytes of commands; then few of them stay. A config counts with its whole text,
/// though only what changed is in the log: a start goes through each of them.
pub(super) const COMPACT_BYTES: usize = 24 << 20;
const COMPACT_TAIL_OF_LARGE: u64 = 4;

/// Counts of applied entries by what they have changed, so that nothing else is looked at.
#[derive(Default)]
pub(super) struct Changes {
    /// Entries that decided anything about VIPs and nodes.
    pub(super) decided: u64,
    /// Entries that the table, the checks or the guard depend on.
    pub(super) outside: u64,
}

impl Node {
    /// The newest config in the log, in force or about to be: after a start entries are applied
    /// only once a majority is heard. For what is made before that, such as room in tables.
    pub fn newest_config(&self) -> Arc<Spec> {
        let mut at = self.state.following();
        for (_, command) in self.voter.consensus().tail() {
            let _ = at.follow(&command);
        }
        at.spec
    }

    /// Writes a command. False: nobody leads.
    pub(super) fn write(&mut self, command: &Command) -> bool {
        self.voter.write(&self.state, command)
    }

    /// Takes everything out of the consensus: messages leave, the disk is asked, entries applied.
    pub(super) fn pump(&mut self, now: Time) {
        let mut grown = false;
        loop {
            let (voter, mut cx) = self.voter(now);
            let Some(batch) = voter.take(&mut cx) else { break };
            self.send_raft(now, batch.messages);
            if let Some(snapshot) = batch.snapshot {
                self.install(&snapshot);
            }
            for entry in batch.committed {
                // Nothing that follows what this build does not read is applied either.
                if self.reads_on(&entry.command) {
                    grown |= entry.changes_member().is_some();
                    // Texts from before it are not read again: a later build may read them in
                    // another way.
                    grown |= feature_level::raises(&entry.command);
                    self.apply(now, &entry);
                }
            }
        }
        // What it stands at is not what the log says.
        if self.applies_no_more() {
            return;
        }
        // A node that joins is given a snapshot only if that names it as member.
        let large = self.applied_bytes > COMPACT_BYTES;
        if grown || large || self.voter.consensus().log_length() > COMPACT_AFTER {
            let tail = if large { COMPACT_TAIL_OF_LARGE } else { COMPACT_TAIL };
            if large {
                self.applied_bytes = 0;
            }
            let (voter, mut cx) = self.voter(now);
            let data = snapshot::encode(cx.state);
            voter.compact(&mut cx, data, tail);
        }
    }

    fn install(&mut self, snapshot: &Snapshot) {
        match snapshot::decode(&snapshot.data) {
            Some(state) => {
                self.state = state;
                self.state.applied = snapshot.index();
            }
            // Written by a version whose config this one cannot read: never guess (S27).
            None => self.voter.breaks("a snapshot that this version cannot read".into()),
        }
        self.changes.decided += 1;
        self.changes.outside += 1;
        self.all_vips_changed();
    }

    pub(super) fn apply(&mut self, now: Time, entry: &Committed) {
        if let Some(change) = entry.changes_member() {
            let valid = self.state.may_join(change, &entry.command);
            self.voter.apply_change(entry, valid);
            if valid {
                self.vote_taken();
            }
        }
        let applied = self.state.apply(entry.index, entry.changes_member(), &entry.command);
        self.applied_bytes += entry.command.len();
        let (voter, cx) = self.voter(now);
        voter.applied(&cx, entry.index);
        let Some((command, outcome)) = applied else { return };
        if let Some(Kind::Apply(_) | Kind::ApplySpec(_)) = command.kind {
            self.applied_bytes += self.state.text.len();
        }
        if let (Some((id, Change::Leaves)), Ok(_)) = (entry.changes_member(), &outcome)
            && !self.state.members.contains_key(&id)
        {
            self.forget_member(id);
        }
        if let Err(Refusal::Differs(why)) = &outcome {
            self.stop_as_different(why.clone());
        }
        self.note_changes(command.kind.as_ref());
        if command.node() != self.config.id {
            return;
        }
        self.unrecorded.applied(command.number);
        if let Some(request) = self.proposals.answered(command.number) {
            let result = outcome.map(|done| (entry.index, done));
            self.actions.push(Action::Reply { request, result });
        }
    }

    /// Notes what an applied command may have changed, so that nothing else is looked at.
    fn note_changes(&mut self, kind: Option<&Kind>) {
        match kind {
            None | Some(Kind::LogEvents(_)) => return,
            Some(Kind::Apply(_) | Kind::ApplySpec(_)) => self.all_vips_changed(),
            Some(kind @ (Kind::Give(_) | Kind::Move(_) | Kind::Released(_) | Kind::Batch(_))) => {
                for vip in batch::vips(kind) {
                    self.vip_changed(vip);
                }
                // Others are waited for as long as they may take.
                for vip in batch::given(kind) {
                    self.leading.followed(vip);
                }
                self.changes.decided += 1;
                return;
            }
            Some(_) => {}
        }
        self.changes.decided += 1;
        self.changes.outside += 1;
    }
}
