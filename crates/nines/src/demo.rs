//! `nines demo`: a whole cluster on this machine, in network namespaces.
//!
//! Decides: nothing of its own; `stage` builds, `faults` break and measure, `screen` shows.

use std::{io::IsTerminal as _, path::PathBuf, process::Command};

use clap::{Args, Subcommand};

use self::stage::Stage;
use crate::{
    cli::Context,
    failure::{Failure, Kind, Outcome},
};

mod compare;
mod faults;
mod part;
mod probe;
mod sampler;
mod screen;
mod stage;

/// Run a whole cluster on this machine, in network namespaces.
#[derive(Args)]
pub struct DemoArgs {
    /// Run faults unattended: a built-in name, "all", or a file with one name on each line.
    #[arg(long, value_name = "NAME|FILE")]
    script: Option<String>,
    /// Number of times that each fault runs.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Write the demo's config to this file, and end.
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// Run the same faults on a real keepalived, too, and compare the two.
    #[arg(long, value_name = "PEER", value_parser = ["keepalived"])]
    compare: Option<String>,
    /// Number of busy loops that run on this machine meanwhile.
    #[arg(long, default_value_t = 0)]
    busy: u32,
    /// Packet path of the directors.
    #[arg(long, default_value = "auto", value_parser = ["auto", "tc", "xdp"])]
    path: String,
}

/// Parts that run inside hosts.
#[derive(Args)]
pub struct PartArgs {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// A small web server.
    Web {
        /// Address and port to listen on.
        listen: std::net::SocketAddr,
        /// What it says.
        name: String,
        /// While this file is there, it answers 500.
        broken: PathBuf,
    },
    /// A loop that does nothing but use a CPU.
    Busy,
}

/// Names of the built-in scripts, in the order of "all".
pub const SCRIPTS: [&str; 9] = [
    "kill-active",
    "freeze-active",
    "cut-active",
    "planned-move",
    "kill-server",
    "drain-server",
    "split",
    "kill-witness",
    "restart-agent",
];

/// No fault: watches what goes wrong by itself. Not in "all"; with `--busy 4 --repeat 120` a soak.
const NOTHING: &str = "nothing";

/// Runs `nines demo`.
pub fn run(context: &Context, args: &DemoArgs) -> Outcome<u8> {
    if let Some(file) = &args.export {
        std::fs::write(file, stage::CONFIG)
            .map_err(|e| Failure::new(Kind::Io, format!("cannot write {}", file.display()), e))?;
        if context.json() {
            crate::cli::print_json(&serde_json::json!({ "schema": 1, "wrote": file }));
        } else {
            outln!("wrote {}", file.display());
        }
        return Ok(0);
    }
    let scripts = args.script.as_deref().map(script).transpose()?;
    if !nines_lab::is_root() {
        return Err(Failure::new(
            Kind::Denied,
            "the demo needs root",
            "it makes network namespaces and loads eBPF programs into them; nothing outside is touched",
        )
        .next("sudo nines demo"));
    }
    for program in ["ip", "nft"] {
        if Command::new(program).arg("-V").output().is_err() {
            return Err(Failure::new(
                Kind::Io,
                format!("the demo needs {program}"),
                "it is not installed",
            )
            .next("apt-get install iproute2 nftables"));
        }
    }
    let _end_cleanly = end_on_signals();
    if let Some(peer) = &args.compare {
        return compare::run(context, peer, args.repeat);
    }
    let stage = Stage::build(&args.path, args.busy)?;
    match scripts {
        Some(names) => faults::unattended(stage, &names, args.repeat, context.json()),
        None if std::io::stdout().is_terminal() && std::io::stdin().is_terminal() => {
            screen::run(stage)
        }
        None => faults::tour(stage),
    }
}

/// A signal ends the process; the janitor of the lab then removes everything.
fn end_on_signals() -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            screen::restore();
            std::process::exit(130);
        }
    });
    Ok(())
}

fn script(word: &str) -> Outcome<Vec<String>> {
    if word == "all" {
        return Ok(SCRIPTS.iter().map(|s| (*s).to_owned()).collect());
    }
    let known = |name: &str| name == NOTHING || SCRIPTS.contains(&name);
    let words = if known(word) {
        word.to_owned()
    } else {
        std::fs::read_to_string(word).map_err(|_| {
            let meant = nines_model::suggest::closest(word, SCRIPTS);
            let next = meant.map_or_else(|| SCRIPTS.join(", "), |m| format!("did you mean {m}?"));
            Failure::new(Kind::NotFound, format!("unknown script or file {word}"), "").next(next)
        })?
    };
    let names = words.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    let names: Vec<String> = names.map(str::to_owned).collect();
    if names.is_empty() {
        return Err(Failure::new(Kind::Usage, format!("{word} names no fault"), "")
            .next(format!("known: {}", SCRIPTS.join(", "))));
    }
    match names.iter().find(|n| !known(n)) {
        Some(bad) => Err(Failure::new(Kind::Usage, format!("unknown fault {bad}"), "")
            .next(format!("known: {}", SCRIPTS.join(", ")))),
        None => Ok(names),
    }
}

/// Runs a part.
pub fn part(args: &PartArgs) -> Outcome<u8> {
    match &args.part {
        Part::Web { listen, name, broken } => part::web(*listen, name, broken),
        Part::Busy => part::busy(),
    }
}
