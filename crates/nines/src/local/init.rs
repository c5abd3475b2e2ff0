//! `nines init`

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use clap::Args;
use nines_agent::{StateDir, bootstrap, kernel_failure};
use nines_api::failure::{Failure, Kind, Outcome};
use nines_model::{Spec, config};

use crate::{cli::config::checked, context::Context, output::print_json};

pub use nines_agent::PORT;

/// Make this machine the first node of a new cluster.
#[derive(Args)]
pub struct InitArgs {
    /// Name of the cluster.
    #[arg(required_unless_present = "all")]
    name: Option<String>,
    /// Name of this node; by default its host name up to the first dot.
    #[arg(long)]
    node: Option<String>,
    /// Address of this node, once for each link; by default the first address found.
    #[arg(long)]
    address: Vec<IpAddr>,
    /// Port for heartbeats (UDP) and TLS (TCP).
    #[arg(long, default_value_t = PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Make the state directories of all nodes of this file, for tools that place files: one for
    /// each node, below --state.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "node", "address"])]
    all: Option<PathBuf>,
}

/// This machine's name, given or found.
pub fn name(given: Option<&String>) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let short = host.trim().split('.').next().unwrap_or_default().to_owned();
    given.cloned().unwrap_or(short)
}

/// All addresses of this machine.
pub fn all_addresses() -> Outcome<Vec<IpAddr>> {
    let here = nines_dataplane::address::interfaces().map_err(kernel_failure)?;
    Ok(here.iter().flat_map(|i| i.addresses.iter().map(|(address, _)| *address)).collect())
}

/// This node's addresses, given or found.
pub fn addresses(given: &[IpAddr]) -> Outcome<Vec<IpAddr>> {
    let here = nines_dataplane::address::interfaces().map_err(kernel_failure)?;
    let all = || here.iter().flat_map(|i| i.addresses.iter().map(move |(a, _)| (i, *a)));
    if let Some(missing) = given.iter().find(|a| all().all(|(_, b)| b != **a)) {
        return Err(Failure::new(
            Kind::Usage,
            format!("{missing} is on no interface of this machine"),
            "",
        )
        .next("ip -brief addr   shows which there are"));
    }
    let mut addresses = given.to_vec();
    if addresses.is_empty() {
        let usable = |a: &IpAddr| match a {
            IpAddr::V4(a) => !a.is_loopback() && !a.is_link_local(),
            IpAddr::V6(_) => false,
        };
        addresses.extend(all().filter(|(i, a)| i.ethernet && usable(a)).map(|(_, a)| a).take(1));
    }
    if addresses.is_empty() {
        return Err(Failure::new(
            Kind::Usage,
            "this machine has no address to use for heartbeats",
            "",
        )
        .next("name it: --address 10.0.0.2"));
    }
    Ok(addresses)
}

/// Refuses a state directory that a member has.
pub fn fresh(home: &StateDir) -> Outcome<()> {
    if home.is_member() {
        let identity = home.identity()?;
        return Err(Failure::new(
            Kind::Unsafe,
            format!("this machine is {} of cluster {} already", identity.me.name, identity.cluster),
            format!("its state is in {}", home.0.display()),
        )
        .next("stop the agent and remove that directory to start over"));
    }
    no_log_of_another(home)
}

/// A log without an identity is left from an earlier membership, perhaps in another cluster.
pub fn no_log_of_another(home: &StateDir) -> Outcome<()> {
    let log = home.log();
    if !log.exists() {
        return Ok(());
    }
    Err(Failure::new(
        Kind::Unsafe,
        format!("{} is the log of another member", log.display()),
        "there is no identity.json beside it",
    )
    .next(format!("move {} away to start over", home.0.display())))
}

/// Runs `nines init`.
pub fn run(context: &Context, args: &InitArgs) -> Outcome<u8> {
    if let Some(file) = &args.all {
        return all(context, file, args.port);
    }
    let home = StateDir::at(&context.state);
    fresh(&home)?;
    let (node, addresses) = (name(args.node.as_ref()), addresses(&args.address)?);
    let name = args.name.clone().unwrap_or_default();
    let listed: Vec<String> = addresses.iter().map(|a| format!("\"{a}\"")).collect();
    let text =
        format!("[cluster]\nname = \"{name}\"\n\n[nodes]\n{node} = [{}]\n", listed.join(", "));
    let spec = config::parse(&text)
        .map_err(|found| Failure::new(Kind::Usage, "no cluster made", &found[0].message))?;
    let (credentials, kept) = bootstrap(&text, &spec, args.port)?;
    make(&home, || home.found(&credentials[0], &kept))?;
    if !context.json() {
        outln!("{node} is the first node of cluster {name}. Start it:  systemctl start nines");
    }
    super::code::print_first(context, &home)?;
    Ok(0)
}

/// Makes the state directory of one node; `founded` fills it.
pub fn make(home: &StateDir, founded: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
    let began = !home.0.exists();
    let done = std::fs::create_dir_all(&home.0)
        .map_err(|e| {
            let kind = if e.kind() == std::io::ErrorKind::PermissionDenied {
                Kind::Denied
            } else {
                Kind::Io
            };
            Failure::new(kind, format!("cannot make {}", home.0.display()), e)
                .next("run as root, or choose --state")
        })
        .and_then(|()| founded());
    if done.is_err() && began {
        // No half state: the directory was made by this very command.
        let _ = std::fs::remove_dir_all(&home.0);
    }
    done
}

/// Makes the state directories of all nodes of a config below `parent`, one named after each node.
pub fn make_nodes(parent: &Path, text: &str, spec: &Spec, port: u16) -> Outcome<Vec<PathBuf>> {
    let (credentials, kept) = bootstrap(text, spec, port)?;
    let mut made = Vec::new();
    for credentials in &credentials {
        let home = StateDir::at(&parent.join(&credentials.identity.me.name));
        fresh(&home)?;
        make(&home, || home.found(credentials, &kept))?;
        made.push(home.0);
    }
    Ok(made)
}

fn all(context: &Context, file: &Path, port: u16) -> Outcome<u8> {
    let (text, spec) = checked(context, file)?;
    let made = make_nodes(&context.state, &text, &spec, port)?;
    let made: Vec<String> = made.iter().map(|path| path.display().to_string()).collect();
    if context.json() {
        print_json(&serde_json::json!({
            "schema": 1, "cluster": spec.name, "directories": made,
        }));
    } else {
        made.iter().for_each(|directory| outln!("{directory}"));
    }
    Ok(0)
}
