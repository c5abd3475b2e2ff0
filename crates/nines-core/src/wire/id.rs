//! Numbers and names on the wire as the types that they have inside.
//!
//! Decides: what an empty name means. Heartbeats and what is kept of incarnations have their own
//! beside their shapes.

use std::net::IpAddr;

use nines_model::{Incarnation, LogIndex, NodeId, NodeName};

use super::{Command, Frame, LogEntry, Member, RaftMessage, Snapshot, Token, pack};

impl Frame {
    /// The sender's incarnation.
    pub(crate) fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation)
    }
}

impl Token {
    /// The entry that gave this VIP, and the incarnation of the holder that let go.
    pub(crate) fn of(vip: IpAddr, index: LogIndex, incarnation: Incarnation) -> Self {
        let (index, incarnation) = (index.number(), incarnation.number());
        Self { vip: pack(vip), index, incarnation }
    }

    /// In a release: the incarnation of the holder that let go.
    pub(crate) fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation)
    }

    /// Log index of the entry that gave the VIP.
    pub(crate) fn index(&self) -> LogIndex {
        LogIndex(self.index)
    }
}

impl RaftMessage {
    /// The node that sent it.
    pub fn sender(&self) -> NodeId {
        NodeId(self.from)
    }

    /// Index of the entry before those that the message brings.
    pub(crate) fn index(&self) -> LogIndex {
        LogIndex(self.index)
    }

    /// The node that it is for.
    pub(crate) fn receiver(&self) -> NodeId {
        NodeId(self.to)
    }
}

impl Snapshot {
    /// Log index of the last entry that the state includes.
    pub(crate) fn index(&self) -> LogIndex {
        LogIndex(self.index)
    }
}

impl Command {
    /// The node that proposed it.
    pub(crate) fn node(&self) -> NodeId {
        NodeId(self.node)
    }
}

impl Member {
    /// Number in the consensus.
    pub fn id(&self) -> NodeId {
        NodeId(self.id)
    }
}

impl LogEntry {
    /// Index of the entry in the log.
    pub(crate) fn index(&self) -> LogIndex {
        LogIndex(self.index)
    }
}

/// Node numbers as they are on the wire.
pub(crate) fn numbers(ids: impl IntoIterator<Item = NodeId>) -> Vec<u64> {
    ids.into_iter().map(NodeId::number).collect()
}

/// Name of a node as it is on the wire: an empty one is nobody's.
pub(crate) fn named(name: String) -> Option<NodeName> {
    Some(name).filter(|name| !name.is_empty()).map(NodeName::from)
}
