//! The log on disk.
//!
//! Decides: how a state directory is first filled. `store.rs` writes the log, `own_log.rs` judges
//! at a start whether the log found there is this node's own, with the help of `floor.rs`.

use std::path::PathBuf;

use nines_api::failure::Outcome;
use nines_core::wire::Persisted;

use self::store::Store;
use crate::identity::{Credentials, StateDir};

pub mod floor;
pub mod own_log;
pub mod room;
pub mod store;
#[cfg(test)]
mod torn;

impl StateDir {
    /// The file of the log.
    pub fn log(&self) -> PathBuf {
        self.file(own_log::FILE)
    }

    /// Makes the empty log of a node that joins.
    pub fn make_log(&self) -> Outcome<()> {
        floor::forget(self);
        Store::open(&self.log()).map(drop)
    }

    /// Fills the state directory of a founding member: its log first, then its credentials, so that
    /// half a directory is no member's.
    pub fn found(&self, credentials: &Credentials, kept: &Persisted) -> Outcome<()> {
        floor::forget(self);
        Store::open(&self.log())?.found(kept)?;
        self.keep(credentials)
    }
}
