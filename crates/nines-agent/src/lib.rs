//! The daemon as a library: `nines agent` is [`run`].
//!
//! Decides: what of the agent the binary may use. That is the entry, and what the commands need
//! that work on the state directory of this machine without an agent. Everything else is private;
//! clients of a running agent use `nines-api`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod checks;
mod connection_limits;
mod convert;
mod core_thread;
mod daemon;
mod descriptors;
mod executors;
mod facts;
mod flow_sync;
mod http;
pub mod identity;
mod logger;
mod own_status;
mod queue;
pub mod real_server;
mod start;
mod stop;
pub mod storage;
mod threads;
mod transport;

pub use self::{
    checks::proof,
    convert::kernel_failure,
    daemon::{Options, run},
    executors::local_server,
    http::{no_table_holds, openapi, view::feasibility},
    transport::peer_port::{FEATURE_LEVEL, JoinRequest, join},
};
