//! The programs of a director at tc: those at ingress, the one at egress, and the one that takes
//! flows of other directors.

use aya_ebpf::{macros::classifier, programs::TcContext, EbpfContext as _};
use nines_abi::{
    Packet, DROP_MANGLED, DROP_NO_SERVER, PROGRAM_DELIVER, PROGRAM_ERROR, PROGRAM_FRAGMENT,
    PROGRAM_FULL_NAT, PROGRAM_NEW, PROGRAM_REFUSE,
};

use crate::{
    clock, flow_sync,
    forward::{
        deliver::deliver_to,
        icmp_error,
        rewrite::{mangle, mangle_addresses, Change},
        tc::{self, drop, NEXT},
    },
    guard::martian::Door,
    kernel, maps,
    nat::{
        self,
        full_nat::{self, snat_port},
        proxy_protocol,
    },
    parse::{
        headers,
        packet::{self, parsed},
        quic, sip, vlan,
    },
    pipeline::{self, fragment, insert, new_flow},
    reply::{cookie, icmp},
    service::admit,
    tunnel::encap,
    verdict::Verdict,
};

/// Every packet that reaches the device, when XDP did not take it.
#[classifier]
#[inline(always)]
pub fn nines_tc_ingress(ctx: TcContext) -> i32 {
    if vlan::is_elsewhere(&ctx) {
        return NEXT;
    }
    let Some(packet) = headers::parse_skb(&ctx) else {
        return NEXT;
    };
    match pipeline::ingress(packet, true) {
        Verdict::Tunnel(slot, _) => go_to(&ctx, packet, slot),
        Verdict::New => go_on(&ctx, PROGRAM_NEW),
        Verdict::Error => go_on(&ctx, PROGRAM_ERROR),
        Verdict::Fragment => go_on(&ctx, PROGRAM_FRAGMENT),
        verdict => tc_act(&ctx, packet, verdict, mangle),
    }
}

/// Of no known flow.
#[classifier]
#[inline(always)]
pub fn nines_tc_new(ctx: TcContext) -> i32 {
    tc_stage(&ctx, |packet| new_flow::new(packet, mark(&ctx), || door(&ctx), true))
}

/// Its service does not let everybody begin as many as he likes.
#[classifier]
#[inline(always)]
pub fn nines_tc_admit(ctx: TcContext) -> i32 {
    tc_stage(&ctx, admit::admit)
}

/// The client is asked for a cookie, or shows one.
#[classifier]
#[inline(always)]
pub fn nines_tc_cookie(ctx: TcContext) -> i32 {
    let Some(packet) = parsed() else {
        return NEXT;
    };
    match cookie::tc(&ctx, packet) {
        Ok(act) => act,
        Err(verdict) => tc_stage(&ctx, |_| verdict),
    }
}

/// The datagram may name its server.
#[classifier]
#[inline(always)]
pub fn nines_tc_quic(ctx: TcContext) -> i32 {
    tc_stage(&ctx, |packet| match ctx.skb.load(quic::payload(packet) as usize) {
        Ok(payload) => quic::route(packet, &payload),
        Err(_) => Verdict::Go(PROGRAM_NEW),
    })
}

/// The datagram may be of a call.
#[classifier]
#[inline(always)]
pub fn nines_tc_sip(ctx: TcContext) -> i32 {
    tc_stage(&ctx, |packet| sip::tc(&ctx, packet))
}

/// The scheduler goes by hash, and on from there.
#[classifier]
#[inline(always)]
pub fn nines_tc_schedule_fallback(ctx: TcContext) -> i32 {
    tc_stage(&ctx, new_flow::fall_back)
}

/// The scheduler weighs its servers.
#[classifier]
#[inline(always)]
pub fn nines_tc_schedule_load(ctx: TcContext) -> i32 {
    tc_stage(&ctx, new_flow::by_load)
}

/// The scheduler remembers destinations.
#[classifier]
#[inline(always)]
pub fn nines_tc_schedule_locality(ctx: TcContext) -> i32 {
    tc_stage(&ctx, new_flow::by_locality)
}

/// The scheduler draws lots.
#[classifier]
#[inline(always)]
pub fn nines_tc_schedule_random(ctx: TcContext) -> i32 {
    tc_stage(&ctx, new_flow::by_random)
}

