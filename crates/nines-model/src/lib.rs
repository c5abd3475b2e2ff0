//! Ring 0: the words every other crate speaks. Pure data and pure functions.
//!
//! Decides: what a cluster is ([`Spec`]), how its file reads ([`config`]), what changed between
//! two ([`diff`]), what a director forwards ([`ForwardingTable`]). Knows no clock, no socket, no
//! file and no serde: text comes in as `&str`, time as a number.

pub mod access;
pub mod admin;
pub mod clients;
pub mod codes;
pub mod config;
pub mod diff;
pub mod fence;
pub mod forward;
pub mod id;
pub mod listen;
pub mod names;
pub mod printable;
pub mod real_server;
pub mod reason;
pub mod sanity;
pub mod spec;
pub mod suggest;
pub mod table;
pub mod time;

pub use access::{Access, AccessRole};
pub use admin::{AdminCommand, SafetyRule};
pub use clients::{ClientRate, QuicId, Rate, Sources};
pub use codes::{Coded, Codes};
pub use fence::{FenceDevice, FenceProgram, Fencing, Switch, Watchdog};
pub use forward::{Forward, Tunnel, TunnelChecksum, TunnelKind};
pub use id::{
    DeviceName, Incarnation, LogIndex, NodeId, NodeName, ServerName, ServerRef, ServiceName,
};
pub use listen::{Listen, Proto, network};
pub use real_server::RealServerRole;
pub use reason::{Refusals, Unfit, Why};
pub use spec::{
    Backend, Check, CheckKind, IdleLimits, Limit, NodeSpec, Persist, Role, Scheduler,
    SchedulerFlags, ServerSpec, ServiceSpec, Spec, Timing, Vip,
};
pub use table::{
    Counters, ForwardingTable, ServerState, TableServer, TableService, Tally, Traffic,
};
pub use time::{Millis, Time};
