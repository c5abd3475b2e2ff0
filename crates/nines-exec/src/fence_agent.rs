//! Fence agents of the distribution (`/usr/sbin/fence_*`), as they are: programs that switch a
//! machine off, or cut it off, through a device of its own. A program of the operator may stand in
//! for one (`command.rs`).
//!
//! ```text
//! DeviceConfig --check against Metadata--> Device --call--> Call --> Run, and what its end means
//!                                            `-- power_off --> PoweredOff; power_on; test
//! ```
//! Decides: what an agent is told, and what its answers mean. Does not decide who is to be fenced,
//! by which devices, or how often: a fence device has one caller at a time, and its caller keeps
//! that order.
//!
//! The interface is that of Debian 12's fence-agents 4.12. Lines `key=value` are read from standard
//! input; without `action=` an agent reboots the machine, and an unknown key is a warning to it.

mod call;
mod command;
mod device;
mod installed;
mod metadata;
mod power_off;
mod power_on;
mod probe;
mod sequence;
mod worker;

pub use self::{
    call::{Action, Answer, Call, Failure, ListedOutlet, NoCall, Power},
    device::{Device, DeviceConfig, Outlet, Problem},
    installed::{Installed, NoMetadata},
    metadata::{AgentAction, Kind, Metadata, Misread, Parameter},
    power_off::{PowerOff, PoweredOff},
    power_on::PowerOn,
    probe::Tested,
    sequence::Evidence,
};
