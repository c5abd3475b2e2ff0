//! `nines demo`: a whole cluster on this machine, in network namespaces.
//!
//! Decides: nothing of its own; `stage` builds, `faults` break and measure, `screen` shows.

use std::{io::IsTerminal as _, path::PathBuf, process::Command};

use clap::{Args, Subcommand};
use nines_api::failure::{Failure, Kind, Outcome};
use nines_model::Codes as _;

use self::{faults::Fault, stage::Stage};
use crate::{context::Context, output::print_json};

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
    /// Intervals of heartbeats and leases: those of `timing = "fast"`; by default the usual ones.
    #[arg(long, value_name = "fast", value_parser = ["fast"])]
    timing: Option<String>,
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

/// The built-in scripts, in the order of "all".
const SCRIPTS: [Fault; 11] = [
    Fault::KillActive,
    Fault::FreezeActive,
    Fault::CutActive,
    Fault::PlannedMove,
    Fault::KillServer,
    Fault::DrainServer,
    Fault::Split,
    Fault::MuteActive,
    Fault::DeafActive,
    Fault::KillWitness,
    Fault::RestartAgent,
];

/// A script that has this name; "nothing" is one, and not in "all".
fn script_named(name: &str) -> Option<Fault> {
    let known = |fault: &Fault| *fault == Fault::Nothing || SCRIPTS.contains(fault);
    Fault::from_code(name).filter(known)
}

/// Runs `nines demo`.
pub fn run(context: &Context, args: &DemoArgs) -> Outcome<u8> {
    if let Some(file) = &args.export {
        std::fs::write(file, stage::CONFIG)
            .map_err(|e| Failure::new(Kind::Io, format!("cannot write {}", file.display()), e))?;
        if context.json() {
            print_json(&serde_json::json!({ "schema": 1, "wrote": file }));
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
    if args.compare.is_some() {
        return compare::run(context, args.repeat);
    }
    let stage = Stage::build(&args.path, args.timing.as_deref(), args.busy)?;
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

/// The faults that `--script` asks for.
fn script(word: &str) -> Outcome<Vec<Fault>> {
    if word == "all" {
        return Ok(SCRIPTS.to_vec());
    }
    if let Some(fault) = script_named(word) {
        return Ok(vec![fault]);
    }
    let codes = SCRIPTS.map(Fault::code);
    let words = std::fs::read_to_string(word).map_err(|_| {
        let meant = nines_model::suggest::closest(word, codes);
        let next = meant.map_or_else(|| codes.join(", "), |m| format!("did you mean {m}?"));
        Failure::new(Kind::NotFound, format!("unknown script or file {word}"), "").next(next)
    })?;
    let usage = |what: String| {
        Failure::new(Kind::Usage, what, "").next(format!("known: {}", codes.join(", ")))
    };
    let names = words.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    let read = |name| script_named(name).ok_or_else(|| usage(format!("unknown fault {name}")));
    let faults: Vec<Fault> = names.map(read).collect::<Outcome<_>>()?;
    if faults.is_empty() { Err(usage(format!("{word} names no fault"))) } else { Ok(faults) }
}

/// Runs a part.
pub fn part(args: &PartArgs) -> Outcome<u8> {
    match &args.part {
        Part::Web { listen, name, broken } => part::web(*listen, name, broken),
        Part::Busy => part::busy(),
    }
}
