//! Raft, and the only file that names the library.
//!
//! Decides: terms, votes, what is committed. PreVote and CheckQuorum are on, both are needed: a
//! leader that cannot hear must step down, and a node that cannot be heard must not disturb.
//! The library's random election timeout is made a constant of the node, so that the same events
//! give the same run. Its messages pass our own codec: its protobuf parser never sees the network.

use raft::{
    GetEntriesContext, RaftState, RawNode, StateRole, Storage, StorageError,
    eraftpb::{
        ConfChange, ConfChangeType, ConfState, Entry, EntryType, HardState as RaftHardState,
        Message, MessageType, Snapshot as RaftSnapshot,
    },
};

use crate::wire::{HardState, LogEntry, Persist, Persisted, RaftMessage, Snapshot};

/// A clock tick of the library, ms.
pub const TICK_MS: u64 = 20;

/// The log in memory; the disk follows by [`Persist`].
struct Log {
    hard_state: RaftHardState,
    conf: ConfState,
    /// Index and term of the last entry before `entries`.
    before: (u64, u64),
    entries: Vec<Entry>,
    snapshot: Snapshot,
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.before.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let first = self.before.0 + 1;
        let range = (low - first) as usize..(high - first) as usize;
        let mut found =
            self.entries.get(range).ok_or(raft::Error::Store(StorageError::Unavailable))?.to_vec();
        if let Some(max) = max_size.into() {
            let mut size = 0;
            let fits = found
                .iter()
                .take_while(|e| {
                    size += e.get_data().len() as u64 + 32;
                    size <= max
                })
                .count();
            found.truncate(fits.max(1));
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.before.0 {
            return Ok(self.before.1);
        }
        if index < self.before.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        self.entries
            .get((index - self.before.0 - 1) as usize)
            .map(|e| e.term)
            .ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.before.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.before.0 + self.entries.len() as u64)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<RaftSnapshot> {
        if self.snapshot.index < request_index || self.snapshot.index == 0 {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        Ok(to_raft_snapshot(&self.snapshot))
    }
}

impl Log {
    fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        self.entries.truncate((first.index - self.before.0 - 1) as usize);
        self.entries.extend_from_slice(entries);
    }
}

/// An entry that a majority has.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Index.
    pub index: u64,
    /// Command, encoded; of a membership change the command in its context.
    pub command: Vec<u8>,
    change: Option<ConfChange>,
}

impl Committed {
    /// The node that a membership change is about; `None` for other entries.
    pub fn changes_member(&self) -> Option<u64> {
        self.change.as_ref().map(|c| c.node_id)
    }
}

/// What came out of the library at once.
#[derive(Default)]
pub struct Batch {
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
}

/// Consensus of one node.
pub struct Consensus {
    raw: RawNode<Log>,
    waiting: Vec<Waiting>,
    applied: u64,
}

