//! What a node shows of itself and its cluster.
//!
//! Decides: the verdict and the words. Everything comes from the replicated state and this node's
//! own ears; what is not known is said to be unknown.

use std::collections::BTreeSet;

use nines_api::{
    states::{NodeState, Subject},
    text::{mac_text, rfc3339},
    types::{Failover, NodeStatus, ProblemLine, SCHEMA, Status, VipStatus},
};
use nines_core::{
    Node, Quarantine,
    state::State,
    wire::{Facts, Member},
};
use nines_model::{NodeId, NodeName, Role, Time, Unfit, Why};
use nines_planner::NodeView;

use self::{problems::problems, spare::Spares};
use crate::{identity, own_status::OwnStatus};

pub use self::{
    acts::{cannot_take, cannot_take_of, harm_of_drain, harm_of_removal, harm_of_standby},
    node_counts::{Told, fill_traffic, merge, own_traffic, traffic},
    why::{Seen, events, last_failover as events_of_last_failover, why},
};

mod acts;
pub mod feasibility;
mod fence;
mod generation;
mod incarnations;
mod links;
pub mod names;
mod node_counts;
pub mod outside;
mod placement;
mod problems;
pub mod services;
mod spare;
mod watchdog;
mod why;

fn member_alive(node: &Node, now: Time, id: NodeId) -> bool {
    if id == node.config().id {
        return node.broken().is_none();
    }
    node.membership().alive(now, id, node.state().spec.timing.lease)
}

