//! From what is meant and what is known to the table a director forwards by.
//!
//! Decides: drain before health before weight. Needs no quorum: a failed check changes the table
//! on a node that is alone, too.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use nines_model::{
    Forward, ForwardingTable, RealServerRole, ServerName, ServerRef, ServerState, ServiceName,
    ServiceSpec, Spec, TableServer, TableService,
};

use crate::health::{CheckTask, CheckTasks, Health};

/// What is known of the health of servers.
pub type Known = BTreeMap<ServerRef, Health>;

/// Some servers.
pub type Servers = BTreeSet<ServerRef>;

/// All that a director's table follows from. Cheap to make and to compare: who keeps leases makes
/// this, another thread the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Config in force; the default forwards nothing.
    pub spec: Arc<Spec>,
    /// Servers that an operator has drained.
    pub drained: Servers,
    /// Checked servers that failed, or whose first check has not ended yet.
    pub down: Servers,
    /// Addresses of this node.
    pub own: Vec<IpAddr>,
    /// MAC addresses of the other directors.
    pub macs: Vec<[u8; 6]>,
}

impl Wanted {
    /// Addresses at which other directors reach this node as a real server.
    fn here(&self) -> BTreeSet<IpAddr> {
        let alone = self.spec.directors().nth(1).is_none();
        self.own.iter().copied().filter(|_| !alone).collect()
    }

    /// What this node must have as a real server of other directors.
    pub fn duty(&self) -> RealServerRole {
        RealServerRole::of(&self.spec, &self.here())
    }

    /// The table without its services.
    fn frame(&self) -> ForwardingTable {
        ForwardingTable {
            duty: self.duty(),
            director_macs: self.macs.clone(),
            backend: self.spec.backend,
            idle: Some(self.spec.idle),
            ..ForwardingTable::default()
        }
    }

    /// The whole table.
    pub fn table(&self) -> ForwardingTable {
        let all = self.spec.services.iter();
        let services = all.map(|(name, s)| (name.clone(), self.service(name, s))).collect();
        ForwardingTable { services, ..self.frame() }
    }

