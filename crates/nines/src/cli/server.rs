//! `nines server`

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Subcommand};
use nines_dataplane::realserver;

use super::Context;
use crate::failure::Outcome;

/// Real servers for direct routing.
#[derive(Args)]
pub struct ServerArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Put VIPs on lo and keep ARP quiet about them.
    Prepare {
        /// The VIPs.
        #[arg(required = true)]
        vips: Vec<IpAddr>,
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
        What::Prepare { vips } => {
            realserver::prepare(vips, &memory(context))?;
            let list: Vec<String> = vips.iter().map(ToString::to_string).collect();
            println!(
                "ready to serve {} by direct routing; undo with: nines server undo",
                list.join(" ")
            );
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
