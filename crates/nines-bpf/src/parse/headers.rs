//! Reads Ethernet, ARP, IPv4, IPv6, ICMP errors, ICMPv6 neighbour discovery, TCP, UDP and SCTP
//! headers.
//!
//! Decides: what a packet is. Does not decide: what happens to it.

use aya_ebpf::programs::TcContext;
use nines_abi::{piece, Packet, FRAGMENT_FIRST, FRAGMENT_LATER};

use super::packet::{
    halves_of, ACK, ARP, ERROR, ETH_LEN, FIN, FRAGMENT, ICMP, ICMPV6, MARTIAN, ND_ADVERT,
    ND_SOLICIT, NEIGHBOUR, OTHER, ROUTED, RST, SCTP, SYN, TCP, TORN, TRANSPORT, UDP,
};
use crate::{
    atomic::opaque,
    frame::Frame,
    maps::{own, PACKETS},
};

/// Ethernet, the longest IPv4 header or IPv6 with one extension, a TCP header.
const HEADERS: u32 = 14 + 60 + 20;

/// Parses an skb whose headers may lie outside its linear part.
#[inline(always)]
pub fn parse_skb(ctx: &TcContext) -> Option<&'static mut Packet> {
    let frame = Frame::of_skb(ctx);
    if let Some(packet) = parse(frame) {
        return Some(packet);
    }
    if frame.has(HEADERS as usize) {
        return None;
    }
    let want = if ctx.len() < HEADERS { ctx.len() } else { HEADERS };
    ctx.skb.pull_data(want).ok()?;
    parse(Frame::of_skb(ctx))
}

const ETH_ARP: u16 = 0x0806u16.to_be();
const ETH_V4: u16 = 0x0800u16.to_be();
const ETH_V6: u16 = 0x86ddu16.to_be();

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

/// The beginning of TCP's header, and of SCTP's with that of its first chunk.
#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    ports: [u16; 2],
    numbers: [u32; 2],
    /// Of SCTP a chunk's type and flags; TCP's own flags are the second.
    bytes: [u8; 2],
}

/// The other way round.
#[inline(always)]
fn put_mapped(at: &mut [u32; 4], v4: u32) {
    let halves = [0, u64::from(0xffffu32.to_be()) | u64::from(v4) << 32];
    // SAFETY: `at` is an address in a `Packet`, and so aligned to eight bytes: see `halves_of`.
    unsafe { *at.as_mut_ptr().cast::<[u64; 2]>() = halves };
}

#[inline(always)]
fn mapped(v4: u32) -> [u32; 4] {
    [0, 0, 0xffffu32.to_be(), v4]
}

/// Reads a packet into this processor's [`Packet`]; `None` for anything that is neither ARP nor IP
/// on plain Ethernet, and for cut-off headers.
#[inline(always)]
pub fn parse(frame: Frame) -> Option<&'static mut Packet> {
    read(frame, own(&PACKETS, 0)?)
}

/// The same for a packet that leaves: it may do so while another one is being decided. Behind a tag
/// ([`super::vlan`]) its MAC address is not read right; nobody asks for it there.
#[inline(always)]
pub fn parse_leaving(frame: Frame) -> Option<&'static mut Packet> {
    read(frame, own(&PACKETS, 1)?)
}

