//! What is wrong now, and what people have set, each line with the next command.

use nines_api::types::{JOINING, NO_VOTE, ProblemLine, Status};

/// Fills in what is wrong now.
pub fn problems(status: &mut Status) {
    let mut add = |subject: String, text: String, next: String| {
        status.problems.push(ProblemLine { subject, text, next });
    };
    if !status.quorate && status.voters > 0 {
        let text =
            format!("{} of {} votes heard: no director may serve", status.votes, status.voters);
        let next = if status.nodes.iter().any(|n| n.state == NO_VOTE) {
            "restore the nodes below that vote no more"
        } else {
            "start the silent nodes, or repair the links to them"
        };
        add("quorum".into(), text, next.into());
    }
    for n in &status.nodes {
        let name = &n.name;
        match n.state.as_str() {
            "silent" => add(format!("node {name}"), "silent".into(), format!("nines why {name}")),
            "not joined" => {
                add(
                    format!("node {name}"),
                    "has not joined".into(),
                    "nines code   prints the join command".into(),
                );
            }
            "not ready" if n.trouble.is_empty() => add(
                format!("node {name}"),
                "its forwarding table is not in place".into(),
                format!("journalctl -u nines on {name}"),
            ),
            "catching up" => add(
                format!("node {name}"),
                format!("has not got all connections of {} yet", n.behind.join(", ")),
                format!(
                    "wait; if it stays, see that TCP reaches it: journalctl -u nines on {name}"
                ),
            ),
            _ => {}
        }
        if !n.trouble.is_empty() {
            let joining = if n.state == JOINING { "joining: " } else { "" };
            add(format!("node {name}"), format!("{joining}{}", n.trouble), n.next.clone());
        }
        if n.state != "silent" && n.links_up < n.links {
            let text = format!("{} of {} links", n.links_up, n.links);
            add(format!("node {name}"), text, "look at the cables and switches between".into());
        }
    }
    for n in status.nodes.iter().filter(|n| !n.standby.is_empty()) {
        status.notices.push(ProblemLine {
            subject: format!("node {}", n.name),
            text: format!("on standby {}", n.standby),
            next: format!("nines ready {}", n.name),
        });
    }
    for vip in &status.vips {
        if !vip.blocked.is_empty() {
            add(
                format!("vip {}", vip.name),
                vip.blocked.clone(),
                format!("nines why {}", vip.name),
            );
        } else if vip.node.is_empty() {
            add(
                format!("vip {}", vip.name),
                "no director holds it".into(),
                format!("nines why {}", vip.name),
            );
        }
    }
}
