//! Which addresses matter, and until when this node may answer for them.
//!
//! Decides: nothing; it searches. Two open-addressed tables, each written by one thread of user
//! space, so that a packet of others costs two short looks and no hash map. Addresses come as two
//! words, in registers: how often they are looked at is what a packet costs.

use nines_abi::{
    place_of, Addr, Guard, Place, GUARDS, GUARD_SERVES, GUARD_USED, PLACE_USED, PROBES,
};

use crate::{
    clock,
    maps::{places_mask, ADDRESSES, GUARD_TABLE, PEERS},
};

/// One branch instead of two.
#[inline(always)]
fn same(addr: &Addr, [low, high]: [u64; 2]) -> bool {
    // Entries of both tables are aligned to eight bytes, and begin with the address.
    let have = addr.as_ptr().cast::<u64>();
    unsafe { (*have ^ low) | (*have.add(1) ^ high) == 0 }
}

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

/// What the address is to the forwarding tables: `PLACE_*`. A function of its own, as [`stance`]:
/// the verifier forgets on return at which place the search ended, else it would walk all that
/// follows once for each.
#[inline(never)]
pub fn flags_of(low: u64, high: u64) -> u32 {
    let first = place_of([low, high]);
    for step in 0..PROBES {
        let Some(entry) = place(first.wrapping_add(step)) else { return 0 };
        if same(&entry.addr, [low, high]) {
            return entry.flags;
        }
        if entry.flags & PLACE_USED == 0 {
            return 0;
        }
    }
    0
}

#[inline(always)]
fn place(index: u32) -> Option<&'static Place> {
    ADDRESSES.get(index & places_mask())
}

/// [`stance`]: another node answers for the address, if any does.
pub const SILENT: u32 = 1;
/// [`stance`]: so it is, and its director sends this packet here, to a real server.
pub const SERVES: u32 = 2;

/// [`stance`]: this node answers for the address, which is a VIP.
pub const ANSWERS: u32 = 4;

/// What this node is to an address now ([`clock::recent`]), for a packet from this MAC: [`SILENT`],
/// [`SERVES`], [`ANSWERS`], or 0: nobody guards it.
#[inline(never)]
pub fn stance(low: u64, high: u64, now: u64, mac: u64) -> u32 {
    let Some(guard) = guard_of([low, high]) else {
        return 0;
    };
    // A recent reading will do where the deadline is far; the clock itself says that it is past.
    if now.wrapping_add(clock::TICKS) < guard.deadline_ns || clock::exact() < guard.deadline_ns {
        return ANSWERS;
    }
    if guard.flags & GUARD_SERVES != 0 && unsafe { PEERS.get(mac.to_ne_bytes()) }.is_some() {
        return SERVES;
    }
    SILENT
}

/// Whether this node must not answer for the address.
#[inline(always)]
pub fn silent([low, high]: [u64; 2], now: u64) -> bool {
    stance(low, high, now, 0) & SILENT != 0
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
