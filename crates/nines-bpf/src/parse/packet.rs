//! A packet that was read: its kinds, its flags, and what follows from them.
//!
//! Decides: which packets begin a flow, which claim an address, and which flow a packet is of. How
//! headers are read is in `headers.rs`.
//!
//! What was read lies in a map and not on the stack: the programs that go on find it there, and the
//! verifier forgets it, else it would walk everything once for IPv4 and once for IPv6, for TCP and
//! for UDP.

use core::mem::offset_of;

use nines_abi::{Addr, Flow, Packet};

use crate::maps::{own, PACKETS};

/// ARP, request or reply: `src` is the sender's address, `dst` the target's.
pub const ARP: u8 = 0;
/// Neighbour solicitation or advertisement: `dst` is the target address.
pub const NEIGHBOUR: u8 = 1;
/// TCP, UDP or SCTP with ports.
pub const TRANSPORT: u8 = 2;
/// Any other IP packet.
pub const OTHER: u8 = 3;
/// An ICMP error about a packet that this packet's receiver sent. `src`, `sport` are what that
/// packet was sent to, `dport` and `proto` what it was sent from and by: as of an answer to it.
pub const ERROR: u8 = 4;

/// A fragment without ports, of a protocol that has some.
pub const FRAGMENT: u8 = 5;

/// Its sender prescribed the way.
pub const ROUTED: u8 = 6;
/// IPv6 with an address that can be nobody's.
pub const MARTIAN: u8 = 7;
/// A first fragment too short for its transport header.
pub const TORN: u8 = 8;

/// Neighbour solicitation, RFC 4861 section 4.3.
pub const ND_SOLICIT: u8 = 135;
/// Neighbour advertisement, RFC 4861 section 4.4.
pub const ND_ADVERT: u8 = 136;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

pub const ETH_LEN: usize = 14;

/// What a packet gets in place of its addresses and ports.
pub struct Ends {
    pub src: [u32; 4],
    pub dst: [u32; 4],
    pub sport: u16,
    pub dport: u16,
}

/// What [`super::headers::parse`] read, for the program that goes on.
#[inline(always)]
pub fn parsed() -> Option<&'static mut Packet> {
    own(&PACKETS, 0)
}

/// An address of a packet as two words. Its place is aligned to eight bytes, which the compiler
/// does not see by itself.
#[inline(always)]
pub fn halves_of(addr: &[u32; 4]) -> [u64; 2] {
    // SAFETY: all callers' addresses are fields of a `Packet`, which has them at multiples of eight
    // bytes (asserted below) and is itself aligned to eight.
    unsafe { *addr.as_ptr().cast::<[u64; 2]>() }
}
const _: () = assert!(offset_of!(Packet, src) % 8 == 0 && offset_of!(Packet, dst) % 8 == 0);

#[inline(always)]
pub fn bytes(words: [u32; 4]) -> Addr {
    // SAFETY: 16 bytes either way, for which any bits do.
    unsafe { core::mem::transmute::<[u32; 4], Addr>(words) }
}

#[inline(always)]
pub fn words(addr: &Addr) -> [u32; 4] {
    // SAFETY: as in `bytes`; by value, so the bytes' alignment does not matter.
    unsafe { core::mem::transmute::<Addr, [u32; 4]>(*addr) }
}

#[inline(always)]
pub fn key(packet: &Packet) -> Flow {
    let ([a, b], [c, d]) = (halves_of(&packet.src), halves_of(&packet.dst));
    let ports = u64::from(packet.sport) | u64::from(packet.dport) << 16;
    // The fields in their order.
    let words = [a, b, c, d, ports | u64::from(packet.proto) << 32];
    // SAFETY: a `Flow` is 40 bytes of integers without padding; `nines-abi` asserts its size.
    unsafe { core::mem::transmute::<[u64; 5], Flow>(words) }
}

#[inline(always)]
pub fn is_advert(packet: &Packet) -> bool {
    packet.kind == NEIGHBOUR && packet.flags == ND_ADVERT
}

/// Whether XDP may answer for this packet at all.
#[inline(always)]
pub fn xdp_takes(packet: &Packet) -> bool {
    let whole = packet.kind == TRANSPORT && packet.fragment == 0;
    whole || packet.kind == ARP || packet.kind == NEIGHBOUR
}

/// Whether a packet of no known flow begins one; else it comes in the middle of one that this
/// director does not know.
#[inline(always)]
pub fn begins(packet: &Packet) -> bool {
    opens(packet) || packet.proto == UDP
}

#[inline(always)]
pub fn opens(packet: &Packet) -> bool {
    packet.kind == TRANSPORT && packet.proto != UDP && packet.flags & (SYN | ACK | RST) == SYN
}
