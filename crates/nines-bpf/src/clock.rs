//! The time, as exactly as a packet needs it.
//!
//! Decides: when the clock is read. Reading it (CLOCK_BOOTTIME, which goes on while the machine
//! sleeps) costs as much as deciding on a packet; the count of timer ticks costs nothing, but
//! stands still with the machine. So what was read holds for a few packets of the same tick, and
//! nothing that lies as near as [`TICKS`] is decided by it: ADR 8.

use nines_abi::Packet;

use crate::kernel;

/// Longer than ticks stand still unnoticed on a running machine, ns: one of the longest (CONFIG_HZ
/// 100), or five where the processor that counts them is away.
pub const TICKS: u64 = 60_000_000;
/// Packets that one reading is for.
const PACKETS: u64 = 16;

/// Now, ns.
#[inline(always)]
pub fn exact() -> u64 {
    kernel::boot_ns()
}

/// Now or up to a tick ago; longer ago only if the machine itself stood still, and then for the
/// next few packets of this processor at most.
#[inline(always)]
pub fn recent(packet: &mut Packet) -> u64 {
    let ticks = kernel::ticks();
    if packet.read.ticks == ticks && packet.read.left != 0 {
        packet.read.left -= 1;
        return packet.read.now;
    }
    let now = exact();
    packet.read.ticks = ticks;
    packet.read.left = PACKETS - 1;
    packet.read.now = now;
    now
}
