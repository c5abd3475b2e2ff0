//! A TCP segment of a flow with a PROXY protocol header.
//!
//! Decides: how long its parts are, and which numbers count the header.

use aya_ebpf::programs::TcContext;
use nines_abi::Packet;

use crate::{atomic::opaque, parse::packet::ETH_LEN};

/// Sequence and acknowledgement number, and the word with the flags, as on the wire.
pub type Words = [u32; 3];

/// Bytes of the header.
#[inline(always)]
pub fn length(packet: &Packet) -> u32 {
    if packet.v6 != 0 {
        52
    } else {
        28
    }
}

/// Bytes of the TCP header.
#[inline(always)]
pub fn tcp_length(words: &Words) -> u32 {
    let [offset, ..] = words[2].to_ne_bytes();
    u32::from(offset >> 4) * 4
}

/// Bytes that follow it.
#[inline(always)]
pub fn payload(packet: &Packet, words: &Words) -> u32 {
    let end = packet.bytes + ETH_LEN as u32;
    end.saturating_sub(packet.l4 + tcp_length(words))
}

/// Whether the TCP header is as long as it says.
#[inline(always)]
pub fn is_whole(packet: &Packet, words: &Words) -> bool {
    let len = tcp_length(words);
    len >= 20 && packet.l4 + len <= packet.bytes + ETH_LEN as u32
}

/// Whether the server counts the header in this number of the client's bytes. Once it has
/// acknowledged the header it does: how far the number is says that of the first 2 GiB only.
#[inline(always)]
pub fn counts(packet: &Packet, number: u32, first: u32, shown: bool) -> bool {
    shown || number.wrapping_sub(first).wrapping_sub(1) as i32 >= length(packet) as i32
}

/// Replaces a word of the TCP header or its options. `odd`: 1 where it does not begin at a word of
/// the sum.
#[inline(always)]
pub fn replace(
    ctx: &TcContext,
    sum: usize,
    at: usize,
    old: u32,
    new: u32,
    odd: usize,
) -> Option<()> {
    let turn = (odd as u32 & 1) * 8;
    let (a, b) = (u64::from(old.rotate_left(turn)), u64::from(new.rotate_left(turn)));
    ctx.skb.l4_csum_replace(sum, a, b, 4).ok()?;
    ctx.skb.store(at, &new, 0).ok()
}

/// The same number from 1 on, in a way that the verifier sees; `mask`: bits of one less.
#[inline(always)]
pub fn at_least_one(n: u32, mask: u32) -> u32 {
    1 + (opaque(u64::from(n.wrapping_sub(1))) as u32 & mask)
}
