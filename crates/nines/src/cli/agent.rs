//! `nines agent`

use clap::{Args, ValueEnum};
use nines_dataplane::ebpf::Hooks;

use super::Context;
use crate::{
    daemon::{self, Options},
    failure::Outcome,
};

/// Run the agent.
#[derive(Args)]
pub struct AgentArgs {
    /// Which way packets take: XDP where the driver carries finished packets, else tc.
    #[arg(long, value_enum, default_value_t = Path::Auto)]
    path: Path,
    /// Also answer `GET /metrics` (Prometheus) there, ADDRESS:PORT; the API's socket always does.
    #[arg(long, env = "NINES_METRICS", hide_env = true)]
    metrics: Option<std::net::SocketAddr>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Path {
    /// XDP where the driver has it, else tc.
    Auto,
    /// tc only.
    Tc,
    /// XDP everywhere, also on veth.
    Xdp,
}

/// Runs it.
pub fn run(context: &Context, args: &AgentArgs) -> Outcome<u8> {
    let hooks = match args.path {
        Path::Auto => Hooks::Auto,
        Path::Tc => Hooks::Tc,
        Path::Xdp => Hooks::Xdp,
    };
    let (state, socket) = (context.state.clone(), context.socket.clone());
    daemon::run(&Options { state, socket, hooks, metrics: args.metrics })?;
    Ok(0)
}
