//! Services and their servers, as status shows them.
//!
//! Decides: their words. The core gives away what they follow from, and nothing is put into words
//! there: a hundred thousand servers take a tenth of a second.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use nines_api::{
    states::ServerState,
    types::{ServerStatus, ServiceStatus, Status, Traffic, VipStatus},
};
use nines_core::state::{Set, State};
use nines_model::{NodeName, ServerRef, Spec};

use super::set_text;

/// What services and servers are shown by.
pub struct Services {
    spec: Arc<Spec>,
    drains: BTreeMap<ServerRef, Set>,
    /// Nodes that hold VIPs.
    holders: BTreeMap<IpAddr, NodeName>,
}

impl Services {
    /// By this state.
    pub fn of(state: &State) -> Self {
        let holders = state.vips.iter().map(|(vip, held)| (*vip, held.node().clone()));
        Self {
            spec: Arc::clone(&state.spec),
            drains: state.admin.drains().clone(),
            holders: holders.collect(),
        }
    }

    /// Adds them to a status that knows its VIPs.
    pub fn fill(&self, status: &mut Status) {
        status.services = self.all();
        spare_of_services(status);
    }

    fn all(&self) -> Vec<ServiceStatus> {
        let mut all = Vec::new();
        for (name, service) in &self.spec.services {
            let servers = service.servers.iter().map(|(server, wanted)| {
                let drain = self.drains.get(&ServerRef::new(name.clone(), server.clone()));
                ServerStatus {
                    name: server.to_string(),
                    address: wanted.addr.to_string(),
                    state: match drain {
                        Some(_) => ServerState::Draining,
                        None if service.is_checked(wanted) => ServerState::Unknown,
                        None => ServerState::Up,
                    }
                    .into(),
                    sorry: wanted.sorry,
                    weight: wanted.weight,
                    drain: drain.map_or_else(String::new, set_text),
                    traffic: Traffic::default(),
                }
            });
            let holders = service.listen.vips().filter_map(|vip| self.holders.get(&vip));
            let holders: BTreeSet<&str> = holders.map(NodeName::as_str).collect();
            let check = match &service.check.kind {
                nines_model::CheckKind::None => "none".into(),
                nines_model::CheckKind::Tcp => format!("tcp {}", service.check.every),
                nines_model::CheckKind::Udp => format!("udp {}", service.check.every),
                nines_model::CheckKind::Http { tls, path, .. } => {
                    format!(
                        "{} {path} {}",
                        if *tls { "https" } else { "http" },
                        service.check.every
                    )
                }
            };
            all.push(ServiceStatus {
                name: name.to_string(),
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
}

/// A service has a spare if each of its VIPs has one.
fn spare_of_services(status: &mut Status) {
    let vips: BTreeMap<&str, &VipStatus> =
        status.vips.iter().map(|vip| (vip.address.as_str(), vip)).collect();
    for service in &mut status.services {
        let own = || service.vips.iter().filter_map(|vip| vips.get(vip.as_str()));
        if own().all(|vip| !vip.spare.is_empty()) {
            let all: BTreeSet<&String> = own().flat_map(|vip| &vip.spare).collect();
            service.spare = all.into_iter().cloned().collect();
        }
    }
}
