//! Commands that work on this machine itself, not through the API.
//!
//! Decides: nothing. Here alone the binary names the agent's library and the door to kernel
//! networking; `cli` and `demo` name neither, but `nines-api` and what is offered here.

use std::path::Path;

use nines_agent::StateDir;
use nines_api::failure::{Failure, Kind, Outcome};
use nines_model::Spec;

pub mod agent;
pub mod arp;
pub mod backup;
pub mod code;
pub mod doctor;
pub mod guard;
pub mod init;
pub mod ipvsadm;
pub mod join;
pub mod quorum_disk;
pub mod quorumd;
pub mod server;

pub use nines_agent::openapi;

/// Layout of the kernel tables that this binary makes.
pub const TABLES_VERSION: u32 = nines_dataplane::ebpf::ABI_VERSION;

/// What a config makes impossible on any machine.
pub fn senseless(spec: &Spec) -> Option<Failure> {
    nines_agent::senseless(spec).into_iter().next()
}

/// Refuses a config that no director's tables hold, or that is for another cluster than the one
/// this machine is a member of by its state directory.
pub fn refused_here(state: &Path, spec: &Spec) -> Outcome<()> {
    nines_agent::no_table_holds(spec)?;
    let home = StateDir::at(state);
    let own = if home.is_member() { home.identity()?.cluster } else { String::new() };
    nines_agent::other_cluster(&own, spec).map_or(Ok(()), Err)
}

/// A real server has no view of the cluster: members that have one are named.
pub fn of_real_server(state: &Path, failure: Failure) -> Failure {
    let home = StateDir::at(state);
    match home.identity() {
        Ok(who) if who.server && failure.kind == Kind::Unreachable && home.is_member() => {
            let members = who.peers.iter().map(|p| p.name.clone()).collect::<Vec<_>>().join(", ");
            let cluster = &who.cluster;
            let why = format!("this machine is a real server of cluster {cluster}, not a node");
            let next = format!("nines server show   here; everything else on {members}");
            Failure { next: Some(next), ..Failure::new(Kind::Unreachable, failure.what, why) }
        }
        _ => failure,
    }
}
