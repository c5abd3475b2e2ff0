//! What a daemon asks of the kernel for itself: a real-time place on the CPU, open files, the boot
//! clock, every error of its sockets, and what a disk really holds.

use std::os::fd::{AsRawFd as _, BorrowedFd};

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

/// Gives what this process has freed back to the kernel: to read a large config takes several times
/// the memory that is kept of it.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer; other threads wait for their own allocations at most.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Forgets the pages of a file that memory has and the disk may not have: what is read next comes
/// from the disk. Pages that are still to be written stay.
pub fn forget_cached(file: &std::fs::File) -> std::io::Result<()> {
    // SAFETY: takes no pointer; the descriptor is open as long as `file` lives. 0, 0: all of it.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        error => Err(std::io::Error::from_raw_os_error(error)),
    }
}

/// Raises the soft limit of open files to the hard one, which needs no right; says how many files
/// this process may have open from now on. Programs that the agent starts do not inherit it:
/// `nines-exec` gives each child 1024.
pub fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a live rlimit that the call fills in.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } < 0 {
        return 1_024;
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: `raised` lives through the call, which only reads it.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } < 0 {
        return limit.rlim_cur;
    }
    raised.rlim_cur
}

/// Asks the kernel to report every ICMP error of a UDP socket, also "host unreachable", which it
/// takes for a passing trouble and keeps to itself otherwise (`IP_RECVERR`, ip(7)).
pub fn hear_unreachable(socket: BorrowedFd<'_>, v6: bool) -> std::io::Result<()> {
    let (level, option) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    } else {
        (libc::IPPROTO_IP, libc::IP_RECVERR)
    };
    let on: libc::c_int = 1;
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed and `on` lives through the call, which only reads it.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), size)
    };
    if set < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
