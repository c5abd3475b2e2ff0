//! Puts packets into another header, for real servers that are not on this link.
//!
//! Decides: the outer header. IP in IP (RFC 2003, RFC 2473, RFC 4213), generic UDP encapsulation
//! (draft-ietf-intarea-gue-09, variant 0), GRE (RFC 2784); any family in any.
//! Outer checksums need no walk over the packet: a finished transport checksum makes the segment
//! add up to the complement of its pseudo header, whatever its bytes
//! (Documentation/networking/checksum-offloads.rst, local checksum offload).

use aya_ebpf::{
    bindings::xdp_action,
    programs::{TcContext, XdpContext},
};
use nines_abi::{
    Packet, Server, CHECKSUM_FULL, DROP_MANGLED, DROP_TOO_BIG, DROP_TTL, FORWARD_GRE, FORWARD_GUE,
    FORWARD_IPIP, FRAGMENT_LATER, PROGRAM_REFUSE,
};

use crate::{
    atomic::opaque,
    forward::{
        checksum::fold,
        rewrite::age,
        tc::{drop, redirect},
        xdp::{hop, put_macs, send},
    },
    frame::Frame,
    kernel,
    maps::PROGRAMS,
    parse::packet::{words, ETH_LEN, TCP, UDP},
};

const ADJ_ROOM_MAC: u32 = 1;
const F_ENCAP_L3_IPV4: u64 = 1 << 1;
const F_ENCAP_L3_IPV6: u64 = 1 << 2;
const F_ENCAP_L4_GRE: u64 = 1 << 3;
const F_ENCAP_L4_UDP: u64 = 1 << 4;
const GRE: u8 = 47;
/// Not one that many paths have fewer hops left than (RFC 1700 names 64 as default).
const TTL: u8 = 64;

/// The outer header, as words on the wire: IPv6, UDP and GUE at most, and room that the verifier
/// wants to see.
pub struct Outer {
    words: [u32; 16],
    len: u32,
}

/// Length of what comes before the packet.
#[inline(always)]
pub fn overhead(server: &Server) -> u32 {
    let ip = if server.v6 != 0 { 40 } else { 20 };
    ip + match server.forward {
        FORWARD_GUE => 12,
        FORWARD_GRE if server.checksum == CHECKSUM_FULL => 8,
        FORWARD_GRE => 4,
        _ => 0,
    }
}

/// 16-bit words of a few values, not folded.
#[inline(always)]
fn add(words: &[u32]) -> u64 {
    let mut sum = 0u64;
    for word in words {
        sum += u64::from(*word);
    }
    sum
}

/// Sum over the inner packet, if its transport checksum tells it.
#[inline(always)]
fn inner_sum(packet: &Packet, first_word: u32, checked: bool) -> Option<u64> {
    let header = packet.l4 - ETH_LEN as u32;
    if !checked || packet.inner_l4 != 0 {
        return None;
    }
    if packet.v6 == 0 {
        // The header adds up to zero, the segment to the complement of its pseudo header.
        let len = (packet.bytes - header) as u16;
        let pseudo = add(&[packet.src[3], packet.dst[3]])
            + u64::from(u16::from(packet.proto).to_be())
            + u64::from(len.to_be());
        return Some(u64::from(fold(pseudo)));
    }
    if header != 40 {
        return None;
    }
    // Addresses and length are in header and pseudo header: they cancel out.
    let proto = u16::from(packet.proto).to_be();
    let line = u16::from_ne_bytes([packet.proto, (packet.ttl - 1) as u8]);
    Some(u64::from(first_word) + u64::from(line) + u64::from(!proto))
}

