//! `nines join`

use std::net::{IpAddr, SocketAddr};

use clap::Args;
use nines_agent::{Credentials, Identity, PORT, StateDir, read_code};
use nines_api::failure::{Failure, Kind, Outcome};

use crate::context::Context;

/// Join a cluster.
#[derive(Args)]
pub struct JoinArgs {
    /// Address of a member, or its address:port.
    address: String,
    /// The code that `nines init` or `nines code` printed.
    code: String,
    /// Join as a witness, which votes and carries no VIP.
    #[arg(long)]
    witness: bool,
    /// Join as a real server, not as a node: the agent configures the VIPs from cluster.toml and
    /// keeps them in place.
    #[arg(long, conflicts_with_all = ["witness", "own", "port"])]
    server: bool,
    /// Name of this node; by default its host name up to the first dot.
    #[arg(long)]
    node: Option<String>,
    /// Address of this node, once for each link; by default the first address found.
    #[arg(long = "address", id = "own", value_name = "ADDRESS")]
    own: Vec<IpAddr>,
    /// Port of this node for heartbeats (UDP) and TLS (TCP).
    #[arg(long, default_value_t = PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

/// Where the member listens: an address with a port, or with the usual one.
fn member_address(text: &str) -> Outcome<SocketAddr> {
    let usual = |_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
    text.parse::<SocketAddr>().or_else(usual).map_err(|_| {
        Failure::new(Kind::Usage, format!("\"{text}\" is not a valid address"), "")
            .next("copy the whole command that nines init printed")
    })
}

/// The secret of a join code and the fingerprint of the cluster's certificate authority.
fn join_code(text: &str) -> Outcome<(String, [u8; 10])> {
    read_code(text).ok_or_else(|| {
        Failure::new(
            Kind::Usage,
            format!("\"{text}\" is not a valid join code"),
            "a join code has four groups of eight letters and digits",
        )
        .next("copy the whole command that nines init printed")
    })
}

/// What a machine that joins wants to be.
pub struct Joins {
    /// Name of the member.
    pub name: String,
    /// Addresses by which others reach it, one a link.
    pub addresses: Vec<IpAddr>,
    /// Addresses that it listens on; empty: the same.
    pub listen: Vec<IpAddr>,
    /// Port for heartbeats (UDP) and TLS (TCP).
    pub port: u16,
    /// A witness.
    pub witness: bool,
    /// A real server and no node.
    pub server: bool,
    /// It runs on one of several hosts, whose addresses these are.
    pub floats: bool,
}

/// Joins by the member at `address`; gives what it was given.
pub fn ask(address: &str, code: &str, joins: &Joins) -> Outcome<Credentials> {
    let to = member_address(address)?;
    let (secret, fingerprint) = join_code(code)?;
    let request = nines_agent::JoinRequest {
        secret,
        name: joins.name.clone(),
        addresses: joins.addresses.clone(),
        port: joins.port,
        witness: joins.witness,
        version: env!("CARGO_PKG_VERSION").into(),
        feature_level: nines_agent::FEATURE_LEVEL,
        server: joins.server,
        floats: joins.floats,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Kind::Io, "cannot start", e))?;
    runtime.block_on(nines_agent::join(to, fingerprint, &request))
}

/// Joins by the member at `address`, and keeps what it gave in the state directory `home`.
pub fn enter(home: &StateDir, address: &str, code: &str, joins: &Joins) -> Outcome<Identity> {
    let mut credentials = ask(address, code, joins)?;
    credentials.identity.listen.clone_from(&joins.listen);
    std::fs::create_dir_all(&home.0).map_err(|e| {
        Failure::new(Kind::Io, format!("cannot make {}", home.0.display()), e).next("run as root")
    })?;
    if !joins.server {
        home.make_log()?;
    }
    home.forget_said();
    home.keep(&credentials)?;
    Ok(credentials.identity)
}

/// Runs it.
pub fn run(context: &Context, args: &JoinArgs) -> Outcome<u8> {
    // A code that cannot be one is said before anything else.
    join_code(&args.code)?;
    let home = StateDir::at(&context.state);
    if home.is_member() {
        let cluster = home.identity()?.cluster;
        return Err(Failure::new(
            Kind::Unsafe,
            format!("this machine is in cluster {cluster} already"),
            "",
        )
        .next(format!("stop the agent and remove {} to start over", home.0.display())));
    }
    super::init::no_log_of_another(&home)?;
    let name = super::init::name(args.node.as_ref());
    let addresses = if args.server { Vec::new() } else { super::init::addresses(&args.own)? };
    let joins = Joins {
        name: name.clone(),
        addresses,
        listen: Vec::new(),
        port: args.port,
        witness: args.witness,
        server: args.server,
        floats: false,
    };
    let who = enter(&home, &args.address, &args.code, &joins)?;
    let part = match (args.server, args.witness) {
        (true, _) => "real server",
        (_, true) => "witness",
        _ => "director",
    };
    if context.json() {
        let cluster = &who.cluster;
        outln!(
            "{}",
            serde_json::json!({ "schema": 1, "cluster": cluster, "node": name, "role": part })
        );
        return Ok(0);
    }
    outln!("{name} joined cluster {} as {part}. Start it:  systemctl start nines", who.cluster);
    Ok(0)
}
