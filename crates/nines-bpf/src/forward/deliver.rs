//! Delivers a packet to the server that is chosen for it.
//!
//! Decides: what the server's forwarding method makes of it, and what is counted.

use nines_abi::{
    Packet, Server, DROP_NO_ROUTE, FORWARD_DR, FORWARD_FULL_NAT, FORWARD_LOCAL, FORWARD_NAT,
    PROGRAM_FULL_NAT, PROGRAM_PROXY,
};

use crate::{
    flow::fragments,
    maps::count,
    parse::packet::{TCP, TRANSPORT},
    service::server::server,
    verdict::Verdict,
};

/// A packet for which a server is chosen.
#[inline(always)]
pub fn deliver_to(packet: &Packet, slot: u32, counts: bool) -> Verdict {
    match server(slot) {
        Some(server) => deliver(packet, slot, server, counts),
        None => Verdict::Pass,
    }
}

#[inline(always)]
pub fn deliver(packet: &Packet, slot: u32, server: &'static Server, counts: bool) -> Verdict {
    if server.forward == FORWARD_LOCAL && server.ifindex != 0 {
        return Verdict::Home(slot, server);
    }
    if counts {
        arrived(packet, slot, server);
    }
    if server.forward == FORWARD_LOCAL {
        return Verdict::Pass;
    }
    if server.ifindex == 0 {
        return Verdict::Drop(DROP_NO_ROUTE);
    }
    match server.forward {
        FORWARD_DR => Verdict::Direct(slot, server),
        FORWARD_NAT => Verdict::Nat(slot, server),
        FORWARD_FULL_NAT => Verdict::Go(changer(packet)),
        _ => Verdict::Tunnel(slot, server),
    }
}

/// A packet goes to this server, and its fragments after it.
#[inline(always)]
pub fn arrived(packet: &Packet, slot: u32, server: &Server) {
    count(slot, server.service, packet.bytes, false);
    fragments::note(packet, slot, server, None);
}

/// Who changes the packet.
#[inline(always)]
pub fn changer(packet: &Packet) -> u32 {
    if packet.proxied != 0 && concerns(packet) {
        PROGRAM_PROXY
    } else {
        PROGRAM_FULL_NAT
    }
}

/// Whether numbers differ at all in this packet of a flow with a PROXY protocol header.
#[inline(always)]
fn concerns(packet: &Packet) -> bool {
    packet.kind == TRANSPORT && packet.proto == TCP
}
