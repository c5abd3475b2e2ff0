//! Nodes that run twice, and a node whose state directory was copied or moved.

use nines_api::{
    states::Subject,
    types::{ProblemLine, Status},
};
use nines_core::Node;
use nines_model::Time;

/// What is wrong with incarnations, and what to do.
pub fn problems(node: &Node, now: Time, status: &mut Status) {
    for id in node.double(now) {
        let name = node.state().members.get(&id).map_or_else(|| id.to_string(), |m| m.name.clone());
        status.problems.push(ProblemLine {
            subject: Subject::Node(name.clone()),
            text: format!("two agents run as {name}: its votes do not count and it holds no VIP"),
            next: format!(
                "stop the copy of {name}, then on {name} itself: systemctl restart nines"
            ),
        });
    }
    if node.is_moved() {
        let name = &node.config().name;
        status.problems.push(ProblemLine {
            subject: Subject::Node(name.to_string()),
            text: "its state directory was copied or moved here: it takes no part until all other \
                   nodes have heard no other agent of this name for 10 s"
                .into(),
            next: format!(
                "if this is a copy: systemctl stop nines; if {name} has moved here: start all \
                 other nodes and wait"
            ),
        });
    }
}
