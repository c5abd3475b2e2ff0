//! `nines node list`, `remove`, `keep`, `replace`

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use nines_api::{
    failure::{Failure, Kind, Outcome},
    states::NodeState,
    types::{ActRequest, Done, NodeStatus, Status},
};
use nines_model::{AdminCommand, Codes as _, Millis, Role};

use super::act::{show, some_time};
use crate::{
    context::Context,
    local::code,
    output::{columns, print_json},
};

/// Members of the cluster.
#[derive(Args)]
pub struct NodeArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// List the members with their numbers, votes and addresses.
    List,
    /// Remove members for good. Each hands its VIPs over first, and none is removed that the
    /// others need for a majority.
    Remove(RemoveArgs),
    /// Let members stay that are to be removed.
    Keep {
        /// Names of members.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove a member, and print how another machine joins under its name.
    Replace(ReplaceArgs),
}

#[derive(Args)]
struct RemoveArgs {
    /// Names of members.
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Args)]
struct ReplaceArgs {
    /// Name of the member.
    name: String,
    #[command(flatten)]
    how: How,
}

#[derive(Args)]
struct How {
    /// Reason in your words; every node shows it.
    #[arg(long, default_value = "")]
    reason: String,
    /// How long to wait until it is done; it goes on after that.
    #[arg(long, value_name = "TIME", default_value = "60s")]
    wait: String,
}

/// Runs it.
pub fn run(context: &Context, args: &NodeArgs) -> Outcome<u8> {
    match &args.what {
        What::List => list(context),
        What::Remove(RemoveArgs { names, how }) => {
            let (done, _) = remove(context, names, how)?;
            if context.json() {
                show(context, &done);
            }
            Ok(0)
        }
        What::Keep { names } => {
            let (verb, subjects) = (AdminCommand::Keep.code().into(), names.clone());
            let request = ActRequest { verb, subjects, ..ActRequest::default() };
            show(context, &context.client().post("/v1/act", &request)?);
            Ok(0)
        }
        What::Replace(args) => replace(context, args),
    }
}

fn status(context: &Context) -> Outcome<Status> {
    context.client().get("/v1/status?servers=false")
}

fn members(context: &Context) -> Outcome<Vec<NodeStatus>> {
    let status = status(context)?;
    // One that was removed is told of by itself only; one that has not joined has no number.
    let is_member = |n: &NodeStatus| n.id != 0 && !n.is(NodeState::Removed);
    Ok(status.nodes.into_iter().filter(is_member).collect())
}

fn list(context: &Context) -> Outcome<u8> {
    let members = members(context)?;
    if context.json() {
        print_json(&serde_json::json!({ "schema": 1, "nodes": members }));
    } else {
        out!("{}", table(&members));
    }
    Ok(0)
}

