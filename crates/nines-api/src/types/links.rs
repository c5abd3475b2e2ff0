//! How well the links between two nodes work.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One link to a node, as the answering node sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LinkStatus {
    /// The link, by the place of its address in the config: 1, 2, ...
    pub link: usize,
    /// Heartbeats come over it now, and it is not quarantined.
    pub up: bool,
    /// Round trip of a heartbeat over it, microseconds; 0: unknown.
    pub rtt_us: u64,
    /// Share of the last 100 heartbeats that it did not bring, in percent.
    pub loss_percent: f64,
    /// The same over the last minute; none: it was not watched for so long.
    #[serde(default)]
    pub minute_loss_percent: Option<f64>,
    /// How long it is still kept out of use because it came and went again and again, seconds; 0:
    /// it is not.
    #[serde(default)]
    pub quarantine_s: u64,
    /// Why it does not carry what it should, though heartbeats pass; empty: it does.
    #[serde(default)]
    pub trouble: String,
    /// The next step against that.
    #[serde(default)]
    pub next: String,
}
