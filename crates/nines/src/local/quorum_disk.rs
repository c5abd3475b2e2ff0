//! `nines quorum-disk init`, `run`, `show`

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Subcommand};
use nines_agent::{
    QUORUM_DISK_PORT as PORT, QuorumDiskOptions, new_key,
    quorum_disk_init::check,
    quorum_disk_view::{DiskView, HostState, HostView, look},
    run_quorum_disk,
};
use nines_api::failure::{Failure, Kind, Outcome};

use super::join::{GivenCode, Joins, ask, given_code};
use crate::{
    context::Context,
    output::{columns, print_json},
};

/// Where the process notes which logs cannot be read.
const NOTES: &str = "/run/nines-quorum-disk";

/// quorum disk: a disk that several nodes share votes as a witness.
///
/// Each node that shares the disk runs `nines quorum-disk run`. One of them holds the disk's lease
/// and runs the voter; when it dies or loses the disk, another one takes over within seconds.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct QuorumDiskArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Format a shared device and have it join a cluster as a witness.
    Init(InitArgs),
    /// Take part in the disk's lease, and run the voter while this host holds it (systemd does
    /// this).
    Run(DeviceArgs),
    /// Show whose disk it is, and which host runs the voter. Writes nothing.
    Show(DeviceArgs),
}

#[derive(Args)]
struct DeviceArgs {
    /// The shared device, best by a name in /dev/disk/by-id.
    device: PathBuf,
}

#[derive(Args)]
struct InitArgs {
    /// The shared device, best by a name in /dev/disk/by-id. All that is on it is lost.
    device: PathBuf,
    /// Address of a member, or its address:port.
    address: String,
    #[command(flatten)]
    code: GivenCode,
    /// Name of the voter in the cluster.
    #[arg(long, default_value = "qd")]
    node: String,
    /// Address of a host that shares the disk, once for each of them.
    #[arg(long = "at", value_name = "ADDRESS", required = true)]
    at: Vec<IpAddr>,
    /// UDP and TCP port of the voter on whichever host runs it.
    #[arg(long, default_value_t = PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Format it although something is on it.
    #[arg(long)]
    force: bool,
}

/// Runs it.
pub fn run(context: &Context, args: &QuorumDiskArgs) -> Outcome<u8> {
    match &args.what {
        What::Init(args) => init(context, args)?,
        What::Run(args) => {
            let (device, agent) = (args.device.clone(), context.state.clone());
            run_quorum_disk(&QuorumDiskOptions { device, notes: NOTES.into(), agent })?;
        }
        What::Show(args) => show(context, args)?,
    }
    Ok(0)
}

fn init(context: &Context, args: &InitArgs) -> Outcome<()> {
    // Nothing is changed, here or in the cluster, unless the device is fit.
    let device = check(&args.device, &args.at, args.force)?;
    let wanted = Joins {
        name: args.node.clone(),
        addresses: args.at.clone(),
        listen: Vec::new(),
        port: args.port,
        witness: true,
        server: false,
        floats: true,
    };
    let code = given_code(&args.code)?;
    let credentials = ask(&args.address, &code, &wanted, &new_key()?, || Ok(()))?;
    let (node, cluster) = (&credentials.identity.me.name, &credentials.identity.cluster);
    let undo = format!("nines node remove {node}   on a member, then try again");
    if !credentials.identity.me.floats {
        let what = format!("{} knows no quorum disks", args.address);
        return Err(Failure::new(Kind::Unsafe, what, "its nines is older than this one")
            .next(format!("{undo} by another member, or after an upgrade")));
    }
    device.format(&credentials.given()).map_err(|why| why.next(undo))?;
    if context.json() {
        print_json(&serde_json::json!({
            "schema": 1, "cluster": cluster, "node": node, "role": "witness",
            "device": args.device, "hosts": args.at, "port": args.port,
        }));
    } else {
        outln!(
            "{node} is a witness of cluster {cluster} now. On each of its hosts, name the device \
             in /etc/default/nines-quorum-disk and start it:  \
             systemctl enable --now nines-quorum-disk"
        );
    }
    Ok(())
}

