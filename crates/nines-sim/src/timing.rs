//! Times of the simulated world that invariants know too.

/// The slowest message that is not lost, in ns.
pub const DELAY_MAX_NS: u64 = 30_000_000;
