//! Whether a config fits the cluster and its machines as they are.
//!
//! Decides: what of it is refused, what is warned about, and what clients would lose. The same for
//! `nines plan` and `nines apply`; what the config alone shows is in `nines_model::sanity`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use nines_api::{
    failure::{Failure, Kind},
    types::Placement,
};
use nines_core::{
    Node,
    forwarding::{self, Known},
    wire::Facts,
};
use nines_model::{
    Backend, Forward, NodeName, Role, ServerRef, ServerState, ServiceName, Spec, Time,
    diff::Change, sanity,
};
use nines_planner::{Observed, unfit};

use super::placement::placements;

/// What nodes know about their machines, by name.
pub type Machines = BTreeMap<NodeName, Facts>;

/// A file for another cluster: refused by `config check`, `plan` and `apply` alike.
pub fn other_cluster(own: &str, spec: &Spec) -> Option<Failure> {
    (!own.is_empty() && spec.name != own).then(|| {
        let why =
            format!("the file is for cluster \"{}\", this machine belongs to \"{own}\"", spec.name);
        Failure::new(Kind::Unsafe, "not for this cluster", why)
            .next(format!("apply it on a node of {}, or write name = \"{own}\"", spec.name))
    })
}

/// What the config alone makes impossible.
pub fn senseless(spec: &Spec) -> Vec<Failure> {
    let one = |f: sanity::Finding| Failure::new(Kind::Usage, f.what, "").next(f.next);
    sanity::refused(spec).into_iter().map(one).collect()
}

/// What of the cluster a config is compared with: a copy from the core, so that the comparison runs
/// outside of it.
#[derive(Default)]
pub struct Cluster {
    /// Config in force.
    pub spec: Arc<Spec>,
    /// Revision of the config in force.
    pub revision: u64,
    machines: Machines,
    members: BTreeSet<NodeName>,
    drained: BTreeSet<ServerRef>,
    down: BTreeSet<ServerRef>,
    holders: Vec<(IpAddr, NodeName)>,
    /// Witnesses that float: a config does not name them.
    floating: BTreeSet<NodeName>,
    /// Directors that can take a VIP now.
    fit: BTreeSet<NodeName>,
    /// Nodes and VIPs as the planner sees them.
    observed: Observed,
}

impl Cluster {
    /// As `node` knows it.
    pub fn of(node: &Node, now: Time) -> Self {
        let state = node.state();
        let mut machines = state.members.facts().clone();
        // What this node knows of itself may not be in the log yet.
        machines.extend(node.facts().map(|own| (own.node.as_str().into(), own.clone())));
        let down = node.health().iter().filter(|(_, h)| h.state() == ServerState::Down);
        let observed = node.observed(now);
        let fit = |d: &&NodeName| unfit(&state.spec, &observed, None, d.as_str()).is_none();
        let fit: BTreeSet<NodeName> = state.spec.directors().filter(fit).cloned().collect();
        Self {
            spec: Arc::clone(&state.spec),
            revision: state.revision,
            machines,
            members: state.members.values().map(|m| m.name.as_str().into()).collect(),
            floating: state
                .members
                .values()
                .filter(|m| m.floats)
                .map(|m| m.name.as_str().into())
                .collect(),
            drained: state.drained(),
            down: down.map(|(subject, _)| subject.clone()).collect(),
            holders: state.vips.iter().map(|(vip, h)| (*vip, h.node().clone())).collect(),
            fit,
            observed,
        }
    }

    /// Adds servers that other nodes found to take no clients: a witness checks none itself.
    pub fn told_down(&mut self, down: impl IntoIterator<Item = ServerRef>) {
        self.down.extend(down);
    }

