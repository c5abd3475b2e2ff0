//! What a node shows of itself and its cluster.
//!
//! Decides: the verdict and the words. Everything comes from the replicated state and this node's
//! own ears; what is not known is said to be unknown.

use std::collections::BTreeSet;

use nines_core::{Node, state::State};
use nines_model::{Role, Time};

pub use self::{
    acts::{cannot_take, cannot_take_of, harm_of_drain, harm_of_standby},
    node_counts::{Told, fill_traffic, merge, own_traffic, traffic},
    why::{Seen, events, last_failover as events_of_last_failover, why},
};
use self::{problems::problems, spare::Spares};
use super::types::{Failover, NodeStatus, ProblemLine, SCHEMA, Status, VipStatus};
use crate::daemon::Shown;

mod acts;
pub mod feasibility;
mod incarnations;
pub mod names;
mod node_counts;
pub mod outside;
mod problems;
pub mod services;
mod spare;
mod why;

/// RFC 3339 in UTC.
pub fn rfc3339(ms: u64) -> String {
    jiff::Timestamp::from_millisecond(ms as i64)
        .map_or_else(|_| String::new(), |t| format!("{t:.3}"))
}

/// "3 m 10 s"
pub fn ago(seconds: u64) -> String {
    match seconds {
        s if s < 60 => format!("{s} s"),
        s if s < 3_600 => format!("{} m {} s", s / 60, s % 60),
        s if s < 86_400 => format!("{} h {} m", s / 3_600, s % 3_600 / 60),
        s => format!("{} d", s / 86_400),
    }
}

/// "1 service", "2 services"
pub fn count(n: u64, what: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {what}{plural}")
}

/// A MAC address as text, such as "02:00:00:00:00:07".
pub fn mac_text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn member_alive(node: &Node, now: Time, id: u64) -> bool {
    if id == node.config().id {
        return node.broken().is_none();
    }
    node.membership().alive(now, id, node.state().spec.timing.lease)
}

/// Ids of nodes that hold a VIP.
pub fn active(node: &Node) -> Vec<u64> {
    let state = node.state();
    let mut ids: Vec<u64> =
        state.vips.values().filter_map(|h| state.member(h.node()).map(|m| m.id)).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Voters that are heard and whose incarnation counts, this node among them.
fn votes(node: &Node, now: Time) -> BTreeSet<u64> {
    let counts =
        |id: &u64| member_alive(node, now, *id) && incarnations::word(node, now, *id).is_none();
    node.consensus().voters().into_iter().filter(counts).collect()
}

/// The whole view but for services, which are to be added outside the core.
pub fn status(node: &Node, now: Time, shown: &Shown) -> (Status, services::Services) {
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
        node: node.config().name.clone(),
        leader: state.members.get(&leader).map_or_else(String::new, |m| m.name.clone()),
        votes,
        voters: voters.len(),
        quorate,
        revision: state.revision,
        nodes: nodes(node, now, shown, &spares),
        vips: vips(node, now, &spares),
        last_failover: last_failover(state, wall),
        at: rfc3339(wall),
        ..Status::default()
    };
    incarnations::problems(node, now, &mut status);
    problems(&mut status);
    (status, services::Services::of(state))
}

