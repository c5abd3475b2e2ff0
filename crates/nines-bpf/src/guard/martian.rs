//! Sources that cannot be.
//!
//! Decides: that nobody begins a flow from an address that is no host's, from this director's own,
//! or from that of a real server behind another device than the packet came in by (as the kernel's
//! strict reverse path filter would say, for these addresses only). On the way that leads to it a
//! real server may be a client like any other.

use core::ffi::c_void;

use nines_abi::{named_bit, Packet, PLACE_REAL, PLACE_SERVER, PLACE_VIP};

use super::{addresses, silent};
use crate::{
    clock,
    fib::{Fib, FIB_NO_NEIGH, FIB_SUCCESS},
    maps::SETTINGS,
    parse::packet::halves_of,
};

/// A packet's way in.
pub struct Door {
    /// Of the hook's own kind.
    pub ctx: *mut c_void,
    /// The device that it came in by; 0: nobody can say.
    pub ifindex: u32,
    /// Whom the frame was sent to.
    pub mac: [u8; 6],
}

/// Whether a packet of no known flow comes from such an address. `door`: finds out how it came; few
/// packets need that.
#[inline(always)]
pub fn is_martian(packet: &Packet, door: impl FnOnce() -> Door) -> bool {
    let (src, dst) = (halves_of(&packet.src), halves_of(&packet.dst));
    // Nobody is his own client.
    if (src[0] ^ dst[0]) | (src[1] ^ dst[1]) == 0 || is_nobodys(&packet.src, packet.v6 != 0) {
        return true;
    }
    if !SETTINGS.get(0).is_some_and(|s| s.named & named_bit(src) != 0) {
        return false;
    }
    let place = addresses::flags_of(src[0], src[1]);
    place & (PLACE_VIP | PLACE_SERVER | PLACE_REAL) != 0
        && is_out_of_place(packet, place, &door()) != 0
}

/// The same of an address of a VIP or a real server. A function of its own: the verifier forgets on
/// return what it was.
#[inline(never)]
fn is_out_of_place(packet: &Packet, place: u32, door: &Door) -> u32 {
    // What this host sends itself has the loopback device's number.
    if door.ifindex <= 1 {
        return 0;
    }
    // A VIP that another director holds may be a client behind full NAT.
    if place & PLACE_VIP != 0 {
        return !silent(halves_of(&packet.src), clock::exact()) as u32;
    }
    came_wrong(packet, door) as u32
}

/// Whether the way back leads elsewhere. A port of a bridge, or a card of a bond, is not the device
/// that routes name; there frames are sent to that device's address.
#[inline(always)]
fn came_wrong(packet: &Packet, door: &Door) -> bool {
    let mut fib = Fib::new(packet.v6 != 0, packet.proto, packet.dst, packet.src);
    fib.ifindex = door.ifindex;
    let found = fib.look(door.ctx);
    let known = found == FIB_SUCCESS || found == FIB_NO_NEIGH;
    known && fib.ifindex != door.ifindex && (found == FIB_NO_NEIGH || fib.smac != door.mac)
}

/// Whether an address is no host's: of this network or this host (RFC 1122 section 3.2.1.3), of a
/// group, reserved, broadcast; with IPv6 what passes for IPv4 as well (RFC 4291).
#[inline(always)]
pub fn is_nobodys(addr: &[u32; 4], v6: bool) -> bool {
    if v6 {
        let group = addr[0] & 0xff00_0000u32.to_be() == 0xff00_0000u32.to_be();
        return group || addr[0] | addr[1] == 0;
    }
    let first = addr[3] as u8;
    first == 0 || first == 127 || first >= 224
}
