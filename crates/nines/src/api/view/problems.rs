//! What is wrong now, and what people have set, each line with the next command.

use super::super::{
    states::{NodeState, Subject},
    types::{ProblemLine, Status},
};

/// Fills in what is wrong now.
pub fn problems(status: &mut Status) {
    let mut add = |subject: Subject, text: String, next: String| {
        status.problems.push(ProblemLine { subject, text, next });
    };
    if !status.quorate && status.voters > 0 {
        let text =
            format!("{} of {} votes heard: no director may serve", status.votes, status.voters);
        let next = if status.nodes.iter().any(|n| n.is(NodeState::NoVote)) {
            "restore the nodes below that vote no more"
        } else {
            "start the silent nodes, or repair the links to them"
        };
        add(Subject::Quorum, text, next.into());
    }
    for n in &status.nodes {
        let name = &n.name;
        let subject = || Subject::Node(name.clone());
        let line = match n.state.known() {
            Some(NodeState::Silent) => Some(("silent".into(), format!("nines why {name}"))),
            Some(NodeState::NotJoined) => {
                Some(("has not joined".into(), "nines code   prints the join command".into()))
            }
            Some(NodeState::NotReady) if n.trouble.is_empty() => Some((
                "its forwarding table is not in place".into(),
                format!("journalctl -u nines on {name}"),
            )),
            Some(NodeState::CatchingUp) => Some((
                format!("has not got all connections of {} yet", n.behind.join(", ")),
                format!(
                    "wait; if it stays, see that TCP reaches it: journalctl -u nines on {name}"
                ),
            )),
            _ => None,
        };
        if let Some((text, next)) = line {
            add(subject(), text, next);
        }
        if !n.trouble.is_empty() {
            let joining = if n.is(NodeState::Joining) { "joining: " } else { "" };
            add(subject(), format!("{joining}{}", n.trouble), n.next.clone());
        }
        if !n.is(NodeState::Silent) && n.links_up < n.links {
            let text = format!("{} of {} links", n.links_up, n.links);
            add(subject(), text, "look at the cables and switches between".into());
        }
    }
    for n in status.nodes.iter().filter(|n| !n.standby.is_empty()) {
        status.notices.push(ProblemLine {
            subject: Subject::Node(n.name.clone()),
            text: format!("on standby {}", n.standby),
            next: format!("nines ready {}", n.name),
        });
    }
    for vip in &status.vips {
        if !vip.blocked.is_empty() {
            add(
                Subject::Vip(vip.name.clone()),
                vip.blocked.clone(),
                format!("nines why {}", vip.name),
            );
        } else if vip.node.is_empty() {
            add(
                Subject::Vip(vip.name.clone()),
                "no director holds it".into(),
                format!("nines why {}", vip.name),
            );
        }
    }
}
