//! What an act would do: refused or harmful.

use nines_core::Node;
use nines_model::{Role, ServerState, Time};

use super::member_alive;
use crate::failure::{Failure, Kind};

/// Why a node cannot take a VIP now; `None`: it can.
pub fn cannot_take(node: &Node, now: Time, name: &str) -> Option<Failure> {
    let state = node.state();
    let refuse =
        |kind, why: String| Some(Failure::new(kind, format!("{name} cannot take it"), why));
    match state.spec.nodes.get(name) {
        None => {
            let known = state.spec.nodes.keys().map(String::as_str);
            let meant = nines_model::suggest::closest(name, known);
            let failure = Failure::new(Kind::NotFound, format!("there is no node {name}"), "");
            return Some(failure.next(
                meant.map_or("nines status   lists them".into(), |m| format!("did you mean {m}?")),
            ));
        }
        Some(n) if n.role == Role::Witness => {
            return refuse(Kind::Usage, "it is a witness".into())
                .map(|f| f.next("nines status   shows which nodes are directors"));
        }
        Some(_) => {}
    }
    if state.standbys.contains_key(name) {
        return refuse(Kind::Unsafe, "it is on standby".into())
            .map(|f| f.next(format!("nines ready {name}")));
    }
    let Some(member) = state.member(name) else {
        return refuse(Kind::Unsafe, "it has not joined".into()).map(|f| f.next("nines code"));
    };
    if !member_alive(node, now, member.id) {
        return refuse(Kind::Unsafe, "it is silent".into())
            .map(|f| f.next(format!("nines why {name}")));
    }
    let ready = match node.membership().peer(member.id) {
        Some(peer) => peer.beat.ready,
        None => node.is_ready(),
    };
    if !ready {
        return refuse(Kind::Unsafe, "its forwarding table is not in place".into())
            .map(|f| f.next("nines status   says why"));
    }
    None
}

/// A safety rule that an act would break.
pub struct Harm {
    /// Its name, for `--force=`.
    pub rule: &'static str,
    /// What would happen.
    pub why: String,
}

/// What an act would harm.
pub fn harm(node: &Node, now: Time, verb: &str, subjects: &[String]) -> Option<Harm> {
    let state = node.state();
    match verb {
        "drain" => {
            let mut drained = state.drained();
            for subject in subjects {
                drained.extend(state.spec.find_servers(subject));
            }
            let last = state.spec.services.iter().find(|(name, service)| {
                let takes = |(server, wanted): (&String, &nines_model::ServerSpec)| {
                    let key = ((*name).clone(), server.clone());
                    let down =
                        node.health().get(&key).is_some_and(|h| h.state() == ServerState::Down);
                    !drained.contains(&key) && !down && !wanted.sorry && wanted.weight > 0
                };
                let touched = subjects.iter().any(|s| {
                    state.spec.find_servers(s).iter().any(|(service, _)| service == *name)
                });
                touched && !service.servers.iter().any(takes)
            });
            last.map(|(name, _)| Harm {
                rule: "last-server",
                why: format!("no server would take new connections of {name}"),
            })
        }
        "standby" => {
            let leaves = |name: &str| subjects.iter().any(|s| s == name);
            let others =
                state.spec.directors().any(|d| !leaves(d) && cannot_take(node, now, d).is_none());
            let holds = state.vips.values().any(|h| leaves(h.node()));
            (holds && !others).then(|| Harm {
                rule: "last-director",
                why: "no other director could take its VIPs; they would stay where they are".into(),
            })
        }
        _ => None,
    }
}
