//! Members that were removed: whom the log names no more is not heard.
//!
//! Decides: when a line ends whose other end has left. New lines ask the log (`speaker`); those
//! that are open are ended by what is looked at here.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use nines_core::Node;
use nines_model::NodeId;
use tokio::{sync::watch, time::sleep};

use crate::core_thread::CoreHandle;

/// How often the members are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Members as the log of this node names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    members: BTreeSet<NodeId>,
    /// Highest number that a member ever had.
    highest: NodeId,
}

impl Known {
    fn of(node: &Node) -> Self {
        let members = &node.state().members;
        Self { members: members.keys().copied().collect(), highest: members.highest() }
    }

    /// Whether this member has left. One that joined after what this node has of the log has not.
    fn has_left(&self, id: NodeId) -> bool {
        id <= self.highest && !self.members.contains(&id)
    }
}

/// Looks at the members until the process ends.
pub fn watch(core: CoreHandle) -> watch::Receiver<Arc<Known>> {
    let (known, seen) = watch::channel(Arc::default());
    tokio::spawn(async move {
        while let Some(now) = core.inspect(|node, _| Known::of(node)).await {
            known.send_if_modified(|before: &mut Arc<Known>| {
                let changed = **before != now;
                if changed {
                    *before = Arc::new(now);
                }
                changed
            });
            sleep(LOOK).await;
        }
    });
    seen
}

/// Waits until the member that speaks on a line has left. `speaker`: its number; 0: not known yet.
pub async fn left(mut known: watch::Receiver<Arc<Known>>, speaker: watch::Receiver<u64>) {
    loop {
        let id = NodeId(*speaker.borrow());
        if id != NodeId(0) && known.borrow_and_update().has_left(id) {
            return;
        }
        if known.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_left_is_told_from_who_is_not_known_yet() {
        let members = [1, 3].map(NodeId).into_iter().collect();
        let known = Known { members, highest: NodeId(4) };
        let left: Vec<u64> = (1..=5).filter(|id| known.has_left(NodeId(*id))).collect();
        assert_eq!(left, [2, 4]);
        assert!(!Known::default().has_left(NodeId(1)), "this node has no log yet");
    }
}
