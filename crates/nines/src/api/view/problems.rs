//! What is wrong now, each line with the next command, and the verdict that follows.

use std::collections::BTreeMap;

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
    if !status.quorate {
        let text = format!("{} of {} votes: nothing new is started", status.votes, status.voters);
        add("quorum".into(), text, "start the missing nodes".into());
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
            "standby" => {
                add(
                    format!("node {name}"),
                    format!("on standby {}", n.standby),
                    format!("nines ready {name}"),
                );
            }
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
                "nobody holds it".into(),
                format!("nines why {}", vip.name),
            );
        }
    }
}

/// The verdict and the sentence.
pub fn judge(status: &mut Status) {
    status.verdict = if !status.quorate {
        "NO QUORUM"
    } else if status.problems.is_empty() {
        "HEALTHY"
    } else {
        "DEGRADED"
    }
    .into();
    let mut by_node: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for vip in status.vips.iter().filter(|v| !v.node.is_empty()) {
        by_node.entry(&vip.node).or_default().push(&vip.name);
    }
    let serves: Vec<String> =
        by_node.iter().map(|(node, vips)| format!("{node} serves {}", vips.join(", "))).collect();
    let ready: Vec<&str> =
        status.nodes.iter().filter(|n| n.state == "ready").map(|n| n.name.as_str()).collect();
    let serves =
        if serves.is_empty() { "Nobody serves.".into() } else { format!("{}.", serves.join("; ")) };
    status.summary = match ready[..] {
        [] => format!("{serves} No director is ready."),
        [one] => format!("{serves} {one} is ready to take over."),
        _ => format!("{serves} {} are ready to take over.", ready.join(", ")),
    };
}
