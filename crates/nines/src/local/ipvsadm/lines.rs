//! What lines do to a table, in memory; one write then carries many of them out.
//!
//! Decides: IPVS's order of servers (the newest first) and its refusals.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use nines_dataplane::{address, ebpf::readback};
use nines_model::{
    Forward, ForwardingTable, ServerName, ServerState, ServiceName, TableServer, TableService,
    Traffic,
};

use super::{
    commands::Command,
    grammar::{Ask, Refused},
    kernel_says,
};

/// A table that lines change.
pub struct Lines {
    table: ForwardingTable,
    /// Names of services by what they take.
    names: BTreeMap<Traffic, ServiceName>,
    /// Addresses of this machine, asked when the first server needs them.
    own: Option<BTreeSet<IpAddr>>,
    /// Marked packets may have to be led another way.
    pub marks: bool,
}

impl Lines {
    /// On top of this.
    pub fn new(table: ForwardingTable) -> Self {
        let names = table.services.iter().map(|(name, s)| (s.traffic, name.clone())).collect();
        Self { table, names, own: None, marks: false }
    }

    /// As it is after the lines so far.
    pub fn table(&self) -> &ForwardingTable {
        &self.table
    }

    /// Carries out a line.
    pub fn change(&mut self, ask: &Ask) -> Result<(), Refused> {
        let table = &mut self.table;
        self.marks |= matches!(ask.traffic, None | Some(Traffic::Marked { .. }));
        if ask.command == Command::Flush {
            table.services.clear();
            self.names.clear();
            return Ok(());
        }
        let Some(traffic) = ask.traffic else { return kernel_says("Service not defined") };
        let name = self.names.get(&traffic);
        match ask.command {
            Command::Add if name.is_some() => kernel_says("Service already exists"),
            Command::Add | Command::Edit if ask.unknown_name => {
                kernel_says("Scheduler or persistence engine not found")
            }
            Command::Add => {
                let name = ServiceName::from(format!("{traffic:?}"));
                table.services.insert(name.clone(), service(ask, traffic));
                self.names.insert(traffic, name);
                Ok(())
            }
            Command::Edit | Command::Delete if name.is_none() => kernel_says("No such service"),
            Command::Edit => {
                if let Some(old) = name.and_then(|name| table.services.get_mut(name)) {
                    let servers = std::mem::take(&mut old.servers);
                    *old = TableService { servers, ..service(ask, traffic) };
                }
                Ok(())
            }
            Command::Delete => {
                if let Some(name) = self.names.remove(&traffic) {
                    table.services.remove(&name);
                }
                Ok(())
            }
            _ => match name.and_then(|name| table.services.get_mut(name)) {
                Some(service) => change_server(service, ask, &mut self.own),
                None => kernel_says("Service not defined"),
            },
        }
    }
}

/// A service as a line asks for it, without servers.
pub fn service(ask: &Ask, traffic: Traffic) -> TableService {
    TableService {
        flags: ask.flags,
        one_packet: ask.one_packet,
        sip: ask.sip,
        persist: ask.persist,
        ..TableService::new(traffic, ask.scheduler)
    }
}

fn change_server(
    service: &mut TableService,
    ask: &Ask,
    own: &mut Option<BTreeSet<IpAddr>>,
) -> Result<(), Refused> {
    let Some(addr) = ask.server else { return kernel_says("No such destination") };
    let name = service.servers.iter().find(|(_, s)| s.addr == addr).map(|(n, _)| n.clone());
    let server = TableServer {
        weight: ask.weight,
        state: ServerState::Up,
        limit: ask.limit,
        ..TableServer::new(addr, forward(ask.forward, addr, service.traffic, own))
    };
    match (ask.command, name) {
        (Command::AddServer, Some(_)) => kernel_says("Destination already exists"),
        (Command::AddServer, None) => {
            // The newest goes first.
            let old = std::mem::take(&mut service.servers);
            let all = std::iter::once(server).chain(old.into_values());
            service.servers = (0..).map(readback::place_name).zip(all).collect();
            Ok(())
        }
        (_, None) => kernel_says("No such destination"),
        (Command::EditServer, Some(name)) => {
            // What its tool has no words for stays.
            let old = &service.servers[&name];
            let (proxy, quic_id) = (old.proxy && old.forward == server.forward, old.quic_id);
            service.servers.insert(name, TableServer { proxy, quic_id, ..server });
            Ok(())
        }
        (_, Some(name)) => {
            service.servers.remove(&name);
            let left: BTreeMap<ServerName, TableServer> = (0..)
                .map(readback::place_name)
                .zip(std::mem::take(&mut service.servers).into_values())
                .collect();
            service.servers = left;
            Ok(())
        }
    }
}

/// A server on this very machine is reached by its own stack, whatever was asked (IPVS: Local).
fn forward(
    asked: Forward,
    addr: SocketAddr,
    traffic: Traffic,
    own: &mut Option<BTreeSet<IpAddr>>,
) -> Forward {
    let own = own.get_or_insert_with(|| {
        let all = address::interfaces().unwrap_or_default();
        all.iter().flat_map(|i| &i.addresses).map(|(addr, _)| *addr).collect()
    });
    let same_port = match traffic {
        Traffic::To(listen) => listen.addr.port() == addr.port() && listen.is_one(),
        Traffic::Marked { .. } => true,
    };
    if own.contains(&addr.ip()) && same_port { Forward::Local } else { asked }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::ipvsadm::grammar;

    #[test]
    fn lines_before_a_refused_one_stay() {
        let mut lines = Lines::new(ForwardingTable::default());
        let mut say = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            lines.change(&grammar::read(&words).unwrap()).map_err(|(why, _)| why)
        };
        for port in 1..=3_000 {
            assert_eq!(say(&format!("-A -t 198.51.100.1:{port} -s rr")), Ok(()));
            let server = format!("-a -t 198.51.100.1:{port} -r 203.0.113.1:80 -m");
            assert_eq!(say(&server), Ok(()));
        }
        assert_eq!(say("-A -t [2001:db8::1]:80 -s wlc"), Ok(()));
        assert_eq!(say("-A -t 198.51.100.1:7 -s rr"), Err("Service already exists".into()));
        let unknown = say("-a -t 198.51.100.2:7 -r 203.0.113.1:80 -m");
        assert_eq!(unknown, Err("Service not defined".into()));
        let again = say("-a -t 198.51.100.1:7 -r 203.0.113.1:80 -m");
        assert_eq!(again, Err("Destination already exists".into()));
        assert_eq!(say("-a -t 198.51.100.1:7 -r 203.0.113.2:80 -m"), Ok(()));
        assert_eq!(say("-D -t 198.51.100.1:8"), Ok(()));
        assert_eq!(say("-D -t 198.51.100.1:8"), Err("No such service".into()));
        assert_eq!(lines.table().services.len(), 3_000);
        let seven = lines.table().services.values().find(|s| s.traffic.one_port() == Some(7));
        let order = seven.unwrap().servers.values().map(|s| s.addr.ip().to_string());
        assert_eq!(order.collect::<Vec<_>>(), ["203.0.113.2", "203.0.113.1"]);
    }
}