/// The flow becomes known.
#[classifier]
#[inline(always)]
pub fn nines_tc_insert(ctx: TcContext) -> i32 {
    tc_stage(&ctx, |packet| insert::insert_flow(packet, true))
}

/// The same by NAT.
#[classifier]
#[inline(always)]
pub fn nines_tc_insert_nat(ctx: TcContext) -> i32 {
    tc_stage(&ctx, |packet| insert::insert_nat(packet))
}

/// By full NAT it gets a source.
#[classifier]
#[inline(always)]
pub fn nines_tc_source_address(ctx: TcContext) -> i32 {
    tc_stage(&ctx, snat_port::choose_source)
}

/// And a port.
#[classifier]
#[inline(always)]
pub fn nines_tc_source_port(ctx: TcContext) -> i32 {
    tc_stage(&ctx, snat_port::choose_port)
}

/// The same by full NAT.
#[classifier]
#[inline(always)]
pub fn nines_tc_insert_full_nat(ctx: TcContext) -> i32 {
    let number =
        |packet: &Packet| u32::from_be(ctx.skb.load(packet.l4 as usize + 4).unwrap_or_default());
    tc_stage(&ctx, |packet| insert::insert_full_nat(packet, number))
}

#[inline(always)]
fn tc_stage(ctx: &TcContext, stage: impl FnOnce(&mut Packet) -> Verdict) -> i32 {
    let Some(packet) = parsed() else {
        return NEXT;
    };
    match stage(packet) {
        Verdict::Go(program) => go_on(ctx, program),
        Verdict::New => go_on(ctx, PROGRAM_NEW),
        Verdict::Drop(DROP_NO_SERVER) => {
            maps::count_drop(DROP_NO_SERVER);
            packet.chosen = icmp::NOBODY;
            go_on(ctx, PROGRAM_REFUSE)
        }
        Verdict::Drop(reason) => drop(reason),
        _ => NEXT,
    }
}

/// To a server that is chosen.
#[classifier]
#[inline(always)]
pub fn nines_tc_deliver(ctx: TcContext) -> i32 {
    let Some(packet) = parsed() else {
        return NEXT;
    };
    match deliver_to(packet, packet.chosen, packet.kind != packet::ERROR) {
        Verdict::Tunnel(_, server) => encap::tc(&ctx, packet, server),
        verdict => tc_act(&ctx, packet, verdict, mangle),
    }
}

/// ICMP errors.
#[classifier]
#[inline(always)]
pub fn nines_tc_error(ctx: TcContext) -> i32 {
    let Some(packet) = parsed() else {
        return NEXT;
    };
    match pipeline::error(packet, mark(&ctx)) {
        Verdict::Tunnel(slot, _) => go_to(&ctx, packet, slot),
        verdict => tc_act(&ctx, packet, verdict, icmp_error::translate),
    }
}

/// Fragments without ports.
#[classifier]
#[inline(always)]
pub fn nines_tc_fragment(ctx: TcContext) -> i32 {
    let Some(packet) = parsed() else {
        return NEXT;
    };
    match fragment::follow(packet, clock::exact()) {
        Verdict::Tunnel(_, server) => encap::tc(&ctx, packet, server),
        verdict => tc_act(&ctx, packet, verdict, mangle_addresses),
    }
}

/// What goes nowhere; who sent it hears why: it is too big for a tunnel, or nobody serves.
#[classifier]
#[inline(always)]
pub fn nines_tc_refuse(ctx: TcContext) -> i32 {
    let Some(packet) = parsed() else {
        return NEXT;
    };
    icmp::refuse(&ctx, packet)
}

/// Both entries of a flow by full NAT must know of the packet.
#[classifier]
#[inline(always)]
pub fn nines_tc_update_full_nat(ctx: TcContext) -> i32 {
    tc_stage(&ctx, |packet| full_nat::update(packet, true))
}

/// The answers of a flow by full NAT have no entry.
#[classifier]
#[inline(always)]
pub fn nines_tc_insert_reply(ctx: TcContext) -> i32 {
    tc_stage(&ctx, |packet| full_nat::insert_reply(packet))
}

