//! Selective acknowledgements (RFC 2018): what the server says it has beyond a gap.
//!
//! Decides: which of their numbers count the header.

use aya_ebpf::programs::TcContext;
use nines_abi::Packet;

use super::segment::{at_least_one, counts, length, replace};
use crate::{
    atomic::{read_once, write_once},
    kernel,
    maps::{own, BYTES},
};

/// Options that are looked at, and blocks of one that acknowledges selectively (RFC 2018).
const OPTIONS: u32 = 16;
const EDGES: u32 = 8;
/// Where in `BYTES` the place is kept that is looked at: what the verifier reads there it knows
/// nothing of, so every turn looks like the one before.
const PLACE: usize = 64;

/// The server's words on what it has beyond a gap are in its own numbers, too.
#[inline(always)]
pub fn selective(
    ctx: &TcContext,
    packet: &Packet,
    len: u32,
    first: u32,
    shown: bool,
) -> Option<()> {
    let bytes = own(&BYTES, 0)?;
    let len = at_least_one(len, 63);
    let from = packet.l4 + 20;
    kernel::load_bytes(ctx, from, bytes, len)?;
    write_once(&mut bytes[PLACE], 0);
    for _ in 0..OPTIONS {
        let at = u32::from(read_once(&bytes[PLACE]));
        if at + 1 >= len || at >= 40 {
            return Some(());
        }
        let (kind, size) = (bytes[at as usize & 63], u32::from(bytes[(at + 1) as usize & 63]));
        if kind == 5 {
            return edges(ctx, packet, (from + at + 2, size), first, shown);
        }
        if kind == 0 || (kind != 1 && size < 2) {
            return Some(());
        }
        let next = if kind == 1 { at + 1 } else { at + size };
        write_once(&mut bytes[PLACE], next as u8);
        if next > 40 {
            return Some(());
        }
    }
    Some(())
}

#[inline(always)]
fn edges(
    ctx: &TcContext,
    packet: &Packet,
    (from, size): (u32, u32),
    first: u32,
    shown: bool,
) -> Option<()> {
    let less = length(packet);
    for i in 0..EDGES {
        if 2 + 4 * i + 4 > size {
            break;
        }
        let at = (from + 4 * i) as usize;
        let old: u32 = ctx.skb.load(at).ok()?;
        let number = u32::from_be(old);
        if counts(packet, number, first, shown) {
            let new = number.wrapping_sub(less).to_be();
            replace(ctx, packet.l4 as usize + 16, at, old, new, at - packet.l4 as usize)?;
        }
    }
    Some(())
}
