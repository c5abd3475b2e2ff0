//! Why something is as it is, and what happened.
//!
//! Decides: which events belong to a question, and the sentence on top. A service has its holder, a
//! node its loss and what it held, a server the last result of its check.

use std::collections::BTreeSet;

use nines_api::{
    failure::{Failure, Kind, Outcome},
    states::{NodeState, ServerState, Subject},
    text::{ago, rfc3339},
    types::{Event, NodeStatus, ServerStatus, Status, Why},
};
use nines_core::{
    Node,
    event_log::{EventKind, LoggedEvent},
    node::results::CheckResult,
    state::Failover,
};
use nines_model::{NodeName, ServerName, ServerRef, ServiceName, Spec, Time};

use super::{Told, cannot_take_of, set_text};

/// What was seen when somebody asked: the status, and what directors that serve told.
pub struct Seen {
    /// With its verdict.
    pub status: Status,
    /// Counts and checks.
    pub told: Told,
}

fn event(e: &LoggedEvent) -> Event {
    Event {
        id: e.id.clone(),
        at: rfc3339(e.at_ms),
        at_ms: e.at_ms,
        node: e.node.clone(),
        kind: e.kind.to_string(),
        subject: e.subject.clone(),
        text: e.text.clone(),
        actor: e.actor.clone(),
        cause: e.cause.clone(),
    }
}

/// Whether an event's subject is meant by a name; "r2" means "web/r2" too.
fn is_about(subject: &str, name: &str) -> bool {
    subject == name || subject.strip_suffix(name).is_some_and(|rest| rest.ends_with('/'))
}

/// The newest events, oldest first.
pub fn events(node: &Node, about: Option<&str>, limit: usize) -> Vec<Event> {
    let wanted = |e: &&LoggedEvent| about.is_none_or(|a| is_about(&e.subject, a));
    let mut found: Vec<Event> =
        node.state().story.iter().rev().filter(wanted).take(limit).map(event).collect();
    found.reverse();
    found
}

/// The events of the newest change of a holder, and of no other.
pub fn last_failover(node: &Node) -> Vec<Event> {
    let state = node.state();
    let Some((vip, last)) = state.vips.failovers().iter().max_by_key(|(_, f)| f.at_ms) else {
        return Vec::new();
    };
    let subjects = [state.spec.vip_name(*vip)];
    state.story.around(&last.event, &subjects).into_iter().map(event).collect()
}

/// Why something is as it is.
pub fn why(node: &Node, now: Time, subject: &str, seen: &Seen) -> Outcome<Why> {
    let spec = &node.state().spec;
    let mut why = Why { subject: subject.to_owned(), ..Why::default() };
    if !spec.find_vips(subject).is_empty() {
        of_service(node, now, seen, &mut why);
    } else if node.state().member(subject).is_some()
        || spec.nodes.contains_key(subject)
        || node.config().name == subject
    {
        of_node(node, now, seen, &mut why);
    } else if !spec.find_servers(subject).is_empty() {
        of_server(node, now, seen, &mut why);
    } else {
        return Err(unknown(spec, subject));
    }
    let mut told = BTreeSet::new();
    why.next.retain(|next| !next.is_empty() && told.insert(next.clone()));
    Ok(why)
}

fn unknown(spec: &Spec, subject: &str) -> Failure {
    let known = spec
        .services
        .keys()
        .map(ServiceName::as_str)
        .chain(spec.nodes.keys().map(NodeName::as_str))
        .chain(spec.services.values().flat_map(|s| s.servers.keys().map(ServerName::as_str)));
    let meant = nines_model::suggest::closest(subject, known);
    let next = meant
        .map_or("nines status   lists what there is".to_owned(), |m| format!("did you mean {m}?"));
    let what = format!("unknown service, node or server {subject}");
    Failure::new(Kind::NotFound, what, "").next(next)
}