impl Consensus {
    /// Continues from `kept`. `rank` (0, 1, 2, ...) spreads election timeouts, so that two nodes do
    /// not ask for votes at the same time again and again.
    pub fn new(id: u64, rank: u64, election_ms: u64, kept: &Persisted) -> Self {
        let timeout = (election_ms / TICK_MS).max(5) as usize;
        let mine = timeout + (rank as usize % 8) * (timeout / 3).max(1);
        let config = raft::Config {
            id,
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
        Self { raw, waiting: Vec::new(), applied: kept.snapshot.index }
    }

    /// [`TICK_MS`] passed.
    pub fn tick(&mut self) {
        self.raw.tick();
    }

    /// A message of another node. Messages that make no sense are dropped.
    pub fn step(&mut self, message: &RaftMessage) {
        if let Some(message) = to_message(message)
            && message.to == self.raw.raft.id
        {
            // Errors: unknown peer, dropped proposal. Both are ordinary.
            let _ = self.raw.step(message);
        }
    }

    /// Writes a command to the log, here or by way of the leader; false: nobody leads.
    pub fn propose(&mut self, command: Vec<u8>) -> bool {
        self.raw.propose(Vec::new(), command).is_ok()
    }

    /// Adds a node: as learner first, which gets the log but has no vote.
    pub fn propose_member(&mut self, id: u64, voter: bool, command: Vec<u8>) -> bool {
        let kind = if voter { ConfChangeType::AddNode } else { ConfChangeType::AddLearnerNode };
        self.change(id, kind, command)
    }

    /// Removes a node.
    pub fn propose_removal(&mut self, id: u64, command: Vec<u8>) -> bool {
        self.change(id, ConfChangeType::RemoveNode, command)
    }

    fn change(&mut self, id: u64, kind: ConfChangeType, command: Vec<u8>) -> bool {
        // One at a time: the library would write an empty entry in place of a second one.
        if self.is_leader() && self.raw.raft.has_pending_conf() {
            return false;
        }
        let mut change = ConfChange::default();
        change.set_node_id(id);
        change.set_change_type(kind);
        self.raw.propose_conf_change(command, change).is_ok()
    }

    /// A committed membership change takes effect. `valid`: false makes it one without effect.
    pub fn apply_change(&mut self, entry: &Committed, valid: bool) {
        let Some(change) = &entry.change else { return };
        let mut change = change.clone();
        if !valid {
            change.set_node_id(0);
        }
        if let Ok(conf) = self.raw.apply_conf_change(&change) {
            self.raw.mut_store().conf = conf;
        }
    }

    /// Hands leadership to another voter.
    pub fn transfer(&mut self, to: u64) {
        self.raw.transfer_leader(to);
    }

    /// Takes out everything that is ready; call until it gives nothing.
    pub fn take(&mut self) -> Option<Batch> {
        if !self.raw.has_ready() {
            return None;
        }
        let mut ready = self.raw.ready();
        let mut batch = Batch {
            messages: ready.take_messages().iter().map(from_message).collect(),
            ..Batch::default()
        };
        let mut persist = Persist::default();
        if *ready.snapshot() != RaftSnapshot::default() {
            let snapshot = from_raft_snapshot(ready.snapshot());
            let log = self.raw.mut_store();
            log.before = (snapshot.index, snapshot.term);
            log.entries.clear();
            log.conf = ready.snapshot().get_metadata().get_conf_state().clone();
            log.snapshot = snapshot.clone();
            persist.snapshot = Some(snapshot.clone());
            self.applied = snapshot.index;
            batch.snapshot = Some(snapshot);
        }
        let entries = ready.take_entries();
        persist.entries = entries.iter().map(from_entry).collect();
        self.raw.mut_store().append(&entries);
        if let Some(hard_state) = ready.hs() {
            self.raw.mut_store().hard_state = hard_state.clone();
            persist.hard_state = Some(HardState {
                term: hard_state.term,
                vote: hard_state.vote,
                commit: hard_state.commit,
            });
        }
        let later: Vec<RaftMessage> =
            ready.take_persisted_messages().iter().map(from_message).collect();
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
            self.waiting.push(Waiting { number, messages: later, snapshot });
            batch.persist = Some((number, persist));
        }
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
        done.into_iter().flat_map(|w| w.messages).collect()
    }

