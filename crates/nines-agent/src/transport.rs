//! What nodes send each other: sealed datagrams, and frames over TLS.
//!
//! Decides: nothing; `kernel_filter.rs`, `source_gate.rs`, `datagram.rs` and `replay.rs` guard
//! heartbeats, in this order, `peer_port.rs` says who may ask what over TLS.

pub mod datagram;
pub mod kernel_filter;
pub mod peer_port;
mod replay;
pub mod source_gate;
