//! Packets on their way through the programs.

use crate::Via;

/// Value of per-CPU map `PACKETS`: where things are in a packet and what they say. Entry 0 is of
/// the packet that comes in, 1 of the one that leaves. Addresses as four words as on the wire; IPv4
/// is mapped as in [`crate::Addr`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Kinds are the kernel program's own.
    pub kind: u8,
    /// Whether the packet is IPv6: 1, or 0 for IPv4.
    pub v6: u8,
    /// IP protocol; of an ICMP error, of the packet it is about.
    pub proto: u8,
    /// TCP flags byte, of SCTP what its first chunk amounts to; of neighbour discovery the ICMPv6
    /// type; 0 for others.
    pub flags: u8,
    /// Network byte order.
    pub sport: u16,
    /// Network byte order.
    pub dport: u16,
    /// Source address; of an ICMP error, the destination of the packet it is about.
    pub src: [u32; 4],
    /// Destination address; of an ICMP error, the source of the packet it is about.
    pub dst: [u32; 4],
    /// Offset of the transport header; of an ICMP error, of the ICMP header.
    pub l4: u32,
    /// Bytes from the IP header on, as that header says.
    pub bytes: u32,
    /// TTL or hop limit.
    pub ttl: u32,
    /// In an ICMP error: offset of the transport header in it; else 0. The IP header in it is at
    /// `l4 + 8`.
    pub inner_l4: u32,
    /// Who sent the ICMP error.
    pub from: [u32; 4],
    /// The IPv4 flag of that name, host byte order.
    pub dont_fragment: u32,
    /// Slot of the server that was chosen for it; with a packet too big for it, the limit.
    pub chosen: u32,
    /// Id of its service, when no flow of it is known.
    pub service: u32,
    /// When it was looked at, in the units of [`crate::seen_of`].
    pub clock: u32,
    /// Source MAC and two zero bytes, as this machine reads them.
    pub mac: u64,
    /// [`crate::place_hash`] of its flow.
    pub hash: u64,
    /// Of an answer: what the client calls the other end. With full NAT: of the flow, see [`Via`].
    pub via: Via,
    /// With full NAT: 1 from the server, 0 to it.
    pub answer: u32,
    /// The low half of its entry's word, if that has [`crate::WORD_PROXY`]; else 0.
    pub proxied: u32,
    /// The clock as this processor last read it.
    pub read: Clock,
    /// 0: a whole packet; [`FRAGMENT_FIRST`], [`FRAGMENT_LATER`].
    pub fragment: u32,
    /// What its fragments have in common.
    pub id: u32,
    /// Of no known flow: 0, then [`ASKED`] or [`NAMED`].
    pub asked: u64,
    /// And to a service with [`crate::SERVICE_SIP`]: see [`crate::TemplateKey::call`].
    pub call: u64,
    /// The table that its server is chosen from: [`crate::Service::table`].
    pub table: u64,
    /// By full NAT: the search for its port.
    pub search: Search,
    /// Sequence and acknowledgement numbers as on the wire, if `flags` is not 0; of SCTP the tag
    /// (RFC 9260) and the checksum.
    pub numbers: [u32; 2],
    /// Of no known flow: 1 if it does not begin one, else 0.
    pub middle: u32,
    /// Of a fragment: which bytes it has of what follows the headers that all have ([`piece`]).
    pub piece: u32,
}

/// Ports tried so far.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// The best of them: how little the flow is worth that has it, 16 bits up, and the port.
    pub best: u64,
    /// The next one follows from this.
    pub draw: u32,
    /// How many more.
    pub left: u32,
}

/// [`Packet::asked`]: its client may begin the flow.
pub const ASKED: u64 = 1;
/// And it names its server.
pub const NAMED: u64 = 2;

/// A reading of the clock.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Timer ticks then.
    pub ticks: u64,
    /// Time of the reading: CLOCK_BOOTTIME in ns.
    pub now: u64,
    /// Packets that it is good for.
    pub left: u64,
}

/// [`Packet::fragment`]: the one with the ports.
pub const FRAGMENT_FIRST: u32 = 1;
/// [`Packet::fragment`]: a fragment without ports.
pub const FRAGMENT_LATER: u32 = 2;

/// Key of map `FRAGMENTS` (least recently used ones go): a packet whose first fragment was seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentKey {
    /// Source address, as in [`Packet::src`].
    pub src: [u32; 4],
    /// Destination address, as in [`Packet::dst`].
    pub dst: [u32; 4],
    /// Identification (RFC 791, RFC 8200 section 4.5), as in the packet.
    pub id: u32,
    /// IP protocol number of the packet.
    pub proto: u32,
}

/// Where the first fragment went.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Slot of its server.
    pub server: u32,
    /// [`crate::Server::generation`] of the server when the first fragment went there.
    pub generation: u32,
    /// When, in the units of [`crate::seen_of`].
    pub clock: u32,
    /// 1: an answer, from the server to the client.
    pub reply: u32,
    /// Source of full NAT, as in [`Packet::via`].
    pub via: Via,
    /// Which bytes went there, as [`piece`]s that do not touch; 0: none.
    pub pieces: [u32; PIECES],
}

/// How many parts of a packet may lie apart while others are missing.
pub const PIECES: usize = 4;

/// Bytes of a packet, from the first one to the one behind the last.
#[must_use]
#[inline(always)]
pub const fn piece(from: u32, to: u32) -> u32 {
    from << 16 | if to > 0xffff { 0xffff } else { to }
}

/// Packets in fragments that are remembered.
pub const FRAGMENTS_MAX: u32 = 1 << 12;
/// How long (`ipfrag_time`), in the units of [`crate::seen_of`]: 30 s.
pub const FRAGMENT_UNITS: u32 = 1_788;

/// Value of per-CPU map `NEXT_HOPS`, indexed by slot: the way to a server as XDP last found it.
/// Looking it up costs as much as all the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Hop {
    /// Destination MAC, source MAC.
    pub macs: [u16; 6],
    /// Interface it leaves by.
    pub ifindex: u32,
    /// Interface the packet came in by.
    pub came_in: u32,
    /// [`crate::Server::generation`] it is for.
    pub generation: u32,
    /// Good for [`HOP_UNITS`] after this time, in the units of [`crate::seen_of`].
    pub found: u32,
    /// 1: there is one.
    pub known: u32,
}

/// Devices that map `XDP_OUT` has room for.
pub const XDP_OUT_MAX: u32 = 64;

/// How long XDP goes by what it found, in the units of [`crate::seen_of`]: 0.1 s.
pub const HOP_UNITS: u32 = 6;
