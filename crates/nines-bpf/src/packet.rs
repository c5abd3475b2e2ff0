//! Reads Ethernet, ARP, IPv4, IPv6, ICMPv6 neighbour discovery, TCP and UDP headers.
//!
//! Decides: what a packet is. Does not decide: what happens to it.
//! Loads are plain, not `read_unaligned`: for this target the compiler would turn those into one
//! load a byte, and the verifier admits unaligned packet loads where the CPU does.

use core::mem::size_of;

/// ARP, request or reply: `src` is the sender's address, `dst` the target's.
pub const ARP: u8 = 0;
/// Neighbour solicitation or advertisement: `dst` is the target address.
pub const NEIGHBOUR: u8 = 1;
/// TCP or UDP with ports.
pub const TRANSPORT: u8 = 2;
/// Any other IP packet, and every fragment.
pub const OTHER: u8 = 3;

/// Neighbour solicitation, RFC 4861 section 4.3.
pub const ND_SOLICIT: u8 = 135;
/// Neighbour advertisement, RFC 4861 section 4.4.
pub const ND_ADVERT: u8 = 136;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const ICMPV6: u8 = 58;

const ETH_LEN: usize = 14;
const ETH_ARP: u16 = 0x0806u16.to_be();
const ETH_V4: u16 = 0x0800u16.to_be();
const ETH_V6: u16 = 0x86ddu16.to_be();

/// Where things are in the packet and what they say. Addresses as four words as on the wire; IPv4
/// is mapped as in `nines_abi::Addr`.
#[derive(Clone, Copy)]
pub struct Packet {
    pub kind: u8,
    /// 1: IPv6.
    pub v6: u8,
    pub proto: u8,
    /// TCP flags byte; 0 for others. For [`NEIGHBOUR`] the ICMPv6 type.
    pub flags: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    pub src: [u32; 4],
    pub dst: [u32; 4],
    pub sport: u16,
    pub dport: u16,
    /// Offset of the transport header.
    pub l4: u32,
    /// Bytes from the IP header on, as that header says.
    pub bytes: u32,
    /// Source MAC and two zero bytes.
    pub mac: [u8; 8],
}

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

#[inline(always)]
fn at<T: Copy>(data: usize, end: usize, offset: usize) -> Option<T> {
    if data + offset + size_of::<T>() > end {
        return None;
    }
    Some(unsafe { *((data + offset) as *const T) })
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arp {
    hardware: u16,
    protocol: u16,
    lengths: u16,
    operation: u16,
    sender_mac: [u8; 6],
    sender: [u16; 2],
    target_mac: [u8; 6],
    target: [u16; 2],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct V4 {
    version_ihl: u8,
    tos: u8,
    len: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    proto: u8,
    checksum: u16,
    src: u32,
    dst: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct V6 {
    flow: u32,
    len: u16,
    next: u8,
    hops: u8,
    src: [u32; 4],
    dst: [u32; 4],
}

#[inline(always)]
fn mapped(v4: u32) -> [u32; 4] {
    [0, 0, 0xffffu32.to_be(), v4]
}

/// `None` for anything that is neither ARP nor IP on plain Ethernet, and for cut-off headers.
#[inline(always)]
pub fn parse(data: usize, end: usize) -> Option<Packet> {
    let ether: u16 = at(data, end, 12)?;
    let low: [u16; 3] = at(data, end, 6)?;
    let mut packet = Packet {
        kind: OTHER,
        v6: 0,
        proto: 0,
        flags: 0,
        ttl: 0,
        src: [0; 4],
        dst: [0; 4],
        sport: 0,
        dport: 0,
        l4: 0,
        bytes: 0,
        mac: unsafe { core::mem::transmute::<[u16; 4], [u8; 8]>([low[0], low[1], low[2], 0]) },
    };
    match ether {
        ETH_V4 => v4(data, end, &mut packet)?,
        ETH_V6 => v6(data, end, &mut packet)?,
        ETH_ARP => {
            let arp: Arp = at(data, end, ETH_LEN)?;
            packet.kind = ARP;
            packet.src = mapped(word(arp.sender));
            packet.dst = mapped(word(arp.target));
        }
        _ => return None,
    }
    veil(&mut packet, u64::from(low[0]));
    Some(packet)
}

/// Makes the verifier forget what it knows of the headers: else it walks everything that follows
/// once for IPv4 and once for IPv6, for TCP and for UDP. `unknown` is any value it cannot know; that
/// its difference with itself is zero it does not see.
#[inline(always)]
fn veil(packet: &mut Packet, unknown: u64) {
    let mut zero = unknown;
    unsafe {
        core::arch::asm!("{z} ^= {u}", z = inout(reg) zero, u = in(reg) unknown);
    }
    packet.kind ^= zero as u8;
    packet.v6 ^= zero as u8;
    packet.proto ^= zero as u8;
    packet.flags ^= zero as u8;
    for word in 0..3 {
        packet.src[word] ^= zero as u32;
        packet.dst[word] ^= zero as u32;
    }
}

#[inline(always)]
fn word(halves: [u16; 2]) -> u32 {
    u32::from(halves[0]) | u32::from(halves[1]) << 16
}

#[inline(always)]
fn v4(data: usize, end: usize, packet: &mut Packet) -> Option<()> {
    let ip: V4 = at(data, end, ETH_LEN)?;
    packet.src = mapped(ip.src);
    packet.dst = mapped(ip.dst);
    packet.proto = ip.proto;
    packet.ttl = ip.ttl;
    packet.bytes = u32::from(u16::from_be(ip.len));
    let header = usize::from(ip.version_ihl & 15) * 4;
    // More fragments, or an offset: ports are unknown or will be.
    if header < 20 || ip.fragment & 0x3fffu16.to_be() != 0 {
        return Some(());
    }
    transport(data, end, ETH_LEN + header, packet)
}

#[inline(always)]
fn v6(data: usize, end: usize, packet: &mut Packet) -> Option<()> {
    let ip: V6 = at(data, end, ETH_LEN)?;
    packet.v6 = 1;
    packet.src = ip.src;
    packet.dst = ip.dst;
    packet.ttl = ip.hops;
    packet.bytes = u32::from(u16::from_be(ip.len)) + 40;
    let mut next = ip.next;
    let mut offset = ETH_LEN + 40;
    // Hop-by-hop, routing and destination options (RFC 8200 section 4.1), three at most.
    for _ in 0..3 {
        if next != 0 && next != 43 && next != 60 {
            break;
        }
        let head: [u8; 2] = at(data, end, offset)?;
        next = head[0];
        offset += (usize::from(head[1]) + 1) * 8;
    }
    packet.proto = next;
    if next == ICMPV6 {
        // Two bytes: of one byte at a variable offset the verifier keeps no range.
        let [kind, _code]: [u8; 2] = at(data, end, offset)?;
        if kind == ND_SOLICIT || kind == ND_ADVERT {
            packet.kind = NEIGHBOUR;
            packet.flags = kind;
            packet.dst = at(data, end, offset + 8)?;
        }
        return Some(());
    }
    transport(data, end, offset, packet)
}

#[inline(always)]
fn transport(data: usize, end: usize, offset: usize, packet: &mut Packet) -> Option<()> {
    if packet.proto != TCP && packet.proto != UDP {
        return Some(());
    }
    let ports: [u16; 2] = at(data, end, offset)?;
    if packet.proto == TCP {
        packet.flags = at(data, end, offset + 13)?;
    }
    packet.kind = TRANSPORT;
    packet.sport = ports[0];
    packet.dport = ports[1];
    packet.l4 = offset as u32;
    Some(())
}