/// Both entries of a flow by NAT.
#[classifier]
#[inline(always)]
pub fn nines_tc_update_nat(ctx: TcContext) -> i32 {
    tc_stage(&ctx, |packet| nat::update(packet, true))
}

/// An answer by NAT, after that.
#[classifier]
#[inline(always)]
pub fn nines_tc_reply(ctx: TcContext) -> i32 {
    let Some(packet) = parsed() else {
        return NEXT;
    };
    match maps::SERVERS.get(packet.chosen) {
        Some(server) => tc::tc_reply(&ctx, packet, server, &packet.via, mangle),
        None => NEXT,
    }
}

/// Full NAT, both ways.
#[classifier]
#[inline(always)]
pub fn nines_tc_full_nat(ctx: TcContext) -> i32 {
    let Some(packet) = parsed() else {
        return NEXT;
    };
    let Some(server) = maps::SERVERS.get(packet.chosen) else {
        return NEXT;
    };
    match full_nat::ends(packet, server) {
        Some(ends) => tc::tc_full(&ctx, packet, server, &ends),
        None => tc_stage(&ctx, full_nat::lost),
    }
}

/// The same where the server is told who its client is.
#[classifier]
#[inline(always)]
pub fn nines_tc_proxy(ctx: TcContext) -> i32 {
    let Some(packet) = parsed() else {
        return NEXT;
    };
    match proxy_protocol::tc(&ctx, packet) {
        proxy_protocol::Next::Full => go_on(&ctx, PROGRAM_FULL_NAT),
        proxy_protocol::Next::New => go_on(&ctx, PROGRAM_NEW),
        proxy_protocol::Next::Drop => drop(DROP_MANGLED),
    }
}

/// The device that a packet came in by. What has a mark was here before, and came in once more.
#[inline(always)]
fn door(ctx: &TcContext) -> Door {
    let ifindex = if mark(ctx) == 0 { kernel::skb(ctx).ifindex } else { 0 };
    Door { ctx: ctx.as_ptr(), ifindex, mac: ctx.skb.load(0).unwrap_or_default() }
}

#[inline(always)]
fn mark(ctx: &TcContext) -> u32 {
    kernel::skb(ctx).mark
}

#[inline(always)]
fn tc_act(ctx: &TcContext, packet: &Packet, verdict: Verdict, change: Change) -> i32 {
    match verdict {
        Verdict::Drop(reason) => drop(reason),
        Verdict::Direct(_, server) => tc::tc_direct(ctx, packet, server),
        Verdict::Home(slot, server) => tc::tc_home(ctx, packet, slot, server),
        Verdict::Nat(_, server) => tc::tc_nat(ctx, packet, server, change),
        Verdict::Reply(server, via) => tc::tc_reply(ctx, packet, server, &via, change),
        Verdict::Go(program) => go_on(ctx, program),
        _ => NEXT,
    }
}

/// [`nines_tc_deliver`] sends it to the server in this slot.
#[inline(always)]
fn go_to(ctx: &TcContext, packet: &mut Packet, slot: u32) -> i32 {
    packet.chosen = slot;
    go_on(ctx, PROGRAM_DELIVER)
}

/// The next program decides; user space has loaded it before a table needs it.
#[inline(always)]
fn go_on(ctx: &TcContext, program: u32) -> i32 {
    kernel::tail_call(&maps::PROGRAMS, ctx, program);
    // The kernel lets so many follow one another (MAX_TAIL_CALL_CNT): whose server leaves again and
    // again comes here.
    drop(DROP_NO_SERVER)
}

/// Every packet that leaves the device: nothing speaks for a guarded address past its deadline.
#[classifier]
#[inline(always)]
pub fn nines_tc_egress(ctx: TcContext) -> i32 {
    let Some(packet) = headers::parse_leaving(vlan::behind_tag(&ctx)) else {
        return NEXT;
    };
    match pipeline::egress(packet) {
        Verdict::Drop(reason) => drop(reason),
        _ => NEXT,
    }
}

/// Once for each flow in map `SYNC_IMPORT`, by BPF_PROG_TEST_RUN; the packet is nobody's.
#[classifier]
#[inline(always)]
pub fn nines_flow_import(_ctx: TcContext) -> i32 {
    flow_sync::import_next();
    NEXT
}
