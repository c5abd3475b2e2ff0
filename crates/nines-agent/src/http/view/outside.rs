//! Nodes that take no part: those that wait for the log, and those that have lost it.
//!
//! Decides: the state of such a node, what it waits for or why it votes no more, and the next step.

use nines_api::{states::NodeState, text, types::NodeStatus};
use nines_core::{Node, event_log::EventKind, wire::Awaits};
use nines_model::{NodeId, Role, Time};

use crate::own_status::OwnStatus;

/// Why a node takes no part, in words.
pub struct Outside {
    /// [`NodeState::Joining`], [`NodeState::NoVote`] or [`NodeState::Removed`].
    pub state: NodeState,
    /// What it waits for, or why it votes no more.
    pub why: String,
    /// What a person can do.
    pub next: String,
}

/// `None`: it takes part, or is silent.
pub fn outside(node: &Node, now: Time, id: NodeId, name: &str) -> Option<Outside> {
    let me = id == node.config().id;
    let peer = node.membership().peer(id);
    let speaks = me || node.membership().speaks(now, id, node.state().spec.timing.lease);
    if me && node.is_removed() {
        return Some(Outside {
            state: NodeState::Removed,
            why: "was removed from the cluster".into(),
            next: Node::join_again(name),
        });
    }
    if let Some(why) = node.broken_of(id).filter(|_| speaks) {
        let next = if node.is_outdated(id) {
            format!("install the newest nines on {name}, then on it: systemctl restart nines")
        } else if node.begins_anew(now, id) {
            format!("wait: the others take its vote away, and it begins anew; nines events {name}")
        } else if node.is_retired_of(id) || node.has_other_config(id) {
            Node::rebuild(name)
        } else if node.has_full_disk(id) {
            format!("make room on the disk of {name}; it goes on by itself then")
        } else {
            format!("see what its kernel says: dmesg on {name}; then: systemctl restart nines")
        };
        return Some(Outside {
            state: NodeState::NoVote,
            why: format!("votes no more: {why}"),
            next,
        });
    }
    if node.consensus().voters().contains(&id) || node.carries_without_vote(id) {
        return None;
    }
    if !speaks && peer.is_none_or(|peer| peer.at == Time(0)) {
        return Some(never_heard(node, now, name));
    }
    let awaits = match peer {
        _ if me => node.awaits(now),
        Some(peer) => peer.beat.awaits(),
        None => Awaits::Nothing,
    };
    let look = || format!("wait; if it stays: nines why {name}");
    let (why, next) = match awaits {
        _ if !speaks => (
            "waits for its agent, which is not heard",
            format!("on {name}: systemctl start nines; then see that UDP reaches it"),
        ),
        // It has said nothing yet.
        Awaits::Nothing => ("waits for its vote", look()),
        Awaits::Vote | Awaits::Newest => (awaits.words(), look()),
        Awaits::Member => (awaits.words(), "see that UDP reaches the other nodes".into()),
        Awaits::Log => {
            let next = format!("see that TCP reaches {name}: journalctl -u nines on the leader");
            (awaits.words(), next)
        }
    };
    let why = why.to_owned();
    Some(Outside { state: NodeState::Joining, why, next })
}

/// A member by the log that no heartbeat ever came from: perhaps its join was broken off. It has no
/// vote, so nothing waits for it.
fn never_heard(node: &Node, now: Time, name: &str) -> Outside {
    let joined = node.state().story.newest(&[EventKind::Join], name);
    let ago = joined.map(|event| node.wall_ms(now).saturating_sub(event.at_ms) / 1_000);
    let why = match ago {
        Some(s) => format!("was let in {} ago and has not been heard yet", text::ago(s)),
        None => "was let in and has not been heard yet".into(),
    };
    let next = format!(
        "on {name}: systemctl start nines, or join it again with a new code; to take the join \
         back: nines node remove {name}"
    );
    Outside { state: NodeState::Joining, why, next }
}

/// This node's own line while no log names it.
pub fn newcomer(node: &Node, now: Time, shown: &OwnStatus) -> Option<NodeStatus> {
    let config = node.config();
    if node.state().members.contains_key(&config.id) {
        return None;
    }
    let outside = outside(node, now, config.id, config.name.as_str())?;
    let role = if shown.witness { Role::Witness } else { Role::Director };
    Some(NodeStatus {
        id: config.id.number(),
        name: config.name.to_string(),
        role: role.into(),
        state: outside.state.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        path: shown.path.clone(),
        trouble: outside.why,
        next: outside.next,
        ..NodeStatus::default()
    })
}
