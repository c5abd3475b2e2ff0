//! XDP changes headers and sends packets on, by itself where it can: a neighbour that
//! `bpf_fib_lookup` has at hand, a device that takes frames from XDP. Else the packet goes up to
//! tc, unchanged.

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::{bpf_redirect, bpf_xdp_adjust_head},
    programs::XdpContext,
    EbpfContext as _,
};
use nines_abi::{Hop, Packet, Server, Via, FORWARD_IPIP, HOP_UNITS};

use crate::{
    atomic::opaque,
    errors::fold,
    full_nat::Ends,
    maps::{NEXT_HOPS, XDP_OUT},
    nat::{known_as, port_of},
    packet::{SCTP, TCP, UDP},
    pipeline::words,
    rewrite::{age, Fib, ETH_LEN, FIB_SUCCESS},
    sctp,
    tunnel::spread,
};

const PASS: u32 = xdp_action::XDP_PASS;
/// Transport headers that begin later go up to tc: the verifier does not accept a
/// larger range of offsets.
pub const L4_MAX: u32 = 127;

/// The way to the server in this slot, from `src`: as found a moment ago, or looked up now. `None`:
/// there is none for XDP.
#[inline(always)]
pub fn hop(
    ctx: &XdpContext,
    now: u32,
    slot: u32,
    server: &Server,
    src: &[u32; 4],
) -> Option<&'static Hop> {
    let hop = unsafe { &mut *NEXT_HOPS.get_ptr_mut(slot)? };
    let came_in = ctx.ingress_ifindex() as u32;
    let same = (hop.generation ^ server.generation) | (hop.came_in ^ came_in) | (hop.known ^ 1);
    if same == 0 && now.wrapping_sub(hop.found) <= HOP_UNITS {
        return Some(hop);
    }
    let mut fib = Fib::new(server.v6 != 0, TCP, *src, words(&server.addr));
    if !look(ctx, &mut fib) {
        return None;
    }
    hop.macs = macs(&fib);
    hop.ifindex = fib.ifindex;
    hop.came_in = came_in;
    hop.generation = server.generation;
    hop.found = now;
    hop.known = 1;
    Some(hop)
}

/// Whether XDP can go this way.
#[inline(always)]
fn look(ctx: &XdpContext, fib: &mut Fib) -> bool {
    let came_in = ctx.ingress_ifindex() as u32;
    fib.ifindex = came_in;
    if fib.look(ctx.as_ptr()) != FIB_SUCCESS {
        return false;
    }
    fib.ifindex == came_in || unsafe { XDP_OUT.get(fib.ifindex) }.is_some()
}

/// Destination and source as a frame begins.
#[inline(always)]
fn macs(fib: &Fib) -> [u16; 6] {
    let pair = |m: &[u8; 6], i: usize| u16::from_ne_bytes([m[2 * i], m[2 * i + 1]]);
    let (to, from) = (&fib.dmac, &fib.smac);
    [pair(to, 0), pair(to, 1), pair(to, 2), pair(from, 0), pair(from, 1), pair(from, 2)]
}

/// Writes both; the caller has seen that there is room.
#[inline(always)]
pub fn put_macs(data: usize, macs: &[u16; 6]) {
    // Aligned to eight bytes in their map; in the packet it does not matter.
    let from = macs.as_ptr();
    unsafe {
        *(data as *mut u64) = *from.cast::<u64>();
        *((data + 8) as *mut u32) = *from.add(4).cast::<u32>();
    }
}

#[inline(always)]
pub fn direct(ctx: &XdpContext, packet: &Packet, slot: u32, server: &Server) -> u32 {
    if packet.ttl <= 1 {
        return PASS;
    }
    let Some(hop) = hop(ctx, packet.clock, slot, server, &packet.src) else {
        return PASS;
    };
    let (data, end) = (ctx.data(), ctx.data_end());
    if !age(data, end, packet) {
        return PASS;
    }
    put_macs(data, &hop.macs);
    send(hop.ifindex, hop.came_in)
}

/// To a server behind NAT.
#[inline(always)]
pub fn nat(ctx: &XdpContext, packet: &Packet, slot: u32, server: &Server) -> u32 {
    if packet.ttl <= 1 {
        return PASS;
    }
    let Some(hop) = hop(ctx, packet.clock, slot, server, &packet.src) else {
        return PASS;
    };
    let (data, end) = (ctx.data(), ctx.data_end());
    let (to, port) = (words(&server.addr), port_of(server, packet.dport));
    if translate(data, end, packet, false, to, port).is_none() || !age(data, end, packet) {
        return PASS;
    }
    put_macs(data, &hop.macs);
    send(hop.ifindex, hop.came_in)
}

/// From a server behind NAT to its client.
#[inline(always)]
pub fn reply(ctx: &XdpContext, packet: &Packet, server: &Server, via: &Via) -> u32 {
    if packet.ttl <= 1 {
        return PASS;
    }
    let (from, port) = known_as(server, via);
    let mut fib = Fib::towards(packet, from);
    if !look(ctx, &mut fib) {
        return PASS;
    }
    let (data, end) = (ctx.data(), ctx.data_end());
    if translate(data, end, packet, true, from, port).is_none() || !age(data, end, packet) {
        return PASS;
    }
    let macs = macs(&fib);
    // On the stack, where no eight bytes may be read at once.
    unsafe { *(data as *mut [u16; 6]) = macs };
    send(fib.ifindex, ctx.ingress_ifindex() as u32)
}