    /// The state machine has applied everything up to here.
    pub fn applied(&mut self, index: u64) {
        self.applied = index;
        self.raw.advance_apply_to(index);
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

    /// Commands after what is applied, also those that no majority has yet, oldest first.
    pub fn tail(&self) -> Vec<(u64, Vec<u8>)> {
        let log = &self.raw.raft.raft_log;
        let (low, high) = (self.applied + 1, log.last_index() + 1);
        if low >= high {
            return Vec::new();
        }
        let context = GetEntriesContext::empty(false);
        let entries = log.slice(low, high, None, context).unwrap_or_default();
        entries.iter().map(|e| (e.index, e.get_data().to_vec())).collect()
    }

    /// Whether this node leads and has applied an entry of its own term: only then its picture is
    /// complete.
    pub fn leads(&self) -> bool {
        let raft = &self.raw.raft;
        raft.state == StateRole::Leader
            && raft.raft_log.term(self.applied).is_ok_and(|term| term == raft.term)
    }

    /// Whether this node believes to lead.
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The leader as far as known; 0: none.
    pub fn leader(&self) -> u64 {
        self.raw.raft.leader_id
    }

    /// Term.
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// Commit index.
    pub fn committed(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    /// Applied index.
    pub fn applied_index(&self) -> u64 {
        self.applied
    }

    /// Last index and term, durable or not.
    pub fn last(&self) -> (u64, u64) {
        let log = &self.raw.raft.raft_log;
        (log.last_index(), log.last_term())
    }

    /// Voters.
    pub fn voters(&self) -> Vec<u64> {
        self.raw.store().conf.get_voters().to_vec()
    }

    /// Learners.
    pub fn learners(&self) -> Vec<u64> {
        self.raw.store().conf.get_learners().to_vec()
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
    pub fn lag(&self, id: u64) -> Option<u64> {
        let raft = &self.raw.raft;
        raft.prs().get(id).map(|p| raft.raft_log.last_index().saturating_sub(p.matched))
    }
}

fn committed(entry: &Entry) -> Committed {
    let change = match entry.get_entry_type() {
        EntryType::EntryNormal => None,
        _ => decode_change(entry.get_data()),
    };
    let command = if change.is_some() { entry.get_context() } else { entry.get_data() };
    Committed { index: entry.index, command: command.to_vec(), change }
}

/// The library writes its conf change as protobuf into the entry; ours were written by ourselves
/// or passed by authenticated members, and the two fields used are read by hand: field 2 type,
/// field 3 node id, as varints.
fn decode_change(data: &[u8]) -> Option<ConfChange> {
    let mut change = ConfChange::default();
    let mut rest = data;
    while let Some((&tag, tail)) = rest.split_first() {
        let (value, tail) = varint(tail)?;
        match tag {
            0x10 => change.set_change_type(match value {
                0 => ConfChangeType::AddNode,
                1 => ConfChangeType::RemoveNode,
                _ => ConfChangeType::AddLearnerNode,
            }),
            0x18 => change.set_node_id(value),
            0x08 => {}
            _ => return None,
        }
        rest = tail;
    }
    Some(change)
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

fn from_entry(entry: &Entry) -> LogEntry {
    LogEntry {
        kind: i32::from(entry.get_entry_type() != EntryType::EntryNormal),
        term: entry.term,
        index: entry.index,
        data: entry.get_data().to_vec(),
        context: entry.get_context().to_vec(),
    }
}

fn to_entry(entry: &LogEntry) -> Entry {
    let mut out = Entry::default();
    out.set_entry_type(if entry.kind == 0 {
        EntryType::EntryNormal
    } else {
        EntryType::EntryConfChange
    });
    out.set_term(entry.term);
    out.set_index(entry.index);
    out.set_data(entry.data.clone().into());
    out.set_context(entry.context.clone().into());
    out
}

fn from_raft_snapshot(snapshot: &RaftSnapshot) -> Snapshot {
    let meta = snapshot.get_metadata();
    Snapshot {
        index: meta.index,
        term: meta.term,
        voters: meta.get_conf_state().get_voters().to_vec(),
        learners: meta.get_conf_state().get_learners().to_vec(),
        data: snapshot.get_data().to_vec(),
    }
}

fn to_raft_snapshot(snapshot: &Snapshot) -> RaftSnapshot {
    let mut out = RaftSnapshot::default();
    out.set_data(snapshot.data.clone().into());
    let meta = out.mut_metadata();
    meta.set_index(snapshot.index);
    meta.set_term(snapshot.term);
    meta.mut_conf_state().set_voters(snapshot.voters.clone());
    meta.mut_conf_state().set_learners(snapshot.learners.clone());
    out
}

const KINDS: [MessageType; 19] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// Whether a message brings log entries or a state in their place.
pub fn brings_entries(message: &RaftMessage) -> bool {
    message.kind == 3 || message.kind == 2
}

/// Whether a message loses nothing by waiting for the next beat: heartbeats and their answers.
pub fn may_wait(message: &RaftMessage) -> bool {
    message.kind == 8 || message.kind == 9
}

fn from_message(m: &Message) -> RaftMessage {
    let kind = KINDS.iter().position(|k| *k == m.get_msg_type()).unwrap_or(0) as i32;
    let has_snapshot = m.get_snapshot().get_metadata().index > 0;
    RaftMessage {
        kind,
        to: m.to,
        from: m.from,
        term: m.term,
        log_term: m.log_term,
        index: m.index,
        entries: m.get_entries().iter().map(from_entry).collect(),
        commit: m.commit,
        commit_term: m.commit_term,
        snapshot: has_snapshot.then(|| from_raft_snapshot(m.get_snapshot())),
        request_snapshot: m.request_snapshot,
        reject: m.reject,
        reject_hint: m.reject_hint,
        context: m.get_context().to_vec(),
        priority: m.priority,
    }
}

fn to_message(m: &RaftMessage) -> Option<Message> {
    let kind = *KINDS.get(usize::try_from(m.kind).ok()?)?;
    // Local kinds drive the library from inside; nobody else may send them.
    if raft::raw_node::is_local_msg(kind) {
        return None;
    }
    let mut out = Message::default();
    out.set_msg_type(kind);
    out.set_to(m.to);
    out.set_from(m.from);
    out.set_term(m.term);
    out.set_log_term(m.log_term);
    out.set_index(m.index);
    out.set_entries(m.entries.iter().map(to_entry).collect::<Vec<_>>().into());
    out.set_commit(m.commit);
    out.set_commit_term(m.commit_term);
    if let Some(snapshot) = &m.snapshot {
        out.set_snapshot(to_raft_snapshot(snapshot));
    }
    out.set_request_snapshot(m.request_snapshot);
    out.set_reject(m.reject);
    out.set_reject_hint(m.reject_hint);
    out.set_context(m.context.clone().into());
    out.set_priority(m.priority);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_our_codec() {
        let mut m = Message::default();
        m.set_msg_type(MessageType::MsgAppend);
        m.set_term(7);
        m.set_reject_hint(9);
        let mut entry = Entry::default();
        entry.set_entry_type(EntryType::EntryConfChange);
        entry.set_data(vec![1, 2, 3].into());
        m.set_entries(vec![entry].into());
        assert_eq!(to_message(&from_message(&m)).unwrap(), m);
        m.set_msg_type(MessageType::MsgHup);
        assert_eq!(to_message(&from_message(&m)), None, "a local kind is refused");
    }

    #[test]
    fn a_lone_node_elects_itself_and_commits() {
        let kept = Persisted {
            snapshot: Snapshot { index: 1, term: 1, voters: vec![1], ..Snapshot::default() },
            hard_state: HardState { term: 1, vote: 0, commit: 1 },
            ..Persisted::default()
        };
        let mut c = Consensus::new(1, 0, 100, &kept);
        let mut seen = Vec::new();
        for round in 0..60 {
            c.tick();
            if round == 30 {
                assert!(c.propose(b"x".to_vec()));
                assert!(c.propose_member(2, false, b"join".to_vec()));
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
        assert_eq!(seen, [(vec![], None), (b"x".to_vec(), None), (b"join".to_vec(), Some(2))]);
        assert_eq!((c.voters(), c.learners()), (vec![1], vec![2]));
    }
}
