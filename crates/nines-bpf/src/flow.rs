//! Flows: what a director remembers of connections, and what it concludes from their packets.

pub mod entry;
pub mod fragments;
pub mod insert;
pub mod state;
pub mod table;
pub mod tcp_sequence;