fn of_service(node: &Node, now: Time, seen: &Seen, why: &mut Why) {
    let state = node.state();
    let spec = &state.spec;
    let Some(vip) = spec.find_vips(&why.subject).first().copied() else { return };
    let name = spec.vip_name(vip);
    let holder = state.vips.get(&vip).map_or("", |h| h.node().as_str());
    why.now = if holder.is_empty() {
        let blocked = node.blocked().get(&vip).map_or_else(String::new, |b| format!(": {b}"));
        format!("No director holds {name}{blocked}.")
    } else {
        let since = state.vips.failovers().get(&vip);
        let since = since.map_or_else(String::new, |f| format!(" since {}", rfc3339(f.at_ms)));
        format!("{holder} holds {name}{since}.")
    };
    if let Some(nines_core::state::Holding::Releasing { to, .. }) = state.vips.get(&vip) {
        let to = to.as_ref().map_or("", NodeName::as_str);
        why.now.push_str(&format!(" It is being handed over to {to}."));
    } else if let Some(to) = state.admin.move_requests().get(&vip) {
        why.now.push_str(&format!(" A move to {to} was asked for and waits."));
    }
    for service in spec.services_on(vip).map(|(service, _)| service) {
        let Some(found) = seen.status.services.iter().find(|s| *service == s.name) else {
            continue;
        };
        if !found.why.is_empty() {
            why.now.push_str(&format!(" {service} is {}: {}.", found.verdict, found.why));
        }
        let bad = |server: &&ServerStatus| {
            server.is(ServerState::Down) || server.is(ServerState::Unusable)
        };
        for server in found.servers.iter().filter(bad).take(8) {
            let key = ServerRef::new(service.clone(), server.name.as_str());
            why.now.push_str(&format!(" {}.", checked(node, now, seen, &key)));
            why.next.extend(seen.told.unusable(&key).map(|found| found.next.clone()));
        }
    }
    let status = &seen.status;
    if !status.quorate {
        why.not_elsewhere.push(format!(
            "Without a majority no director can take it: {} of {} votes are heard by {}.",
            status.votes, status.voters, status.node
        ));
        let quorum = status.problems.iter().filter(|line| line.subject == Subject::Quorum);
        why.next.extend(quorum.map(|line| line.next.clone()));
    }
    let observed = node.observed(now);
    let others = spec.directors().filter(|d| **d != *holder && status.quorate);
    for director in others {
        let (told, next) = match cannot_take_of(node, now, &observed, Some(vip), director.as_str())
        {
            None => (
                format!("{director} could take it; VIPs stay where they are (no failback)."),
                format!("nines move {name} --to {director}"),
            ),
            Some(f) => (format!("{}: {}.", f.what, f.why), f.next.unwrap_or_default()),
        };
        why.not_elsewhere.push(told);
        why.next.push(next);
    }
    let subjects = [why.subject.clone(), name];
    // The change that made the present holder; what came later and changed nothing is not why.
    let path = match state.vips.failovers().get(&vip) {
        Some(last) if state.story.find(&last.event).is_some() => {
            state.story.around(&last.event, &subjects)
        }
        _ => state.story.why(&subjects),
    };
    why.chain = path.into_iter().map(event).collect();
}

