//! Sends packets on at tc: next hop, and what is changed before.
//!
//! Decides: how a verdict is carried out. The neighbour is left to the kernel
//! (`bpf_redirect_neigh`, Linux 5.10).

use core::mem::size_of;

use aya_ebpf::{
    bindings::{bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::bpf_redirect_neigh,
    programs::TcContext,
    EbpfContext as _,
};
use nines_abi::{Packet, Server, Via, DETOUR_MAC, DROP_MANGLED, DROP_NO_ROUTE, DROP_TTL};

use super::{
    deliver::arrived,
    icmp_error,
    rewrite::{age, mangle, mangle_addresses, Change},
};
use crate::{
    fib::{Fib, AF_INET, AF_INET6, FIB_NO_NEIGH, FIB_SUCCESS},
    frame::Frame,
    kernel,
    maps::count_drop,
    parse::packet::{words, Ends, ERROR, FRAGMENT},
    service::server::{known_as, port_of},
};

/// TC_ACT_UNSPEC: with tcx "next program", with clsact "next filter, else up the stack".
pub const NEXT: i32 = TC_ACT_UNSPEC;

#[inline(always)]
pub fn drop(reason: u32) -> i32 {
    count_drop(reason);
    TC_ACT_SHOT
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
    // SAFETY: the kernel reads as many bytes as `to` has.
    unsafe { bpf_redirect_neigh(ifindex, &mut to, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}

#[inline(always)]
pub fn tc_direct(ctx: &TcContext, packet: &Packet, server: &Server) -> i32 {
    if packet.ttl <= 1 {
        return drop(DROP_TTL);
    }
    if age(Frame::of_skb(ctx), packet).is_none() {
        return drop(DROP_MANGLED);
    }
    redirect(server.ifindex, words(&server.nexthop), packet.v6 != 0)
}

/// To this host by the device that the server names: there a rule of policy routing does not lead
/// it away for its mark.
#[inline(always)]
pub fn tc_home(ctx: &TcContext, packet: &Packet, slot: u32, server: &Server) -> i32 {
    const INGRESS: u64 = 1;
    if kernel::skb(ctx).ifindex == server.ifindex {
        arrived(packet, slot, server);
        return NEXT;
    }
    if ctx.skb.store(0, &DETOUR_MAC, 0).is_err() {
        return drop(DROP_MANGLED);
    }
    kernel::redirect(server.ifindex, INGRESS) as i32
}

#[inline(always)]
pub fn tc_nat(ctx: &TcContext, packet: &Packet, server: &Server, change: Change) -> i32 {
    if packet.ttl <= 1 {
        return drop(DROP_TTL);
    }
    let (to, port) = (words(&server.addr), port_of(server, packet.dport));
    if age(Frame::of_skb(ctx), packet).is_none() || change(ctx, packet, false, to, port).is_none() {
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
    fib.ifindex = kernel::skb(ctx).ifindex;
    let found = fib.look(ctx.as_ptr());
    if found != FIB_SUCCESS && found != FIB_NO_NEIGH {
        return drop(DROP_NO_ROUTE);
    }
    if age(Frame::of_skb(ctx), packet).is_none() || change(ctx, packet, true, from, port).is_none()
    {
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
        fib.ifindex = kernel::skb(ctx).ifindex;
        let found = fib.look(ctx.as_ptr());
        if found != FIB_SUCCESS && found != FIB_NO_NEIGH {
            return drop(DROP_NO_ROUTE);
        }
        ifindex = fib.ifindex;
        nexthop = if packet.v6 != 0 { fib.dst } else { [0, 0, 0, fib.dst[0]] };
    }
    if age(Frame::of_skb(ctx), packet).is_none() || replace(ctx, packet, ends).is_none() {
        return drop(DROP_MANGLED);
    }
    redirect(ifindex, nexthop, packet.v6 != 0)
}

#[inline(always)]
fn replace(ctx: &TcContext, packet: &Packet, ends: &Ends) -> Option<()> {
    match packet.kind {
        ERROR => icmp_error::translate_full(ctx, packet, ends),
        FRAGMENT => {
            mangle_addresses(ctx, packet, false, ends.dst, 0)?;
            mangle_addresses(ctx, packet, true, ends.src, 0)
        }
        _ => {
            mangle(ctx, packet, false, ends.dst, ends.dport)?;
            mangle(ctx, packet, true, ends.src, ends.sport)
        }
    }
}