    /// What in a new spec cannot work on the machines as they are.
    pub fn impossible(&self, spec: &Spec) -> Vec<Failure> {
        let machines = &self.machines;
        let mut found: Vec<Failure> = other_cluster(&self.spec.name, spec).into_iter().collect();
        found.extend(senseless(spec));
        found.extend(without_interface(machines, spec));
        if spec.backend == Backend::Ipvs {
            let table = forwarding::table(spec, &BTreeSet::new(), &Known::new(), &[], Vec::new());
            if let Err(why) = nines_dataplane::ipvs::can_hold(&table) {
                let next = why.next.clone().unwrap_or_default();
                found.push(Failure::new(Kind::Usage, why.what, why.why).next(next));
            }
            for director in spec.directors() {
                if machines.get(director).is_some_and(|f| f.no_ipvs) {
                    let what = format!("{director} cannot forward by IPVS");
                    let why = "its kernel has none, nor a module of it";
                    found.push(Failure::new(Kind::Usage, what, why).next(format!(
                        "modprobe ip_vs   on {director}; or in [forwarding]: dataplane = \"ebpf\""
                    )));
                }
            }
        }
        for (vip, wanted) in &spec.vips {
            if wanted.interface.is_some() {
                continue;
            }
            for director in spec.directors() {
                let Some(facts) = machines.get(director) else { continue };
                if !is_near(&subnets(facts), *vip) {
                    let what = format!("{vip} is in no subnet of {director}");
                    let why = format!("it has {}", facts.subnets.join(", "));
                    found.push(Failure::new(Kind::Usage, what, why).next(format!(
                        "name the interface: [vip.{}] address = \"{vip}\" interface = \"eth0\"",
                        spec.vip_name(*vip)
                    )));
                }
            }
        }
        found
    }

    /// Which VIPs the planner would put elsewhere because of a new spec.
    pub fn placements(&self, spec: &Spec) -> Vec<Placement> {
        placements(&self.spec, spec, &self.observed)
    }

    /// What in a new spec is allowed but odd.
    pub fn warnings(&self, spec: &Spec) -> Vec<String> {
        let machines = &self.machines;
        let mut found: Vec<String> = sanity::odd(spec).into_iter().map(|f| f.what).collect();
        found.extend(some_without_interface(machines, spec));
        found.extend(far_servers(machines, spec));
        for name in spec.nodes.keys().filter(|n| !self.members.contains(*n)) {
            found.push(format!(
                "node {name} has not joined yet (nines code prints the join command)"
            ));
        }
        let unnamed = self.members.difference(&self.floating);
        for member in unnamed.filter(|name| !spec.nodes.contains_key(*name)) {
            found.push(format!("member {member} is not in the file: it will carry nothing"));
        }
        let no_device: Vec<&str> =
            spec.directors().map(|n| n.as_str()).filter(|n| !spec.can_fence(n)).collect();
        let pair =
            spec.nodes.len() == 2 && spec.directors().count() == 2 && self.floating.is_empty();
        match no_device.as_slice() {
            [] => {}
            [name] if pair => found.push(format!(
                "no fence device switches {name}: when it dies, the other one has no majority and \
                 stops"
            )),
            _ if pair => found.push(
                "two directors and no witness: when one dies, the other has no majority and stops"
                    .into(),
            ),
            _ => {}
        }
        found
    }

    /// What clients would lose by the state of servers and nodes; the two configs do not show it.
    pub fn losses(&self, spec: &Spec) -> Vec<Change> {
        let mut found = Vec::new();
        let lose = |subject: String, text: String, felt: &str| Change {
            subject,
            sign: '~',
            text,
            felt: felt.into(),
        };
        let takes = |spec: &Spec, name: &ServiceName| {
            spec.services.get(name).is_some_and(|service| {
                service.servers.iter().any(|(server, wanted)| {
                    let key = ServerRef::new(name.clone(), server.clone());
                    wanted.weight > 0 && !self.down.contains(&key) && !self.drained.contains(&key)
                })
            })
        };
        let same = |name: &ServiceName, service| {
            self.spec.services.get(name).is_some_and(|before| Arc::ptr_eq(before, service))
        };
        for (name, service) in spec.services.iter().filter(|(name, s)| !same(name, s)) {
            let told = sanity::unserved(service).is_some();
            if !told && takes(&self.spec, name) && !takes(spec, name) {
                let text =
                    "no server is left that takes new connections: all others are down or drain";
                found.push(lose(format!("service {name}"), text.into(), "clients get no answer"));
            }
        }
        let stays =
            |name: &NodeName| spec.nodes.get(name).is_some_and(|n| n.role == Role::Director);
        let mut left: BTreeMap<&NodeName, Vec<String>> = BTreeMap::new();
        for (vip, holder) in self.holders.iter().filter(|(vip, _)| spec.vips.contains_key(vip)) {
            if !stays(holder) {
                left.entry(holder).or_default().push(spec.vip_name(*vip));
            }
        }
        let heir = spec.directors().any(|d| self.fit.contains(d));
        for (holder, vips) in left.into_iter().filter(|_| !heir) {
            let text =
                format!("it holds {}, and no director is left that could take it", vips.join(", "));
            found.push(lose(format!("node {holder}"), text, "no machine answers for it"));
        }
        found
    }
}

