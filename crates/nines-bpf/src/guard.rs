//! The guard: until when this node may answer for an address.
//!
//! Decides: what this node is to an address: it answers, it serves for another director, or it is
//! silent. The deadlines are in map `GUARD_TABLE`, which one thread of user space writes. The table
//! is open-addressed: a packet to another address costs a short search and no hash map. Addresses
//! come as two words in registers, for every packet has several of them looked up.

pub mod addresses;
pub mod martian;

use nines_abi::{place_of, Guard, GUARDS, GUARD_SERVES, GUARD_USED, PROBES};

use self::addresses::same;
use crate::{
    clock,
    maps::{find, GUARD_TABLE, PEERS},
};

#[inline(always)]
fn guard_of(addr: [u64; 2]) -> Option<&'static Guard> {
    // What is empty looks so: hosts that look for their own address speak from there.
    if addr[0] | addr[1] == 0 {
        return None;
    }
    let first = place_of(addr);
    for step in 0..PROBES {
        let entry = GUARD_TABLE.get(first.wrapping_add(step) & (GUARDS - 1))?;
        if same(&entry.addr, addr) {
            return Some(entry);
        }
        if entry.flags & GUARD_USED == 0 {
            return None;
        }
    }
    None
}

/// [`guard_verdict`]: another node answers for the address, if any does.
pub const SILENT: u32 = 1;
/// [`guard_verdict`]: so it is, and its director sends this packet here, to a real server.
pub const SERVES: u32 = 2;

/// [`guard_verdict`]: this node answers for the address, which is a VIP.
pub const ANSWERS: u32 = 4;

/// What this node is to an address now ([`clock::recent`]), for a packet from this MAC: [`SILENT`],
/// [`SERVES`], [`ANSWERS`], or 0: nobody guards it.
#[inline(never)]
pub fn guard_verdict(low: u64, high: u64, now: u64, mac: u64) -> u32 {
    let Some(guard) = guard_of([low, high]) else {
        return 0;
    };
    // A recent reading will do where the deadline is far; the clock itself says that it is past.
    if now.wrapping_add(clock::TICKS) < guard.deadline_ns || clock::exact() < guard.deadline_ns {
        return ANSWERS;
    }
    if guard.flags & GUARD_SERVES != 0 && find(&PEERS, &mac.to_ne_bytes()).is_some() {
        return SERVES;
    }
    SILENT
}

/// Whether this node must not answer for the address.
#[inline(always)]
pub fn silent([low, high]: [u64; 2], now: u64) -> bool {
    guard_verdict(low, high, now, 0) & SILENT != 0
}

/// Whether a packet that leaves speaks for a silent address; `claims` it on the link, or only has
/// it as source. A real server on this node answers clients of another director with the VIP as
/// source; it still may not claim the address.
#[inline(always)]
pub fn may_not_speak(addr: [u64; 2], now: u64, claims: bool) -> bool {
    let Some(guard) = guard_of(addr) else {
        return false;
    };
    now >= guard.deadline_ns && (guard.flags & GUARD_SERVES == 0 || claims)
}
