//! Raft; only this file and those below it name the library.
//!
//! Decides: terms, votes, what is committed. PreVote and CheckQuorum are on, both are needed: a
//! leader that cannot hear must step down, and a node that cannot be heard must not disturb.
//! The library's random election timeout is made a constant of the node, so that the same events
//! give the same run. Its messages pass our own codec: its protobuf parser never sees the network.

use std::collections::BTreeMap;

use nines_model::{LogIndex, NodeId};
use raft::{
    ProgressState, RawNode, SnapshotStatus, StateRole, Storage as _,
    eraftpb::{
        ConfChange, ConfChangeType, ConfState, HardState as RaftHardState, Snapshot as RaftSnapshot,
    },
};

pub use self::codec::{
    acknowledges, asks_for_vote, asks_to_write, brings_entries, brings_state, changes_voters,
    gives_vote, may_wait, takes_log_of,
};
use self::codec::{committed, from_entry, from_message, from_raft_snapshot, to_entry, to_message};
use self::log::Log;
use crate::wire::{HardState, Persist, Persisted, RaftMessage, Snapshot};

mod admission;
mod borrowed;
mod codec;
pub mod disk;
mod entries;
mod log;
mod members;

/// A clock tick of the library, ms.
pub const TICK_MS: u64 = 20;

/// What becomes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It gets the log, and no vote.
    Learns,
    /// It gets a vote.
    Votes,
    /// It is no member any more.
    Leaves,
}

/// An entry that a majority has.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Index of the entry in the log.
    pub index: LogIndex,
    /// Command, encoded; of a membership change the command in its context.
    pub command: Vec<u8>,
    change: Option<(Change, ConfChange)>,
}

impl Committed {
    /// The node that a membership change is about; `None` for other entries.
    pub fn changes_member(&self) -> Option<(NodeId, Change)> {
        self.change.as_ref().map(|(kind, c)| (NodeId(c.node_id), *kind))
    }
}

/// What came out of the library at once.
#[derive(Default)]
pub struct Ready {
    /// May leave now.
    pub messages: Vec<RaftMessage>,
    /// To disk, with the number to acknowledge; messages that wait for it.
    pub persist: Option<(u64, Persist)>,
    /// To apply, in order.
    pub committed: Vec<Committed>,
    /// State to start from instead, before `committed`.
    pub snapshot: Option<Snapshot>,
}

/// What waits for a disk write.
struct Waiting {
    number: u64,
    messages: Vec<RaftMessage>,
    /// Index of a snapshot in it: applied with it.
    snapshot: Option<u64>,
    /// Term and last index on disk from then on.
    durable: (u64, u64),
}

/// Consensus of one node.
pub struct Consensus {
    raw: RawNode<Log>,
    waiting: Vec<Waiting>,
    applied: u64,
    /// Term and last index on disk.
    durable: (u64, u64),
    /// A term, and the last entry that its leader was told to be here.
    told: (u64, u64),
    /// Whose acknowledgements were said for it, and in which term.
    borrowed: Option<(u64, u64)>,
}

impl Consensus {
    /// Continues from `kept`. `rank` (0, 1, 2, ...) spreads election timeouts, so that two nodes do
    /// not ask for votes at the same time again and again.
    pub fn new(id: NodeId, rank: u64, election_ms: u64, kept: &Persisted) -> Self {
        let timeout = (election_ms / TICK_MS).max(5) as usize;
        let mine = timeout + (rank as usize % 8) * (timeout / 3).max(1);
        let config = raft::Config {
            id: id.number(),
            election_tick: timeout,
            heartbeat_tick: (timeout / 5).max(1),
            min_election_tick: mine,
            max_election_tick: mine + 1,
            applied: kept.snapshot.index,
            max_size_per_msg: 1_000,
            max_inflight_msgs: 64,
            check_quorum: true,
            pre_vote: true,
            ..raft::Config::default()
        };
        let mut conf = ConfState::default();
        conf.set_voters(kept.snapshot.voters.clone());
        conf.set_learners(kept.snapshot.learners.clone());
        let mut hard_state = RaftHardState::default();
        hard_state.set_term(kept.hard_state.term);
        hard_state.set_vote(kept.hard_state.vote);
        let last = kept.snapshot.index + kept.entries.len() as u64;
        hard_state.set_commit(kept.hard_state.commit.clamp(kept.snapshot.index, last));
        let log = Log {
            hard_state,
            conf,
            before: (kept.snapshot.index, kept.snapshot.term),
            entries: kept.entries.iter().map(to_entry).collect(),
            snapshot: kept.snapshot.clone(),
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, log, &logger).expect("the configuration is constant");
        Self {
            raw,
            waiting: Vec::new(),
            applied: kept.snapshot.index,
            durable: (kept.hard_state.term, last),
            told: (0, 0),
            borrowed: None,
        }
    }

