//! SCTP's checksum when a port changes: a CRC32c (RFC 9260 section 6.8) of the whole packet, of
//! which the packet itself need not be read again. CRCs are linear: what a changed bit changes in
//! them depends on nothing but how many bytes follow.

use nines_abi::Packet;

use crate::{atomic::opaque, parse::packet::ETH_LEN};

/// Castagnoli's polynomial, its bits reflected as everything here is: the highest is x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// What 1, 2, 4, 8, ... bytes more make of a word, by its hexadecimal digits from the lowest on: a
/// byte is a factor of x^8. A table, or the verifier would walk 32 steps for each of them, wherever
/// a port is changed.
static BYTES: [[[u32; 16]; 8]; 16] = bytes();

const fn bytes() -> [[[u32; 16]; 8]; 16] {
    let mut all = [[[0; 16]; 8]; 16];
    let (mut factor, mut i) = (1 << (31 - 8), 0);
    while i < 16 {
        let mut at = 0;
        while at < 8 * 16 {
            let word = (at as u32 & 15) << (at / 16 * 4);
            all[i][at / 16][at & 15] = product(word, factor);
            at += 1;
        }
        factor = product(factor, factor);
        i += 1;
    }
    all
}

/// Of two polynomials modulo Castagnoli's.
const fn product(mut a: u32, b: u32) -> u32 {
    let (mut sum, mut bit) = (0, 32);
    while bit != 0 {
        bit -= 1;
        sum ^= a & (b >> bit & 1).wrapping_neg();
        a = a >> 1 ^ POLYNOMIAL & (a & 1).wrapping_neg();
    }
    sum
}

/// What replacing a port changes in the checksum, as a word of the packet's memory.
///
/// A checksum of 0 is one that a device has yet to compute (`ip_summed` is CHECKSUM_PARTIAL, what
/// `skb_crc32c_csum_help` takes for granted) and stays so; of those that are there, one in four
/// thousand million is 0 too. `None`: a fragment, whose other ones count as well.
#[inline(always)]
pub fn follow(packet: &Packet, source: bool, port: u16, sum: u32) -> Option<u32> {
    if packet.fragment != 0 {
        return None;
    }
    if sum == 0 {
        return Some(0);
    }
    let old = if source { packet.sport } else { packet.dport };
    // Little endian, as CRCs are reckoned: the source's port is what comes first.
    let change = u32::from(u16::from_le(old ^ port)) << if source { 0 } else { 16 };
    let length = packet.bytes + ETH_LEN as u32 - packet.l4;
    Some((u32::from_le(sum) ^ followed_by(change, length)).to_le())
}

/// A word with so many bytes from its own beginning on, in the checksum.
#[inline(never)]
fn followed_by(word: u32, bytes: u32) -> u32 {
    let mut all = word;
    for (i, digits) in BYTES.iter().enumerate() {
        if bytes >> i & 1 != 0 {
            let digit = |at: usize| digits[at][(opaque(u64::from(all >> (at * 4))) & 15) as usize];
            all = digit(0)
                ^ digit(1)
                ^ digit(2)
                ^ digit(3)
                ^ digit(4)
                ^ digit(5)
                ^ digit(6)
                ^ digit(7);
        }
    }
    all
}
