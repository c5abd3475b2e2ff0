//! The command line: one file a command; the doc comments here are the help.
//!
//! Decides: grammar, output rules (stdout is data, stderr is talk) and exit codes.

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::{
    api::client::Client,
    failure::{EXIT_CODES, Failure, Kind, Outcome},
    identity,
};

mod act;
mod agent;
mod config;
mod doctor;
mod events;
mod init;
mod join;
mod migrate;
mod server;
mod status;
mod version;
mod why;

/// High availability and load balancing for Linux.
///
/// First steps:  nines demo            the whole thing on this machine, in a minute
///               nines init NAME       a new cluster; prints the command for the next machine
///               nines status          who serves what, who is ready, what is wrong
#[derive(Parser)]
#[command(name = "nines", version, disable_help_subcommand = true, max_term_width = 100)]
pub struct Cli {
    /// Socket of the agent.
    #[arg(
        long,
        global = true,
        env = "NINES_SOCKET",
        default_value = "/run/nines/nines.sock",
        hide_env = true
    )]
    socket: PathBuf,
    /// State directory of the agent.
    #[arg(
        long,
        global = true,
        env = "NINES_STATE",
        default_value = "/var/lib/nines",
        hide_env = true
    )]
    state: PathBuf,
    /// Output: a table for people, JSON for programs.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Output,
    #[command(subcommand)]
    command: Commands,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Table,
    /// The API's own object.
    Json,
}

#[derive(Subcommand)]
enum Commands {
    /// Who serves what, is a spare ready, what is wrong now.
    Status(status::StatusArgs),
    /// Why something is where and as it is, from the first cause on.
    Why(why::WhyArgs),
    /// What happened.
    Events(events::EventsArgs),
    /// Counts and states of this node as Prometheus reads them.
    Metrics,
    /// What a config would change, and what clients would feel.
    Plan(config::PlanArgs),
    /// Make the cluster follow a config.
    Apply(config::ApplyArgs),
    /// No new connections to a server; old ones live on.
    Drain(act::SetArgs),
    /// New connections to a server again.
    Undrain(act::UnsetArgs),
    /// Set a node aside: its VIPs move, it takes none.
    Standby(act::SetArgs),
    /// Let a node take VIPs again.
    Ready(act::UnsetArgs),
    /// Move a service's VIP to a node, planned.
    Move(migrate::MoveArgs),
    /// Make a cluster of this machine; prints the join command.
    Init(init::InitArgs),
    /// Print a new join command.
    Code(init::CodeArgs),
    /// Join a cluster.
    Join(join::JoinArgs),
    /// Prepare this machine as a real server for direct routing, or undo it.
    Server(server::ServerArgs),
    /// Prove from this director that real servers answer for the VIPs, and nobody else.
    Doctor,
    /// Show or check configs; print their schema.
    Config(config::ConfigArgs),
    /// Run the agent (systemd does this).
    Agent(agent::AgentArgs),
    /// LVS's ipvsadm on nines' tables, without an agent (`nines ipvsadm --help`).
    #[command(disable_help_flag = true)]
    Ipvsadm {
        /// As ipvsadm takes them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// A whole cluster on this machine, in network namespaces.
    Demo(crate::demo::DemoArgs),
    /// Version, data path and API of this binary and the agent.
    Version,
    /// More help: exit-codes, completions, manual pages, the API.
    Help(HelpArgs),
    /// Parts of the demo that run inside its hosts.
    #[command(hide = true)]
    DemoPart(crate::demo::PartArgs),
}

#[derive(Args)]
struct HelpArgs {
    #[command(subcommand)]
    about: Option<About>,
}

#[derive(Subcommand)]
enum About {
    /// What each exit code means.
    ExitCodes,
    /// A completion script.
    Completions {
        /// For this shell.
        shell: clap_complete::Shell,
    },
    /// Manual pages, into a directory.
    Man {
        /// Directory.
        to: PathBuf,
    },
    /// The OpenAPI document.
    Api,
}

/// What every command gets.
pub struct Context {
    socket: PathBuf,
    /// State directory.
    pub state: PathBuf,
    output: Output,
}

impl Context {
    /// The agent's API.
    pub fn client(&self) -> Client<'_> {
        Client { socket: &self.socket }
    }

    /// Whether a program reads.
    pub fn json(&self) -> bool {
        self.output == Output::Json
    }
}

/// "alice@lb1": who acts.
pub fn actor() -> String {
    let user = std::env::var("SUDO_USER").or_else(|_| std::env::var("USER"));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}@{}", user.unwrap_or_else(|_| "root".into()), host.trim())
}

