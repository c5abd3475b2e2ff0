//! The nines kernel program: two entry points at ingress (tc, XDP), one at egress (tc), one core.
//!
//! Decides: how a [`decide::Verdict`] becomes a kernel return code, one match an entry point.
//! What happens to a packet is decided in `decide.rs`; how headers are read in `packet.rs`; how they
//! are changed in `rewrite.rs`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod atomic;
mod decide;
mod flows;
mod maps;
mod packet;
mod rewrite;
mod schedule;
mod states;

use aya_ebpf::{
    bindings::{xdp_action, TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

use crate::decide::Verdict;

/// TC_ACT_UNSPEC: with tcx "next program", with clsact "next filter, else up the stack".
const NEXT: i32 = TC_ACT_UNSPEC;

/// Every packet that reaches the device, when XDP did not take it.
#[classifier]
pub fn nines_tc_ingress(ctx: TcContext) -> i32 {
    let Some(packet) = rewrite::parse_skb(&ctx) else {
        return NEXT;
    };
    match decide::ingress(&packet, true) {
        Verdict::Pass => NEXT,
        Verdict::Drop(reason) => {
            maps::count_drop(reason);
            TC_ACT_SHOT
        }
        Verdict::Direct(_, server) => rewrite::tc_direct(&ctx, &packet, server),
        Verdict::Nat(server) => rewrite::tc_nat(&ctx, &packet, server),
        Verdict::Reply(server) => rewrite::tc_reply(&ctx, &packet, server),
    }
}

/// Every packet that leaves the device: nothing speaks for a guarded address past its deadline.
#[classifier]
pub fn nines_tc_egress(ctx: TcContext) -> i32 {
    let Some(packet) = packet::parse(ctx.data(), ctx.data_end()) else {
        return NEXT;
    };
    match decide::egress(&packet) {
        Verdict::Drop(reason) => {
            maps::count_drop(reason);
            TC_ACT_SHOT
        }
        _ => NEXT,
    }
}

/// The fast path. What it cannot do (NAT, an unresolved neighbour, another device's route) goes up
/// to [`nines_tc_ingress`], which decides the same way because the flow is in the same table.
#[xdp]
pub fn nines_xdp(ctx: XdpContext) -> u32 {
    let Some(packet) = packet::parse(ctx.data(), ctx.data_end()) else {
        return xdp_action::XDP_PASS;
    };
    if !decide::xdp_takes(&packet) {
        return xdp_action::XDP_PASS;
    }
    match decide::ingress(&packet, false) {
        Verdict::Drop(reason) => {
            maps::count_drop(reason);
            xdp_action::XDP_DROP
        }
        Verdict::Direct(slot, server) => {
            let sent = rewrite::xdp_direct(&ctx, &packet, server);
            if sent != xdp_action::XDP_PASS {
                maps::count(slot, server.service, packet.bytes, false);
            }
            sent
        }
        Verdict::Pass | Verdict::Nat(_) | Verdict::Reply(_) => xdp_action::XDP_PASS,
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Licence of the object as the kernel reads it.
#[no_mangle]
#[link_section = "license"]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
