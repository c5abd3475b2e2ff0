//! What happens to a packet, as one value.
//!
//! Decides: which outcomes there are. The entry programs carry them out, each hook in its own way.

use nines_abi::{Packet, Server, Via, ASKED, NAMED};

/// What happens to a packet.
pub enum Verdict {
    /// Not ours, or for this machine: up the stack.
    Pass,
    /// `DROP_*` says why.
    Drop(u32),
    /// To the server in this slot, addresses kept.
    Direct(u32, &'static Server),
    /// To the server in this slot, in another header.
    Tunnel(u32, &'static Server),
    /// To this host, by the device that the server names.
    Home(u32, &'static Server),
    /// To the server, destination rewritten.
    Nat(u32, &'static Server),
    /// From the server to the client, source rewritten to what the client knows.
    Reply(&'static Server, Via),
    /// Of no flow that is known: see [`crate::pipeline::new_flow`].
    New,
    /// Another program says the rest: `PROGRAM_*`.
    Go(u32),
    /// An ICMP error: see [`crate::pipeline::error`].
    Error,
    /// A fragment without ports: see [`crate::pipeline::fragment`].
    Fragment,
}

/// Whoever was chosen left, or is drained, since then: somebody else. The kernel lets so many
/// programs follow one another and no more.
#[inline(always)]
pub fn again(packet: &mut Packet) -> Verdict {
    if packet.asked == NAMED {
        packet.asked = ASKED;
    }
    Verdict::New
}
