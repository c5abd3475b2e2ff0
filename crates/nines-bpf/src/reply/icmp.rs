//! ICMP errors of the director's own: a packet is too big for the tunnel, or nobody serves.
//!
//! Decides: who is told, how often, and in whose name.

use aya_ebpf::{bindings::TC_ACT_SHOT, programs::TcContext};
use nines_abi::{Packet, DETOUR_MAC, PLACE_VIP};

use crate::{
    clock,
    forward::checksum::fold,
    guard::addresses,
    kernel,
    maps::{own, ICMP_RATE_USED},
    parse::packet::{halves_of, ETH_LEN, ICMPV6, RST},
    service::admit::may_hear,
};

/// Bytes of the packet that an answer quotes: the longest header and eight more,
const QUOTED_V4: usize = 68;
const QUOTED_V6: usize = 96;
/// or a plain one, as short as a packet may be.
const SHORT_V4: usize = 28;
const SHORT_V6: usize = 48;

/// In place of the limit: nobody serves.
pub const NOBODY: u32 = 0;

/// What nobody serves is answered so often by each processor, as the kernel as a whole does
/// (net.ipv4.icmp_msgs_per_sec and icmp_msgs_burst); one client hears less: [`may_hear`].
const EVERY_NS: u64 = 1_000_000;
const BURST: u64 = 50;

/// Whether one more may be said now.
#[inline(always)]
pub fn may_say() -> bool {
    ICMP_RATE_USED.get(0).is_some_and(|until| *until <= clock::exact() + BURST * EVERY_NS)
}

/// Says one more.
#[inline(always)]
fn say() -> bool {
    let Some(until) = own(&ICMP_RATE_USED, 0) else {
        return false;
    };
    let now = clock::exact();
    let from = if *until > now { *until } else { now };
    let may = from < now + BURST * EVERY_NS;
    if may {
        *until = from + EVERY_NS;
    }
    may
}

/// Tells who sent the packet, in the name of the VIP, why it goes no further, and drops it: it is
/// larger than the limit that stands where a server would (RFC 1191, RFC 8201), or [`NOBODY`]
/// serves (port unreachable, as ip_vs_leave in net/netfilter/ipvs/ip_vs_core.c).
#[inline(always)]
pub fn refuse(ctx: &TcContext, packet: &Packet) -> i32 {
    let limit = packet.chosen;
    if limit == NOBODY
        && (!is_ours(packet)
            || packet.flags & RST != 0
            || !may_say()
            || !may_hear(packet, clock::exact())
            || !say())
    {
        return TC_ACT_SHOT;
    }
    let plain = packet.l4 as usize - ETH_LEN == if packet.v6 != 0 { 40 } else { 20 };
    let answered = match (packet.v6 != 0, limit == NOBODY && plain) {
        (false, false) => answer_v4::<{ QUOTED_V4 / 4 }, { QUOTED_V4 / 4 + 2 }>(ctx, packet, limit),
        (false, true) => answer_v4::<{ SHORT_V4 / 4 }, { SHORT_V4 / 4 + 2 }>(ctx, packet, limit),
        (true, false) => answer_v6::<{ QUOTED_V6 / 4 }, { QUOTED_V6 / 4 + 2 }>(ctx, packet, limit),
        (true, true) => answer_v6::<{ SHORT_V6 / 4 }, { SHORT_V6 / 4 + 2 }>(ctx, packet, limit),
    };
    answered.unwrap_or(TC_ACT_SHOT)
}

/// Whether it is for an address in whose name this director speaks. What only has a mark is not.
#[inline(always)]
fn is_ours(packet: &Packet) -> bool {
    let [low, high] = halves_of(&packet.dst);
    let [a, b, c, d, e, f] = DETOUR_MAC;
    let detour = u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]);
    packet.mac != detour && addresses::flags_of(low, high) & PLACE_VIP != 0
}

