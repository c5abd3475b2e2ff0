//! `nines server`

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Subcommand};
use nines_dataplane::realserver;

use super::Context;
use crate::failure::Outcome;

/// Real servers for direct routing and tunnels.
#[derive(Args)]
pub struct ServerArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Put VIPs on lo and keep ARP quiet about them; unwrap tunnels.
    Prepare {
        /// The VIPs.
        #[arg(required = true)]
        vips: Vec<IpAddr>,
        /// Packets come through a tunnel (ipip, gue, gre): nines takes them out of it.
        #[arg(long)]
        tunnel: bool,
        /// UDP port of gue.
        #[arg(long, default_value_t = nines_model::Tunnel::GUE_PORT, requires = "tunnel")]
        tunnel_port: u16,
    },
    /// Put everything back as it was.
    Undo,
}

fn memory(context: &Context) -> PathBuf {
    context.state.join("realserver")
}

/// Runs it.
pub fn run(context: &Context, args: &ServerArgs) -> Outcome<u8> {
    match &args.what {
        What::Prepare { vips, tunnel, tunnel_port } => {
            realserver::prepare(vips, tunnel.then_some(*tunnel_port), &memory(context))?;
            let list: Vec<String> = vips.iter().map(ToString::to_string).collect();
            let how =
                if *tunnel { "through tunnels and by direct routing" } else { "by direct routing" };
            println!("ready to serve {} {how}; undo with: nines server undo", list.join(" "));
        }
        What::Undo => {
            let gone = realserver::undo(&memory(context))?;
            let list: Vec<String> = gone.iter().map(ToString::to_string).collect();
            println!(
                "put back; no longer here: {}",
                if list.is_empty() { "nothing".into() } else { list.join(" ") }
            );
        }
    }
    Ok(0)
}