/// The subnets of the machine: its address in each, and the length of the prefix.
fn subnets(facts: &Facts) -> Vec<(IpAddr, u8)> {
    let read = |subnet: &String| {
        let (own, prefix) = subnet.split_once('/')?;
        Some((own.parse().ok()?, prefix.parse().ok()?))
    };
    facts.subnets.iter().filter_map(read).collect()
}

/// Whether an address is in one of these subnets.
fn is_near(subnets: &[(IpAddr, u8)], addr: IpAddr) -> bool {
    subnets.iter().any(|(own, prefix)| nines_dataplane::address::within(addr, *own, *prefix))
}

/// Directors that are known to lack an interface, and whether one is known to have it.
fn lacking<'a>(machines: &Machines, spec: &'a Spec, interface: &str) -> (Vec<&'a str>, bool) {
    let (mut lack, mut some) = (Vec::new(), false);
    for director in spec.directors() {
        let Some(facts) = machines.get(director) else { continue };
        if facts.interfaces.iter().any(|name| name == interface) {
            some = true;
        } else if !facts.interfaces.is_empty() {
            lack.push(director.as_str());
        }
    }
    (lack, some)
}

fn interfaces(spec: &Spec) -> impl Iterator<Item = (IpAddr, &str)> {
    spec.vips.iter().filter_map(|(vip, wanted)| Some((*vip, wanted.interface.as_deref()?)))
}

/// VIPs on an interface that no director has.
fn without_interface(machines: &Machines, spec: &Spec) -> Vec<Failure> {
    let mut found = Vec::new();
    for (vip, interface) in interfaces(spec) {
        let (lack, false) = lacking(machines, spec, interface) else { continue };
        let Some(first) = lack.first() else { continue };
        let there = machines.get(*first).map(|f| f.interfaces.join(", ")).unwrap_or_default();
        let what = format!("no interface {interface} for the VIP {vip}");
        let why = format!("{} has no {interface}; {first} has {there}", lack.join(", "));
        found.push(Failure::new(Kind::Usage, what, why).next(format!(
            "[vip.{}] interface = ...   or remove it: the VIP's subnet then decides",
            spec.vip_name(vip)
        )));
    }
    found
}

fn some_without_interface(machines: &Machines, spec: &Spec) -> Vec<String> {
    let told = |(vip, interface): (IpAddr, &str)| {
        let (lack, some) = lacking(machines, spec, interface);
        let names = lack.join(", ");
        (some && !lack.is_empty())
            .then(|| format!("{names} has no interface {interface}: it cannot take {vip}"))
    };
    interfaces(spec).filter_map(told).collect()
}

