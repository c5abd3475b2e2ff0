//! ICMP errors about a translated flow: what routers say of its packets, for both sides.
//!
//! Decides: which of the addresses in an error are replaced, outside and inside.

use aya_ebpf::programs::TcContext;
use nines_abi::Packet;

use super::rewrite::F_PSEUDO_HDR;
use crate::parse::packet::{Ends, ETH_LEN};

/// Replaces, in an ICMP error, the address of the director's side of the translation by the other
/// one: outside, and in the header inside, with its port. `source`: of the error's sender (it goes
/// to the client).
#[inline(always)]
pub fn translate(
    ctx: &TcContext,
    packet: &Packet,
    source: bool,
    to: [u32; 4],
    port: u16,
) -> Option<()> {
    replace(ctx, packet, if source { SOURCE } else { 0 }, &to, port)
}

/// The same with full NAT: both ends inside; outside both if a server's side says it, else who says
/// it stays.
#[inline(always)]
pub fn translate_full(ctx: &TcContext, packet: &Packet, ends: &Ends) -> Option<()> {
    let sender = if packet.answer != 0 { SOURCE } else { SOURCE | INSIDE };
    replace(ctx, packet, 0, &ends.dst, ends.dport)?;
    replace(ctx, packet, sender, &ends.src, ends.sport)
}

/// The error's sender, not its receiver; inside of what it is about, that packet's receiver.
const SOURCE: u32 = 1;
/// Inside only.
const INSIDE: u32 = 2;

#[inline(never)]
fn replace(ctx: &TcContext, packet: &Packet, which: u32, to: &[u32; 4], port: u16) -> Option<()> {
    let (source, outside) = (which & SOURCE != 0, which & INSIDE == 0);
    let skb = &ctx.skb;
    let (icmp, about) = (packet.l4 as usize, packet.l4 as usize + 8);
    let sum = icmp + 2;
    let (outer, inner, old_port) = if source {
        (packet.from, packet.src, packet.sport)
    } else {
        (packet.dst, packet.dst, packet.dport)
    };
    if packet.v6 != 0 {
        for i in 0..4 {
            let (out, inn, new) = (u64::from(outer[i]), u64::from(inner[i]), u64::from(to[i]));
            if outside {
                skb.l4_csum_replace(sum, out, new, F_PSEUDO_HDR | 4).ok()?;
            }
            skb.l4_csum_replace(sum, inn, new, 4).ok()?;
        }
        if outside {
            skb.store(ETH_LEN + if source { 8 } else { 24 }, to, 0).ok()?;
        }
        skb.store(about + if source { 24 } else { 8 }, to, 0).ok()?;
    } else {
        let new = u64::from(to[3]);
        if outside {
            skb.l3_csum_replace(ETH_LEN + 10, u64::from(outer[3]), new, 4).ok()?;
            skb.store(ETH_LEN + if source { 12 } else { 16 }, &to[3], 0).ok()?;
        }
        // With its own checksum mended the header inside adds up to the same: ICMP's stays.
        skb.l3_csum_replace(about + 10, u64::from(inner[3]), new, 4).ok()?;
        skb.store(about + if source { 16 } else { 12 }, &to[3], 0).ok()?;
    }
    if old_port != port {
        skb.l4_csum_replace(sum, u64::from(old_port), u64::from(port), 2).ok()?;
        let at = packet.inner_l4 as usize + if source { 2 } else { 0 };
        skb.store(at, &port, 0).ok()?;
    }
    Some(())
}
