//! Counts, checks and proofs of the nodes that serve, and how they are put into a status.
//!
//! Decides: whose word goes before whose, and the state of each server.

use std::collections::BTreeMap;

use nines_api::{
    states::{ServerState, Subject},
    text::{count, rfc3339},
    types::{ProblemLine, ServerStatus, Status, Traffic},
};
use nines_core::node::results::Results;
use nines_model::{Counters, ServerRef};
use serde::{Deserialize, Serialize};

use crate::{
    checks::proof::{AllUnusable, Unusable},
    http::verdict::{judge, takes},
};

/// Counts and health of one node, as nodes tell each other.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Told {
    services: BTreeMap<String, Traffic>,
    servers: BTreeMap<String, Traffic>,
    pub(super) down: BTreeMap<String, bool>,
    drops: BTreeMap<String, u64>,
    /// Of the flow table, percent.
    #[serde(default)]
    full: u64,
    /// Results of checks that fail.
    #[serde(default)]
    pub(super) failing: BTreeMap<String, Failing>,
    /// Servers that the holder found not to serve the VIP.
    #[serde(default)]
    unusable: AllUnusable,
}

impl Told {
    /// What the holder found of a server that does not serve the VIP.
    pub fn unusable(&self, server: &ServerRef) -> Option<&Unusable> {
        self.unusable.get(&server.to_string())
    }

    /// Servers that take no clients: their check fails, or they do not serve the VIP.
    pub fn useless(&self) -> impl Iterator<Item = ServerRef> {
        let down = self.down.iter().filter(|(_, down)| **down).map(|(name, _)| name);
        let all = down.chain(self.unusable.keys());
        all.filter_map(|name| name.split_once('/'))
            .map(|(service, server)| ServerRef::new(service, server))
    }
}

/// A check that fails.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Failing {
    /// What it gets, in words.
    pub(super) text: String,
    /// Since when, ms since 1970.
    pub(super) since_ms: u64,
}

/// A flow table as full as that (percent) is said to be.
const FULL: u64 = 90;