/// Servers that direct routing does not reach, because no link leads to them.
fn far_servers(machines: &Machines, spec: &Spec) -> Vec<String> {
    let mut found = Vec::new();
    let own: BTreeSet<IpAddr> = spec.nodes.values().flat_map(|n| n.addresses.clone()).collect();
    let known = |d| machines.get(d).map(|facts| (d, subnets(facts)));
    let directors: Vec<(&NodeName, Vec<(IpAddr, u8)>)> =
        spec.directors().filter_map(known).filter(|(_, subnets)| !subnets.is_empty()).collect();
    for (name, service) in &spec.services {
        for (server, wanted) in &service.servers {
            let (addr, forward) = (wanted.addr.ip(), service.forward_of(wanted));
            if forward != Forward::Dr || own.contains(&addr) {
                continue;
            }
            let far = directors.iter().filter(|(_, subnets)| !is_near(subnets, addr));
            let far: Vec<&str> = far.map(|(director, _)| director.as_str()).collect();
            if !far.is_empty() {
                found.push(format!(
                    "server {name}/{server}: {addr} is in no subnet of {}, and direct routing \
                     needs a link that both share; if a router is between them, write \
                     forward = \"full-nat\" or forward = \"ipip\"",
                    far.join(", ")
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(cards: [&[&str]; 2]) -> Cluster {
        Cluster { machines: machines(cards), ..Cluster::default() }
    }

    fn spec(vip: &str, service: &str) -> Spec {
        let text = format!(
            "[cluster]\nname = \"w\"\n[nodes]\nlb1 = \"10.0.0.2\"\nlb2 = \"10.0.0.3\"\n{vip}\n{service}"
        );
        nines_model::config::parse(&text).unwrap()
    }

    fn machines(cards: [&[&str]; 2]) -> Machines {
        let one = |name: &str, cards: &[&str]| {
            let facts = Facts {
                interfaces: cards.iter().map(|c| (*c).to_owned()).collect(),
                subnets: vec!["10.0.0.2/24".into(), "fd00::2/64".into()],
                ..Facts::default()
            };
            (name.into(), facts)
        };
        [one("lb1", cards[0]), one("lb2", cards[1])].into()
    }

    #[test]
    fn an_interface_that_nobody_has_is_refused_and_one_that_some_lack_is_told() {
        let spec = spec("[vip.v]\naddress = \"10.0.0.100/24\"\ninterface = \"eth9\"", "");
        let none = cluster([&["eth0"], &["eth0", "eth1"]]);
        let found = none.impossible(&spec);
        assert!(found[0].what.contains("no interface eth9"), "{found:?}");
        assert!(found[0].why.contains("lb1, lb2 has no eth9"), "{found:?}");
        let some = cluster([&["eth0", "eth9"], &["eth0"]]);
        assert!(some.impossible(&spec).is_empty());
        let told = some.warnings(&spec).join("\n");
        assert!(told.contains("lb2 has no interface eth9"), "{told}");
        // Nothing is known: nothing is claimed.
        assert!(cluster([&[], &[]]).impossible(&spec).is_empty());
    }

    #[test]
    fn direct_routing_past_a_router_is_told_with_what_helps() {
        let with = |forward: &str, server: &str| {
            let listen = if server.contains(':') { "[fd00::100]:80" } else { "10.0.0.100:80" };
            let service = format!(
                "[service.far]\nlisten = \"{listen}\"\nforward = \"{forward}\"\n\
                 servers = {{ r9 = \"{server}\" }}\n"
            );
            let told = cluster([&[], &[]]).warnings(&spec("", &service));
            told.into_iter().filter(|w| w.contains("r9")).collect::<String>()
        };
        for far in ["10.96.0.9", "fd01::9"] {
            assert!(with("dr", far).contains("full-nat"), "{far}");
            assert_eq!(with("full-nat", far), "");
            assert_eq!(with("ipip", far), "");
        }
        assert_eq!(with("dr", "10.0.0.11"), "");
        assert_eq!(with("dr", "fd00::11"), "");
    }

    #[test]
    fn a_file_of_another_cluster_is_refused() {
        let refused = other_cluster("shop", &spec("", "")).unwrap();
        assert_eq!(refused.kind, Kind::Unsafe);
        assert!(other_cluster("w", &spec("", "")).is_none());
        assert!(other_cluster("", &spec("", "")).is_none());
    }
}
