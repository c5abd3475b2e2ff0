//! The kernel's watchdog devices, and what a process needs that must never stand still.
//!
//! Decides: how a device is opened, set, fed and closed (Linux, watchdog-api.rst): from the moment
//! it is open the machine is reset unless it is fed, also if this process ends; only a `V` before
//! the close switches it off. When it is fed is not decided here.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::fd::AsRawFd as _,
    path::Path,
};

use nines_model::Millis;

mod ticks;

pub use self::ticks::{Ticks, Woken};

/// `_IOR('W', 0, struct watchdog_info)`, 40 bytes.
const WDIOC_GETSUPPORT: libc::c_ulong = 0x8028_5700;
/// `_IOWR('W', 6, int)`.
const WDIOC_SETTIMEOUT: libc::c_ulong = 0xc004_5706;
/// `_IOR('W', 7, int)`.
const WDIOC_GETTIMEOUT: libc::c_ulong = 0x8004_5707;
/// The device has a timeout that can be set.
const WDIOF_SETTIMEOUT: u32 = 0x0080;

/// `struct watchdog_info` of linux/watchdog.h.
#[repr(C)]
struct Info {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

/// A watchdog that runs: the machine is reset unless it is fed.
#[derive(Debug)]
pub struct Watchdog {
    device: File,
    timeout: Millis,
}

impl Watchdog {
    /// Opens a device, which starts it, and asks it for this timeout. An error: it does not run, or
    /// it runs and was switched off again.
    pub fn start(path: &str, wanted: Millis, timeout_max: Millis) -> Result<Self, String> {
        let device = OpenOptions::new().write(true).open(path).map_err(|why| match why.kind() {
            io::ErrorKind::NotFound => format!("{path} does not exist"),
            io::ErrorKind::ResourceBusy => format!("{path} is in use by another program"),
            _ => format!("{path} cannot be opened: {why}"),
        })?;
        let options = options(&device).ok_or_else(|| format!("{path} is no watchdog"))?;
        let mut started = Self { device, timeout: Millis(0) };
        let set = started.set(path, options, wanted);
        let timeout = started.timeout;
        let is_long =
            || format!("{path} has a timeout of {timeout}: at most {timeout_max} is of use");
        match set.and_then(|()| if timeout > timeout_max { Err(is_long()) } else { Ok(()) }) {
            Ok(()) => Ok(started),
            Err(why) => {
                started.close();
                Err(why)
            }
        }
    }

    fn set(&mut self, path: &str, options: u32, wanted: Millis) -> Result<(), String> {
        let mut seconds =
            libc::c_int::try_from(wanted.0.div_ceil(1_000)).unwrap_or(libc::c_int::MAX);
        if options & WDIOF_SETTIMEOUT != 0 {
            // A device that refuses goes on with what it has, which is read back.
            // SAFETY: the device is open, and `seconds` is an int that the kernel reads and writes.
            unsafe {
                libc::ioctl(self.device.as_raw_fd(), WDIOC_SETTIMEOUT, &raw mut seconds);
            }
        }
        let mut taken: libc::c_int = 0;
        // SAFETY: the device is open, and `taken` is an int that the kernel fills in.
        let rc = unsafe { libc::ioctl(self.device.as_raw_fd(), WDIOC_GETTIMEOUT, &raw mut taken) };
        if rc < 0 || taken <= 0 {
            return Err(format!("{path} does not say what its timeout is"));
        }
        self.timeout = Millis(u64::from(taken.unsigned_abs()) * 1_000);
        Ok(())
    }

    /// Timeout that the device really has.
    pub fn timeout(&self) -> Millis {
        self.timeout
    }

    /// Puts the reset off by one timeout.
    pub fn feed(&mut self) -> io::Result<()> {
        self.device.write_all(&[0])
    }

    /// Switches it off; one that is told to have no way out (`nowayout`) goes on all the same.
    pub fn close(mut self) {
        let _ = self.device.write_all(b"V");
    }
}

/// What a device can do; `None`: it is no watchdog.
fn options(device: &File) -> Option<u32> {
    let mut info = Info { options: 0, firmware_version: 0, identity: [0; 32] };
    // SAFETY: the device is open, and `info` has the layout and size that the kernel fills in.
    let rc = unsafe { libc::ioctl(device.as_raw_fd(), WDIOC_GETSUPPORT, &raw mut info) };
    (rc >= 0).then_some(info.options)
}

/// Kills all that runs in a cgroup, at once, by one write.
pub fn kill_cgroup(cgroup: &Path) -> io::Result<()> {
    std::fs::write(cgroup.join("cgroup.kill"), b"1")
}

/// Keeps all pages of this process in memory, those of the future as well.
pub fn lock_memory() -> io::Result<()> {
    // SAFETY: takes no pointer.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_watchdog_is_refused_and_not_written_to() {
        let start = |path: &str| Watchdog::start(path, Millis(2_000), Millis(60_000)).unwrap_err();
        assert_eq!(start("/dev/nonexistent-watchdog"), "/dev/nonexistent-watchdog does not exist");
        assert_eq!(start("/dev/null"), "/dev/null is no watchdog");
        let room = std::env::temp_dir().join(format!("nines-no-watchdog-{}", std::process::id()));
        std::fs::write(&room, "abc").unwrap();
        assert!(start(room.to_str().unwrap()).ends_with("is no watchdog"));
        assert_eq!(std::fs::read_to_string(&room).unwrap(), "abc");
        std::fs::remove_file(&room).unwrap();
    }

    #[test]
    fn the_numbers_of_the_interface_are_those_of_the_kernel() {
        // linux/watchdog.h and asm-generic/ioctl.h: direction, size, 'W', number.
        let number = |direction: u64, size: usize, of: u64| {
            (direction << 30 | (size as u64) << 16 | u64::from(b'W') << 8 | of) as libc::c_ulong
        };
        assert_eq!(WDIOC_GETSUPPORT, number(2, size_of::<Info>(), 0));
        assert_eq!(WDIOC_SETTIMEOUT, number(3, 4, 6));
        assert_eq!(WDIOC_GETTIMEOUT, number(2, 4, 7));
    }
}
