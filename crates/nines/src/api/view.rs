//! What a node shows of itself and its cluster.
//!
//! Decides: the verdict and the words. Everything comes from the replicated state and this node's
//! own ears; what is not known is said to be unknown.

use std::collections::{BTreeMap, BTreeSet};

use nines_core::{Node, state::State, story::StoryEvent};
use nines_model::{Counters, Role, ServerState, Time};
use serde::{Deserialize, Serialize};

pub use self::acts::{cannot_take, harm, impossible, warnings};
use self::problems::{judge, problems};
use super::types::{
    Event, Failover, NodeStatus, ProblemLine, SCHEMA, ServerStatus, ServiceStatus, Status, Traffic,
    VipStatus, Why,
};
use crate::{
    daemon::Shown,
    failure::{Failure, Kind, Outcome},
};

mod acts;
mod lives;
pub mod names;
mod problems;

/// RFC 3339 in UTC.
pub fn rfc3339(ms: u64) -> String {
    jiff::Timestamp::from_millisecond(ms as i64)
        .map_or_else(|_| String::new(), |t| format!("{t:.3}"))
}

/// Counts and health of one node, as nodes tell each other.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Told {
    services: BTreeMap<String, Traffic>,
    servers: BTreeMap<String, Traffic>,
    down: BTreeMap<String, bool>,
    drops: BTreeMap<String, u64>,
    /// Of the flow table, percent.
    #[serde(default)]
    full: u64,
}

/// A flow table as full as that (percent) is said to be.
const FULL: u64 = 90;

/// Counts and health as they are told.
pub fn traffic(counters: &Counters, health: &nines_core::forwarding::Known) -> Told {
    let one = |t: &nines_model::Tally| Traffic {
        connections: t.connections,
        active: t.active,
        inactive: t.inactive,
        packets_in: t.packets_in,
        bytes_in: t.bytes_in,
        packets_out: t.packets_out,
        bytes_out: t.bytes_out,
    };
    let name = |(service, server): &(String, String)| format!("{service}/{server}");
    Told {
        services: counters.services.iter().map(|(n, t)| (n.clone(), one(t))).collect(),
        servers: counters.servers.iter().map(|(n, t)| (name(n), one(t))).collect(),
        drops: counters.drops.clone(),
        full: (counters.taken * 100).checked_div(counters.places).unwrap_or(0),
        down: health.iter().map(|(n, h)| (name(n), h.state() == ServerState::Down)).collect(),
    }
}

/// Another node that serves counts for its own services; its word goes before ours.
pub fn merge(told: &mut Told, bytes: &[u8]) {
    let Ok(theirs) = serde_json::from_slice::<Told>(bytes) else { return };
    let busier = |a: &Traffic, b: &Traffic| a.packets_in >= b.packets_in;
    for (name, traffic) in theirs.services {
        let mine = told.services.entry(name).or_default();
        if busier(&traffic, mine) {
            *mine = traffic;
        }
    }
    for (name, traffic) in theirs.servers {
        let mine = told.servers.entry(name).or_default();
        if busier(&traffic, mine) {
            *mine = traffic;
        }
    }
    told.down.extend(theirs.down);
    told.full = told.full.max(theirs.full);
    theirs.drops.into_iter().for_each(|(why, n)| *told.drops.entry(why).or_default() += n);
}

