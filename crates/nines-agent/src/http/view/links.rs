//! The links to other nodes: which work, what they lose, how long a round trip takes.
//!
//! Decides: what of that is wrong. A link that was up and is down, one that comes and goes, one
//! that has lost more than one heartbeat in twenty for a minute, one that carries heartbeats and
//! nothing large, and a voter that is too far away to renew a lease.

use nines_api::{
    states::{NodeState, Subject},
    types::{LinkStatus, NodeStatus, ProblemLine, Status},
};
use nines_core::Node;
use nines_model::{Millis, NodeId, Time};

/// Loss over a minute that is wrong, in percent.
const LOSS_MAX: f64 = 5.0;
/// Bytes that a ping carries to be as large as the datagrams that are lost.
pub(super) const PING_SIZE: usize = 1_420;

/// Each link on which this node ever heard another.
pub fn details(node: &Node, now: Time, id: NodeId) -> Vec<LinkStatus> {
    let percent = |permille: u64| permille as f64 / 10.0;
    let detail = |(link, up): (usize, bool)| {
        let quality = node.membership().peer(id).and_then(|peer| peer.quality(link));
        let minute = quality.and_then(|(of, newest)| of.loss_for_long(now, newest));
        LinkStatus {
            link: link + 1,
            up,
            rtt_us: quality.map_or(0, |(of, _)| of.trip_ns() / 1_000),
            loss_percent: quality.map_or(0.0, |(of, newest)| percent(of.loss(newest))),
            minute_loss_percent: minute.map(percent),
            quarantine_s: held_back(node, now, id, link),
            trouble: loses_large(node, id, link),
            next: String::new(),
        }
    };
    let next = |detail: LinkStatus| {
        let member = node.state().members.get(&id).filter(|_| !detail.trouble.is_empty());
        let at = member.and_then(|member| member.addresses.get(detail.link - 1));
        let next = at.map_or_else(String::new, |at| {
            format!("ping -M do -s {PING_SIZE} {at}; ip link shows the mtu of the cards between")
        });
        LinkStatus { next, ..detail }
    };
    node.links(now, id).into_iter().map(detail).map(next).collect()
}

/// Which way a link carries heartbeats and nothing large; empty: it carries both.
fn loses_large(node: &Node, id: NodeId, link: usize) -> String {
    let large = node.membership().peer(id).and_then(|peer| peer.large(link));
    let Some((of, member)) = large.zip(node.state().members.get(&id)) else {
        return String::new();
    };
    let (me, other) = (&node.config().name, &member.name);
    let way = match (of.are_lost(), of.are_lost_there()) {
        (false, false) => return String::new(),
        (true, true) => format!("between {me} and {other}"),
        (true, false) => format!("from {other} to {me}"),
        (false, true) => format!("from {me} to {other}"),
    };
    format!("large datagrams {way} do not pass, heartbeats do")
}

/// How long a link is still kept out of use because it came and went again and again, seconds.
fn held_back(node: &Node, now: Time, id: NodeId, link: usize) -> u64 {
    let peer = node.membership().peer(id);
    let held = peer.and_then(|peer| peer.link_quarantine(now, link));
    held.map_or(0, |(_, left)| left.0.div_ceil(1_000))
}

/// Fills in what is wrong with links.
pub fn problems(status: &mut Status, lease: Millis) {
    let heard = status.nodes.iter().filter(|n| !n.is(NodeState::Silent));
    let mut lines: Vec<ProblemLine> = heard.flat_map(|n| of_node(n, lease)).collect();
    status.problems.append(&mut lines);
}

