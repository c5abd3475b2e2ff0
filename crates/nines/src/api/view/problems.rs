//! What is wrong now, and what people have set, each line with the next command.

use nines_core::Node;

use super::super::types::{ProblemLine, Status};

/// Fills in what is wrong now.
pub fn problems(node: &Node, status: &mut Status) {
    let mut add = |subject: String, text: String, next: String| {
        status.problems.push(ProblemLine { subject, text, next });
    };
    if let Some(why) = node.broken() {
        add(
            format!("node {}", node.config().name),
            format!("votes no more: {why}"),
            "free the disk, then: systemctl restart nines".into(),
        );
    }
    if status.voters == 0 {
        add(
            format!("node {}", node.config().name),
            "waits for the log: no member has sent it yet".into(),
            "see that the port between nodes (9119, TCP and UDP) is open both ways".into(),
        );
    } else if !status.quorate {
        let text =
            format!("{} of {} votes heard: no director may serve", status.votes, status.voters);
        add("quorum".into(), text, "start the silent nodes, or repair the links to them".into());
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
            "joining" => add(
                format!("node {name}"),
                "receives the log and has no vote yet".into(),
                format!("wait; if it stays: journalctl -u nines on {name}"),
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
            add(format!("node {name}"), n.trouble.clone(), n.next.clone());
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
