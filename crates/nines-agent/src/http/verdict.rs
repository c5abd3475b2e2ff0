//! The verdict: what clients get now, and whether they still would if a director died.
//!
//! Decides: the one verdict and sentence that `nines status`, systemd, `/readyz`, the metrics and
//! the demo tell, from the facts in a [`Status`]. It looks at nothing else.

use std::collections::{BTreeMap, BTreeSet};

use nines_api::{
    states::{NodeState, ServerState, Subject},
    text::count,
    types::{NodeStatus, ProblemLine, ServerStatus, ServiceStatus, Status, Verdict, VipStatus},
};
use nines_model::Role;

/// Names listed in a sentence before it counts the rest.
const NAMES_MAX: usize = 8;

/// Takes new connections now, as far as its check and the people in charge say.
pub fn takes(server: &ServerStatus) -> bool {
    (server.is(ServerState::Up) || server.is(ServerState::Spare)) && server.weight > 0
}

/// The same, or it is not known here what its check says.
pub fn may_take(server: &ServerStatus) -> bool {
    takes(server) || (server.is(ServerState::Unknown) && server.weight > 0)
}

/// Reasons told in a sentence before it counts the rest: each of a thousand VIPs may have its own.
const REASONS_MAX: usize = 4;

/// Judges each service, then the cluster, which is as bad as its worst service. Called once, when
/// all facts are in.
pub fn judge(status: &mut Status) {
    let gaps = gaps(status);
    let spared = has_other_directors(status);
    for service in &mut status.services {
        (service.verdict, service.why) = of_service(&gaps, spared, service);
    }
    let lone = lone_spare(status);
    status.problems.extend(lone);
    let dead = without_servers(status, &gaps);
    status.problems.splice(0..0, dead);
    let services = status.services.iter().map(|service| service.verdict);
    let itself = match status {
        _ if takes_no_part(status).is_some() => Verdict::Degraded,
        _ if !status.quorate || !gaps.is_empty() => Verdict::Down,
        Status { problems, .. } if !problems.is_empty() => Verdict::Degraded,
        _ => Verdict::Healthy,
    };
    status.verdict = match takes_no_part(status) {
        Some(_) => itself,
        None => services.chain([itself]).max().unwrap_or_default(),
    };
    status.summary = sentence(status, &gaps);
}

/// The line of the node that tells, if it takes no part: what it knows of the others is old.
fn takes_no_part(status: &Status) -> Option<&NodeStatus> {
    status.nodes.iter().find(|n| n.name == status.node).filter(|n| n.takes_no_part())
}

/// VIPs whose clients get no answer, and why, by address.
type Gaps = BTreeMap<String, String>;

fn gaps(status: &Status) -> Gaps {
    let is = |name: &str, state| status.nodes.iter().any(|n| n.name == name && n.is(state));
    let gap = |vip: &VipStatus| {
        let (address, holder) = (&vip.address, &vip.node);
        if !status.quorate {
            Some(format!("no quorum, {} of {} votes", status.votes, status.voters))
        } else if holder.is_empty() && vip.blocked.is_empty() {
            Some(format!("no director holds {address}"))
        } else if holder.is_empty() {
            Some(format!("no director holds {address}: {}", vip.blocked))
        } else if is(holder, NodeState::Silent) {
            Some(format!("{holder} holds {address} and is silent"))
        } else if is(holder, NodeState::NoVote) {
            Some(format!("{holder} held {address} and votes no more"))
        } else if *holder == status.node && !vip.answers_here {
            Some(format!("{holder} has no lease for {address}"))
        } else {
            None
        }
    };
    let found = status.vips.iter().filter_map(|vip| Some((vip.address.clone(), gap(vip)?)));
    found.collect()
}

