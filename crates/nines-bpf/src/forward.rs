//! How packets leave: by which program, over which device, with which headers and checksums.

pub mod checksum;
pub mod deliver;
pub mod icmp_error;
pub mod rewrite;
pub mod sctp_checksum;
pub mod tc;
pub mod xdp;
