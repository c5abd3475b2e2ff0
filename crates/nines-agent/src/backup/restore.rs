//! A cluster formed anew from a backup, as its next generation.
//!
//! Decides: with what it begins. This node is its only member; the others join again. All keys are
//! new, so nodes of the generation before are strangers: nothing that they say is believed, and
//! nothing that this one says is by them.

use std::net::IpAddr;

use nines_api::failure::{Failure, Kind, Outcome};
use nines_core::{
    event_log::EventKind,
    snapshot,
    state::State,
    wire::{HardState, LogEvent, Persisted, Snapshot},
};
use nines_model::{Codes as _, NodeName, Role};

use super::Backup;
use crate::identity::{self, Credentials, PORT, Peer};

/// Who begins, and why.
pub struct Anew<'a> {
    /// Name of the first node, as the config of the backup has it.
    pub node: &'a str,
    /// Addresses of this machine; what the config says of the node must be among them.
    pub here: &'a [IpAddr],
    /// Port for heartbeats and TLS; `None`: as the backup has it.
    pub port: Option<u16>,
    /// Reason in the operator's words.
    pub reason: &'a str,
    /// Operator, for the event log.
    pub actor: &'a str,
    /// Wall clock, ms since 1970.
    pub at_ms: u64,
}

/// The credentials of the first node, and the log that it begins with.
pub fn begin_anew(
    (file, backup): (&str, &Backup),
    anew: &Anew<'_>,
) -> Outcome<(Credentials, Persisted)> {
    let state = backup.state(file)?;
    let me = peer(&state, anew)?;
    let generation = backup.generation.max(1) + 1;
    let Anew { reason, actor, at_ms, .. } = anew;
    let told = LogEvent {
        at_ms: *at_ms,
        node: me.name.clone(),
        kind: EventKind::NewGeneration.code().into(),
        subject: state.spec.name.clone(),
        text: format!(
            "generation {generation} of {} begins on {} with the backup of {} at log index {}: \
             {reason}",
            state.spec.name, me.name, backup.node, backup.index
        ),
        actor: (*actor).to_owned(),
        cause: String::new(),
    };
    let witness = state.spec.nodes[me.name.as_str()].role == Role::Witness;
    let credentials = identity::found_generation(&state.spec.name, generation, me, witness)?;
    let member = identity::member(&credentials.identity.me, witness);
    let begun = state.begun_anew(member, told);
    let (index, term) = (begun.applied.number(), backup.term + 1);
    let (id, data) = (credentials.identity.me.id, snapshot::encode(&begun));
    let kept = Persisted {
        hard_state: HardState { term, vote: 0, commit: index },
        snapshot: Snapshot { index, term, voters: vec![id], learners: Vec::new(), data },
        ..Persisted::default()
    };
    Ok((credentials, kept))
}

/// The first node as the config has it.
fn peer(state: &State, anew: &Anew<'_>) -> Outcome<Peer> {
    let Anew { node, here, port, .. } = anew;
    let spec = &state.spec;
    let Some(found) = spec.nodes.get(*node) else {
        let names = spec.nodes.keys().map(NodeName::to_string).collect::<Vec<_>>().join(", ");
        let what = format!("{node} is no node of {}", spec.name);
        return Err(Failure::new(Kind::NotFound, what, format!("its config has {names}"))
            .next("name the node that this machine is: --node NAME"));
    };
    if let Some(missing) = found.addresses.iter().find(|address| !here.contains(address)) {
        let what = format!("{missing} is on no interface of this machine");
        return Err(Failure::new(Kind::Usage, what, format!("the config has {node} there"))
            .next("give this machine the address, or name another node: --node NAME"));
    }
    let old = state.member(node).and_then(|member| u16::try_from(member.port).ok());
    Ok(Peer {
        // Nobody has ever had it.
        id: state.members.highest().number() + 1,
        name: (*node).to_owned(),
        addresses: found.addresses.clone(),
        port: port.or(old).unwrap_or(PORT),
        floats: false,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nines_core::{Config, Node};
    use nines_model::{Incarnation, NodeId, Time};

    use super::*;
    use crate::identity::{bootstrap, der, fingerprint};

    const TEXT: &str =
        "[cluster]\nname = \"shop\"\n[nodes]\nlb1 = \"10.0.0.2\"\nlb2 = \"10.0.0.3\"\n";

    fn of_two() -> (Vec<Credentials>, Backup) {
        let spec = nines_model::config::parse(TEXT).unwrap();
        let (credentials, kept) = bootstrap(TEXT, &spec, 9_200).unwrap();
        let state = kept.snapshot.data;
        let backup =
            Backup { cluster: "shop".into(), index: 1, term: 4, state, ..Backup::default() };
        (credentials, backup)
    }

    fn anew<'a>(node: &'a str, here: &'a [IpAddr]) -> Anew<'a> {
        Anew { node, here, port: None, reason: "fire", actor: "alice@lb2", at_ms: 5 }
    }

    #[test]
    fn the_first_node_of_a_generation_is_alone_with_new_keys_and_leads() {
        let (old, backup) = of_two();
        let here = ["10.0.0.3".parse().unwrap()];
        let (credentials, kept) = begin_anew(("f", &backup), &anew("lb2", &here)).unwrap();
        let me = &credentials.identity;
        assert_eq!((me.generation, me.me.id, me.me.port), (2, 3, 9_200));
        assert!(me.founding && me.peers == [me.me.clone()]);
        assert_ne!(me.beat_key, old[1].identity.beat_key);
        assert_ne!(
            fingerprint(&der(credentials.keys().ca_pem())),
            fingerprint(&der(old[1].keys().ca_pem()))
        );
        let config = Config {
            id: NodeId(me.me.id),
            name: "lb2".into(),
            boot: Incarnation(9),
            machine_boot: 1,
            place: 1,
            seeds: Vec::new(),
        };
        let node = Node::new(config, Time(1_000_000_000), &kept);
        assert!(node.broken().is_none());
        assert_eq!(node.state().text, Arc::from(TEXT));
        assert_eq!(node.consensus().voters(), [NodeId(3)]);
        let told = node.state().story.iter().next_back().unwrap();
        assert!(
            told.text.contains("generation 2 of shop begins on lb2") && told.text.ends_with("fire")
        );
    }

    #[test]
    fn a_machine_that_is_no_node_of_the_config_begins_nothing() {
        let (_, backup) = of_two();
        let here = ["10.0.0.3".parse().unwrap()];
        let refused = |node| begin_anew(("f", &backup), &anew(node, &here)).err().unwrap();
        assert_eq!(refused("lb3").kind, Kind::NotFound);
        assert!(refused("lb1").what.contains("10.0.0.2 is on no interface"));
        let unread = Backup { state: b"\xff\xff".to_vec(), ..backup.clone() };
        assert!(begin_anew(("f", &unread), &anew("lb2", &here)).is_err());
    }
}
