//! SIP: what belongs to one call goes to one server, whichever datagram brings it.
//!
//! Decides: which call a datagram is of, by its Call-ID (RFC 3261 section 20.8; `i` for short,
//! section 7.3.3). Who asks counts too, as in net/netfilter/ipvs/ip_vs_pe_sip.c; a datagram without
//! that header is of no call.

use aya_ebpf::programs::TcContext;
use nines_abi::{Packet, BYTES_LEN, PROGRAM_NEW};

use super::packet::ETH_LEN;
use crate::{
    atomic::{opaque, read_once, write_once},
    kernel,
    maps::scratch,
    verdict::Verdict,
};

/// Bytes of a datagram that are looked at: as many as a wire of 1,500 carries.
const LOOKED_AT: u32 = 1_472;
const _: () = assert!(LOOKED_AT as usize <= BYTES_LEN - 16);

const NAME: [u8; 7] = *b"call-id";
/// States below are those of a line's beginning: so many letters of the name have been read. All of
/// it,
const NAMED: u8 = NAME.len() as u8;
/// the colon,
const COLON: u8 = 8;
/// part of the value,
const VALUE: u8 = 9;
/// the line's end after it.
const READ: u8 = 10;
/// Another line.
const OTHER: u8 = 11;
const STATES: usize = 16;
/// The byte is a part of the value.
const TAKES: u8 = 1 << 7;

/// The state after a byte, by the one before, and [`TAKES`]. A table instead of branches: each of
/// them would double what the verifier walks, with every byte.
static AFTER: [[u8; 256]; STATES] = after();

const fn after() -> [[u8; 256]; STATES] {
    let mut all = [[0; 256]; STATES];
    let mut i = 0;
    while i < STATES * 256 {
        let after = step((i >> 8) as u8, i as u8);
        all[i >> 8][i & 255] = if after == VALUE { after | TAKES } else { after };
        i += 1;
    }
    all
}

const fn step(before: u8, byte: u8) -> u8 {
    let letter = byte | 0x20;
    match (before, byte) {
        (VALUE, b'\r' | b'\n') => READ,
        // Lines may end by either (RFC 2543).
        (_, b'\r' | b'\n') => 0,
        (NAMED | COLON, b' ' | b'\t') => before,
        (NAMED, b':') => COLON,
        (COLON | VALUE, _) => VALUE,
        (0, _) if letter == b'i' => NAMED,
        (0..NAMED, _) if letter == NAME[before as usize] => before + 1,
        _ => OTHER,
    }
}

/// FNV-1a (draft-eastlake-fnv).
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

#[inline(always)]
pub fn tc(ctx: &TcContext, packet: &mut Packet) -> Verdict {
    packet.call = call(ctx, packet).unwrap_or(0);
    Verdict::Go(PROGRAM_NEW)
}

#[inline(always)]
fn call(ctx: &TcContext, packet: &Packet) -> Option<u64> {
    let (bytes, state) = scratch()?;
    let from = packet.l4 + 8;
    let there = (packet.bytes + ETH_LEN as u32).checked_sub(from)?;
    if there == 0 || there > u32::from(u16::MAX) {
        return None;
    }
    let len = if there < LOOKED_AT { there } else { LOOKED_AT };
    // Its bounds must be in sight of the verifier where it is used.
    let len = 1 + (opaque(u64::from(len - 1)) as u32 & (BYTES_LEN as u32 / 2 - 1));
    kernel::load_bytes(ctx, from, bytes, len)?;
    write_once(state, [0, BASIS]);
    for i in 0..LOOKED_AT {
        if i >= len {
            break;
        }
        let byte = read_once(&bytes[i as usize]);
        if read_byte(state, byte) == READ.into() {
            break;
        }
    }
    let [last, hash] = read_once(state);
    // 0 is of no call.
    (last == READ.into()).then_some(hash | 1)
}

/// Reads one byte; gives the state after it.
#[inline(always)]
fn read_byte(at: &mut [u64; 2], byte: u8) -> u64 {
    let [before, hash] = read_once(at);
    let row = opaque(before) as usize & (STATES - 1);
    let step = opaque(u64::from(AFTER[row][byte as usize]));
    let (after, takes) = (step & (STATES as u64 - 1), (step >> 7).wrapping_neg());
    let more = (hash ^ u64::from(byte)).wrapping_mul(PRIME);
    write_once(at, [after, hash ^ (hash ^ more) & takes]);
    after
}