fn of_node(n: &NodeStatus, lease: Millis) -> Vec<ProblemLine> {
    let line = |text: String, next: &str| {
        let subject = Subject::Node(n.name.clone());
        ProblemLine { subject, text, next: next.into() }
    };
    let mut lines = Vec::new();
    let address = |link: usize| {
        let at = n.addresses.get(link - 1);
        at.map_or_else(|| format!("link {link}"), |at| format!("link {link} ({at})"))
    };
    if n.through_others {
        let text = "is not heard over any link; others pass on what it sends".to_owned();
        lines.push(line(text, "look at the cables and switches between"));
    } else if n.links_up < n.links {
        let of_links = format!("{} of {} links", n.links_up, n.links);
        let (down, flaps): (Vec<&LinkStatus>, Vec<&LinkStatus>) =
            n.link_details.iter().filter(|of| !of.up).partition(|of| of.quarantine_s == 0);
        if !down.is_empty() {
            let down: Vec<String> = down.iter().map(|of| address(of.link)).collect();
            let text = format!("{of_links}: {} is down", down.join(", "));
            lines.push(line(text, "look at the cables and switches between"));
        }
        for of in flaps {
            let text = format!(
                "{of_links}: {} comes and goes: it counts as down until it is heard for {} s more",
                address(of.link),
                of.quarantine_s
            );
            lines.push(line(text, "look at the cables and switches between: ip -s link"));
        }
    }
    for of in n.link_details.iter().filter(|of| of.up && !of.trouble.is_empty()) {
        lines.push(line(format!("{}: {}", address(of.link), of.trouble), &of.next));
    }
    for of in n.link_details.iter().filter(|of| of.up) {
        if let Some(loss) = of.minute_loss_percent.filter(|loss| *loss > LOSS_MAX) {
            let link = address(of.link);
            let text = format!("{link} has lost {loss:.0} % of its heartbeats for a minute");
            lines.push(line(text, "look at the cables and switches between: ip -s link"));
        }
    }
    let half_us = lease.0 * 1_000 / 2;
    if n.votes && n.rtt_us >= half_us {
        let text = format!(
            "its vote will not help: a round trip to it takes {:.0} ms, and a lease {lease}",
            n.rtt_us as f64 / 1e3
        );
        let next = "put it nearer, or make [timing] lease longer: nines help keys";
        lines.push(line(text, next));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(links: &[(bool, f64)], rtt_us: u64) -> NodeStatus {
        let detail = |(i, (up, loss)): (usize, &(bool, f64))| LinkStatus {
            link: i + 1,
            up: *up,
            minute_loss_percent: Some(*loss),
            ..LinkStatus::default()
        };
        NodeStatus {
            name: "lb2".into(),
            votes: true,
            rtt_us,
            links: links.len(),
            links_up: links.iter().filter(|(up, _)| *up).count(),
            link_details: links.iter().enumerate().map(detail).collect(),
            addresses: vec!["10.0.0.3".into(), "10.1.0.3".into()],
            ..NodeStatus::default()
        }
    }

    fn texts(n: &NodeStatus) -> Vec<String> {
        of_node(n, Millis(120)).into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn a_link_that_is_down_or_loses_much_and_a_far_voter_are_wrong() {
        assert_eq!(texts(&node(&[(true, 0.0), (true, 5.0)], 59_999)), Vec::<String>::new());
        assert_eq!(
            texts(&node(&[(true, 0.0), (false, 90.0)], 400)),
            ["1 of 2 links: link 2 (10.1.0.3) is down"]
        );
        assert_eq!(
            texts(&node(&[(true, 12.2), (true, 0.0)], 400)),
            ["link 1 (10.0.0.3) has lost 12 % of its heartbeats for a minute"]
        );
        assert_eq!(
            texts(&node(&[(true, 0.0)], 60_000)),
            ["its vote will not help: a round trip to it takes 60 ms, and a lease 120ms"]
        );
        let mut flapping = node(&[(true, 0.0), (false, 40.0)], 400);
        flapping.link_details[1].quarantine_s = 19;
        assert_eq!(
            texts(&flapping),
            [
                "1 of 2 links: link 2 (10.1.0.3) comes and goes: it counts as down until it is heard \
              for 19 s more"
            ]
        );
        let mut hole = node(&[(true, 0.0), (true, 0.0)], 400);
        hole.link_details[0].trouble = "large datagrams from lb1 to lb2 do not pass".into();
        assert_eq!(
            texts(&hole),
            ["link 1 (10.0.0.3): large datagrams from lb1 to lb2 do not pass"]
        );
        let learner = NodeStatus { votes: false, ..node(&[(true, 0.0)], 60_000) };
        assert_eq!(texts(&learner), Vec::<String>::new());
    }
}
