//! A real server as its entry in map `SERVERS` describes it.
//!
//! Decides: nothing; it says what the entry means for a packet.

use core::mem::offset_of;

use nines_abi::{Server, Via, FORWARD_FULL_NAT};

use crate::{maps::SERVERS, parse::packet::words};

#[inline(always)]
pub fn server(slot: u32) -> Option<&'static Server> {
    SERVERS.get(slot)
}

#[inline(always)]
pub fn is_full_nat(server: &Server) -> bool {
    server.forward == FORWARD_FULL_NAT
}

/// Under which generation a server has its slot, and of which service it is: one load, as user
/// space writes them, or a flow could begin under the generation that says that the server left.
#[inline(always)]
pub fn owner(server: &Server) -> (u32, u32) {
    const _: () = assert!(offset_of!(Server, generation) == 0 && offset_of!(Server, service) == 4);
    // SAFETY: a `Server` begins with these two words of four bytes, and entries of map `SERVERS`
    // are aligned to eight.
    let word = unsafe { core::ptr::from_ref(server).cast::<u64>().read_volatile() };
    (word as u32, (word >> 32) as u32)
}

/// What the client calls the other end of a translated flow.
#[inline(always)]
pub fn known_as(server: &Server, via: &Via) -> ([u32; 4], u16) {
    let vip = words(&server.vip);
    let port = if server.vip_port != 0 { server.vip_port } else { via.port };
    if vip == [0; 4] {
        // Services of many addresses translate IPv4 only.
        return ([0, 0, 0xffffu32.to_be(), via.addr], port);
    }
    (vip, port)
}

/// Port that the server gets.
#[inline(always)]
pub fn port_of(server: &Server, asked: u16) -> u16 {
    if server.port != 0 {
        server.port
    } else {
        asked
    }
}
