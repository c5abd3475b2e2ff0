//! Words of map memory that several processors change, and values that the compiler may not reason
//! about. This target's `core` has no atomic operations, so the instructions are written out (Linux
//! 5.12; Documentation/bpf/standardization/instruction-set.rst). Those that give the old value are
//! full barriers.

use core::arch::asm;

use aya_ebpf::maps::Array;

/// A word of 64 bits in a map value. Other processors and user space may change it at any time.
#[derive(Clone, Copy)]
pub struct Word(*mut u64);

impl Word {
    /// The word at `at`.
    ///
    /// # Safety
    ///
    /// `at` is aligned to eight bytes and lies in the value of a map, which the kernel keeps until
    /// the program ends, even if the entry is deleted meanwhile (RCU).
    #[inline(always)]
    pub const unsafe fn new(at: *mut u64) -> Self {
        Self(at)
    }

    /// The value that a map was asked for.
    #[inline(always)]
    pub fn of(value: &'static mut u64) -> Self {
        Self(value)
    }

    /// The value of an array's entry.
    #[inline(always)]
    pub fn in_array(map: &'static Array<u64>, index: u32) -> Option<Self> {
        map.get_ptr_mut(index).map(Self)
    }

    /// What it holds now.
    #[inline(always)]
    pub fn read(self) -> u64 {
        // SAFETY: every constructor gives words that outlive the program and are aligned.
        // Volatile, so that the compiler reads once, here, however others change it.
        unsafe { self.0.read_volatile() }
    }

    /// Adds and gives the value before.
    #[inline(always)]
    pub fn fetch_add(self, value: u64) -> u64 {
        let mut taken = value;
        // SAFETY: the instruction touches the word at `self.0`, which is in a map and aligned, and
        // the register that it is given.
        unsafe {
            asm!(
                "{taken} = atomic_fetch_add((u64 *)({at} + 0), {taken})",
                at = in(reg) self.0,
                taken = inout(reg) taken,
            );
        }
        taken
    }

    /// Sets bits; a full barrier.
    #[inline(always)]
    pub fn set_bits(self, bits: u64) {
        let mut taken = bits;
        // SAFETY: as in `fetch_add`; the old value is written into a register that nobody reads.
        unsafe {
            asm!(
                "{taken} = atomic_fetch_or((u64 *)({at} + 0), {taken})",
                at = in(reg) self.0,
                taken = inout(reg) taken,
            );
        }
        let _ = taken;
    }

    /// Adds in one atomic step.
    #[inline(always)]
    pub fn add(self, value: u64) {
        // SAFETY: as in `fetch_add`; no register changes.
        unsafe {
            asm!("lock *(u64 *)({at} + 0) += {value}", at = in(reg) self.0, value = in(reg) value);
        }
    }

    /// Writes `new` if `old` is there; whether it did.
    #[inline(always)]
    pub fn swap_if(self, old: u64, new: u64) -> bool {
        let mut was = old;
        // SAFETY: as in `fetch_add`. The instruction has its old value in r0, which is named as
        // in- and output.
        unsafe {
            asm!(
                "r0 = cmpxchg_64({at} + 0, r0, {new})",
                at = in(reg) self.0,
                new = in(reg) new,
                inout("r0") was,
            );
        }
        was == old
    }

    /// Writes, after everything before it.
    #[inline(always)]
    pub fn publish(self, value: u64) {
        let mut taken = value;
        // SAFETY: as in `fetch_add`; the old value is in a register that nobody reads.
        unsafe {
            asm!(
                "{taken} = xchg_64({at} + 0, {taken})",
                at = in(reg) self.0,
                taken = inout(reg) taken,
            );
        }
        let _ = taken;
    }
}

/// Reads a value once, here: user space or another processor may change it at any time.
#[inline(always)]
pub fn read_once<T: Copy>(at: &T) -> T {
    // SAFETY: a reference is valid and aligned; map values are integers, for which any bits do.
    unsafe { core::ptr::from_ref(at).read_volatile() }
}

/// Writes a value so that the compiler forgets it.
#[inline(always)]
pub fn write_once<T: Copy>(at: &mut T, value: T) {
    // SAFETY: a reference is valid and aligned.
    unsafe { core::ptr::from_mut(at).write_volatile(value) }
}

/// The same value, of which the compiler then knows nothing: keeps arithmetic that avoids branches
/// from being turned into them.
#[inline(always)]
pub fn opaque(value: u64) -> u64 {
    let mut out = value;
    // SAFETY: no instruction at all; a comment with a register in it.
    unsafe { asm!("/* {0} */", inout(reg) out) };
    out
}
