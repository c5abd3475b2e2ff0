//! What nodes tell about themselves.
//!
//! Decides: nothing; it is data.

use nines_model::LogIndex;

/// What a node knows about itself.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Facts {
    /// Name of this node.
    #[prost(string, tag = "1")]
    pub node: String,
    /// Version of the binary.
    #[prost(string, tag = "2")]
    pub version: String,
    /// "10.0.0.2/24" for each address of each Ethernet interface.
    #[prost(string, repeated, tag = "3")]
    pub subnets: Vec<String>,
    /// MAC addresses of Ethernet interfaces.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub macs: Vec<Vec<u8>>,
    /// The packet path, in words.
    #[prost(string, tag = "5")]
    pub path: String,
    /// What keeps it from forwarding as it was asked; empty: nothing.
    #[prost(string, tag = "6")]
    pub trouble: String,
    /// What a person can do about that.
    #[prost(string, tag = "7")]
    pub next: String,
    /// Its kernel neither has IPVS nor a module of it.
    #[prost(bool, tag = "8")]
    pub no_ipvs: bool,
    /// It runs no programs, so it can ask no fence device.
    #[prost(bool, tag = "9")]
    pub no_programs: bool,
    /// VIPs that it could not serve now.
    #[prost(message, repeated, tag = "70")]
    pub unfit: Vec<Unfit>,
    /// Names of its interfaces; empty: not known.
    #[prost(string, repeated, tag = "90")]
    pub interfaces: Vec<String>,
    /// Highest feature level that its build reads.
    #[prost(uint32, tag = "91")]
    pub feature_level: u32,
}

/// The cluster's feature level rises: every member can read this one.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FeatureLevel {
    /// The level in force from here on.
    #[prost(uint32, tag = "1")]
    pub level: u32,
    /// Log index of the newest membership change that the leader knew: whoever has joined since
    /// was not asked.
    #[prost(uint64, tag = "2")]
    pub membership: u64,
}

impl FeatureLevel {
    /// Log index of the newest membership change that the leader knew.
    pub(crate) fn membership(&self) -> LogIndex {
        LogIndex(self.membership)
    }
}

/// VIPs that a node cannot serve for the same reason.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Unfit {
    /// "eth1 has no carrier".
    #[prost(string, tag = "1")]
    pub why: String,
    /// The VIPs, 16 bytes each as [`super::pack`] makes them.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub vips: Vec<Vec<u8>>,
}
