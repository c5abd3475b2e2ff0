//! Changes headers in place: TTL, and addresses and ports by NAT, with their checksums.
//!
//! Decides: which checksums follow a change. XDP's NAT is in `xdp.rs`, ICMP errors are in
//! `icmp_error.rs`, outer headers in `crate::tunnel`.

use aya_ebpf::programs::TcContext;
use nines_abi::Packet;

use super::sctp_checksum;
use crate::{
    frame::{Frame, Window},
    parse::packet::{ETH_LEN, SCTP, TCP},
};

pub const F_PSEUDO_HDR: u64 = 1 << 4;
const F_MARK_MANGLED_0: u64 = 1 << 5;

/// Lowers TTL or hop limit in place; the caller has seen that it is above 1. Gives the Ethernet and
/// IPv4 header, or as much of IPv6; `None`: they are not there.
#[inline(always)]
pub fn age(frame: Frame, packet: &Packet) -> Option<Window<{ ETH_LEN + 20 }>> {
    if packet.v6 != 0 {
        let headers = frame.window::<{ ETH_LEN + 40 }>(0)?;
        headers.put::<u8, { ETH_LEN + 7 }>((packet.ttl - 1) as u8);
        return Some(headers.part::<{ ETH_LEN + 20 }, 0>());
    }
    let headers = frame.window::<{ ETH_LEN + 20 }>(0)?;
    // RFC 1624, as the kernel's ip_decrease_ttl: TTL is the high byte of its word.
    let raised = u32::from(headers.get::<u16, { ETH_LEN + 10 }>()) + u32::from(0x0100u16.to_be());
    headers.put::<u16, { ETH_LEN + 10 }>((raised + (raised >= 0xffff) as u32) as u16);
    headers.put::<u8, { ETH_LEN + 8 }>((packet.ttl - 1) as u8);
    Some(headers)
}

/// How the addresses of a packet are replaced: [`mangle`], or in an ICMP error
/// [`super::icmp_error::translate`]. Each program knows which, and has the code of one only.
pub type Change = fn(&TcContext, &Packet, bool, [u32; 4], u16) -> Option<()>;

/// Replaces source or destination address and port; checksums follow by difference, which is
/// right also for checksums that the device has yet to finish (CHECKSUM_PARTIAL).
#[inline(always)]
pub fn mangle(
    ctx: &TcContext,
    packet: &Packet,
    source: bool,
    to: [u32; 4],
    port: u16,
) -> Option<()> {
    let l4 = packet.l4 as usize;
    let (old, old_port) =
        if source { (packet.src, packet.sport) } else { (packet.dst, packet.dport) };
    // Both checksum fields are 16 bits; a UDP checksum of 0 means "none" and stays so.
    let (sum, mark) = if packet.proto == TCP { (l4 + 16, 0) } else { (l4 + 6, F_MARK_MANGLED_0) };
    // SCTP's covers ports and no addresses.
    let summed = packet.proto != SCTP;
    let skb = &ctx.skb;
    if packet.v6 != 0 {
        for i in 0..4 {
            if old[i] != to[i] && summed {
                let (a, b) = (u64::from(old[i]), u64::from(to[i]));
                skb.l4_csum_replace(sum, a, b, F_PSEUDO_HDR | mark | 4).ok()?;
            }
        }
        let at = ETH_LEN + if source { 8 } else { 24 };
        skb.store(at, &to, 0).ok()?;
    } else {
        let (a, b) = (u64::from(old[3]), u64::from(to[3]));
        if summed {
            skb.l4_csum_replace(sum, a, b, F_PSEUDO_HDR | mark | 4).ok()?;
        }
        skb.l3_csum_replace(ETH_LEN + 10, a, b, 4).ok()?;
        let at = ETH_LEN + if source { 12 } else { 16 };
        skb.store(at, &to[3], 0).ok()?;
    }
    if old_port != port {
        if summed {
            skb.l4_csum_replace(sum, u64::from(old_port), u64::from(port), mark | 2).ok()?;
        } else {
            let old = skb.load::<u32>(l4 + 8).ok()?;
            skb.store(l4 + 8, &sctp_checksum::follow(packet, source, port, old)?, 0).ok()?;
        }
        skb.store(l4 + if source { 0 } else { 2 }, &port, 0).ok()?;
    }
    Some(())
}

/// The same of a fragment without ports: whoever has the first one mends the checksum there.
pub fn mangle_addresses(
    ctx: &TcContext,
    packet: &Packet,
    source: bool,
    to: [u32; 4],
    _port: u16,
) -> Option<()> {
    let skb = &ctx.skb;
    if packet.v6 != 0 {
        return skb.store(ETH_LEN + if source { 8 } else { 24 }, &to, 0).ok();
    }
    let old = if source { packet.src[3] } else { packet.dst[3] };
    skb.l3_csum_replace(ETH_LEN + 10, u64::from(old), u64::from(to[3]), 4).ok()?;
    skb.store(ETH_LEN + if source { 12 } else { 16 }, &to[3], 0).ok()
}