    fn service(&self, name: &ServiceName, service: &ServiceSpec) -> TableService {
        let mut servers = BTreeMap::new();
        for (server, wanted) in &service.servers {
            let subject = ServerRef::new(name.clone(), server.clone());
            let itself = wanted.addr.ip().is_loopback();
            let here = self.own.contains(&wanted.addr.ip());
            let forward = match wanted.forward.unwrap_or(service.forward) {
                _ if here || itself => Forward::Local,
                // A server of a "local" service on another director is reached there.
                Forward::Local => Forward::Dr,
                forward => forward,
            };
            let state = match wanted.weight {
                _ if self.drained.contains(&subject) => ServerState::Draining,
                _ if self.down.contains(&subject) => ServerState::Down,
                // Weight 0 says what a drain says: the server leaves the pick tables.
                0 => ServerState::Draining,
                _ => ServerState::Up,
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
        let regular = |name: &ServerName| !service.servers[name].sorry;
        if servers.iter().any(|(name, server)| regular(name) && server.takes_new()) {
            let sorry = servers.iter_mut().filter(|(name, _)| !regular(name));
            for (_, server) in sorry.filter(|(_, server)| server.state == ServerState::Up) {
                server.state = ServerState::Draining;
            }
        }
        TableService {
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
        }
    }
}

/// A table that follows what is wanted, and makes only those services anew that something
/// changed for.
#[derive(Debug, Default)]
pub struct Following {
    wanted: Wanted,
    table: ForwardingTable,
}

impl Following {
    /// The table as it was followed to last.
    pub fn table(&self) -> &ForwardingTable {
        &self.table
    }

    /// Makes the table that `next` wants and returns it.
    pub fn follow(&mut self, next: Wanted) -> &ForwardingTable {
        let before = std::mem::replace(&mut self.wanted, next);
        let next = &self.wanted;
        if before.own != next.own {
            self.table = next.table();
            return &self.table;
        }
        let mut services = std::mem::take(&mut self.table.services);
        if !Arc::ptr_eq(&before.spec, &next.spec) {
            services.retain(|name, _| next.spec.services.contains_key(name));
            for (name, service) in &next.spec.services {
                if before.spec.services.get(name) != Some(service) {
                    services.insert(name.clone(), next.service(name, service));
                }
            }
        }
        let drains = before.drained.symmetric_difference(&next.drained);
        let health = before.down.symmetric_difference(&next.down);
        let touched: BTreeSet<&ServiceName> =
            drains.chain(health).map(|subject| &subject.service).collect();
        for name in touched {
            if let Some(service) = next.spec.services.get(name) {
                services.insert(name.clone(), next.service(name, service));
            }
        }
        self.table = ForwardingTable { services, ..next.frame() };
        &self.table
    }
}

/// The table of the node with these addresses.
pub fn table(
    spec: &Spec,
    drained: &Servers,
    known: &Known,
    own: &[IpAddr],
    macs: Vec<[u8; 6]>,
) -> ForwardingTable {
    let (spec, drained, down) =
        (Arc::new(spec.clone()), drained.clone(), down(known, &CheckTasks::of(spec)));
    Wanted { spec, drained, down, own: own.to_vec(), macs }.table()
}

/// Those of the checked servers that get no clients: they failed, or no check has ended yet.
pub fn down(known: &Known, checks: &CheckTasks) -> Servers {
    // Both in order of names: one walk along the two.
    let mut known = known.iter().peekable();
    let mut up = |check: &&CheckTask| {
        let subject = (&check.service, &check.server);
        let name = |known: &ServerRef| (&known.service, &known.server).cmp(&subject);
        while known.next_if(|(subject, _)| name(subject).is_lt()).is_some() {}
        known.peek().is_some_and(|(subject, health)| {
            name(subject).is_eq() && health.state() == ServerState::Up
        })
    };
    let down = checks.iter().filter(|check| !up(check));
    down.map(CheckTask::subject).collect()
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
        let key = |s: &str| ServerRef::new("web", s);
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
            let key = ServerRef::new("web", "a");
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
        let key = |s: &str| ServerRef::new("web", s);
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
        assert_eq!(CheckTasks::of(&spec).count(), 3);
    }

    #[test]
    fn a_loopback_address_is_each_director_itself() {
        let spec = nines_model::config::parse(
            "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[service.cache]\n\
             listen = \"10.0.0.1:*\"\nmark = 7\ncheck = { port = 80 }\n\
             servers = { a = \"10.0.0.11\", s = { address = \"127.0.0.1\", role = \"sorry\" } }",
        )
        .unwrap();
        let key = ServerRef::new("cache", "a");
        let known = Known::from([(key, Health::Down(0))]);
        let table = table(&spec, &BTreeSet::new(), &known, &[], Vec::new());
        let cache = &table.services["cache"];
        assert_eq!(cache.traffic, nines_model::Traffic::Marked { mark: 7, v6: false });
        assert_eq!(cache.servers["s"].forward, Forward::Local);
        assert_eq!(cache.servers["s"].state, ServerState::Up);
        assert_eq!(table.duty, RealServerRole::default(), "no other director sends packets to it");
        assert_eq!(CheckTasks::of(&spec).count(), 1, "where they go from here is nobody's to ask");
    }

    #[test]
    fn a_table_that_follows_is_the_one_made_anew() {
        let read = |text: &str| Arc::new(nines_model::config::parse(text).unwrap());
        let head = "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\nlb2 = \"10.0.0.3\"\n";
        let service = |n: u8, weight: u8| {
            format!(
                "[service.s{n}]\nlisten = \"10.0.0.100:{n}\"\nservers = {{ a = \"10.0.0.2\",\n\
                 b = {{ address = \"10.0.0.11\", weight = {weight} }} }}\n"
            )
        };
        let spec = |services: &[(u8, u8)]| {
            let services: String =
                services.iter().map(|(n, weight)| service(*n, *weight)).collect();
            read(&format!("{head}{services}"))
        };
        let some = |all: &[(&str, &str)]| -> Servers {
            all.iter().map(|(service, server)| ServerRef::new(*service, *server)).collect()
        };
        let own = |n: u8| vec![IpAddr::from([10, 0, 0, n])];
        let first = spec(&[(1, 1), (2, 1), (3, 1)]);
        let mut following = Following::default();
        let mut wanted = Wanted { spec: first, own: own(2), ..Wanted::default() };
        let mut follow = |wanted: &Wanted| {
            assert_eq!(*following.follow(wanted.clone()), wanted.table());
        };
        follow(&wanted);
        wanted.drained = some(&[("s1", "b"), ("gone", "b")]);
        follow(&wanted);
        (wanted.drained, wanted.down) = (some(&[("s2", "a")]), some(&[("s1", "b"), ("s3", "a")]));
        follow(&wanted);
        (wanted.spec, wanted.down) = (spec(&[(1, 1), (3, 7), (4, 0)]), some(&[("s4", "b")]));
        follow(&wanted);
        wanted.own = own(3);
        follow(&wanted);
        (wanted.spec, wanted.macs) = (Arc::default(), vec![[2; 6]]);
        follow(&wanted);
    }
}
