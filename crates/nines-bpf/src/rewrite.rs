//! Changes headers and sends packets on: TTL, NAT with checksums, next hop. XDP's part is in
//! `xdp_forward.rs`, outer headers are in `tunnel.rs`, what routers say of packets in `errors.rs`.
//!
//! The neighbour is left to the kernel (`bpf_redirect_neigh`, 5.10).

use core::mem::{offset_of, size_of};

use aya_ebpf::{
    bindings::{bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1, TC_ACT_SHOT},
    helpers::generated::{bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh},
    programs::TcContext,
    EbpfContext as _,
};
use nines_abi::{Packet, Server, Via, DETOUR_MAC, DROP_MANGLED, DROP_NO_ROUTE, DROP_TTL};

use crate::{
    errors,
    full_nat::Ends,
    maps::count_drop,
    nat::{known_as, port_of},
    packet::{self, SCTP, TCP},
    pipeline::{self, words},
    sctp, NEXT,
};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
pub const ETH_LEN: usize = 14;
/// Ethernet, the longest IPv4 header or IPv6 with one extension, a TCP header.
const HEADERS: u32 = 14 + 60 + 20;

pub const F_PSEUDO_HDR: u64 = 1 << 4;
const F_MARK_MANGLED_0: u64 = 1 << 5;

/// Parses an skb whose headers may lie outside its linear part.
#[inline(always)]
pub fn parse_skb(ctx: &TcContext) -> Option<&'static mut Packet> {
    if let Some(packet) = packet::parse(ctx.data(), ctx.data_end()) {
        return Some(packet);
    }
    if ctx.data() + HEADERS as usize <= ctx.data_end() {
        return None;
    }
    let want = if ctx.len() < HEADERS { ctx.len() } else { HEADERS };
    ctx.skb.pull_data(want).ok()?;
    packet::parse(ctx.data(), ctx.data_end())
}

#[inline(always)]
pub fn drop(reason: u32) -> i32 {
    count_drop(reason);
    TC_ACT_SHOT
}

/// Lowers TTL or hop limit in place; the caller has seen that it is above 1.
#[inline(always)]
pub fn age(data: usize, end: usize, packet: &Packet) -> bool {
    if packet.v6 != 0 {
        if data + ETH_LEN + 40 > end {
            return false;
        }
        unsafe { *((data + ETH_LEN + 7) as *mut u8) = (packet.ttl - 1) as u8 };
        return true;
    }
    if data + ETH_LEN + 20 > end {
        return false;
    }
    // RFC 1624, as the kernel's ip_decrease_ttl: TTL is the high byte of its word.
    let sum = (data + ETH_LEN + 10) as *mut u16;
    unsafe {
        let raised = u32::from(*sum) + u32::from(0x0100u16.to_be());
        *sum = (raised + (raised >= 0xffff) as u32) as u16;
        *((data + ETH_LEN + 8) as *mut u8) = (packet.ttl - 1) as u8;
    }
    true
}

