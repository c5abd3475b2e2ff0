//! The programs of a real server at tc: one takes packets out of tunnels, one asks clients for
//! segments that fit into them.

use aya_ebpf::{macros::classifier, programs::TcContext};
use nines_abi::DROP_MANGLED;

use crate::{
    forward::tc::{drop, NEXT},
    tunnel::decap::{self, Done},
};

/// What came through a tunnel.
#[classifier]
#[inline(always)]
pub fn nines_decap(ctx: TcContext) -> i32 {
    match decap::unwrap(&ctx) {
        Done::Nothing | Done::Unwrapped => NEXT,
        Done::Again(code) => code,
        Done::Failed => drop(DROP_MANGLED),
    }
}

/// What this server asks of clients behind a tunnel.
#[classifier]
#[inline(always)]
pub fn nines_clamp(ctx: TcContext) -> i32 {
    // What is no SYN is as it was.
    let _ = decap::clamp(&ctx);
    NEXT
}
