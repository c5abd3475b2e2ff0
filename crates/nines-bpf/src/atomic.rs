//! Atomic operations on map memory. This target's `core` has none, so the instructions are
//! written out (Linux 5.12; Documentation/bpf/standardization/instruction-set.rst). Those that give
//! the old value are full barriers.

use core::arch::asm;

/// Adds and gives the value before.
#[inline(always)]
pub fn fetch_add(at: *mut u64, value: u64) -> u64 {
    let mut taken = value;
    unsafe {
        asm!(
            "{taken} = atomic_fetch_add((u64 *)({at} + 0), {taken})",
            at = in(reg) at,
            taken = inout(reg) taken,
        );
    }
    taken
}

/// Sets bits; a full barrier.
#[inline(always)]
pub fn set_bits(at: *mut u64, bits: u64) {
    let mut taken = bits;
    unsafe {
        asm!(
            "{taken} = atomic_fetch_or((u64 *)({at} + 0), {taken})",
            at = in(reg) at,
            taken = inout(reg) taken,
        );
    }
    let _ = taken;
}

/// Adds `value` to the word at `at` in one atomic step.
#[inline(always)]
pub fn add(at: *mut u64, value: u64) {
    unsafe {
        asm!("lock *(u64 *)({at} + 0) += {value}", at = in(reg) at, value = in(reg) value);
    }
}

/// Writes `new` if `old` is there; whether it did.
#[inline(always)]
pub fn swap_if(at: *mut u64, old: u64, new: u64) -> bool {
    let mut was = old;
    unsafe {
        asm!(
            "r0 = cmpxchg_64({at} + 0, r0, {new})",
            at = in(reg) at,
            new = in(reg) new,
            inout("r0") was,
        );
    }
    was == old
}

/// Writes, after everything before it.
#[inline(always)]
pub fn publish(at: *mut u64, value: u64) {
    let mut taken = value;
    unsafe {
        asm!(
            "{taken} = xchg_64({at} + 0, {taken})",
            at = in(reg) at,
            taken = inout(reg) taken,
        );
    }
    let _ = taken;
}

/// The same value, of which the compiler then knows nothing: keeps arithmetic that avoids branches
/// from being turned into them.
#[inline(always)]
pub fn opaque(value: u64) -> u64 {
    let mut out = value;
    unsafe { asm!("/* {0} */", inout(reg) out) };
    out
}