    /// Ticks of a silent leader after which this node asks for votes.
    #[cfg(test)]
    pub(crate) fn election_ticks(&self) -> usize {
        self.raw.raft.randomized_election_timeout()
    }

    /// Counts one tick of the consensus: [`TICK_MS`] have passed.
    pub fn tick(&mut self) {
        // A node whose disk lags does not ask for votes: alone it would lead at once, and the
        // library stops a leader whose log is not on disk.
        if self.is_leader() || self.is_durable() {
            self.raw.tick();
        }
    }

    /// Whether the disk has the whole log, and the state in its place if one was received.
    fn is_durable(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        log.persisted == log.last_index()
            && log.unstable_snapshot().is_none()
            && self.waiting.iter().all(|write| write.snapshot.is_none())
    }

    /// Whether a message of another node can be true; an error says why not.
    pub fn admits(&self, message: &RaftMessage) -> Result<(), String> {
        let raft = &self.raw.raft;
        let log = &raft.raft_log;
        admission::admit(
            &admission::Own {
                id: raft.id,
                term: raft.term,
                leader: raft.leader_id,
                committed: log.committed,
                last: log.last_index(),
                durable: self.is_durable(),
                term_of: &|index| log.term(index).ok().filter(|term| *term != 0),
            },
            message,
        )
    }

    /// A message of another node. One that cannot be true has no effect.
    pub fn step(&mut self, message: &RaftMessage) -> Result<(), String> {
        self.admits(message)?;
        if let Some(message) = to_message(message) {
            // Errors: unknown peer, dropped proposal. Both are ordinary.
            let _ = self.raw.step(message);
        }
        Ok(())
    }

    /// Writes a command to the log, here or by way of the leader; false: nobody leads.
    pub fn propose(&mut self, command: Vec<u8>) -> bool {
        self.raw.propose(Vec::new(), command).is_ok()
    }

    /// Adds a node: as learner first, which gets the log but has no vote.
    pub fn propose_member(&mut self, id: NodeId, voter: bool, command: Vec<u8>) -> bool {
        let kind = if voter { ConfChangeType::AddNode } else { ConfChangeType::AddLearnerNode };
        self.change(id, kind, command)
    }

    /// Removes a node.
    pub fn propose_removal(&mut self, id: NodeId, command: Vec<u8>) -> bool {
        self.change(id, ConfChangeType::RemoveNode, command)
    }

    fn change(&mut self, id: NodeId, kind: ConfChangeType, command: Vec<u8>) -> bool {
        // One at a time: the library would write an empty entry in place of a second one.
        if self.is_leader() && self.raw.raft.has_pending_conf() {
            return false;
        }
        let mut change = ConfChange::default();
        change.set_node_id(id.number());
        change.set_change_type(kind);
        self.raw.propose_conf_change(command, change).is_ok()
    }

    /// A committed membership change takes effect. `valid`: false makes it one without effect.
    pub fn apply_change(&mut self, entry: &Committed, valid: bool) {
        let Some((_, change)) = &entry.change else { return };
        let mut change = change.clone();
        if !valid {
            change.set_node_id(0);
        }
        if let Ok(conf) = self.raw.apply_conf_change(&change) {
            let raft = &mut self.raw.raft;
            if raft.state == StateRole::Leader && !conf.get_voters().contains(&raft.id) {
                // The library would look for its own place among the voters.
                raft.become_follower(raft.term, 0);
            }
            self.raw.mut_store().conf = conf;
        }
    }

    /// Followers that were sent the whole state and have not said that they have it, with its place
    /// in the log.
    pub fn awaits_state(&self) -> BTreeMap<NodeId, LogIndex> {
        let all = self.raw.raft.prs().iter().filter(|(_, p)| p.state == ProgressState::Snapshot);
        all.map(|(id, p)| (NodeId(*id), LogIndex(p.pending_snapshot))).collect()
    }

