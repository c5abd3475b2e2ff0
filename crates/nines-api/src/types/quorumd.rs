//! quorumd: the clusters that one machine votes for as a witness.

use nines_model::Coded;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::states::{NodeState, code};

/// Answer of `GET /v1/quorumd` at the socket of quorumd.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Quorumd {
    /// Version of this JSON form, now 1.
    pub schema: u32,
    /// Version of quorumd.
    pub version: String,
    /// The clusters, by folder.
    pub clusters: Vec<QuorumdCluster>,
}

/// One cluster that quorumd votes for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuorumdCluster {
    /// Name of its folder in quorumd's state directory.
    pub folder: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Name of this witness there.
    pub node: String,
    /// Addresses by which the other nodes reach it.
    pub addresses: Vec<String>,
    /// UDP and TCP port that it listens on for this cluster.
    pub port: u16,
    /// "ok", "joining", "no vote", "removed", or "not ready" if it does not run.
    #[serde(with = "code")]
    #[schema(value_type = String)]
    pub state: Coded<NodeState>,
    /// What is to be said of that; empty: nothing.
    pub text: String,
    /// What a person can do; empty: nothing.
    pub next: String,
    /// Its vote counts.
    pub votes: bool,
    /// Nodes with a vote, this one included.
    pub voters: usize,
    /// Nodes with a vote that it hears, itself included.
    pub heard: usize,
    /// Name of the node that leads; empty: none is known.
    pub leader: String,
    /// Term of the consensus.
    pub term: u64,
    /// Revision of the config in force there.
    pub revision: u64,
    /// Datagrams that were not opened, because more came than the cluster's members send.
    pub dropped: u64,
}
