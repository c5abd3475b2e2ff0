//! The shape of a command about many VIPs.
//!
//! Decides: shapes in the log, nothing else. What it means is in `crates/nines-core/src/batch.rs`.

/// What [`super::Give`], [`super::Move`] and a release say of one VIP, for many at once.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Batch {
    /// 0: given; 1: to be moved; 2: released.
    #[prost(uint32, tag = "1")]
    pub what: u32,
    /// VIPs with tokens, as [`crate::vip_set::pack_all`] packs them; tokens count in releases.
    #[prost(bytes = "vec", tag = "2")]
    pub vips: Vec<u8>,
    /// Name of the node that holds the VIPs next.
    #[prost(string, tag = "3")]
    pub to: String,
    /// Name of the holder before; empty in a release, and if nobody held them.
    #[prost(string, tag = "4")]
    pub from: String,
    /// Reason, for the event log; empty in a release.
    #[prost(string, tag = "5")]
    pub why: String,
    /// As in [`super::Give`].
    #[prost(uint64, tag = "6")]
    pub silent_ms: u64,
    /// As in a release.
    #[prost(uint64, tag = "7")]
    pub incarnation: u64,
}