    /// What was sent to this follower was lost: it is asked where it stands, and gets it again.
    pub fn lost(&mut self, id: NodeId) {
        self.raw.report_unreachable(id.number());
        self.raw.report_snapshot(id.number(), SnapshotStatus::Failure);
    }

    /// Whether this leader must let a change of membership wait for the one before it: the library
    /// would write an empty entry in its place.
    pub fn must_queue(&self, message: &RaftMessage) -> bool {
        codec::changes_members(message) && self.is_leader() && self.raw.raft.has_pending_conf()
    }

    /// Hands leadership to another voter.
    pub fn transfer(&mut self, to: NodeId) {
        self.raw.transfer_leader(to.number());
    }

    /// Takes out everything that is ready; call until it gives nothing.
    pub fn take(&mut self) -> Option<Ready> {
        if !self.raw.has_ready() {
            return None;
        }
        let mut ready = self.raw.ready();
        let mut batch = Ready {
            messages: ready.take_messages().iter().map(from_message).collect(),
            ..Ready::default()
        };
        let mut persist = Persist::default();
        if *ready.snapshot() != RaftSnapshot::default() {
            let snapshot = from_raft_snapshot(ready.snapshot());
            let log = self.raw.mut_store();
            log.before = (snapshot.index, snapshot.term);
            log.conf = ready.snapshot().get_metadata().get_conf_state().clone();
            log.snapshot = snapshot.clone();
            persist.snapshot = Some(snapshot.clone());
            persist.received = true;
            self.applied = snapshot.index;
            batch.snapshot = Some(snapshot);
        }
        let entries = ready.take_entries();
        persist.entries = entries.iter().map(from_entry).collect();
        self.raw.mut_store().keep(&persist, &entries);
        let mut early = std::mem::take(&mut batch.messages);
        let mut waits = false;
        if let Some(hard_state) = ready.hs() {
            let before = &self.raw.store().hard_state;
            // A leader's messages leave at once; a lone one's term must be on disk first.
            waits = (before.term, before.vote) != (hard_state.term, hard_state.vote);
            self.raw.mut_store().hard_state = hard_state.clone();
            persist.hard_state = Some(HardState {
                term: hard_state.term,
                vote: hard_state.vote,
                commit: hard_state.commit,
            });
        }
        let mut later: Vec<RaftMessage> =
            ready.take_persisted_messages().iter().map(from_message).collect();
        later.splice(0..0, early.extract_if(.., |_| waits));
        batch.messages = early;
        batch.committed = ready.take_committed_entries().iter().map(committed).collect();
        let number = ready.number();
        let only_commit =
            persist.entries.is_empty() && persist.snapshot.is_none() && !ready.must_sync();
        self.raw.advance_append_async(ready);
        if only_commit && self.waiting.is_empty() {
            // The commit index may be lost in a crash; it is found again.
            batch.messages.extend(later);
            self.raw.on_persist_ready(number);
        } else {
            let snapshot = batch.snapshot.as_ref().map(|s| s.index);
            let log = self.raw.store();
            let durable = (log.hard_state.term, log.before.0 + log.entries.len() as u64);
            self.waiting.push(Waiting { number, messages: later, snapshot, durable });
            batch.persist = Some((number, persist));
        }
        batch.messages = self.let_out(batch.messages);
        Some(batch)
    }

    /// The disk has everything up to this number; gives the messages that waited for it.
    pub fn persisted(&mut self, number: u64) -> Vec<RaftMessage> {
        self.raw.on_persist_ready(number);
        let (done, rest): (Vec<Waiting>, Vec<Waiting>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|w| w.number <= number);
        self.waiting = rest;
        for index in done.iter().filter_map(|w| w.snapshot) {
            // The library must know it as applied before it may campaign.
            if index > self.raw.raft.raft_log.applied {
                self.raw.advance_apply_to(index);
            }
        }
        self.durable = done.last().map_or(self.durable, |w| w.durable);
        self.let_out(done.into_iter().flat_map(|w| w.messages).collect())
    }

    /// What the disk has: the term, the last entry that the leader of this term was told of, and
    /// the last entry.
    pub fn shown(&self) -> (u64, LogIndex, LogIndex) {
        let (term, last) = self.durable;
        let told = match self.told {
            // A leader counts on its own disk, too.
            _ if self.is_leader() && self.raw.raft.term == term => last,
            (of, index) if of == term => index,
            _ => 0,
        };
        (term, LogIndex(told), LogIndex(last))
    }