fn show(context: &Context, args: &DeviceArgs) -> Outcome<()> {
    let seen = look(&args.device)?;
    if !context.json() {
        out!("{}", text(&seen));
        return Ok(());
    }
    let hosts: Vec<serde_json::Value> = seen
        .hosts
        .iter()
        .map(|h| {
            serde_json::json!({
                "address": h.address, "state": h.state.code(), "claim": h.claim,
                "newest_log": h.newest_log, "writes": h.writes, "age_ms": h.age_ms,
            })
        })
        .collect();
    print_json(&serde_json::json!({
        "schema": 1, "cluster": seen.cluster, "node": seen.node, "port": seen.port,
        "area_bytes": seen.area, "hosts": hosts,
    }));
    Ok(())
}

fn age(host: &HostView) -> String {
    match host.age_ms {
        None => "never".into(),
        Some(ms @ 0..10_000) => format!("{}.{} s ago", ms / 1_000, ms % 1_000 / 100),
        Some(ms @ 10_000..600_000) => format!("{} s ago", ms / 1_000),
        Some(ms) => format!("{} min ago", ms / 60_000),
    }
}

fn text(seen: &DiskView) -> String {
    let mut out = format!(
        "voter {} of cluster {}, port {}, {} MB for the log of each host\n\n",
        seen.node,
        seen.cluster,
        seen.port,
        seen.area >> 20
    );
    let mut rows =
        vec![["HOST", "STATE", "CLAIM", "LOG", "LAST WRITE"].map(str::to_owned).to_vec()];
    rows.extend(seen.hosts.iter().map(|h| {
        vec![
            h.address.to_string(),
            h.state.code().into(),
            if h.claim == 0 { "-".into() } else { h.claim.to_string() },
            if h.newest_log { "newest".into() } else { "-".into() },
            age(h),
        ]
    }));
    out.push_str(&columns(&rows));
    let state = |state| seen.hosts.iter().find(|h| h.state == state);
    if let Some(damaged) = state(HostState::Damaged) {
        out.push_str(&format!(
            "\nThe block of {} cannot be read: no host takes the disk. If it stays so, make the \
             disk anew:\n  nines node remove {}   on a member, then   nines quorum-disk init ... \
             --force\n",
            damaged.address, seen.node
        ));
    } else if state(HostState::Owner).is_none() {
        out.push_str("\nno host runs the voter; on each: systemctl status nines-quorum-disk\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(last: u8, state: HostState, claim: u64, age_ms: Option<u64>) -> HostView {
        let address = IpAddr::from([10, 0, 0, last]);
        HostView { address, state, claim, newest_log: claim > 0, writes: 7, age_ms }
    }

    #[test]
    fn it_says_which_host_runs_the_voter_and_what_to_do_if_none_does() {
        let mut seen = DiskView {
            cluster: "shop".into(),
            node: "qd".into(),
            port: 9118,
            area: 16 << 20,
            hosts: vec![
                host(2, HostState::Owner, 4, Some(312)),
                host(3, HostState::None, 0, Some(7_200_000)),
                host(4, HostState::None, 0, None),
            ],
        };
        assert_eq!(
            text(&seen),
            "voter qd of cluster shop, port 9118, 16 MB for the log of each host\n\n\
             HOST      STATE  CLAIM  LOG     LAST WRITE\n\
             10.0.0.2  owner  4      newest  0.3 s ago\n\
             10.0.0.3  -      -      -       120 min ago\n\
             10.0.0.4  -      -      -       never\n"
        );
        seen.hosts[0].state = HostState::Silent;
        assert!(text(&seen).contains("no host runs the voter"));
        seen.hosts[1].state = HostState::Damaged;
        assert!(text(&seen).contains("The block of 10.0.0.3 cannot be read"));
    }
}
