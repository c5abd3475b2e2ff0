//! A clock that wakes its process at regular times, and the signals that ask it to end.
//!
//! Decides: nothing. After [`Ticks::new`] no call of this file takes memory.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, FromRawFd as _, OwnedFd},
};

use nines_model::Millis;
use rustix::{
    event::{PollFd, PollFlags, poll},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};

/// Why [`Ticks::wait`] has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// It is time.
    Tick,
    /// SIGTERM or SIGINT was sent: the process is to end.
    End,
}

/// A timer and the signals of this process.
#[derive(Debug)]
pub struct Ticks {
    timer: OwnedFd,
    signals: File,
}

impl Ticks {
    /// Ticks at this interval; from now on SIGTERM and SIGINT end nothing by themselves.
    pub fn new(interval: Millis) -> io::Result<Self> {
        let clock = TimerfdClockId::Boottime;
        let timer = timerfd_create(clock, TimerfdFlags::CLOEXEC)?;
        let ticks = Self { timer, signals: signals()? };
        ticks.every(interval)?;
        Ok(ticks)
    }

    /// Ticks at this interval from now on.
    pub fn every(&self, interval: Millis) -> io::Result<()> {
        let (tv_sec, tv_nsec) = (interval.0 / 1_000, interval.0 % 1_000 * 1_000_000);
        let length = Timespec { tv_sec: tv_sec as i64, tv_nsec: tv_nsec as _ };
        let every = Itimerspec { it_interval: length, it_value: length };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &every)?;
        Ok(())
    }

    /// Waits for the next tick, or for a signal. Ticks that were missed are one.
    pub fn wait(&mut self) -> io::Result<Woken> {
        let mut waits = [
            PollFd::new(&self.timer, PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
        ];
        match poll(&mut waits, None) {
            Err(rustix::io::Errno::INTR) => return Ok(Woken::Tick),
            Err(why) => return Err(why.into()),
            Ok(_) => {}
        }
        let [tick, signal] = waits.map(|wait| !wait.revents().is_empty());
        if signal {
            let mut told = [0; size_of::<libc::signalfd_siginfo>()];
            self.signals.read_exact(&mut told)?;
            return Ok(Woken::End);
        }
        if tick {
            rustix::io::read(&self.timer, &mut [0; 8])?;
        }
        Ok(Woken::Tick)
    }
}

/// A file that tells of SIGTERM and SIGINT.
fn signals() -> io::Result<File> {
    // SAFETY: zeroed is a valid sigset_t, which the next call makes empty in any case.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a live set, and the signals exist.
    unsafe {
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
    }
    // SAFETY: `set` lives through the call; no old mask is asked for.
    if unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `set` lives through the call; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and is nobody else's.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}
