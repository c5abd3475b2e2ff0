//! `nines join`

use std::{
    io::Read as _,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::Args;
use nines_agent::{Credentials, Identity, PORT, StateDir, read_code};
use nines_api::failure::{Failure, Kind, Outcome};

use crate::context::Context;

/// Join a cluster.
#[derive(Args)]
pub struct JoinArgs {
    /// Address of a member, or its address:port.
    address: String,
    #[command(flatten)]
    code: GivenCode,
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

/// A join code, given in one of three ways.
#[derive(Args)]
pub struct GivenCode {
    /// The code that `nines init` or `nines code` printed; `-` reads it from stdin, so that no list
    /// of processes shows it.
    #[arg(required_unless_present = "code_file")]
    code: Option<String>,
    /// Read the code from a file.
    #[arg(long, value_name = "FILE", conflicts_with = "code")]
    code_file: Option<PathBuf>,
}

/// Where the member listens: an address with a port, or with the usual one.
fn member_address(text: &str) -> Outcome<SocketAddr> {
    let usual = |_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
    text.parse::<SocketAddr>().or_else(usual).map_err(|_| {
        Failure::new(Kind::Usage, format!("\"{text}\" is not a valid address"), "")
            .next("copy the whole command that nines init printed")
    })
}

/// A code is short: whatever is longer is none.
const CODE_MAX: u64 = 1_024;

/// The code: as an argument, from stdin or from a file.
pub fn given_code(args: &GivenCode) -> Outcome<String> {
    let read = |from: &mut dyn std::io::Read, name: &str| {
        let mut text = String::new();
        from.take(CODE_MAX).read_to_string(&mut text).map_err(|e| {
            Failure::new(Kind::Io, format!("cannot read the join code from {name}"), e)
                .next("nines join ADDR CODE   takes it as an argument")
        })?;
        Ok(text.trim().to_owned())
    };
    match (&args.code_file, args.code.as_deref()) {
        (Some(path), _) => {
            let name = path.display().to_string();
            let mut file = std::fs::File::open(path).map_err(|e| {
                let kind = match e.kind() {
                    std::io::ErrorKind::NotFound => Kind::NotFound,
                    _ => Kind::Io,
                };
                Failure::new(kind, format!("cannot read the join code from {name}"), e)
                    .next("nines code   on a director prints a join command")
            })?;
            read(&mut file, &name)
        }
        (None, Some("-")) => read(&mut std::io::stdin().lock(), "stdin"),
        (None, code) => Ok(code.unwrap_or_default().to_owned()),
    }
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

/// Joins by the member at `address`; gives what it was given. `key`: its own, PEM; `sending` is
/// called before anything is sent.
pub fn ask(
    address: &str,
    code: &str,
    joins: &Joins,
    key: &str,
    sending: impl Fn() -> Outcome<()>,
) -> Outcome<Credentials> {
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
        request: String::new(),
        floats: joins.floats,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Kind::Io, "cannot start", e))?;
    runtime.block_on(nines_agent::join(to, fingerprint, &request, key, sending))
}

/// Joins by the member at `address`, and keeps what it gave in the state directory `home`.
pub fn enter(home: &StateDir, address: &str, code: &str, joins: &Joins) -> Outcome<Identity> {
    let key = home.joining_key()?;
    // Who asks again because the answer was lost asks with the same key: the code is still its own.
    let asked = ask(address, code, joins, &key, || home.keep_joining_key(&key));
    let mut credentials = asked.inspect_err(|why| {
        if why.kind != Kind::Unreachable {
            home.forget_joining_key();
        }
    })?;
    credentials.identity.listen.clone_from(&joins.listen);
    std::fs::create_dir_all(&home.0).map_err(|e| {
        Failure::new(Kind::Io, format!("cannot make {}", home.0.display()), e).next("run as root")
    })?;
    if !joins.server {
        home.make_log()?;
    }
    home.forget_said();
    home.keep(&credentials)?;
    home.forget_joining_key();
    Ok(credentials.identity)
}

/// Runs it.
pub fn run(context: &Context, args: &JoinArgs) -> Outcome<u8> {
    let code = given_code(&args.code)?;
    // A code that cannot be one is said before anything else.
    join_code(&code)?;
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
    let who = enter(&home, &args.address, &code, &joins)?;
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
