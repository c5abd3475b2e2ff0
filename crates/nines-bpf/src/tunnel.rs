//! Packets in another header: to real servers that are not on this link, and there out of it.

pub mod decap;
pub mod encap;
pub mod ipip;