/// Ids of nodes that hold a VIP.
pub fn active(node: &Node) -> Vec<NodeId> {
    let state = node.state();
    let mut ids: Vec<NodeId> = state
        .vips
        .values()
        .filter_map(|h| state.member(h.node().as_str()).map(Member::id))
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Voters that are heard and whose incarnation counts, this node among them.
fn votes(node: &Node, now: Time) -> BTreeSet<NodeId> {
    let counts = |id: &NodeId| member_alive(node, now, *id) && node.doubt(now, *id).is_none();
    node.consensus().voters().into_iter().filter(counts).collect()
}

/// The whole view but for services, which are to be added outside the core.
pub fn status(node: &Node, now: Time, shown: &OwnStatus) -> (Status, services::Services) {
    let state = node.state();
    let voters = node.consensus().voters();
    let votes = votes(node, now).len();
    let quorate = votes * 2 > voters.len();
    let wall = node.wall_ms(now);
    let leader = node.consensus().leader();
    let spares = Spares::new(node, now);
    let mut status = Status {
        schema: SCHEMA,
        cluster: if state.spec.name.is_empty() { &shown.cluster } else { &state.spec.name }.clone(),
        generation: shown.generation,
        node: node.config().name.to_string(),
        leader: leader
            .and_then(|id| state.members.get(&id))
            .map_or_else(String::new, |m| m.name.clone()),
        votes,
        voters: voters.len(),
        quorate,
        revision: state.revision,
        feature_level: state.members.feature_level(),
        feature_level_held_back: node.level_held_back(now).unwrap_or_default(),
        nodes: nodes(node, now, shown, &spares),
        vips: vips(node, now, &spares),
        fencing: fence::fencing(node, now),
        last_failover: last_failover(state, wall),
        at: rfc3339(wall),
        ..Status::default()
    };
    incarnations::problems(node, now, &mut status);
    fence::problems(node, now, &mut status);
    watchdog::problems(node, now, &mut status);
    generation::problems(&mut status, &identity::generation::met());
    problems(&mut status);
    links::problems(&mut status, state.spec.timing.lease);
    (status, services::Services::of(state))
}

/// How a node is: what keeps it from taking VIPs, else what it does.
fn state_of(seen: Option<&NodeView>, role: Role, at_work: NodeState) -> NodeState {
    let Some(seen) = seen else { return NodeState::NotJoined };
    match seen.unfit(None) {
        Some(Unfit::NoVote) if seen.heard => NodeState::NoVote,
        Some(Unfit::RunsTwice) => NodeState::RunningTwice,
        Some(Unfit::Unconfirmed) => NodeState::Unconfirmed,
        _ if seen.joining => NodeState::Joining,
        _ if !seen.heard => NodeState::Silent,
        _ if seen.deaf || seen.clock_off => NodeState::NotReady,
        _ if seen.removal => NodeState::Leaving,
        _ if role == Role::Witness => NodeState::Ok,
        Some(Unfit::Standby) => NodeState::Standby,
        // What it holds it keeps while its table is being applied, or until another takes it.
        _ if at_work == NodeState::Active => at_work,
        Some(Unfit::Leaving) => NodeState::Stopping,
        Some(Unfit::Quarantined) => NodeState::Quarantined,
        Some(_) => NodeState::NotReady,
        None => at_work,
    }
}

fn nodes(node: &Node, now: Time, shown: &OwnStatus, spares: &Spares<'_>) -> Vec<NodeStatus> {
    let state = node.state();
    let mut all: Vec<NodeStatus> =
        state.members.iter().map(|(id, m)| member(node, now, (*id, m), shown, spares)).collect();
    all.extend(outside::newcomer(node, now, shown));
    // This node's own line says more than that it is no member.
    let me = &node.config().name;
    let not_joined = state.spec.nodes.iter();
    let not_joined =
        not_joined.filter(|(name, _)| *name != me && state.member(name.as_str()).is_none());
    all.extend(not_joined.map(|(name, spec)| NodeStatus {
        name: name.to_string(),
        role: spec.role.into(),
        state: NodeState::NotJoined.into(),
        ..NodeStatus::default()
    }));
    all.sort_by_key(|n| (!n.role.is(Role::Director), n.name.clone()));
    all
}

/// One node that the log names. `shown`: what this node says of itself.
fn member(
    node: &Node,
    now: Time,
    (id, member): (NodeId, &Member),
    shown: &OwnStatus,
    spares: &Spares<'_>,
) -> NodeStatus {
    let state = node.state();
    let name = &member.name;
    let holds = state.vips.iter().filter(|(_, h)| *h.node() == *name);
    let holds: Vec<String> = holds.map(|(vip, _)| vip.to_string()).collect();
    let peer = node.membership().peer(id);
    let role = match state.spec.nodes.get(name.as_str()) {
        Some(spec) => spec.role,
        None if member.witness => Role::Witness,
        None => Role::Director,
    };
    let behind = behind(node, now, id);
    let at_work = match () {
        () if !holds.is_empty() => NodeState::Active,
        () if !behind.is_empty() => NodeState::CatchingUp,
        () if !spares.has_majority(name) => NodeState::Idle,
        () => NodeState::Ready,
    };
    let removed = id == node.config().id && node.is_removed();
    let state_now = match spares.member(name) {
        _ if removed => NodeState::Removed,
        seen => state_of(seen, role, at_work),
    };
    let facts = state.members.facts().get(name.as_str());
    let shown = if id == node.config().id { shown.clone() } else { told_by(facts) };
    let (trouble, next) = trouble(node, now, (id, name), &shown, spares);
    let links = node.links(now, id);
    let (watchdog, watchdog_ms) = watchdog::of(node, now, id);
    NodeStatus {
        id: id.number(),
        name: name.clone(),
        role: role.into(),
        state: state_now.into(),
        holds,
        version: facts.map_or_else(String::new, |f| f.version.clone()),
        path: shown.path.clone(),
        trouble,
        next,
        rtt_us: peer.map_or(0, |p| p.trip_ns() / 1_000),
        links_up: links.values().filter(|up| **up).count(),
        links: links.len(),
        link_details: links::details(node, now, id),
        through_others: node.heard_through_others(now, id),
        leads: node.consensus().leader() == Some(id),
        standby: state.admin.standbys().get(name.as_str()).map_or_else(String::new, set_text),
        removal: removal(node, now, id),
        votes: node.consensus().is_voter(id),
        no_vote: no_vote(node, id),
        addresses: member.addresses.clone(),
        behind,
        macs: facts.map_or_else(Vec::new, |f| f.macs.iter().map(|mac| mac_text(mac)).collect()),
        watchdog,
        watchdog_ms,
    }
}

/// What a node says of itself by its facts.
fn told_by(facts: Option<&Facts>) -> OwnStatus {
    let Facts { path, trouble, next, .. } = facts.cloned().unwrap_or_default();
    OwnStatus { path, trouble, next, ..OwnStatus::default() }
}

/// What keeps a member from its work, and the next step.
fn trouble(
    node: &Node,
    now: Time,
    (id, name): (NodeId, &str),
    shown: &OwnStatus,
    spares: &Spares<'_>,
) -> (String, String) {
    match outside::outside(node, now, id, name) {
        Some(outside) => (outside.why, outside.next),
        None if spares.member(name).is_some_and(|seen| seen.deaf) => (
            "is heard, and hears too few of the others".to_owned(),
            "look at the cables and switches towards it".to_owned(),
        ),
        None if node.clock_trouble(id).is_some() => (
            node.clock_trouble(id).unwrap_or_default(),
            format!("on {name}: look at its clock source: dmesg | grep -i clocksource"),
        ),
        None if !member_alive(node, now, id) => (String::new(), shown.worst_next()),
        None if shown.worst().is_empty() => {
            let troubles = [undelivered, quarantine].map(|of| of(node, now, (id, name)));
            troubles.into_iter().flatten().next().unwrap_or_default()
        }
        None => (shown.worst().to_owned(), shown.worst_next()),
    }
}

/// What does not reach a member over TCP, though its heartbeats come.
fn undelivered(node: &Node, now: Time, (id, name): (NodeId, &str)) -> Option<(String, String)> {
    let lasts = node.undelivered_for(now, id)?.0 / 1_000;
    let member = node.state().members.get(&id)?;
    let text = format!(
        "what fits no datagram does not reach it over TCP from {}, for {lasts} s now",
        node.config().name
    );
    let at = member.addresses.first()?;
    let next = format!(
        "see that TCP port {} of {name} is open, and the MTU of the way: ping -M do -s {PING_SIZE} {at}",
        member.port,
        PING_SIZE = links::PING_SIZE
    );
    Some((text, next))
}

/// What keeps a member from VIPs that is heard, and was silent again and again.
fn quarantine(node: &Node, now: Time, (id, name): (NodeId, &str)) -> Option<(String, String)> {
    let Quarantine { returns, left } = node.quarantine(now, id)?;
    let left = left.0.div_ceil(1_000);
    let text = format!(
        "was silent {returns} times within an hour: it gets no VIP that another can take until it \
         is heard for {left} s more"
    );
    Some((text, format!("nines why {name}; to end it now: nines ready {name}")))
}

/// Why a member that takes part has no vote.
fn no_vote(node: &Node, id: NodeId) -> String {
    let voters = node.consensus().voters().len();
    let carries = node.carries_without_vote(id);
    if carries { format!("{voters} voters are enough") } else { String::new() }
}

/// Who wants a member to leave, and what that waits for.
fn removal(node: &Node, now: Time, id: NodeId) -> String {
    let wanted = node.state().admin.removals().get(&id);
    let Some((set, waits)) = wanted.zip(node.removal_waits(now, id)) else { return String::new() };
    format!("{}; waits: {waits}", set_text(set))
}

/// Living nodes whose connections a node has not got yet, as far as it says.
fn behind(node: &Node, now: Time, id: NodeId) -> Vec<String> {
    let missing: Vec<NodeId> = match node.membership().peer(id) {
        _ if id == node.config().id => node.behind().iter().copied().collect(),
        Some(peer) => peer.beat.behind().collect(),
        None => Vec::new(),
    };
    let living = missing.iter().filter(|id| member_alive(node, now, **id));
    living.filter_map(|id| node.state().members.get(id).map(|m| m.name.clone())).collect()
}

fn set_text(set: &nines_core::state::Set) -> String {
    let mut text = format!("by {}", set.actor);
    if !set.reason.is_empty() {
        text.push_str(&format!(": {}", set.reason));
    }
    if set.until_ms > 0 {
        text.push_str(&format!(", until {}", rfc3339(set.until_ms)));
    }
    text
}

fn vips(node: &Node, now: Time, spares: &Spares<'_>) -> Vec<VipStatus> {
    let state = node.state();
    state
        .spec
        .vips
        .keys()
        .map(|vip| {
            let here = node.vips().get(vip);
            let holder = state.vips.get(vip).map(|h| h.node());
            let (spare, no_spare) = holder.map(|h| spares.of(*vip, h)).unwrap_or_default();
            VipStatus {
                spare,
                no_spare,
                address: vip.to_string(),
                name: state.spec.vip_name(*vip),
                node: state.vips.get(vip).map_or_else(String::new, |h| h.node().to_string()),
                token: state.vips.get(vip).map_or(0, |h| h.token().number()),
                answers_here: node.answers(*vip, now),
                lease_left_ms: here.map_or(0, |v| v.guard.since(now) / 1_000_000),
                blocked: node.blocked().get(vip).map_or_else(String::new, Why::to_string),
            }
        })
        .collect()
}

fn last_failover(state: &State, wall: u64) -> Option<Failover> {
    let (vip, last) = state.vips.failovers().iter().max_by_key(|(_, f)| f.at_ms)?;
    Some(Failover {
        vip: state.spec.vip_name(*vip),
        from: last.from.as_ref().map_or_else(String::new, NodeName::to_string),
        to: last.to.to_string(),
        at: rfc3339(last.at_ms),
        ago_s: wall.saturating_sub(last.at_ms) / 1_000,
        actor: last.actor.clone(),
        silent_ms: last.silent_ms,
        event: last.event.clone(),
    })
}

/// One line for `systemctl status` and `/readyz`.
pub fn one_line(status: &Status) -> String {
    format!("{}: {}", status.verdict, status.summary)
}

/// A node that serves did not answer in time.
pub fn no_answer(status: &mut Status, id: NodeId) {
    let id = id.number();
    let Some(n) = status.nodes.iter_mut().find(|n| n.id == id && n.is(NodeState::Active)) else {
        return;
    };
    n.state = NodeState::NoAnswer.into();
    status.problems.push(ProblemLine {
        subject: Subject::Node(n.name.clone()),
        text: "gives no answer over TCP: its counts and checks are not known here".into(),
        next: format!("journalctl -u nines on {}", n.name),
    });
}
