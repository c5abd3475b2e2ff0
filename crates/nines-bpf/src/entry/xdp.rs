//! The programs at XDP: those of `tc.rs` once more, with XDP's return codes and its way of sending.

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext, EbpfContext as _};
use nines_abi::{Packet, Server, Via, DROP_NO_SERVER, PROGRAM_DELIVER, PROGRAM_NEW};

use crate::{
    forward::{deliver::deliver_to, xdp},
    frame::Frame,
    guard::martian::Door,
    kernel, maps,
    nat::{
        self,
        full_nat::{self, snat_port},
        proxy_protocol,
    },
    parse::{
        headers,
        packet::{self, parsed, Ends},
        quic,
    },
    pipeline::{self, insert, new_flow},
    reply::{cookie, icmp},
    service::{self, admit},
    tunnel::{encap, ipip},
    verdict::Verdict,
};

/// The fast path. What it cannot do (an unresolved neighbour, a device that takes no frames from
/// XDP) goes up to `nines_tc_ingress`, which decides alike because both use one flow table.
#[xdp]
#[inline(always)]
pub fn nines_xdp(ctx: XdpContext) -> u32 {
    let Some(packet) = headers::parse(Frame::of_xdp(&ctx)) else {
        return xdp_action::XDP_PASS;
    };
    if !packet::xdp_takes(packet) {
        return xdp_action::XDP_PASS;
    }
    match pipeline::ingress(packet, false) {
        Verdict::Drop(reason) => {
            maps::count_drop(reason);
            xdp_action::XDP_DROP
        }
        Verdict::Direct(slot, server) => {
            xdp_count(slot, server, packet, xdp::direct(&ctx, packet, slot, server))
        }
        Verdict::Tunnel(slot, server) if ipip::is_ipip(packet, server) => {
            xdp_count(slot, server, packet, ipip::ipip(&ctx, packet, slot, server))
        }
        Verdict::Tunnel(slot, _) => xdp_go_to(&ctx, packet, slot),
        Verdict::Nat(slot, server) => {
            xdp_count(slot, server, packet, xdp::nat(&ctx, packet, slot, server))
        }
        Verdict::Reply(server, via) => xdp_reply(&ctx, packet, server, &via),
        Verdict::Go(program) => xdp_go_on(&ctx, program),
        Verdict::New if service::has_marks() => xdp_action::XDP_PASS,
        Verdict::New => xdp_go_on(&ctx, PROGRAM_NEW),
        _ => xdp_action::XDP_PASS,
    }
}

/// Of no known flow.
#[xdp]
#[inline(always)]
pub fn nines_xdp_new(ctx: XdpContext) -> u32 {
    let door = || {
        let mac = kernel::xdp_load(&ctx, 0).unwrap_or_default();
        Door { ctx: ctx.as_ptr(), ifindex: ctx.ingress_ifindex() as u32, mac }
    };
    xdp_stage(&ctx, |packet| new_flow::new(packet, 0, door, false))
}

/// Its service does not let everybody begin as many as he likes.
#[xdp]
#[inline(always)]
pub fn nines_xdp_admit(ctx: XdpContext) -> u32 {
    xdp_stage(&ctx, admit::admit)
}

/// The client is asked for a cookie, or shows one.
#[xdp]
#[inline(always)]
pub fn nines_xdp_cookie(ctx: XdpContext) -> u32 {
    let Some(packet) = parsed() else {
        return xdp_action::XDP_PASS;
    };
    match cookie::xdp(&ctx, packet) {
        Ok(act) => act,
        Err(verdict) => xdp_stage(&ctx, |_| verdict),
    }
}

/// The datagram may name its server.
#[xdp]
#[inline(always)]
pub fn nines_xdp_quic(ctx: XdpContext) -> u32 {
    xdp_stage(&ctx, |packet| match kernel::xdp_load(&ctx, quic::payload(packet)) {
        Some(payload) => quic::route(packet, &payload),
        None => Verdict::Go(PROGRAM_NEW),
    })
}

/// The scheduler goes by hash, and on from there.
#[xdp]
#[inline(always)]
pub fn nines_xdp_schedule_fallback(ctx: XdpContext) -> u32 {
    xdp_stage(&ctx, new_flow::fall_back)
}

/// The scheduler weighs its servers.
#[xdp]
#[inline(always)]
pub fn nines_xdp_schedule_load(ctx: XdpContext) -> u32 {
    xdp_stage(&ctx, new_flow::by_load)
}

/// The scheduler remembers destinations.
#[xdp]
#[inline(always)]
pub fn nines_xdp_schedule_locality(ctx: XdpContext) -> u32 {
    xdp_stage(&ctx, new_flow::by_locality)
}

/// The scheduler draws lots.
#[xdp]
#[inline(always)]
pub fn nines_xdp_schedule_random(ctx: XdpContext) -> u32 {
    xdp_stage(&ctx, new_flow::by_random)
}

/// The flow becomes known.
#[xdp]
#[inline(always)]
pub fn nines_xdp_insert(ctx: XdpContext) -> u32 {
    xdp_stage(&ctx, |packet| insert::insert_flow(packet, false))
}

/// By full NAT it gets a source.
#[xdp]
#[inline(always)]
pub fn nines_xdp_source_address(ctx: XdpContext) -> u32 {
    xdp_stage(&ctx, snat_port::choose_source)
}

/// And a port.
#[xdp]
#[inline(always)]
pub fn nines_xdp_source_port(ctx: XdpContext) -> u32 {
    xdp_stage(&ctx, snat_port::choose_port)
}

