//! Which addresses the forwarding tables name.
//!
//! Decides: nothing; it searches map `ADDRESSES`, which is open-addressed as the guard's table is,
//! and also written by one thread of user space.

use nines_abi::{place_of, Addr, Place, PLACE_USED, PROBES};

use crate::maps::{places_mask, ADDRESSES};

/// One branch instead of two.
#[inline(always)]
pub fn same(addr: &Addr, [low, high]: [u64; 2]) -> bool {
    // Entries of both tables are aligned to eight bytes, and begin with the address.
    let have = addr.as_ptr().cast::<u64>();
    // SAFETY: 16 bytes, which are there and aligned.
    unsafe { (*have ^ low) | (*have.add(1) ^ high) == 0 }
}

/// What the address is to the forwarding tables: `PLACE_*`. A function of its own, as
/// [`super::guard_verdict`]: the verifier forgets on return at which place the search ended, else
/// it would walk all that follows once for each.
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
