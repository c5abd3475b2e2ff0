//! What nodes send each other: sealed datagrams, and frames over TLS.
//!
//! Decides: nothing; `datagram.rs` and `replay.rs` guard heartbeats, `peer_port.rs` says who may
//! ask what over TLS.

pub mod datagram;
pub mod peer_port;
mod replay;