/// What goes before the packet; `hash` spreads flows over paths and queues.
#[inline(always)]
fn outer(packet: &Packet, server: &Server, first_word: u32, checked: bool) -> Outer {
    let mut outer = Outer { words: [0; 16], len: overhead(server) };
    let to_v6 = server.v6 != 0;
    // A segment that the card cuts later may be longer than its field.
    let total = (packet.bytes + outer.len) & 0xffff;
    let hash = spread(packet);
    // Traffic class: second byte of IPv4, bits 4 to 11 of IPv6.
    let first = u32::from_be(first_word);
    let tos = if packet.v6 != 0 { first >> 20 & 0xff } else { first >> 16 & 0xff };
    let inner = if packet.v6 != 0 { 41 } else { 4 };
    let ether = if packet.v6 != 0 { 0x86ddu32 } else { 0x0800 };
    let proto = match server.forward {
        FORWARD_IPIP => inner,
        FORWARD_GUE => u32::from(UDP),
        _ => u32::from(GRE),
    };
    let (from, to) = (words(&server.source), words(&server.addr));
    let (mut more, mut pseudo) = ([0u32; 3], 0u64);
    let payload = total - if to_v6 { 40 } else { 20 };
    if to_v6 {
        let w = &mut outer.words;
        w[0] = (6 << 28 | tos << 20 | hash & 0xf_ffff).to_be();
        w[1] = (payload << 16 | proto << 8 | u32::from(TTL)).to_be();
        [w[2], w[3], w[4], w[5]] = from;
        [w[6], w[7], w[8], w[9]] = to;
        pseudo += add(&from) + add(&to);
    } else {
        let w = &mut outer.words;
        // What may not be fragmented may not be so inside either (RFC 2003 section 3.1).
        let dont = if packet.v6 == 0 { packet.dont_fragment } else { 0 };
        w[0] = (0x45 << 24 | tos << 16 | total).to_be();
        w[1] = ((hash & 0xffff) << 16 | dont).to_be();
        w[2] = (u32::from(TTL) << 24 | proto << 16).to_be();
        w[3] = from[3];
        w[4] = to[3];
        let check = fold(add(&[w[0], w[1], w[2], w[3], w[4]]));
        w[2] |= u32::from(check) << 16;
        pseudo += add(&[from[3], to[3]]);
    }
    let summed = server.checksum == CHECKSUM_FULL;
    let inside = inner_sum(packet, first_word, checked && summed);
    if server.forward == FORWARD_GUE {
        let source = 0xc000 | (hash >> 16 & 0x3fff);
        let port = u32::from(u16::from_be(server.tunnel_port));
        more[0] = (source << 16 | port).to_be();
        more[1] = (payload << 16).to_be();
        more[2] = (inner << 16).to_be();
        if let Some(inside) = inside {
            let rest = u64::from(u16::from(UDP).to_be()) + u64::from((payload as u16).to_be());
            let check = fold(pseudo + rest + add(&more) + inside);
            more[1] |= u32::from(if check == 0 { 0xffff } else { check }) << 16;
        }
    } else if server.forward == FORWARD_GRE {
        more[0] = ether.to_be();
        if summed {
            if let Some(inside) = inside {
                more[0] |= 0x8000_0000u32.to_be();
                more[1] = u32::from(fold(add(&more) + inside));
            } else {
                // Without: four bytes less.
                outer.len -= 4;
                return finish(outer, to_v6, more, 4);
            }
        }
    }
    finish(outer, to_v6, more, 0)
}

/// Puts what follows the IP header behind it, and takes `less` off its length fields.
#[inline(always)]
fn finish(mut outer: Outer, v6: bool, more: [u32; 3], less: u32) -> Outer {
    let w = &mut outer.words;
    if v6 {
        [w[10], w[11], w[12]] = more;
        w[1] = (u32::from_be(w[1]) - (less << 16)).to_be();
    } else {
        [w[5], w[6], w[7]] = more;
        if less != 0 {
            w[0] = (u32::from_be(w[0]) - less).to_be();
            w[2] = (u32::from_be(w[2]) & 0xffff_0000).to_be();
            let check = fold(add(&[w[0], w[1], w[2], w[3], w[4]]));
            w[2] |= u32::from(check) << 16;
        }
    }
    outer
}

#[inline(always)]
pub fn spread(packet: &Packet) -> u32 {
    let [a, b, c, d] = packet.src;
    let ports = u32::from(packet.sport) << 16 | u32::from(packet.dport);
    let mix = (a ^ b ^ c ^ d).wrapping_mul(0x9e37_79b1) ^ ports.wrapping_mul(0x85eb_ca6b);
    mix ^ mix >> 15
}

