//! Shapes of what is said and kept about incarnations of nodes and what they promised.
//!
//! Decides: shapes on the wire and on disk, nothing else.

use nines_model::{Incarnation, NodeId};

/// A run of the agent of a node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeIncarnation {
    /// Number of the node in the consensus.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// Number of the incarnation.
    #[prost(uint64, tag = "2")]
    pub incarnation: u64,
}

impl NodeIncarnation {
    /// This incarnation of this node.
    pub(crate) fn of(node: NodeId, incarnation: Incarnation) -> Self {
        Self { node: node.number(), incarnation: incarnation.number() }
    }
}

/// What the disk knows of the newest incarnation that took part: a copy of it does not start there.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeptIncarnation {
    /// Number of the incarnation.
    #[prost(uint64, tag = "1")]
    pub incarnation: u64,
    /// The boot of the machine it ran in.
    #[prost(uint64, tag = "2")]
    pub machine_boot: u64,
    /// Number of the machine and of the file on its disk.
    #[prost(uint64, tag = "3")]
    pub place: u64,
    /// How often agents have started from this disk, this incarnation included.
    #[prost(uint64, tag = "4")]
    pub starts: u64,
}

impl KeptIncarnation {
    /// The incarnation.
    pub(crate) fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation)
    }
}

/// Until when this voter has promised more than a lease: known also after it restarted.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LongPromise {
    /// CLOCK_BOOTTIME, ns; 0: none.
    #[prost(uint64, tag = "1")]
    pub until_ns: u64,
    /// The boot of the machine whose clock that is.
    #[prost(uint64, tag = "2")]
    pub machine_boot: u64,
    /// How long it could last at most when it was given, ns.
    #[prost(uint64, tag = "40")]
    pub length_ns: u64,
}