fn of_service(gaps: &Gaps, spared: bool, service: &ServiceStatus) -> (Verdict, String) {
    if let Some(why) = service.vips.iter().find_map(|vip| gaps.get(vip)) {
        return (Verdict::Down, why.clone());
    }
    let servers = || service.servers.iter().filter(|server| !server.sorry);
    let is = |state| servers().filter(|server| server.is(state)).count();
    if !servers().any(takes) {
        if service.servers.iter().any(takes) {
            return (Verdict::Degraded, "only the sorry server takes new connections".into());
        }
        let why = match () {
            () if service.servers.is_empty() => "it has no server",
            () if is(ServerState::Unknown) > 0 => {
                return (Verdict::Degraded, "checks of its servers are not known here yet".into());
            }
            () if is(ServerState::Unusable) > 0 => "no server accepts packets for its VIP",
            () if is(ServerState::Down) == servers().count() => "none of its servers is up",
            () if servers().all(|server| server.weight == 0) => "all weights are 0",
            () => "no server takes new connections",
        };
        return (Verdict::Down, why.into());
    }
    let (down, unusable, all) =
        (is(ServerState::Down), is(ServerState::Unusable), servers().count());
    if down + unusable > 0 {
        let bad = down + unusable;
        let why = match (bad, unusable) {
            (1, 0) => format!("1 of {all} servers is down"),
            (1, _) => format!("1 of {all} servers does not serve the VIP"),
            (_, 0) => format!("{bad} of {all} servers are down"),
            _ => format!("{bad} of {all} servers are down or do not serve the VIP"),
        };
        return (Verdict::Degraded, why);
    }
    if service.spare.is_empty() && spared {
        return (Verdict::Degraded, "no director could take over".into());
    }
    (Verdict::Healthy, String::new())
}

fn has_other_directors(status: &Status) -> bool {
    status.nodes.iter().filter(|node| node.role.is(Role::Director)).count() > 1
}

/// Problem lines of services that are down for want of servers, not of a holder.
fn without_servers(status: &Status, gaps: &Gaps) -> Vec<ProblemLine> {
    let held = |service: &&ServiceStatus| !service.vips.iter().any(|vip| gaps.contains_key(vip));
    let down = status.services.iter().filter(|service| service.verdict == Verdict::Down);
    let line = |service: &ServiceStatus| ProblemLine {
        subject: Subject::Service(service.name.clone()),
        text: format!("DOWN: {}", service.why),
        next: format!("nines why {}", service.name),
    };
    down.filter(held).map(line).collect()
}

/// The problem line of a cluster with several directors of which none could take over.
fn lone_spare(status: &Status) -> Option<ProblemLine> {
    let alone = |vip: &&VipStatus| !vip.node.is_empty() && vip.spare.is_empty();
    // Without a quorum that is what is wrong.
    let told = status.quorate && has_other_directors(status);
    let vip = status.vips.iter().find(alone).filter(|_| told)?;
    let silent = status.nodes.iter().filter(|node| node.is(NodeState::Silent));
    let silent: Vec<&str> = silent.map(|node| node.name.as_str()).collect();
    let witness = status.nodes.iter().any(|node| node.role.is(Role::Witness));
    // Without the holder's own vote.
    let majority = (status.votes.saturating_sub(1)) * 2 > status.voters;
    let standby = status.nodes.iter().find(|node| node.is(NodeState::Standby));
    let next = if !silent.is_empty() {
        format!("start {}; there: systemctl status nines", names(&silent))
    } else if let Some(node) = status.nodes.iter().find(|node| node.takes_no_part()) {
        // A vote that is missing is the other problem, and the one to solve.
        format!("nines why {}", node.name)
    } else if let Some(node) = standby.filter(|_| majority) {
        format!("nines ready {}", node.name)
    } else if !majority && !witness {
        "add a witness: nines code --witness, then nines join ADDRESS CODE --witness".into()
    } else {
        format!("nines why {}", vip.name)
    };
    Some(ProblemLine { subject: Subject::Spare, text: vip.no_spare.clone(), next })
}