/// The same by full NAT.
#[xdp]
#[inline(always)]
pub fn nines_xdp_insert_full_nat(ctx: XdpContext) -> u32 {
    let number =
        |packet: &Packet| u32::from_be(kernel::xdp_load(&ctx, packet.l4 + 4).unwrap_or_default());
    xdp_stage(&ctx, |packet| insert::insert_full_nat(packet, number))
}

#[inline(always)]
fn xdp_stage(ctx: &XdpContext, stage: impl FnOnce(&mut Packet) -> Verdict) -> u32 {
    let Some(packet) = parsed() else {
        return xdp_action::XDP_PASS;
    };
    match stage(packet) {
        Verdict::Go(program) => xdp_go_on(ctx, program),
        Verdict::New if service::has_marks() => xdp_action::XDP_PASS,
        Verdict::New => xdp_go_on(ctx, PROGRAM_NEW),
        // tc finds nobody either, and says so.
        Verdict::Drop(DROP_NO_SERVER) if packet.flags & packet::RST == 0 && icmp::may_say() => {
            xdp_action::XDP_PASS
        }
        Verdict::Drop(reason) => {
            maps::count_drop(reason);
            xdp_action::XDP_DROP
        }
        _ => xdp_action::XDP_PASS,
    }
}

/// To a server that is chosen.
#[xdp]
#[inline(always)]
pub fn nines_xdp_deliver(ctx: XdpContext) -> u32 {
    let Some(packet) = parsed() else {
        return xdp_action::XDP_PASS;
    };
    match deliver_to(packet, packet.chosen, false) {
        Verdict::Direct(slot, server) => {
            xdp_count(slot, server, packet, xdp::direct(&ctx, packet, slot, server))
        }
        Verdict::Nat(slot, server) => {
            xdp_count(slot, server, packet, xdp::nat(&ctx, packet, slot, server))
        }
        Verdict::Tunnel(slot, server) => {
            let sent = if ipip::is_ipip(packet, server) {
                ipip::ipip(&ctx, packet, slot, server)
            } else {
                encap::xdp(&ctx, packet, slot, server)
            };
            xdp_count(slot, server, packet, sent)
        }
        Verdict::Go(program) => xdp_go_on(&ctx, program),
        _ => xdp_action::XDP_PASS,
    }
}

/// Both entries of a flow by full NAT must know of the packet.
#[xdp]
#[inline(always)]
pub fn nines_xdp_update_full_nat(ctx: XdpContext) -> u32 {
    xdp_stage(&ctx, |packet| full_nat::update(packet, false))
}

/// The answers of a flow by full NAT have no entry.
#[xdp]
#[inline(always)]
pub fn nines_xdp_insert_reply(ctx: XdpContext) -> u32 {
    xdp_stage(&ctx, |packet| full_nat::insert_reply(packet))
}

/// Both entries of a flow by NAT.
#[xdp]
#[inline(always)]
pub fn nines_xdp_update_nat(ctx: XdpContext) -> u32 {
    xdp_stage(&ctx, |packet| nat::update(packet, false))
}

/// An answer by NAT, after that.
#[xdp]
#[inline(always)]
pub fn nines_xdp_reply(ctx: XdpContext) -> u32 {
    let Some(packet) = parsed() else {
        return xdp_action::XDP_PASS;
    };
    let Some(server) = maps::SERVERS.get(packet.chosen) else {
        return xdp_action::XDP_PASS;
    };
    xdp_reply(&ctx, packet, server, &packet.via)
}

#[inline(always)]
fn xdp_reply(ctx: &XdpContext, packet: &Packet, server: &Server, via: &Via) -> u32 {
    let sent = xdp::reply(ctx, packet, server, via);
    if sent != xdp_action::XDP_PASS {
        maps::count(packet.chosen, server.service, packet.bytes, true);
    }
    sent
}

/// Full NAT, both ways.
#[xdp]
#[inline(always)]
pub fn nines_xdp_full_nat(ctx: XdpContext) -> u32 {
    xdp_full(&ctx, xdp::full)
}

/// The same where the server is told who its client is.
#[xdp]
#[inline(always)]
pub fn nines_xdp_proxy(ctx: XdpContext) -> u32 {
    xdp_full(&ctx, proxy_protocol::xdp)
}

#[inline(always)]
fn xdp_full(
    ctx: &XdpContext,
    change: impl FnOnce(&XdpContext, &Packet, &Server, &Ends) -> u32,
) -> u32 {
    let Some(packet) = parsed() else {
        return xdp_action::XDP_PASS;
    };
    let Some(server) = maps::SERVERS.get(packet.chosen) else {
        return xdp_action::XDP_PASS;
    };
    let Some(ends) = full_nat::ends(packet, server) else {
        return xdp_action::XDP_PASS;
    };
    let sent = change(ctx, packet, server, &ends);
    if sent != xdp_action::XDP_PASS {
        maps::count(packet.chosen, server.service, packet.bytes, packet.answer != 0);
    }
    sent
}

/// Counts what XDP sent; what it passes on tc counts.
#[inline(always)]
fn xdp_count(slot: u32, server: &Server, packet: &Packet, sent: u32) -> u32 {
    if sent != xdp_action::XDP_PASS {
        maps::count(slot, server.service, packet.bytes, false);
    }
    sent
}

#[inline(always)]
fn xdp_go_to(ctx: &XdpContext, packet: &mut Packet, slot: u32) -> u32 {
    packet.chosen = slot;
    xdp_go_on(ctx, PROGRAM_DELIVER)
}

#[inline(always)]
fn xdp_go_on(ctx: &XdpContext, program: u32) -> u32 {
    kernel::tail_call(&maps::XDP_PROGRAMS, ctx, program);
    xdp_action::XDP_PASS
}
