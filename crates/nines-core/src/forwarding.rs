//! From what is meant and what is known to the table a director forwards by.
//!
//! Decides: drain before health before weight. Needs no quorum: a failed check changes the table
//! on a node that is alone, too.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use nines_model::{Duty, Forward, ForwardingTable, ServerState, Spec, TableServer, TableService};

use crate::{action::CheckTask, health::Health};

/// Health by (service, server).
pub type Known = BTreeMap<(String, String), Health>;

/// The table of the node with these addresses.
pub fn table(
    spec: &Spec,
    drained: &BTreeSet<(String, String)>,
    known: &Known,
    own: &[IpAddr],
    macs: Vec<[u8; 6]>,
) -> ForwardingTable {
    let alone = spec.directors().nth(1).is_none();
    let here: BTreeSet<IpAddr> = own.iter().copied().filter(|_| !alone).collect();
    let mut table = ForwardingTable {
        duty: Duty::of(spec, &here),
        director_macs: macs,
        backend: spec.backend,
        idle: Some(spec.idle),
        ..ForwardingTable::default()
    };
    for (name, service) in &spec.services {
        let mut servers = BTreeMap::new();
        for (server, wanted) in &service.servers {
            let subject = (name.clone(), server.clone());
            let state = match known.get(&subject) {
                Some(health) => health.state(),
                None if service.is_checked(wanted) => Health::Unknown.state(),
                None => ServerState::Up,
            };
            let state = match state {
                _ if drained.contains(&subject) => ServerState::Draining,
                state => state,
            };
            let itself = wanted.addr.ip().is_loopback();
            let here = own.contains(&wanted.addr.ip());
            let forward = match wanted.forward.unwrap_or(service.forward) {
                _ if here || itself => Forward::Local,
                // A server of a "local" service on another director is reached there.
                Forward::Local => Forward::Dr,
                forward => forward,
            };
            // Weight 0 says what a drain says: the server leaves the pick tables.
            let state = match state {
                ServerState::Up if wanted.weight == 0 => ServerState::Draining,
                state => state,
            };
            let wanted = TableServer {
                addr: wanted.addr,
                forward,
                proxy: service.tells(wanted),
                weight: wanted.weight,
                limit: wanted.limit,
                quic_id: wanted.quic_id,
                state,
            };
            servers.insert(server.clone(), wanted);
        }
        // The sorry servers' turn comes when nobody else takes new flows, and ends with that.
        let regular = |name: &String| !service.servers[name].sorry;
        if servers.iter().any(|(name, server)| regular(name) && server.takes_new()) {
            let sorry = servers.iter_mut().filter(|(name, _)| !regular(name));
            for (_, server) in sorry.filter(|(_, server)| server.state == ServerState::Up) {
                server.state = ServerState::Draining;
            }
        }
        let in_table = TableService {
            flags: service.flags,
            one_packet: service.one_packet,
            persist: service.persist,
            sip: service.by_call,
            pool: service.pool.clone(),
            sources: service.sources.clone(),
            rate: service.rate,
            cookies: service.cookies,
            servers,
            ..TableService::new(service.traffic(), service.scheduler)
        };
        table.services.insert(name.clone(), in_table);
    }
    table
}

