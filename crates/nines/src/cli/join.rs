//! `nines join`

use std::net::{IpAddr, SocketAddr};

use clap::Args;

use super::Context;
use crate::{
    daemon::{own_log, peer_port, real_server::SAID, store::Store},
    failure::{Failure, Kind, Outcome},
    identity::{self, PORT},
};

/// Join a cluster.
#[derive(Args)]
pub struct JoinArgs {
    /// A member: address, or address:port.
    address: String,
    /// The code that `nines init` or `nines code` printed.
    code: String,
    /// As witness: votes and carries nothing.
    #[arg(long)]
    witness: bool,
    /// Not as a node but as a real server: the agent configures the VIPs from cluster.toml and
    /// keeps them in place.
    #[arg(long, conflicts_with_all = ["witness", "own", "port"])]
    server: bool,
    /// This node's name; its host name if not given.
    #[arg(long)]
    node: Option<String>,
    /// This node's addresses, one a link; the first found if not given.
    #[arg(long = "address", id = "own", value_name = "ADDRESS")]
    own: Vec<IpAddr>,
    /// This node's port for heartbeats (UDP) and TLS (TCP).
    #[arg(long, default_value_t = PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

/// What this machine says to the member that it joins by.
fn request(
    args: &JoinArgs,
    secret: String,
    name: String,
    addresses: Vec<IpAddr>,
) -> peer_port::JoinRequest {
    peer_port::JoinRequest {
        secret,
        name,
        addresses,
        port: args.port,
        witness: args.witness,
        version: env!("CARGO_PKG_VERSION").into(),
        feature_level: nines_core::feature_level::BUILD,
        server: args.server,
    }
}

/// Runs it.
pub fn run(context: &Context, args: &JoinArgs) -> Outcome<u8> {
    let to = args
        .address
        .parse::<SocketAddr>()
        .or_else(|_| args.address.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT)))
        .map_err(|_| {
            Failure::new(Kind::Usage, format!("\"{}\" is not a valid address", args.address), "")
                .next("copy the whole command that nines init printed")
        })?;
    let (secret, fingerprint) = identity::read_code(&args.code).ok_or_else(|| {
        Failure::new(
            Kind::Usage,
            format!("\"{}\" is not a valid join code", args.code),
            "a join code has four groups of eight letters and digits",
        )
        .next("copy the whole command that nines init printed")
    })?;
    let home = identity::home(&context.state);
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
    let request = request(args, secret, name.clone(), addresses);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Kind::Io, "cannot start", e))?;
    let credentials = runtime.block_on(peer_port::join(to, fingerprint, &request))?;
    std::fs::create_dir_all(&home.0).map_err(|e| {
        Failure::new(Kind::Io, format!("cannot make {}", home.0.display()), e).next("run as root")
    })?;
    if !args.server {
        Store::open(&home.file(own_log::FILE))?;
    }
    // What another cluster once told this machine.
    let _ = std::fs::remove_file(home.file(SAID));
    home.keep(&credentials)?;
    let part = match (args.server, args.witness) {
        (true, _) => "real server",
        (_, true) => "witness",
        _ => "director",
    };
    if context.json() {
        let cluster = &credentials.identity.cluster;
        outln!(
            "{}",
            serde_json::json!({ "schema": 1, "cluster": cluster, "node": name, "role": part })
        );
        return Ok(0);
    }
    outln!(
        "{name} joined cluster {} as {part}. Start it:  systemctl start nines",
        credentials.identity.cluster
    );
    Ok(0)
}