fn table(members: &[NodeStatus]) -> String {
    let titles = ["NODE", "NUMBER", "ROLE", "VOTE", "STATE", "LINKS", "ADDRESSES", "VERSION"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    rows.extend(members.iter().map(|n| {
        vec![
            format!("{}{}", n.name, if n.leads { "*" } else { "" }),
            n.id.to_string(),
            n.role.to_string(),
            match n.no_vote.as_str() {
                "" if n.votes => "yes".into(),
                "" => "no".into(),
                why => format!("no ({why})"),
            },
            n.state.to_string(),
            links(n),
            n.addresses.join(" "),
            if n.version.is_empty() { "-".into() } else { n.version.clone() },
        ]
    }));
    let mut out = columns(&rows);
    for n in members.iter().filter(|n| !n.trouble.is_empty()) {
        out.push_str(&format!("\n{}: {}\n", n.name, n.trouble));
        if !n.next.is_empty() {
            out.push_str(&format!("  next: {}\n", n.next));
        }
    }
    for n in members.iter().filter(|n| !n.removal.is_empty()) {
        out.push_str(&format!("\n{} is to leave the cluster, {}\n", n.name, n.removal));
    }
    out
}

/// "2/2, 0.4 ms, 0 % loss": of the fastest link and of the worst one. A node hears itself over no
/// link.
fn links(n: &NodeStatus) -> String {
    if n.links == 0 {
        return "-".into();
    }
    let mut text = format!("{}/{}", n.links_up, n.links);
    if n.rtt_us > 0 {
        text.push_str(&format!(", {:.1} ms", n.rtt_us as f64 / 1e3));
    }
    let losses = n.link_details.iter().map(|of| of.loss_percent);
    if let Some(most) = losses.max_by(f64::total_cmp) {
        text.push_str(&format!(", {most:.0} % loss"));
    }
    text
}

/// Has members removed; gives what the cluster answered, and what they were.
fn remove(context: &Context, names: &[String], how: &How) -> Outcome<(Done, Vec<NodeStatus>)> {
    let limit = some_time("--wait", &how.wait)?;
    let mut leaving = members(context)?;
    leaving.retain(|member| names.contains(&member.name));
    let request = ActRequest {
        verb: AdminCommand::Remove.code().into(),
        subjects: names.to_vec(),
        reason: how.reason.clone(),
        ..ActRequest::default()
    };
    let done: Done = context.client().post("/v1/act", &request)?;
    if !context.json() {
        show(context, &done);
    }
    wait_until_gone(context, &leaving, limit)?;
    if !context.json() {
        let names: Vec<&str> = leaving.iter().map(|member| member.name.as_str()).collect();
        errln!("{} left the cluster", names.join(", "));
    }
    Ok((done, leaving))
}

fn wait_until_gone(context: &Context, leaving: &[NodeStatus], limit: Millis) -> Outcome<()> {
    let until = Instant::now() + Duration::from_millis(limit.0);
    loop {
        // A name may belong to another member by then.
        let left = members(context)?.into_iter().find(|m| leaving.iter().any(|l| l.id == m.id));
        let Some(left) = left else { return Ok(()) };
        if Instant::now() >= until {
            let what = format!("{} is still a member after {limit}", left.name);
            let next = format!("it goes on; to take it back: nines node keep {}", left.name);
            return Err(Failure::new(Kind::TimedOut, what, left.removal).next(next));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn replace(context: &Context, args: &ReplaceArgs) -> Outcome<u8> {
    if context.remote.is_some() {
        let why = "the join command is made on a member itself";
        return Err(Failure::new(Kind::Usage, "not done", why)
            .next(format!("on another member: nines node replace {}", args.name)));
    }
    if status(context)?.node == args.name {
        let why = "only a member can let its successor in, and this node would be none";
        return Err(Failure::new(Kind::Usage, "not done", why)
            .next(format!("on another member: nines node replace {}", args.name)));
    }
    code::can_admit(context)?;
    let name = std::slice::from_ref(&args.name);
    let (_, left) = remove(context, name, &args.how)?;
    let witness = left.iter().any(|member| member.role.is(Role::Witness));
    code::print_for(context, &args.name, witness)
}

#[cfg(test)]
mod tests {
    use nines_api::types::LinkStatus;

    use super::*;

    #[test]
    fn the_list_says_who_votes_and_who_is_to_leave() {
        let lb1 = NodeStatus {
            id: 1,
            name: "lb1".into(),
            role: Role::Director.into(),
            state: NodeState::Active.into(),
            version: "0.1.0".into(),
            leads: true,
            votes: true,
            addresses: vec!["10.0.0.2".into(), "10.1.0.2".into()],
            ..NodeStatus::default()
        };
        let lb3 = NodeStatus {
            id: 4,
            name: "lb3".into(),
            state: NodeState::Leaving.into(),
            removal: "by alice@lb1: sold; waits: it holds web".into(),
            links_up: 1,
            links: 2,
            rtt_us: 420,
            link_details: [(1, 0.0), (2, 100.0)]
                .map(|(link, loss_percent)| LinkStatus { link, loss_percent, ..Default::default() })
                .into(),
            ..lb1.clone()
        };
        let text = table(&[lb1, lb3]);
        let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        let first =
            ["lb1*", "1", "director", "yes", "active", "-", "10.0.0.2", "10.1.0.2", "0.1.0"];
        assert_eq!(rows[1], first);
        assert_eq!(rows[2][..6], ["lb3*", "4", "director", "yes", "leaving", "1/2,"]);
        assert!(text.contains(" 1/2, 0.4 ms, 100 % loss "), "{text}");
        assert!(
            text.ends_with(
                "lb3 is to leave the cluster, by alice@lb1: sold; waits: it holds web\n"
            )
        );
    }
}