/// "a, b, c and 4 more"
fn names(all: &[&str]) -> String {
    let shown = all.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn sentence(status: &Status, gaps: &Gaps) -> String {
    if let Some(node) = takes_no_part(status) {
        let (name, why) = (&node.name, &node.trouble);
        let joining = if node.is(NodeState::Joining) { " is joining: it" } else { "" };
        return format!("{name}{joining} {why}. Only the other nodes know what is served.");
    }
    let mut parts = Vec::new();
    if status.voters == 0 {
        parts.push(format!(
            "{} waits for the log: no member of its cluster has sent it yet.",
            status.node
        ));
    } else if !status.quorate {
        parts.push(format!(
            "NO QUORUM: {} of {} votes heard by {}; without a majority no director serves.",
            status.votes, status.voters, status.node
        ));
    } else if status.vips.is_empty() {
        parts.push("No service or VIP is configured yet.".into());
    } else {
        parts.extend(who_serves(status, gaps));
    }
    parts.extend(who_could(status));
    parts.join(" ")
}

fn who_serves(status: &Status, gaps: &Gaps) -> Vec<String> {
    let mut down: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut vips: BTreeMap<&str, BTreeSet<Verdict>> = BTreeMap::new();
    for service in &status.services {
        if service.verdict == Verdict::Down {
            down.entry(&service.why).or_default().push(&service.name);
        }
        for vip in &service.vips {
            vips.entry(vip).or_default().insert(service.verdict);
        }
    }
    let serves = |address: &str| {
        let dead = vips.get(address).is_some_and(|all| all.iter().all(|v| *v == Verdict::Down));
        !dead && !gaps.contains_key(address)
    };
    let mut by_node: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for vip in status.vips.iter().filter(|vip| serves(&vip.address)) {
        let names = by_node.entry(&vip.node).or_default();
        if !names.contains(&vip.name.as_str()) {
            names.push(&vip.name);
        }
    }
    let mut told: Vec<String> = Vec::new();
    let are = |n: usize| if n == 1 { "is" } else { "are" };
    for (why, services) in down.iter().take(REASONS_MAX) {
        told.push(format!("{} {} DOWN: {why}.", names(services), are(services.len())));
    }
    let more: usize = down.values().skip(REASONS_MAX).map(Vec::len).sum();
    if more > 0 {
        told.push(format!("{} {} DOWN, too.", count(more as u64, "more service"), are(more)));
    }
    let serves = by_node.iter().map(|(node, vips)| format!("{node} serves {}", names(vips)));
    let serves = serves.collect::<Vec<_>>().join("; ");
    if serves.is_empty() && down.is_empty() {
        told.push("No director serves.".into());
    } else if !serves.is_empty() {
        told.push(format!("{serves}."));
    }
    told
}

/// Which director could take over, or why none could.
fn who_could(status: &Status) -> Option<String> {
    if !status.quorate {
        return None;
    }
    let held: Vec<_> = status.vips.iter().filter(|vip| !vip.node.is_empty()).collect();
    let ready: BTreeSet<&str> = if held.is_empty() {
        let ready = status.nodes.iter().filter(|node| node.is(NodeState::Ready));
        ready.map(|node| node.name.as_str()).collect()
    } else {
        held.iter().flat_map(|vip| vip.spare.iter().map(String::as_str)).collect()
    };
    let ready: Vec<&str> = ready.into_iter().collect();
    let alone = held.iter().find(|vip| vip.spare.is_empty());
    Some(match (ready.len(), alone) {
        (0, Some(vip)) if has_other_directors(status) => {
            format!("No other director could take over: {}.", vip.no_spare)
        }
        (0, _) if has_other_directors(status) => "No director is ready.".into(),
        (0, _) => "There is no other director.".into(),
        (n, _) => {
            let are = if n == 1 { "is" } else { "are" };
            // There is nothing to take over where nothing was ever held.
            let what = if status.vips.is_empty() { "" } else { " to take over" };
            format!("{} {are} ready{what}.", names(&ready))
        }
    })
}

#[cfg(test)]
mod tests {
    use nines_api::types::*;

    use super::{ServerState::*, *};

    fn server(name: &str, state: ServerState) -> ServerStatus {
        ServerStatus {
            name: name.into(),
            state: state.into(),
            weight: 1,
            ..ServerStatus::default()
        }
    }

    /// lb1 holds the VIP of web, whose servers have these states; lb2 is spare.
    fn cluster(servers: &[ServerState]) -> Status {
        let node = |name: &str, state: NodeState| NodeStatus {
            name: name.into(),
            role: Role::Director.into(),
            state: state.into(),
            ..NodeStatus::default()
        };
        let vip = VipStatus {
            address: "10.0.0.9".into(),
            name: "web".into(),
            node: "lb1".into(),
            spare: vec!["lb2".into()],
            ..VipStatus::default()
        };
        let servers = servers.iter().enumerate().map(|(i, s)| server(&format!("r{i}"), *s));
        let web = ServiceStatus {
            name: "web".into(),
            vips: vec!["10.0.0.9".into()],
            node: "lb1".into(),
            spare: vec!["lb2".into()],
            servers: servers.collect(),
            ..ServiceStatus::default()
        };
        Status {
            node: "lb2".into(),
            votes: 3,
            voters: 3,
            quorate: true,
            nodes: vec![node("lb1", NodeState::Active), node("lb2", NodeState::Ready)],
            vips: vec![vip],
            services: vec![web],
            ..Status::default()
        }
    }

    fn told(mut status: Status) -> String {
        judge(&mut status);
        format!("{}: {}", status.verdict, status.summary)
    }

    #[test]
    fn words_follow_from_what_clients_get() {
        let ready = "lb2 is ready to take over.";
        assert_eq!(told(cluster(&[Up, Up])), format!("HEALTHY: lb1 serves web. {ready}"));
        assert_eq!(told(cluster(&[Up, Draining])), format!("HEALTHY: lb1 serves web. {ready}"));
        assert_eq!(told(cluster(&[Up, Down])), format!("DEGRADED: lb1 serves web. {ready}"));
        let none = "DOWN: web is DOWN: none of its servers is up.";
        assert_eq!(told(cluster(&[Down, Down])), format!("{none} {ready}"));
        let none = "DOWN: web is DOWN: no server takes new connections.";
        assert_eq!(told(cluster(&[Down, Draining])), format!("{none} {ready}"));
        let none = "DOWN: web is DOWN: no server accepts packets for its VIP.";
        assert_eq!(told(cluster(&[Unusable, Down])), format!("{none} {ready}"));
        assert!(told(cluster(&[Unusable, Up])).starts_with("DEGRADED: lb1 serves web."));
        assert!(told(cluster(&[])).starts_with("DOWN: web is DOWN: it has no server."));
    }

    #[test]
    fn weights_of_zero_serve_nobody_and_a_sorry_server_is_no_server() {
        let mut status = cluster(&[Up]);
        status.services[0].servers[0].weight = 0;
        assert!(told(status).contains("web is DOWN: all weights are 0."));
        let mut status = cluster(&[Down, Up]);
        status.services[0].servers[1].sorry = true;
        assert!(told(status).starts_with("DEGRADED: lb1 serves web."));
    }

    #[test]
    fn without_a_quorum_or_a_holder_nobody_serves() {
        let mut status = cluster(&[Up]);
        (status.quorate, status.votes) = (false, 1);
        let line = told(status);
        assert!(line.starts_with("DOWN: NO QUORUM: 1 of 3 votes"), "{line}");
        assert!(!line.contains("lb1 serves"), "{line}");
        let mut status = cluster(&[Up]);
        status.vips[0].node.clear();
        assert!(told(status).starts_with("DOWN: web is DOWN: no director holds 10.0.0.9."));
        let mut status = cluster(&[Up]);
        status.nodes[0].state = NodeState::Silent.into();
        assert!(told(status).contains("lb1 holds 10.0.0.9 and is silent"));
        let mut status = cluster(&[Up]);
        status.node = "lb1".into();
        assert!(told(status).contains("lb1 has no lease for 10.0.0.9"));
    }

    #[test]
    fn a_newcomer_says_what_it_waits_for() {
        let line = told(Status { node: "lb2".into(), ..Status::default() });
        assert_eq!(line, "DOWN: lb2 waits for the log: no member of its cluster has sent it yet.");
    }

    #[test]
    fn a_spare_that_could_not_get_a_majority_is_none() {
        let mut status = cluster(&[Up]);
        status.vips[0].spare.clear();
        status.services[0].spare.clear();
        status.vips[0].no_spare = "without lb1, 1 of 2 votes would be left, no majority".into();
        (status.votes, status.voters) = (2, 2);
        let mut started = status.clone();
        judge(&mut status);
        assert_eq!(status.verdict, Verdict::Degraded);
        assert!(!status.summary.contains("ready"), "{}", status.summary);
        assert!(status.problems[0].next.contains("--witness"), "{:?}", status.problems);
        // Where a node is only silent, no other is needed.
        let wit1 = NodeStatus {
            name: "wit1".into(),
            role: Role::Witness.into(),
            state: NodeState::Silent.into(),
            ..NodeStatus::default()
        };
        started.nodes.push(wit1);
        (started.votes, started.voters) = (2, 3);
        judge(&mut started);
        assert!(started.problems[0].next.starts_with("start wit1"), "{:?}", started.problems);
    }

    #[test]
    fn a_node_that_takes_no_part_tells_that_and_nothing_else() {
        let told_by = |state: NodeState, trouble: &str| {
            let mut status = cluster(&[Down]);
            (status.quorate, status.votes, status.voters) = (false, 0, 0);
            (status.nodes[1].state, status.nodes[1].trouble) = (state.into(), trouble.into());
            told(status)
        };
        let line = told_by(NodeState::Joining, "waits for the log");
        assert!(line.starts_with("DEGRADED: lb2 is joining: it waits for the log."), "{line}");
        let line = told_by(NodeState::NoVote, "votes no more: its log is gone");
        assert!(line.starts_with("DEGRADED: lb2 votes no more: its log is gone."), "{line}");
        assert!(!line.contains("serves web"), "{line}");
        // On another node it is one problem among others, and never a spare.
        let mut status = cluster(&[Up]);
        status.node = "lb1".into();
        status.vips[0].answers_here = true;
        (status.nodes[1].state, status.vips[0].spare) = (NodeState::Joining.into(), Vec::new());
        status.vips[0].no_spare = "lb2 is joining, it has no vote yet".into();
        let line = told(status);
        assert!(line.contains("could take over: lb2 is joining"), "{line}");
        let mut status = cluster(&[Up]);
        status.nodes[0].state = NodeState::NoVote.into();
        assert!(told(status).contains("lb1 held 10.0.0.9 and votes no more"));
    }

    #[test]
    fn one_director_alone_is_no_fault_and_long_lists_are_cut() {
        let mut status = cluster(&[Up]);
        status.nodes.pop();
        status.vips[0].spare.clear();
        status.services[0].spare.clear();
        let line = told(status);
        assert_eq!(line, "HEALTHY: lb1 serves web. There is no other director.");
        assert_eq!(names(&["a"; 10]), "a, a, a, a, a, a, a, a and 2 more");
    }

    #[test]
    fn a_new_cluster_has_nothing_to_take_over() {
        let mut status = cluster(&[]);
        (status.vips, status.services) = (Vec::new(), Vec::new());
        status.nodes.iter_mut().for_each(|node| node.state = NodeState::Ready.into());
        let line = told(status.clone());
        assert_eq!(line, "HEALTHY: No service or VIP is configured yet. lb1, lb2 are ready.");
        status.nodes.pop();
        let line = told(status);
        assert_eq!(line, "HEALTHY: No service or VIP is configured yet. lb1 is ready.");
    }

    #[test]
    fn a_thousand_services_without_a_holder_fit_a_sentence() {
        let mut status = cluster(&[Up]);
        let (vip, web) = (status.vips.remove(0), status.services.remove(0));
        for i in 0..1_000 {
            let (address, name) = (format!("10.1.{}.{}", i / 250, i % 250), format!("s{i}"));
            status.vips.push(VipStatus {
                address: address.clone(),
                name: name.clone(),
                node: String::new(),
                ..vip.clone()
            });
            status.services.push(ServiceStatus { name, vips: vec![address], ..web.clone() });
        }
        let line = told(status);
        assert!(line.len() < 400, "{line}");
        assert!(line.contains("996 more services are DOWN, too."), "{line}");
    }

    #[test]
    fn the_cluster_is_as_bad_as_its_worst_service() {
        let mut status = cluster(&[Up]);
        let mut dns = status.services[0].clone();
        dns.name = "dns".into();
        dns.servers[0].state = Down.into();
        status.services.push(dns);
        let line = told(status);
        assert!(line.starts_with("DOWN: dns is DOWN: none of its servers is up. lb1 serves web."));
    }
}
