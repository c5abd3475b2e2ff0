//! On real servers: takes the outer header off packets for VIPs that this machine serves, where the
//! kernel has no tunnel device to do it.
//!
//! The other way, it asks clients for segments that fit into the tunnel: their packets to the VIP
//! come through it, this machine's answers do not.
//!
//! Decides: what is a tunnel for us: IP in IP, GUE (variant 0, no flags), GRE (version 0), any
//! family in any, around a packet to an address in map `DECAP_ADDRESSES`. Everything else goes up
//! the stack as it came.

use aya_ebpf::programs::TcContext;
use nines_abi::Addr;

use crate::{
    atomic::opaque,
    kernel,
    maps::{find, DECAP_ADDRESSES},
    parse::packet::{bytes, ETH_LEN, SYN, TCP},
};

const ADJ_ROOM_MAC: u32 = 1;
const F_INGRESS: u64 = 1;
const V4: u16 = 0x0800;
const V6: u16 = 0x86dd;
const V6_LEN: u32 = 40;
/// What the header of a packet loses that becomes IPv4.
const V6_TO_V4: i32 = 20;

#[inline(always)]
fn is_served(key: &Addr) -> bool {
    find(&DECAP_ADDRESSES, key).is_some()
}

/// A UDP port of tunnels as a key: no address looks so.
#[inline(always)]
fn port_key(port: u16) -> Addr {
    bytes([0, 0, 0, u32::from(port)])
}

/// What [`decap`] did.
pub enum Done {
    /// Nothing: not for us.
    Nothing,
    /// The packet inside is all there is.
    Unwrapped,
    /// It is of another family and has to come in once more: the kernel's return code.
    Again(i32),
    /// It could not be changed.
    Failed,
}

/// Offset behind the outer IP header, and the protocol there.
#[inline(always)]
fn outer(ctx: &TcContext, ether: u16) -> Option<(usize, u8)> {
    if ether == V4 {
        let first: u8 = ctx.skb.load(ETH_LEN).ok()?;
        let fragment: u16 = ctx.skb.load(ETH_LEN + 6).ok()?;
        let proto: u8 = ctx.skb.load(ETH_LEN + 9).ok()?;
        if u16::from_be(fragment) & 0x3fff != 0 {
            return None;
        }
        Some((ETH_LEN + usize::from(first & 15) * 4, proto))
    } else if ether == V6 {
        Some((ETH_LEN + 40, ctx.skb.load(ETH_LEN + 6).ok()?))
    } else {
        None
    }
}

/// Offset of the inner IP header, and its family.
#[inline(always)]
fn inner(ctx: &TcContext, at: usize, proto: u8) -> Option<(usize, u16)> {
    match proto {
        4 => Some((at, V4)),
        41 => Some((at, V6)),
        47 => {
            let [flags, kind]: [u16; 2] = ctx.skb.load(at).ok()?;
            let flags = u16::from_be(flags);
            // Checksum, key and sequence number are four bytes each; routing (RFC 1701) is not
            // ours.
            if flags & 0x4fff != 0 {
                return None;
            }
            let more = (flags >> 15 & 1) + (flags >> 13 & 1) + (flags >> 12 & 1);
            Some((at + 4 + usize::from(more) * 4, u16::from_be(kind)))
        }
        17 => {
            let port: u16 = ctx.skb.load(at + 2).ok()?;
            let [first, kind, flags, more]: [u8; 4] = ctx.skb.load(at + 8).ok()?;
            // Variant 0, no control message, no extensions.
            if !is_served(&port_key(port)) || first != 0 || flags != 0 || more != 0 {
                return None;
            }
            match kind {
                4 => Some((at + 12, V4)),
                41 => Some((at + 12, V6)),
                _ => None,
            }
        }
        _ => None,
    }
}

#[inline(always)]
pub fn unwrap(ctx: &TcContext) -> Done {
    // PACKET_HOST: others' are not ours to open.
    if kernel::skb(ctx).pkt_type != 0 {
        return Done::Nothing;
    }
    let Ok(ether) = ctx.skb.load::<u16>(12) else {
        return Done::Nothing;
    };
    let ether = u16::from_be(ether);
    let Some((at, proto)) = outer(ctx, ether) else {
        return Done::Nothing;
    };
    let Some((at, family)) = inner(ctx, at, proto) else {
        return Done::Nothing;
    };
    let to = if family == V4 {
        ctx.skb.load::<u32>(at + 16).map(|word| [0, 0, 0xffffu32.to_be(), word])
    } else if family == V6 {
        ctx.skb.load::<[u32; 4]>(at + 24)
    } else {
        return Done::Nothing;
    };
    let Ok(to) = to else {
        return Done::Nothing;
    };
    if !is_served(&bytes(to)) {
        return Done::Nothing;
    }
    let mut less = opaque((at - ETH_LEN) as u64) as i32 & 127;
    if ether == V6 && family == V4 && ctx.skb.len() < at as u32 + V6_LEN {
        // The kernel leaves no less than a header of the outer family; as IPv4 it may be shorter.
        if ctx.skb.change_proto(V4.to_be(), 0).is_err() {
            return Done::Failed;
        }
        less -= V6_TO_V4;
    }
    if ctx.skb.adjust_room(-less, ADJ_ROOM_MAC, 0).is_err() {
        return Done::Failed;
    }
    if family == ether {
        return Done::Unwrapped;
    }
    // The kernel learns an skb's family from its Ethernet header, when it comes in.
    if ctx.skb.store(12, &family.to_be(), 0).is_err() {
        return Done::Failed;
    }
    Done::Again(kernel::redirect(kernel::skb(ctx).ifindex, F_INGRESS) as i32)
}

/// Lowers the maximum segment size that a SYN or SYN-ACK from a served address asks for, by what
/// the tunnel takes. Linux has that option first.
#[inline(always)]
pub fn clamp(ctx: &TcContext) -> Option<()> {
    let ether = u16::from_be(ctx.skb.load::<u16>(12).ok()?);
    let (at, proto) = outer(ctx, ether)?;
    if proto != TCP {
        return None;
    }
    let [_, flags]: [u8; 2] = ctx.skb.load(at + 12).ok()?;
    if flags & SYN == 0 {
        return None;
    }
    let from = if ether == V4 {
        [0, 0, 0xffffu32.to_be(), ctx.skb.load::<u32>(ETH_LEN + 12).ok()?]
    } else {
        ctx.skb.load::<[u32; 4]>(ETH_LEN + 8).ok()?
    };
    let takes = *find(&DECAP_ADDRESSES, &bytes(from))? as u16;
    let [kind, size]: [u16; 2] = ctx.skb.load(at + 20).ok()?;
    let asked = u16::from_be(size);
    if kind != u16::from_ne_bytes([2, 4]) || asked <= takes {
        return None;
    }
    let less = (asked - takes).to_be();
    ctx.skb.l4_csum_replace(at + 16, u64::from(size), u64::from(less), 2).ok()?;
    ctx.skb.store(at + 22, &less, 0).ok()
}
