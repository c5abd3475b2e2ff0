//! The header, and the packet that carries it.
//!
//! Decides: what the header says, and that the packet which carries it carries nothing else.

use aya_ebpf::programs::TcContext;
use nines_abi::{Packet, BYTES_LEN};

use super::segment::{at_least_one, length, payload, replace, tcp_length, Words};
use crate::{
    forward::rewrite::F_PSEUDO_HDR,
    kernel,
    maps::{own, BYTES},
    parse::packet::{ETH_LEN, FIN},
};

/// The header, as words on the wire.
#[inline(always)]
fn header(packet: &Packet) -> [u32; 13] {
    let word = |bytes| u32::from_ne_bytes(bytes);
    let (family, rest) = if packet.v6 != 0 { (0x21, 36) } else { (0x11, 12) };
    let ports = u32::from(packet.sport) | u32::from(packet.dport) << 16;
    let (s, d) = (&packet.src, &packet.dst);
    let mut words = [
        word([0x0d, 0x0a, 0x0d, 0x0a]),
        word([0x00, 0x0d, 0x0a, 0x51]),
        word([0x55, 0x49, 0x54, 0x0a]),
        // Version 2, command PROXY; family, and TCP; bytes that follow.
        word([0x21, family, 0, rest]),
        s[3],
        d[3],
        ports,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    if packet.v6 != 0 {
        words[4] = s[0];
        words[5] = s[1];
        words[6] = s[2];
        words[7] = s[3];
        words[8] = d[0];
        words[9] = d[1];
        words[10] = d[2];
        words[11] = d[3];
        words[12] = ports;
    }
    words
}

/// What the packet carried goes; the header comes in its place, or nothing.
#[inline(always)]
pub fn carry(ctx: &TcContext, packet: &Packet, words: &Words, with: bool) -> Option<()> {
    let (l4, tcp) = (packet.l4, tcp_length(words));
    let (old, new) = (payload(packet, words), if with { length(packet) } else { 0 });
    let begins = (l4 + tcp) as usize;
    let mut sum = 0;
    // In what was put together of several packets the device finishes the sum; so do the helpers
    // below, where it is left to the device otherwise.
    if old != 0 && kernel::skb(ctx).gso_size == 0 {
        sum = sum_of_payload(ctx, begins as u32, old)?;
    }
    kernel::change_tail(ctx, l4 + tcp + new)?;
    if with {
        let mut header = header(packet);
        if packet.v6 != 0 {
            ctx.skb.store(begins, &header, 0).ok()?;
        } else {
            let short: [u32; 7] =
                [header[0], header[1], header[2], header[3], header[4], header[5], header[6]];
            ctx.skb.store(begins, &short, 0).ok()?;
        }
        sum = kernel::sum_with(&mut header, sum as u32);
    }
    let at = l4 as usize + 16;
    ctx.skb.l4_csum_replace(at, 0, u64::from(sum as u32), 0).ok()?;
    let length = |payload: u32| u64::from(((tcp + payload) as u16).to_be());
    ctx.skb.l4_csum_replace(at, length(old), length(new), F_PSEUDO_HDR | 2).ok()?;
    // Who does not get the last words is not told that they were the last.
    if old != 0 && packet.flags & FIN != 0 {
        let [offset, flags, low, high] = words[2].to_ne_bytes();
        let without = u32::from_ne_bytes([offset, flags & !FIN, low, high]);
        replace(ctx, at, l4 as usize + 12, words[2], without, 0)?;
    }
    let bytes = |payload: u32| ((l4 + tcp + payload - ETH_LEN as u32) as u16).to_be();
    if packet.v6 != 0 {
        let bytes = ((l4 + tcp + new - ETH_LEN as u32 - 40) as u16).to_be();
        return ctx.skb.store(ETH_LEN + 4, &bytes, 0).ok();
    }
    let (before, after) = (u64::from(bytes(old)), u64::from(bytes(new)));
    ctx.skb.l3_csum_replace(ETH_LEN + 10, before, after, 2).ok()?;
    ctx.skb.store(ETH_LEN + 2, &bytes(new), 0).ok()
}

/// Bytes that are looked at at once, and how often: jumbo frames.
const CHUNK: u32 = 512;
const CHUNKS: u32 = 18;
const _: () = assert!(BYTES_LEN as u32 >= CHUNK + 8);

/// What taking these bytes away changes in a sum that covers them.
#[inline(always)]
fn sum_of_payload(ctx: &TcContext, from: u32, len: u32) -> Option<i64> {
    if len > CHUNK * CHUNKS {
        return None;
    }
    let bytes = own(&BYTES, 0)?;
    let (mut sum, mut at) = (0, 0);
    for _ in 0..CHUNKS {
        if at >= len {
            break;
        }
        let left = len - at;
        let n = if left < CHUNK { at_least_one(left, CHUNK - 1) } else { CHUNK };
        kernel::load_bytes(ctx, from + at, bytes, n)?;
        // Zeros up to a whole word.
        for i in 0..3 {
            bytes[(n + i) as usize & (BYTES_LEN - 1)] = 0;
        }
        sum = kernel::sum_without(bytes, (n + 3) & 0x3fc, sum as u32);
        at += n;
    }
    (at == len).then_some(sum)
}
