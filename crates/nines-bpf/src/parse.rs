//! What a packet is: headers, tags, and what applications say in it.

pub mod headers;
pub mod packet;
pub mod quic;
pub mod sip;
pub mod vlan;
