//! Sends packets on at XDP: next hop, and what is changed before.
//!
//! Decides: which packets XDP can send: those with a neighbour that `bpf_fib_lookup` has at hand,
//! over a device that takes frames from XDP. Every other packet goes up to tc, unchanged.

use core::mem::offset_of;

use aya_ebpf::{bindings::xdp_action, programs::XdpContext, EbpfContext as _};
use nines_abi::{Hop, Packet, Server, Via, HOP_UNITS};

use super::{
    checksum::{difference, follow},
    rewrite::age,
    sctp_checksum,
};
use crate::{
    atomic::opaque,
    fib::{Fib, FIB_SUCCESS},
    frame::{Frame, Window},
    kernel,
    maps::{find, own, NEXT_HOPS, XDP_OUT},
    parse::packet::{words, Ends, ETH_LEN, SCTP, TCP, UDP},
    service::server::{known_as, port_of},
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
    let hop = own(&NEXT_HOPS, slot)?;
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
    fib.ifindex == came_in || find(&XDP_OUT, &fib.ifindex).is_some()
}

/// Destination and source as a frame begins.
#[inline(always)]
fn macs(fib: &Fib) -> [u16; 6] {
    let pair = |m: &[u8; 6], i: usize| u16::from_ne_bytes([m[2 * i], m[2 * i + 1]]);
    let (to, from) = (&fib.dmac, &fib.smac);
    [pair(to, 0), pair(to, 1), pair(to, 2), pair(from, 0), pair(from, 1), pair(from, 2)]
}

/// Writes both into a frame that begins with these bytes.
#[inline(always)]
pub fn put_macs(hop: &Hop, frame: Window<12>) {
    let from = hop.macs.as_ptr();
    // SAFETY: 12 bytes in map `NEXT_HOPS`, which are aligned to eight there (asserted below).
    let (first, last) = unsafe { (*from.cast::<u64>(), *from.add(4).cast::<u32>()) };
    frame.put::<u64, 0>(first);
    frame.put::<u32, 8>(last);
}
const _: () = assert!(offset_of!(Hop, macs) % 8 == 0);

#[inline(always)]
pub fn direct(ctx: &XdpContext, packet: &Packet, slot: u32, server: &Server) -> u32 {
    if packet.ttl <= 1 {
        return PASS;
    }
    let Some(hop) = hop(ctx, packet.clock, slot, server, &packet.src) else {
        return PASS;
    };
    let Some(headers) = age(Frame::of_xdp(ctx), packet) else {
        return PASS;
    };
    put_macs(hop, headers.part::<12, 0>());
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
    let frame = Frame::of_xdp(ctx);
    let (to, port) = (words(&server.addr), port_of(server, packet.dport));
    if translate(frame, packet, false, to, port).is_none() {
        return PASS;
    }
    let Some(headers) = age(frame, packet) else {
        return PASS;
    };
    put_macs(hop, headers.part::<12, 0>());
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
    let frame = Frame::of_xdp(ctx);
    if translate(frame, packet, true, from, port).is_none() {
        return PASS;
    }
    let Some(headers) = age(frame, packet) else {
        return PASS;
    };
    // On the stack, where no eight bytes may be read at once.
    headers.put::<[u16; 6], 0>(macs(&fib));
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
    let frame = Frame::of_xdp(ctx);
    // What can be done once can be done twice.
    if translate(frame, packet, false, ends.dst, ends.dport).is_none()
        || translate(frame, packet, true, ends.src, ends.sport).is_none()
    {
        return PASS;
    }
    let Some(headers) = age(frame, packet) else {
        return PASS;
    };
    // On the stack, where no eight bytes may be read at once.
    headers.put::<[u16; 6], 0>(macs);
    send(ifindex, came_in)
}

/// Replaces source or destination address and port, with checksums; `None`: nothing is changed.
#[inline(always)]
fn translate(frame: Frame, packet: &Packet, source: bool, to: [u32; 4], port: u16) -> Option<()> {
    let (old, old_port) =
        if source { (&packet.src, packet.sport) } else { (&packet.dst, packet.dport) };
    let v6 = packet.v6 != 0;
    if packet.l4 > L4_MAX {
        return None;
    }
    // The compiler knows the bound and would leave the mask out; the verifier may have lost it.
    let transport = frame.behind((opaque(u64::from(packet.l4)) as u32 & L4_MAX) as usize);
    let sum = transport.window::<2>(if packet.proto == TCP { 16 } else { 6 })?;
    let mut by = difference(old[3], to[3]);
    if v6 {
        let ip = frame.window::<40>(ETH_LEN)?;
        by += difference(old[0], to[0]) + difference(old[1], to[1]) + difference(old[2], to[2]);
        if source {
            ip.put::<[u32; 4], 8>(to);
        } else {
            ip.put::<[u32; 4], 24>(to);
        }
    } else {
        let ip = frame.window::<20>(ETH_LEN)?;
        ip.put::<u16, 10>(follow(ip.get::<u16, 10>(), by));
        if source {
            ip.put::<u32, 12>(to[3]);
        } else {
            ip.put::<u32, 16>(to[3]);
        }
    }
    if packet.proto == SCTP {
        return sctp_port(transport, packet, source, port);
    }
    by += u64::from(!old_port) + u64::from(port);
    // A UDP checksum of 0 means "none", and stays so.
    let udp = packet.proto == UDP;
    if !udp || sum.get::<u16, 0>() != 0 {
        let new = follow(sum.get::<u16, 0>(), by);
        sum.put::<u16, 0>(if udp && new == 0 { 0xffff } else { new });
    }
    // SAFETY: both ports lie before the checksum, which is within the frame.
    unsafe { transport.put(if source { 0 } else { 2 }, port) };
    Some(())
}

/// The port alone; SCTP's checksum covers no address. It is there: [`crate::parse::headers`] has
/// read a chunk behind it, and XDP takes no fragments.
#[inline(always)]
fn sctp_port(transport: Frame, packet: &Packet, source: bool, port: u16) -> Option<()> {
    let header = transport.window::<12>(0)?;
    let old = if source { packet.sport } else { packet.dport };
    if old != port {
        let sum = sctp_checksum::follow(packet, source, port, header.get::<u32, 8>())?;
        header.put::<u32, 8>(sum);
        if source {
            header.put::<u16, 0>(port);
        } else {
            header.put::<u16, 2>(port);
        }
    }
    Some(())
}

/// Out where the way leads.
#[inline(always)]
pub fn send(ifindex: u32, came_in: u32) -> u32 {
    if ifindex == came_in {
        return xdp_action::XDP_TX;
    }
    kernel::redirect(ifindex, 0) as u32
}