fn nodes(node: &Node, now: Time, shown: &Shown, spares: &Spares<'_>) -> Vec<NodeStatus> {
    let state = node.state();
    let mut all = Vec::new();
    for (id, member) in &state.members {
        let name = &member.name;
        let alive = member_alive(node, now, *id);
        let holds: Vec<String> = state
            .vips
            .iter()
            .filter(|(_, h)| h.node() == name)
            .map(|(vip, _)| vip.to_string())
            .collect();
        let peer = node.membership().peer(*id);
        let me = *id == node.config().id;
        let ready = if me { node.is_ready() } else { peer.is_some_and(|p| p.beat.ready) };
        let role = state
            .spec
            .nodes
            .get(name)
            .map_or(if member.witness { Role::Witness } else { Role::Director }, |n| n.role);
        let standby = state.standbys.get(name);
        let missing: Vec<u64> = match peer {
            _ if me => node.behind().iter().copied().collect(),
            Some(peer) => peer.beat.behind.clone(),
            None => Vec::new(),
        };
        let behind: Vec<String> = missing
            .iter()
            .filter(|id| member_alive(node, now, **id))
            .filter_map(|id| state.members.get(id).map(|m| m.name.clone()))
            .collect();
        let double = incarnations::word(node, now, *id);
        let outside = outside::outside(node, now, *id, name);
        let no_vote = outside.as_ref().is_some_and(|o| o.word == outside::NO_VOTE);
        let word = match role {
            _ if no_vote => outside::NO_VOTE,
            _ if double.is_some() => double.unwrap_or_default(),
            _ if outside.is_some() => outside.as_ref().map_or("", |o| o.word),
            _ if !alive => "silent",
            Role::Witness => "ok",
            Role::Director if standby.is_some() => "standby",
            Role::Director if !holds.is_empty() => "active",
            Role::Director if ready && !behind.is_empty() => "catching up",
            Role::Director if ready && !spares.has_majority(name) => "idle",
            Role::Director if ready => "ready",
            Role::Director => "not ready",
        };
        let facts = state.facts.get(name);
        let told = || Shown {
            path: facts.map_or_else(String::new, |f| f.path.clone()),
            trouble: facts.map_or_else(String::new, |f| f.trouble.clone()),
            next: facts.map_or_else(String::new, |f| f.next.clone()),
            ..Shown::default()
        };
        let shown = if me { shown.clone() } else { told() };
        let (trouble, next) = match outside {
            Some(outside) => (outside.why, outside.next),
            None if alive => (shown.worst().to_owned(), shown.worst_next()),
            None => (String::new(), shown.worst_next()),
        };
        let links = node.links(now, *id);
        all.push(NodeStatus {
            id: *id,
            name: name.clone(),
            role: crate::daemon::role_word(role).into(),
            state: word.into(),
            holds,
            version: facts.map_or_else(String::new, |f| f.version.clone()),
            path: shown.path.clone(),
            trouble,
            next,
            rtt_us: peer.map_or(0, |p| p.rtt_ns / 1_000),
            links_up: links.values().filter(|up| **up).count(),
            links: links.len(),
            leads: node.consensus().leader() == *id,
            standby: standby.map_or_else(String::new, set_text),
            behind,
            macs: facts.map_or_else(Vec::new, |f| f.macs.iter().map(|mac| mac_text(mac)).collect()),
        });
    }
    all.extend(outside::newcomer(node, now, shown));
    for (name, spec) in &state.spec.nodes {
        if state.member(name).is_none() {
            all.push(NodeStatus {
                name: name.clone(),
                role: crate::daemon::role_word(spec.role).into(),
                state: "not joined".into(),
                ..NodeStatus::default()
            });
        }
    }
    all.sort_by_key(|n| (n.role != "director", n.name.clone()));
    all
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
                node: state.vips.get(vip).map_or_else(String::new, |h| h.node().to_owned()),
                token: state.vips.get(vip).map_or(0, |h| h.token()),
                answers_here: node.answers(*vip, now),
                lease_left_ms: here.map_or(0, |v| v.guard.since(now) / 1_000_000),
                blocked: node.blocked().get(vip).cloned().unwrap_or_default(),
            }
        })
        .collect()
}

fn last_failover(state: &State, wall: u64) -> Option<Failover> {
    let (vip, last) = state.failovers.iter().max_by_key(|(_, f)| f.at_ms)?;
    Some(Failover {
        vip: state.spec.vip_name(*vip),
        from: last.from.clone(),
        to: last.to.clone(),
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
pub fn no_answer(status: &mut Status, id: u64) {
    let Some(n) = status.nodes.iter_mut().find(|n| n.id == id && n.state == "active") else {
        return;
    };
    n.state = "no answer".into();
    status.problems.push(ProblemLine {
        subject: format!("node {}", n.name),
        text: "gives no answer over TCP: its counts and checks are not known here".into(),
        next: format!("journalctl -u nines on {}", n.name),
    });
}
