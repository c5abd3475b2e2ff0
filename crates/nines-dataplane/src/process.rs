//! What a daemon asks of its own process: a real-time place on the CPU, locked memory, the kernel's
//! boot clock.

use nines_model::Time;

use crate::{Error, Result};

/// CLOCK_BOOTTIME, which `bpf_ktime_get_boot_ns` also reads: guard deadlines are compared with it.
pub fn boot_time() -> Time {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a live timespec; the clock id is valid since Linux 2.6.39.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    assert_eq!(rc, 0, "CLOCK_BOOTTIME is always there");
    Time(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

/// Puts the calling thread under SCHED_FIFO at the lowest real-time priority: it runs before every
/// ordinary process, and after nothing but the kernel's own. Beats leave in time on a busy machine.
pub fn run_in_real_time() -> Result<()> {
    let param = libc::sched_param { sched_priority: 1 };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: `param` lives through the call; 0 names the calling thread.
    if unsafe { libc::sched_setscheduler(0, policy, &raw const param) } < 0 {
        return Err(Error::new("cannot run in real time", std::io::Error::last_os_error())
            .next("give CAP_SYS_NICE; on a busy machine beats may be late"));
    }
    Ok(())
}