    /// The state machine has applied everything up to here.
    pub fn applied(&mut self, index: LogIndex) {
        self.applied = index.number();
        self.raw.advance_apply_to(index.number());
    }

    /// Replaces the log up to `applied` by its state, keeping `tail` entries for slow followers.
    pub fn compact(&mut self, data: Vec<u8>, tail: u64) -> Snapshot {
        let applied = self.applied;
        let log = self.raw.mut_store();
        let snapshot = Snapshot {
            index: applied,
            term: log.term(applied).unwrap_or(log.before.1),
            voters: log.conf.get_voters().to_vec(),
            learners: log.conf.get_learners().to_vec(),
            data,
        };
        log.snapshot = snapshot.clone();
        let cut = applied.saturating_sub(tail);
        if cut > log.before.0 {
            let term = log.term(cut).unwrap_or(0);
            log.entries.drain(..(cut - log.before.0) as usize);
            log.before = (cut, term);
        }
        snapshot
    }

    /// Entries kept in memory.
    pub fn log_length(&self) -> usize {
        self.raw.store().entries.len()
    }

    /// Whether this node leads and has applied an entry of its own term: its picture is complete.
    pub fn leads(&self) -> bool {
        let raft = &self.raw.raft;
        raft.state == StateRole::Leader
            && raft.raft_log.term(self.applied).is_ok_and(|term| term == raft.term)
    }

    /// Whether this node believes to lead.
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The leader as far as known.
    pub fn leader(&self) -> Option<NodeId> {
        Some(self.raw.raft.leader_id).filter(|id| *id != 0).map(NodeId)
    }

    /// Raft term that this node is in.
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// Index of the newest log entry that is known to be committed.
    pub fn committed(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.committed)
    }

    /// Index of the newest log entry that was applied to the state.
    pub fn applied_index(&self) -> LogIndex {
        LogIndex(self.applied)
    }

    /// Last index and term, durable or not.
    pub fn last(&self) -> (LogIndex, u64) {
        let log = &self.raw.raft.raft_log;
        (LogIndex(log.last_index()), log.last_term())
    }

    /// Numbers of the nodes that vote.
    pub fn voters(&self) -> Vec<NodeId> {
        self.raw.store().conf.get_voters().iter().copied().map(NodeId).collect()
    }

    /// Numbers of the nodes that get the log and have no vote yet.
    pub fn learners(&self) -> Vec<NodeId> {
        self.raw.store().conf.get_learners().iter().copied().map(NodeId).collect()
    }

    /// Where the leader believes each follower to be, for people who debug.
    pub fn progress(&self) -> String {
        let raft = &self.raw.raft;
        let one = |(id, p): (&u64, &raft::Progress)| {
            format!(
                "{id}: {:?} matched {} next {} paused {}",
                p.state,
                p.matched,
                p.next_idx,
                p.is_paused()
            )
        };
        raft.prs().iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// How far behind a node's log is, on the leader.
    pub fn lag(&self, id: NodeId) -> Option<u64> {
        let raft = &self.raw.raft;
        raft.prs().get(id.number()).map(|p| raft.raft_log.last_index().saturating_sub(p.matched))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_node_elects_itself_and_commits() {
        let kept = Persisted {
            snapshot: Snapshot { index: 1, term: 1, voters: vec![1], ..Snapshot::default() },
            hard_state: HardState { term: 1, vote: 0, commit: 1 },
            ..Persisted::default()
        };
        let mut c = Consensus::new(NodeId(1), 0, 100, &kept);
        let mut seen = Vec::new();
        for round in 0..60 {
            c.tick();
            if round == 30 {
                assert!(c.propose(b"x".to_vec()));
                assert!(c.propose_member(NodeId(2), false, b"join".to_vec()));
            }
            while let Some(batch) = c.take() {
                if let Some((number, _)) = batch.persist {
                    c.persisted(number);
                }
                for entry in batch.committed {
                    c.apply_change(&entry, true);
                    c.applied(entry.index);
                    seen.push((entry.command.clone(), entry.changes_member()));
                }
            }
        }
        assert!(c.leads());
        let join = (b"join".to_vec(), Some((NodeId(2), Change::Learns)));
        assert_eq!(seen, [(vec![], None), (b"x".to_vec(), None), join]);
        assert_eq!((c.voters(), c.learners()), (vec![NodeId(1)], vec![NodeId(2)]));
    }
}