/// Type and code of what is said, and the word after the checksum.
#[inline(always)]
fn said(limit: u32, too_big: [u8; 2], nobody: [u8; 2]) -> [u32; 2] {
    let [kind, code] = if limit == NOBODY { nobody } else { too_big };
    [u32::from_ne_bytes([kind, code, 0, 0]), limit.to_be()]
}

#[inline(always)]
fn sum<const N: usize>(words: &mut [u32; N], seed: u32) -> u32 {
    kernel::sum_with(words, seed) as u32
}

/// Sends the packet back where it came from, cut to `len`.
#[inline(always)]
fn send_back(ctx: &TcContext, len: usize) -> Option<()> {
    let mut macs = [0u16; 6];
    macs = ctx.skb.load::<[u16; 6]>(0).ok().unwrap_or(macs);
    kernel::change_tail(ctx, len as u32)?;
    let swapped = [macs[3], macs[4], macs[5], macs[0], macs[1], macs[2]];
    ctx.skb.store(0, &swapped, 0).ok()
}

#[inline(always)]
fn answer_v4<const Q: usize, const I: usize>(
    ctx: &TcContext,
    packet: &Packet,
    limit: u32,
) -> Option<i32> {
    let mut icmp = [0u32; I];
    let mut quoted = [0u32; Q];
    kernel::load_into(ctx, ETH_LEN as u32, &mut quoted)?;
    for (to, from) in icmp[2..].iter_mut().zip(quoted) {
        *to = from;
    }
    // Destination unreachable: fragmentation needed, or the port.
    [icmp[0], icmp[1]] = said(limit, [3, 4], [3, 3]);
    let check = fold(u64::from(sum(&mut icmp, 0)));
    icmp[0] |= u32::from(check) << 16;
    let len = (20 + I * 4) as u16;
    let mut ip = [
        u32::from_ne_bytes([0x45, 0, len.to_be_bytes()[0], len.to_be_bytes()[1]]),
        u32::from_ne_bytes([0, 0, 0x40, 0]),
        u32::from_ne_bytes([64, 1, 0, 0]),
        packet.dst[3],
        packet.src[3],
    ];
    let check = fold(u64::from(sum(&mut ip, 0)));
    ip[2] |= u32::from(check) << 16;
    send_back(ctx, ETH_LEN + usize::from(len))?;
    kernel::store(ctx, ETH_LEN as u32, &ip)?;
    kernel::store(ctx, (ETH_LEN + 20) as u32, &icmp)?;
    Some(kernel::redirect(kernel::skb(ctx).ifindex, 0) as i32)
}

#[inline(always)]
fn answer_v6<const Q: usize, const I: usize>(
    ctx: &TcContext,
    packet: &Packet,
    limit: u32,
) -> Option<i32> {
    let mut icmp = [0u32; I];
    let mut quoted = [0u32; Q];
    kernel::load_into(ctx, ETH_LEN as u32, &mut quoted)?;
    for (to, from) in icmp[2..].iter_mut().zip(quoted) {
        *to = from;
    }
    // Packet too big; destination unreachable, the port.
    [icmp[0], icmp[1]] = said(limit, [2, 0], [1, 4]);
    let len = (I * 4) as u32;
    let (s, d) = (packet.dst, packet.src);
    let mut pseudo =
        [s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3], len.to_be(), u32::from(ICMPV6).to_be()];
    let seed = sum(&mut pseudo, 0);
    let check = fold(u64::from(sum(&mut icmp, seed)));
    icmp[0] |= u32::from(check) << 16;
    let length = (len as u16).to_be_bytes();
    let ip = [
        u32::from_ne_bytes([0x60, 0, 0, 0]),
        u32::from_ne_bytes([length[0], length[1], ICMPV6, 64]),
        s[0],
        s[1],
        s[2],
        s[3],
        d[0],
        d[1],
        d[2],
        d[3],
    ];
    send_back(ctx, ETH_LEN + 40 + len as usize)?;
    kernel::store(ctx, ETH_LEN as u32, &ip)?;
    kernel::store(ctx, (ETH_LEN + 40) as u32, &icmp)?;
    Some(kernel::redirect(kernel::skb(ctx).ifindex, 0) as i32)
}
