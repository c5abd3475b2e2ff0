//! What an act would do: refused or harmful.
//!
//! Decides: how the planner's refusals are told to people, and which acts need `--force`. Whether
//! clients are served is the verdict's to say.

use std::{collections::BTreeSet, net::IpAddr};

use nines_api::{
    failure::{Failure, Kind},
    states::NodeState,
    types::Status,
};
use nines_core::{Node, wire::Member};
use nines_model::{NodeName, SafetyRule, ServerRef, Time, Unfit};
use nines_planner::{Observed, unfit};

use super::{member_alive, outside};
use crate::http::verdict::may_take;

/// Why a node cannot take this VIP now, or any at all; `None`: it can.
pub fn cannot_take(node: &Node, now: Time, vip: Option<IpAddr>, name: &str) -> Option<Failure> {
    cannot_take_of(node, now, &node.observed(now), vip, name)
}

/// The same, where more than one is asked for: `observed` is what `node` sees at `now`.
pub fn cannot_take_of(
    node: &Node,
    now: Time,
    observed: &Observed,
    vip: Option<IpAddr>,
    name: &str,
) -> Option<Failure> {
    let state = node.state();
    // An operator's move goes before a quarantine.
    let why = unfit(&state.spec, observed, vip, name).filter(|why| *why != Unfit::Quarantined)?;
    let look = format!("nines why {name}");
    if why == Unfit::NotInConfig {
        let known = state.spec.nodes.keys().map(NodeName::as_str);
        let meant = nines_model::suggest::closest(name, known);
        let next =
            meant.map_or("nines status   lists them".into(), |m| format!("did you mean {m}?"));
        return Some(Failure::new(Kind::NotFound, format!("unknown node {name}"), "").next(next));
    }
    let outside = state.member(name).and_then(|m| outside::outside(node, now, m.id(), name));
    let (kind, why, next) = match (why, outside) {
        (Unfit::Joining | Unfit::NoVote, Some(outside)) => {
            let joining = if outside.state == NodeState::Joining { "is joining: it " } else { "" };
            (Kind::Unsafe, format!("it {joining}{}", outside.why), outside.next)
        }
        (why @ Unfit::Witness, _) => {
            let next = "nines status   shows which nodes are directors";
            (Kind::Usage, format!("it {why}"), next.into())
        }
        (why @ Unfit::NotJoined, _) => {
            (Kind::Unsafe, format!("it {why}"), "nines code   prints the join command".into())
        }
        (why @ Unfit::Standby, _) => {
            (Kind::Unsafe, format!("it {why}"), format!("nines ready {name}"))
        }
        (why @ (Unfit::Failed | Unfit::CannotServe(_)), _) => {
            (Kind::Unsafe, format!("{name} {why}"), look)
        }
        (Unfit::NotReady, _) => {
            let why = "its forwarding table is not in place".to_owned();
            (Kind::Unsafe, why, "nines status   says why".into())
        }
        (why, _) => (Kind::Unsafe, format!("it {why}"), look),
    };
    Some(Failure::new(kind, format!("{name} cannot take it"), why).next(next))
}

/// A safety rule that an act would break.
pub struct Harm {
    /// Its name, for `--force=`.
    pub rule: SafetyRule,
    /// What would happen.
    pub why: String,
}

/// What `nines drain` of these servers would harm, by what all nodes told of them.
pub fn harm_of_drain(status: &Status, drained: &BTreeSet<ServerRef>) -> Option<Harm> {
    let is_drained =
        |service: &str, server: &str| drained.contains(&ServerRef::new(service, server));
    let last = status.services.iter().find(|service| {
        let touched = service.servers.iter().any(|s| is_drained(&service.name, &s.name));
        let left = || service.servers.iter().filter(|s| !is_drained(&service.name, &s.name));
        touched && !left().any(|server| !server.sorry && may_take(server))
    });
    last.map(|service| Harm {
        rule: SafetyRule::LastServer,
        why: format!("no server would take new connections of {}", service.name),
    })
}

/// What `nines standby` of these nodes would harm.
pub fn harm_of_standby(node: &Node, now: Time, nodes: &[String]) -> Option<Harm> {
    let (state, observed) = (node.state(), node.observed(now));
    let leaves = |name: &str| nodes.iter().any(|s| s == name);
    let others = state.spec.directors().any(|director| {
        let director = director.as_str();
        !leaves(director) && unfit(&state.spec, &observed, None, director).is_none()
    });
    let holds = state.vips.values().any(|h| leaves(h.node().as_str()));
    (holds && !others).then(|| Harm {
        rule: SafetyRule::LastDirector,
        why: "no other director could take its VIPs; they would stay where they are".into(),
    })
}

/// What the removal of these members would harm. What a dead one held comes up nowhere by its
/// staying.
pub fn harm_of_removal(node: &Node, now: Time, members: &[String]) -> Option<Harm> {
    let lives = |name: &&String| {
        let id = node.state().member(name).map(Member::id);
        id.is_some_and(|id| member_alive(node, now, id))
    };
    let living: Vec<String> = members.iter().filter(lives).cloned().collect();
    harm_of_standby(node, now, &living)
}

#[cfg(test)]
mod tests {
    use nines_api::{
        states::ServerState::{self, Down, Draining, Unknown, Unusable, Up},
        types::{ServerStatus, ServiceStatus},
    };

    use super::*;

    #[test]
    fn the_last_server_is_judged_by_what_all_nodes_told() {
        let harm = |states: [ServerState; 2], weights: [u32; 2]| {
            let server = |i: usize| ServerStatus {
                name: format!("r{i}"),
                state: states[i].into(),
                weight: weights[i],
                ..ServerStatus::default()
            };
            let web = ServiceStatus {
                name: "web".into(),
                servers: vec![server(0), server(1)],
                ..ServiceStatus::default()
            };
            let status = Status { services: vec![web], ..Status::default() };
            let r0 = [ServerRef::new("web", "r0")].into();
            harm_of_drain(&status, &r0).map(|harm| harm.rule)
        };
        assert_eq!(harm([Up, Up], [1, 1]), None);
        // A witness checks nothing: as long as nobody told it, a server is not held to be down.
        assert_eq!(harm([Up, Unknown], [1, 1]), None);
        for other in [Down, Draining, Unusable] {
            assert_eq!(harm([Up, other], [1, 1]), Some(SafetyRule::LastServer), "{other}");
        }
        assert_eq!(harm([Up, Up], [1, 0]), Some(SafetyRule::LastServer), "a weight of 0");
    }
}