/// The checks that go with a spec.
pub fn checks(spec: &Spec) -> Vec<CheckTask> {
    let mut tasks = Vec::new();
    for (name, service) in &spec.services {
        for (server, wanted) in service.servers.iter().filter(|(_, s)| service.is_checked(s)) {
            let mut addr = wanted.addr;
            if let Some(port) = service.check.port {
                addr.set_port(port);
            }
            let mut listen = service.listen.addr;
            if service.listen.one_port().is_none() {
                listen.set_port(addr.port());
            }
            tasks.push(CheckTask {
                service: name.clone(),
                server: server.clone(),
                addr,
                listen,
                forward: wanted.forward.unwrap_or(service.forward),
                // Another port than the clients' speaks a language of its own.
                proxy: service.tells(wanted) && service.check.port.is_none(),
                check: service.check.clone(),
            });
        }
    }
    tasks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sorry_server_serves_while_nobody_else_does() {
        let spec = nines_model::config::parse(
            "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[service.web]\n\
             listen = \"10.0.0.100:80\"\n\
             servers = { a = \"10.0.0.11\", b = { address = \"10.0.0.12\", weight = 0 },\n\
             s = { address = \"10.0.0.13\", role = \"sorry\" } }",
        )
        .unwrap();
        let key = |s: &str| ("web".to_owned(), s.to_owned());
        let states = |drained: &[&str], down: &[&str]| {
            let drained = drained.iter().map(|s| key(s)).collect();
            let mut known: Known = ["a", "b", "s"].map(|s| (key(s), Health::Up(0))).into();
            known.extend(down.iter().map(|s| (key(s), Health::Down(0))));
            let table = table(&spec, &drained, &known, &[], Vec::new());
            table.services["web"].servers.values().map(|s| s.state).collect::<Vec<_>>()
        };
        use ServerState::{Down, Draining, Up};
        assert_eq!(states(&[], &[]), [Up, Draining, Draining]);
        assert_eq!(states(&[], &["a"]), [Down, Draining, Up]);
        assert_eq!(states(&["a"], &[]), [Draining, Draining, Up]);
        assert_eq!(states(&[], &["a", "s"]), [Down, Draining, Down]);
        assert_eq!(states(&["s"], &["a"]), [Down, Draining, Draining]);
    }

    #[test]
    fn a_server_gets_clients_when_its_first_check_has_passed() {
        let spec = |check: &str| {
            let text = format!(
                "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[service.web]\n\
                 listen = \"10.0.0.100:80\"\n{check}servers = {{ a = \"10.0.0.11\" }}"
            );
            nines_model::config::parse(&text).unwrap()
        };
        let state = |check: &str, health: Option<Health>| {
            let key = ("web".to_owned(), "a".to_owned());
            let known = health.map(|h| (key, h)).into_iter().collect();
            let table = table(&spec(check), &BTreeSet::new(), &known, &[], Vec::new());
            table.services["web"].servers["a"].state
        };
        assert_eq!(state("", None), ServerState::Down);
        assert_eq!(state("", Some(Health::Inherited)), ServerState::Up);
        assert_eq!(state("", Some(Health::Up(0))), ServerState::Up);
        assert_eq!(state("check = \"none\"\n", None), ServerState::Up, "nobody asks");
    }

    #[test]
    fn drain_goes_before_health_and_own_addresses_are_local() {
        let spec = nines_model::config::parse(
            "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\nlb2 = \"10.0.0.3\"\n[service.web]\n\
             listen = \"10.0.0.100:80\"\n\
             servers = { a = \"10.0.0.2\", b = \"10.0.0.11\", c = \"10.0.0.12\" }",
        )
        .unwrap();
        let key = |s: &str| ("web".to_owned(), s.to_owned());
        let mut known = Known::from([(key("b"), Health::Down(0)), (key("c"), Health::Down(0))]);
        known.insert(key("a"), Health::Up(0));
        let own = ["10.0.0.2".parse().unwrap()];
        let table = table(&spec, &[key("c")].into(), &known, &own, Vec::new());
        let servers = &table.services["web"].servers;
        let seen = |s: &str| (servers[s].state, servers[s].forward);
        assert_eq!(seen("a"), (ServerState::Up, Forward::Local));
        assert_eq!(seen("b"), (ServerState::Down, Forward::Dr));
        assert_eq!(seen("c"), (ServerState::Draining, Forward::Dr));
        assert_eq!(table.duty.vips, BTreeSet::from(["10.0.0.100".parse().unwrap()]));
        assert_eq!(checks(&spec).len(), 3);
    }

    #[test]
    fn a_loopback_address_is_each_director_itself() {
        let spec = nines_model::config::parse(
            "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[service.cache]\n\
             listen = \"10.0.0.1:*\"\nmark = 7\ncheck = { port = 80 }\n\
             servers = { a = \"10.0.0.11\", s = { address = \"127.0.0.1\", role = \"sorry\" } }",
        )
        .unwrap();
        let key = ("cache".to_owned(), "a".to_owned());
        let known = Known::from([(key, Health::Down(0))]);
        let table = table(&spec, &BTreeSet::new(), &known, &[], Vec::new());
        let cache = &table.services["cache"];
        assert_eq!(cache.traffic, nines_model::Traffic::Marked { mark: 7, v6: false });
        assert_eq!(cache.servers["s"].forward, Forward::Local);
        assert_eq!(cache.servers["s"].state, ServerState::Up);
        assert_eq!(table.duty, Duty::default(), "no other director sends packets to it");
        assert_eq!(checks(&spec).len(), 1, "where they go from here is nobody's to ask");
    }
}
