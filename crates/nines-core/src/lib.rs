//! Ring 1: a nines node as one sans-IO machine.
//!
//! Decides: everything a node decides (who is alive, who leads, who may answer for a VIP, which
//! servers get flows). Does no I/O: time and randomness are arguments, the world is two closed
//! enums. Read [`event`] and [`action`] first, then [`node`].
//!
//! The caller loops: `handle(now, event)`, carry out `take_actions()` in order, sleep until
//! `next_deadline()`.

pub mod action;
pub mod batch;
pub mod edit;
pub mod event;
pub mod event_log;
pub mod feature_level;
pub mod forwarding;
pub mod health;
pub mod incarnations;
pub mod lease;
pub mod membership;
pub mod node;
pub mod peek;
pub mod quorum_disk;
pub mod snapshot;
pub mod spec_edit;
pub mod state;
pub mod vip;
pub mod vip_set;
pub mod voter;
pub mod watchdog;
pub mod wire;

pub use action::Action;
pub use event::{DiskFault, Event};
pub use node::{Config, Node, Quarantine};
