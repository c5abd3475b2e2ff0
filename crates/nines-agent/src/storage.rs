//! The log on disk.
//!
//! Decides: how a state directory is first filled. `store.rs` writes the log, `own_log.rs` judges
//! at a start whether the log found there is this node's own.

use nines_api::failure::Outcome;
use nines_core::wire::Persisted;

use self::store::Store;
use crate::identity::{Credentials, StateDir};

pub mod own_log;
pub mod store;

/// Fills the state directory of a founding member: its log first, then its credentials, so that
/// half a directory is no member's.
pub fn found(home: &StateDir, credentials: &Credentials, kept: &Persisted) -> Outcome<()> {
    Store::open(&home.file(own_log::FILE))?.found(kept)?;
    home.keep(credentials)
}
