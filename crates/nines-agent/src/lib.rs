//! The daemon as a library: `nines agent` is [`run`].
//!
//! Decides: what of the agent the binary may use. That is the entry, and what the commands need
//! that work on this machine without an agent: mostly its state directory, [`StateDir`]. Everything
//! else is private; clients of a running agent use `nines-api`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod backup;
mod checks;
mod connection_limits;
mod convert;
mod core_thread;
mod daemon;
mod datagram_budget;
mod descriptors;
mod executors;
mod facts;
mod flow_sync;
mod http;
mod identity;
mod logger;
mod own_status;
mod queue;
mod quorum_disk;
mod quorumd;
mod real_server;
mod start;
mod stop;
mod storage;
mod threads;
mod transport;
mod watchdog;

pub use self::{
    backup::{Anew, Backup, begin_anew, write as write_backup},
    convert::kernel_failure,
    daemon::{Options, run},
    executors::local_server::MEMORY as LOCAL_SERVER_MEMORY,
    http::{
        no_table_holds, openapi, this_user,
        view::feasibility::{other_cluster, senseless},
    },
    identity::{
        Admits, Credentials, Identity, JoinCode, PORT, StateDir, bootstrap, new_key, now_s,
        read_code,
    },
    quorum_disk::{
        PORT as QUORUM_DISK_PORT, QuorumDiskOptions, init as quorum_disk_init,
        run as run_quorum_disk, view as quorum_disk_view,
    },
    quorumd::{
        FIRST_PORT as QUORUMD_PORT, QuorumdOptions, folders as quorumd_folders, run as run_quorumd,
    },
    real_server::MEMORY as REAL_SERVER_MEMORY,
    transport::peer_port::{FEATURE_LEVEL, JoinRequest, join},
    watchdog::guard::run as feed_watchdog,
};

/// Whether real servers accept packets for the VIPs, asked from this machine.
pub mod proof {
    pub use crate::checks::proof::{Meaning, ask, by_hand, questions};
}
