//! `nines backup save`, `show`, `restore`

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Args, Subcommand};
use nines_agent::{Anew, Backup, StateDir, begin_anew, this_user, write_backup};
use nines_api::{
    failure::{Failure, Kind, Outcome},
    text::rfc3339,
};
use nines_model::printable::clean;

use super::{code, init};
use crate::{context::Context, output::print_json};

/// Save the state of the cluster in a file, and form a cluster anew from one.
#[derive(Args)]
pub struct BackupArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Save what this node knows of the cluster: config, members, drains and standbys, events. It
    /// holds no keys.
    Save {
        /// File to make; none is overwritten.
        file: PathBuf,
    },
    /// Print what a backup holds.
    Show {
        /// A backup.
        file: PathBuf,
        /// Print its config instead, as it was applied.
        #[arg(long)]
        config: bool,
    },
    /// Form the cluster anew on this machine, as its next generation. The other nodes join again.
    Restore(RestoreArgs),
}

#[derive(Args)]
struct RestoreArgs {
    /// A backup.
    file: PathBuf,
    /// Form a new generation: all keys are new, and the nodes of the cluster as it was are
    /// strangers to it. Stop their agents first.
    #[arg(long)]
    force_new_generation: bool,
    /// Reason in your words; every node shows it.
    #[arg(long, default_value = "")]
    reason: String,
    /// Name of this node, as the config of the backup has it; by default its host name up to the
    /// first dot.
    #[arg(long)]
    node: Option<String>,
    /// Port for heartbeats (UDP) and TLS (TCP); by default the one that the node had.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
}

impl BackupArgs {
    /// Whether it does not ask an agent, but works on files of this machine.
    pub fn is_of_this_machine(&self) -> bool {
        !matches!(self.what, What::Save { .. })
    }
}

/// Runs it.
pub fn run(context: &Context, args: &BackupArgs) -> Outcome<u8> {
    match &args.what {
        What::Save { file } => save(context, file),
        What::Show { file, config } => show(context, file, *config),
        What::Restore(args) => restore(context, args),
    }
}

fn save(context: &Context, file: &Path) -> Outcome<u8> {
    let bytes = context.client().get_raw("/v1/backup")?;
    let name = file.display().to_string();
    let backup = Backup::decoded(&name, &bytes)?;
    write_backup(file, &bytes)?;
    if context.json() {
        print_json(&told(&backup));
        return Ok(0);
    }
    let Backup { revision, index, .. } = backup;
    outln!(
        "{name} has {}: revision {revision} of the config, log index {index}. It holds no keys.",
        of_cluster(&backup)
    );
    Ok(0)
}

/// "cluster shop", "generation 2 of cluster shop".
fn of_cluster(backup: &Backup) -> String {
    let cluster = clean(&backup.cluster).into_owned();
    match backup.generation {
        0 | 1 => format!("cluster {cluster}"),
        number => format!("generation {number} of cluster {cluster}"),
    }
}

fn told(backup: &Backup) -> serde_json::Value {
    serde_json::json!({
        "schema": 1,
        "cluster": backup.cluster,
        "generation": backup.generation,
        "node": backup.node,
        "at": rfc3339(backup.at_ms),
        "version": backup.version,
        "feature_level": backup.feature_level,
        "revision": backup.revision,
        "index": backup.index,
    })
}

fn show(context: &Context, file: &Path, config: bool) -> Outcome<u8> {
    let backup = Backup::read(file)?;
    let state = backup.state(&file.display().to_string())?;
    if config {
        out!("{}", state.text);
        return Ok(0);
    }
    let members: Vec<&str> = state.members.values().map(|m| m.name.as_str()).collect();
    if context.json() {
        let mut told = told(&backup);
        told["members"] = members.into();
        told["config"] = state.text.to_string().into();
        print_json(&told);
        return Ok(0);
    }
    let (services, vips) = (state.spec.services.len(), state.spec.vips.len());
    let (drains, standbys) = (state.admin.drains().len(), state.admin.standbys().len());
    let Backup { node, at_ms, version, revision, index, .. } = &backup;
    outln!("cluster    {}, generation {}", clean(&backup.cluster), backup.generation);
    outln!("saved      {} on {} by nines {}", rfc3339(*at_ms), clean(node), clean(version));
    outln!("config     revision {revision}, {services} services, {vips} VIPs");
    outln!("members    {}", clean(&members.join(", ")));
    outln!("set        {drains} drains, {standbys} standbys");
    outln!("log index  {index}");
    Ok(0)
}

fn restore(context: &Context, args: &RestoreArgs) -> Outcome<u8> {
    let backup = Backup::read(&args.file)?;
    let name = args.file.display().to_string();
    let next = backup.generation.max(1) + 1;
    let what = format!("{name} was not restored");
    if !args.force_new_generation {
        let why = format!(
            "it would form generation {next} of cluster {} on this machine alone: the nodes of \
             the generation before stay strangers to it, and would serve the same VIPs",
            clean(&backup.cluster)
        );
        return Err(Failure::new(Kind::Unsafe, what, why).next(
            "stop the agents of all other nodes; then add --force-new-generation --reason \"...\"",
        ));
    }
    if args.reason.trim().is_empty() {
        return Err(Failure::new(Kind::Usage, what, "there is no reason for it")
            .next("say why in your words: --reason \"...\""));
    }
    if UnixStream::connect(&context.socket).is_ok() {
        return Err(Failure::new(Kind::Unsafe, what, "an agent runs on this machine")
            .next("systemctl stop nines"));
    }
    let home = StateDir::at(&context.state);
    init::fresh(&home)?;
    let node = init::name(args.node.as_ref());
    let here = init::all_addresses()?;
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let anew = Anew {
        node: &node,
        here: &here,
        port: args.port,
        reason: &clean(&args.reason),
        actor: &this_user(&node),
        at_ms: wall.as_millis() as u64,
    };
    let (credentials, kept) = begin_anew((&name, &backup), &anew)?;
    init::make(&home, || home.found(&credentials, &kept))?;
    if !context.json() {
        let cluster = &credentials.identity.cluster;
        outln!(
            "{node} is the first node of generation {next} of cluster {cluster}. Start it:  \
             systemctl start nines"
        );
        outln!(
            "On each other node stop the agent and move its state directory away before it joins."
        );
    }
    code::print_first(context, &home)?;
    Ok(0)
}
