//! The agent's API as its clients see it: JSON types, the client, failures and exit codes.
//!
//! Decides: what a client may know of the agent. The command line, the terminal view and the demo
//! use this crate and nothing else of the agent; it knows neither the node nor the kernel.

pub mod client;
pub mod failure;
pub mod placement;
pub mod remote;
pub mod states;
pub mod text;
pub mod types;
pub mod verifier;
