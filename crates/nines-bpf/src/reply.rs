//! What the director itself says to clients.

pub mod cookie;
pub mod icmp;