/// Bold on a terminal that wants it.
pub fn bold(text: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some()
        || std::env::var("TERM").is_ok_and(|t| t == "dumb")
        || !std::io::stdout().is_terminal();
    if plain { text.to_owned() } else { format!("\x1b[1m{text}\x1b[0m") }
}

/// Columns with two blanks between, as wide as their widest cell.
pub fn columns(rows: &[Vec<String>]) -> String {
    let width = |i: usize| {
        rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width - cell.chars().count() + 2));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// JSON of a value, as every `-o json` prints it.
pub fn print_json(value: &impl serde::Serialize) {
    println!("{}", serde_json::to_string_pretty(value).expect("plain data"));
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    let context = Context { socket: cli.socket, state: cli.state, output: cli.output };
    match run(&context, cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            let failure = of_real_server(&context, failure);
            report(&context, &failure);
            ExitCode::from(failure.kind.code())
        }
    }
}

/// A real server has no view of the cluster: who has is named.
fn of_real_server(context: &Context, failure: Failure) -> Failure {
    let home = identity::home(&context.state);
    match home.identity() {
        Ok(who) if who.server && failure.kind == Kind::Unreachable && home.is_member() => {
            let members = who.peers.iter().map(|p| p.name.clone()).collect::<Vec<_>>().join(", ");
            let cluster = &who.cluster;
            let why = format!("this machine is a real server of cluster {cluster}, no node");
            let next = format!("nines server show   here; everything else on {members}");
            Failure { next: Some(next), ..Failure::new(Kind::Unreachable, failure.what, why) }
        }
        _ => failure,
    }
}

fn report(context: &Context, failure: &Failure) {
    if context.json() {
        let next = failure.next.clone();
        let problem = crate::api::types::Problem {
            r#type: format!("urn:nines:{}", failure.kind.word()),
            title: failure.what.clone(),
            detail: failure.why.clone(),
            next,
        };
        println!("{}", serde_json::to_string(&problem).expect("plain data"));
        return;
    }
    eprintln!("nines: {failure}");
    if let Some(next) = &failure.next {
        eprintln!("  next: {next}");
    }
}

fn run(context: &Context, command: Commands) -> Outcome<u8> {
    match command {
        Commands::Status(args) => status::run(context, &args),
        Commands::Why(args) => why::run(context, &args),
        Commands::Events(args) => events::run(context, &args),
        Commands::Metrics => {
            let text = context.client().get_raw("/metrics")?;
            print!("{}", String::from_utf8_lossy(&text));
            Ok(0)
        }
        Commands::Plan(args) => config::plan(context, &args),
        Commands::Apply(args) => config::apply(context, &args),
        Commands::Drain(args) => act::set(context, "drain", &args),
        Commands::Undrain(args) => act::unset(context, "undrain", &args),
        Commands::Standby(args) => act::set(context, "standby", &args),
        Commands::Ready(args) => act::unset(context, "ready", &args),
        Commands::Move(args) => migrate::run(context, &args),
        Commands::Init(args) => init::run(context, &args),
        Commands::Code(args) => init::code(context, &args),
        Commands::Join(args) => join::run(context, &args),
        Commands::Server(args) => server::run(context, &args),
        Commands::Doctor => doctor::run(context),
        Commands::Config(args) => config::run(context, &args),
        Commands::Agent(args) => agent::run(context, &args),
        Commands::Ipvsadm { words } => Ok(crate::ipvsadm::run(&words)),
        Commands::Demo(args) => crate::demo::run(context, &args),
        Commands::DemoPart(args) => crate::demo::part(&args),
        Commands::Version => version::run(context),
        Commands::Help(args) => help(args),
    }
}

fn help(args: HelpArgs) -> Outcome<u8> {
    match args.about {
        None => {
            let _ = Cli::command().print_help();
        }
        Some(About::ExitCodes) => {
            for (code, meaning) in EXIT_CODES {
                println!("{code}  {meaning}");
            }
        }
        Some(About::Completions { shell }) => {
            clap_complete::generate(shell, &mut Cli::command(), "nines", &mut std::io::stdout());
        }
        Some(About::Man { to }) => manual(&to).map_err(|e| {
            let what = format!("cannot write manual pages to {}", to.display());
            Failure::new(crate::failure::Kind::Io, what, e)
        })?,
        Some(About::Api) => println!("{}", crate::api::openapi()),
    }
    Ok(0)
}

fn manual(to: &std::path::Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    clap_mangen::generate_to(Cli::command(), to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound_and_small() {
        Cli::command().debug_assert();
        let shown = Cli::command().get_subcommands().filter(|c| !c.is_hide_set()).count();
        assert!(shown < 60);
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["A".into(), "B".into()], vec!["long".into(), "x".into()]];
        assert_eq!(columns(&rows), "A     B\nlong  x\n");
    }
}
