//! The library's messages and entries as ours, and back.
//!
//! Decides: which kinds of message a network may bring at all; [`super::admission`] decides which
//! of them can be true.

use nines_model::{LogIndex, NodeId};
use raft::eraftpb::{
    ConfChange, ConfChangeType, Entry, EntryType, Message, MessageType, Snapshot as RaftSnapshot,
};

use super::{Change, Committed, disk::NUMBER_MAX};
use crate::peek;
use crate::wire::{LogEntry, RaftMessage, Snapshot};

pub(super) fn committed(entry: &Entry) -> Committed {
    let change = match entry.get_entry_type() {
        EntryType::EntryNormal => None,
        _ => decode_change(entry.get_data()),
    };
    let command = if change.is_some() { entry.get_context() } else { entry.get_data() };
    let change = change.map(|c| {
        let kind = match c.get_change_type() {
            ConfChangeType::AddNode => Change::Votes,
            ConfChangeType::AddLearnerNode => Change::Learns,
            ConfChangeType::RemoveNode => Change::Leaves,
        };
        (kind, c)
    });
    Committed { index: LogIndex(entry.index), command: command.to_vec(), change }
}

/// The library writes its conf change as protobuf into the entry; ours were written by ourselves
/// or passed by authenticated members, and the two fields used are read by hand: field 2 type,
/// field 3 node id, as varints.
pub(super) fn decode_change(data: &[u8]) -> Option<ConfChange> {
    let mut change = ConfChange::default();
    let mut rest = data;
    while let Some((&tag, tail)) = rest.split_first() {
        let (value, tail) = varint(tail)?;
        match tag {
            0x10 => change.set_change_type(match value {
                0 => ConfChangeType::AddNode,
                1 => ConfChangeType::RemoveNode,
                2 => ConfChangeType::AddLearnerNode,
                _ => return None,
            }),
            0x18 if value < NUMBER_MAX => change.set_node_id(value),
            0x08 => {}
            _ => return None,
        }
        rest = tail;
    }
    (change.node_id != 0).then_some(change)
}

/// Fields of commands that may take the vote of a node which goes on getting the log.
const TAKES_A_VOTE: &[u64] = &[peek::FENCE, peek::TAKES_VOTE];

/// Whether an entry changes who votes: not when a node begins to get the log, but when one that
/// has a vote goes on without it.
pub fn changes_voters(entry: &LogEntry) -> bool {
    let change = (entry.kind != 0).then(|| decode_change(&entry.data)).flatten();
    let learns = |c: &ConfChange| c.get_change_type() == ConfChangeType::AddLearnerNode;
    change.is_some_and(|c| !learns(&c) || peek::has_any(&entry.context, TAKES_A_VOTE))
}

/// Whether an entry takes this node out of the consensus, so that it begins anew without its log.
pub fn takes_log_of(entry: &LogEntry, id: NodeId) -> bool {
    let change = (entry.kind != 0).then(|| decode_change(&entry.data)).flatten();
    let leaves = |c: &ConfChange| {
        c.node_id == id.number() && c.get_change_type() == ConfChangeType::RemoveNode
    };
    change.is_some_and(|c| leaves(&c)) && peek::has_any(&entry.context, &[peek::TAKES_VOTE])
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

pub(super) fn from_entry(entry: &Entry) -> LogEntry {
    LogEntry {
        kind: i32::from(entry.get_entry_type() != EntryType::EntryNormal),
        term: entry.term,
        index: entry.index,
        data: entry.get_data().to_vec(),
        context: entry.get_context().to_vec(),
    }
}

pub(super) fn to_entry(entry: &LogEntry) -> Entry {
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

pub(super) fn from_raft_snapshot(snapshot: &RaftSnapshot) -> Snapshot {
    let meta = snapshot.get_metadata();
    Snapshot {
        index: meta.index,
        term: meta.term,
        voters: meta.get_conf_state().get_voters().to_vec(),
        learners: meta.get_conf_state().get_learners().to_vec(),
        data: snapshot.get_data().to_vec(),
    }
}

pub(super) fn to_raft_snapshot(snapshot: &Snapshot) -> RaftSnapshot {
    let mut out = RaftSnapshot::default();
    out.set_data(snapshot.data.clone().into());
    let meta = out.mut_metadata();
    meta.set_index(snapshot.index);
    meta.set_term(snapshot.term);
    meta.mut_conf_state().set_voters(snapshot.voters.clone());
    meta.mut_conf_state().set_learners(snapshot.learners.clone());
    out
}

pub(super) const PROPOSE: i32 = 2;
pub(super) const APPEND: i32 = 3;
pub(super) const APPEND_RESPONSE: i32 = 4;
pub(super) const VOTE: i32 = 5;
pub(super) const VOTE_RESPONSE: i32 = 6;
pub(super) const SNAPSHOT: i32 = 7;
pub(super) const HEARTBEAT: i32 = 8;
pub(super) const HEARTBEAT_RESPONSE: i32 = 9;
pub(super) const TIMEOUT_NOW: i32 = 14;
pub(super) const PRE_VOTE: i32 = 17;
pub(super) const PRE_VOTE_RESPONSE: i32 = 18;

/// By place: the numbers above, and kinds that nodes do not send.
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
    message.kind == APPEND || message.kind == PROPOSE
}

/// Whether a message asks the leader to write entries.
pub fn asks_to_write(message: &RaftMessage) -> bool {
    message.kind == PROPOSE
}

/// Whether a message asks the leader to write a change of membership.
pub fn changes_members(message: &RaftMessage) -> bool {
    message.kind == PROPOSE && message.entries.iter().any(|e| e.kind != 0)
}

/// The term and the receiver of a vote that a message brings: an answer's, or the candidate's own.
pub fn gives_vote(message: &RaftMessage) -> Option<(u64, NodeId)> {
    match message.kind {
        VOTE => Some((message.term, NodeId(message.from))),
        VOTE_RESPONSE if !message.reject => Some((message.term, NodeId(message.to))),
        _ => None,
    }
}

/// Whether a message asks for a vote.
pub fn asks_for_vote(message: &RaftMessage) -> bool {
    message.kind == VOTE
}

/// Term and index of what a message says to be on its sender's disk.
pub fn acknowledges(message: &RaftMessage) -> Option<(u64, u64)> {
    let says = message.kind == APPEND_RESPONSE && !message.reject;
    says.then_some((message.term, message.index))
}

/// The state that a message brings in place of entries.
pub fn brings_state(message: &RaftMessage) -> Option<&Snapshot> {
    message.snapshot.as_ref().filter(|_| message.kind == SNAPSHOT)
}

/// Whether a message loses nothing by waiting for the next heartbeat: heartbeats and their answers.
pub fn may_wait(message: &RaftMessage) -> bool {
    message.kind == HEARTBEAT || message.kind == HEARTBEAT_RESPONSE
}

pub(super) fn from_message(m: &Message) -> RaftMessage {
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

pub(super) fn to_message(m: &RaftMessage) -> Option<Message> {
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
}
