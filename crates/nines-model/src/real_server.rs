//! What a machine must have to be a real server.
//!
//! Decides: which ways to a server need something of it.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    forward::{Forward, TunnelKind},
    spec::Spec,
};

/// What the real server at some addresses must have, so that packets by direct routing and tunnels
/// are its own; NAT needs nothing of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RealServerRole {
    /// On `lo`, ARP quiet about them.
    pub vips: BTreeSet<IpAddr>,
    /// Packets come in tunnels: UDP ports of GUE, and 0 for the other kinds.
    pub tunnels: BTreeSet<u16>,
}

impl RealServerRole {
    /// What of this another one does not ask for.
    pub fn beyond(&self, other: &Self) -> Self {
        Self {
            vips: self.vips.difference(&other.vips).copied().collect(),
            tunnels: self.tunnels.difference(&other.tunnels).copied().collect(),
        }
    }

    /// By the config, of the machine that has the addresses `here`.
    pub fn of(spec: &Spec, here: &BTreeSet<IpAddr>) -> Self {
        let mut duty = Self::default();
        for service in spec.services.values() {
            let addrs = service.servers.values().filter(|s| !s.addr.ip().is_loopback());
            for server in addrs.filter(|s| here.contains(&s.addr.ip())) {
                let forward = server.forward.unwrap_or(service.forward);
                match forward {
                    Forward::Nat | Forward::FullNat => continue,
                    // From another director by direct routing.
                    Forward::Dr | Forward::Local => {}
                    Forward::Tunnel(tunnel) => {
                        let gue = tunnel.kind == TunnelKind::Gue;
                        duty.tunnels.insert(if gue { tunnel.port } else { 0 });
                    }
                }
                duty.vips.extend(service.listen.vips());
            }
        }
        duty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_has_the_vips_whose_packets_come_unchanged() {
        let spec = crate::config::parse(
            "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\n\
             [service.web]\nlisten = \"10.0.0.100:80\"\n\
             servers = { r1 = \"10.0.0.11\", \
                         r2 = { address = \"10.0.0.12:8080\", forward = \"nat\" }, \
                         far = { address = \"10.9.0.13\", forward = \"gue\" } }\n\
             tunnel-port = 6_666\n\
             [service.net]\nlisten = \"10.0.0.64/31:443\"\nforward = \"ipip\"\n\
             servers = { r1 = \"10.0.0.11\" }\n",
        )
        .unwrap();
        let of = |here: &[&str]| {
            let duty =
                RealServerRole::of(&spec, &here.iter().map(|a| a.parse().unwrap()).collect());
            let vips: Vec<String> = duty.vips.iter().map(ToString::to_string).collect();
            (vips, duty.tunnels.into_iter().collect::<Vec<_>>())
        };
        let all = ["10.0.0.64", "10.0.0.65", "10.0.0.100"].map(str::to_owned).to_vec();
        assert_eq!(of(&["127.0.0.1", "10.0.0.11"]), (all, vec![0]));
        assert_eq!(of(&["10.0.0.12"]), (vec![], vec![]), "NAT needs nothing");
        assert_eq!(of(&["10.9.0.13"]), (vec!["10.0.0.100".to_owned()], vec![6_666]));
        assert_eq!(of(&["10.0.0.99"]), (vec![], vec![]));
    }
}
