//! The command line: one file a command; the doc comments here are the help.
//!
//! Decides: grammar, output rules (stdout is data, stderr is talk) and exit codes.

use std::{path::PathBuf, process::ExitCode};

use clap::{FromArgMatches as _, Parser, Subcommand};
use nines_api::{
    failure::{Failure, Kind, Outcome},
    remote::Remote,
};
use nines_model::{AdminCommand, printable::clean_lines};

use crate::{
    context::{Context, Output, SOCKET, STATE},
    local::{self, agent, backup, code, doctor, guard, init, join, quorum_disk, quorumd, server},
    output::{self, print_json},
};

pub mod act;
pub mod config;
mod events;
mod fence;
mod help;
mod migrate;
mod node;
mod secret;
mod status;
mod token;
mod version;
mod why;

/// Where `--help` lists what all commands have.
const EVERYWHERE: &str = "Options of every command";

/// High availability and load balancing for Linux.
///
/// First steps:
///   nines demo         a whole cluster on this machine, in a minute
///   nines init NAME    a new cluster; prints the command for the next machine
///   nines status       which director serves what, whether a spare is ready, what is wrong
#[derive(Parser)]
#[command(
    name = "nines",
    version,
    disable_help_subcommand = true,
    max_term_width = 100,
    verbatim_doc_comment
)]
pub struct Cli {
    /// Socket of the agent.
    #[arg(
        long,
        global = true,
        env = "NINES_SOCKET",
        default_value = SOCKET,
        hide_env = true,
        help_heading = EVERYWHERE
    )]
    socket: PathBuf,
    /// State directory of the agent.
    #[arg(
        long,
        global = true,
        env = "NINES_STATE",
        default_value = STATE,
        hide_env = true,
        help_heading = EVERYWHERE
    )]
    state: PathBuf,
    /// Ask the agent of another machine, at https://ADDRESS:PORT (`nines agent --api`).
    #[arg(long = "server", env = "NINES_SERVER", hide_env = true, value_name = "URL")]
    remote: Option<String>,
    /// File with the token for --server.
    #[arg(long, env = "NINES_TOKEN_FILE", hide_env = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificate of the cluster's authority, to verify --server by: ca.pem of any node; by
    /// default the one of this machine's state directory.
    #[arg(long, env = "NINES_CA", hide_env = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Output: a table for people, JSON for programs.
    #[arg(short, long, global = true, value_enum, default_value_t, help_heading = EVERYWHERE)]
    output: Output,
    #[command(subcommand)]
    command: Commands,
}

#[derive(Subcommand)]
enum Commands {
    /// Show which director serves what, whether a spare is ready, and what is wrong now.
    Status(status::StatusArgs),
    /// Tell why a service, VIP, node or server is where and as it is, from the first cause on.
    Why(why::WhyArgs),
    /// List what happened in the cluster.
    Events(events::EventsArgs),
    /// Print counters and states of this node in the format of Prometheus.
    Metrics,
    /// Show what a config would change, and what clients would notice.
    Plan(config::PlanArgs),
    /// Make the cluster follow a config.
    Apply(config::ApplyArgs),
    /// Send no new connections to a server; established ones go on.
    Drain(act::SetArgs),
    /// Send new connections to a drained server again.
    Undrain(act::UnsetArgs),
    /// Move all VIPs off a director, and give it none until `nines ready`.
    Standby(act::SetArgs),
    /// Let a director on standby take VIPs again.
    Ready(act::UnsetArgs),
    /// Move a service's VIP to another director.
    Move(migrate::MoveArgs),
    /// List the members of the cluster; remove or replace some.
    Node(node::NodeArgs),
    /// List and test fence devices; switch a machine off or on by them.
    Fence(fence::FenceArgs),
    /// Make, list and revoke tokens for the API over TLS.
    Token(token::TokenArgs),
    /// Make this machine the first node of a new cluster; prints the join command.
    Init(init::InitArgs),
    /// Print a new join command; list join codes, or revoke some.
    Code(code::CodeArgs),
    /// Join a cluster.
    Join(join::JoinArgs),
    /// Vote as the witness of many clusters: one machine as their third party.
    Quorumd(quorumd::QuorumdArgs),
    /// Vote as a witness from a disk that several nodes share.
    QuorumDisk(quorum_disk::QuorumDiskArgs),
    /// Rotate keys of the cluster; show which member uses which.
    Secret(secret::SecretArgs),
    /// Prepare this machine as a real server for direct routing and tunnels, or undo that.
    Server(server::ServerArgs),
    /// Verify from this director that real servers answer for the VIPs and no other machine does.
    Doctor,
    /// Save the state of the cluster in a file, and form a cluster anew from one.
    Backup(backup::BackupArgs),
    /// Show or check configs; print their schema.
    Config(config::ConfigArgs),
    /// Run the agent (systemd does this).
    Agent(agent::AgentArgs),
    /// Feed this machine's watchdog while the agent renews its lease (systemd does this).
    #[command(hide = true)]
    Guard,
    /// LVS's ipvsadm on the tables of nines; it needs no agent (`nines ipvsadm --help`).
    #[command(disable_help_flag = true)]
    Ipvsadm {
        /// Arguments of ipvsadm.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Run a whole cluster on this machine, in network namespaces.
    Demo(crate::demo::DemoArgs),
    /// Print versions, API and kernel tables of this binary and of the agent.
    Version,
    /// More help: keys of the config, exit codes, completions, manual pages, the API.
    Help(help::HelpArgs),
    /// Parts of the demo that run inside its hosts.
    #[command(hide = true)]
    DemoPart(crate::demo::PartArgs),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let parsed = help::grammar().try_get_matches().and_then(|m| Cli::from_arg_matches(&m));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => return not_run(&e),
    };
    let Cli { socket, state, output, remote, token_file, ca, command } = cli;
    let mut context = Context { socket, state, output, remote: None };
    let asked = remote.map_or(Ok(None), |url| {
        let here = command.is_of_this_machine();
        let ca = ca.unwrap_or_else(|| context.state.join("ca.pem"));
        if here {
            Err(not_elsewhere())
        } else {
            Remote::open(&url, token_file.as_deref(), &ca).map(Some)
        }
    });
    let done = asked.and_then(|remote| {
        context.remote = remote;
        run(&context, command)
    });
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            let failure = local::of_real_server(&context.state, failure);
            report(&context, &failure);
            ExitCode::from(failure.kind.code())
        }
    }
}

