//! What the kernel tells of interfaces and addresses that come, go or change, as it happens.
//!
//! Decides: nothing. It says that something changed, not what: the caller looks at all there is, so
//! that a message lost in a flood loses nothing.

use std::{os::fd::AsRawFd as _, time::Duration};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::{Error, Result};

/// linux/rtnetlink.h: links, IPv4 addresses, IPv6 addresses.
const GROUPS: [u32; 3] = [1, 5, 9];

/// A subscription in the network namespace of the thread that made it.
pub struct Watch {
    socket: Socket,
}

impl Watch {
    /// Tells of everything from now on.
    pub fn open() -> Result<Self> {
        let failed = |e| Error::new("cannot watch interfaces", e);
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        socket.bind(&SocketAddr::new(0, 0)).map_err(failed)?;
        for group in GROUPS {
            socket.add_membership(group).map_err(failed)?;
        }
        socket.set_non_blocking(true).map_err(failed)?;
        Ok(Self { socket })
    }

    /// Waits until something changes, but not longer than this; whether something did.
    pub fn wait(&self, patience: Duration) -> bool {
        let mut wanted =
            libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let ms = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one live pollfd, and its count.
        let ready = unsafe { libc::poll(&raw mut wanted, 1, ms) };
        ready > 0 && self.drain()
    }

    /// Reads away what has been told; whether anything was.
    fn drain(&self) -> bool {
        let mut told = false;
        let mut bytes = Vec::with_capacity(8_192);
        loop {
            bytes.clear();
            match self.socket.recv(&mut bytes, 0) {
                Ok(_) => told = true,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return told,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                // More came than there was room for (ENOBUFS): something did change.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => told = true,
                Err(_) => return true,
            }
        }
    }
}