#[inline(always)]
fn read(frame: Frame, packet: &'static mut Packet) -> Option<&'static mut Packet> {
    let ether: u16 = frame.read(12)?;
    let low: [u16; 3] = frame.read(6)?;
    packet.kind = OTHER;
    packet.v6 = 0;
    packet.flags = 0;
    packet.inner_l4 = 0;
    packet.dont_fragment = 0;
    packet.fragment = 0;
    packet.mac = u64::from(low[0]) | u64::from(low[1]) << 16 | u64::from(low[2]) << 32;
    match ether {
        ETH_V4 => v4(frame, packet)?,
        ETH_V6 => v6(frame, packet)?,
        ETH_ARP => {
            let arp: Arp = frame.read(ETH_LEN)?;
            packet.kind = ARP;
            packet.src = mapped(word(arp.sender));
            packet.dst = mapped(word(arp.target));
        }
        _ => return None,
    }
    Some(packet)
}

#[inline(always)]
fn word(halves: [u16; 2]) -> u32 {
    u32::from(halves[0]) | u32::from(halves[1]) << 16
}

#[inline(always)]
fn v4(frame: Frame, packet: &mut Packet) -> Option<()> {
    let ip: V4 = frame.read(ETH_LEN)?;
    put_mapped(&mut packet.src, ip.src);
    put_mapped(&mut packet.dst, ip.dst);
    packet.proto = ip.proto;
    packet.ttl = u32::from(ip.ttl);
    packet.bytes = u32::from(u16::from_be(ip.len));
    packet.dont_fragment = u32::from(u16::from_be(ip.fragment)) & 0x4000;
    let header = usize::from(ip.version_ihl & 15) * 4;
    // Another version, a header too short: the stack says so.
    if ip.version_ihl.wrapping_sub(0x45) > 10 {
        return Some(());
    }
    if header > 20 {
        if !frame.has(ETH_LEN + header) {
            return None;
        }
        if prescribes(frame, ETH_LEN + header) != 0 {
            packet.kind = ROUTED;
            return Some(());
        }
    }
    // More fragments, or an offset.
    if ip.fragment & 0x3fffu16.to_be() != 0 {
        packet.id = u32::from(ip.id);
        if fragment(packet, u32::from(u16::from_be(ip.fragment) & 0x1fff) * 8, header as u32) {
            return Some(());
        }
    }
    if packet.proto == ICMP {
        return error_v4(frame, ETH_LEN + header, packet);
    }
    transport(frame, ETH_LEN + header, packet)
}

/// Notes a fragment that begins at this byte; whether it says no more than that.
#[inline(always)]
fn fragment(packet: &mut Packet, from: u32, before: u32) -> bool {
    let later = from != 0;
    packet.piece = piece(from, (from + packet.bytes).wrapping_sub(before));
    packet.fragment = if later { FRAGMENT_LATER } else { FRAGMENT_FIRST };
    let ported = packet.proto == TCP || packet.proto == UDP || packet.proto == SCTP;
    if ported && later {
        packet.kind = FRAGMENT;
    }
    if later || !ported {
        return true;
    }
    // What hides its flags in a second fragment hides them from every filter (RFC 1858).
    let least = if packet.proto == UDP { 8 } else { 20 };
    let torn = packet.bytes < before + least;
    if torn {
        packet.kind = TORN;
    }
    torn
}

/// Whether there is a loose or strict source route (RFC 791 section 3.1) among the options, which
/// end at `stop`. A function of its own: the verifier forgets on return where the search ended.
#[inline(never)]
fn prescribes(frame: Frame, stop: usize) -> u32 {
    let mut offset = ETH_LEN + 20;
    for _ in 0..40 {
        if offset >= stop {
            break;
        }
        // Or the compiler would take two from `end`, which the verifier forbids.
        let Some([kind, length]) = frame.with_opaque_end().read::<[u8; 2]>(offset) else {
            break;
        };
        if kind == 131 || kind == 137 {
            return 1;
        }
        if kind == 0 {
            break;
        }
        // One byte alone does nothing; what says that it is shorter goes on as if it did.
        let longer = u64::from(length).wrapping_sub(1) & u64::from(kind != 1).wrapping_neg();
        offset += 1 + opaque(longer & 63) as usize;
    }
    0
}

/// Destination unreachable, source quench, time exceeded, parameter problem (RFC 792), which hold
/// the header of the packet they are about and eight bytes more.
#[inline(always)]
fn error_v4(frame: Frame, offset: usize, packet: &mut Packet) -> Option<()> {
    let [kind, _code]: [u8; 2] = frame.read(offset)?;
    if kind != 3 && kind != 4 && kind != 11 && kind != 12 {
        return Some(());
    }
    let about: V4 = frame.read(offset + 8)?;
    let header = usize::from(about.version_ihl & 15) * 4;
    if header < 20 || about.fragment & 0x1fffu16.to_be() != 0 {
        return Some(());
    }
    error(
        frame,
        [offset, offset + 8 + header],
        packet,
        about.proto,
        mapped(about.src),
        mapped(about.dst),
    )
}

#[inline(always)]
fn error(
    frame: Frame,
    [icmp, l4]: [usize; 2],
    packet: &mut Packet,
    proto: u8,
    src: [u32; 4],
    dst: [u32; 4],
) -> Option<()> {
    // Somebody who answers for a packet that another one sent is no error of ours.
    if src != packet.dst || (proto != TCP && proto != UDP && proto != SCTP) {
        return Some(());
    }
    let ports: [u16; 2] = frame.read(l4)?;
    packet.kind = ERROR;
    packet.proto = proto;
    packet.from = packet.src;
    packet.src = dst;
    packet.sport = ports[1];
    packet.dport = ports[0];
    packet.l4 = icmp as u32;
    packet.inner_l4 = l4 as u32;
    Some(())
}

#[inline(always)]
fn v6(frame: Frame, packet: &mut Packet) -> Option<()> {
    let ip: V6 = frame.read(ETH_LEN)?;
    packet.v6 = 1;
    packet.src = ip.src;
    packet.dst = ip.dst;
    packet.ttl = u32::from(ip.hops);
    packet.bytes = u32::from(u16::from_be(ip.len)) + 40;
    if ip.flow & 0xf0u32.to_le() != 0x60u32.to_le() {
        return Some(());
    }
    let mut next = ip.next;
    let mut offset = ETH_LEN + 40;
    // Hop-by-hop, routing and destination options (RFC 8200 section 4.1), three at most.
    for _ in 0..3 {
        if next != 0 && next != 43 && next != 60 {
            break;
        }
        let head: [u8; 4] = frame.read(offset)?;
        // Where it leads on, and the type that is deprecated because it leads anywhere (RFC 5095).
        if next == 43 && (head[2] == 0 || head[3] != 0) {
            packet.kind = ROUTED;
            return Some(());
        }
        next = head[0];
        offset += (usize::from(head[1]) + 1) * 8;
    }
    if next == 44 {
        // RFC 8200 section 4.5; options behind it are rare, and the stack's.
        let head: [u16; 4] = frame.read(offset)?;
        next = head[0] as u8;
        offset += 8;
        packet.proto = next;
        packet.id = u32::from(head[2]) | u32::from(head[3]) << 16;
        let before = (offset - ETH_LEN) as u32;
        if fragment(packet, u32::from(u16::from_be(head[1]) & 0xfff8), before) {
            return Some(());
        }
    }
    packet.proto = next;
    if next == ICMPV6 {
        // Two bytes: of one byte at a variable offset the verifier keeps no range.
        let [kind, _code]: [u8; 2] = frame.read(offset)?;
        if kind == ND_SOLICIT || kind == ND_ADVERT {
            packet.kind = NEIGHBOUR;
            packet.flags = kind;
            packet.dst = frame.read(offset + 8)?;
        } else if kind >= 1 && kind <= 4 {
            // RFC 4443 section 3: unreachable, too big, time exceeded, parameter problem.
            let about: V6 = frame.read(offset + 8)?;
            if is_nobodys(packet) {
                return Some(());
            }
            return error(frame, [offset, offset + 48], packet, about.next, about.src, about.dst);
        }
        return Some(());
    }
    if is_nobodys(packet) {
        return Some(());
    }
    transport(frame, offset, packet)
}

/// Notes IPv6 addresses that no packet on a wire may have: the unspecified one, the loopback's, and
/// those that would pass for IPv4 (RFC 4291 section 2.5).
#[inline(always)]
fn is_nobodys(packet: &mut Packet) -> bool {
    let nobodys = halves_of(&packet.src)[0] == 0 || halves_of(&packet.dst)[0] == 0;
    if nobodys {
        packet.kind = MARTIAN;
    }
    nobodys
}

#[inline(always)]
fn transport(frame: Frame, offset: usize, packet: &mut Packet) -> Option<()> {
    let ports = match packet.proto {
        UDP => frame.read(offset)?,
        TCP | SCTP => {
            let head: Head = frame.read(offset)?;
            let [chunk, flags] = head.bytes;
            packet.flags = if packet.proto == TCP { flags } else { sctp_flags(chunk) };
            packet.numbers = head.numbers;
            head.ports
        }
        _ => return Some(()),
    };
    packet.kind = TRANSPORT;
    packet.sport = ports[0];
    packet.dport = ports[1];
    packet.l4 = offset as u32;
    Some(())
}

/// What a chunk (RFC 9260 section 3.2) means for an association, in TCP's words.
#[inline(always)]
fn sctp_flags(chunk: u8) -> u8 {
    match chunk {
        1 => SYN,
        2 => SYN | ACK,
        // ABORT, SHUTDOWN COMPLETE
        6 | 14 => RST,
        // SHUTDOWN, SHUTDOWN ACK
        7 | 8 => FIN,
        _ => ACK,
    }
}