fn of_node(node: &Node, now: Time, seen: &Seen, why: &mut Why) {
    let (state, name) = (node.state(), why.subject.clone());
    let found = seen.status.nodes.iter().find(|n| n.name == name);
    why.now = found.map_or_else(String::new, state_of_node);
    if let Some(set) = state.admin.standbys().get(name.as_str()) {
        why.now.push_str(&format!(" On standby {}.", set_text(set)));
        why.next.push(format!("nines ready {name}"));
    }
    let subject = Subject::Node(name.clone());
    let silent = found.is_some_and(|n| n.is(NodeState::Silent));
    // That a node is silent sends people here.
    let lines = seen.status.problems.iter().filter(|p| p.subject == subject && !silent);
    let lines = lines.filter(|line| !line.next.is_empty());
    if let Some(n) = found.filter(|n| n.takes_no_part()) {
        let joining = if n.is(NodeState::Joining) { " is joining: it" } else { "" };
        why.now = format!("{name}{joining} {}.", n.trouble);
        why.next.push(n.next.clone());
    } else {
        for line in lines {
            why.next.push(line.next.clone());
            why.now.push_str(&format!(" Wrong now: {}.", line.text));
        }
    }
    let mut chain = state.story.why(std::slice::from_ref(&name));
    if silent {
        why.now = lost(node, now, &name);
        // What took its VIPs away tells its silence.
        let of_it = |f: &Failover| f.from.as_ref().is_some_and(|from| *from == name);
        let taken = state.vips.failovers().values().filter(|f| of_it(f) && f.silent_ms > 0);
        let newest = taken.map(|f| f.at_ms).max().unwrap_or(0);
        let events = state
            .vips
            .failovers()
            .iter()
            .filter(|(_, f)| of_it(f) && f.silent_ms > 0 && newest - f.at_ms < 60_000);
        let mut moves = Vec::new();
        for (vip, failover) in events {
            moves.extend(state.story.around(&failover.event, &[state.spec.vip_name(*vip)]));
        }
        if !moves.is_empty() {
            let since = moves.iter().map(|e| e.at_ms).min().unwrap_or(0);
            chain.retain(|e| e.kind.is(EventKind::HeartbeatLost) && e.at_ms + 60_000 > since);
            chain.extend(moves);
            chain.sort_by_key(|e| (e.at_ms, e.id.clone()));
            chain.dedup_by(|a, b| a.id == b.id);
        }
        why.next.push(format!("start {name}, or on it: systemctl status nines"));
    }
    why.chain = chain.into_iter().map(event).collect();
}

/// "lb1 is active: it holds web, dns."
fn state_of_node(node: &NodeStatus) -> String {
    let (name, state) = (&node.name, &node.state);
    let means = match state.known() {
        _ if !node.holds.is_empty() => format!("it holds {}", node.holds.join(", ")),
        Some(NodeState::Ready) => "it holds no VIP and could take one over now".into(),
        Some(NodeState::Idle) => {
            "it holds no VIP; without the holder there would be no majority".into()
        }
        Some(NodeState::Ok) => "it votes; a witness holds no VIP".into(),
        Some(NodeState::Silent | NodeState::NotJoined) => return format!("{name} is {state}."),
        _ => "it holds no VIP".into(),
    };
    format!("{name} is {state}: {means}.")
}

/// When and how a silent node was lost, and what it held.
fn lost(node: &Node, now: Time, name: &str) -> String {
    let state = node.state();
    let me = &node.config().name;
    let peer = state.member(name).and_then(|m| node.membership().peer(m.id()));
    let peer = peer.filter(|p| p.at != Time(0));
    let mut text = match peer {
        Some(peer) => {
            let ms = now.since(peer.at) / 1_000_000;
            let at = rfc3339(node.wall_ms(now).saturating_sub(ms));
            let how = if peer.beat.leaving {
                "it had said that it was stopping".to_owned()
            } else {
                match peer.heard.len() {
                    1 => "its heartbeats ended on the only link".to_owned(),
                    links => format!("its heartbeats ended on all {links} links"),
                }
            };
            format!(
                "{name} is silent: {me} heard it last at {at} ({} ago), {how}.",
                ago(ms / 1_000)
            )
        }
        None => format!("{name} is silent: {me} has not heard it since {me}'s agent started."),
    };
    let now_on = |vip: &std::net::IpAddr| {
        let holder = state.vips.get(vip).map_or("", |h| h.node().as_str());
        match holder {
            "" => "on no node".to_owned(),
            holder if holder == name => "not taken over yet".to_owned(),
            holder => format!("now on {holder}"),
        }
    };
    let taken = state
        .vips
        .failovers()
        .iter()
        .filter(|(_, f)| f.from.as_ref().is_some_and(|from| *from == *name))
        .map(|(vip, _)| vip);
    let still = state.vips.iter().filter(|(_, h)| *h.node() == *name).map(|(vip, _)| vip);
    let mut all: Vec<_> = still.chain(taken).collect();
    all.sort_unstable();
    all.dedup();
    let held: Vec<String> =
        all.iter().map(|vip| format!("{} ({})", state.spec.vip_name(**vip), now_on(vip))).collect();
    if held.is_empty() {
        text.push_str(" It held no VIP.");
    } else {
        text.push_str(&format!(" It held {}.", held.join(", ")));
    }
    text
}

