//! What is wrong now, and what people have set, each line with the next command.

use nines_api::{
    states::{NodeState, Subject},
    types::{NodeStatus, ProblemLine, Status, VipStatus},
};

/// Fills in what is wrong now.
pub fn problems(status: &mut Status) {
    let mut problems: Vec<ProblemLine> = quorum(status).into_iter().collect();
    problems.extend(status.nodes.iter().flat_map(node));
    problems.extend(status.vips.iter().filter_map(vip));
    status.problems.append(&mut problems);
    status.notices.extend(status.nodes.iter().filter_map(standby));
    status.notices.extend(status.nodes.iter().filter_map(removal));
}

fn line(subject: Subject, text: impl Into<String>, next: impl Into<String>) -> ProblemLine {
    ProblemLine { subject, text: text.into(), next: next.into() }
}

fn quorum(status: &Status) -> Option<ProblemLine> {
    if status.quorate || status.voters == 0 {
        return None;
    }
    let text = format!("{} of {} votes heard: no director may serve", status.votes, status.voters);
    let next = if status.nodes.iter().any(|n| n.is(NodeState::NoVote)) {
        "restore the nodes below that vote no more"
    } else {
        "start the silent nodes, or repair the links to them"
    };
    Some(line(Subject::Quorum, text, next))
}

/// What is wrong with a node: its state, then what its agent says.
fn node(n: &NodeStatus) -> Vec<ProblemLine> {
    let name = &n.name;
    let subject = || Subject::Node(name.clone());
    let logs = format!("journalctl -u nines on {name}");
    let mut lines = Vec::new();
    match n.state.known() {
        Some(NodeState::Silent) => {
            lines.push(line(subject(), "silent", format!("nines why {name}")));
        }
        Some(NodeState::NotJoined) => {
            lines.push(line(subject(), "has not joined", "nines code   prints the join command"));
        }
        Some(NodeState::NotReady) if n.trouble.is_empty() => {
            lines.push(line(subject(), "its forwarding table is not in place", logs));
        }
        Some(NodeState::CatchingUp) => lines.push(line(
            subject(),
            format!("has not got all connections of {} yet", n.behind.join(", ")),
            format!("wait; if it stays, see that TCP reaches it: {logs}"),
        )),
        _ => {}
    }
    if !n.trouble.is_empty() {
        let joining = if n.is(NodeState::Joining) { "joining: " } else { "" };
        lines.push(line(subject(), format!("{joining}{}", n.trouble), &n.next));
    }
    lines
}

fn standby(n: &NodeStatus) -> Option<ProblemLine> {
    let (subject, next) = (Subject::Node(n.name.clone()), format!("nines ready {}", n.name));
    (!n.standby.is_empty()).then(|| line(subject, format!("on standby {}", n.standby), next))
}

fn removal(n: &NodeStatus) -> Option<ProblemLine> {
    let (subject, next) = (Subject::Node(n.name.clone()), format!("nines node keep {}", n.name));
    let text = || format!("is to leave the cluster, {}", n.removal);
    (!n.removal.is_empty()).then(|| line(subject, text(), next))
}

fn vip(vip: &VipStatus) -> Option<ProblemLine> {
    let text = match vip.blocked.as_str() {
        "" if vip.node.is_empty() => "no director holds it",
        "" => return None,
        blocked => blocked,
    };
    Some(line(Subject::Vip(vip.name.clone()), text, format!("nines why {}", vip.name)))
}