/// The command line is wrong, or asks for help or the version.
fn not_run(e: &clap::Error) -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    if e.use_stderr() && wants_json(&words) {
        let text = e.render().to_string();
        let mut lines = text.lines();
        let what = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let why = lines.map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ");
        let failure = Failure::new(Kind::Usage, what, why).next("nines --help");
        print_json(&failure.problem());
    } else {
        output::ended(e.print());
    }
    ExitCode::from(if e.use_stderr() { Kind::Usage.code() } else { 0 })
}

/// Whether the words ask for JSON, where the grammar could not read them.
fn wants_json(words: &[String]) -> bool {
    let pair = |w: &[String]| matches!(w[0].as_str(), "-o" | "--output") && w[1] == "json";
    let one = |w: &String| matches!(w.as_str(), "-ojson" | "-o=json" | "--output=json");
    words.windows(2).any(pair) || words.iter().any(one)
}

fn not_elsewhere() -> Failure {
    Failure::new(Kind::Usage, "not done", "this command works on the machine where it runs")
        .next("leave --server out and NINES_SERVER unset, or run it over there")
}

impl Commands {
    /// Whether it does not ask an agent, but works on this machine itself.
    fn is_of_this_machine(&self) -> bool {
        match self {
            Self::Backup(args) => args.is_of_this_machine(),
            Self::Init(_)
            | Self::Code(_)
            | Self::Join(_)
            | Self::Quorumd(_)
            | Self::QuorumDisk(_)
            | Self::Server(_)
            | Self::Doctor
            | Self::Agent(_)
            | Self::Guard
            | Self::Ipvsadm { .. }
            | Self::Demo(_)
            | Self::DemoPart(_) => true,
            _ => false,
        }
    }
}

fn report(context: &Context, failure: &Failure) {
    if context.json() {
        print_json(&failure.clone().problem());
        return;
    }
    errln!("nines: {}", clean_lines(&failure.to_string()));
    if let Some(next) = &failure.next {
        errln!("  next: {}", clean_lines(next));
    }
}

fn run(context: &Context, command: Commands) -> Outcome<u8> {
    match command {
        Commands::Status(args) => status::run(context, &args),
        Commands::Why(args) => why::run(context, &args),
        Commands::Events(args) => events::run(context, &args),
        Commands::Metrics => {
            let text = context.client().get_raw("/metrics")?;
            let text = String::from_utf8_lossy(&text);
            if context.json() {
                print_json(&serde_json::json!({ "schema": 1, "text": text }));
            } else {
                out!("{text}");
            }
            Ok(0)
        }
        Commands::Plan(args) => config::plan(context, &args),
        Commands::Apply(args) => config::apply(context, &args),
        Commands::Drain(args) => act::set(context, AdminCommand::Drain, &args),
        Commands::Undrain(args) => act::unset(context, AdminCommand::Undrain, &args),
        Commands::Standby(args) => act::set(context, AdminCommand::Standby, &args),
        Commands::Ready(args) => act::unset(context, AdminCommand::Ready, &args),
        Commands::Move(args) => migrate::run(context, &args),
        Commands::Node(args) => node::run(context, &args),
        Commands::Fence(args) => fence::run(context, &args),
        Commands::Token(args) => token::run(context, &args),
        Commands::Init(args) => init::run(context, &args),
        Commands::Code(args) => code::run(context, &args),
        Commands::Join(args) => join::run(context, &args),
        Commands::Quorumd(args) => quorumd::run(context, &args),
        Commands::Secret(args) => secret::run(context, &args),
        Commands::QuorumDisk(args) => quorum_disk::run(context, &args),
        Commands::Server(args) => server::run(context, &args),
        Commands::Doctor => doctor::run(context),
        Commands::Backup(args) => backup::run(context, &args),
        Commands::Config(args) => config::run(context, &args),
        Commands::Agent(args) => agent::run(context, &args),
        Commands::Guard => guard::run(context),
        Commands::Ipvsadm { words } => Ok(local::ipvsadm::run(&words)),
        Commands::Demo(args) => crate::demo::run(context, &args),
        Commands::DemoPart(args) => crate::demo::part(&args),
        Commands::Version => version::run(context),
        Commands::Help(args) => help::run(context, args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound_and_small() {
        let shown = help::grammar().get_subcommands().filter(|c| !c.is_hide_set()).count();
        assert!(shown < 60);
    }

    #[test]
    fn the_first_steps_have_a_line_each() {
        let text = help::grammar().render_long_help().to_string();
        let steps = ["nines demo", "nines init", "nines status"];
        for line in text.lines() {
            assert!(steps.iter().filter(|step| line.contains(*step)).count() <= 1, "{line}");
        }
    }

    #[test]
    fn json_is_asked_for_in_every_spelling() {
        let wants =
            |line: &str| wants_json(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(wants("nines -o json bogus") && wants("nines bogus --output=json"));
        assert!(wants("nines bogus -ojson") && !wants("nines bogus -o table"));
    }
}