fn member_alive(node: &Node, now: Time, id: u64) -> bool {
    id == node.config().id || node.membership().alive(now, id, node.state().spec.timing.lease)
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

/// The whole view.
pub fn status(node: &Node, now: Time, shown: &Shown) -> Status {
    let state = node.state();
    let voters = node.consensus().voters();
    let counts =
        |id: &&u64| member_alive(node, now, **id) && lives::word(node, now, **id).is_none();
    let votes = voters.iter().filter(counts).count();
    let quorate = votes * 2 > voters.len();
    let wall = node.wall_ms(now);
    let leader = node.consensus().leader();
    let mut status = Status {
        schema: SCHEMA,
        cluster: state.spec.name.clone(),
        node: node.config().name.clone(),
        leader: state.members.get(&leader).map_or_else(String::new, |m| m.name.clone()),
        votes,
        voters: voters.len(),
        quorate,
        revision: state.revision,
        nodes: nodes(node, now, shown),
        vips: vips(node, now),
        services: services(state),
        last_failover: last_failover(state, wall),
        at: rfc3339(wall),
        ..Status::default()
    };
    lives::problems(node, now, &mut status);
    problems(node, &mut status);
    judge(&mut status);
    status
}

fn nodes(node: &Node, now: Time, shown: &Shown) -> Vec<NodeStatus> {
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
        let double = lives::word(node, now, *id);
        let word = match role {
            _ if double.is_some() => double.unwrap_or_default(),
            _ if !alive => "silent",
            Role::Witness => "ok",
            Role::Director if standby.is_some() => "standby",
            Role::Director if !holds.is_empty() => "active",
            Role::Director if ready && !behind.is_empty() => "catching up",
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
        let (path, trouble) = (shown.path.clone(), shown.worst().to_owned());
        let links = node.links(now, *id);
        all.push(NodeStatus {
            name: name.clone(),
            role: crate::daemon::role_word(role).into(),
            state: word.into(),
            holds,
            version: facts.map_or_else(String::new, |f| f.version.clone()),
            path,
            trouble: if alive { trouble } else { String::new() },
            next: shown.worst_next(),
            rtt_us: peer.map_or(0, |p| p.rtt_ns / 1_000),
            links_up: links.values().filter(|up| **up).count(),
            links: links.len(),
            leads: node.consensus().leader() == *id,
            standby: standby.map_or_else(String::new, set_text),
            behind,
        });
    }
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

fn vips(node: &Node, now: Time) -> Vec<VipStatus> {
    let state = node.state();
    state
        .spec
        .vips
        .keys()
        .map(|vip| {
            let here = node.vips().get(vip);
            VipStatus {
                address: vip.to_string(),
                name: state.spec.vip_name(*vip),
                node: state.vips.get(vip).map_or_else(String::new, |h| h.node().to_owned()),
                token: state.vips.get(vip).map_or(0, |h| h.token()),
                answers_here: here.is_some_and(|v| v.answers(now)),
                lease_left_ms: here.map_or(0, |v| v.guard.since(now) / 1_000_000),
                blocked: node.blocked().get(vip).cloned().unwrap_or_default(),
            }
        })
        .collect()
}

fn services(state: &State) -> Vec<ServiceStatus> {
    let mut all = Vec::new();
    for (name, service) in &state.spec.services {
        let servers = service.servers.iter().map(|(server, wanted)| {
            let drain = state.drains.get(&(name.clone(), server.clone()));
            ServerStatus {
                name: server.clone(),
                address: wanted.addr.to_string(),
                state: match drain {
                    Some(_) => "draining",
                    None if service.is_checked(wanted) => "unknown",
                    None => "up",
                }
                .into(),
                sorry: wanted.sorry,
                weight: wanted.weight,
                drain: drain.map_or_else(String::new, set_text),
                traffic: Traffic::default(),
            }
        });
        let holders = service.listen.vips().filter_map(|vip| state.vips.get(&vip));
        let holders: BTreeSet<&str> = holders.map(|holder| holder.node()).collect();
        let check = match &service.check.kind {
            nines_model::CheckKind::None => "none".into(),
            nines_model::CheckKind::Tcp => format!("tcp {}", service.check.every),
            nines_model::CheckKind::Udp => format!("udp {}", service.check.every),
            nines_model::CheckKind::Http { tls, path, .. } => {
                format!("{} {path} {}", if *tls { "https" } else { "http" }, service.check.every)
            }
        };
        all.push(ServiceStatus {
            name: name.clone(),
            listen: service.takes(),
            vips: service.listen.vips().map(|vip| vip.to_string()).collect(),
            forward: service.forward.to_string(),
            scheduler: service.scheduler.to_string(),
            node: holders.into_iter().collect::<Vec<_>>().join(", "),
            servers: servers.collect(),
            check,
            ..ServiceStatus::default()
        });
    }
    all
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

/// One line for `systemctl status`.
pub fn one_line(node: &Node, now: Time) -> String {
    let status = status(node, now, &Shown::default());
    format!("{}: {}", status.verdict, status.summary)
}

/// The node that serves did not answer in time.
pub fn no_answer(status: &mut Status) {
    for vip in status.vips.clone() {
        let Some(n) = status.nodes.iter_mut().find(|n| n.name == vip.node) else { continue };
        if n.name != status.node && n.state == "active" {
            n.state = "no answer".into();
        }
    }
    judge(status);
}

/// Puts counts and health in.
pub fn fill_traffic(status: &mut Status, told: &Told) {
    status.drops.extend(told.drops.iter().filter(|(_, n)| **n > 0).map(|(w, n)| (w.clone(), *n)));
    if told.full >= FULL {
        status.problems.push(ProblemLine {
            subject: "flow table".into(),
            text: format!("{} % full: connections that are not established give way", told.full),
            next: "give [forwarding] flows in cluster.toml more, apply, systemctl reload nines"
                .into(),
        });
    }
    let mut down = Vec::new();
    for service in &mut status.services {
        service.traffic = told.services.get(&service.name).copied().unwrap_or_default();
        for server in &mut service.servers {
            let name = format!("{}/{}", service.name, server.name);
            server.traffic = told.servers.get(&name).copied().unwrap_or_default();
            if server.state == "draining" {
                continue;
            }
            server.state = match told.down.get(&name) {
                Some(true) => "DOWN",
                Some(false) => "up",
                None => continue,
            }
            .into();
            if server.state == "DOWN" {
                down.push((server.name.clone(), service.name.clone()));
            }
        }
        let takes = |s: &&ServerStatus| (s.state == "up" || s.state == "unknown") && s.weight > 0;
        service.up = service.servers.iter().filter(takes).filter(|s| !s.sorry).count();
        let (up, spare) = (service.up, service.servers.iter().filter(takes).find(|s| s.sorry));
        if let (0, Some(sorry)) = (up, spare) {
            status.problems.push(ProblemLine {
                subject: format!("service {}", service.name),
                text: format!("only sorry server {} takes new connections", sorry.name),
                next: format!("nines why {}", service.name),
            });
        }
        for server in service.servers.iter_mut().filter(|s| up > 0 && s.sorry && s.state == "up") {
            server.state = "spare".into();
        }
        for server in service.servers.iter().filter(|s| s.state == "draining") {
            let open = server.traffic.active;
            status.problems.push(ProblemLine {
                subject: format!("server {}", server.name),
                text: format!("draining {}, {open} connections left", server.drain),
                next: format!("nines undrain {}", server.name),
            });
        }
    }
    for (server, service) in down {
        status.problems.push(ProblemLine {
            subject: format!("server {server}"),
            text: format!("{service}: fails its check"),
            next: format!("nines why {server}"),
        });
    }
    judge(status);
}

fn event(e: &StoryEvent) -> Event {
    let told = &e.told;
    Event {
        id: e.id.clone(),
        at: rfc3339(told.at_ms),
        at_ms: told.at_ms,
        node: told.node.clone(),
        kind: told.kind.clone(),
        subject: told.subject.clone(),
        text: told.text.clone(),
        actor: told.actor.clone(),
        cause: told.cause.clone(),
    }
}

/// The newest events, oldest first.
pub fn events(node: &Node, about: Option<&str>, limit: usize) -> Vec<Event> {
    let wanted = |e: &&StoryEvent| about.is_none_or(|a| e.told.subject == a);
    let mut found: Vec<Event> =
        node.state().story.iter().rev().filter(wanted).take(limit).map(event).collect();
    found.reverse();
    found
}

/// Why something is as it is.
pub fn why(node: &Node, now: Time, subject: &str) -> Outcome<Why> {
    let state = node.state();
    let spec = &state.spec;
    let mut why = Why { subject: subject.to_owned(), ..Why::default() };
    let mut subjects = vec![subject.to_owned()];
    if let Some(vip) = spec.find_vips(subject).first().copied() {
        let name = spec.vip_name(vip);
        subjects.push(name.clone());
        let holder = state.vips.get(&vip).map_or("", |h| h.node());
        why.now = if holder.is_empty() {
            node.blocked().get(&vip).map_or_else(
                || format!("{name} runs nowhere."),
                |b| format!("{name} runs nowhere: {b}."),
            )
        } else {
            let since = state.failovers.get(&vip).map_or(0, |f| f.at_ms);
            format!("{name} runs on {holder} since {}.", rfc3339(since))
        };
        for director in spec.directors().filter(|d| *d != holder) {
            let told = cannot_take(node, now, director).map_or_else(
                || format!("{director}: it could; VIPs stay where they are (no failback)."),
                |f| format!("{director}: {}.", f.why),
            );
            why.not_elsewhere.push(told);
            why.next.push(format!("nines move {name} --to {director}"));
        }
    } else if state.member(subject).is_some() || spec.nodes.contains_key(subject) {
        let found = nodes(node, now, &Shown::default()).into_iter().find(|n| n.name == subject);
        why.now = found.map_or_else(String::new, |n| format!("{subject} is {}.", n.state));
    } else if !spec.find_servers(subject).is_empty() {
        let servers = spec.find_servers(subject);
        let word = subject.rsplit('/').next().unwrap_or(subject);
        subjects.push(word.to_owned());
        subjects.extend(servers.iter().map(|(a, b)| format!("{a}/{b}")));
        let told: Vec<String> = servers
            .iter()
            .map(|key| {
                let state_word = match (state.drains.get(key), node.health().get(key)) {
                    (Some(set), _) => format!("drains {}", set_text(set)),
                    (None, Some(h)) if h.state() == ServerState::Down => "is down".into(),
                    (None, Some(_)) => "is up".into(),
                    (None, None) => "is not checked by this node".into(),
                };
                format!("{} {state_word} for {}", key.1, key.0)
            })
            .collect();
        why.now = format!("{}.", told.join("; "));
    } else {
        let known = spec
            .services
            .keys()
            .chain(spec.nodes.keys())
            .chain(spec.services.values().flat_map(|s| s.servers.keys()));
        let meant = nines_model::suggest::closest(subject, known.map(String::as_str));
        let next = meant.map_or("nines status   lists what there is".to_owned(), |m| {
            format!("did you mean {m}?")
        });
        let what = format!("there is no service, node or server {subject}");
        return Err(Failure::new(Kind::NotFound, what, "").next(next));
    }
    why.chain = state.story.why(&subjects).into_iter().map(event).collect();
    Ok(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_flow_table_is_said() {
        let full = |taken| {
            traffic(&Counters { places: 100, taken, ..Counters::default() }, &BTreeMap::new())
        };
        let said = |told: &Told| {
            let mut status = Status::default();
            fill_traffic(&mut status, told);
            status.problems.into_iter().map(|p| p.text).collect::<String>()
        };
        assert_eq!(said(&full(89)), "");
        let mut told = full(91);
        merge(&mut told, &serde_json::to_vec(&full(97)).unwrap());
        assert!(said(&told).starts_with("97 % full"), "{}", said(&told));
    }
}