/// Counts and health as they are told.
pub fn traffic(
    counters: &Counters,
    health: &nines_core::forwarding::Known,
    results: &Results,
    unusable: AllUnusable,
) -> Told {
    let one = |t: &nines_model::Tally| Traffic {
        connections: t.connections,
        active: t.active,
        inactive: t.inactive,
        packets_in: t.packets_in,
        bytes_in: t.bytes_in,
        packets_out: t.packets_out,
        bytes_out: t.bytes_out,
    };
    // Of a hundred thousand servers most have nothing to tell.
    let any = |t: &nines_model::Tally| *t != nines_model::Tally::default();
    let services = counters.services.iter().filter(|(_, t)| any(t));
    let servers = counters.servers.iter().filter(|(_, t)| any(t));
    Told {
        services: services.map(|(n, t)| (n.to_string(), one(t))).collect(),
        servers: servers.map(|(n, t)| (n.to_string(), one(t))).collect(),
        failing: results
            .iter()
            .filter(|(_, result)| !result.ok)
            .map(|(n, r)| (n.to_string(), Failing { text: r.text.clone(), since_ms: r.since_ms }))
            .collect(),
        unusable,
        drops: counters.drops.clone(),
        full: (counters.taken * 100).checked_div(counters.places).unwrap_or(0),
        down: health
            .iter()
            .map(|(n, h)| (n.to_string(), h.state() == nines_model::ServerState::Down))
            .collect(),
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
    for (name, down) in theirs.down {
        if !down {
            told.failing.remove(&name);
        }
        told.down.insert(name, down);
    }
    told.failing.extend(theirs.failing);
    told.unusable.extend(theirs.unusable);
    told.full = told.full.max(theirs.full);
    theirs.drops.into_iter().for_each(|(why, n)| *told.drops.entry(why).or_default() += n);
}

/// Puts only this node's own counts in.
pub fn own_traffic(status: &mut Status, own: &Told) {
    for service in &mut status.services {
        service.traffic = own.services.get(&service.name).copied().unwrap_or_default();
        for server in &mut service.servers {
            let name = format!("{}/{}", service.name, server.name);
            server.traffic = own.servers.get(&name).copied().unwrap_or_default();
        }
    }
    status.drops =
        own.drops.iter().filter(|(_, n)| **n > 0).map(|(w, n)| (w.clone(), *n)).collect();
}

fn unusable_line(server: &str, name: &str, found: &Unusable) -> ProblemLine {
    ProblemLine {
        subject: Subject::Server(name.to_owned()),
        text: format!("its check succeeds, but {server} {}", found.text),
        next: found.next.clone(),
    }
}

/// Puts counts and health in, and judges.
pub fn fill_traffic(status: &mut Status, told: &Told) {
    status.drops.extend(told.drops.iter().filter(|(_, n)| **n > 0).map(|(w, n)| (w.clone(), *n)));
    if told.full >= FULL {
        status.problems.push(ProblemLine {
            subject: Subject::FlowTable,
            text: format!("{} % full: half-open and closed connections are removed first", told.full),
            next: "raise flows in [forwarding] of cluster.toml, apply it, then: systemctl reload nines"
                .into(),
        });
    }
    let (mut down, mut name) = (Vec::new(), String::new());
    for service in &mut status.services {
        service.traffic = told.services.get(&service.name).copied().unwrap_or_default();
        for server in &mut service.servers {
            name.clear();
            name.extend([service.name.as_str(), "/", server.name.as_str()]);
            server.traffic = told.servers.get(&name).copied().unwrap_or_default();
            if server.is(ServerState::Draining) {
                continue;
            }
            server.state = match told.down.get(&name) {
                Some(true) => ServerState::Down,
                Some(false) => ServerState::Up,
                None if server.is(ServerState::Up) => ServerState::Up,
                None => continue,
            }
            .into();
            if server.is(ServerState::Down) {
                let failing = told.failing.get(&name);
                let text = failing.map_or("fails its check".into(), |f| {
                    format!("{}, since {}", f.text, rfc3339(f.since_ms))
                });
                down.push((name.clone(), text));
            } else if let Some(found) = told.unusable.get(&name) {
                server.state = ServerState::Unusable.into();
                status.problems.push(unusable_line(&server.name, &name, found));
            }
        }
        let taking = || service.servers.iter().filter(|s| takes(s));
        service.up = taking().filter(|s| !s.sorry).count();
        service.of = service.servers.iter().filter(|s| !s.sorry).count();
        let (up, spare) = (service.up, taking().find(|s| s.sorry));
        if let (0, Some(sorry)) = (up, spare) {
            status.problems.push(ProblemLine {
                subject: Subject::Service(service.name.clone()),
                text: format!("only sorry server {} takes new connections", sorry.name),
                next: format!("nines why {}", service.name),
            });
        }
        let idle = |s: &&mut ServerStatus| up > 0 && s.sorry && s.is(ServerState::Up);
        for server in service.servers.iter_mut().filter(idle) {
            server.state = ServerState::Spare.into();
        }
        for server in service.servers.iter().filter(|s| s.is(ServerState::Draining)) {
            let open = server.traffic.active;
            status.notices.push(ProblemLine {
                subject: Subject::Server(format!("{}/{}", service.name, server.name)),
                text: format!("drained {}; {} left", server.drain, count(open, "connection")),
                next: format!("nines undrain {}/{}", service.name, server.name),
            });
        }
    }
    let lines = down.into_iter().map(|(server, text)| ProblemLine {
        next: format!("nines why {server}"),
        subject: Subject::Server(server),
        text,
    });
    status.problems.extend(lines);
    judge(status);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_flow_table_is_said() {
        let full = |taken| {
            let counters = Counters { places: 100, taken, ..Counters::default() };
            traffic(&counters, &BTreeMap::new(), &BTreeMap::new(), AllUnusable::new())
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
