//! Ring 2: the only door to kernel networking.
//!
//! Decides: how a [`ForwardingTable`] and guard deadlines get into the kernel and stay there. Does
//! not decide: what is forwarded, or who may answer for an address.
//!
//! [`DataPlane`] has three back ends: [`ebpf`] and [`ipvs`] (both behind [`director`]), and
//! [`fake`] (memory, for tests of the agent's threads). [`Addresses`] has two: [`address::Kernel`]
//! and [`fake::addresses`]. All `unsafe` code outside the kernel programs is in this crate, but for
//! what nines-exec does before a child becomes its program.

use std::{collections::BTreeSet, fmt, net::IpAddr, sync::Arc};

use nines_model::{Counters, ForwardingTable, Time};

pub mod address;
pub mod detour;
pub mod director;
pub mod ebpf;
pub mod fake;
pub mod flow_sync;
pub mod gratuitous_arp;
pub mod ipvs;
pub mod listen;
pub mod listing;
mod netlink;
pub mod new_interfaces;
pub mod pins;
pub mod probe;
pub mod process;
pub mod real_server;
pub mod sysctl;
pub mod watch;

/// What went wrong at the kernel's door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What was tried.
    pub what: String,
    /// What the kernel said.
    pub why: String,
    /// What a person can do.
    pub next: Option<String>,
}

impl Error {
    /// `what` failed because of `why`.
    pub fn new(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self { what: what.into(), why: why.to_string(), next: None }
    }

    /// With the next step.
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl std::error::Error for Error {}

/// `error`, with the remedy when it is a lack of rights.
pub(crate) fn privileged(what: String, error: &std::io::Error) -> Error {
    let told = Error::new(what, error);
    if error.raw_os_error() == Some(libc::EPERM) || error.raw_os_error() == Some(libc::EACCES) {
        return told.next("run as root, or with CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF");
    }
    told
}

/// `Result` of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A packet-forwarding back end.
pub trait DataPlane: Send {
    /// Makes the kernel forward exactly this. An error leaves the old table whole.
    fn apply(&mut self, table: &ForwardingTable) -> Result<()>;

    /// Looks at the kernel afresh and tells how it differs from the last table applied; empty when
    /// it does not. The caller applies again.
    fn observe(&mut self) -> Result<Vec<String>>;

    /// Makes more room in the kernel for this table, if it does not fit; what is there is at work
    /// meanwhile and after. True: there is more room now.
    fn grow(&mut self, _table: &ForwardingTable) -> Result<bool> {
        Ok(false)
    }

    /// Interfaces came, went or changed: what belongs on each of them is there on return.
    fn devices(&mut self) -> Result<()> {
        Ok(())
    }

    /// Counts since the tables were made.
    fn counters(&mut self) -> Result<Counters>;

    /// The same without servers that counted nothing: the names alone of a hundred
    /// thousand servers take a second.
    fn busy(&mut self) -> Result<Counters> {
        self.counters()
    }

    /// The path packets take, for people: "ebpf, xdp+tcx on eth0".
    fn describe(&self) -> String;

    /// What of the last table applied it does in another way than the table asks.
    fn trouble(&self) -> Option<Error> {
        None
    }

    /// Takes everything out of the kernel.
    fn remove(&mut self) -> Result<()>;
}

/// The interfaces of a machine and the addresses on them.
pub trait Addresses: Send {
    /// All interfaces with their addresses.
    fn interfaces(&mut self) -> Result<Vec<address::Interface>>;

    /// Puts `addr` on the interface with this number; there already is success.
    fn add(&mut self, index: u32, addr: IpAddr, prefix: u8) -> Result<()>;

    /// Takes `addr` off the interface with this number; not there is success.
    fn remove(&mut self, index: u32, addr: IpAddr, prefix: u8) -> Result<()>;

    /// Opens the interface with this number for announcements. Of an interface that is made again a
    /// new one is needed.
    fn announcer(&mut self, index: u32) -> Result<Arc<dyn Announcer>>;
}

/// An interface that is open for announcements.
pub trait Announcer: Send + Sync {
    /// Tells the neighbours once that `addr` is at this MAC address.
    fn announce(&self, addr: IpAddr, mac: [u8; 6]) -> Result<()>;
}

/// The deadlines until which this node may answer for addresses. Setting one is a single map
/// update that never blocks, so the thread that keeps the leases does it by itself.
pub trait Guard: Send {
    /// Guards `vip` with this deadline, its own; one in the past silences it.
    fn set(&mut self, vip: IpAddr, deadline: Time) -> Result<()>;

    /// Guards `vip` with this deadline, which [`Guard::renew`] changes with that of all others that
    /// follow, until it is set by itself again.
    fn follow(&mut self, vip: IpAddr, deadline: Time) -> Result<()>;

    /// Guards every VIP that follows with this deadline.
    fn renew(&mut self, deadline: Time) -> Result<()>;

    /// Guards exactly these; others are no longer guarded (and no longer ours to silence).
    fn cover(&mut self, vips: &[(IpAddr, bool)]) -> Result<()>;

    /// Which of them are on `lo`: packets of another director for those go up the stack, if
    /// [`Guard::cover`] says that this node serves them. Elsewhere the stack would route them back.
    fn serve(&mut self, _on_lo: &BTreeSet<IpAddr>) -> Result<()> {
        Ok(())
    }
}