/// Full NAT: to a server, or from it to its client.
#[inline(always)]
pub fn full(ctx: &XdpContext, packet: &Packet, server: &Server, ends: &Ends) -> u32 {
    if packet.ttl <= 1 {
        return PASS;
    }
    let came_in = ctx.ingress_ifindex() as u32;
    let (macs, ifindex) = if packet.answer == 0 {
        match hop(ctx, packet.clock, packet.chosen, server, &ends.src) {
            Some(hop) => (hop.macs, hop.ifindex),
            None => return PASS,
        }
    } else {
        let mut fib = Fib::new(packet.v6 != 0, packet.proto, ends.src, ends.dst);
        if !look(ctx, &mut fib) {
            return PASS;
        }
        (macs(&fib), fib.ifindex)
    };
    let (data, end) = (ctx.data(), ctx.data_end());
    // What can be done once can be done twice.
    if translate(data, end, packet, false, ends.dst, ends.dport).is_none()
        || translate(data, end, packet, true, ends.src, ends.sport).is_none()
        || !age(data, end, packet)
    {
        return PASS;
    }
    // On the stack, where no eight bytes may be read at once.
    unsafe { *(data as *mut [u16; 6]) = macs };
    send(ifindex, came_in)
}

/// A checksum that follows by difference (RFC 1624): `by` is what was added to the words it covers.
#[inline(always)]
pub fn follow(sum: *mut u16, by: u64) -> u16 {
    unsafe { fold(u64::from(!*sum) + by) }
}

/// What replacing `old` by `new` adds, in words of 16 bits that are not folded.
#[inline(always)]
pub fn difference(old: u32, new: u32) -> u64 {
    u64::from(!old) + u64::from(new)
}

/// Replaces source or destination address and port, with checksums; `None`: nothing is changed.
#[inline(always)]
fn translate(
    data: usize,
    end: usize,
    packet: &Packet,
    source: bool,
    to: [u32; 4],
    port: u16,
) -> Option<()> {
    let (old, old_port) =
        if source { (&packet.src, packet.sport) } else { (&packet.dst, packet.dport) };
    let v6 = packet.v6 != 0;
    if packet.l4 > L4_MAX {
        return None;
    }
    // The compiler knows the bound and would leave the mask out; the verifier may have lost it.
    let l4 = data + (opaque(u64::from(packet.l4)) as u32 & L4_MAX) as usize;
    let sum_at = l4 + if packet.proto == TCP { 16 } else { 6 };
    if sum_at + 2 > end {
        return None;
    }
    let mut by = difference(old[3], to[3]);
    if v6 {
        if data + ETH_LEN + 40 > end {
            return None;
        }
        by += difference(old[0], to[0]) + difference(old[1], to[1]) + difference(old[2], to[2]);
        let at = data + ETH_LEN + if source { 8 } else { 24 };
        unsafe { *(at as *mut [u32; 4]) = to };
    } else {
        if data + ETH_LEN + 20 > end {
            return None;
        }
        let sum = (data + ETH_LEN + 10) as *mut u16;
        let at = data + ETH_LEN + if source { 12 } else { 16 };
        unsafe {
            *sum = follow(sum, by);
            *(at as *mut u32) = to[3];
        }
    }
    if packet.proto == SCTP {
        return sctp_port(l4, end, packet, source, port);
    }
    by += u64::from(!old_port) + u64::from(port);
    let sum = sum_at as *mut u16;
    unsafe {
        // A UDP checksum of 0 means "none", and stays so.
        let udp = packet.proto == UDP;
        if !udp || *sum != 0 {
            let new = follow(sum, by);
            *sum = if udp && new == 0 { 0xffff } else { new };
        }
        *((l4 + if source { 0 } else { 2 }) as *mut u16) = port;
    }
    Some(())
}

/// The port alone; SCTP's checksum covers no address. It is there: [`crate::packet`] has read a
/// chunk behind it, and XDP takes no fragments.
#[inline(always)]
fn sctp_port(l4: usize, end: usize, packet: &Packet, source: bool, port: u16) -> Option<()> {
    if l4 + 12 > end {
        return None;
    }
    let old = if source { packet.sport } else { packet.dport };
    if old != port {
        let sum = (l4 + 8) as *mut u32;
        unsafe {
            *sum = sctp::follow(packet, source, port, *sum)?;
            *((l4 + if source { 0 } else { 2 }) as *mut u16) = port;
        }
    }
    Some(())
}

/// Whether [`ipip`] can do it.
#[inline(always)]
pub fn is_ipip(packet: &Packet, server: &Server) -> bool {
    server.forward == FORWARD_IPIP && server.v6 == packet.v6
}

/// IPv4 in IPv4 or IPv6 in IPv6, of all tunnels those that need the least; [`crate::tunnel::xdp`]
/// knows the rest.
#[inline(always)]
pub fn ipip(ctx: &XdpContext, packet: &Packet, slot: u32, server: &Server) -> u32 {
    let header: usize = if packet.v6 != 0 { 40 } else { 20 };
    let total = packet.bytes + header as u32;
    if packet.ttl <= 1 || total > u32::from(server.mtu) {
        return PASS;
    }
    let Some(hop) = hop(ctx, packet.clock, slot, server, &words(&server.source)) else {
        return PASS;
    };
    let (data, end) = (ctx.data(), ctx.data_end());
    if !age(data, end, packet) {
        return PASS;
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

/// Out where the way leads.
#[inline(always)]
pub fn send(ifindex: u32, came_in: u32) -> u32 {
    if ifindex == came_in {
        return xdp_action::XDP_TX;
    }
    unsafe { bpf_redirect(ifindex, 0) as u32 }
}