/// What its check says, and what the holder's proof adds to it.
fn checked(node: &Node, now: Time, seen: &Seen, key: &ServerRef) -> String {
    let mut text = by_check(node, now, seen, key);
    if let Some(found) = seen.told.unusable(key) {
        text.push_str(&format!(
            "; but {} {}, so clients get no answer from it",
            key.server, found.text
        ));
    }
    text
}

/// "r2 fails its check for web: connection refused, since ... (3 m ago), as lb1 sees it"
fn by_check(node: &Node, now: Time, seen: &Seen, key: &ServerRef) -> String {
    let (ServerRef { service, server }, full) = (key, key.to_string());
    let wall = node.wall_ms(now);
    let told = |result: &CheckResult, by: &str| {
        let state = if result.ok { "is up" } else { "fails its check" };
        let since = rfc3339(result.since_ms);
        let ago = ago(wall.saturating_sub(result.since_ms) / 1_000);
        format!(
            "{server} {state} for {service}: {}, since {since} ({ago} ago), as {by} sees it",
            result.text
        )
    };
    let spec = node.state().spec.services.get(service);
    let is_checked = spec.is_some_and(|s| s.servers.get(server).is_some_and(|w| s.is_checked(w)));
    match (node.results().get(key), seen.told.failing.get(&full), seen.told.down.get(&full)) {
        (Some(result), _, _) => told(result, node.config().name.as_str()),
        (None, Some(failing), _) => {
            let (text, since_ms) = (failing.text.clone(), failing.since_ms);
            told(&CheckResult { ok: false, text, since_ms }, "the holder")
        }
        (None, None, Some(false)) => format!("{server} is up for {service}, as the holder sees it"),
        (None, None, Some(true)) => format!("{server} is down for {service}"),
        _ if !is_checked => format!("{server} is not checked for {service}"),
        _ => format!("no check of {server} for {service} has ended yet"),
    }
}

fn of_server(node: &Node, now: Time, seen: &Seen, why: &mut Why) {
    let state = node.state();
    let servers = state.spec.find_servers(&why.subject);
    let mut told = Vec::new();
    for key in &servers {
        if let Some(set) = state.admin.drains().get(key) {
            told.push(format!("{key} drains {}", set_text(set)));
            why.next.push(format!("nines undrain {key}"));
        }
        told.push(checked(node, now, seen, key));
        why.next.extend(seen.told.unusable(key).map(|found| found.next.clone()));
        let failing = node.results().get(key).is_some_and(|r| !r.ok)
            || seen.told.failing.contains_key(&key.to_string());
        if let Some(wanted) =
            state.spec.services[&key.service].servers.get(&key.server).filter(|_| failing)
        {
            let (ip, port) = (wanted.addr.ip(), wanted.addr.port());
            why.next.push(format!("on {ip}: ss -ltnp sport = :{port}"));
        }
    }
    why.now = format!("{}.", told.join("; "));
    let mut subjects: Vec<String> = servers.iter().map(ServerRef::to_string).collect();
    // Somebody may have drained "r2", which is this server and others.
    subjects.extend(servers.iter().map(|key| key.server.to_string()));
    why.chain = state.story.why(&subjects).into_iter().map(event).collect();
}