/// First word of the inner IP header, and whether the transport checksum is there.
#[inline(always)]
fn look(frame: Frame, packet: &Packet) -> Option<(u32, bool)> {
    let first = frame.read::<u32>(ETH_LEN)?;
    let mut checked = packet.proto == TCP;
    if packet.proto == UDP && packet.fragment == 0 {
        checked = frame.read::<u16>((packet.l4 & 0xff) as usize + 6)? != 0;
    }
    Some((first, checked))
}

#[inline(always)]
pub fn tc(ctx: &TcContext, packet: &mut Packet, server: &Server) -> i32 {
    if packet.ttl <= 1 {
        return drop(DROP_TTL);
    }
    let gso = kernel::skb(ctx).gso_size != 0;
    let room = u32::from(server.mtu) - overhead(server);
    if !gso && packet.bytes > room {
        if packet.fragment == FRAGMENT_LATER {
            // Of these nobody tells (RFC 1122 section 3.2.2).
            return drop(DROP_TOO_BIG);
        }
        packet.chosen = room;
        let shot = drop(DROP_TOO_BIG);
        kernel::tail_call(&PROGRAMS, ctx, PROGRAM_REFUSE);
        return shot;
    }
    let Some((first, checked)) = look(Frame::of_skb(ctx), packet) else {
        return drop(DROP_MANGLED);
    };
    // Segments of one checksum each are made later: theirs cannot be known here. A fragment's
    // checksum covers the others, too.
    let outer = outer(packet, server, first, checked && !gso && packet.fragment == 0);
    let flags = if server.v6 != 0 { F_ENCAP_L3_IPV6 } else { F_ENCAP_L3_IPV4 }
        | match server.forward {
            FORWARD_GUE => F_ENCAP_L4_UDP,
            FORWARD_GRE => F_ENCAP_L4_GRE,
            _ => 0,
        };
    if age(Frame::of_skb(ctx), packet).is_none() {
        return drop(DROP_MANGLED);
    }
    let ether: u16 = if server.v6 != 0 { 0x86ddu16.to_be() } else { 0x0800u16.to_be() };
    let len = opaque(u64::from(outer.len)) as u32 & 63;
    let sent = ctx.skb.adjust_room(len as i32, ADJ_ROOM_MAC, flags).is_ok()
        && kernel::store_part(ctx, ETH_LEN as u32, &outer.words, len).is_some();
    if !sent || ctx.skb.store(12, &ether, 0).is_err() {
        return drop(DROP_MANGLED);
    }
    redirect(server.ifindex, words(&server.nexthop), server.v6 != 0)
}

#[inline(always)]
pub fn xdp(ctx: &XdpContext, packet: &Packet, slot: u32, server: &Server) -> u32 {
    const PASS: u32 = xdp_action::XDP_PASS;
    if packet.ttl <= 1 || packet.bytes + overhead(server) > u32::from(server.mtu) {
        return PASS;
    }
    let Some(hop) = hop(ctx, packet.clock, slot, server, &words(&server.source)) else {
        return PASS;
    };
    let Some((first, checked)) = look(Frame::of_xdp(ctx), packet) else {
        return PASS;
    };
    let outer = outer(packet, server, first, checked);
    if age(Frame::of_xdp(ctx), packet).is_none() {
        return PASS;
    }
    let len = opaque(u64::from(outer.len)) as u32 & 63;
    if kernel::xdp_make_room(ctx, len).is_none() {
        // The packet is as it was but for its age; the stack would take one hop more.
        return xdp_action::XDP_DROP;
    }
    let frame = Frame::of_xdp(ctx);
    let Some(headers) = frame.window::<{ ETH_LEN + 20 }>(0) else {
        return xdp_action::XDP_DROP;
    };
    put_macs(hop, headers.part::<12, 0>());
    headers.put::<u16, 12>(if server.v6 != 0 { 0x86ddu16.to_be() } else { 0x0800u16.to_be() });
    for i in 0..13 {
        let part = match frame.window::<4>(ETH_LEN + 4 * i) {
            Some(part) if ((4 * i) as u32) < len => part,
            _ => break,
        };
        let [a, b, c, d] = outer.words[i].to_ne_bytes();
        part.put::<[u16; 2], 0>([u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]);
    }
    send(hop.ifindex, hop.came_in)
}
