//! Nodes that take no part: those that wait for the log, and those that have lost it.
//!
//! Decides: the word for such a node, what it waits for or why it votes no more, and the next step.

use nines_core::{Node, wire::Awaits};
use nines_model::{Role, Time};

use super::super::types::NodeStatus;
use crate::daemon::{Shown, role_word};

/// It waits for the log, or for its vote.
pub const JOINING: &str = "joining";
/// It has less on disk than others count on, or cannot write.
pub const NO_VOTE: &str = "no vote";

/// Why a node takes no part, in words.
pub struct Outside {
    /// [`JOINING`] or [`NO_VOTE`].
    pub word: &'static str,
    /// What it waits for, or why it votes no more.
    pub why: String,
    /// What a person can do.
    pub next: String,
}

/// `None`: it takes part, or is silent.
pub fn outside(node: &Node, now: Time, id: u64, name: &str) -> Option<Outside> {
    let me = id == node.config().id;
    let peer = node.membership().peer(id);
    let speaks = me || node.membership().speaks(now, id, node.state().spec.timing.lease);
    if let Some(why) = node.broken_of(id).filter(|_| speaks) {
        let next = if node.is_outdated(id) {
            format!("install the newest nines on {name}, then on it: systemctl restart nines")
        } else if node.is_retired_of(id) {
            Node::rebuild(name)
        } else {
            format!("free the disk of {name}, then on it: systemctl restart nines")
        };
        return Some(Outside { word: NO_VOTE, why: format!("votes no more: {why}"), next });
    }
    if node.consensus().voters().contains(&id) {
        return None;
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
    Some(Outside { word: JOINING, why, next })
}

/// This node's own line while no log names it.
pub fn newcomer(node: &Node, now: Time, shown: &Shown) -> Option<NodeStatus> {
    let config = node.config();
    if node.state().members.contains_key(&config.id) {
        return None;
    }
    let outside = outside(node, now, config.id, &config.name)?;
    let role = if shown.witness { Role::Witness } else { Role::Director };
    Some(NodeStatus {
        id: config.id,
        name: config.name.clone(),
        role: role_word(role).into(),
        state: outside.word.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        path: shown.path.clone(),
        trouble: outside.why,
        next: outside.next,
        ..NodeStatus::default()
    })
}
