//! The watchdog of this machine: a device that resets it when the agent hangs while the machine
//! holds what is under a lease.
//!
//! ```text
//! core ------- until when the lease lasts --> /run/nines <-- looks -- guard process --> device
//! watchdog --- which device, or none -------> /run/nines
//! watchdog <-- how it is -------------------- /run/nines <-- says --- guard process
//! ```
//! Decides: what the two processes tell each other, and how people hear of it. When the device is
//! fed is `nines_core::watchdog`'s. VIPs need none of this: the kernel ends them at their own
//! deadlines (the guard of the data plane), long before the watchdog fires.

pub mod guard;
pub mod page;
mod teller;
mod virtual_machine;

pub use self::{
    page::LeasePage,
    teller::{Lessor, Shared, Teller, run},
};

use std::path::{Path, PathBuf};

/// Where the two processes write to each other.
#[derive(Clone, Debug)]
pub struct Pages {
    /// How the lease of the machine is.
    pub lease: PathBuf,
    /// What the guard process is to feed.
    pub orders: PathBuf,
    /// What the guard process says of itself.
    pub guard: PathBuf,
}

impl Pages {
    /// Those of the agent with this socket: beside it, "nines.watchdog" and two more.
    pub fn beside(socket: &Path) -> Self {
        Self {
            lease: socket.with_extension("watchdog-lease"),
            orders: socket.with_extension("watchdog"),
            guard: socket.with_extension("watchdog-guard"),
        }
    }
}
