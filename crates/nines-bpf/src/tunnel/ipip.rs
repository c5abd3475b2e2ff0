//! IP in IP at XDP, the same family inside and outside: of all tunnels those that need the least.
//!
//! Decides: their outer header. The other tunnels are in `encap.rs`.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use nines_abi::{Packet, Server, FORWARD_IPIP};

use super::encap::spread;
use crate::{
    forward::{
        checksum::fold,
        rewrite::age,
        xdp::{hop, put_macs, send},
    },
    frame::{Frame, Window},
    kernel,
    parse::packet::{words, ETH_LEN},
};

/// Whether [`ipip`] can do it.
#[inline(always)]
pub fn is_ipip(packet: &Packet, server: &Server) -> bool {
    server.forward == FORWARD_IPIP && server.v6 == packet.v6
}

/// IPv4 in IPv4 or IPv6 in IPv6, of all tunnels those that need the least; [`super::encap::xdp`]
/// knows the rest.
#[inline(always)]
pub fn ipip(ctx: &XdpContext, packet: &Packet, slot: u32, server: &Server) -> u32 {
    let header = if packet.v6 != 0 { 40 } else { 20 };
    let total = packet.bytes + header;
    if packet.ttl <= 1 || total > u32::from(server.mtu) {
        return xdp_action::XDP_PASS;
    }
    let Some(hop) = hop(ctx, packet.clock, slot, server, &words(&server.source)) else {
        return xdp_action::XDP_PASS;
    };
    let Some(headers) = age(Frame::of_xdp(ctx), packet) else {
        return xdp_action::XDP_PASS;
    };
    let first = headers.get::<u32, ETH_LEN>();
    if kernel::xdp_make_room(ctx, header).is_none() {
        // The packet is as it was but for its age; the stack would take one hop more.
        return xdp_action::XDP_DROP;
    }
    let frame = Frame::of_xdp(ctx);
    let ends = (words(&server.source), words(&server.addr));
    let put = if packet.v6 != 0 {
        put_v6(frame, packet, u32::from_be(first) >> 20 & 0xff, ends)
    } else {
        put_v4(frame, packet, total, u32::from_be(first) >> 16 & 0xff, ends)
    };
    let Some(start) = put else {
        return xdp_action::XDP_DROP;
    };
    put_macs(hop, start);
    send(hop.ifindex, hop.came_in)
}

/// Writes the outer headers but for the MAC addresses, whose place it gives.
#[inline(always)]
fn put_v4(
    frame: Frame,
    packet: &Packet,
    total: u32,
    tos: u32,
    (from, to): ([u32; 4], [u32; 4]),
) -> Option<Window<12>> {
    let headers = frame.window::<{ ETH_LEN + 20 }>(0)?;
    let first = (0x45 << 24 | tos << 16 | total).to_be();
    let second = ((spread(packet) & 0xffff) << 16 | packet.dont_fragment).to_be();
    let third = (64u32 << 24 | 4 << 16).to_be();
    let sum = u64::from(first) + u64::from(second) + u64::from(third);
    let check = fold(sum + u64::from(from[3]) + u64::from(to[3]));
    headers.put::<u16, 12>(0x0800u16.to_be());
    headers.put::<u32, ETH_LEN>(first);
    headers.put::<u32, { ETH_LEN + 4 }>(second);
    headers.put::<u32, { ETH_LEN + 8 }>(third | u32::from(check) << 16);
    headers.put::<u32, { ETH_LEN + 12 }>(from[3]);
    headers.put::<u32, { ETH_LEN + 16 }>(to[3]);
    Some(headers.part::<12, 0>())
}

/// The same of IPv6.
#[inline(always)]
fn put_v6(
    frame: Frame,
    packet: &Packet,
    class: u32,
    (from, to): ([u32; 4], [u32; 4]),
) -> Option<Window<12>> {
    let headers = frame.window::<{ ETH_LEN + 40 }>(0)?;
    headers.put::<u16, 12>(0x86ddu16.to_be());
    headers.put::<u32, ETH_LEN>((6 << 28 | class << 20 | spread(packet) & 0xf_ffff).to_be());
    headers.put::<u32, { ETH_LEN + 4 }>((packet.bytes << 16 | 41 << 8 | 64).to_be());
    headers.put::<[u32; 4], { ETH_LEN + 8 }>(from);
    headers.put::<[u32; 4], { ETH_LEN + 24 }>(to);
    Some(headers.part::<12, 0>())
}
