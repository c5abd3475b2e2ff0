//! IP in IP at XDP, the same family inside and outside: of all tunnels those that need the least.
//!
//! Decides: their outer header. The other tunnels are in `encap.rs`.

use aya_ebpf::{
    bindings::xdp_action, helpers::generated::bpf_xdp_adjust_head, programs::XdpContext,
};
use nines_abi::{Packet, Server, FORWARD_IPIP};

use super::encap::spread;
use crate::{
    forward::{
        checksum::fold,
        rewrite::age,
        xdp::{hop, put_macs, send},
    },
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
    let header: usize = if packet.v6 != 0 { 40 } else { 20 };
    let total = packet.bytes + header as u32;
    if packet.ttl <= 1 || total > u32::from(server.mtu) {
        return xdp_action::XDP_PASS;
    }
    let Some(hop) = hop(ctx, packet.clock, slot, server, &words(&server.source)) else {
        return xdp_action::XDP_PASS;
    };
    let (data, end) = (ctx.data(), ctx.data_end());
    if !age(data, end, packet) {
        return xdp_action::XDP_PASS;
    }
    // `age` has seen that there is a header.
    let first = unsafe { *((data + ETH_LEN) as *const u32) };
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(header as i32)) } != 0 {
        // The packet is as it was but for its age; the stack would take one hop more.
        return xdp_action::XDP_DROP;
    }
    let (data, end) = (ctx.data(), ctx.data_end());
    let ends = (words(&server.source), words(&server.addr));
    let put = if packet.v6 != 0 {
        put_v6(data, end, packet, u32::from_be(first) >> 20 & 0xff, ends)
    } else {
        put_v4(data, end, packet, total, u32::from_be(first) >> 16 & 0xff, ends)
    };
    if put.is_none() {
        return xdp_action::XDP_DROP;
    }
    put_macs(data, &hop.macs);
    send(hop.ifindex, hop.came_in)
}

#[inline(always)]
fn put_v4(
    data: usize,
    end: usize,
    packet: &Packet,
    total: u32,
    tos: u32,
    (from, to): ([u32; 4], [u32; 4]),
) -> Option<()> {
    if data + ETH_LEN + 20 > end {
        return None;
    }
    let first = (0x45 << 24 | tos << 16 | total).to_be();
    let second = ((spread(packet) & 0xffff) << 16 | packet.dont_fragment).to_be();
    let third = (64u32 << 24 | 4 << 16).to_be();
    let sum = u64::from(first) + u64::from(second) + u64::from(third);
    let check = fold(sum + u64::from(from[3]) + u64::from(to[3]));
    let at = (data + ETH_LEN) as *mut u32;
    unsafe {
        *((data + 12) as *mut u16) = 0x0800u16.to_be();
        *at = first;
        *at.add(1) = second;
        *at.add(2) = third | u32::from(check) << 16;
        *at.add(3) = from[3];
        *at.add(4) = to[3];
    }
    Some(())
}

#[inline(always)]
fn put_v6(
    data: usize,
    end: usize,
    packet: &Packet,
    class: u32,
    (from, to): ([u32; 4], [u32; 4]),
) -> Option<()> {
    if data + ETH_LEN + 40 > end {
        return None;
    }
    let at = data + ETH_LEN;
    unsafe {
        *((data + 12) as *mut u16) = 0x86ddu16.to_be();
        *(at as *mut u32) = (6 << 28 | class << 20 | spread(packet) & 0xf_ffff).to_be();
        *((at + 4) as *mut u32) = (packet.bytes << 16 | 41 << 8 | 64).to_be();
        *((at + 8) as *mut [u32; 4]) = from;
        *((at + 24) as *mut [u32; 4]) = to;
    }
    Some(())
}
