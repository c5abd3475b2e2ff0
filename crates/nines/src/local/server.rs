//! `nines server`

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use nines_agent::{LOCAL_SERVER_MEMORY, REAL_SERVER_MEMORY, StateDir, kernel_failure};
use nines_api::failure::{Failure, Kind, Outcome};
use nines_dataplane::{ebpf, real_server::Keeper};
use nines_model::RealServerRole;

use crate::{context::Context, output::print_json};

/// Prepare this machine as a real server for direct routing and tunnels, or undo that.
#[derive(Args)]
pub struct ServerArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Configure VIPs on lo, keep ARP silent about them, and unpack tunnelled packets. A machine
    /// that joined with --server does this by itself.
    Prepare {
        /// VIPs to configure.
        #[arg(required = true)]
        vips: Vec<IpAddr>,
        /// Also unpack packets that arrive in a tunnel (ipip, gue, gre).
        #[arg(long)]
        tunnel: bool,
        /// UDP port that receives gue.
        #[arg(long, default_value_t = nines_model::Tunnel::GUE_PORT, requires = "tunnel")]
        tunnel_port: u16,
    },
    /// List the VIPs and tunnels that the cluster told this machine to have.
    Show,
    /// Undo all of it; a machine that joined with --server leaves the cluster.
    Undo,
}

fn memory(context: &Context) -> PathBuf {
    context.state.join(REAL_SERVER_MEMORY)
}

fn words<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = all.into_iter().map(|one| one.to_string()).collect();
    if words.is_empty() { "nothing".into() } else { words.join(" ") }
}

/// Runs `nines server`.
pub fn run(context: &Context, args: &ServerArgs) -> Outcome<u8> {
    match &args.what {
        What::Prepare { vips, tunnel, tunnel_port } => {
            let duty = RealServerRole {
                vips: vips.iter().copied().collect(),
                tunnels: tunnel.then_some(*tunnel_port).into_iter().collect(),
            };
            let done = Keeper::new(&memory(context))
                .keep(&duty, &RealServerRole::default())
                .map_err(kernel_failure)?;
            if let Some(why) = done.trouble.into_iter().next() {
                return Err(kernel_failure(why));
            }
            let how =
                if *tunnel { "through tunnels and by direct routing" } else { "by direct routing" };
            let text =
                format!("ready to serve {} {how}; undo with: nines server undo", words(vips));
            if context.json() {
                print_json(&serde_json::json!({ "schema": 1, "vips": vips, "text": text }));
            } else {
                outln!("{text}");
            }
        }
        What::Show => show(context)?,
        What::Undo => undo(context)?,
    }
    Ok(0)
}

fn show(context: &Context) -> Outcome<()> {
    let home = StateDir::at(&context.state);
    let who = home.identity()?;
    if !who.server {
        return Err(Failure::new(
            Kind::Usage,
            format!("this machine is a node of cluster {}, not a real server", who.cluster),
            "",
        )
        .next("nines status"));
    }
    let answer = home.said()?.answer;
    if context.json() {
        print_json(&serde_json::json!({
            "schema": 1, "cluster": who.cluster, "server": who.me.name,
            "revision": answer.revision, "vips": answer.vips, "tunnels": answer.tunnels,
        }));
        return Ok(());
    }
    outln!("real server {} of cluster {}, config {}", who.me.name, who.cluster, answer.revision);
    outln!("has       {}", words(&answer.vips));
    if !answer.tunnels.is_empty() {
        let kinds = answer.tunnels.iter().map(|port| match port {
            0 => "ipip gre".to_owned(),
            port => format!("gue:{port}"),
        });
        outln!("unwraps   {}", words(kinds));
    }
    let members = if answer.members.is_empty() { &who.peers } else { &answer.members };
    outln!("asks      {}", words(members.iter().map(|m| &m.name)));
    Ok(())
}

fn undo(context: &Context) -> Outcome<()> {
    let home = StateDir::at(&context.state);
    let server = home.is_member() && home.identity()?.server;
    let lock = if server { home.lock_real_server()? } else { None };
    if server && lock.is_none() {
        return Err(Failure::new(
            Kind::Unsafe,
            "the agent would put everything there again",
            "it runs on this machine",
        )
        .next("systemctl disable --now nines"));
    }
    let serves = home.file(LOCAL_SERVER_MEMORY);
    let mut gone = Vec::new();
    // What came later goes first: it remembers what the earlier one had set.
    if serves.exists() {
        // A director's agent has the claim while it runs.
        let Some(_claim) = ebpf::claim(Duration::ZERO).map_err(kernel_failure)? else {
            let why = "the agent would put everything there again";
            return Err(Failure::new(Kind::Unsafe, why, "it runs on this machine")
                .next("take this director out of the services' servers, and apply"));
        };
        gone.extend(nines_dataplane::real_server::undo(&serves).map_err(kernel_failure)?);
    }
    gone.extend(nines_dataplane::real_server::undo(&memory(context)).map_err(kernel_failure)?);
    if server {
        home.forget_cluster()?;
    }
    if context.json() {
        print_json(&serde_json::json!({ "schema": 1, "vips": gone, "left": server }));
        return Ok(());
    }
    outln!("{}", undone(&gone));
    if server {
        outln!("this machine has left its cluster");
    }
    Ok(())
}

/// What was taken back.
fn undone(gone: &[IpAddr]) -> String {
    if gone.is_empty() { "nothing to undo".into() } else { format!("removed: {}", words(gone)) }
}