/// Sends the skb to `nexthop` over `ifindex`; the kernel finds the neighbour.
#[inline(always)]
pub fn redirect(ifindex: u32, nexthop: [u32; 4], v6: bool) -> i32 {
    let mut to = if v6 {
        bpf_redir_neigh {
            nh_family: AF_INET6,
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: nexthop },
        }
    } else {
        bpf_redir_neigh {
            nh_family: AF_INET,
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: [nexthop[3], 0, 0, 0] },
        }
    };
    unsafe { bpf_redirect_neigh(ifindex, &mut to, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}

#[inline(always)]
pub fn tc_direct(ctx: &TcContext, packet: &Packet, server: &Server) -> i32 {
    if packet.ttl <= 1 {
        return drop(DROP_TTL);
    }
    if !age(ctx.data(), ctx.data_end(), packet) {
        return drop(DROP_MANGLED);
    }
    redirect(server.ifindex, words(&server.nexthop), packet.v6 != 0)
}

/// To this host by the device that the server names: there a rule of policy routing does not lead
/// it away for its mark.
#[inline(always)]
pub fn tc_home(ctx: &TcContext, packet: &Packet, slot: u32, server: &Server) -> i32 {
    const INGRESS: u64 = 1;
    if unsafe { (*ctx.skb.skb).ifindex } == server.ifindex {
        pipeline::arrived(packet, slot, server);
        return NEXT;
    }
    if ctx.skb.store(0, &DETOUR_MAC, 0).is_err() {
        return drop(DROP_MANGLED);
    }
    unsafe { bpf_redirect(server.ifindex, INGRESS) as i32 }
}

#[inline(always)]
pub fn tc_nat(ctx: &TcContext, packet: &Packet, server: &Server, change: Change) -> i32 {
    if packet.ttl <= 1 {
        return drop(DROP_TTL);
    }
    let (to, port) = (words(&server.addr), port_of(server, packet.dport));
    if !age(ctx.data(), ctx.data_end(), packet) || change(ctx, packet, false, to, port).is_none() {
        return drop(DROP_MANGLED);
    }
    redirect(server.ifindex, words(&server.nexthop), packet.v6 != 0)
}

/// The answer of a real server, on its way to the client: never up this stack, which would call a
/// packet from its own address a martian.
#[inline(always)]
pub fn tc_reply(
    ctx: &TcContext,
    packet: &Packet,
    server: &Server,
    via: &Via,
    change: Change,
) -> i32 {
    if packet.ttl <= 1 {
        return drop(DROP_TTL);
    }
    let (from, port) = known_as(server, via);
    let mut fib = Fib::towards(packet, from);
    fib.ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let found = fib.look(ctx.as_ptr());
    if found != FIB_SUCCESS && found != FIB_NO_NEIGH {
        return drop(DROP_NO_ROUTE);
    }
    if !age(ctx.data(), ctx.data_end(), packet) || change(ctx, packet, true, from, port).is_none() {
        return drop(DROP_MANGLED);
    }
    let nexthop = if packet.v6 != 0 { fib.dst } else { [0, 0, 0, fib.dst[0]] };
    redirect(fib.ifindex, nexthop, packet.v6 != 0)
}

/// Source and destination both, in a packet of any kind; to the server, or back to its client.
#[inline(always)]
pub fn tc_full(ctx: &TcContext, packet: &Packet, server: &Server, ends: &Ends) -> i32 {
    if packet.ttl <= 1 {
        return drop(DROP_TTL);
    }
    let (mut ifindex, mut nexthop) = (server.ifindex, words(&server.nexthop));
    if packet.answer != 0 {
        let mut fib = Fib::new(packet.v6 != 0, packet.proto, ends.src, ends.dst);
        fib.ifindex = unsafe { (*ctx.skb.skb).ifindex };
        let found = fib.look(ctx.as_ptr());
        if found != FIB_SUCCESS && found != FIB_NO_NEIGH {
            return drop(DROP_NO_ROUTE);
        }
        ifindex = fib.ifindex;
        nexthop = if packet.v6 != 0 { fib.dst } else { [0, 0, 0, fib.dst[0]] };
    }
    if !age(ctx.data(), ctx.data_end(), packet) || replace(ctx, packet, ends).is_none() {
        return drop(DROP_MANGLED);
    }
    redirect(ifindex, nexthop, packet.v6 != 0)
}

#[inline(always)]
fn replace(ctx: &TcContext, packet: &Packet, ends: &Ends) -> Option<()> {
    match packet.kind {
        packet::ERROR => errors::translate_full(ctx, packet, ends),
        packet::FRAGMENT => {
            mangle_addresses(ctx, packet, false, ends.dst, 0)?;
            mangle_addresses(ctx, packet, true, ends.src, 0)
        }
        _ => {
            mangle(ctx, packet, false, ends.dst, ends.dport)?;
            mangle(ctx, packet, true, ends.src, ends.sport)
        }
    }
}

/// How the addresses of a packet are replaced: [`mangle`], or [`crate::errors::translate`] in an
/// ICMP error. Each program knows which, and has the code of one only.
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
            skb.store(l4 + 8, &sctp::follow(packet, source, port, old)?, 0).ok()?;
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

/// `struct bpf_fib_lookup` (uapi/linux/bpf.h) without its unions; 64 bytes.
#[repr(C)]
pub struct Fib {
    family: u8,
    l4_protocol: u8,
    sport: u16,
    dport: u16,
    tot_len: u16,
    pub ifindex: u32,
    tos: u32,
    src: [u32; 4],
    dst: [u32; 4],
    vlan: u32,
    pub smac: [u8; 6],
    pub dmac: [u8; 6],
}
const _: () = assert!(size_of::<Fib>() == 64 && offset_of!(Fib, dmac) == 58);

pub const FIB_SUCCESS: i64 = 0;
pub const FIB_NO_NEIGH: i64 = 7;

impl Fib {
    /// The way to the packet's destination, when it has `src` as source.
    #[inline(always)]
    pub fn towards(packet: &Packet, src: [u32; 4]) -> Self {
        Self::new(packet.v6 != 0, packet.proto, src, packet.dst)
    }

    #[inline(always)]
    pub fn new(v6: bool, proto: u8, src: [u32; 4], dst: [u32; 4]) -> Self {
        Self {
            family: if v6 { AF_INET6 as u8 } else { AF_INET as u8 },
            l4_protocol: proto,
            sport: 0,
            dport: 0,
            tot_len: 0,
            ifindex: 0,
            tos: 0,
            src: if v6 { src } else { [src[3], 0, 0, 0] },
            dst: if v6 { dst } else { [dst[3], 0, 0, 0] },
            vlan: 0,
            smac: [0; 6],
            dmac: [0; 6],
        }
    }

    #[inline(always)]
    pub fn look(&mut self, ctx: *mut core::ffi::c_void) -> i64 {
        let params = (self as *mut Self).cast();
        unsafe { bpf_fib_lookup(ctx, params, size_of::<Self>() as i32, 0) }
    }
}
