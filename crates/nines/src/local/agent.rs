//! `nines agent`

use std::time::Duration;

use clap::{Args, ValueEnum};
use nines_agent::{Options, kernel_failure};
use nines_api::failure::{Failure, Kind, Outcome};
use nines_dataplane::ebpf::{self, Hooks};

use crate::context::Context;

/// Run the agent.
#[derive(Args, Clone)]
pub struct AgentArgs {
    /// Packet path: XDP where the driver supports it and gives whole packets, otherwise tc.
    #[arg(long, value_enum, default_value_t = Path::Auto)]
    path: Path,
    /// Also serve `GET /metrics` (Prometheus) at this ADDRESS:PORT; the API's socket always does.
    #[arg(long, env = "NINES_METRICS", hide_env = true)]
    metrics: Option<std::net::SocketAddr>,
    /// Also serve the API over TLS at this ADDRESS:PORT, to callers with a token.
    #[arg(long, env = "NINES_API", hide_env = true)]
    api: Option<std::net::SocketAddr>,
    /// Where fence agents are, for tests.
    #[arg(long, value_name = "DIR", hide = true)]
    fence_agents: Option<std::path::PathBuf>,
    /// Do not run, but remove the director's programs and tables from this machine's kernel. They
    /// outlive the agent and drop packets for VIPs whose lease has ended, whichever program
    /// configured the addresses.
    #[arg(long, conflicts_with_all = ["path", "metrics", "api"])]
    remove_programs: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Path {
    /// XDP where the driver supports it, otherwise tc.
    Auto,
    /// tc, never XDP.
    Tc,
    /// XDP on every device, also on veth.
    Xdp,
}

/// Runs `nines agent`.
pub fn run(context: &Context, args: &AgentArgs) -> Outcome<u8> {
    if args.remove_programs {
        return remove_programs();
    }
    let hooks = match args.path {
        Path::Auto => Hooks::Auto,
        Path::Tc => Hooks::Tc,
        Path::Xdp => Hooks::Xdp,
    };
    let (state, socket) = (context.state.clone(), context.socket.clone());
    let AgentArgs { metrics, api, fence_agents, .. } = args.clone();
    nines_agent::run(&Options { state, socket, hooks, metrics, api, fence_agents })?;
    Ok(0)
}

fn remove_programs() -> Outcome<u8> {
    let Some(_claim) = ebpf::claim(Duration::from_secs(5)).map_err(kernel_failure)? else {
        let why = "an agent or ipvsadm of this machine is using them";
        return Err(Failure::new(Kind::Unsafe, "programs and tables stay", why)
            .next("systemctl stop nines"));
    };
    ebpf::release_all().map_err(kernel_failure)?;
    ebpf::remove_pins().map_err(kernel_failure)?;
    Ok(0)
}
