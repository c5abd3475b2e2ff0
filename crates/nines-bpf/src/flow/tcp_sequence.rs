//! What ends a flow must be plausible: whoever does not see it cannot say its sequence numbers.
//!
//! Decides: whether a FIN or RST is believed. The client's entry keeps what its client said last:
//! exactly enough when a flow moves, in steps, so that a packet seldom writes. The packet goes on
//! in any case; who gets it knows better. Of SCTP the tag stands in the place of the number (RFC
//! 9260 section 8.5), and is the same all along.

use nines_abi::{state_of, Packet, Via, STATE_ESTABLISHED, WORD_FULL, WORD_PROXY};

use super::entry::{EntryRef, Seen};
use crate::parse::packet::{FIN, RST, SYN};

/// Steps in which numbers are followed, and how far an older packet may lie behind.
const STEP: u32 = 1 << 16;
/// What may lie between two packets of a client when others were lost.
const AHEAD: u32 = 1 << 22;
/// What may lie between the last step and a FIN or RST.
const END: u32 = 1 << 20;
/// The same of a server, whose numbers are known by what its client acknowledged half a second ago.
const SERVER_END: u32 = 1 << 26;

/// Of a flow that is new.
#[inline(always)]
pub fn first(packet: &Packet) -> Via {
    if packet.flags == 0 {
        return Via { addr: 0, port: 0, source: 0 };
    }
    // SAFETY: eight bytes of integers either way.
    unsafe { core::mem::transmute::<[u32; 2], Via>(packet.numbers) }
}

/// How far a packet lies ahead of this number, both as on the wire, plus [`STEP`]: the result is
/// at most [`STEP`] for packets up to a step behind.
#[inline(always)]
fn since(packet: &Packet, known: u32) -> u32 {
    u32::from_be(packet.numbers[0]).wrapping_sub(u32::from_be(known)).wrapping_add(STEP)
}

/// A client's packet of a known flow: what ends it and is not plausible ends nothing.
#[inline(always)]
pub fn follow(packet: &mut Packet, entry: EntryRef, seen: &Seen) {
    let known = entry.numbers().read() as u32;
    let moved = since(packet, known);
    if moved >= 2 * STEP || packet.flags & (FIN | RST) != 0 {
        judge(packet, entry, seen.word);
    }
}

/// The same of a packet that is to be noted in any case. A function of its own: few come here.
#[inline(never)]
pub fn judge(packet: &mut Packet, entry: EntryRef, word: u64) -> u32 {
    // There the place holds the number of the SYN.
    if word & WORD_PROXY != 0 {
        return 0;
    }
    let numbers = entry.numbers();
    let old = numbers.read();
    let moved = since(packet, old as u32);
    let unknown = old as u32 == 0;
    if packet.flags & (FIN | RST) != 0 {
        if !unknown && moved >= STEP + END {
            packet.flags &= !(FIN | RST);
        }
        return 0;
    }
    // Before both sides talk, a SYN begins anew.
    let anew = packet.flags & SYN != 0 && state_of(word) != STATE_ESTABLISHED;
    if unknown || anew || moved < STEP + AHEAD {
        let [sequence, acknowledged] = packet.numbers;
        let rest = match word & WORD_FULL {
            0 => u64::from(acknowledged) << 32,
            _ => old & !0xffff_ffff,
        };
        let new = u64::from(sequence) | rest;
        // Whoever replaced the entry meanwhile has other numbers there.
        numbers.swap_if(old, new);
    }
    0
}

/// A server's packet, beside the entry of its client.
#[inline(always)]
pub fn judge_server(packet: &mut Packet, client: EntryRef) {
    let known = (client.numbers().read() >> 32) as u32;
    let moved = since(packet, known);
    if known != 0 && moved >= STEP + SERVER_END {
        packet.flags &= !(FIN | RST);
    }
}
