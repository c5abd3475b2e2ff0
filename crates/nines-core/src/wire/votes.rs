//! Shapes of what is said about votes that are taken from members, and about members that begin
//! anew.
//!
//! Decides: shapes on the wire, nothing else.

use nines_model::{LogIndex, NodeId};

/// A member loses its vote, or gets the log again.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VoteChange {
    /// Number of the member.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// It has lost its log and begins anew: nothing that it acknowledged before counts any more.
    #[prost(bool, tag = "2")]
    pub anew: bool,
    /// Why, in words.
    #[prost(string, tag = "3")]
    pub why: String,
}

impl VoteChange {
    /// The member that it is about.
    pub(crate) fn member(&self) -> NodeId {
        NodeId(self.node)
    }
}

/// What a heartbeat says of members that begin anew.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Anew {
    /// The sender has lost its log and waits to be told to begin anew.
    #[prost(bool, tag = "1")]
    pub lost: bool,
    /// The sender began anew by the entry at this log index; 0: it never did.
    #[prost(uint64, tag = "2")]
    pub begun: u64,
    /// Members that are to begin anew.
    #[prost(message, repeated, tag = "3")]
    pub orders: Vec<AnewOrder>,
}

/// One member that is to begin anew.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AnewOrder {
    /// Number of the member.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// Log index of the entry that took its vote.
    #[prost(uint64, tag = "2")]
    pub index: u64,
}

/// By what a node began anew: it is kept as long as the log.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Begun {
    /// Log index of the entry that took its vote; 0: it never began anew.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// In terms up to this one it may have voted before.
    #[prost(uint64, tag = "2")]
    pub term: u64,
}

impl Begun {
    /// Log index of the entry that took the node's vote.
    pub fn index(&self) -> LogIndex {
        LogIndex(self.index)
    }
}
